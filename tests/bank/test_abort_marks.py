"""The operations that a bank names beside its records when it cannot write those."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest

from karbor_actors.bank.journal import abort_marks


def test_what_was_added_is_named_until_nobody_wants_it(tmp_path):
    assert abort_marks.prepare(tmp_path, []) == frozenset()
    abort_marks.add(tmp_path, "one")
    abort_marks.add(tmp_path, "two")

    assert abort_marks.prepare(tmp_path, ["two", "three"]) == {"two"}
    assert abort_marks.prepare(tmp_path, ["one", "two"]) == {"two"}, "the other was forgotten"
    assert (tmp_path / abort_marks.NAME).stat().st_mode & 0o777 == 0o600


def test_operations_that_are_added_at_the_same_time_are_all_named(tmp_path, monkeypatch):
    abort_marks.prepare(tmp_path, [])
    names = [f"operation {number}" for number in range(8)]
    together = threading.Barrier(len(names), timeout=0.2)
    read = abort_marks._named

    def slow(fd: int) -> list[str]:
        named = read(fd)
        with suppress(threading.BrokenBarrierError):
            together.wait()  # all of them have read, if they can, before the first writes
        return named

    monkeypatch.setattr(abort_marks, "_named", slow)
    threads = [threading.Thread(target=abort_marks.add, args=(tmp_path, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()

    assert abort_marks.prepare(tmp_path, names) == set(names)


def test_adding_needs_no_space(tmp_path):
    """Its blocks are there: it is as long, and has as many, before and after."""
    abort_marks.prepare(tmp_path, [])
    before = (tmp_path / abort_marks.NAME).stat()
    for number in range(200):
        abort_marks.add(tmp_path, f"{number:036}")
    after = (tmp_path / abort_marks.NAME).stat()

    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert before.st_size == 8192


def test_a_full_file_stands_for_all_that_are_unfinished(tmp_path):
    """Some are undone for nothing; but none goes on that it had no room for."""
    abort_marks.prepare(tmp_path, [])
    names = [f"operation {number}" for number in range(1000)]
    for name in names[:127]:
        abort_marks.add(tmp_path, name)
    assert abort_marks.prepare(tmp_path, [*names[:127], "other"]) == set(names[:127])
    for name in names[127:]:
        abort_marks.add(tmp_path, name)

    assert abort_marks.prepare(tmp_path, [*names, "other"]) == {*names, "other"}
    assert abort_marks.prepare(tmp_path, names[:200]) == set(names[:200]), "it is repeated"
    assert abort_marks.prepare(tmp_path, names[:3]) == set(names[:3])
    assert abort_marks.prepare(tmp_path, [*names[:3], "new"]) == set(names[:3]), "it is over"


@pytest.mark.parametrize("content", [b"", b"\xff" * 8192, b"short", os.urandom(9000)])
def test_a_damaged_file_names_nobody_who_is_wanted(tmp_path, content):
    (tmp_path / abort_marks.NAME).write_bytes(content)

    assert abort_marks.prepare(tmp_path, ["one"]) == frozenset()
    abort_marks.add(tmp_path, "one")
    assert abort_marks.prepare(tmp_path, ["one"]) == {"one"}


def test_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / abort_marks.NAME).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        abort_marks.prepare(tmp_path, [])
    assert victim.read_bytes() == b"precious"
