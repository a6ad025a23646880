"""Lanes that share threads: one thread runs what is quick, and none waits for what is slow elsewhere."""

from __future__ import annotations

import threading
import time

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import Lender
from karbor_actors.operations.hooks.pool import Pool
from karbor_actors.operations.hooks.workers import ThreadRunner
from lane_kit import Call, Lanes, Storm, wait_until


@pytest.fixture
def lanes():
    made = Lanes(4, 4, 4)
    yield made
    made.close()


def test_one_thread_runs_what_its_turns_hand_to_other_lanes(lanes):
    lanes.make_quick()
    ways = []
    for _ in range(20):
        calls = [Call() for _ in range(3)]

        def hand_on(call, calls=calls):
            if (following := calls.index(call) + 1) < len(calls):
                lanes.lanes[following].submit([calls[following]])

        told = lanes.handing(hand_on)
        for call in calls:
            call.told = told
        lanes.lanes[0].submit(calls[:1])
        assert all(call.done.wait(DEADLINE) for call in calls)
        ways.append(len({call.thread for call in calls}))
    assert 1 in ways, "another thread may come first, but not each time"


def test_a_thread_says_which_lane_it_works_for(lanes):
    names = []
    calls = [Call(lambda: names.append(threading.current_thread().name)) for _ in range(3)]
    for call, lane in zip(calls, lanes.lanes, strict=True):
        lane.submit([call])
        assert call.done.wait(DEADLINE)
    assert [name.rpartition("-")[0] for name in names] == [f"test-lane-{n}" for n in range(3)]


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_what_is_handed_to_several_lanes_at_once_does_not_wait_for_the_slow_one(lanes, slow):
    """Whichever of them the thread turns to first."""
    lanes.make_quick()
    for _ in range(10):
        gate = Gate()
        calls = [Call(gate.pass_through) if lane == slow else Call() for lane in range(3)]

        def hand_on(_, calls=calls):
            for call, lane in zip(calls, lanes.lanes, strict=True):
                lane.submit([call])

        lanes.lanes[0].submit([Call(told=lanes.handing(hand_on))])
        assert all(c.done.wait(DEADLINE) for lane, c in enumerate(calls) if lane != slow)
        gate.open()
        assert calls[slow].done.wait(DEADLINE)


def test_what_a_call_told_waits_for_no_slow_call_of_another_lane(lanes):
    lanes.make_quick()
    for _ in range(10):
        gate, heard = Gate(), threading.Event()
        slow, quick = Call(gate.pass_through), Call()

        def hand_on(call, quick=quick, slow=slow, heard=heard):
            if call is quick:
                heard.set()
                return
            lanes.lanes[0].submit([quick])
            lanes.lanes[1].submit([slow])

        quick.told = lanes.handing(hand_on)
        lanes.lanes[0].submit([Call(told=quick.told)])
        assert heard.wait(DEADLINE)
        gate.open()
        assert slow.done.wait(DEADLINE)


def test_what_a_call_told_is_run_by_its_thread_after_quick_calls_of_another_lane(lanes):
    lanes.make_quick()
    ways = []
    for _ in range(20):
        heard, calls, ran = threading.Event(), [Call(), Call()], []

        def hand_on(call, calls=calls, ran=ran, heard=heard):
            if call not in calls:
                for other, lane in zip(calls, lanes.lanes, strict=False):
                    lane.submit([other])
            else:
                ran.append(threading.current_thread())
                if all(other.done.is_set() or other is call for other in calls):
                    heard.set()

        told = lanes.handing(hand_on)
        for call in calls:
            call.told = told
        lanes.lanes[0].submit([Call(told=told)])
        assert heard.wait(DEADLINE)
        ways.append({*ran, *(call.thread for call in calls)})
    assert 1 in map(len, ways), "another thread may come first, but not each time"


def test_threads_that_hang_in_one_lane_take_no_place_in_another(lanes):
    gate = Gate()
    hung = [Call(gate.pass_through) for _ in range(4)]
    lanes.lanes[1].submit(hung)
    together = threading.Barrier(4)
    calls = [Call(lambda: together.wait(DEADLINE)) for _ in range(4)]
    lanes.lanes[0].submit(calls)
    assert all(call.done.wait(DEADLINE) for call in calls)
    assert not any(call.done.is_set() for call in hung)
    gate.open()


def test_a_call_that_is_given_up_takes_its_thread_out_of_the_pool(lanes):
    gate = Gate()
    hung = Call(gate.pass_through)
    lanes.lanes[1].submit([hung])
    gate.wait_entered()
    lanes.lanes[1].abandon(hung)
    for lane in lanes.lanes:
        call = Call()
        lane.submit([call])
        assert call.done.wait(DEADLINE)
        assert call.thread is not hung.thread
    assert [lane.abandoned for lane in lanes.lanes] == [0, 1, 0]
    gate.open()
    hung.thread.join(DEADLINE)
    assert lanes.lanes[1].abandoned == 0


@pytest.mark.crash_expected
def test_a_thread_that_dies_leaves_what_other_lanes_expected_of_it_to_others(lanes):
    lanes.make_quick()
    for _ in range(10):
        calls = [Call(), Call(), Call()]

        def hand_on(_, calls=calls):
            for call, lane in zip(calls, lanes.lanes, strict=True):
                lane.submit([call])

        def die():
            raise SystemExit

        calls[0].work = die
        lanes.lanes[0].submit([Call(told=lanes.handing(hand_on))])
        assert all(call.done.wait(DEADLINE) for call in calls)
        assert "SystemExit" in calls[0].refused
        assert not calls[1].refused + calls[2].refused


@pytest.mark.parametrize("seed", range(20))
def test_each_call_runs_once_and_no_lane_has_more_than_its_workers(seed):
    limits = (1, 2, 5)
    lanes = Lanes(*limits)
    storm = Storm(lanes, seed)
    while storm.left:
        storm.submit()
        time.sleep(0.0005)
    assert storm.is_over.wait(DEADLINE)
    lanes.close()
    assert set(storm.ran.values()) == {1}
    assert all(storm.most[lane] <= limit for lane, limit in enumerate(limits))
    assert not [t for t in threading.enumerate() if t.name.startswith("test-lane")]


def test_a_lane_that_is_closed_leaves_nothing_to_the_lookout(lanes, monkeypatch):
    """It would come too late: close() waits for who is expected, and for who is there."""
    lanes.make_quick()
    monkeypatch.setattr(lanes.lookout, "ask", lambda: True)  # and it never looks
    gate, slow_first, left = Gate(), Call(), Call()
    slow_first.work = gate.pass_through
    first, second = lanes.lanes[:2]
    closing = threading.Thread(target=second.close)

    def hand_on(_):
        first.submit([slow_first])
        second.submit([left])  # counts on the thread that runs this, which takes the other first
        closing.start()
        wait_until(lambda: second.is_closed)

    told = lanes.handing(hand_on)
    wait_until(lambda: lanes.control._waiters)  # its own thread sleeps
    first.submit([Call(told=told)])
    gate.wait_entered()
    closing.join(DEADLINE)
    assert left.done.is_set()
    gate.open()


@pytest.mark.parametrize("who", ["lookout", "close", "nobody"])
def test_what_a_thread_passes_by_is_refused_where_no_other_is_to_be_had(lanes, monkeypatch, who):
    lanes.make_quick()
    first, second, third = lanes.lanes
    begun, busy, gate, left = Gate(), [], Gate(), Call()
    slow = Call(gate.pass_through)

    def hand_on(_):
        second.submit([left])
        first.submit([slow])  # is taken before the other

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    told = lanes.handing(hand_on)
    wait_until(lambda: lanes.control._waiters)  # its own thread sleeps
    monkeypatch.setattr(lanes.lookout, "_lanes", [])  # it never looks by itself
    monkeypatch.setattr(lanes.lookout, "ask", lambda: who != "nobody")
    first.submit([Call(begun.pass_through, told)])
    begun.wait_entered()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        while first.pool.sleepers or first.expected or third.expected:
            busy.append(Gate())
            third.submit([Call(busy[-1].pass_through)])
            busy[-1].wait_entered()
        begun.open()
        gate.wait_entered()
        assert bool(left.refused) == (who == "nobody")
        if who == "lookout":
            second.look()
        elif who == "close":
            second.close()
        assert "no more threads" in left.refused
    for each in (gate, *busy):
        each.open()


def test_a_thread_looks_at_the_lanes_that_it_has_passed_by(lanes, monkeypatch):
    lanes.make_quick()
    first, second = lanes.lanes[:2]
    calls = Call(), Call()

    def hand_on(_):
        second.submit([calls[1]])
        first.submit([calls[0]])  # is taken before the other

    told = lanes.handing(hand_on)
    wait_until(lambda: lanes.control._waiters)
    monkeypatch.setattr(lanes.lookout, "_lanes", [])  # it never looks by itself
    monkeypatch.setattr(lanes.lookout, "ask", lambda: True)
    first.submit([Call(told=told)])
    assert all(call.done.wait(DEADLINE) for call in calls)
    assert calls[0].thread is calls[1].thread


def test_a_thread_goes_over_to_no_lane_that_is_full(monkeypatch):
    lanes = Lanes(2, 1)
    lanes.make_quick()
    first, second = lanes.lanes
    gates = Gate(), Gate()
    slow, busy, waiting = Call(gates[0].pass_through), Call(gates[1].pass_through), Call()

    def hand_on(_):
        second.submit([busy, waiting])
        first.submit([slow])  # is taken before those

    told = lanes.handing(hand_on)
    wait_until(lambda: lanes.control._waiters)  # its own thread sleeps
    monkeypatch.setattr(lanes.lookout, "_lanes", [])  # it never looks by itself
    monkeypatch.setattr(lanes.lookout, "ask", lambda: True)
    first.submit([Call(told=told)])
    gates[0].wait_entered()
    second.look()
    gates[1].wait_entered()
    gates[0].open()
    wait_until(lambda: not first.threads)
    with second.pool.lock:
        assert second.threads == [busy.thread]
    assert not waiting.done.is_set()
    gates[1].open()
    assert waiting.done.wait(DEADLINE)
    lanes.close()


def test_a_thread_goes_over_to_no_lane_of_another_pool(lanes):
    other, call = ThreadRunner(1, "test-lane-other"), Call()
    told = lanes.handing(lambda _: other.submit([call]))
    wait_until(lambda: lanes.control._waiters)
    lanes.lanes[0].submit([Call(told=told)])
    assert call.done.wait(DEADLINE)
    assert call.thread in other.pool._threads
    other.close()


def test_close_goes_on_once_who_was_expected_has_found_nothing(lanes):
    lanes.make_quick()
    first, second = lanes.lanes[:2]
    given_up = Call()
    closing = threading.Thread(target=second.close)

    def hand_on(_):
        second.submit([given_up])  # counts on the thread that runs this
        second.abandon(given_up)
        closing.start()
        wait_until(lambda: second.is_closed)

    told = lanes.handing(hand_on)
    wait_until(lambda: lanes.control._waiters)  # its own thread sleeps
    first.submit([Call(told=told)])
    wait_until(lambda: closing.ident)
    closing.join(DEADLINE)
    assert not closing.is_alive()
    assert not given_up.done.is_set()


@pytest.mark.crash_expected
@pytest.mark.parametrize("has_told", [False, True])
def test_a_thread_that_dies_leaves_what_it_promised_to_others(lanes, monkeypatch, has_told):
    """As it has run what it told, and another lane counts on it, or before it runs that."""
    lanes.make_quick()
    call, pay = Call(), Lender.pay

    def dying(self) -> None:
        monkeypatch.undo()
        if has_told:
            pay(self)
        raise SystemExit

    told = lanes.handing(lambda _: lanes.lanes[1].submit([call]))
    wait_until(lambda: lanes.control._waiters)  # its own thread sleeps
    monkeypatch.setattr(Lender, "pay", dying)
    lanes.lanes[0].submit([Call(told=told)])
    assert call.done.wait(DEADLINE)
    assert not call.refused
    lanes.close()
    assert not lanes.lanes[0].pool._threads


@pytest.mark.crash_expected
def test_what_a_refused_call_tells_as_its_thread_dies_is_heard(lanes):
    """Nobody else is to tell the actor anything: the thread owes it no turn any more."""
    heard = threading.Event()

    class Refused(Call):
        def execute(self):
            raise SystemExit

        def refuse(self, why):
            super().refuse(why)
            self.told.tell(self)

    told = lanes.handing(lambda _: heard.set())
    wait_until(lambda: lanes.control._waiters)  # its own thread sleeps
    lanes.lanes[0].submit([Refused(told=told)])
    assert heard.wait(DEADLINE)


@pytest.mark.crash_expected
def test_a_thread_that_dies_as_another_lane_wakes_it_takes_no_place_there(monkeypatch):
    lanes = Lanes(1, 1)
    first, second = lanes.lanes
    one, other, died = Call(), Call(), first.died

    def sleep(_, worker):
        monkeypatch.undo()
        wait_until(lambda: worker in first.pool.sleepers)
        raise SystemExit

    def died_late(worker, error):
        second.submit([other])  # wakes it: it does not know that it dies
        died(worker, error)

    monkeypatch.setattr(Pool, "sleep", sleep)
    first.died = died_late
    first.submit([one])
    assert other.done.wait(DEADLINE)
    lanes.close()
