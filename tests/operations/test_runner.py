"""Workers: they come when there is work, go when there is none, and are never lost."""

from __future__ import annotations

import threading

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.operations.hooks import runner as module
from karbor_actors.operations.hooks.runner import ThreadRunner


class Call:
    """Does what it is told; says when it ran, or why not."""

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
    monkeypatch.setattr(module, "_LINGER", 0.02)
    for _ in range(3):
        calls = [Call() for _ in range(50)]
        runner.submit(calls)
        assert all(call.done.wait(DEADLINE) for call in calls)
        wait_until(lambda: named() == 0)


def test_many_workers_lose_no_call(runner, monkeypatch):
    monkeypatch.setattr(module, "_LINGER", 0.0005)
    pause = threading.Event()
    calls = []
    for _ in range(300):
        calls.append(Call())
        runner.submit([calls[-1]])
        pause.wait(0.0005)
    assert all(call.done.wait(DEADLINE) for call in calls)


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_calls_that_need_each_other_all_get_a_worker(monkeypatch, at_once):
    monkeypatch.setattr(module, "_LINGER", 0.001)
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
    wait_until(lambda: len(runner._running) == 2 and not runner._is_waking)
    now, poll = 0.0, threading.Event()
    for workers in (3, 4):
        runner.look_around(now)
        assert named() == workers - 1, "the queue has only just been seen to stand still"
        now += module._STUCK
        runner.look_around(now)
        wait_until(lambda wanted=workers: len(runner._running) == wanted and not runner._is_waking)
    for _ in range(3):
        now += module._STUCK
        runner.look_around(now)
        poll.wait(0.01)
    assert named() == 4
    gate.open()
    assert all(call.done.wait(DEADLINE) for call in (*hung, thaw))


def test_what_is_first_goes_before_what_waits(runner):
    gate, order = threading.Event(), []
    blockers = [Call(lambda: gate.wait(DEADLINE)) for _ in range(2)]
    runner.submit(blockers)
    wait_until(lambda: len(runner._running) == 2)
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
    wait_until(lambda: len(runner._running) == 2)
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
