"""Files that are taken over in runs: the same comes out as one by one, and every change is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.errors import HookCancelledError
from karbor_filesystem.entries import Kind, bundled_place, bundled_row, unpack_entry
from karbor_filesystem.manifest import INFO_KEY, Manifest
from karbor_filesystem.unchanged import UnchangedFiles
from plugins.filesystem.test_round_trip import describe
from plugins.hooks import Context

COUNT = 300
"""More than one run takes."""


def fill(source):
    for number in range(COUNT):
        (source / f"{number:03}").write_bytes(b"%d" % number * 7)
    (source / "100.d").mkdir()
    (source / "100.d" / "inner").write_bytes(b"inner")
    (source / "large").write_bytes(os.urandom(100_000))
    (source / "empty").write_bytes(b"")
    (source / "link").symlink_to("000")
    os.link(source / "001", source / "001 again")
    with (source / "sparse").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 24)


def info(case, checkpoint):
    return checkpoint.get_resource_bank_section(case.resource).get_object(INFO_KEY)


def change_content(path):
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[::-1] + b"!"[: path.stat().st_size % 2])
    os.utime(path, ns=times)


def replace_by_same(path):
    """Put another file there with the same content, size and modification time."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def replace_by(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


CHANGES = {
    "content": change_content,
    "growth": lambda path: path.write_bytes(path.read_bytes() * 2),
    "emptied": lambda path: path.write_bytes(b""),
    "mode": lambda path: path.chmod(0o640),
    "time": lambda path: os.utime(path, ns=(5, 5)),
    "another": replace_by_same,
    "gone": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name("zzz")),
    "new before it": lambda path: path.with_name(path.name[:2]).write_bytes(b"new"),
    "new behind it": lambda path: path.with_name(path.name + " ").write_bytes(b"new"),
    "second name": lambda path: os.link(path, path.with_name("zzz")),
    "now a directory": replace_by(Path.mkdir),
    "now a link": replace_by(lambda path: path.symlink_to("000")),
    "now a fifo": replace_by(os.mkfifo),
}


@pytest.mark.parametrize("name", ["000", "099", "255", "256", "299"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_one_of_many_files_is_seen_and_costs_only_that_file(case, change, name):
    fill(case.source)
    first = case.driver.protect(case.resource)
    CHANGES[change](case.source / name)

    second = case.driver.protect(case.resource, previous=first)

    files = info(case, second)["files"]
    assert files - 2 <= info(case, second)["unchanged"] < files + change.startswith(("gone", "now"))
    assert info(case, second)["vanished"] == info(case, second)["changed"] == 0
    case.driver.verify(second, case.resource)
    case.driver.restore(second, case.resource, target=str(case.target))
    assert describe(case.target) == describe(case.source)


def test_files_taken_over_in_runs_are_recorded_as_those_taken_over_one_by_one(case, monkeypatch):
    fill(case.source)
    first = case.driver.protect(case.resource)
    taken = []
    original = UnchangedFiles.take_over

    def take_over(self, *arguments):
        taken.append(original(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(UnchangedFiles, "take_over", take_over)
    in_runs = case.driver.protect(case.resource, previous=first)
    monkeypatch.setattr(UnchangedFiles, "take_over", lambda *_: (0, 0))
    one_by_one = case.driver.protect(case.resource, previous=first)

    assert sum(number for number, _ in taken) >= COUNT - 3  # the first names after odd entries
    assert info(case, in_runs) == info(case, one_by_one)
    rows, others = (
        list(Manifest(checkpoint.get_resource_bank_section(case.resource)).rows())
        for checkpoint in (in_runs, one_by_one)
    )
    assert rows == others
    assert info(case, in_runs)["unchanged"] == info(case, in_runs)["files"]


def test_a_protect_can_be_cancelled_while_nothing_has_changed(case):
    fill(case.source)
    first = case.driver.protect(case.resource)
    context = Context(previous=first)

    def cancel():
        context.cancelled = True

    context._on_progress = cancel
    with pytest.raises(HookCancelledError):
        case.driver.protect(case.resource, context=context)

    assert 0 < context.reports[-1][0] < info(case, first)["bytes_stored"]


FIELDS = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.integers(-(2**70), 2**70),
    st.binary(max_size=3),
    st.text(max_size=3),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(st.binary(max_size=3) | st.text(max_size=3), st.binary(max_size=3)),
)


@given(st.dictionaries(st.sampled_from([0, *range(3, 16)]), FIELDS), st.integers(0, 18))
def test_nothing_of_a_forged_row_gets_into_another_manifest(forged, length):
    status = os.stat(__file__)
    times = status.st_mtime_ns, status.st_ctime_ns
    row = [int(Kind.FILE), 1, b"name", 0, 0, 0, times[0], None, 4, None]
    row += [status.st_size, times[1], status.st_ino, None, 3, 5]
    for place, value in forged.items():
        row[place] = value
    del row[length or 16 :]

    place = bundled_place(row, status)

    if place is not None:
        entry = unpack_entry(bundled_row(row, status, *place), 1)
        assert (entry.mtime, entry.ctime, entry.size) == (*times, status.st_size)
        assert entry.mode == status.st_mode & 0o7777
        assert entry.is_bundled
        assert not entry.is_unstable
    else:
        assert forged or 0 < length < 16
