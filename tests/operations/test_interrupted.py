"""Ctrl-C, or any signal whose handler raises, at any moment of a call that the main thread makes."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import Bank, CheckpointStatus, OperationStatus, ProtectionService
from karbor_actors.actors import ThreadDispatcher
from karbor_actors.actors.executor import DaemonExecutor
from karbor_actors.actors.uninterrupted import Errand, done_aside
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.writer import Put
from karbor_actors.errors import BankPathError
from karbor_actors.graph import build_graph
from karbor_actors.operations.handle import EventStream
from karbor_actors.testing import (
    SyntheticProtection,
    Work,
    make_graph,
    synthetic_plan,
    synthetic_provider,
)
from karbor_actors.testing.synthetic import NODE_TYPE

if TYPE_CHECKING:
    from types import FrameType


class Interruptions:
    """Interrupts what is called after a random time; seeded."""

    def __init__(self, longest: float) -> None:
        self._random, self._longest = random.Random(1), longest
        self.count = 0

    def call(self, function) -> None:
        """Call *function*, interrupted or not."""
        unheard, sys.unraisablehook = sys.unraisablehook, lambda _: None  # where an object ends
        try:
            signal.setitimer(signal.ITIMER_REAL, self._random.uniform(1e-6, self._longest))
            function()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            self.count += 1
        surely(lambda: signal.setitimer(signal.ITIMER_REAL, 0))
        sys.unraisablehook = unheard


def interrupted_at(number: int, function, *, others: bool = False) -> bool:
    """Call *function*; return whether it came to a place where a signal is seen so many times.

    That is as a function begins, and after one that is not in Python. There it is interrupted. Places
    in *others'* code are left out: a thread whose start is interrupted stays in `threading`'s books.
    """
    try:
        return raises_at(number, function, others=others)
    except KeyboardInterrupt:
        return True


def raises_at(number: int, function, *, others: bool = False) -> bool:
    """Do what :func:`interrupted_at` does, and raise what interrupts it."""
    seen, places = count(), list[int]()

    def see(frame: FrameType, event: str, _argument: object) -> None:
        is_own = others or "karbor_actors" in frame.f_code.co_filename
        if event not in ("call", "c_return") or not is_own:
            return
        if next(seen) == number:
            sys.setprofile(None)
            places.append(number)
            time.sleep(0.005 * others)  # for whom it has something that they wait for
            raise KeyboardInterrupt

    unheard, sys.unraisablehook = sys.unraisablehook, lambda _: None  # where an object ends
    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(None)
        sys.unraisablehook = unheard
    return bool(places)


def surely(function):
    """Return what *function* does, which the last signal may come late for."""
    while True:
        try:
            return function()
        except KeyboardInterrupt:
            pass


@pytest.fixture(autouse=True)
def _raising():
    def handle(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def service(tmp_path):
    with ProtectionService(workers=2) as made:
        provider = synthetic_provider(make_graph("flat", 1), bank=Bank.open(tmp_path / "bank"))
        made.add_provider(provider)
        yield made


PLAN = synthetic_plan(make_graph("flat", 1))
ENDED = []
"""Handles, of operations most of which have ended."""


@pytest.fixture
def dispatcher():
    made = ThreadDispatcher(name="test")
    yield made
    made.close(timeout=DEADLINE)


def test_a_thread_of_the_dispatchers_does_it_for_the_main_one_and_any_other_itself(dispatcher):
    ask = partial(dispatcher.uninterrupted, threading.current_thread)
    assert ask().name.startswith("test-")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask).result() is pool.submit(threading.current_thread).result()


def test_what_it_raises_is_raised(dispatcher):
    def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        dispatcher.uninterrupted(fail)


def test_a_dispatcher_that_is_closed_leaves_it_to_who_asks():
    dispatcher = ThreadDispatcher(name="test")
    dispatcher.close()
    assert dispatcher.uninterrupted(threading.current_thread) is threading.main_thread()


def test_what_nobody_comes_for_any_more_is_done_by_who_waits():
    done = []
    errand = Errand(lambda: done.append(threading.current_thread()))
    errand.wait(lambda: True)
    errand.run()
    assert done == [threading.main_thread()]


def test_who_interrupts_it_interrupts_the_waiting_only(dispatcher):
    gate, done = Gate(), threading.Event()

    def work() -> None:
        gate.pass_through()
        done.set()

    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(KeyboardInterrupt):
        dispatcher.uninterrupted(work)
    gate.open()
    assert done.wait(DEADLINE)


def test_a_dispatcher_loses_no_thread(dispatcher):
    class Runnable:
        def __init__(self, run) -> None:
            self.run = run

    dispatcher.uninterrupted(lambda: None)  # it has a thread
    interruptions = Interruptions(25e-6)
    for _ in range(1000):
        interruptions.call(lambda: dispatcher.schedule(Runnable(lambda: None)))
        is_run = threading.Event()
        surely(lambda is_run=is_run: dispatcher.schedule(Runnable(is_run.set)))
        assert surely(lambda is_run=is_run: is_run.wait(DEADLINE)), "its thread was lost"
    assert interruptions.count > 100


def test_a_dispatcher_gets_its_first_thread_wherever_the_call_that_starts_it_is_interrupted():
    class Runnable:
        def __init__(self, run) -> None:
            self.run = run

    number, is_interrupted = 0, True
    while is_interrupted:
        dispatcher, is_run = ThreadDispatcher(name="test"), threading.Event()
        schedule = partial(dispatcher.schedule, Runnable(lambda: None))
        is_interrupted = interrupted_at(number, schedule)
        dispatcher.schedule(Runnable(is_run.set))
        assert is_run.wait(DEADLINE), f"it has no thread: interrupted at {number}"
        dispatcher.close(timeout=DEADLINE)
        number += 1
    assert number > 5


def test_each_operation_ends_and_the_service_closes(service):
    interruptions = Interruptions(200e-6)
    for _ in range(400):
        interruptions.call(lambda: service.protect(PLAN))
    handle = surely(lambda: service.protect(PLAN))
    assert surely(lambda: handle.result(DEADLINE)) is not None
    assert service.wait(DEADLINE), "an operation does not end"
    assert interruptions.count > 100
    records = service.operation_history("synthetic")
    assert {record.status for record in records} == {OperationStatus.SUCCEEDED}


def test_an_operation_ends_wherever_the_call_that_begins_it_is_interrupted(service):
    number = 0
    while interrupted_at(number, lambda: service.protect(PLAN)):
        number += 1
        assert service.wait(DEADLINE), f"an operation does not end: interrupted at {number}"
    assert number > 30
    service.protect(PLAN).result(DEADLINE)  # begins after those that nobody has a handle of
    assert service.wait(DEADLINE)
    records = service.operation_history("synthetic")
    assert {record.status for record in records} == {OperationStatus.SUCCEEDED}


@pytest.mark.parametrize("call", ["cancel", "progress", "suspend"])
def test_an_operation_that_is_asked_something_ends(service, call):
    interruptions = Interruptions(200e-6)
    for _ in range(100):
        handle = surely(lambda: service.protect(PLAN))
        for _ in range(3):
            interruptions.call(getattr(handle, call))
        assert surely(lambda handle=handle: handle.wait(DEADLINE)), f"lost at its {call}()"
    assert interruptions.count > 20


@pytest.mark.parametrize(
    "wait",
    [
        lambda handle: handle.wait(0),
        lambda handle: handle.exception(DEADLINE),
        lambda handle: list(handle.events()),
        lambda handle: handle.cancel(),
        lambda handle: handle.progress(),
    ],
    ids=["wait", "exception", "events", "cancel", "progress"],
)
def test_who_waits_for_an_operation_leaves_nothing_locked_wherever_he_is_interrupted(service, wait):
    work = Work(sleep=0.002)  # it goes on when he begins to wait
    service.provider("synthetic").protection_plugins[NODE_TYPE] = SyntheticProtection(work)
    number, is_interrupted = 0, True
    while is_interrupted:
        handle = service.protect(PLAN)
        is_interrupted = interrupted_at(number, partial(wait, handle), others=True)
        assert handle.wait(DEADLINE), f"lost: interrupted at {number}"
        number += 1
    assert number > 3


def test_events_end_for_who_goes_on_after_he_was_interrupted():
    number, is_interrupted = 0, True
    while is_interrupted:
        stream = EventStream()
        stream.close()
        is_interrupted = interrupted_at(number, partial(list, stream))
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, stream)
            try:
                assert rest.result(DEADLINE) == [], f"interrupted at {number}"
            finally:
                stream.close()
        number += 1
    assert number > 1


def test_the_bank_goes_on(service):
    writer = service.provider("synthetic").bank.writer
    interruptions = Interruptions(400e-6)
    for number in range(400):
        interruptions.call(
            lambda number=number: writer.write(Put(Table.META, b"key", b"%d" % number))
        )
    written = threading.Event()
    writer.submit(Put(Table.META, b"key", b"last"), lambda *_: written.set())
    assert written.wait(DEADLINE), "the writer was lost"
    assert interruptions.count > 100


def test_a_handler_may_cancel_what_its_thread_waits_for(service):
    """It runs between two steps of whatever the main thread does, which may hold a lock."""
    began, cancelled = time.monotonic(), []

    def cancel(*_: object) -> None:
        cancelled.append(handle.cancel())

    signal.signal(signal.SIGALRM, cancel)
    rng = random.Random(1)
    for _ in range(200):
        handle = service.protect(PLAN)
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 1e-3))
        assert handle.wait(DEADLINE)
    assert time.monotonic() - began < DEADLINE
    assert True in cancelled


def test_what_is_done_aside_is_done_or_not_wherever_the_call_is_interrupted():
    """Also where a thread is started: it would wait for ever, and the interpreter for it."""
    number, is_interrupted = 0, True
    while is_interrupted:
        begun, done = [], []

        def work(begun=begun, done=done) -> None:
            begun.append(1)
            time.sleep(0.001)
            done.append(1)

        is_interrupted = interrupted_at(number, partial(done_aside, work), others=True)
        assert begun == done, f"interrupted at {number}"
        number += 1
    assert done == [1]
    assert number > 10
    for thread in threading.enumerate():
        if thread.name == "karbor-aside":
            thread.join(DEADLINE)
            assert not thread.is_alive(), "it was never begun"


def test_a_dispatcher_runs_what_comes_wherever_it_was_interrupted_as_it_began():
    number, is_interrupted = 0, True
    while is_interrupted:
        dispatcher = ThreadDispatcher(name="test")
        begin = partial(dispatcher.uninterrupted, lambda: None)
        is_interrupted = interrupted_at(number, begin, others=True)
        errand = Errand(lambda: None)
        dispatcher.schedule(errand)
        assert errand.wait_ended(DEADLINE), f"its thread is lost: interrupted at {number}"
        dispatcher.close()
        number += 1
    assert number > 10


@pytest.mark.parametrize("call", ["result", "exception", "done", "cancel"])
def test_an_executor_goes_on_wherever_who_asks_for_a_result_is_interrupted(call):
    number, is_interrupted = 0, True
    executor = DaemonExecutor(1, "test")
    while is_interrupted:
        gate = Gate()
        future = executor.submit(gate.pass_through)
        gate.wait_entered()
        threading.Timer(0.002, gate.open).start()
        is_interrupted = interrupted_at(number, getattr(future, call), others=True)
        following = executor.submit(str, number)
        assert following.result(DEADLINE), f"its thread is lost: interrupted at {number}"
        number += 1
    executor.shutdown()
    assert number > 0


def test_a_bank_is_closed_although_the_system_gives_no_more_threads(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    bank = Bank.open(tmp_path / "bank")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        bank.close()
    assert not bank.is_open
    bank = Bank.open(tmp_path / "bank")
    with monkeypatch.context() as patched:
        patched.setattr("karbor_actors.actors.uninterrupted.start_new_thread", refuse)
        bank.close()
    assert not bank.is_open
    Bank.open(tmp_path / "bank").close()  # its lease was given up, too


@pytest.mark.parametrize(
    "call",
    [
        lambda service: service.wait(DEADLINE),
        lambda service: service.protect(PLAN),
        lambda service: service.operation_history("synthetic", 1),
        lambda service: service.operations(),
        lambda service: service.protect(PLAN).add_done_callback(str),
        lambda service: ENDED[-1].add_done_callback(str),
        lambda service: service.protect(PLAN).events(),
        lambda service: service.protect(PLAN).cancel(),
    ],
    ids=["wait", "protect", "history", "operations", "callback", "late", "events", "cancel"],
)
def test_a_handler_may_begin_an_operation_wherever_its_thread_is(service, call):
    number, places = 0, [0]

    def see(frame: FrameType, event: str, _argument: object) -> None:
        if event not in ("call", "c_return") or "karbor_actors" not in frame.f_code.co_filename:
            return
        if next(seen) == number:
            sys.setprofile(None)
            places.append(number)
            assert service.protect(PLAN).wait(DEADLINE), f"it waits for its thread at {number}"

    while places:
        places, seen = [], count()
        ENDED.append(service.protect(PLAN))
        if number % 2:
            ENDED[-1].wait(DEADLINE)
        sys.setprofile(see)
        try:
            call(service)
        finally:
            sys.setprofile(None)
        number += 1
    assert number > 1


def grow(environment: Environment) -> None:
    """Have the map of *environment* grow, which waits for all who read."""
    thread = threading.Thread(target=environment._opened().grow, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "somebody is still counted as reading"


def test_who_was_interrupted_while_it_read_reads_no_more(tmp_path):
    def read() -> None:
        with environment.snapshot() as snapshot:
            snapshot.get(Table.META, b"key")

    with Environment(str(tmp_path / "bank"), map_size=1 << 16) as environment:
        number = 0
        while interrupted_at(number, read):
            assert not environment.is_reading, f"interrupted at {number}"
            environment.check_may_wait()
            if number % 5 == 0:
                grow(environment)
            number += 1
        assert number > 10


def test_a_bank_is_closed_by_who_handles_that_he_was_interrupted_as_he_read(tmp_path):
    number, is_interrupted = 0, True
    while is_interrupted:
        is_interrupted = False
        with contextlib.suppress(KeyboardInterrupt), Bank.open(tmp_path / "bank") as bank:
            is_interrupted = True
            is_interrupted = raises_at(number, bank.checkpoints)
        assert not bank.is_open, f"interrupted at {number}"
        number += 1
    assert number > 20


def test_who_handles_that_he_was_interrupted_in_his_turn_does_not_wait_for_himself(service):
    manifests = service.provider("synthetic").bank._parts.manifests

    def take_turn() -> None:
        with manifests._alone(1):
            pass

    number, is_interrupted = 0, True
    while is_interrupted:
        try:
            is_interrupted = raises_at(number, take_turn, others=True)
        except (KeyboardInterrupt, RuntimeError):  # the latter is of contextlib
            take_turn()
        number += 1
    assert number > 10


@pytest.mark.parametrize("call", ["compact", "close"])
def test_a_bank_is_of_use_wherever_a_call_is_interrupted(tmp_path, call):
    number, is_interrupted = 0, True
    while is_interrupted:
        bank = Bank.open(tmp_path / "bank")
        is_interrupted = interrupted_at(number, getattr(bank, call))
        bank.close()
        with Bank.open(tmp_path / "bank") as again:
            again.writer.write(Put(Table.META, b"key", b"%d" % number))
        number += 1
    assert number > 10


def test_a_bank_may_be_opened_wherever_opening_it_was_interrupted(tmp_path):
    number, opened = 0, []
    while interrupted_at(number, lambda: opened.append(Bank.open(tmp_path / "bank"))):
        while opened:  # nobody heard of it
            opened.pop().close()
        with Bank.open(tmp_path / "bank") as bank:
            bank.writer.write(Put(Table.META, b"key", b"%d" % number))
        number += 1
    opened.pop().close()
    assert number > 20


def test_a_rebuild_leaves_no_lease_wherever_it_is_interrupted(tmp_path):
    with Bank.open(tmp_path / "bank") as bank:
        graph = build_graph(PLAN.resources, lambda _: [])
        bank.create_checkpoint(PLAN, "p", graph).finish(CheckpointStatus.AVAILABLE)
    number, is_interrupted = 0, True
    while is_interrupted:
        shutil.rmtree(tmp_path / "bank" / "bank.lmdb", ignore_errors=True)
        is_interrupted = interrupted_at(number, partial(Bank.rebuild, tmp_path / "bank"))
        with contextlib.suppress(BankPathError):  # it was done all the same
            Bank.rebuild(tmp_path / "bank")
        with Bank.open(tmp_path / "bank") as bank:
            assert len(bank.checkpoints(status="available")) == 1
        number += 1
    assert number > 5


def test_a_provider_is_added_or_not_wherever_that_is_interrupted(tmp_path):
    graph, number, is_interrupted = make_graph("flat", 1), 0, True
    added = set()
    while is_interrupted:
        with ProtectionService(workers=2) as service:
            provider = synthetic_provider(graph, bank=Bank.open(tmp_path / "bank"))
            is_interrupted = interrupted_at(number, partial(service.add_provider, provider))
            if "synthetic" in service.providers:
                added.add(is_interrupted)
                service.protect(PLAN).result(DEADLINE)
            else:  # it had not begun
                provider.bank.close()
        number += 1
    assert added == {True, False}


@pytest.mark.parametrize("call", ["write", "read"])
def test_a_bank_closes_wherever_the_main_thread_was_interrupted_with_a_stream(tmp_path, call):
    graph = build_graph(PLAN.resources, lambda _: [])
    data = random.Random(1).randbytes(200_000)

    def write(name: str) -> None:
        section.write_stream(name, io.BytesIO(data))

    def read(name: str) -> None:
        with section.open_stream("first") as stream:
            assert stream.read() == data

    with Bank.open(tmp_path / "bank") as bank:
        section = bank.create_checkpoint(PLAN, "p", graph).get_resource_bank_section(
            PLAN.resources[0]
        )
        write("first")
        use, number = {"write": write, "read": read}[call], 0
        while interrupted_at(number, partial(use, str(number)), others=True):
            number += 7  # there are many
        use("last")
    assert number > 30
