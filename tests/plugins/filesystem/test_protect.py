"""What protect notices, leaves out and does not read again."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from karbor_actors import Resource
from karbor_actors.errors import HookCancelledError, StoreError
from karbor_filesystem import data, reader
from karbor_filesystem.errors import ChangedError, RootError, UnreadableError
from plugins.hooks import Context


def info(case, checkpoint):
    section = checkpoint.get_resource_bank_section(case.resource)
    return case.driver.plugin.get_saved_info(section, case.resource)


def contents(case, checkpoint):
    """Return the contents of the restored files, by name."""
    case.driver.restore(checkpoint, case.resource, target=str(case.target))
    files = (path for path in case.target.rglob("*") if path.is_file())
    return {str(path.relative_to(case.target)): path.read_bytes() for path in files}


def new_blocks(case, checkpoint):
    section = checkpoint.get_resource_bank_section(case.resource)
    return sum(stream.new_blocks for stream in section.list_streams())


def on_each_read(monkeypatch, action):
    """Call *action* with a file's path when its data was read and nobody has looked since."""
    original = reader.TreeReader.__init__

    def init(self, scanner, *args, **kwargs):
        root = scanner.report.full_path(())
        kwargs["after_read"] = lambda path: action(Path(root, *map(os.fsdecode, path)))
        original(self, scanner, *args, **kwargs)

    monkeypatch.setattr(reader.TreeReader, "__init__", init)


def test_a_second_protect_reads_and_stores_nothing_new(case):
    for number in range(20):
        (case.source / f"file {number}").write_bytes(os.urandom(3000))
    (case.source / "sub").mkdir()
    first = case.driver.protect(case.resource)

    second = case.driver.protect(case.resource, previous=first)

    assert new_blocks(case, first) > 0
    assert new_blocks(case, second) == 0
    assert info(case, second)["bytes_read"] == 0
    assert info(case, second)["unchanged"] == 20
    assert contents(case, second) == {p.name: p.read_bytes() for p in case.source.glob("file*")}


def test_a_second_protect_reads_only_what_changed(case):
    for name in ("a", "b/c", "b/d", "e"):
        (case.source / name).parent.mkdir(exist_ok=True)
        (case.source / name).write_text(f"old {name}")
    first = case.driver.protect(case.resource)
    status = (case.source / "b/c").stat()
    (case.source / "b/c").write_text("new b/c")
    os.utime(case.source / "b/c", ns=(status.st_atime_ns, status.st_mtime_ns))
    (case.source / "a").unlink()
    (case.source / "b/cc").write_text("added")
    (case.source / "z").write_text("added")

    second = case.driver.protect(case.resource, previous=first)

    assert info(case, second)["unchanged"] == 2
    assert info(case, second)["bytes_read"] == len("new b/c" + "added" + "added")
    found = contents(case, second)
    assert found == {
        "b/c": b"new b/c",
        "b/cc": b"added",
        "b/d": b"old b/d",
        "e": b"old e",
        "z": b"added",
    }


def test_a_changed_mode_is_noticed_though_times_and_size_are_the_same(case):
    path = case.source / "file"
    path.write_text("x")
    os.chmod(path, 0o600)
    first = case.driver.protect(case.resource)
    os.chmod(path, 0o640)

    second = case.driver.protect(case.resource, previous=first)
    case.driver.restore(second, case.resource, target=str(case.target))

    assert stat.S_IMODE((case.target / "file").stat().st_mode) == 0o640


def test_a_further_name_of_an_unchanged_file_is_noticed(case):
    (case.source / "b").write_text("x")
    first = case.driver.protect(case.resource)
    os.link(case.source / "b", case.source / "a")

    second = case.driver.protect(case.resource, previous=first)

    assert contents(case, second) == {"a": b"x", "b": b"x"}
    assert (case.target / "a").samefile(case.target / "b")


def test_a_previous_checkpoint_that_cannot_be_read_is_done_without(case, caplog):
    (case.source / "file").write_text("x")
    empty = case.driver.new_checkpoint(case.resource)

    checkpoint = case.driver.protect(case.resource, previous=empty)

    assert contents(case, checkpoint) == {"file": b"x"}
    assert "previous checkpoint is not used" in caplog.text


def test_data_that_the_previous_checkpoint_lacks_is_read_again(case):
    (case.source / "file").write_text("x")
    first = case.driver.protect(case.resource)
    section = first.get_resource_bank_section(case.resource)
    section.delete_stream(section.list_streams("data/")[0].key)

    second = case.driver.protect(case.resource, previous=first)

    assert contents(case, second) == {"file": b"x"}


def test_a_file_that_changes_while_it_is_read_is_read_again(case, monkeypatch):
    (case.source / "file").write_text("old")
    (case.source / "other").write_text("other")
    writes = iter(["new, and longer"])

    def write(path):
        if path.name == "file" and (text := next(writes, None)) is not None:
            path.write_text(text)

    on_each_read(monkeypatch, write)

    checkpoint = case.driver.protect(case.resource)

    assert contents(case, checkpoint) == {"file": b"new, and longer", "other": b"other"}
    assert info(case, checkpoint)["changed"] == 0


def test_a_file_that_keeps_changing_is_saved_and_reported(case, monkeypatch, caplog):
    (case.source / "log").write_text("")
    (case.source / "log").write_text("line\n")

    def write(path):
        with path.open("a") as file:
            file.write("line\n")

    on_each_read(monkeypatch, write)

    first = case.driver.protect(case.resource)

    assert info(case, first)["changed"] == 1
    assert info(case, first)["reports"] == [
        {
            "what": "changed",
            "path": str(case.source / "log"),
            "reason": "it changed each time it was read",
        }
    ]
    assert "log changed" in caplog.text
    case.driver.verify(first, case.resource)
    assert set(contents(case, first)["log"].split(b"\n")) == {b"line", b""}
    monkeypatch.undo()
    second = case.driver.protect(case.resource, previous=first)
    assert info(case, second)["unchanged"] == 0


def test_a_file_that_shrinks_each_time_is_saved_as_far_as_it_goes(case, monkeypatch):
    path = case.source / "file"
    path.write_bytes(b"x" * 3_000_000)
    original = os.pread

    def pread(fd, size, offset):
        if offset == 1 << 20:
            os.truncate(path, path.stat().st_size - 1)
        return original(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)

    checkpoint = case.driver.protect(case.resource)

    monkeypatch.undo()
    case.driver.verify(checkpoint, case.resource)
    assert info(case, checkpoint)["changed"] == 1
    assert contents(case, checkpoint) == {"file": b"x" * 2_999_997}


def test_a_file_that_keeps_changing_fails_if_told(case, monkeypatch):
    (case.source / "file").write_text("x")
    on_each_read(monkeypatch, lambda path: path.write_text(path.read_text() + "x"))

    with pytest.raises(ChangedError, match="changed each time"):
        case.driver.protect(case.resource, on_change="fail")


def test_a_file_that_vanishes_before_it_is_read_is_reported(case, monkeypatch):
    for name in "abc":
        (case.source / name).write_text(name)
    on_each_read(monkeypatch, lambda path: path.name == "a" and (case.source / "b").unlink())

    checkpoint = case.driver.protect(case.resource)

    assert info(case, checkpoint)["vanished"] == 1
    assert info(case, checkpoint)["reports"][0]["path"] == str(case.source / "b")
    assert contents(case, checkpoint) == {"a": b"a", "c": b"c"}


def test_a_directory_that_changes_while_it_is_read_is_reported(case, monkeypatch):
    (case.source / "a").write_text("a")
    on_each_read(monkeypatch, lambda path: (case.source / "new").write_text("new"))

    checkpoint = case.driver.protect(case.resource)

    assert info(case, checkpoint)["reports"] == [
        {
            "what": "changed",
            "path": str(case.source),
            "reason": "names came or went while it was read",
        }
    ]


@pytest.mark.parametrize("replacement", ["fifo", "symlink", "directory"])
def test_a_file_that_something_else_replaces_is_never_followed(
    case, monkeypatch, tmp_path, replacement
):
    (tmp_path / "secret").write_text("secret")
    for name in "ab":
        (case.source / name).write_text(name)
    original = os.open

    def replace(path, *args, **kwargs):
        if path == b"b":
            monkeypatch.undo()
            (case.source / "b").unlink()
            {
                "fifo": lambda: os.mkfifo(case.source / "b"),
                "symlink": lambda: os.symlink(tmp_path / "secret", case.source / "b"),
                "directory": lambda: os.mkdir(case.source / "b"),
            }[replacement]()
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", replace)

    checkpoint = case.driver.protect(case.resource, on_unreadable="report")

    saved = info(case, checkpoint)
    assert saved["vanished"] + saved["unreadable"] == 1
    assert contents(case, checkpoint) == {"a": b"a"}


def test_a_bank_that_cannot_write_is_no_fault_of_the_file(case, monkeypatch):
    (case.source / "large").write_bytes(os.urandom(data.SMALL + 1))

    def refuse(self, entry, source):
        raise StoreError(28, "the bank is full")

    monkeypatch.setattr(data.DataWriter, "store", refuse)

    with pytest.raises(StoreError):
        case.driver.protect(case.resource, on_unreadable="report")
    with pytest.raises(StoreError):
        case.driver.protect(case.resource)


def databases(case, *names):
    return [Resource("SQLite::Database", str(case.source / name)) for name in names]


def test_databases_that_are_children_are_left_to_them(case):
    for name in ("sub/app.db", "sub/app.db-wal", "sub/app.db-shm", "sub/app.db-journal"):
        (case.source / name).parent.mkdir(exist_ok=True)
        (case.source / name).write_bytes(b"SQLite format 3\0 and more")
    (case.source / "app.db").write_bytes(b"SQLite format 3\0 but no child")
    (case.source / "sub" / "app.db-wal2").write_bytes(b"a plain file")

    checkpoint = case.driver.protect(case.resource, children=databases(case, "sub/app.db"))

    assert info(case, checkpoint)["left_to_children"] == 4
    assert contents(case, checkpoint) == {
        "app.db": b"SQLite format 3\0 but no child",
        "sub/app.db-wal2": b"a plain file",
    }


@pytest.mark.parametrize("is_there_first", [True, False])
def test_what_comes_and_goes_beside_a_database_is_no_change_of_its_directory(
    case, monkeypatch, is_there_first
):
    """Each transaction makes and removes a journal there, and so does the database's own protect."""
    for name in ("a", "b.db", "c"):
        (case.source / name).write_bytes(b"SQLite format 3\0 and more")
    journal = case.source / "b.db-journal"
    if is_there_first:
        journal.write_bytes(b"of a transaction")
    on_each_read(
        monkeypatch, lambda path: journal.unlink() if journal.exists() else journal.touch()
    )

    checkpoint = case.driver.protect(case.resource, children=databases(case, "b.db"))

    assert info(case, checkpoint)["reports"] == []
    assert set(contents(case, checkpoint)) == {"a", "c"}


def test_a_database_that_is_no_child_is_copied_as_a_file(case):
    (case.source / "app.db").write_bytes(b"SQLite format 3\0 and more")

    checkpoint = case.driver.protect(case.resource)

    assert contents(case, checkpoint) == {"app.db": b"SQLite format 3\0 and more"}


def test_a_child_of_another_type_or_place_hides_no_file(case, tmp_path):
    (case.source / "x").write_text("x")
    children = [
        Resource("Other::Type", str(case.source / "x")),
        Resource("SQLite::Database", str(tmp_path / "x")),
    ]

    checkpoint = case.driver.protect(case.resource, children=children)

    assert contents(case, checkpoint) == {"x": b"x"}


def make_unreadable(monkeypatch, name, error):
    """Make *name* unreadable even for root."""
    original = os.open

    def refuse(path, *args, **kwargs):
        if path == name:
            raise error
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("name", ["b", "sub"])
def test_what_cannot_be_read_fails_by_default(case, monkeypatch, name):
    (case.source / "b").write_text("b")
    (case.source / "sub").mkdir()
    make_unreadable(monkeypatch, name.encode(), PermissionError(13, "Permission denied"))

    with pytest.raises(UnreadableError, match=f"{name}: Permission denied; exclude it"):
        case.driver.protect(case.resource)


def test_what_cannot_be_read_is_reported_if_told(case, monkeypatch):
    (case.source / "a").write_text("a")
    (case.source / "b").write_text("b")
    (case.source / "sub").mkdir()
    (case.source / "sub" / "c").write_text("c")
    make_unreadable(monkeypatch, b"b", OSError(5, "Input/output error"))

    checkpoint = case.driver.protect(case.resource, on_unreadable="report")

    assert info(case, checkpoint)["unreadable"] == 1
    assert contents(case, checkpoint) == {"a": b"a", "sub/c": b"c"}


def test_a_read_error_in_the_middle_of_a_file_is_no_end_of_it(case, monkeypatch):
    (case.source / "a").write_bytes(b"a" * (2 << 20))
    (case.source / "b").write_text("b")
    original = os.pread

    def pread(fd, size, offset):
        if offset:
            raise OSError(5, "Input/output error")
        return original(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)

    with pytest.raises(UnreadableError, match="Input/output error"):
        case.driver.protect(case.resource)
    checkpoint = case.driver.protect(case.resource, on_unreadable="report")

    monkeypatch.undo()
    assert contents(case, checkpoint) == {"b": b"b"}


@pytest.fixture
def mounted(case):
    """A small file system mounted at source/mounted, with one file."""
    point = case.source / "mounted"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", str(point)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("cannot mount here")
    (point / "inner").write_text("inner")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_other_file_systems_are_entered_by_default(case, mounted):
    checkpoint = case.driver.protect(case.resource)

    assert contents(case, checkpoint) == {"mounted/inner": b"inner"}


def test_other_file_systems_are_left_out_and_reported_if_told(case, mounted):
    checkpoint = case.driver.protect(case.resource, one_file_system=True)

    assert contents(case, checkpoint) == {}
    assert (case.target / "mounted").is_dir()
    assert info(case, checkpoint)["skipped"] == 1


def test_the_root_must_be_a_directory(case, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(case.source)
    for path, reason in (
        ("relative", "not an absolute path"),
        (str(tmp_path / "missing"), "No such file"),
        (str(tmp_path / "file"), "is no directory"),
        (str(tmp_path / "link"), "is a symbolic link"),
        (str(tmp_path / "link/"), "is a symbolic link"),
    ):
        with pytest.raises(RootError, match=reason):
            case.driver.protect(Resource("FileSystem::Directory", path))


def test_a_cancelled_protect_stops_within_a_megabyte_or_so(case):
    (case.source / "large").write_bytes(bytes(range(256)) * (32 << 12))
    context = Context()

    def cancel():
        context.cancelled = True

    context._on_progress = cancel
    with pytest.raises(HookCancelledError):
        case.driver.protect(case.resource, context=context)

    assert 0 < context.reports[-1][0] <= 4 << 20


def test_a_protect_that_ran_before_leaves_nothing_stale(case):
    checkpoint = case.driver.new_checkpoint(case.resource)
    for name in "abc":
        (case.source / name).write_text(name * 70_000)
    case.driver.run("protect", checkpoint, case.resource, Context(), {})
    (case.source / "a").unlink()

    case.driver.run("protect", checkpoint, case.resource, Context(), {})

    section = checkpoint.get_resource_bank_section(case.resource)
    assert len(section.list_streams("data/")) == 2
    assert contents(case, checkpoint) == {"b": b"b" * 70_000, "c": b"c" * 70_000}


def test_small_files_share_streams_and_large_ones_do_not(case):
    for number in range(100):
        (case.source / f"small {number}").write_bytes(os.urandom(30_000))
    (case.source / "large").write_bytes(os.urandom(100_000))

    checkpoint = case.driver.protect(case.resource)

    section = checkpoint.get_resource_bank_section(case.resource)
    sizes = [stream.size for stream in section.list_streams("data/")]
    assert sorted(sizes) == [100_000, 30_000 * 32, 30_000 * 34, 30_000 * 34]
    found = contents(case, checkpoint)
    assert found == {path.name: path.read_bytes() for path in case.source.iterdir()}


def test_files_from_many_generations_of_bundles_come_back(case):
    checkpoint = None
    for generation in range(20):
        for number in range(20):
            if generation in {0, number}:
                text = f"{number} of generation {generation}"
                (case.source / f"file {number}").write_text(text)
                (case.source / f"large {number}").write_text(text * 5000)
        checkpoint = case.driver.protect(case.resource, previous=checkpoint)

    assert info(case, checkpoint)["unchanged"] == 38
    case.driver.verify(checkpoint, case.resource)
    found = contents(case, checkpoint)
    assert found == {path.name: path.read_bytes() for path in case.source.iterdir()}


def test_a_protect_after_many_changes_still_stores_nothing_for_an_unchanged_tree(case):
    checkpoint = None
    for generation in range(4):
        for number in range(generation, 10):
            (case.source / f"file {number}").write_text(f"{generation}")
        checkpoint = case.driver.protect(case.resource, previous=checkpoint)

    last = case.driver.protect(case.resource, previous=checkpoint)

    assert new_blocks(case, last) == 0
    assert info(case, last)["bytes_read"] == 0


def test_bundles_that_are_mostly_dead_are_written_anew(case, monkeypatch):
    monkeypatch.setattr(data, "_SPARE_DEAD", 100)
    for number in range(10):
        (case.source / f"file {number}").write_text("x" * 100)
    first = case.driver.protect(case.resource)
    for number in range(8):
        (case.source / f"file {number}").unlink()
    second = case.driver.protect(case.resource, previous=first)

    third = case.driver.protect(case.resource, previous=second)
    fourth = case.driver.protect(case.resource, previous=third)

    read = [info(case, each)["bytes_read"] for each in (first, second, third, fourth)]
    assert read == [1000, 0, 200, 0]
    assert contents(case, fourth) == {"file 8": b"x" * 100, "file 9": b"x" * 100}
