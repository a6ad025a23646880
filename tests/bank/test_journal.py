"""Operation records and journals: what goes in comes out, in order, and goes in small pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.journal import journal as journal_module
from karbor_actors.bank.journal.journal import OperationRecord, PackedRecord
from karbor_actors.bank.journal.records import (
    AbortDecision,
    AbortEnded,
    ArtifactEntry,
    JournalRecord,
    JournalState,
    NewResource,
    StateChange,
    replay,
)
from karbor_actors.errors import BankFormatError, BankValueError, OperationNotFoundError
from karbor_actors.model import (
    AbortKind,
    AbortReason,
    HookName,
    OnFailure,
    OperationStatus,
    OperationType,
)

RUNNING, SUCCEEDED = OperationStatus.RUNNING, OperationStatus.SUCCEEDED


def record(operation_id="op-1", status=RUNNING, **fields):
    return OperationRecord(
        id=operation_id, type=OperationType.PROTECT, status=status, provider="local", **fields
    )


def create(bank, *args, **fields):
    made = record(*args, **fields)
    return bank.writer.write(lambda transaction: bank.journal.create(transaction, made))


def append(bank, number, *records):
    def change(transaction):
        for entry in records:
            bank.journal.append(transaction, number, entry)

    bank.writer.write(change)


# Operation records


@pytest.mark.parametrize("is_changed", [False, True])
def test_an_end_that_was_packed_ahead_leaves_what_others_recorded_meanwhile(bank, is_changed):
    new = PackedRecord.of(record(extra={"RAN": 1.0}, plan_name="nightly"))
    number = bank.writer.write(lambda transaction: bank.journal.create(transaction, new))
    end = bank.journal.update_change(number, new, status=SUCCEEDED, ended_at=9.0)
    if is_changed:
        bank.writer.write(lambda t: bank.journal.update(t, number, extra={"RAN": 2.0}))
    bank.writer.write(end)
    found = bank.journal.get("op-1")

    assert (found.status, found.ended_at, found.plan_name) == (SUCCEEDED, 9.0, "nightly")
    assert found.extra == {"RAN": 2.0 if is_changed else 1.0}


def test_an_end_that_is_packed_ahead_is_refused_if_it_is_not_plain(bank):
    new = PackedRecord.of(record())
    number = bank.writer.write(lambda transaction: bank.journal.create(transaction, new))
    with pytest.raises(BankValueError, match="cannot be stored"):
        bank.journal.update_change(number, new, extra={"what": object()})


def test_an_operation_record_comes_back_whole(bank):
    made = record(
        plan_name="nightly",
        checkpoint_id="c-1",
        on_failure=OnFailure.ISOLATE,
        parameters={"T#a": {"x": [1, b"2"]}},
        created_at=12.5,
        started_at=13.0,
        error_info=[{"error": "boom", "traceback": "..."}],
        resources={"available": 3},
        abort_pending=1,
        extra={"deadline": 99.5},
    )
    number = bank.writer.write(lambda transaction: bank.journal.create(transaction, made))
    found = bank.journal.get("op-1")

    assert found.number == number > 0
    assert {**_fields(found), "number": 0} == _fields(made)


def _fields(made):
    return {name: getattr(made, name) for name in OperationRecord.__slots__}


def test_an_update_replaces_only_what_it_names(bank):
    number = create(bank, parameters={"T": {"a": 1}})
    bank.writer.write(lambda t: bank.journal.update(t, number, status=SUCCEEDED, ended_at=5.0))
    found = bank.journal.get("op-1")

    assert (found.status, found.ended_at, found.parameters) == (SUCCEEDED, 5.0, {"T": {"a": 1}})


def test_parameters_that_are_not_plain_are_refused(bank):
    with pytest.raises(BankValueError):
        create(bank, parameters={"T": {"a": object()}})
    assert bank.journal.operations() == []


def test_an_unknown_operation_is_an_error(bank):
    with pytest.raises(OperationNotFoundError):
        bank.journal.get("none")
    with pytest.raises(OperationNotFoundError):
        bank.writer.write(lambda t: bank.journal.update(t, 7, status=SUCCEEDED))


def test_operations_are_listed_newest_first(bank):
    for number in range(5):
        create(bank, f"op-{number}", SUCCEEDED if number % 2 else RUNNING)

    def ids(**wanted):
        return [found.id for found in bank.journal.operations(**wanted)]

    assert ids() == ["op-4", "op-3", "op-2", "op-1", "op-0"]
    assert ids(limit=2) == ["op-4", "op-3"]
    assert ids(is_finished=True) == ["op-3", "op-1"]
    assert ids(is_finished=False, limit=1) == ["op-4"]


def test_history_is_trimmed_by_number_and_by_age_but_never_what_is_unfinished(bank):
    create(bank, "old", SUCCEEDED, ended_at=0.0)
    create(bank, "old but running", RUNNING)
    create(bank, "old but not aborted", SUCCEEDED, ended_at=0.0, abort_pending=1)
    numbers = [create(bank, f"new-{n}", SUCCEEDED, ended_at=1000.0) for n in range(4)]
    append(bank, numbers[0], JournalRecord.of_hooks([1], []))

    gone = bank.journal.trim(kept=3, seconds=500.0, clock=lambda: 1100.0)

    assert gone == 2
    assert [found.id for found in bank.journal.operations()] == [
        "new-3",
        "new-2",
        "new-1",
        "old but not aborted",
        "old but running",
    ]
    assert bank.info()["rows"]["journal"] == 0
    assert bank.check() == []
    assert create(bank, "next") > numbers[-1]


def test_a_thousand_operations_are_kept_by_default(bank):
    def change(transaction):
        for number in range(1005):
            made = record(f"op-{number}", SUCCEEDED, ended_at=10.0)
            bank.journal.create(transaction, made)

    bank.writer.write(change)

    assert bank.journal.trim(clock=lambda: 20.0) == 5
    assert len(bank.journal.operations()) == 1000


def test_a_look_for_what_is_too_old_does_not_read_the_whole_history(bank, monkeypatch):
    for number in range(50):
        create(bank, f"op-{number}", SUCCEEDED, created_at=10.0, ended_at=11.0)
    read = []
    unpack = OperationRecord.unpack
    monkeypatch.setattr(
        OperationRecord,
        "unpack",
        lambda packed, number: (read.append(number), unpack(packed, number))[1],
    )

    assert bank.journal.trim(kept=50, clock=lambda: 20.0) == 0
    assert len(read) == 1
    read.clear()
    assert bank.journal.trim(kept=47, clock=lambda: 20.0) == 3
    assert len(read) == 4


# Journals

PACKED = st.binary(max_size=8)
NUMBERS = st.integers(0, 2**32 - 1)
REASONS = st.builds(
    AbortReason,
    st.sampled_from(AbortKind),
    st.text(max_size=5),
    st.none() | st.tuples(st.text(min_size=1, max_size=3), st.text(min_size=1, max_size=3)),
    st.none() | st.sampled_from(HookName),
)
RECORDS = st.builds(
    JournalRecord,
    intents=st.lists(NUMBERS, max_size=4),
    completions=st.lists(NUMBERS, max_size=4),
    state=st.lists(
        st.builds(StateChange, NUMBERS, st.text(max_size=3), st.none() | PACKED), max_size=3
    ),
    new_resources=st.lists(
        st.builds(NewResource, st.text(max_size=3), st.text(max_size=3), PACKED), max_size=2
    ),
    artifacts=st.lists(
        st.builds(
            ArtifactEntry,
            NUMBERS,
            NUMBERS,
            st.text(max_size=3),
            st.text(max_size=3),
            st.sampled_from(["outstanding", "kept"]),
            PACKED,
        ),
        max_size=2,
    ),
    decisions=st.lists(
        st.builds(AbortDecision, REASONS, st.none() | st.lists(NUMBERS, max_size=3).map(tuple)),
        max_size=2,
    ),
    aborts=st.lists(st.builds(AbortEnded, NUMBERS, st.booleans()), max_size=2),
    withdrawn=st.lists(NUMBERS, max_size=2),
)


def _plain(entry):
    return {name: list(getattr(entry, name)) for name in JournalRecord.__slots__}


@given(RECORDS)
def test_a_journal_record_comes_back_whole(entry):
    assert _plain(JournalRecord.unpack(entry.pack())) == _plain(entry)


@given(st.lists(RECORDS, max_size=5))
def test_joined_records_mean_what_they_mean_one_by_one(entries):
    assert replay([JournalRecord.joined(entries)]) == replay(entries)


@given(st.binary(max_size=60))
def test_rubbish_for_a_journal_record_is_an_error_of_the_bank(packed):
    try:
        replay([JournalRecord.unpack(packed)])
    except BankFormatError:
        return
    assert packed[:1] >= b"\x80"  # a map, if an odd one


@given(RECORDS, st.data())
def test_a_damaged_journal_record_never_raises_anything_else(entry, data):
    packed = bytearray(entry.pack())
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] = data.draw(st.integers(0, 255))
    try:
        read = JournalRecord.unpack(bytes(packed))
        replay([read])
    except BankFormatError:
        return
    assert JournalRecord.unpack(read.pack()) == read


def test_a_journal_is_read_in_the_order_in_which_it_was_written(bank, monkeypatch):
    monkeypatch.setattr(journal_module, "_READ_AT_ONCE", 7)
    first, second = create(bank, "op-1"), create(bank, "op-2")
    for number in range(40):
        append(bank, first, JournalRecord.of_hooks([number], []))
        append(bank, second, JournalRecord.of_hooks([], [number]), JournalRecord.of_hooks([1], []))

    assert [list(entry.intents) for entry in bank.journal.read(first)] == [[n] for n in range(40)]
    assert len(list(bank.journal.read(second))) == 80
    assert list(bank.journal.read(99)) == []


def test_a_journal_is_dropped_in_small_pieces(bank, monkeypatch):
    monkeypatch.setattr(journal_module, "_DROPPED_AT_ONCE", 10)
    first, second = create(bank, "op-1"), create(bank, "op-2")
    append(bank, first, *[JournalRecord.of_hooks([number], []) for number in range(35)])
    append(bank, second, JournalRecord.of_hooks([7], []))
    bank.journal.drop(first)
    bank.journal.drop(first)

    assert list(bank.journal.read(first)) == []
    assert len(list(bank.journal.read(second))) == 1
    assert bank.journal.get("op-1").status == RUNNING


def test_replay_tells_where_an_operation_stands():
    reason = AbortReason(AbortKind.FAILURE, "boom", ("T", "a"), HookName.ON_MAIN)
    state = replay(
        [
            JournalRecord.of_hooks([1, 2], []),
            JournalRecord.of_hooks([2], [1]),
            JournalRecord.of_changes(0, {"snapshot": b"1", "gone": b"2"}, {("T", "a"): b"3"}),
            JournalRecord.of_changes(0, {"gone": None}, {}),
            JournalRecord.of_artifact(0, 1, "snapshot", "s-1", "outstanding", b""),
            JournalRecord.of_artifact(0, 1, "snapshot", "s-1", "released", b"x"),
            JournalRecord.of_abort_decision(reason, [0, 1]),
            JournalRecord.of_abort(0, ok=False),
            JournalRecord.of_abort(0, ok=True),
        ]
    )

    assert state == JournalState(
        attempts={1: 1, 2: 2},
        completed={1},
        state={0: {"snapshot": b"1"}},
        new_resources={("T", "a"): b"3"},
        artifacts={1: ArtifactEntry(1, 0, "snapshot", "s-1", "released", b"x")},
        decisions=[AbortDecision(reason, (0, 1))],
        aborts={0: True},
    )


def test_a_million_hooks_take_a_few_bytes_each():
    entry = JournalRecord.of_hooks(range(100_000), range(100_000))

    assert len(entry.pack()) < 810_000


def test_an_empty_record_takes_one_byte():
    assert JournalRecord().pack() == b"\x80"


def test_a_damaged_operation_record_is_found_by_check(bank):
    number = create(bank)
    key = number.to_bytes(8, "big")
    bank.writer.write(lambda transaction: transaction.put(Table.OPERATIONS, key, b"\x80"))

    with pytest.raises(BankFormatError):
        bank.journal.get("op-1")
    assert bank.check()
