"""What restore refuses, never follows, and removes again."""

from __future__ import annotations

import io
import os
import stat

import pytest

from karbor_actors.errors import HookCancelledError
from karbor_actors.model import HOOKS, HookName, Resource
from karbor_filesystem.entries import Entry, Kind
from karbor_filesystem.errors import (
    ManifestError,
    TargetError,
    UnsupportedError,
    VerifyError,
)
from karbor_filesystem.manifest import ManifestWriter, data_key
from karbor_filesystem.restore import target_of
from plugins.hooks import Context
from plugins.trees import describe

BEGIN = (HookName.ON_PREPARE_BEGIN,)
BEFORE_COMPLETE = HOOKS[:3]


@pytest.fixture
def protected(case):
    """A checkpoint of a small tree."""
    (case.source / "sub" / "deeper").mkdir(parents=True)
    (case.source / "empty").mkdir(mode=0o500)
    for name in ("file", "sub/file", "sub/deeper/file"):
        (case.source / name).write_text(f"content of {name}")
    os.symlink("file", case.source / "link")
    os.link(case.source / "file", case.source / "sub" / "linked")
    os.chmod(case.source / "sub", 0o555)
    return case.driver.protect(case.resource)


def restore(case, checkpoint, context=None, hooks=HOOKS, **parameters):
    context = context or Context()
    case.driver.run(
        "restore",
        checkpoint,
        case.resource,
        context,
        {"target": str(case.target)} | parameters,
        hooks=hooks,
    )
    return context


def abort(case, checkpoint, context):
    case.driver.abort("restore", checkpoint, case.resource, context, target=str(case.target))


def test_a_target_that_is_not_empty_is_refused(case, protected):
    case.target.mkdir()
    (case.target / "theirs").write_text("theirs")
    before = describe(case.target)
    context = Context()

    with pytest.raises(TargetError, match="not empty; empty it, choose another target, or set"):
        restore(case, protected, context)

    assert describe(case.target) == before
    abort(case, protected, context)
    assert describe(case.target) == before


def test_the_same_place_is_refused_while_it_is_not_empty(case, protected):
    with pytest.raises(TargetError, match="not empty"):
        case.driver.restore(protected, case.resource)


def test_an_empty_target_is_filled(case, protected):
    case.target.mkdir()

    restore(case, protected)

    assert describe(case.target) == describe(case.source)


def test_directories_above_the_target_are_made(case, protected, tmp_path):
    target = tmp_path / "far" / "away" / "target"

    restore(case, protected, target=str(target))

    assert describe(target) == describe(case.source)


def test_children_find_their_directories_before_the_main_hook(case, protected):
    restore(case, protected, hooks=HOOKS[:2])

    assert (case.target / "sub" / "deeper").is_dir()
    assert stat.S_IMODE((case.target / "sub").stat().st_mode) == 0o700
    assert not (case.target / "file").exists()


def test_what_children_write_changes_no_directorys_time(case, protected):
    context = restore(case, protected, hooks=BEFORE_COMPLETE)
    (case.target / "sub" / "app.db").write_text("a child's")

    restore(case, protected, context, hooks=(HookName.ON_COMPLETE,))

    restored, before = describe(case.target), describe(case.source)
    assert restored.pop(b"./sub/app.db")["content"] == b"a child's"
    assert restored == before


def test_overwrite_replaces_what_is_there_and_leaves_the_rest(case, protected):
    case.target.mkdir()
    (case.target / "file").write_text("old")
    (case.target / "link").write_text("a file where a link was")
    (case.target / "sub").mkdir()
    (case.target / "sub" / "theirs").write_text("theirs")

    restore(case, protected, overwrite=True)

    restored = describe(case.target)
    assert restored.pop(b"./sub/theirs")["content"] == b"theirs"
    assert restored == describe(case.source)


def test_overwrite_in_place_gives_back_every_file(case, protected):
    before = describe(case.source)
    (case.source / "file").write_text("overwritten by mistake")
    (case.source / "sub" / "deeper" / "file").unlink()

    case.driver.restore(protected, case.resource, overwrite=True)

    assert describe(case.source) == before


@pytest.mark.parametrize("where", ["sub", "sub/deeper"])
def test_a_link_in_the_target_is_never_followed(case, protected, tmp_path, where):
    outside = tmp_path / "outside"
    outside.mkdir()
    (case.target / where).parent.mkdir(parents=True)
    os.symlink(outside, case.target / where)

    with pytest.raises(TargetError, match="a file or link is where a directory belongs"):
        restore(case, protected, overwrite=True)

    assert not list(outside.iterdir())


def test_a_link_that_takes_a_directorys_place_meanwhile_is_never_followed(
    case, protected, tmp_path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    context = restore(case, protected, hooks=HOOKS[:2])
    (case.target / "sub").rename(tmp_path / "aside")
    os.symlink(outside, case.target / "sub")

    with pytest.raises(TargetError, match="sub"):
        restore(case, protected, context, hooks=(HookName.ON_MAIN,))
    abort(case, protected, context)

    assert not list(outside.iterdir())
    assert (case.target / "sub").is_symlink()


def test_a_link_in_a_files_place_is_replaced_and_not_written_through(case, protected, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    case.target.mkdir()
    os.symlink(outside, case.target / "file")

    restore(case, protected, overwrite=True)

    assert outside.read_text() == "theirs"
    assert describe(case.target) == describe(case.source)


def test_a_target_that_is_a_link_is_refused(case, protected, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(outside, case.target)

    for target in (case.target, f"{case.target}/"):
        with pytest.raises(TargetError, match="is a symbolic link"):
            restore(case, protected, target=str(target))

    assert not list(outside.iterdir())


def test_a_directory_in_a_files_place_is_refused_before_anything_is_made(case, protected):
    (case.target / "sub" / "file").mkdir(parents=True)
    before = describe(case.target)

    with pytest.raises(TargetError, match="a directory is where a file or link belongs"):
        restore(case, protected, overwrite=True)

    assert describe(case.target) == before


@pytest.mark.parametrize("path", ["relative", "a/../b", "/nul\0byte"])
def test_a_place_that_is_no_absolute_path_is_refused(path):
    with pytest.raises(TargetError, match="not an absolute path"):
        target_of(Resource("FileSystem::Directory", path), {"target": None})


def test_a_target_below_a_file_is_refused(case, protected, tmp_path):
    (tmp_path / "plain").write_text("x")

    with pytest.raises(TargetError):
        restore(case, protected, target=str(tmp_path / "plain" / "target"))


@pytest.mark.parametrize("done", range(1, 5))
def test_abort_removes_all_that_was_made_and_bears_being_run_twice(case, protected, tmp_path, done):
    target = tmp_path / "made" / "target"
    context = restore(case, protected, hooks=HOOKS[:done], target=str(target))

    assert target.is_dir()
    for _ in range(2):
        case.driver.abort("restore", protected, case.resource, context)
        assert not (tmp_path / "made").exists()


def test_abort_before_anything_began_does_nothing(case, protected):
    abort(case, protected, Context())

    assert not case.target.exists()


def test_abort_leaves_an_empty_target_empty(case, protected):
    case.target.mkdir()
    context = restore(case, protected, hooks=BEFORE_COMPLETE)

    abort(case, protected, context)

    assert not list(case.target.iterdir())


def test_abort_removes_only_what_the_restore_made(case, protected):
    (case.target / "sub" / "deeper").mkdir(parents=True)
    (case.target / "sub" / "file").write_text("old")
    context = restore(case, protected, hooks=BEFORE_COMPLETE, overwrite=True)
    (case.target / "theirs").write_text("theirs")

    abort(case, protected, context)

    left = sorted(str(path.relative_to(case.target)) for path in case.target.rglob("*"))
    assert left == ["sub", "sub/deeper", "sub/file", "theirs"]
    assert (case.target / "sub" / "file").read_text() == "content of sub/file"


def test_abort_leaves_what_others_put_into_a_directory(case, protected, caplog):
    context = restore(case, protected, hooks=BEFORE_COMPLETE)
    (case.target / "sub" / "theirs").write_text("theirs")

    abort(case, protected, context)

    left = sorted(str(path.relative_to(case.target)) for path in case.target.rglob("*"))
    assert left == ["sub", "sub/theirs"]
    assert "stays" in caplog.text


def test_abort_removes_a_file_that_was_not_whole(case, protected):
    case.target.mkdir()
    (case.target / "sub").mkdir()
    context = restore(case, protected, hooks=BEGIN, overwrite=True)
    (case.target / "sub" / context.state["part"]).write_text("half of a fi")

    abort(case, protected, context)

    assert [path.name for path in case.target.rglob("*")] == ["sub"]


@pytest.mark.parametrize("hook", HOOKS[:4])
def test_each_hook_bears_being_run_again(case, protected, hook):
    context = Context()
    for each in HOOKS:
        restore(case, protected, context, hooks=(each, each) if each == hook else (each,))

    assert describe(case.target) == describe(case.source)


def test_a_crash_before_the_first_completion_is_taken_up(case, protected):
    context = restore(case, protected, hooks=())
    operation = case.driver.operation("restore", case.resource)
    parameters = case.driver.parameters("restore", case.resource, {"target": str(case.target)})
    operation.on_prepare_begin(protected, case.resource, context, parameters, new_resources={})
    context.state.crash()

    restore(case, protected, context)

    assert describe(case.target) == describe(case.source)


def test_a_cancelled_restore_stops_and_leaves_no_half_file(case):
    (case.source / "large").write_bytes(bytes(range(256)) * (32 << 12))
    checkpoint = case.driver.protect(case.resource)

    def cancel():
        context.cancelled = True

    context = Context(on_progress=cancel)
    with pytest.raises(HookCancelledError):
        restore(case, checkpoint, context)
    done = context.reports[-1]

    assert 0 < done[0] <= 4 << 20
    assert done[1:] == (32 << 20, "bytes")
    assert not list(case.target.iterdir())


def test_an_attribute_that_the_target_cannot_hold_is_an_error_or_a_report(
    case, monkeypatch, caplog
):
    (case.source / "file").write_text("x")
    os.setxattr(case.source / "file", "user.note", b"1")
    checkpoint = case.driver.protect(case.resource)

    def refuse(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    context = Context()
    with pytest.raises(UnsupportedError, match=r"user\.note of .*file: Operation not supported"):
        restore(case, checkpoint, context)
    abort(case, checkpoint, context)
    assert not case.target.exists()

    restore(case, checkpoint, on_unsupported="report")

    assert (case.target / "file").read_text() == "x"
    assert "user.note" in caplog.text


def forge(case, entries, *, streams=None, claims=None, **fields):
    """Return a checkpoint that holds what no protect would have written."""
    checkpoint = case.driver.new_checkpoint(case.resource)
    section = checkpoint.get_resource_bank_section(case.resource)
    with section.stream_writer() as writer:
        manifest = ManifestWriter(writer.add)
        for entry in entries:
            manifest.add(entry)
        manifest.flush()
        for number, data in (streams or {}).items():
            writer.add(data_key(number), io.BytesIO(data))
    counts = {"entries": manifest.entries, "chunks": manifest.chunks, "bytes": 0}
    counts |= {"bundled": 0, "bundled_live": 0}
    section.update_object("directory", {"format": 1, **counts, **fields, **(claims or {})})
    return checkpoint


ROOT = Entry(Kind.DIRECTORY, 0, b"", mode=0o755)


@pytest.mark.parametrize("name", [b"..", b"../evil", b"/evil", b"sub/evil", b"."])
def test_a_forged_name_is_refused(case, tmp_path, name):
    entries = [ROOT, Entry(Kind.DIRECTORY, 1, b"!", mode=0o755), Entry(Kind.FILE, 1, name)]
    checkpoint = forge(case, entries)
    context = Context()

    with pytest.raises(ManifestError, match="lead elsewhere"):
        restore(case, checkpoint, context)
    abort(case, checkpoint, context)

    assert not case.target.exists()
    assert not list(tmp_path.rglob("evil"))


def test_a_forged_link_followed_by_what_is_in_it_is_refused(case, tmp_path):
    target = os.fsencode(tmp_path)
    entries = [
        ROOT,
        Entry(Kind.SYMLINK, 1, b"a", target=target),
        Entry(Kind.FILE, 2, b"evil"),
    ]

    with pytest.raises(ManifestError, match="stands in no directory"):
        restore(case, forge(case, entries))
    assert not (tmp_path / "evil").exists()


def test_a_forged_count_is_refused(case):
    for claims in ({"entries": 2**62}, {"chunks": 2**40}, {"entries": -1}, {"bytes": "many"}):
        context = Context()
        checkpoint = forge(case, [ROOT], claims=claims)
        with pytest.raises((ManifestError, LookupError)):
            restore(case, checkpoint, context)
        if context.state:
            abort(case, checkpoint, context)
        assert not case.target.exists()


def test_data_of_another_size_than_the_manifest_says_is_refused(case):
    entries = [ROOT, Entry(Kind.FILE, 1, b"file", size=5)]
    checkpoint = forge(case, entries, streams={0: b"123456"}, bytes=5, files=1)

    with pytest.raises(VerifyError, match="file has a stream of 6 bytes for its 5"):
        case.driver.verify(checkpoint, case.resource)
    with pytest.raises(ManifestError, match="has 6 bytes, and should hold 5 bytes at 0"):
        restore(case, checkpoint)
    assert not list(case.target.iterdir())


@pytest.mark.parametrize("offset", [4, 2**40])
def test_data_beyond_its_bundle_is_refused(case, offset):
    first = Entry(Kind.FILE, 1, b"a", size=3, is_bundled=True)
    second = Entry(Kind.FILE, 1, b"b", size=3, offset=offset, is_bundled=True)
    checkpoint = forge(case, [ROOT, first, second], streams={0: b"123456"}, bytes=6, files=2)

    with pytest.raises(VerifyError, match="b has a stream of 6 bytes for its 3"):
        case.driver.verify(checkpoint, case.resource)
    with pytest.raises(ManifestError, match="should hold 3 bytes at"):
        restore(case, checkpoint)
    assert [path.name for path in case.target.iterdir()] == ["a"]


def test_a_bundle_larger_than_any_is_refused_unread(case):
    entry = Entry(Kind.FILE, 1, b"a", size=3, is_bundled=True)
    streams = {0: b"x" * ((1 << 20) + 1)}

    with pytest.raises(ManifestError, match="has 1048577 bytes"):
        restore(case, forge(case, [ROOT, entry], streams=streams, bytes=3))


def test_verify_names_the_files_whose_data_is_missing(case, protected):
    case.driver.verify(protected, case.resource)
    section = protected.get_resource_bank_section(case.resource)
    section.delete_stream(section.list_streams("data/")[0].key)

    with pytest.raises(VerifyError, match="not complete: file has no stream for its"):
        case.driver.verify(protected, case.resource)


def test_verify_compares_the_counts(case, protected):
    section = protected.get_resource_bank_section(case.resource)
    info = section.get_object("directory")
    section.update_object("directory", info | {"files": 7})

    with pytest.raises(VerifyError, match="has 3 files, and claims 7"):
        case.driver.verify(protected, case.resource)
