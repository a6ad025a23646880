"""The event loop of async hooks, and those that a blocking hook made it replace."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import ThreadDispatcher
from karbor_actors.operations.hooks import event_loop as module
from karbor_actors.operations.hooks.event_loop import LoopRunner
from lone_hooks import LoneHook


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


@pytest.fixture
def watched(monkeypatch):
    """A runner that sees soon whether its loop answers, if something is urgent."""
    monkeypatch.setattr(module, "URGENT", 0.05)
    dispatcher = ThreadDispatcher(name="test-control")
    runner = LoopRunner("test-loop", call_later=dispatcher.call_later)
    yield runner
    runner.close()
    dispatcher.close(timeout=DEADLINE)


@pytest.mark.parametrize("why", ["a thaw", "a call that was given up"])
def test_what_is_urgent_waits_for_no_loop_that_a_hook_blocks(watched, caplog, why):
    runner = watched
    blocked, waiting, urgent = Call(Gate()), Body(), Body()
    runner.submit([blocked, waiting])
    blocked.gate.wait_entered()
    runner.submit([urgent], is_urgent=why == "a thaw")
    if why != "a thaw":
        runner.abandon(blocked)

    assert urgent.done.wait(DEADLINE)
    assert waiting.done.wait(DEADLINE)
    assert "a hook blocks the event loop in" in caplog.text
    blocked.gate.open()
    assert blocked.done.wait(DEADLINE)


def test_what_is_urgent_waits_for_none_of_several_loops_that_hooks_block(watched):
    runner = watched
    blocked, urgent = [Call(Gate()) for _ in range(3)], Body()
    runner.submit(blocked)
    runner.submit([urgent], is_urgent=True)

    assert urgent.done.wait(DEADLINE)
    for call in blocked:
        call.gate.open()
        assert call.done.wait(DEADLINE)


def test_a_loop_that_answers_stays_and_nothing_looks_at_it_for_ever(monkeypatch):
    monkeypatch.setattr(module, "URGENT", 0.01)
    dispatcher, looks = ThreadDispatcher(name="test-control"), []

    def call_later(delay, look):
        looks.append(delay)
        return dispatcher.call_later(delay, look)

    runner = LoopRunner("test-loop", call_later=call_later)
    calls = [Body() for _ in range(20)]
    for call in calls:
        runner.submit([call], is_urgent=True)
        assert call.done.wait(DEADLINE)
    first = runner._current
    pause = threading.Event()
    while not all(timer[2]._fn is None for timer in dispatcher._timers.heap):
        pause.wait(0.01)
    asked = len(looks)
    pause.wait(0.1)

    assert runner._current is first
    assert len(looks) == asked <= len(calls) + 1
    runner.close()
    dispatcher.close(timeout=DEADLINE)


def test_with_too_many_loops_what_is_urgent_waits_for_one_that_answers_soon(monkeypatch):
    """What was replaced lives as long as its longest task, and is blocked no more."""
    monkeypatch.setattr(module, "URGENT", 0.05)
    monkeypatch.setattr(module, "MAX_RETIRED", 1)
    dispatcher = ThreadDispatcher(name="test-control")
    runner, is_over = LoopRunner("test-loop", call_later=dispatcher.call_later), threading.Event()

    async def long():
        while not is_over.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)

    tasks = [Body(long) for _ in range(2)]
    for task in tasks:
        blocked, urgent = Call(Gate()), Body()
        runner.submit([task, blocked])
        blocked.gate.wait_entered()
        runner.submit([urgent], is_urgent=True)
        if task is tasks[0]:
            assert urgent.done.wait(DEADLINE)
        else:
            assert not urgent.done.wait(0.5)
        blocked.gate.open()
        assert urgent.done.wait(DEADLINE)
        assert not urgent.refused
    is_over.set()
    runner.close()
    dispatcher.close(timeout=DEADLINE)


def test_nothing_looks_for_ever_at_a_loop_that_there_is_no_other_for(monkeypatch):
    monkeypatch.setattr(module, "URGENT", 0.01)
    monkeypatch.setattr(module, "STUCK", 0.05)
    monkeypatch.setattr(module, "MAX_RETIRED", 0)
    dispatcher = ThreadDispatcher(name="test-control")
    runner = LoopRunner("test-loop", call_later=dispatcher.call_later)
    blocked, urgent = Call(Gate()), Body()
    runner.submit([blocked])
    blocked.gate.wait_entered()
    runner.submit([urgent], is_urgent=True)
    runner.abandon(blocked)

    assert urgent.done.wait(DEADLINE)
    assert "there is no other" in urgent.refused
    pause = threading.Event()
    for _ in range(int(DEADLINE * 100)):
        if not (runner._is_pressed or dispatcher._timers.heap):
            break
        pause.wait(0.01)
    assert not runner._is_pressed
    blocked.gate.open()
    runner.close()
    dispatcher.close(timeout=DEADLINE)


def test_what_waits_is_not_lost_where_the_system_has_no_other_loop(monkeypatch):
    runner, blocked, waiting = LoopRunner("test-loop"), Call(Gate()), Body()
    runner.submit([blocked, waiting])
    blocked.gate.wait_entered()

    def refuse():
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", refuse)
        runner.look_around()
        runner._look(0.0)
    blocked.gate.open()

    assert waiting.done.wait(DEADLINE)
    assert not waiting.refused
    runner.close()


def test_a_loop_may_answer_while_it_is_looked_at():
    runner = LoopRunner("test-loop")
    runner.submit([Body()])
    looks = [0.0, None, None, None]

    class Answering(type(runner._current)):
        asked_at = property(lambda _: looks.pop(0), lambda *_: None)

    runner._current.__class__ = Answering
    runner._look(1e9)
    is_kept = runner._current.__class__ is Answering and not runner._retired
    runner.close()

    assert is_kept
    assert looks == [None] * 3, "it was read once"


def test_a_signal_handler_may_ask_whose_thread_it_is_whatever_it_interrupts():
    runner = LoopRunner("test-loop")
    runner.submit([Body()])
    with runner._lock:
        assert not runner.runs_caller()
    runner.close()


def test_the_first_of_many_calls_begins_before_the_last_has_its_task():
    runner, seen = LoopRunner("test-loop"), []

    async def look():
        seen.append(len(asyncio.all_tasks()))
        await asyncio.sleep(0)

    calls = [Body(look) for _ in range(5 * module._MADE_AT_ONCE)]
    runner.submit(calls)
    assert all(call.done.wait(DEADLINE) for call in calls)
    runner.close()

    assert seen[0] <= module._MADE_AT_ONCE
    assert not any(call.refused for call in calls)


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


class Anywhere:
    """A host where all may begin, and nothing runs off the loop."""

    def may_begin(self, call) -> bool:
        return True

    def has_left(self, call) -> None:
        pass

    def outlives(self, call, end) -> bool:
        return False


def test_a_hook_reports_once_although_its_task_is_done_before_it():
    """As where a plugin makes the loop's tasks, and drops what a cancelled one was to run."""
    hook = LoneHook(lambda: asyncio.sleep(0))
    running = hook.attempt.execute_async(Anywhere())
    running.send(None)
    hook.attempt.refuse("its task is done")
    running.close()

    assert hook.reports == [hook.attempt]
    assert "its task is done" in str(hook.attempt.error)


@pytest.mark.crash_expected
def test_a_hook_whose_task_is_lost_reports_when_what_it_runs_off_the_loop_has_returned():
    gate = Gate()

    def forgetful(loop, coroutine, **_):
        """Make a task that is done once what it runs waits for the first time."""

        async def first_step():
            kept.append((coroutine, coroutine.send(None)))

        loop.set_task_factory(None)
        return asyncio.Task(first_step(), loop=loop)

    async def lose_the_next():
        asyncio.get_running_loop().set_task_factory(forgetful)

    kept: list[object] = []
    runner, spoiling = LoopRunner("test-loop"), Body(lose_the_next)
    hook = LoneHook(lambda: asyncio.to_thread(gate.pass_through))
    runner.submit([spoiling])
    assert spoiling.done.wait(DEADLINE)
    runner.submit([hook.attempt])
    gate.wait_entered()
    assert not hook.done.wait(0.05)
    gate.open()

    assert hook.done.wait(DEADLINE)
    runner.close()
    assert "what ran it died" in str(hook.attempt.error)
    kept.clear()
    assert hook.reports == [hook.attempt]
