"""The bank actor and its writer: groups, acknowledgement, death and closing."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import pykka
import pytest

from helpers import DEADLINE, Gate
from karbor_actors import faultpoints
from karbor_actors.actors import SimulatedDispatcher
from karbor_actors.bank import actor
from karbor_actors.bank.actor import BankWriter
from karbor_actors.bank.database.environment import Environment, Table
from karbor_actors.bank.database.transactions import MAX_KEY_SIZE
from karbor_actors.bank.writer import Put
from karbor_actors.errors import (
    BankBrokenError,
    BankClosedError,
    BankError,
    BankFormatError,
    BankFullError,
)

OBJECTS = Table.OBJECTS


@pytest.fixture
def environment(tmp_path):
    with Environment(str(tmp_path / "bank.lmdb")) as environment:
        yield environment


@pytest.fixture
def writer(environment):
    writer = BankWriter(environment)
    yield writer
    writer.close()


def put(key, value=b"v"):
    return lambda transaction: transaction.put(OBJECTS, key, value)


def keys(environment):
    with environment.snapshot() as snapshot:
        return {key for key, _ in snapshot.scan(OBJECTS)}


class Done:
    """Hears how a submitted change ended."""

    def __init__(self):
        self.calls = []
        self._event = threading.Event()

    def __call__(self, value, error):
        self.calls.append((value, error))
        self._event.set()

    def wait(self):
        assert self._event.wait(DEADLINE), "nobody was told"
        return self.calls[0]


def hold_up(writer, gate):
    """Make the bank's thread stand at *gate* within a change."""
    done = Done()
    writer.submit(lambda _: gate.pass_through(), done)
    gate.wait_entered()
    return done


def begin(writer):
    """Have the bank's thread begin, and become idle again."""
    writer.write(put(b"begun"))
    while writer._ref.claim.locked():
        pass


def test_a_write_is_there_when_it_returns(writer, environment):
    def change(transaction):
        transaction.put(OBJECTS, b"a", b"1")
        return "made"

    assert writer.write(change) == "made"
    assert keys(environment) == {b"a"}


def test_what_a_change_raises_reaches_its_writer_alone(writer, environment):
    def bad(transaction):
        transaction.put(OBJECTS, b"bad", b"")
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        writer.write(bad)
    writer.write(put(b"a"))

    assert keys(environment) == {b"a"}


def test_changes_that_wait_are_committed_as_one_group(writer, environment, monkeypatch):
    groups = []
    commit_group = environment.commit_group

    def counting(changes):
        groups.append(len(changes))
        return commit_group(changes)

    monkeypatch.setattr(environment, "commit_group", counting)
    gate = Gate()
    hold_up(writer, gate)
    waiting = [Done() for _ in range(2500)]
    for number, done in enumerate(waiting):
        writer.submit(put(b"%d" % number), done)
    gate.open()

    assert all(done.wait() == (None, None) for done in waiting)
    assert groups == [1, 1024, 1024, 452]
    assert len(keys(environment)) == 2500


def test_rows_that_are_only_put_are_set_in_the_order_of_their_changes(writer, environment):
    gate, seen = Gate(), []
    hold_up(writer, gate)
    waiting = [Done() for _ in range(6)]

    def look(transaction):
        seen[:] = [transaction.get(OBJECTS, key) for key in (b"a", b"b", b"c")]
        transaction.put(OBJECTS, b"c", b"changed")

    for change, done in zip(
        (
            Put(OBJECTS, b"b", b"1"),
            Put(OBJECTS, b"a", b"2"),
            Put(OBJECTS, b"b", b"0"),
            look,
            Put(OBJECTS, b"a", b"3"),
            Put(Table.META, b"other", b"4"),
        ),
        waiting,
        strict=True,
    ):
        writer.submit(change, done)
    gate.open()

    assert all(done.wait() == (None, None) for done in waiting)
    assert seen == [b"2", b"0", None]
    with environment.snapshot() as snapshot:
        assert dict(snapshot.scan(OBJECTS)) == {b"a": b"3", b"b": b"0", b"c": b"changed"}
        assert snapshot.get(Table.META, b"other") == b"4"


def test_a_row_that_cannot_be_put_fails_alone(writer, environment):
    gate = Gate()
    hold_up(writer, gate)
    waiting = [Done() for _ in range(3)]
    for key, done in zip((b"a", b"k" * (MAX_KEY_SIZE + 1), b"b"), waiting, strict=True):
        writer.submit(Put(OBJECTS, key, b""), done)
    gate.open()
    errors = [done.wait()[1] for done in waiting]

    assert errors[0] is errors[2] is None
    assert isinstance(errors[1], BankFormatError)
    assert keys(environment) == {b"a", b"b"}


def test_nobody_is_told_before_the_commit(writer, environment, monkeypatch):
    gate, done = Gate(), Done()
    commit_group = environment.commit_group

    def slow(changes):
        outcomes = commit_group(changes)
        gate.pass_through()
        return outcomes

    monkeypatch.setattr(environment, "commit_group", slow)
    writer.submit(put(b"a"), done)
    gate.wait_entered()
    assert done.calls == []

    gate.open()
    assert done.wait() == (None, None)


def test_many_threads_share_commits(writer, environment):
    with ThreadPoolExecutor(16) as pool:
        writes = [pool.submit(writer.write, put(b"%d" % number)) for number in range(300)]
        for write in writes:
            write.result(DEADLINE)

    assert len(keys(environment)) == 300


def test_a_thread_that_waits_commits_itself_when_the_bank_is_idle(writer):
    begin(writer)

    def where(_):
        return threading.get_ident()

    def on_another_thread():
        return writer.write(where), threading.get_ident()

    with ThreadPoolExecutor(1) as pool:
        committed, asked = pool.submit(on_another_thread).result(DEADLINE)

    assert committed == asked
    assert writer.write(where) != threading.get_ident()  # an interrupt would end the bank


def test_what_waits_is_committed_with_a_change_of_a_lent_thread(writer, environment, monkeypatch):
    begin(writer)
    groups, first = [], Done()
    commit_group, take = environment.commit_group, writer.take

    def counting(changes):
        groups.append(len(changes))
        return commit_group(changes)

    def take_one_more(limit):
        writer._queue.append((put(b"first"), first))  # as if another thread were about to tell
        return take(limit)

    monkeypatch.setattr(environment, "commit_group", counting)
    monkeypatch.setattr(writer, "take", take_one_more)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(writer.write, put(b"second")).result(DEADLINE)
    monkeypatch.undo()

    assert first.wait() == (None, None)
    assert groups == [2]
    assert keys(environment) == {b"begun", b"first", b"second"}


@pytest.mark.crash_expected
@pytest.mark.parametrize("is_lost", [True, False])
def test_a_lent_threads_change_is_not_lost_with_the_message(environment, is_lost):
    class Injector:
        left = 1

        def on_message(self, _, message):
            if not self.left:
                return message
            self.left -= 1
            if is_lost:
                return faultpoints.NOTHING
            raise RuntimeError("no more")

        def on_commit(self, path, when):
            pass

    writer, injector = BankWriter(environment), Injector()
    begin(writer)
    faultpoints.install(injector)
    try:
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(writer.write, put(b"a")).exception(DEADLINE)
    finally:
        faultpoints.remove(injector)
        writer.close()

    assert (error is None) == is_lost
    assert is_lost or isinstance(error, BankBrokenError)
    assert keys(environment) == ({b"begun", b"a"} if is_lost else {b"begun"})


def test_a_thread_that_waits_does_not_commit_before_what_came_first(writer, environment):
    gate, order = Gate(), []
    hold_up(writer, gate)
    first = Done()
    writer.submit(lambda _: order.append("first"), first)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(writer.write, lambda _: order.append("second"))
        gate.open()
        second.result(DEADLINE)

    assert first.calls == [(None, None)]
    assert order == ["first", "second"]


@pytest.mark.parametrize("waiting", [1, 1000])
def test_who_does_not_wait_is_told_before_anything_else_is_done(writer, waiting):
    gate, seen = Gate(), []
    first = hold_up(writer, gate)
    last = Done()
    writer.submit(lambda _: seen.append(list(first.calls)), Done())
    for _ in range(waiting - 1):
        writer.submit(lambda _: None, Done())
    writer.submit(lambda _: None, last)
    gate.open()
    last.wait()

    assert seen == [[(None, None)]]


def test_a_thread_that_waits_is_woken_just_before_the_next_sync(writer):
    """Earlier, what it does next would keep the interpreter from the next commit."""
    gate, seen, last = Gate(), [], Done()
    hold_up(writer, gate)
    with ThreadPoolExecutor(1) as pool:

        def write_and_have_more(_):
            writer.submit(lambda _: seen.append(waits.done()), last)

        waits = pool.submit(writer.write, write_and_have_more)
        while not writer.waiting:
            pass
        gate.open()
        waits.result(DEADLINE)
        last.wait()

    assert seen == [False]


def test_who_waits_is_woken_although_another_who_waits_was_interrupted(writer, monkeypatch):
    monkeypatch.setattr(actor, "_LOOK", 0.05)
    gate, interrupted = Gate(), []
    hold_up(writer, gate)

    def write_first():
        try:
            writer.write(put(b"first"))
        except InterruptedError as error:
            interrupted.append(error)

    first = threading.Thread(target=write_first)
    first.start()
    while not writer.waiting:
        pass
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(writer.write, put(b"%d" % number)) for number in range(3)]
        raised = ctypes.c_long(first.ident), ctypes.py_object(InterruptedError)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(*raised) == 1
        gate.open()
        for other in others:
            other.result(DEADLINE)
    first.join(DEADLINE)

    assert len(interrupted) == 1


def test_closing_commits_what_was_submitted(environment):
    writer = BankWriter(environment)
    gate = Gate()
    hold_up(writer, gate)
    done = Done()
    writer.submit(put(b"late"), done)
    gate.open()
    writer.close()
    writer.close()

    assert done.calls == [(None, None)]
    assert keys(environment) == {b"late"}


def test_what_can_wait_is_committed_with_what_comes_next(writer, environment, monkeypatch):
    groups, commit_group = [], environment.commit_group

    def counting(changes):
        groups.append(len(changes))
        return commit_group(changes)

    monkeypatch.setattr(environment, "commit_group", counting)
    told = []
    for _ in range(2):
        writer.submit(put(b"1"), lambda *outcome: told.append(outcome), can_wait=True)
    assert (writer.waiting, writer.is_told, groups) == (2, False, [])
    writer.write(put(b"2"))
    assert groups == [3]
    assert told == [(None, None)] * 2


def test_what_can_wait_is_committed_when_the_bank_is_closed(environment):
    writer, told = BankWriter(environment), []
    writer.submit(put(b"1"), lambda *outcome: told.append(outcome), can_wait=True)
    writer.close()
    assert told == [(None, None)]
    assert keys(environment) == {b"1"}


def test_a_closed_writer_says_so(environment):
    writer = BankWriter(environment)
    writer.close()
    done = Done()
    writer.submit(put(b"a"), done)

    with pytest.raises(BankClosedError):
        writer.write(put(b"a"))
    assert isinstance(done.wait()[1], BankClosedError)


@pytest.mark.crash_expected
def test_when_the_actor_dies_all_who_wait_are_told(environment, monkeypatch):
    writer = BankWriter(environment)
    gate = Gate()
    before = hold_up(writer, gate)
    monkeypatch.setattr(environment, "commit_group", _die)
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(writer.write, put(b"%d" % number)) for number in range(4)]
        queued = Done()
        writer.submit(put(b"queued"), queued)
        gate.open()
        errors = [write.exception(DEADLINE) for write in writes]
    error = queued.wait()[1]
    with pytest.raises(BankBrokenError):
        writer.write(put(b"later"))
    writer.close()

    assert before.wait() == (None, None)
    assert all(isinstance(error, BankBrokenError) for error in [*errors, error])
    assert "no more" in str(error.__cause__)
    assert keys(environment) == set()


def _die(changes):
    raise RuntimeError("no more")


def test_a_full_disk_is_told_and_the_writer_goes_on(writer, environment, monkeypatch):
    def full():
        raise BankFullError("no space is left")

    monkeypatch.setattr(environment._file, "begin", full)
    with pytest.raises(BankFullError):
        writer.write(put(b"a"))
    monkeypatch.undo()
    writer.write(put(b"b"))

    assert keys(environment) == {b"b"}


@pytest.mark.crash_expected
def test_a_listener_that_fails_harms_nobody_else(writer, environment):
    def failing(value, error):
        raise SystemExit(1)

    gate, done = Gate(), Done()
    hold_up(writer, gate)
    writer.submit(put(b"a"), failing)
    writer.submit(put(b"b"), done)
    gate.open()

    assert done.wait() == (None, None)
    assert keys(environment) == {b"a", b"b"}


def test_waiting_on_the_banks_own_thread_is_refused(writer):
    outcomes = []

    def on_done(value, error):
        for action in (lambda: writer.write(put(b"a")), writer.close):
            try:
                action()
            except BankError as refusal:
                outcomes.append(str(refusal))

    done = Done()
    writer.submit(put(b"first"), on_done)
    writer.submit(put(b"second"), done)
    done.wait()

    assert len(outcomes) == 2
    assert "submit()" in outcomes[0]


def test_writing_while_holding_a_snapshot_is_refused(writer, environment):
    with environment.snapshot(), pytest.raises(BankError, match="snapshot"):
        writer.write(put(b"a"))
    writer.write(put(b"a"))


def test_stopping_all_of_pykkas_actors_leaves_the_bank_alone(writer, environment):
    pykka.ActorRegistry.stop_all()
    writer.write(put(b"a"))

    assert keys(environment) == {b"a"}


def test_the_actor_runs_in_a_simulation_too(environment):
    dispatcher = SimulatedDispatcher(seed=1)
    writer = BankWriter(environment, dispatcher)
    done = Done()
    writer.submit(put(b"a"), done)
    assert done.calls == []
    dispatcher.run_until_idle()
    writer.write(put(b"b"))
    writer.close()
    dispatcher.close()

    assert done.calls == [(None, None)]
    assert keys(environment) == {b"a", b"b"}
