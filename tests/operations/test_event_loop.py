"""The event loop of async hooks, and those that a blocking hook made it replace."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from unittest.mock import MagicMock

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.model import HookName
from karbor_actors.operations.hooks import event_loop as module
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.hooks.event_loop import LoopRunner
from karbor_actors.operations.hooks.runner import Lane


class Call:
    """Waits at its gate, which blocks the loop; says when it is done."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.done = gate, threading.Event()

    async def execute_async(self, host) -> None:
        if host.may_begin(self):
            self.gate.pass_through()
            self.done.set()
        host.has_left(self)

    def refuse(self, why: str) -> None:
        raise AssertionError(why)


def test_a_call_can_be_given_up_while_a_loop_that_was_replaced_ends(monkeypatch):
    """Its thread lives a moment longer than the loop, which takes nothing any more by then."""
    monkeypatch.setattr(module, "STUCK", 0.0)
    runner, closed = LoopRunner("test-loop"), Gate()
    blocked = Call(Gate())
    runner.submit([blocked])
    blocked.gate.wait_entered()
    loop = runner._current
    close = loop._loop.close

    def close_and_stay() -> None:
        close()
        closed.pass_through()

    monkeypatch.setattr(loop._loop, "close", close_and_stay)
    for _ in range(2):  # it is asked, and has not answered
        runner.look_around()
    later = Call(Gate())
    runner.submit([later])
    later.gate.wait_entered()
    blocked.gate.open()
    closed.wait_entered()
    runner.abandon(later)
    closed.open()
    later.gate.open()

    assert later.done.wait(DEADLINE)
    runner.close()
    for thread in (loop.thread, *(t for t in threading.enumerate() if t.name == "test-loop")):
        thread.join(DEADLINE)


def test_a_call_that_has_ended_is_not_waited_for_while_the_next_one_blocks_the_loop():
    """Its task is done, but what the loop is to do then comes after the next call's first step."""
    runner = LoopRunner("test-loop")
    ended, blocked = Body(), Call(Gate())
    runner.submit([ended, blocked])
    blocked.gate.wait_entered()
    assert ended.done.is_set()
    runner.abandon(blocked)
    closing = threading.Thread(target=runner.close, daemon=True)
    closing.start()
    closing.join(DEADLINE)
    is_closed = not closing.is_alive()
    blocked.gate.open()

    assert is_closed
    for thread in (closing, *(t for t in threading.enumerate() if t.name == "test-loop")):
        thread.join(DEADLINE)


class Body:
    """Runs a coroutine function; says when it is done, or why it was refused."""

    def __init__(self, body=None) -> None:
        self.body, self.done, self.refused = body, threading.Event(), ""

    async def execute_async(self, host) -> None:
        if host.may_begin(self):
            if self.body is not None:
                await self.body()
            self.done.set()
        host.has_left(self)

    def refuse(self, why: str) -> None:
        self.refused = why
        self.done.set()


def leave(*_):
    raise SystemExit("from a callback")


async def stop_the_loop():
    asyncio.get_running_loop().stop()


async def leave_in_a_callback():
    asyncio.get_running_loop().call_soon(leave)


async def leave_in_a_task():
    async def other():
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        await asyncio.get_running_loop().create_task(other())


async def leave_the_thread():
    ident = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
    await asyncio.sleep(0)


async def leave_itself():
    raise SystemExit


async def cancel_all_others():
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


async def close_all_others():
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.get_coro().close()


@pytest.mark.crash_expected
@pytest.mark.parametrize(
    "body",
    [
        stop_the_loop,
        leave_in_a_callback,
        leave_in_a_task,
        leave_the_thread,
        leave_itself,
        cancel_all_others,
        close_all_others,
    ],
)
def test_whatever_a_call_does_to_the_loop_each_of_the_others_runs_or_is_refused(body):
    runner = LoopRunner("test-loop")
    for _ in range(3):
        calls = [Body(), Body(body), Body(), Body()]
        runner.submit(calls)
        assert all(call.done.wait(DEADLINE) for call in calls)

        after = Body()
        runner.submit([after])
        assert after.done.wait(DEADLINE)
        assert not after.refused
    loop = runner._current
    runner.close()
    assert not loop.thread.is_alive()


def test_a_call_that_no_task_can_be_made_for_is_refused_and_the_others_run():
    async def spoil():
        def fail_once(loop, coroutine, **_):
            loop.set_task_factory(None)
            raise MemoryError

        asyncio.get_running_loop().set_task_factory(fail_once)

    runner = LoopRunner("test-loop")
    first, calls = Body(spoil), [Body(), Body()]
    runner.submit([first])
    assert first.done.wait(DEADLINE)
    runner.submit(calls)
    assert all(call.done.wait(DEADLINE) for call in calls)
    runner.close()

    assert "MemoryError" in calls[0].refused
    assert not calls[1].refused


def test_a_hook_reports_once_although_its_task_is_done_before_it():
    """As where a plugin makes the loop's tasks, and drops what a cancelled one was to run."""
    reports, run = [], MagicMock(is_cancelled=False, needed=None, recovered=None, engine_main=None)
    run.planned.operations[0].on_main = lambda *_: asyncio.sleep(0)
    attempt = Attempt(run, 0, 0, HookName.ON_MAIN, 1, Lane.MAIN, reports.append)
    running = attempt.execute_async(MagicMock())
    running.send(None)
    attempt.refuse("its task is done")
    running.close()

    assert reports == [attempt]
    assert "its task is done" in str(attempt.error)
