"""Workers: they come when there is work, go when there is none, and are never lost."""

from __future__ import annotations

import threading
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import Lender, LightActor, ThreadDispatcher
from karbor_actors.operations.hooks import pool as pool_module
from karbor_actors.operations.hooks import worker as worker_module
from karbor_actors.operations.hooks import workers as module
from karbor_actors.operations.hooks.lookout import Lookout
from karbor_actors.operations.hooks.workers import ThreadRunner


class Call:
    """Does what it is told; says when it ran, or why not."""

    has_ended = False

    def __init__(self, work=lambda: None) -> None:
        self.work = work
        self.done = threading.Event()
        self.refused = ""

    def execute(self) -> None:
        self.work()
        self.done.set()

    def refuse(self, why: str) -> None:
        self.refused = why
        self.done.set()


@pytest.fixture
def runner():
    made = ThreadRunner(2, "test-workers", max_abandoned=2)
    yield made
    made.close()


def wait_until(is_so) -> None:
    poll = threading.Event()
    for _ in range(int(DEADLINE * 100)):
        if is_so():
            return
        poll.wait(0.01)
    raise AssertionError("it never came to that")


def named() -> int:
    return sum(thread.name.startswith("test-workers") for thread in threading.enumerate())


def test_workers_end_when_there_is_nothing_to_do_and_come_back(runner, monkeypatch):
    monkeypatch.setattr(pool_module, "_LINGER", 0.02)
    for _ in range(3):
        calls = [Call() for _ in range(50)]
        runner.submit(calls)
        assert all(call.done.wait(DEADLINE) for call in calls)
        wait_until(lambda: named() == 0)
        assert not runner.pool._threads


def test_many_workers_lose_no_call(runner, monkeypatch):
    monkeypatch.setattr(pool_module, "_LINGER", 0.0005)
    pause = threading.Event()
    calls = []
    for _ in range(300):
        calls.append(Call())
        runner.submit([calls[-1]])
        pause.wait(0.0005)
    assert all(call.done.wait(DEADLINE) for call in calls)


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_calls_that_need_each_other_all_get_a_worker(monkeypatch, at_once):
    monkeypatch.setattr(pool_module, "_LINGER", 0.001)
    runner = ThreadRunner(8, "test-workers")
    for _ in range(100):
        together = threading.Barrier(8)
        calls = [Call(lambda together=together: together.wait(DEADLINE)) for _ in range(8)]
        for first in range(0, 8, at_once):
            runner.submit(calls[first : first + at_once])
        assert all(call.done.wait(DEADLINE) for call in calls)
    runner.close()


def test_a_lane_whose_workers_all_hang_gets_more_of_them_up_to_a_bound(runner):
    """Thaws are queued there: they would wait for as long as the hooks may hang."""
    gate = Gate()
    hung = [Call(gate.pass_through) for _ in range(5)]
    runner.submit(hung[:2])
    thaw = Call()
    runner.submit([*hung[2:4], thaw, hung[4]])
    wait_until(lambda: runner.running == 2 and not runner.expected)
    now, poll = 0.0, threading.Event()
    for workers in (3, 4):
        runner.look_around(now)
        assert named() == workers - 1, "the queue has only just been seen to stand still"
        now += module._STUCK
        runner.look_around(now)
        wait_until(lambda wanted=workers: runner.running == wanted and not runner.expected)
    for _ in range(3):
        now += module._STUCK
        runner.look_around(now)
        poll.wait(0.01)
    assert named() == 4
    gate.open()
    assert all(call.done.wait(DEADLINE) for call in (*hung, thaw))


def test_a_lane_that_stands_still_with_nothing_queued_gets_no_worker(runner):
    for now in (0.0, 10 * module._STUCK):
        runner.look_around(now)
    assert not runner.threads


def test_a_call_that_is_given_up_while_it_waits_does_not_run():
    runner, gate = ThreadRunner(1, "test-workers"), Gate()
    given_up, after = Call(), Call()
    runner.submit([Call(gate.pass_through), given_up, after])
    gate.wait_entered()
    runner.abandon(given_up)
    gate.open()
    assert after.done.wait(DEADLINE)
    assert not given_up.done.is_set()
    runner.close()


@pytest.mark.parametrize("max_abandoned", [1, 2])
def test_what_waits_for_the_place_of_a_given_up_call_in_vain_is_refused(monkeypatch, max_abandoned):
    runner = ThreadRunner(1, "test-workers", max_abandoned)
    gate, waiting = Gate(), Call()
    hung = Call(gate.pass_through)
    runner.submit([hung, waiting])
    gate.wait_entered()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        runner.abandon(hung)
    assert ("1 hooks" if max_abandoned == 1 else "no more threads") in waiting.refused
    gate.open()
    runner.close()


def test_close_waits_for_what_runs_but_not_for_what_was_given_up():
    runner = ThreadRunner(2, "test-workers")
    gates = Gate(), Gate()
    hung, slow = (Call(gate.pass_through) for gate in gates)
    runner.submit([hung, slow])
    for gate in gates:
        gate.wait_entered()
    runner.abandon(hung)
    closing = threading.Thread(target=runner.close)
    closing.start()
    wait_until(lambda: runner.is_closed)
    gates[1].open()
    closing.join(DEADLINE)
    assert not closing.is_alive()
    assert (slow.done.is_set(), hung.done.is_set()) == (True, False)
    gates[0].open()
    assert hung.done.wait(DEADLINE)


def test_what_is_queued_at_a_closed_lane_does_not_wait_for_the_call_before_it():
    runner = ThreadRunner(3, "test-workers")
    gate, together, first = Gate(), threading.Barrier(2), Call()
    runner.submit([first])
    assert first.done.wait(DEADLINE)
    wait_until(lambda: len(runner.pool.sleepers) == 2)
    late = runner.pool.sleepers[0]
    alarm, late.alarm = late.alarm, SimpleNamespace(release=lambda: None)  # it sleeps on
    runner.submit([Call(gate.pass_through)])
    gate.wait_entered()
    calls = [Call(lambda: together.wait(DEADLINE)) for _ in range(2)]
    runner.submit(calls)
    closing = threading.Thread(target=runner.close)
    closing.start()
    wait_until(lambda: runner.is_closed)
    late.alarm = alarm
    alarm.release()
    assert all(call.done.wait(DEADLINE) and not call.refused for call in calls)
    gate.open()
    closing.join(DEADLINE)
    assert not closing.is_alive()


def test_a_call_that_closes_its_own_lane_is_not_waited_for_and_its_thread_ends():
    runner, threads = ThreadRunner(2, "test-workers"), []

    def close() -> None:
        threads.append(threading.current_thread())
        runner.close()

    together = threading.Barrier(2)
    both = [Call(lambda: together.wait(DEADLINE)) for _ in range(2)]
    runner.submit(both)
    assert all(call.done.wait(DEADLINE) for call in both)
    closing = Call(close)
    runner.submit([closing])
    assert closing.done.wait(DEADLINE)
    threads[0].join(DEADLINE)
    assert not threads[0].is_alive()
    assert named() == 0


def test_a_worker_that_sleeps_keeps_no_call(runner):
    call = Call()
    done, seen = call.done, weakref.ref(call)
    runner.submit([call])
    del call
    assert done.wait(DEADLINE)
    wait_until(lambda: not runner.threads)
    assert seen() is None


def test_the_worker_that_a_lane_got_more_stays_as_long_as_the_others_hang(runner):
    """Each thaw after the first would wait for as long again until another one is called."""
    gate = Gate()
    hung = [Call(gate.pass_through) for _ in range(2)]
    runner.submit(hung)
    wait_until(lambda: runner.running == 2 and not runner.expected)
    thaws = [Call() for _ in range(4)]
    runner.submit(thaws[:1])
    for now in (0.0, module._STUCK):
        runner.look_around(now)
    for before, thaw in pairwise(thaws):
        assert before.done.wait(DEADLINE)
        wait_until(lambda: runner.running == 2 and len(runner.threads) == 2)
        runner.submit([thaw])
    assert thaws[-1].done.wait(DEADLINE)
    gate.open()
    assert all(call.done.wait(DEADLINE) for call in hung)
    wait_until(lambda: not runner.threads)
    assert runner.places == 2


def test_what_is_first_goes_before_what_waits(runner):
    gate, order = threading.Event(), []
    blockers = [Call(lambda: gate.wait(DEADLINE)) for _ in range(2)]
    runner.submit(blockers)
    wait_until(lambda: runner.running == 2)
    late = [Call(lambda n=n: order.append(n)) for n in range(3)]
    early = [Call(lambda n=n: order.append(n)) for n in (10, 11)]
    runner.submit(late)
    runner.submit(early, first=True)
    gate.set()
    assert all(call.done.wait(DEADLINE) for call in (*late, *early))
    assert order.index(10) < order.index(0)
    assert order.index(11) < order.index(1)


def test_given_up_calls_have_their_threads_replaced_up_to_a_bound(runner):
    gate = threading.Event()
    hung = [Call(lambda: gate.wait(DEADLINE)) for _ in range(2)]
    runner.submit(hung)
    wait_until(lambda: runner.running == 2)
    waiting = Call()
    runner.submit([waiting])
    runner.abandon(hung[0])
    assert waiting.done.wait(DEADLINE), "nobody took the place of a worker that was given up"
    assert (runner.abandoned, waiting.refused) == (1, "")

    runner.abandon(hung[1])
    refused = Call()
    runner.submit([refused])
    assert "2 hooks that were given up" in refused.refused
    gate.set()
    wait_until(lambda: runner.abandoned == 0)
    again = Call()
    runner.submit([again])
    assert again.done.wait(DEADLINE)
    assert not again.refused


def test_without_threads_to_be_had_calls_are_refused_or_done_by_those_that_are_there(
    runner, monkeypatch
):
    lone = Call()

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        runner.submit([lone])
        assert "no more threads" in lone.refused

    first = Call()
    runner.submit([first])
    assert first.done.wait(DEADLINE)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        others = [Call(), Call(), Call()]
        runner.submit(others)
        assert all(call.done.wait(DEADLINE) and not call.refused for call in others)


def raising(error: BaseException) -> Call:
    def work() -> None:
        raise error

    return Call(work)


@pytest.mark.crash_expected
@pytest.mark.parametrize("error", [SystemExit("gone"), KeyboardInterrupt(), ValueError("a bug")])
def test_a_call_whose_worker_dies_of_it_is_refused_and_the_others_run(runner, error):
    calls = [Call(), *(raising(error) for _ in range(5)), Call()]
    runner.submit(calls)

    assert all(call.done.wait(DEADLINE) for call in calls)
    assert [bool(call.refused) for call in calls] == [False, *[True] * 5, False]
    assert type(error).__name__ in calls[1].refused


@pytest.mark.crash_expected
def test_a_worker_that_dies_of_a_call_that_cannot_even_be_refused_is_replaced():
    class Mute(Call):
        def refuse(self, why: str) -> None:
            self.done.set()
            raise SystemExit

    runner = ThreadRunner(1, "test-workers")
    calls = [Mute(raising(ValueError()).work), Call()]
    runner.submit(calls)

    assert all(call.done.wait(DEADLINE) for call in calls)
    runner.close()


class Telling(Call):
    """Tells an actor something once it has ended."""

    def __init__(self, ref, work=lambda: None) -> None:
        super().__init__(work)
        self.ref = ref
        self.has_ended = False
        self.heard = threading.Event()

    def execute(self) -> None:
        self.work()
        self.has_ended = True
        self.ref.tell(self)
        self.done.set()


class Heard(LightActor):
    """Notes who told it something, and on which thread it heard of that."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Call, str]] = []

    def on_receive(self, message):
        if message is None:
            return list(self.calls)
        self.calls.append((message, threading.current_thread().name))
        message.heard.set()
        return None


@pytest.fixture
def heard():
    dispatcher = ThreadDispatcher(name="test-control")
    ref = Heard.start_on(dispatcher)
    ref.ask(None, timeout=DEADLINE)
    wait_until(lambda: dispatcher._waiters)  # its own thread sleeps
    yield ref
    dispatcher.close(timeout=DEADLINE)


def test_a_worker_that_has_nothing_to_do_runs_the_actor_that_it_told(runner, heard):
    call = Telling(heard)
    runner.submit([call])
    assert call.heard.wait(DEADLINE)
    assert heard.ask(None, timeout=DEADLINE)[0][1].startswith("test-workers")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_told_does_not_wait_for_the_next_call(heard, workers):
    runner = ThreadRunner(workers, "test-workers")
    gate = Gate()
    short, long = Telling(heard), Call(gate.pass_through)
    runner.submit([short, long])
    assert short.heard.wait(DEADLINE)
    gate.open()
    assert long.done.wait(DEADLINE)
    runner.close()


def test_a_call_that_was_given_up_and_tells_something_late_keeps_no_worker(runner, heard):
    gate = Gate()
    late = Telling(heard, gate.pass_through)
    runner.submit([late])
    gate.wait_entered()
    runner.abandon(late)
    gate.open()
    assert late.heard.wait(DEADLINE)
    wait_until(lambda: runner.abandoned == 0)
    after = Call()
    runner.submit([after])
    assert after.done.wait(DEADLINE)


def test_what_a_call_told_that_is_given_up_just_before_it_returns_is_heard(runner, heard):
    class Last(Telling):
        def execute(self) -> None:
            super().execute()
            runner.abandon(self)

    last = Last(heard)
    runner.submit([last])
    assert last.heard.wait(DEADLINE)


def test_the_last_worker_waits_for_no_disk(heard):
    """Whatever is queued next, the thaw of what is frozen say, would wait for it, too."""
    bank = ThreadDispatcher(name="test-bank", blocks=True)
    there, gate = Heard.start_on(bank), Gate()
    there.ask(None, timeout=DEADLINE)
    runner = ThreadRunner(1, "test-workers")

    class Slow(Heard):
        def on_receive(self, _):
            gate.pass_through()

    slow = Slow.start_on(bank)
    runner.submit([Telling(slow)])
    gate.wait_entered()
    thaw = Call()
    runner.submit([thaw])
    assert thaw.done.wait(DEADLINE)
    gate.open()
    runner.close()
    bank.close(timeout=DEADLINE)


def test_disks_that_hang_take_one_worker_of_a_lane():
    banks = [ThreadDispatcher(name=f"test-bank-{n}", blocks=True) for n in range(3)]
    runner, gates, calls = ThreadRunner(4, "test-workers"), [Gate() for _ in banks], []
    for bank, gate in zip(banks, gates, strict=True):

        class Slow(Heard):
            def on_receive(self, gate):
                gate.pass_through()

        slow = Slow.start_on(bank)
        wait_until(lambda slow=slow: slow.actor_inbox.is_running)

        class Hanging(Telling):
            def execute(self, gate=gate) -> None:
                self.has_ended = True
                self.ref.tell(gate)

        runner.submit([Hanging(slow)])
        gate.wait_entered()
    together = threading.Barrier(3)
    calls = [Call(lambda: together.wait(DEADLINE)) for _ in range(3)]
    runner.submit(calls)
    assert all(call.done.wait(DEADLINE) for call in calls)
    for gate in gates:
        gate.open()
    runner.close()
    for bank in banks:
        bank.close(timeout=DEADLINE)


def test_what_is_queued_at_a_lent_worker_waits_for_no_other_turn():
    control, runner = ThreadDispatcher(name="test-control"), ThreadRunner(1, "test-workers")
    gate, call = Gate(), Call()

    class Blocking(Heard):
        def on_receive(self, _):
            gate.pass_through()

    class Handing(Heard):
        def on_receive(self, _):
            blocking.tell(None)  # its turn is the next one
            runner.submit([call])

    handing, blocking = Handing.start_on(control), Blocking.start_on(control)
    wait_until(lambda: handing.actor_inbox.is_running and blocking.actor_inbox.is_running)
    runner.submit([Telling(handing)])
    assert call.done.wait(DEADLINE)
    gate.open()
    runner.close()
    control.close(timeout=DEADLINE)


def test_the_only_worker_of_a_lane_runs_the_actor_that_it_told(heard):
    runner = ThreadRunner(1, "test-workers")
    call = Telling(heard)
    runner.submit([call])
    assert call.heard.wait(DEADLINE)
    assert heard.ask(None, timeout=DEADLINE)[0][1].startswith("test-workers")
    runner.close()


def test_a_call_that_has_ended_is_not_given_up_while_its_thread_runs_what_it_told(runner):
    control, gate = ThreadDispatcher(name="test-control"), Gate()

    class Blocking(Heard):
        def on_receive(self, message):
            if message is not None:
                gate.pass_through()

    blocking = Blocking.start_on(control)
    blocking.ask(None, timeout=DEADLINE)
    wait_until(lambda: control._waiters)
    call = Telling(blocking)
    runner.submit([call])
    gate.wait_entered()
    runner.abandon(call)
    assert (runner.running, runner.abandoned, runner.runs_caller()) == (0, 0, False)
    gate.open()
    control.close(timeout=DEADLINE)


def test_what_else_a_call_told_does_not_wait_for_the_disk(runner, heard):
    """Nor does the next disk wait for another thread, once the one before it has answered."""
    bank = ThreadDispatcher(name="test-bank", blocks=True)
    threads = []

    class Slow(Heard):
        def on_receive(self, gate):
            threads.append(threading.current_thread().name)
            if gate is not None:
                gate.pass_through()

    slow = Slow.start_on(bank)
    slow.ask(None, timeout=DEADLINE)
    for _ in range(2):
        gate = Gate()
        wait_until(lambda: bank._waiters and heard.actor_inbox.dispatcher._waiters)
        call = Telling(heard)
        call.work = lambda call=call, gate=gate: (setattr(call, "has_ended", True), slow.tell(gate))
        runner.submit([call])
        gate.wait_entered()
        assert call.heard.wait(DEADLINE)
        gate.open()
        wait_until(lambda: runner._at_disk is None and not runner.threads)
    assert all(name.startswith("test-workers") for name in threads[1:])
    bank.close(timeout=DEADLINE)


def test_nobody_counts_on_a_worker_that_waits_for_a_disk():
    """What it had promised to look at was taken by another one, which is there for what comes."""
    control, bank = ThreadDispatcher(name="test-control"), ThreadDispatcher(name="b", blocks=True)
    runner = ThreadRunner(2, "test-workers")
    busy, disk, next_call, thaw = Gate(), Gate(), Call(), Call()

    class Slow(Heard):
        def on_receive(self, _):
            disk.pass_through()

    class Handing(Heard):
        def on_receive(self, _):
            runner.submit([next_call])  # counts on the thread that is lent, and runs this
            busy.open()
            assert next_call.done.wait(DEADLINE)
            wait_until(lambda: runner.pool.sleepers)
            slow.tell(None)

    handing, slow = Handing.start_on(control), Slow.start_on(bank)
    runner.submit([Call(busy.pass_through)])
    busy.wait_entered()
    wait_until(lambda: handing.actor_inbox.is_running and slow.actor_inbox.is_running)
    runner.submit([Telling(handing)])
    disk.wait_entered()
    runner.submit([thaw])
    assert thaw.done.wait(DEADLINE)
    disk.open()
    runner.close()
    control.close(timeout=DEADLINE)
    bank.close(timeout=DEADLINE)


@pytest.mark.parametrize("behind", [1, 2])
def test_what_was_left_to_an_expected_worker_is_run_whether_it_finds_a_call_or_not(
    runner, heard, behind
):
    first = Call()
    runner.submit([first])
    assert first.done.wait(DEADLINE)
    wait_until(lambda: len(runner.pool.sleepers) == 2)
    late, telling = runner.pool.sleepers[0], Telling(heard)
    gates = [Gate() for _ in range(behind)]
    alarm, late.alarm = late.alarm, SimpleNamespace(release=lambda: None)  # it sleeps on
    runner.submit([telling, *(Call(gate.pass_through) for gate in gates)])
    gates[0].wait_entered()  # whoever told something has gone on with a slow call
    assert runner.pool.owed
    late.alarm = alarm
    alarm.release()
    gates[-1].wait_entered()
    assert telling.heard.wait(DEADLINE)
    for gate in gates:
        gate.open()


def test_what_was_left_to_a_worker_that_cannot_be_started_is_run_elsewhere(heard, monkeypatch):
    runner = ThreadRunner(3, "test-workers")
    gate, first, second, third = Gate(), Gate(), Gate(), Call()
    telling = Telling(heard, gate.pass_through)
    runner.submit([telling])
    gate.wait_entered()
    wait_until(lambda: runner.pool.sleepers)

    def no_thread(self: threading.Thread) -> None:
        monkeypatch.undo()
        gate.open()
        second.wait_entered()  # whoever told something has gone on with a slow call
        monkeypatch.setattr(threading.Thread, "start", none_at_all)
        raise RuntimeError("can't start new thread")

    def none_at_all(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    runner.submit([Call(first.pass_through), Call(second.pass_through), third])
    assert telling.heard.wait(DEADLINE)
    monkeypatch.undo()
    first.open()
    second.open()
    assert third.done.wait(DEADLINE)
    runner.close()


@pytest.mark.crash_expected
def test_a_worker_that_dies_before_it_has_started_another_leaves_its_lane_in_order(
    runner, monkeypatch
):
    def dying(self) -> None:
        monkeypatch.undo()
        raise SystemExit  # what foreign code has set in its thread

    monkeypatch.setattr(Lender, "give_up", dying)
    calls = [Call(), Call()]
    runner.submit(calls[:1])
    assert calls[0].done.wait(DEADLINE)
    runner.submit(calls[1:])
    assert calls[1].done.wait(DEADLINE)
    assert not calls[1].refused


@pytest.fixture
def watched():
    """A runner whose calls have been quick, and a dispatcher that keeps its time."""
    dispatcher = ThreadDispatcher(name="test-control")
    lookout = Lookout(dispatcher.call_later)
    runner = ThreadRunner(4, "test-workers", lookout=lookout)
    lookout.add(runner)
    for _ in range(3):
        call = Call()
        runner.submit([call])
        assert call.done.wait(DEADLINE)
        wait_until(lambda: runner.running == 0)
    assert not runner.are_slow
    yield runner
    runner.close()
    dispatcher.close(timeout=DEADLINE)


def test_calls_that_wait_behind_one_that_is_slow_after_all_begin_soon(watched):
    together = threading.Barrier(4)
    calls = [Call(lambda: together.wait(DEADLINE)) for _ in range(4)]
    watched.submit(calls)
    assert all(call.done.wait(DEADLINE) for call in calls)


def test_one_look_has_all_begin_that_wait_and_none_where_calls_are_slow():
    never_looks = SimpleNamespace(ask=lambda: True)
    runner = ThreadRunner(4, "test-workers", lookout=never_looks)
    began, together = threading.Event(), threading.Barrier(4)

    def work() -> None:
        began.set()
        together.wait(DEADLINE)

    for are_slow in (True, True, False):
        runner.are_slow = are_slow
        began.clear()
        calls = [Call(work) for _ in range(4)]
        runner.submit(calls)
        assert began.wait(DEADLINE)
        if not are_slow:
            assert (runner.running, runner.expected) == (1, 0), "quick calls are left to one worker"
            runner.look()
        assert all(call.done.wait(DEADLINE) for call in calls)
        wait_until(lambda: len(runner.pool.sleepers) == 4)
    runner.close()


def test_what_a_quick_call_told_does_not_wait_for_the_slow_one_behind_it(watched, heard):
    for _ in range(20):
        gate = Gate()
        quick, slow = Telling(heard), Call(gate.pass_through)
        watched.submit([quick, slow])
        assert quick.heard.wait(DEADLINE)
        gate.open()
        assert slow.done.wait(DEADLINE)


def test_nobody_looks_where_nothing_was_left_waiting(watched, monkeypatch):
    asked = []
    monkeypatch.setattr(watched._lookout, "ask", lambda: asked.append(1) or True)
    for _ in range(5):
        call = Call()
        watched.submit([call])
        assert call.done.wait(DEADLINE)
        wait_until(lambda: watched.running == 0)
    assert asked == []


def test_without_a_clock_workers_wake_each_other(heard):
    closed = ThreadDispatcher(name="test-control")
    lookout = Lookout(closed.call_later)
    runner = ThreadRunner(4, "test-workers", lookout=lookout)
    lookout.add(runner)
    first = Call()
    runner.submit([first])
    assert first.done.wait(DEADLINE)
    closed.close(timeout=DEADLINE)
    together = threading.Barrier(4)
    calls = [Call(lambda: together.wait(DEADLINE)) for _ in range(4)]
    runner.submit(calls)
    assert all(call.done.wait(DEADLINE) for call in calls)
    runner.close()


@pytest.mark.crash_expected
def test_a_thread_that_dies_before_it_serves_leaves_what_waits_to_the_next(runner, monkeypatch):
    """There may be no memory for as little as that; nobody must count on the thread any more."""
    made = []

    def fail_once(*arguments):
        made.append(arguments)
        if len(made) == 1:
            raise MemoryError
        return Lender(*arguments)

    monkeypatch.setattr(worker_module, "Lender", fail_once)
    first, second = Call(), Call()
    runner.submit([first])
    assert first.done.wait(DEADLINE)
    runner.submit([second])

    assert second.done.wait(DEADLINE)
    assert second.refused == ""
    assert len(made) > 1
