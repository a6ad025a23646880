from __future__ import annotations

import os
import pickle

import cerberus
import pytest

from karbor_actors import Operation, Resource
from karbor_filesystem import DirectoryProtectable, DirectoryProtection, errors

TYPE = "FileSystem::Directory"


def test_a_directory_is_found_by_its_path(source):
    found = DirectoryProtectable().show_resource(None, f"{source}/")

    assert found == Resource(TYPE, str(source))
    assert found.name == "source"


def test_what_is_no_directory_is_not_found(source, tmp_path):
    (source / "file").write_text("x")
    (tmp_path / "link").symlink_to(source)
    protectable = DirectoryProtectable()

    for path in ("relative", str(source / "missing"), str(source / "file"), f"{tmp_path}/link/"):
        assert protectable.show_resource(None, path) is None


def test_a_directory_has_no_parents_and_none_is_listed():
    protectable = DirectoryProtectable()

    assert protectable.get_resource_type() == TYPE
    assert not protectable.get_parent_resource_types()
    assert not protectable.list_resources(None)


def test_a_directory_whose_name_is_no_utf8_has_an_id(source):
    path = os.fsencode(source) + b"/\xff"
    os.mkdir(path)

    found = DirectoryProtectable().show_resource(None, os.fsdecode(path))

    assert os.fsencode(found.id) == path


@pytest.mark.parametrize("getter", ["get_options_schema", "get_restore_schema"])
def test_the_defaults_fit_the_schemas(getter):
    checker = cerberus.Validator(getattr(DirectoryProtection, getter)(TYPE))

    assert checker.validate({}), checker.errors
    assert checker.validate(checker.document), checker.errors


def test_what_is_saved_fits_its_schema(case):
    (case.source / "file").write_text("x")
    checkpoint = case.driver.protect(case.resource)

    section = checkpoint.get_resource_bank_section(case.resource)
    saved = DirectoryProtection.get_saved_info(section, case.resource)

    checker = cerberus.Validator(DirectoryProtection.get_saved_info_schema(TYPE))
    assert checker.validate(saved), checker.errors
    assert saved["path"] == str(case.source)
    assert (saved["files"], saved["directories"], saved["bytes"]) == (1, 1, 1)


def test_nothing_is_said_of_what_was_not_saved(case):
    checkpoint = case.driver.new_checkpoint(case.resource)

    section = checkpoint.get_resource_bank_section(case.resource)
    assert DirectoryProtection.get_saved_info(section, case.resource) is None


def test_only_restore_has_something_to_abort(resource):
    plugin = DirectoryProtection()

    assert type(plugin.get_protect_operation(resource)).on_abort is Operation.on_abort
    assert type(plugin.get_restore_operation(resource)).on_abort is not Operation.on_abort
    assert plugin.get_copy_operation(resource) is None
    assert plugin.get_delete_operation(resource) is None


@pytest.mark.parametrize(
    "error",
    [
        errors.PatternError("..", "cannot match"),
        errors.RootError("/x", "is no directory"),
        errors.UnreadableError("/x", "Permission denied"),
        errors.ChangedError("/x"),
        errors.MovedError("x\n\udcff"),
        errors.TargetError("/x", "is a link"),
        errors.UnsupportedError("/x", "the owner", "not permitted"),
        errors.ManifestError("damaged"),
        errors.VerifyError(["one", "two"], 7),
    ],
)
def test_every_error_is_one_line_and_survives_pickling(error):
    copy = pickle.loads(pickle.dumps(error))

    assert str(copy) == str(error)
    assert "\n" not in str(error)
    str(error).encode()
