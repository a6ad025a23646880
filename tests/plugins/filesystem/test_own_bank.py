"""A bank within the tree that it keeps: left out of checkpoints, and never restored over."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from karbor_actors import Bank, Resource
from karbor_actors.store.local import LocalStore
from karbor_filesystem import DirectoryProtection
from karbor_filesystem.errors import RootError, TargetError
from plugins.hooks import Driver

TYPE = "FileSystem::Directory"


def names(directory):
    return sorted(os.listdir(directory))


def contents(directory):
    """Return all files but LMDB's table of readers, which reading alone changes."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {path: path.read_bytes() for path in files if path.name != "lock.mdb"}


@pytest.fixture
def inside(tmp_path):
    """A tree, with the records of its bank and, elsewhere in it, the objects."""
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_text("content")
    with Bank.open(root / "bank", objects=LocalStore(root / "sub" / "objects")) as bank:
        driver = Driver(bank, DirectoryProtection())
        yield SimpleNamespace(root=root, driver=driver, resource=Resource(TYPE, str(root)))


def test_the_banks_own_directories_are_left_out_and_reported(inside, tmp_path):
    checkpoint = inside.driver.protect(inside.resource)

    section = checkpoint.get_resource_bank_section(inside.resource)
    info = DirectoryProtection.get_saved_info(section, inside.resource)
    places = [str(inside.root / "bank"), str(inside.root / "sub" / "objects")]
    assert [report["path"] for report in info["reports"]] == places
    assert all("the bank" in report["reason"] for report in info["reports"])
    assert info["skipped"] == 2
    inside.driver.restore(checkpoint, inside.resource, target=str(tmp_path / "target"))
    assert names(tmp_path / "target") == ["sub"]
    assert names(tmp_path / "target" / "sub") == ["file"]


def test_a_tree_with_its_bank_is_restored_in_place(inside):
    checkpoint = inside.driver.protect(inside.resource)
    (inside.root / "sub" / "file").write_text("damaged")

    inside.driver.restore(checkpoint, inside.resource, overwrite=True)
    assert (inside.root / "sub" / "file").read_text() == "content"
    assert inside.driver.bank.check(deep=True) == []


@pytest.mark.parametrize("where", ["bank", "bank/bank.lmdb", "sub/objects"])
def test_the_bank_itself_is_not_protected(inside, where):
    with pytest.raises(RootError, match="lies in the bank"):
        inside.driver.protect(Resource(TYPE, str(inside.root / where)))


@pytest.mark.parametrize("where", ["bank", "bank/bank.lmdb", "bank/new/deep", "sub/objects"])
def test_nothing_is_restored_into_the_bank(inside, where):
    checkpoint = inside.driver.protect(inside.resource)
    before = contents(inside.root)

    with pytest.raises(TargetError, match="lies in the bank"):
        inside.driver.restore(
            checkpoint, inside.resource, target=str(inside.root / where), overwrite=True
        )
    assert contents(inside.root) == before


def test_a_link_is_no_way_into_the_bank(inside, tmp_path):
    checkpoint = inside.driver.protect(inside.resource)
    (tmp_path / "link").symlink_to(inside.root / "bank" / "bank.lmdb")

    with pytest.raises(TargetError, match="lies in the bank"):
        inside.driver.restore(checkpoint, inside.resource, target=str(tmp_path / "link" / "new"))


def test_a_checkpoint_with_files_where_the_bank_is_now_overwrites_nothing(driver, tmp_path):
    other = tmp_path / "other"
    (other / "bank" / "bank.lmdb").mkdir(parents=True)
    (other / "bank" / "bank.lmdb" / "data.mdb").write_bytes(b"not yours")
    (other / "aaa").write_text("comes first")
    resource = Resource(TYPE, str(other))
    checkpoint = driver.protect(resource)
    before = contents(tmp_path / "bank")

    with pytest.raises(TargetError, match="the bank that is restored from"):
        driver.restore(checkpoint, resource, target=str(tmp_path), overwrite=True)
    assert contents(tmp_path / "bank") == before
    assert not (tmp_path / "aaa").exists()


def test_a_checkpoint_says_where_its_bank_is(tmp_path, bank, driver, resource):
    assert driver.new_checkpoint(resource).bank_directories == (str(tmp_path / "bank"),)
