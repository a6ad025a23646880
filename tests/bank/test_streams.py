from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockbank import TINY_BLOCK, BlockBank, contents, tiny_blocks, write
from helpers import DEADLINE, Gate
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.streams import pipeline as stream_pipeline
from karbor_actors.bank.streams.patch import Patch
from karbor_actors.bank.streams.rows import hide, rows_prefix
from karbor_actors.bank.streams.streams import StreamReader, delete_streams
from karbor_actors.errors import (
    BankError,
    BankFullError,
    BankKeyError,
    BlockMissingError,
    ObjectNotFoundError,
    StoreError,
)
from karbor_actors.store import LocalStore, MemoryStore

MIB = 1 << 20
RANDOM = random.Random(1).randbytes(3 * MIB)


@pytest.fixture
def bank():
    """Blocks of the real size."""
    with BlockBank() as bank:
        yield bank


@pytest.fixture
def tiny():
    with tiny_blocks(), BlockBank() as bank:
        yield bank


# Writing and reading


@pytest.mark.parametrize("size", [0, 1, 100, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 12345])
def test_a_stream_comes_back_as_it_was(bank, size):
    data = RANDOM[:size]
    info = write(bank.streams(), "key", data)

    assert (info.key, info.size, info.blocks) == ("key", size, -(-size // MIB))
    assert info.new_blocks == info.blocks
    assert contents(bank.streams()) == {"key": data}
    assert bank.streams().info("key") == info
    assert bank.streams().info("key").new_bytes == info.new_bytes
    assert bank.check() == []


def test_compression_and_holes_save_space(bank):
    data = b"text " * 300_000 + bytes(5 * MIB)
    info = write(bank.streams(), "key", data)

    assert info.new_bytes < 20_000
    assert info.blocks == 7
    assert info.new_blocks == 2
    assert contents(bank.streams()) == {"key": data}


def test_a_stream_of_zeros_needs_no_block(bank):
    info = write(bank.streams(), "key", bytes(2 * MIB + 5))

    assert (info.new_blocks, bank.objects()) == (0, [])
    assert contents(bank.streams()) == {"key": bytes(2 * MIB + 5)}
    assert bank.check() == []


class Reluctant(io.BytesIO):
    """Gives a few bytes at a time, of several kinds."""

    def read(self, size=-1):
        part = super().read(min(size, 70_000))
        return bytearray(part) if self.tell() % 3 else memoryview(part)


def test_a_source_that_gives_little_at_a_time_is_cut_in_the_same_blocks(bank):
    streams = bank.streams()
    write(streams, "plain", RANDOM)
    with streams.session() as session:
        info = session.add("reluctant", Reluctant(RANDOM))

    assert info.new_blocks == 0
    assert contents(streams) == {"plain": RANDOM, "reluctant": RANDOM}


@pytest.mark.parametrize("answer", [b"x" * (MIB + 1), None, "text", 5])
def test_a_source_that_answers_rubbish_is_refused(bank, answer):
    class Rubbish:
        def read(self, size):
            return answer

    session = bank.streams().session()
    with session, pytest.raises((ValueError, TypeError, BlockingIOError)):
        session.add("key", Rubbish())

    assert contents(bank.streams()) == {}


@given(data=st.data())
def test_reading_behaves_like_a_file(data):
    content = random.Random(2).randbytes(5 * TINY_BLOCK + 17)
    with tiny_blocks(), BlockBank() as bank:
        write(bank.streams(), "key", content)
        with bank.streams().open("key") as reader:
            plain = io.BytesIO(content)
            assert reader.readable()
            assert reader.seekable()
            assert not reader.writable()
            for _ in range(data.draw(st.integers(1, 12))):
                size = data.draw(st.integers(-1, 200))
                match data.draw(st.sampled_from(["read", "readinto", "seek", "rest"])):
                    case "read":
                        assert reader.read(size) == plain.read(size)
                    case "readinto":
                        mine, theirs = bytearray(max(0, size)), bytearray(max(0, size))
                        assert reader.readinto(mine) == plain.readinto(theirs)
                        assert mine == theirs
                    case "seek":
                        whence = data.draw(st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
                        offset = data.draw(st.integers(-400, 400))
                        try:
                            expected = plain.seek(offset, whence)
                        except ValueError:
                            with pytest.raises(ValueError, match="before the start"):
                                reader.seek(offset, whence)
                        else:
                            if whence != os.SEEK_SET and expected == 0 and offset < 0:
                                reader.seek(0)  # BytesIO stops at the start, files refuse
                            else:
                                assert reader.seek(offset, whence) == expected
                    case "rest":
                        assert reader.readall() == plain.read()
                assert reader.tell() == plain.tell()


def test_a_closed_reader_refuses_to_read(bank):
    write(bank.streams(), "key", b"data")
    reader = bank.streams().open("key")
    reader.close()
    reader.close()

    for use in (
        reader.read,
        reader.tell,
        lambda: reader.seek(0),
        lambda: reader.readinto(bytearray(1)),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_text_wrapper_reads_a_stream(bank):
    write(bank.streams(), "key", "Zeile\nzwei ü\n".encode())

    with bank.streams().open("key") as reader:
        assert list(io.TextIOWrapper(io.BufferedReader(reader), "utf-8")) == ["Zeile\n", "zwei ü\n"]


def test_a_stream_that_is_not_there_is_an_error_that_names_it(bank):
    streams = bank.streams()
    for use in (streams.open, streams.info, streams.delete):
        with pytest.raises(ObjectNotFoundError, match="'no such' in section section"):
            use("no such")


def test_a_stream_that_is_deleted_while_it_is_read_is_an_error_and_no_other_data(tiny):
    streams = tiny.streams()
    write(streams, "key", RANDOM[: 200 * TINY_BLOCK])
    with streams.open("key") as reader:
        reader.read(10)
        streams.delete("key")
        write(streams, "key", RANDOM[MIB : MIB + 200 * TINY_BLOCK])

        with pytest.raises((ObjectNotFoundError, BlockMissingError)):
            reader.read()


# Keys


def test_nearly_any_file_name_is_a_key(bank):
    streams = bank.streams()
    keys = [
        "a",
        "a b",
        "ü/é",
        "x" * 255 + "/" + "y" * 255,
        "\udcff\udc80",
        "-",
        "a" * 600 + "1",
        "a" * 600 + "2",
    ]
    with streams.session() as session:
        for key in keys:
            session.add(key, io.BytesIO(key.encode("utf-8", "surrogateescape")))

    assert contents(streams) == {key: key.encode("utf-8", "surrogateescape") for key in keys}
    assert {info.key for info in streams.list("a" * 600)} == {"a" * 600 + "1", "a" * 600 + "2"}
    assert [info.key for info in streams.list("a" * 600 + "2")] == ["a" * 600 + "2"]
    for key in keys:
        streams.delete(key)
    assert contents(streams) == {}


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "a\0", None, 5, b"a"])
def test_a_key_that_can_name_nothing_is_refused(bank, key):
    with pytest.raises(BankKeyError):
        write(bank.streams(), key, b"data")
    assert contents(bank.streams()) == {}


def test_sections_and_sub_sections_do_not_see_each_other(bank):
    one, two = bank.streams(), bank.streams(scope=b"12345678abce")
    below = bank.streams(prefix="below/")
    write(one, "key", b"one")
    write(two, "key", b"two")
    write(below, "key", b"below")

    assert contents(one) == {"key": b"one", "below/key": b"below"}
    assert contents(two) == {"key": b"two"}
    assert contents(below) == {"key": b"below"}
    delete_streams(bank.blocks, b"12345678abcd")
    assert contents(one) == contents(below) == {}
    assert contents(two) == {"key": b"two"}


def test_streams_are_listed_in_order_however_many(tiny):
    keys = [f"{number:04}" for number in range(700)]
    with tiny.streams().session() as session:
        for key in reversed(keys):
            session.add(key, io.BytesIO(b""))

    assert [info.key for info in tiny.streams().list()] == keys
    assert [info.key for info in tiny.streams().list("03")] == keys[300:400]


# Sessions


def test_nothing_is_visible_before_the_session_ends(tiny):
    streams = tiny.streams()
    with streams.session() as session:
        session.add("one", io.BytesIO(RANDOM[: 30 * TINY_BLOCK]))
        session.add("two", io.BytesIO(RANDOM[: 30 * TINY_BLOCK]))
        assert contents(streams) == {}
        assert tiny.objects()
        assert tiny.check() == []

    assert sorted(contents(streams)) == ["one", "two"]


def test_a_session_that_fails_leaves_nothing(tiny):
    streams = tiny.streams()
    write(streams, "old", b"old")
    session = streams.session()
    with contextlib.suppress(ZeroDivisionError), session:
        session.add("old", io.BytesIO(RANDOM[: 50 * TINY_BLOCK]))
        raise ZeroDivisionError

    assert contents(streams) == {"old": b"old"}
    assert len(tiny.objects()) == 1
    assert tiny.check() == []


class Torn(io.BytesIO):
    def read(self, size=-1):
        data = super().read(size)
        if not data:
            raise OSError("the file is torn")
        return data


def test_a_source_that_fails_is_left_out_and_the_session_goes_on(tiny):
    streams = tiny.streams()
    with streams.session() as session:
        session.add("one", io.BytesIO(b"one"))
        with pytest.raises(OSError, match="torn"):
            session.add("torn", Torn(RANDOM[: 20 * TINY_BLOCK]))
        with pytest.raises(OSError, match="torn"):
            session.add("again", Torn(b"first"))
        session.add("again", io.BytesIO(b"second"))

    assert contents(streams) == {"one": b"one", "again": b"second"}
    assert tiny.check() == []
    assert len(tiny.objects()) <= 2


def test_after_a_failed_put_a_session_takes_and_shows_nothing_more(tiny):
    streams = tiny.streams()
    with contextlib.suppress(BankError), streams.session() as session:
        tiny.fuse.cut_after(0, lasts=False)
        with pytest.raises(StoreError):
            session.add("one", io.BytesIO(RANDOM[: 100 * TINY_BLOCK]))
        with pytest.raises(BankError, match="an earlier failure ended this session"):
            session.add("two", io.BytesIO(b"two"))

    assert contents(streams) == {}
    assert tiny.objects() == []
    assert tiny.check() == []


def test_a_session_serves_once_and_only_in_its_block(bank):
    session = bank.streams().session()
    with pytest.raises(BankError, match="within its with block"):
        session.add("key", io.BytesIO(b""))
    with session:
        session.add("key", io.BytesIO(b""))
    with pytest.raises(BankError, match="within its with block"):
        session.add("key", io.BytesIO(b""))


def test_the_last_of_several_streams_with_one_key_wins(tiny):
    streams = tiny.streams()
    with streams.session() as session:
        for data in (RANDOM[:500], b"", b"second", RANDOM[:1000], b"last"):
            session.add("key", io.BytesIO(data))

    assert contents(streams) == {"key": b"last"}
    assert tiny.check() == []
    streams.delete("key")
    assert tiny.objects() == []


def test_what_must_hold_is_asked_in_the_transaction_that_shows_the_streams(bank):
    def refuse(transaction):
        raise BankError("the checkpoint is gone")

    streams = bank.streams()
    write(streams, "key", b"data")
    streams._also = refuse
    with pytest.raises(BankError, match="the checkpoint is gone"):
        write(streams, "other", b"data")
    with pytest.raises(BankError, match="the checkpoint is gone"):
        streams.delete("key")

    assert contents(streams) == {"key": b"data"}
    assert bank.check() == []


def test_small_streams_share_packs_in_order(bank):
    with bank.streams().session() as session:
        for number in range(300):
            session.add(f"{number:03}", io.BytesIO(b"%d" % number))

    assert len(bank.objects()) == 1
    gets = []
    get = bank.blocks.objects.get
    bank.blocks.objects.get = lambda *args: gets.append(args) or get(*args)
    bank.blocks._ranges._store = bank.blocks.objects
    assert contents(bank.streams()) == {f"{n:03}": b"%d" % n for n in range(300)}
    assert len(gets) == 1


def test_reading_and_writing_overlap(tiny, monkeypatch):
    """The source is still read while the first pack is being put."""
    monkeypatch.setattr(stream_pipeline, "_PUTS", 1000)  # no wait but for the gate
    gate = Gate()
    put = tiny.blocks.objects.put
    session = tiny.streams().session()

    def slow_put(name, data):
        gate.pass_through()
        put(name, data)

    class Source(io.BytesIO):
        overlaps = False

        def read(self, size=-1):
            if session._pipeline._puts and not self.overlaps:
                self.overlaps = True
                gate.wait_entered()
                gate.open()
            return super().read(size)

    tiny.blocks.objects.put = slow_put
    source = Source(RANDOM[: 100 * TINY_BLOCK])
    with session:
        session.add("key", source)

    assert source.overlaps
    assert contents(tiny.streams()) == {"key": source.getvalue()}


def test_sessions_of_several_threads_go_on_at_once(bank):
    start = threading.Barrier(3)
    failures = []

    def work(number):
        try:
            start.wait(DEADLINE)
            for turn in range(3):
                write(bank.streams(), f"{number}-{turn}", RANDOM[turn * MIB :][: MIB + number])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    assert failures == []
    assert contents(bank.streams()) == {
        f"{number}-{turn}": RANDOM[turn * MIB :][: MIB + number]
        for number in range(3)
        for turn in range(3)
    }
    assert bank.check() == []


# Reusing, patching, copying


class Unreadable(MemoryStore):
    """Counts what is read of it."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def get(self, name, start=0, length=None):
        self.reads += 1
        return super().get(name, start, length)


def test_a_stream_is_reused_without_reading_it():
    store = Unreadable()
    with BlockBank(store) as bank:
        streams = bank.streams()
        info = write(streams, "one", RANDOM)
        with streams.session() as session:
            copy = session.reuse("two", info)

        assert (copy.key, copy.size, copy.new_blocks, copy.new_bytes) == ("two", len(RANDOM), 0, 0)
        assert store.reads == 0
        streams.delete("one")
        assert contents(streams) == {"two": RANDOM}


def test_a_stream_of_the_same_session_can_be_reused(tiny):
    data = RANDOM[: 20 * TINY_BLOCK + 3]
    with tiny.streams().session() as session:
        info = session.add("one", io.BytesIO(data))
        session.reuse("two", info)
        session.reuse("empty", session.add("none", io.BytesIO(b"")))

    assert contents(tiny.streams()) == {"one": data, "two": data, "empty": b"", "none": b""}
    assert tiny.check() == []


def test_a_stream_that_was_deleted_cannot_be_reused_and_the_session_goes_on(tiny):
    streams = tiny.streams()
    info = write(streams, "one", RANDOM[:1000])
    streams.delete("one")
    with streams.session() as session:
        with pytest.raises(ObjectNotFoundError):
            session.reuse("two", info)
        session.add("three", io.BytesIO(b"three"))

    assert contents(streams) == {"three": b"three"}
    assert tiny.check() == []


def test_a_stream_of_another_bank_is_not_taken_for_ones_own(bank):
    with BlockBank() as other:
        theirs = write(other.streams(), "key", b"theirs")
        write(bank.streams(), "key", b"mine")
        session = bank.streams().session()
        with session, pytest.raises(ValueError, match="of another bank"):
            session.reuse("copy", theirs)

        assert contents(bank.streams()) == {"key": b"mine"}


def test_a_patch_reads_and_stores_only_what_changes():
    store = Unreadable()
    with BlockBank(store) as bank:
        streams = bank.streams()
        base = write(streams, "base", RANDOM)
        with streams.session() as session:
            info = session.patch(
                "patched",
                [(5, b"change"), (MIB - 3, b"across"), (2 * MIB, bytes(MIB))],
                base=base,
            )

        expected = bytearray(RANDOM)
        expected[5:11] = b"change"
        expected[MIB - 3 : MIB + 3] = b"across"
        expected[2 * MIB :] = bytes(MIB)
        assert info.new_blocks == 2
        assert store.reads == 2
        assert contents(streams) == {"base": RANDOM, "patched": expected}
        assert bank.check() == []


@given(data=st.data())
def test_a_patch_is_the_base_with_the_changes_over_it(data):
    old, new = data.draw(st.integers(0, 400)), data.draw(st.integers(0, 400))
    edges = sorted(data.draw(st.lists(st.integers(0, new), max_size=8)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    extents = [
        (start, data.draw(st.binary(min_size=1, max_size=1)) * (end - start))
        for start, end in pairs
    ]
    expected = bytearray(RANDOM[:old][:new].ljust(new, b"\0"))
    for offset, part in extents:
        expected[offset : offset + len(part)] = part

    with tiny_blocks(), BlockBank() as bank:
        streams = bank.streams()
        base = write(streams, "base", RANDOM[:old])
        with streams.session() as session:
            info = session.patch("new", iter(extents), base=base, size=new)

        assert info.size == new
        assert contents(streams) == {"base": RANDOM[:old], "new": bytes(expected)}
        assert bank.check() == []


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ([(5, b"x"), (4, b"x")], None),
        ([(5, b"xx"), (6, b"x")], None),
        ([(-1, b"x")], None),
        ([(10, b"x")], 10),
        ([(9, b"xx")], 10),
        ([], -1),
    ],
)
def test_changes_out_of_order_or_beyond_the_size_are_refused(bank, extents, size):
    streams = bank.streams()
    base = write(streams, "base", b"0123456789" * 3)
    session = streams.session()
    with session, pytest.raises(ValueError, match=r"out of order|has -1 bytes|offset"):
        session.patch("new", extents, base=base, size=size)

    assert sorted(contents(streams)) == ["base"]


def test_a_patch_of_a_huge_stream_costs_what_changes(bank):
    streams = bank.streams()
    with streams.session() as session:
        base = session.patch("base", [], base=session.add("empty", io.BytesIO(b"")), size=1 << 37)
        info = session.patch("disk", [(1 << 36, b"data")], base=base)

    assert info.size == 1 << 37
    assert info.new_blocks == 1
    with streams.open("disk") as reader:
        reader.seek((1 << 36) - 2)
        assert reader.read(8) == b"\0\0data\0\0"
    streams.delete("disk")
    streams.delete("base")
    with bank.environment.snapshot() as snapshot:
        assert [key for key, _ in snapshot.scan(Table.STREAMS)] == [
            rows_prefix(b"12345678abcd") + b"empty"
        ]


def test_a_patch_keeps_the_blocks_it_does_not_change_as_references(tiny):
    streams = tiny.streams()
    base = write(streams, "base", RANDOM[: 10 * TINY_BLOCK])
    with StreamReader(tiny.blocks, base) as reader:
        pieces = list(Patch(reader, [(3 * TINY_BLOCK, b"x" * TINY_BLOCK)], base.size))

    assert [piece.raw for piece in pieces if piece.raw] == [b"x" * TINY_BLOCK]
    assert sum(len(piece.digests) // 32 for piece in pieces) == 9


def test_streams_are_copied_to_another_bank_that_reads_only_what_it_lacks():
    store = Unreadable()
    with BlockBank(store) as source, BlockBank() as target:
        write(source.streams(), "one", RANDOM + b"tail" + bytes(MIB))
        write(source.streams(), "two", RANDOM[:MIB])
        write(target.streams(), "there", RANDOM[: 2 * MIB])
        source.streams().copy_to(target.streams(prefix="copy/"))

        assert contents(target.streams(prefix="copy/")) == contents(source.streams())
        assert target.check() == []
    assert store.reads <= 3 + 5


def test_streams_are_copied_within_a_bank_as_references():
    store = Unreadable()
    with BlockBank(store) as bank:
        write(bank.streams(), "one", RANDOM)
        bank.streams().copy_to(bank.streams(prefix="copy/"))

        assert store.reads == 0
        assert contents(bank.streams()) == {"one": RANDOM, "copy/one": RANDOM}


def test_a_stream_is_made_of_digests_that_are_recorded(tiny):
    streams = tiny.streams()
    data = RANDOM[: 10 * TINY_BLOCK + 5]
    info = write(streams, "one", data)
    with streams.open("one") as reader:
        digests = list(reader.digests())
    with streams.session() as session:
        session.adopt("two", info.size, digests)
        with pytest.raises(ValueError, match="are not"):
            session.adopt("three", info.size + TINY_BLOCK, digests)
    assert contents(streams) == {"one": data, "two": data}

    with pytest.raises(BlockMissingError), streams.session() as session:
        session.adopt("lost", TINY_BLOCK, [b"\1" * 32])
    assert contents(streams) == {"one": data, "two": data}
    assert tiny.check() == []


# Limits


def test_deleting_many_streams_takes_small_transactions(tiny):
    with tiny.streams().session() as session:
        for number in range(50):
            session.add(f"{number}", io.BytesIO(b"%d" % number))
    changed = []
    commit = tiny.environment.commit

    def counting(change):
        def run(transaction):
            delete = transaction.delete
            count = 0

            class Counting:
                def __getattr__(self, name):
                    return getattr(transaction, name)

                def delete(self, *args):
                    nonlocal count
                    count += 1
                    return delete(*args)

            result = change(Counting())
            changed.append(count)
            return result

        return commit(run)

    tiny.environment.commit = counting
    assert tiny.blocks.write(lambda transaction: hide(transaction, b"", 20)) == 20
    delete_streams(tiny.blocks, b"")
    del tiny.environment.commit

    assert tiny.objects() == []
    assert max(changed[2:]) <= 12


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_fails_the_session_and_nothing_else(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with BlockBank(LocalStore(mount / "objects")) as bank:
            streams = bank.streams()
            write(streams, "before", RANDOM[:MIB])
            with pytest.raises(BankFullError, match="free some space"):
                write(streams, "large", random.Random(3).randbytes(30 * MIB))

            assert contents(streams) == {"before": RANDOM[:MIB]}
            assert len(bank.objects()) == 1
            assert bank.check() == []
            write(streams, "after", RANDOM[MIB : 2 * MIB])
            assert bank.check() == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@given(value=st.binary(max_size=80))
def test_rubbish_in_a_streams_row_is_a_bank_error_and_nothing_else(value):
    with BlockBank() as bank:
        streams = bank.streams()
        write(streams, "sound", RANDOM[:MIB])
        key = rows_prefix(b"12345678abcd") + b"key"
        bank.blocks.write(lambda transaction: transaction.put(Table.STREAMS, key, value))
        for use in (lambda: contents(streams), lambda: streams.delete("key"), bank.check):
            with contextlib.suppress(BankError):
                use()
        with streams.open("sound") as stream:
            assert stream.read() == RANDOM[:MIB], "the stream beside it is as it was"
