from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pykka
import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import (
    LightActor,
    PooledActor,
    ThreadDispatcher,
    current_dispatcher,
)
from karbor_actors.errors import DispatcherClosedError

WORKERS = pytest.mark.parametrize("threads", [1, 2, 4])


class Echo(LightActor):
    """Replies with the message, or calls it."""

    def on_receive(self, message):
        return message() if callable(message) else message


def threads_named(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": -1}, {"spare": -1}])
def test_a_dispatcher_without_threads_is_refused(wrong):
    with pytest.raises(ValueError, match="a whole number, at least"):
        ThreadDispatcher(**wrong)


def test_threads_start_when_there_is_work_and_never_more_than_asked_for():
    dispatcher = ThreadDispatcher(threads=3, name="lazy")
    assert threads_named("lazy") == []
    gates = [Gate() for _ in range(5)]
    for gate in gates:
        Echo.start_on(dispatcher).tell(gate.pass_through)
    for gate in gates[:3]:
        gate.wait_entered()
    started = threads_named("lazy")
    for gate in gates:
        gate.open()
    dispatcher.close(timeout=DEADLINE)

    assert sorted(thread.name for thread in started) == ["lazy-1", "lazy-2", "lazy-3"]
    assert all(thread.daemon for thread in started)
    assert threads_named("lazy") == []


def test_a_worker_knows_its_dispatcher(dispatcher):
    assert current_dispatcher() is None
    assert Echo.start_on(dispatcher).ask(current_dispatcher, timeout=DEADLINE) is dispatcher


def test_a_blocked_actor_does_not_stop_the_others_when_there_are_more_workers(make_dispatcher):
    dispatcher = make_dispatcher(threads=2)
    gate = Gate()
    Echo.start_on(dispatcher).tell(gate.pass_through)
    gate.wait_entered()

    assert Echo.start_on(dispatcher).ask("free", timeout=DEADLINE) == "free"
    gate.open()


def test_a_flooded_actor_leaves_the_others_their_turn(dispatcher):
    gate, handled = Gate(), []
    flooded, other = Echo.start_on(dispatcher), Echo.start_on(dispatcher)
    flooded.tell(gate.pass_through)
    gate.wait_entered()
    for _ in range(1000):
        flooded.tell(lambda: handled.append("flood"))
    other.tell(lambda: handled.append("other"))
    gate.open()
    flooded.stop(timeout=DEADLINE)

    assert handled.index("other") <= dispatcher.throughput


def test_an_actor_that_always_tells_itself_leaves_the_others_their_turn(dispatcher):
    class Restless(LightActor):
        def on_receive(self, message):
            self.actor_ref.tell(message)

    Restless.start_on(dispatcher).tell("go on")
    other = Echo.start_on(dispatcher)
    for number in range(10):
        assert other.ask(number, timeout=DEADLINE) == number


@WORKERS
def test_no_wake_up_is_lost_between_an_empty_mailbox_and_idleness(threads, make_dispatcher):
    # Each ask finds the actor and its worker on their way to sleep.
    dispatcher = make_dispatcher(threads=threads)
    refs = [Echo.start_on(dispatcher) for _ in range(2)]
    failures = []

    def ask_often(ref):
        try:
            for number in range(1500):
                assert ref.ask(number, timeout=DEADLINE) == number
        except Exception as error:  # reported in the test's own thread
            failures.append(error)

    askers = [threading.Thread(target=ask_often, args=(refs[i % 2],)) for i in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(2 * DEADLINE)

    assert failures == []


@WORKERS
def test_what_is_scheduled_runs_exactly_once(threads, make_dispatcher):
    dispatcher = make_dispatcher(threads=threads)
    runs, done = Counter(), threading.Semaphore(0)

    class Once:
        def __init__(self, number):
            self.number = number

        def run(self):
            runs[self.number] += 1
            done.release()

    def schedule(first):
        for number in range(first, first + 500):
            dispatcher.schedule(Once(number))

    schedulers = [threading.Thread(target=schedule, args=(500 * i,)) for i in range(3)]
    for scheduler in schedulers:
        scheduler.start()
    for _ in range(1500):
        assert done.acquire(timeout=DEADLINE)
    for scheduler in schedulers:
        scheduler.join(DEADLINE)

    assert set(runs.values()) == {1}
    assert len(runs) == 1500


@pytest.mark.crash_expected
def test_a_runnable_that_raises_costs_no_worker(dispatcher):
    class Broken:
        def run(self):
            raise SystemExit

    dispatcher.schedule(Broken())

    assert Echo.start_on(dispatcher).ask("alive", timeout=DEADLINE) == "alive"


@WORKERS
def test_idle_workers_do_not_wake_up(threads, make_dispatcher):
    # The kernel counts how often a thread went to sleep of its own accord. After many timers,
    # since workers hand the keeping of the time to each other.
    idle, clock = make_dispatcher(threads=threads), make_dispatcher()
    gates = [Gate() for _ in range(threads)]
    for gate in gates:
        Echo.start_on(idle).tell(gate.pass_through)
    for gate in gates:
        gate.wait_entered()
        gate.open()
    idle.call_later(3600, lambda: None)
    for number in range(200):
        timer = idle.call_later(0.05 - number / 10_000, lambda: None)
        if number % 2:
            timer.cancel()
    wait(clock, 0.1)  # until they sleep
    before = sleeps(idle)
    wait(clock, 0.2)

    assert len(before) == threads
    assert sleeps(idle) == before


def wait(dispatcher, delay):
    passed = threading.Event()
    dispatcher.call_later(delay, passed.set)
    assert passed.wait(DEADLINE)


def sleeps(dispatcher):
    counts = []
    for thread in dispatcher._threads:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        counts.append([line for line in status.splitlines() if "voluntary" in line])
    return counts


def test_close_stops_actors_in_the_reverse_of_their_start():
    for threads in (1, 4):
        dispatcher = ThreadDispatcher(threads=threads, name="test")
        stopped = []

        class Child(LightActor):
            def __init__(self, number, stopped):
                super().__init__()
                self.number = number
                self.stopped = stopped

            def on_stop(self):
                self.stopped.append(self.number)

        refs = [Child.start_on(dispatcher, number, stopped) for number in range(50)]
        refs[10].stop(timeout=DEADLINE)
        dispatcher.close(timeout=DEADLINE)

        assert stopped == [10, *(number for number in reversed(range(50)) if number != 10)]
        assert not any(ref.is_alive() for ref in refs)
        with pytest.raises(pykka.ActorDeadError):
            refs[0].tell("late")
        with pytest.raises(pykka.ActorDeadError):
            refs[0].ask("late", timeout=DEADLINE)


def test_close_lets_actors_handle_what_they_were_sent_first():
    dispatcher = ThreadDispatcher(name="test")
    handled = []
    ref = Echo.start_on(dispatcher)
    for number in range(200):
        ref.tell(lambda number=number: handled.append(number))
    dispatcher.close(timeout=DEADLINE)

    assert handled == list(range(200))


def test_while_closing_an_actor_can_still_use_its_elders():
    dispatcher = ThreadDispatcher(name="test")
    told = []

    class Younger(LightActor):
        def on_stop(self):
            elder.tell(lambda: told.append("goodbye"))

    elder = Echo.start_on(dispatcher)
    Younger.start_on(dispatcher)
    dispatcher.close(timeout=DEADLINE)

    assert told == ["goodbye"]


def test_close_twice_and_from_several_threads():
    dispatcher = ThreadDispatcher(name="test")
    gate, ref = Gate(), Echo.start_on(dispatcher)
    ref.tell(gate.pass_through)
    gate.wait_entered()
    closers = [threading.Thread(target=dispatcher.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    assert all(closer.is_alive() for closer in closers)
    gate.open()
    for closer in closers:
        closer.join(DEADLINE)
    dispatcher.close()

    assert not any(closer.is_alive() for closer in closers)
    assert not ref.is_alive()


def test_close_without_any_work_returns():
    dispatcher = ThreadDispatcher(name="test")
    dispatcher.close()
    dispatcher.close()

    with pytest.raises(DispatcherClosedError, match="closed"):
        dispatcher.call_later(1, print)


def test_close_from_its_own_thread_is_a_clear_error(dispatcher):
    ref = Echo.start_on(dispatcher)

    with pytest.raises(RuntimeError, match="waits for the thread that calls it"):
        ref.ask(dispatcher.close, timeout=DEADLINE)
    assert ref.ask("alive", timeout=DEADLINE) == "alive"


def test_close_gives_up_at_its_deadline_and_hangs_nobody():
    dispatcher = ThreadDispatcher(threads=2, name="test")
    gate, stuck, waiting = Gate(), Echo.start_on(dispatcher), Echo.start_on(dispatcher)
    younger = Echo.start_on(dispatcher)
    stuck.tell(gate.pass_through)
    gate.wait_entered()
    unanswered = stuck.ask("never", block=False)

    with pytest.raises(TimeoutError, match=r"gave up 1 actors at its deadline: Echo \("):
        dispatcher.close(timeout=0.05)
    with pytest.raises(pykka.ActorDeadError):
        unanswered.get(timeout=DEADLINE)
    assert not any(ref.is_alive() for ref in (stuck, waiting, younger))
    gate.open()
    dispatcher.close(timeout=DEADLINE)


def test_actors_that_stop_by_themselves_while_closing_do_not_disturb_it():
    dispatcher = ThreadDispatcher(threads=4, name="test")
    gate = Gate()
    refs = [Echo.start_on(dispatcher) for _ in range(20)]
    blocker = Echo.start_on(dispatcher)
    blocker.tell(gate.pass_through)
    gate.wait_entered()
    closer = threading.Thread(target=dispatcher.close)
    closer.start()
    for ref in refs:
        ref.stop(timeout=DEADLINE)
    gate.open()
    closer.join(DEADLINE)

    assert not closer.is_alive()
    assert dispatcher.actor_count == 0


def test_spare_threads_stand_in_for_workers_that_wait_for_a_reply(make_dispatcher):
    dispatcher = make_dispatcher(threads=1, spare=10)
    refs = [Echo.start_on(dispatcher) for _ in range(10)]

    def ask_the_next(position):
        if position == len(refs):
            return position
        return refs[position].ask(lambda: ask_the_next(position + 1), timeout=DEADLINE)

    assert ask_the_next(0) == 10
    assert len(dispatcher._threads) <= 11


def test_without_spare_threads_a_nested_ask_times_out(dispatcher):
    inner, outer = Echo.start_on(dispatcher), Echo.start_on(dispatcher)

    with pytest.raises(pykka.Timeout):
        outer.ask(lambda: inner.ask("deadlock", timeout=0.05), timeout=DEADLINE)


def test_a_registered_actor_stops_with_its_dispatcher():
    dispatcher = ThreadDispatcher(name="test")
    ref = PooledActor.start_on(dispatcher)
    dispatcher.close(timeout=DEADLINE)

    assert ref not in pykka.ActorRegistry.get_all()
