"""Counting a tree while it is read: what comes out is what the reader stores."""

from __future__ import annotations

import os

from karbor_filesystem.ahead import CountAhead
from karbor_filesystem.manifest import INFO_KEY
from karbor_filesystem.own_bank import bank_places
from karbor_filesystem.patterns import Selection
from plugins.hooks import Context

NOTHING = Selection()


def counted(path, selection=NOTHING, left=frozenset(), bank=None, **options):
    with CountAhead(str(path), selection, left, bank or {}, **options) as ahead:
        ahead._thread.join()
    return ahead.total


def fill(root):
    (root / "a" / "b").mkdir(parents=True)
    (root / "top").write_bytes(b"x" * 10)
    (root / "a" / "one.txt").write_bytes(b"x" * 100)
    (root / "a" / "b" / "two.tmp").write_bytes(b"x" * 1000)
    os.link(root / "top", root / "a" / "again")
    (root / "link").symlink_to("top")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        file.write(b"y" * 4096)
        file.truncate(1 << 40)


def test_a_tree_is_counted_as_it_is_stored(case):
    fill(case.source)
    checkpoint = case.driver.protect(case.resource)
    stored = checkpoint.get_resource_bank_section(case.resource).get_object(INFO_KEY)[
        "bytes_stored"
    ]

    assert counted(case.source) == 10 + 100 + 1000 + 4096 == stored


def test_what_is_not_read_is_not_counted(case):
    fill(case.source)
    bank = case.source / "bank"
    bank.mkdir()
    (bank / "data").write_bytes(b"x" * 7)
    status = bank.stat()

    assert counted(case.source, Selection(["a"])) == 10 + 100 + 1000
    assert counted(case.source, Selection([], ["a/b", "sparse", "bank"])) == 110
    assert counted(case.source, Selection(["*.txt"])) == 100
    left = frozenset({(b"a", b"one.txt"), (b"bank", b"data"), (b"sparse",)})
    assert counted(case.source, left=left) == 10 + 1000
    places = {(status.st_dev, status.st_ino): str(bank)}
    assert counted(case.source, bank=places, one_file_system=True) == 10 + 100 + 1000 + 4096


def test_a_protect_says_how_much_there_is(case, monkeypatch):
    fill(case.source)
    monkeypatch.setattr("karbor_filesystem.report._TICK_BYTES", 1)
    whole = 10 + 100 + 1000 + 4096
    context = Context()
    entered = CountAhead.__enter__

    def count_first(ahead):
        entered(ahead)
        ahead._thread.join()
        return ahead

    monkeypatch.setattr(CountAhead, "__enter__", count_first)
    checkpoint = case.driver.protect(case.resource, context=context)
    assert context.reports[-1] == (whole, whole, "bytes")

    again = Context(previous=checkpoint)
    case.driver.protect(case.resource, context=again)
    assert again.reports[-1] == (whole, whole, "bytes"), "what is taken over counts as done"


def test_a_protect_that_fails_leaves_no_thread_that_counts(case):
    fill(case.source)
    places = bank_places(case.driver.new_checkpoint(case.resource))
    with CountAhead(str(case.source), NOTHING, frozenset(), places) as ahead:
        pass
    assert not ahead._thread.is_alive()
