"""Single calls that hooks on the event loop make in threads: what comes of them, and what stays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from helpers import DEADLINE
from karbor_actors import liveness
from karbor_actors.operations.hooks.event_loop import LoopRunner
from karbor_actors.operations.hooks.off_loop import OffLoop
from karbor_actors.operations.hooks.pool import Pool
from lone_hooks import LoneHook


@pytest.fixture
def runner():
    runner = LoopRunner("test-loop")
    yield runner
    for call in tuple(runner._wanted):  # a test has failed
        runner.abandon(call)
    runner.close()
    assert runner._off_loop._running == {}
    assert runner._off_loop._ends == {}


def run(runner, body):
    hook = LoneHook(body)
    runner.submit([hook.attempt])
    assert hook.done.wait(DEADLINE)
    assert hook.reports == [hook.attempt]
    return hook.attempt


def in_thread(fn, *args):
    return asyncio.get_running_loop().run_in_executor(None, fn, *args)


def test_what_runs_out_of_items_in_a_thread_fails_its_hook(runner):
    """No future of asyncio takes a StopIteration: who awaits it would wait for ever."""
    attempt = run(runner, lambda: asyncio.to_thread(next, iter(())))

    assert "StopIteration" in str(attempt.error)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_is_raised_in_a_thread_fails_the_hook_alone(runner, error):
    def leave():
        raise error

    attempt = run(runner, lambda: asyncio.to_thread(leave))
    assert error.__name__ in str(attempt.error)
    assert run(runner, lambda: asyncio.to_thread(int)).error is None


@pytest.mark.parametrize("is_run", [True, False], ids=["run", "cancelled"])
def test_a_callback_that_raises_ends_no_thread_but_that_hook(runner, is_run):
    """One of the engine's own would be next: whoever gives up the hook calls back as well."""

    def leave(_):
        raise SystemExit

    entered, opened = threading.Event(), threading.Event()

    async def body():
        executor = asyncio.get_running_loop()._default_executor
        futures = [executor.submit(lambda: (entered.set(), opened.wait(DEADLINE)))]
        if not is_run:
            places = runner._off_loop._main.limit
            futures += [executor.submit(opened.wait, DEADLINE) for _ in range(places)]
        futures[-1].add_done_callback(leave)
        await asyncio.wrap_future(futures[-1])

    hook = LoneHook(body)
    runner.submit([hook.attempt])
    assert entered.wait(DEADLINE)
    if not is_run:
        hook.attempt.is_fenced = True
        runner.abandon(hook.attempt)
    opened.set()

    assert hook.done.wait(DEADLINE)
    assert (hook.attempt.error is None) is is_run


@pytest.mark.crash_expected
def test_a_thread_that_dies_of_a_call_that_has_returned_is_no_reason_to_wait_for_it(
    runner, monkeypatch
):
    """What foreign code sets in the thread may be raised anywhere, once the call has returned too."""
    died = []

    def settle(work, result, error):
        monkeypatch.undo()
        died.append(work)
        raise SystemExit

    monkeypatch.setattr("karbor_actors.operations.hooks.off_loop._Work._settle", settle)
    attempt = run(runner, lambda: asyncio.to_thread(int))

    assert died
    assert "what ran it died" in str(attempt.error)


def test_nothing_that_a_call_got_or_raised_stays_when_nobody_has_it_any_more(runner):
    class Large:
        """Stands for something that takes much memory."""

    def fail(large):
        raise OSError("it is not there")

    left = []

    async def body():
        for call in (lambda large: large, fail):
            large = Large()
            left.append(weakref.ref(large))
            with contextlib.suppress(OSError):
                await in_thread(call, large)
            del large

    gc.collect()
    gc.disable()
    try:
        run(runner, body)
        runner.close()
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()


def test_a_worker_is_alive_for_nobody_once_it_has_made_a_hooks_call(runner):
    heard = []

    class Next:
        has_ended = False

        def execute(self):
            heard.append(liveness.listener.get())

    attempt = run(runner, lambda: in_thread(lambda: heard.append(liveness.listener.get())))
    runner._off_loop._main.submit([Next()])
    runner.close()

    assert heard == [attempt, None]


def test_what_comes_while_the_lanes_are_closed_is_refused(monkeypatch):
    """And not lost, so that who awaits it would wait for ever."""
    off_loop = OffLoop(1, "test-loop", Pool())
    submit = off_loop._main.submit

    def submit_late(calls, **options):
        off_loop.close()
        return submit(calls, **options)

    monkeypatch.setattr(off_loop._main, "submit", submit_late)
    with pytest.raises(RuntimeError, match="shut down"):
        off_loop.submit(int)


def test_a_thread_whose_call_has_returned_is_not_replaced_when_the_hook_ends(runner):
    """It is about to look for the next one: another would be started for every few hooks."""
    ended = threading.Event()

    async def body():
        loop, returned = asyncio.get_running_loop(), asyncio.Event()

        def stay(_):
            loop.call_soon_threadsafe(returned.set)
            assert ended.wait(DEADLINE)

        loop._default_executor.submit(int).add_done_callback(stay)
        await returned.wait()

    run(runner, body)
    run(runner, lambda: asyncio.sleep(0))  # the first has left by then
    abandoned = runner.abandoned
    ended.set()

    assert abandoned == 0


def test_close_does_not_wait_for_what_is_begun_after_the_end_of_its_hook(runner):
    began, opened, tasks = threading.Event(), threading.Event(), []

    def hang():
        began.set()
        opened.wait(DEADLINE)

    async def body():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # the task does not end with the loop
        tasks.append(loop.create_task(asyncio.to_thread(hang)))  # it begins after this

    run(runner, body)
    assert began.wait(DEADLINE)
    closing = threading.Thread(target=runner.close)
    closing.start()
    closing.join(DEADLINE)
    is_closed = not closing.is_alive()
    opened.set()
    closing.join(DEADLINE)

    assert is_closed
    for thread in threading.enumerate():
        if thread.name.startswith("test-loop"):
            thread.join(DEADLINE)
