from __future__ import annotations

import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import DEADLINE, Gate
from karbor_actors.actors import LightActor
from karbor_actors.actors.timers import TimerQueue

WORKERS = pytest.mark.parametrize("threads", [1, 4])


class Restless(LightActor):
    """Keeps its worker busy for ever."""

    def on_receive(self, message):
        self.actor_ref.tell(message)


class Echo(LightActor):
    """Replies with the message, or calls it."""

    def on_receive(self, message):
        return message() if callable(message) else message


@WORKERS
def test_timers_run_in_the_order_of_their_times_and_not_early(threads, make_dispatcher):
    dispatcher = make_dispatcher(threads=threads)
    ran, lock, done = [], threading.Lock(), threading.Event()
    begin = dispatcher.now()

    def note(delay):
        with lock:
            ran.append((delay, dispatcher.now() - begin))
            if len(ran) == 4:
                done.set()

    for delay in (0.15, 0.05, 0.1, 0):
        dispatcher.call_later(delay, lambda delay=delay: note(delay))
    assert done.wait(DEADLINE)

    assert [delay for delay, _ in ran] == [0, 0.05, 0.1, 0.15]
    assert all(passed >= delay for delay, passed in ran)


@pytest.mark.parametrize("delay", [0, -1, float("-inf"), float("nan")])
def test_a_timer_without_a_delay_runs_at_once(delay, dispatcher):
    ran = threading.Event()
    dispatcher.call_later(delay, ran.set)

    assert ran.wait(DEADLINE)


def test_an_earlier_timer_wakes_a_worker_that_sleeps_until_a_later_one(dispatcher):
    ran = threading.Event()
    dispatcher.call_later(3600, lambda: None)
    Echo.start_on(dispatcher).ask("until it sleeps again", timeout=DEADLINE)
    dispatcher.call_later(0.01, ran.set)

    assert ran.wait(DEADLINE)


def test_a_timer_of_centuries_is_no_error(dispatcher):
    timer = dispatcher.call_later(1e12, lambda: None)
    dispatcher.call_later(float("inf"), lambda: None)

    assert Echo.start_on(dispatcher).ask("alive", timeout=DEADLINE) == "alive"
    timer.cancel()


def test_a_cancelled_timer_does_not_run(dispatcher):
    ran, later = [], threading.Event()
    cancelled = dispatcher.call_later(0.02, lambda: ran.append("cancelled"))
    dispatcher.call_later(0.04, later.set)
    cancelled.cancel()
    cancelled.cancel()
    assert later.wait(DEADLINE)

    assert ran == []


def test_cancelling_a_timer_that_has_run_does_nothing(dispatcher):
    ran = threading.Event()
    timer = dispatcher.call_later(0, ran.set)
    assert ran.wait(DEADLINE)
    timer.cancel()


def test_a_cancelled_timer_lets_go_of_its_callback(dispatcher):
    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    gone = weakref.ref(callback)
    timer = dispatcher.call_later(3600, callback)
    del callback
    timer.cancel()

    assert gone() is None


@pytest.mark.crash_expected
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises_is_logged_and_the_next_one_runs(error, dispatcher, caplog):
    ran = threading.Event()

    def fail():
        raise error("told to")

    dispatcher.call_later(0, fail)
    dispatcher.call_later(0.01, ran.set)

    assert ran.wait(DEADLINE)
    assert "fail" in caplog.text
    assert [record.name for record in caplog.records] == ["karbor_actors.actors"]


@WORKERS
def test_timers_run_while_every_worker_is_busy(threads, make_dispatcher):
    dispatcher = make_dispatcher(threads=threads)
    for _ in range(2 * threads):
        Restless.start_on(dispatcher).tell("go on")
    for _ in range(5):
        ran = threading.Event()
        dispatcher.call_later(0.01, ran.set)

        assert ran.wait(DEADLINE)


def test_timers_that_add_timers_leave_the_actors_their_turn(dispatcher):
    def again():
        if not stop.is_set():
            dispatcher.call_later(0, again)

    stop = threading.Event()
    again()

    assert Echo.start_on(dispatcher).ask("served", timeout=DEADLINE) == "served"
    stop.set()


def test_a_timer_runs_while_the_worker_that_kept_the_time_is_blocked(make_dispatcher):
    dispatcher = make_dispatcher(threads=2)
    gate, ran = Gate(), threading.Event()
    ref = Echo.start_on(dispatcher)
    ref.ask("until the only worker sleeps", timeout=DEADLINE)
    dispatcher.call_later(0.2, ran.set)  # the sleeper keeps this time,
    ref.tell(gate.pass_through)  # and is blocked before it comes
    gate.wait_entered()

    assert ran.wait(DEADLINE)
    gate.open()


def test_a_timer_runs_while_another_timer_is_blocked(make_dispatcher):
    dispatcher = make_dispatcher(threads=2)
    gate, ran = Gate(), threading.Event()
    dispatcher.call_later(0.05, ran.set)
    dispatcher.call_later(0, gate.pass_through)

    assert ran.wait(DEADLINE)
    gate.open()


def test_close_drops_the_timers_that_are_not_due(make_dispatcher):
    dispatcher, other = make_dispatcher(), make_dispatcher()
    ran, later = [], threading.Event()
    dispatcher.call_later(0.05, lambda: ran.append("late"))
    dispatcher.close(timeout=DEADLINE)
    other.call_later(0.1, later.set)
    assert later.wait(DEADLINE)

    assert ran == []


def test_cancelled_timers_do_not_pile_up():
    queue = TimerQueue()
    for number in range(10_000):
        timer, _ = queue.add(3600.0 + number, lambda: None)
        if number % 10:
            timer.cancel()

    assert len(queue.heap) < 2_200


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 20)),
            st.tuples(st.just("cancel"), st.integers(0, 200)),
            st.tuples(st.just("advance"), st.integers(0, 5)),
        ),
        max_size=200,
    )
)
def test_the_queue_does_what_a_sorted_list_would(steps):
    queue, now, ran = TimerQueue(), 0, []
    timers, pending = [], {}
    for verb, number in steps:
        if verb == "add":
            name = len(timers)
            timers.append(queue.add(now + number, lambda name=name: ran.append(name))[0])
            pending[name] = now + number
        elif verb == "cancel" and timers:
            timers[number % len(timers)].cancel()
            pending.pop(number % len(timers), None)
        elif verb == "advance":
            now += number
            due = sorted((when, name) for name, when in pending.items() if when <= now)
            ran.clear()
            while (timer := queue.pop_due(now)) is not None:
                timer.run()
            assert ran == [name for _, name in due]
            for _, name in due:
                del pending[name]

        assert queue.next_due() == min(pending.values(), default=None)
