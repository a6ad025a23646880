"""The operations that a bank names beside its records when it cannot write those."""

from __future__ import annotations

import os

import pytest

from karbor_actors.bank import abort_marks


def test_what_was_added_is_named_until_nobody_wants_it(tmp_path):
    assert abort_marks.prepare(tmp_path, []) == frozenset()
    assert abort_marks.add(tmp_path, "one")
    assert abort_marks.add(tmp_path, "two")

    assert abort_marks.prepare(tmp_path, ["two", "three"]) == {"two"}
    assert abort_marks.prepare(tmp_path, ["one", "two"]) == {"two"}, "the other was forgotten"
    assert (tmp_path / abort_marks.NAME).stat().st_mode & 0o777 == 0o600


def test_adding_needs_no_space(tmp_path):
    """Its blocks are there: it is as long, and has as many, before and after."""
    abort_marks.prepare(tmp_path, [])
    before = (tmp_path / abort_marks.NAME).stat()
    while abort_marks.add(tmp_path, "x" * 36):
        pass
    after = (tmp_path / abort_marks.NAME).stat()

    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert before.st_size == 8192


def test_a_full_file_takes_no_more_and_says_so(tmp_path):
    abort_marks.prepare(tmp_path, [])
    added = 0
    while abort_marks.add(tmp_path, f"operation {added}"):
        added += 1

    assert added == 128
    wanted = [f"operation {number}" for number in range(added)]
    assert abort_marks.prepare(tmp_path, wanted) == set(wanted)
    assert not abort_marks.add(tmp_path, "one more")


@pytest.mark.parametrize("content", [b"", b"\xff" * 8192, b"short", os.urandom(9000)])
def test_a_damaged_file_names_nobody_who_is_wanted(tmp_path, content):
    (tmp_path / abort_marks.NAME).write_bytes(content)

    assert abort_marks.prepare(tmp_path, ["one"]) == frozenset()
    assert abort_marks.add(tmp_path, "one")
    assert abort_marks.prepare(tmp_path, ["one"]) == {"one"}


def test_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / abort_marks.NAME).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        abort_marks.prepare(tmp_path, [])
    assert victim.read_bytes() == b"precious"
