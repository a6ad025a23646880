from __future__ import annotations

import contextlib
import io
import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from blockbank import TINY_BLOCK, BlockBank, contents, tiny_blocks, write
from helpers import DEADLINE
from karbor_actors.bank.blocks.blocks import BlockStore
from karbor_actors.bank.blocks.check import check_blocks, repack
from karbor_actors.bank.blocks.rebuild import free_unneeded, record_packs
from karbor_actors.bank.blocks.rows import BlockRow, PackRow, PackState, pack_rows
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.streams.streams import delete_streams
from karbor_actors.errors import (
    BankClosedError,
    BankFormatError,
    BankReadonlyError,
    BlockCorruptError,
    BlockMissingError,
    StoreError,
)


@pytest.fixture
def bank():
    with tiny_blocks(), BlockBank() as bank:
        yield bank


def block(letter):
    """Return one whole tiny block that does not compress."""
    return bytes((ord(letter) * 31 + n * 97 + n * n * 13) % 251 + 1 for n in range(TINY_BLOCK))


A, B, C, D = map(block, "ABCD")


def references(bank):
    with bank.environment.snapshot() as snapshot:
        return sorted(
            BlockRow.unpack(value, key).references for key, value in snapshot.scan(Table.BLOCKS)
        )


def states(bank):
    with bank.environment.snapshot() as snapshot:
        return sorted(PackState(row.state).name for _, row in pack_rows(snapshot))


def test_a_block_that_is_stored_already_is_counted_and_not_stored_again(bank):
    first = write(bank.streams(), "one", A + B)
    second = write(bank.streams(), "two", A + C)

    assert (first.new_blocks, second.new_blocks) == (2, 1)
    assert references(bank) == [1, 1, 2]
    assert bank.check() == []


def test_a_block_goes_with_the_last_stream_that_names_it(bank):
    streams = bank.streams()
    write(streams, "one", A + A + B)
    write(streams, "two", A)
    streams.delete("one")
    assert references(bank) == [1]
    assert len(bank.objects()) == 1

    streams.delete("two")

    assert references(bank) == []
    assert bank.objects() == []
    assert bank.check() == []


def test_an_overwritten_stream_is_freed(bank):
    streams = bank.streams()
    write(streams, "key", A + B)
    write(streams, "key", B + C)

    assert contents(streams) == {"key": B + C}
    assert references(bank) == [1, 1]
    assert bank.check() == []


def test_a_block_that_an_open_session_counts_on_outlives_its_last_stream(bank):
    streams = bank.streams()
    write(streams, "old", A + B)
    with streams.session() as session:
        session.add("new", io.BytesIO(A + B))  # known, and so not stored again
        session._pipeline._send()
        for task in session._pipeline._tasks:
            assert all(block is None for _, block in task.future.result())
        streams.delete("old")
        assert references(bank) == [0, 0]
        assert bank.check() == []

    assert contents(streams) == {"new": A + B}
    assert references(bank) == [1, 1]
    assert bank.check() == []
    streams.delete("new")
    assert bank.objects() == []


def test_what_waited_for_a_session_is_freed_when_it_ends(bank):
    streams = bank.streams()
    write(streams, "old", A)
    with streams.session() as session:
        streams.delete("old")
        assert len(bank.objects()) == 1
        session.add("new", io.BytesIO(B))

    assert references(bank) == [1]
    assert len(bank.objects()) == 1
    assert bank.check() == []


def test_a_session_that_began_later_does_not_hold_up_what_was_freed_before(bank):
    streams = bank.streams()
    write(streams, "old", A)
    with streams.session():
        streams.delete("old")
        late = streams.session()
        late.__enter__()
    assert references(bank) == []
    assert bank.objects() == []
    late.__exit__(None, None, None)


def test_two_sessions_that_store_the_same_block_keep_one_copy(bank):
    streams = bank.streams()
    with streams.session() as one, streams.session() as two:
        one.add("one", io.BytesIO(A + B))
        two.add("two", io.BytesIO(A + B))

    assert contents(streams) == {"one": A + B, "two": A + B}
    assert references(bank) == [2, 2]
    assert len(bank.objects()) == 1
    assert bank.check() == []


def test_what_a_dead_owner_was_writing_goes_at_the_next_start(bank):
    streams = bank.streams()
    write(streams, "kept", A)
    session = streams.session()
    session.__enter__()
    session.add("lost", io.BytesIO(B + C + D + block("E") + block("F")))
    session._pipeline.flush()
    assert len(bank.objects()) > 1
    bank.crash()

    assert contents(bank.streams()) == {"kept": A}
    assert references(bank) == [1]
    assert len(bank.objects()) == 1
    assert states(bank) == ["PRESENT"]
    assert bank.check() == []


def test_packs_that_were_reserved_and_not_used_are_forgotten_when_the_bank_closes(bank):
    write(bank.streams(), "one", A)
    write(bank.streams(), "two", B)
    assert "WRITING" in states(bank)

    bank.reopen()

    assert states(bank) == ["PRESENT", "PRESENT"]


def test_a_store_that_cannot_delete_delays_the_freeing_and_nothing_else(bank, caplog):
    streams = bank.streams()
    write(streams, "key", A)
    real = bank.blocks.objects.delete

    def refuse(name):
        raise StoreError("not now")

    bank.blocks.objects.delete = refuse
    streams.delete("key")

    assert "could not be freed yet: not now" in caplog.text
    assert contents(streams) == {}
    assert len(bank.objects()) == 1
    assert states(bank) == ["FREEING"]
    assert bank.check() == []

    bank.blocks.objects.delete = real
    bank.blocks.sweeper.sweep()
    assert bank.objects() == []
    assert states(bank) == []


def test_ids_are_never_used_again(bank):
    seen = set()
    for _ in range(3):
        info = write(bank.streams(), "key", A)
        assert info.id not in seen
        assert not seen & set(bank.objects())
        seen |= {info.id, *bank.objects()}
        bank.streams().delete("key")
        bank.reopen()


def test_two_banks_may_share_an_object_store(bank):
    with BlockBank(bank.store) as other:
        write(bank.streams(), "key", A)
        write(other.streams(), "key", A)

        assert len(bank.objects()) == 2
        assert bank.check() == other.check() == []
        other.streams().delete("key")
        assert contents(bank.streams()) == {"key": A}


def test_a_reader_reads_what_another_process_writes_later(bank):
    reader = BlockStore(bank.environment, bank.store, None)
    write(bank.streams(), "key", A)

    assert reader.read(*_only_block(bank), "stream") == A
    assert check_blocks(reader, deep=True) == []
    with pytest.raises(BankReadonlyError):
        reader.write(lambda transaction: None)
    reader.close()


def _only_block(bank):
    with bank.environment.snapshot() as snapshot:
        [(digest, value)] = snapshot.scan(Table.BLOCKS)
    return digest, BlockRow.unpack(value, digest).raw_length


def test_a_closed_block_store_says_so(bank):
    bank.close()

    with pytest.raises(BankClosedError), bank.streams().session():
        pass


def test_a_damaged_block_is_found_when_it_is_read_and_when_it_is_checked(bank):
    streams = bank.streams()
    write(streams, "the key", A + B)
    [name] = bank.objects()
    damaged = bytearray(bank.store.get(name))
    damaged[TINY_BLOCK + 5] ^= 1
    bank.store.put(name, damaged)

    with streams.open("the key") as reader:
        assert reader.read(TINY_BLOCK) == A
        with pytest.raises(BlockCorruptError, match=r"of stream 'the key' of section is corrupted"):
            reader.read()
    assert check_blocks(bank.blocks) == []
    [finding] = bank.check()
    assert "is corrupted" in finding


def test_a_missing_pack_is_found_when_it_is_read_and_when_it_is_checked(bank):
    write(bank.streams(), "the key", A + B)
    [name] = bank.objects()
    bank.store.delete(name)

    with pytest.raises(BlockMissingError, match="of stream 'the key' of section is missing"):
        contents(bank.streams())
    assert check_blocks(bank.blocks) == [f"pack {name} is missing, with 2 needed blocks"]


def test_packs_that_took_each_others_place_are_found_by_a_deep_check(bank):
    """Each is whole, and of the recorded size: only what the records say can tell."""
    write(bank.streams(), "one", A)
    write(bank.streams(), "two", B)
    one, two = bank.objects()
    first, second = bank.store.get(one), bank.store.get(two)
    assert len(first) == len(second)
    bank.store.put(one, second)
    bank.store.put(two, first)

    assert check_blocks(bank.blocks) == []
    findings = bank.check()
    assert sorted(finding.partition(" does not hold 1 of the 1 ")[0] for finding in findings) == [
        f"pack {name}" for name in (one, two)
    ]
    assert write(bank.streams(), "three", A).new_blocks == 1  # what was found is not counted on
    with bank.streams().open("three") as reader:
        assert reader.read() == A


def test_a_pack_that_another_one_overwrote_is_found_by_a_deep_check(bank):
    write(bank.streams(), "one", A + B)
    write(bank.streams(), "two", C + D)
    one, two = bank.objects()
    bank.store.put(two, bank.store.get(one))

    [finding] = bank.check()
    assert finding.startswith(f"pack {two} does not hold 2 of the 2 blocks")


def test_the_blocks_of_a_pack_with_a_damaged_index_are_checked_all_the_same(bank):
    write(bank.streams(), "key", A + B)
    [name] = bank.objects()
    damaged = bytearray(bank.store.get(name))
    damaged[TINY_BLOCK + 5] ^= 1
    damaged[-1] ^= 1
    bank.store.put(name, damaged)

    of_index, of_block = bank.check()
    assert "is corrupted" in of_block
    assert "is corrupted" not in of_index


def test_a_cut_pack_is_found_by_a_check(bank):
    write(bank.streams(), "key", A + B)
    [name] = bank.objects()
    bank.store.put(name, bank.store.get(name, 0, TINY_BLOCK))

    assert any("bytes instead of" in finding for finding in check_blocks(bank.blocks))
    with pytest.raises(BlockCorruptError):
        contents(bank.streams())


def test_an_object_that_belongs_to_nothing_is_found_by_a_check_and_goes_when_repacking(bank):
    """One that an owner puts after another took the bank over, for example."""
    write(bank.streams(), "key", A)
    stray, current = 12345, bank.blocks.next_ids(1)
    for pack in (stray, current):
        bank.store.put(bank.blocks.object_name(pack), b"")
    bank.store.put("packs/0000000000000000/0000000000000001", b"of another bank")

    assert bank.check() == [
        f"object {bank.blocks.object_name(pack)} belongs to nothing; compact the bank"
        for pack in (stray, current)
    ]
    repack(bank.blocks)
    assert bank.blocks.object_name(stray) not in bank.objects()
    assert bank.blocks.object_name(current) in bank.objects()  # a session may be about to use it
    assert len(bank.objects()) == 3
    assert contents(bank.streams()) == {"key": A}


def damage(bank, table, change):
    """Apply *change*, (transaction, key, value), to the first row of *table*."""

    def run(transaction):
        key, value = next(transaction.scan(table))
        change(transaction, key, value)

    bank.blocks.write(run)


@pytest.mark.parametrize(
    ("table", "change", "finding"),
    [
        (
            Table.BLOCKS,
            lambda t, k, v: t.put(
                Table.BLOCKS, k, BlockRow.unpack(v, k)._replace(references=5).packed()
            ),
            "is counted 5 times and named 1 times",
        ),
        (Table.BLOCKS, lambda t, k, v: t.delete(Table.BLOCKS, k), "has no record of where it is"),
        (Table.BLOCKS, lambda t, k, v: t.put(Table.BLOCKS, k, v[:-1]), "is damaged"),
        (
            Table.PACKS,
            lambda t, k, v: t.put(
                Table.PACKS, k, PackRow.unpack(v, 0)._replace(live_blocks=9).packed()
            ),
            "is said to hold 9 needed blocks",
        ),
        (Table.PACKS, lambda t, k, v: t.delete(Table.PACKS, k), "has no record"),
        (Table.STREAMS, lambda t, k, v: t.delete(Table.STREAMS, k), "of 2 blocks"),
        (Table.STREAMS, lambda t, k, v: t.put(Table.STREAMS, k, v[:-1]), "is damaged"),
    ],
)
def test_a_check_finds_rows_that_do_not_fit_together(bank, table, change, finding):
    write(bank.streams(), "key", A + B)
    damage(bank, table, change)

    assert any(finding in found for found in bank.check()), bank.check()


def test_a_check_finds_a_stream_that_belongs_to_nothing(bank):
    write(bank.streams(), "key", A)
    bank.blocks.write(
        lambda transaction: [
            transaction.delete(Table.STREAMS, key)
            for key, _ in list(transaction.scan(Table.STREAMS, b"s"))
        ]
    )

    assert any("belongs to nothing" in found for found in bank.check())


@given(value=st.binary(max_size=60))
def test_rubbish_in_a_row_is_a_format_error_and_nothing_else(value):
    for unpack in (lambda: BlockRow.unpack(value, b"d" * 32), lambda: PackRow.unpack(value, 1)):
        try:
            unpack()
        except BankFormatError as error:
            assert "damaged" in str(error)  # noqa: PT017 - either is right


def test_repacking_keeps_what_is_needed_and_frees_the_rest(bank):
    streams = bank.streams()
    with streams.session() as session:
        for letter in "ABCDEFGHIJKLMNOP":
            session.add(letter, io.BytesIO(block(letter)))
    for letter in "BCDFGHJKLN":
        streams.delete(letter)
    before = sum(size for _, size in bank.store.list())
    expected = contents(streams)

    assert repack(bank.blocks) > 0

    assert contents(streams) == expected
    assert sum(size for _, size in bank.store.list()) < before / 2
    assert bank.check() == []
    assert repack(bank.blocks) == 0


def test_a_reader_goes_on_when_its_packs_are_rewritten(bank):
    streams = bank.streams()
    with streams.session() as session:
        session.add("dead", io.BytesIO(B + C + D))
        session.add("live", io.BytesIO(A))
    streams.delete("dead")
    with streams.open("live") as reader:
        row = bank.blocks._locate(reader.digest(0), "")
        assert repack(bank.blocks) == 1
        assert bank.blocks._locate(reader.digest(0), "").pack != row.pack

        stale = iter([row])
        locate = bank.blocks._locate
        bank.blocks._locate = lambda *args: next(stale, None) or locate(*args)
        assert reader.read() == A


def test_repacking_leaves_a_damaged_block_where_it_is(bank):
    streams = bank.streams()
    with streams.session() as session:
        session.add("dead", io.BytesIO(B + C))
        session.add("live", io.BytesIO(A + D))
    streams.delete("dead")
    [name] = bank.objects()
    damaged = bytearray(bank.store.get(name))
    damaged[2 * TINY_BLOCK] ^= 1
    bank.store.put(name, damaged)

    bank.blocks.write(_lie_about_size)
    repack(bank.blocks)

    assert name in bank.objects()
    with streams.open("live") as reader, pytest.raises(BlockCorruptError):
        reader.read()


def _lie_about_size(transaction):
    for key, value in list(transaction.scan(Table.PACKS)):
        row = PackRow.unpack(value, 0)
        if row.state == PackState.PRESENT:
            transaction.put(Table.PACKS, key, row._replace(size=10**6).packed())


def test_lost_records_are_made_again_from_the_packs(bank):
    streams = bank.streams()
    data = {"one": A + B + C + bytes(TINY_BLOCK) + b"tail", "two": C + D, "three": b""}
    for key, content in data.items():
        write(streams, key, content)
    write(streams, "gone", block("E") + block("F"))
    digests = {}
    for key in data:
        with streams.open(key) as reader:
            digests[key] = list(reader.digests())
    bank.close()

    with BlockBank(bank.store, bank_id=bank.blocks.bank_id) as rebuilt:
        assert record_packs(rebuilt.blocks) == []
        assert record_packs(rebuilt.blocks) == []
        with rebuilt.streams().session() as session:
            for key, content in data.items():
                session.adopt(key, len(content), digests[key])
        assert contents(rebuilt.streams()) == data
        free_unneeded(rebuilt.blocks)

        assert contents(rebuilt.streams()) == data
        assert len(rebuilt.objects()) == 2
        assert rebuilt.check() == []
        before = set(rebuilt.objects())
        write(rebuilt.streams(), "new", block("G"))
        assert before < set(rebuilt.objects())
        delete_streams(rebuilt.blocks, b"")
        assert rebuilt.objects() == []


def test_a_damaged_pack_is_left_out_of_new_records_and_said(bank):
    write(bank.streams(), "one", A)
    write(bank.streams(), "two", B)
    name = bank.objects()[0]
    bank.store.put(name, b"rubbish")
    bank.close()

    with BlockBank(bank.store, bank_id=bank.blocks.bank_id) as rebuilt:
        [finding] = record_packs(rebuilt.blocks)
        assert name in finding
        assert references(rebuilt) == [0]


def test_sessions_deletes_and_repacks_at_once_keep_the_counts_exact(bank):
    """Several threads write and delete streams of shared blocks, as fast as they can."""
    letters = [block(letter) for letter in "ABCDEFGH"]
    failures = []
    start = threading.Barrier(4)
    expected = [{} for _ in range(3)]

    def work(number):
        streams = bank.streams(prefix=f"{number}/")
        start.wait(DEADLINE)
        for turn in range(12):
            data = b"".join(letters[(turn * step + number) % 8] for step in range(1, 6))
            with streams.session() as session:
                session.add(f"{turn % 4}", io.BytesIO(data))
                session.add(f"{turn % 4}-small", io.BytesIO(data[:10]))
            expected[number][f"{turn % 4}"] = data
            expected[number][f"{turn % 4}-small"] = data[:10]
            if turn % 3 == 2:
                streams.delete(f"{turn % 4}")
                del expected[number][f"{turn % 4}"]

    def churn():
        start.wait(DEADLINE)
        for _ in range(10):
            repack(bank.blocks)

    def guarded(function, *args):
        try:
            function(*args)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(work, number)) for number in range(3)]
    threads.append(threading.Thread(target=guarded, args=(churn,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    assert failures == []
    assert [contents(bank.streams(prefix=f"{number}/")) for number in range(3)] == expected
    assert bank.check() == []
    delete_streams(bank.blocks, b"")
    assert references(bank) == []
    assert bank.objects() == []


# Faults at every point

LONG = B + C + D + block("E") + block("F") + block("G")
PATCHED = A + D[:9] + B[9:]


def add_several(bank):
    with bank.streams().session() as session:
        info = session.add("two", io.BytesIO(LONG))
        session.add("three", io.BytesIO(A + b"tail"))
        session.reuse("again", info)


def patch_one(bank):
    streams = bank.streams()
    with streams.session() as session:
        session.patch("one", [(TINY_BLOCK, D[:9])], base=streams.info("one"))


STEPS = [
    (lambda bank: write(bank.streams(), "one", A + B), {"one": A + B}),
    (add_several, {"one": A + B, "two": LONG, "three": A + b"tail", "again": LONG}),
    (
        lambda bank: bank.streams().delete("two"),
        {"one": A + B, "three": A + b"tail", "again": LONG},
    ),
    (patch_one, {"one": PATCHED, "three": A + b"tail", "again": LONG}),
    (
        lambda bank: write(bank.streams(), "again", C[:20]),
        {"one": PATCHED, "three": A + b"tail", "again": C[:20]},
    ),
    (
        lambda bank: repack(bank.blocks),
        {"one": PATCHED, "three": A + b"tail", "again": C[:20]},
    ),
    (
        lambda bank: bank.streams().delete("one"),
        {"three": A + b"tail", "again": C[:20]},
    ),
    (lambda bank: repack(bank.blocks), {"three": A + b"tail", "again": C[:20]}),
]
"""A bit of everything: what is done, and what there is when it is done."""


def run_steps(bank, possible):
    """Run STEPS; *possible* is what may be there while one runs, or after it failed."""
    for step, after in STEPS:
        possible[:] = [possible[-1], after]
        step(bank)
        del possible[0]


@pytest.mark.parametrize("acts", [False, True])
def test_a_power_cut_at_any_point_loses_nothing_that_was_acknowledged(acts):
    for cut in itertools.count():
        with tiny_blocks(), BlockBank() as bank:
            bank.fuse.cut_after(cut, acts=acts)
            possible = [{}]
            with contextlib.suppress(StoreError):  # within a sweep it is only logged
                run_steps(bank, possible)
            if not bank.fuse.is_blown:
                assert cut > 30, "there are more points than that"
                break
            bank.crash()

            assert contents(bank.streams()) in possible, f"cut after {cut}"
            assert bank.check() == [], f"cut after {cut}"
            delete_streams(bank.blocks, b"")
            assert bank.objects() == [], f"cut after {cut}"
            assert references(bank) == []


@pytest.mark.parametrize("acts", [False, True])
def test_a_fault_at_any_point_leaves_the_open_bank_usable(acts):
    """One call fails, and all work again: a full disk, a network that came back."""
    for at in itertools.count():
        with tiny_blocks(), BlockBank() as bank:
            bank.fuse.cut_after(at, acts=acts, lasts=False)
            possible = [{}]
            with contextlib.suppress(StoreError):
                run_steps(bank, possible)
            if not bank.fuse.is_blown:
                assert at > 30, "there are more points than that"
                break
            found = contents(bank.streams())
            assert found in possible, f"fault at {at}"
            assert bank.check() == [], f"fault at {at}"
            write(bank.streams(), "after", A + C)
            assert contents(bank.streams()) == found | {"after": A + C}
            delete_streams(bank.blocks, b"")
            if acts:
                bank.reopen()  # what was freed, but not reported so, goes at the next start
            assert bank.objects() == [], f"fault at {at}"
            assert references(bank) == []


# A model of it all

BLOCKS = [block(letter) for letter in "ABCDEF"] + [bytes(TINY_BLOCK)]
DATA = st.builds(
    lambda parts, tail: b"".join(parts) + tail,
    st.lists(st.sampled_from(BLOCKS), max_size=12),
    st.sampled_from([b"", b"", b"tail", bytes(3), A[: TINY_BLOCK - 1]]),
)
KEYS = st.sampled_from(["a", "b", "c/d", "c/e"])


@st.composite
def changes(draw, size):
    """Return extents in order, none over another, below *size*."""
    edges = sorted(draw(st.lists(st.integers(0, size), max_size=6)))
    return [
        (start, draw(st.sampled_from([0x41, 0x00, 0x5A])).to_bytes(1, "big") * (end - start))
        for start, end in zip(edges[::2], edges[1::2], strict=False)
    ]


class StreamsMachine(RuleBasedStateMachine):
    """Streams of a bank against a dict of bytes."""

    infos = Bundle("infos")

    def __init__(self):
        super().__init__()
        self._tiny = tiny_blocks()
        self._tiny.__enter__()
        self.bank = BlockBank()
        self.model = {}
        self.deleted = set()

    def teardown(self):
        self.bank.__exit__()
        self._tiny.__exit__(None, None, None)

    def _put(self, key, data, info):
        assert (info.key, info.size) == (key, len(data))
        self.model[key] = data
        return info, data

    @rule(target=infos, key=KEYS, data=DATA)
    def write(self, key, data):
        return self._put(key, data, write(self.bank.streams(), key, data))

    @rule(target=infos, items=st.lists(st.tuples(KEYS, DATA, st.booleans()), max_size=5))
    def write_many(self, items):
        added = []
        with self.bank.streams().session() as session:
            for key, data, fails in items:
                if fails:
                    with pytest.raises(OSError, match="torn"):
                        session.add(key, _Torn(data))
                else:
                    added.append((key, data, session.add(key, io.BytesIO(data))))
        return multiple(*[self._put(*item) for item in added])

    @rule(items=st.lists(st.tuples(KEYS, DATA), max_size=4))
    def give_up(self, items):
        session = self.bank.streams().session()
        with contextlib.suppress(ZeroDivisionError), session:
            for key, data in items:
                session.add(key, io.BytesIO(data))
            raise ZeroDivisionError

    def _is_there(self, info):
        return any(found.id == info.id for found in self.bank.streams().list())

    @rule(target=infos, source=infos, key=KEYS)
    def reuse(self, source, key):
        info, data = source
        if not self._is_there(info):
            return multiple()
        with self.bank.streams().session() as session:
            return self._put(key, data, session.reuse(key, info))

    @rule(target=infos, source=infos, key=KEYS, size=st.integers(0, 500), draw=st.data())
    def patch(self, source, key, size, draw):
        info, data = source
        if not self._is_there(info):
            return multiple()
        extents = draw.draw(changes(size))
        expected = bytearray(data[:size].ljust(size, b"\0"))
        for offset, part in extents:
            expected[offset : offset + len(part)] = part
        with self.bank.streams().session() as session:
            patched = session.patch(key, extents, base=info, size=size)
        return self._put(key, bytes(expected), patched)

    @rule(source=consumes(infos))
    def reuse_what_is_gone(self, source):
        info, _ = source
        if info.blocks and not self._is_there(info):
            streams = self.bank.streams()
            with pytest.raises(LookupError), streams.session() as session:
                session.reuse("a", info)

    @rule(key=KEYS)
    def delete(self, key):
        if key in self.model:
            self.bank.streams().delete(key)
            del self.model[key]
        else:
            with pytest.raises(LookupError):
                self.bank.streams().delete(key)

    @rule()
    def delete_all(self):
        delete_streams(self.bank.blocks, b"1234")
        self.model.clear()

    @rule(crashes=st.booleans())
    def reopen(self, crashes):
        if crashes:
            self.bank.crash()
        else:
            self.bank.reopen()

    @rule()
    def repack(self):
        repack(self.bank.blocks)

    @rule()
    def copy_to_another_bank(self):
        with BlockBank() as other:
            write(other.streams(), "there", A + B)
            self.bank.streams().copy_to(other.streams())
            assert contents(other.streams()) == self.model | {"there": A + B}
            assert other.check() == []

    @invariant()
    def contents_are_the_models(self):
        assert contents(self.bank.streams()) == self.model

    @invariant()
    def nothing_is_wrong(self):
        assert self.bank.check() == []

    @invariant()
    def nothing_is_kept_that_is_not_needed(self):
        if not any(data.strip(b"\0") for data in self.model.values()):
            assert self.bank.objects() == []


class _Torn(io.BytesIO):
    def read(self, size=-1):
        data = super().read(size)
        if len(data) < size:
            raise OSError("torn")
        return data


TestStreams = StreamsMachine.TestCase
TestStreams.settings = settings(max_examples=40, stateful_step_count=25)
