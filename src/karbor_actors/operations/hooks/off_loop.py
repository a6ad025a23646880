"""What hooks on the event loop run off it, in threads: `asyncio.to_thread`, and the bank's twins.

As with plain hooks, what prepares, what copies and what aborts have places of their own, so that no
copy keeps a frozen server waiting for its thaw; and a thread that runs what a given-up hook began is
replaced. What a hook runs in a thread cannot be cancelled: a hook that failed, or was given up, has
ended only once that has returned.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from karbor_actors import liveness
from karbor_actors.model import HookName
from karbor_actors.operations.hooks.attempt import PREPARE_HOOKS, Attempt
from karbor_actors.operations.hooks.workers import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.operations.hooks.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

_LEAST = min(32, (os.cpu_count() or 1) + 4)
"""Places of a lane at least, as many as asyncio has threads: hooks may count on several at once."""


class OffLoop(ThreadPoolExecutor):
    """The default executor of an event loop of hooks. Any thread.

    It has none of its base class but the name: asyncio takes no other for a default executor.

    Args:
        workers: Places in each of its lanes, if that is more than asyncio would have threads.
        name: What the names of its threads begin with.
        pool: Whose threads its lanes share.
    """

    def __init__(self, workers: int, name: str, pool: Pool) -> None:
        super().__init__(1)
        self._prepare, self._main, self._abort = (
            ThreadRunner(max(workers, _LEAST), f"{name}-{lane}", pool=pool)
            for lane in ("prepare", "main", "abort")
        )
        self._lanes = (self._prepare, self._main, self._abort)
        self._guard = threading.Lock()
        self._running: dict[object, set[_Work]] = {}
        """What each hook has begun, and has not returned."""
        self._ends: dict[object, Callable[[], object]] = {}
        """Called once that of a hook has."""
        self._is_closing = False

    @property
    def abandoned(self) -> int:
        """How many threads run what given-up hooks began."""
        return sum(lane.abandoned for lane in self._lanes)

    def runs_caller(self) -> bool:
        """Return whether one of its threads is what calls this."""
        return any(lane.runs_caller() for lane in self._lanes)

    def look_around(self, now: float) -> None:
        """See ThreadRunner, for what thaws. And replace what began too late for its hook."""
        self._abandon_late()
        self._prepare.look_around(now)
        self._abort.look_around(now)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have *fn* called for the hook whose task calls this; return the future of its result.

        Raises:
            RuntimeError: It is closed.
        """
        listener = liveness.listener.get()
        whose = listener if isinstance(listener, Attempt) else None
        lane = self._lane_of(whose)
        work = _Work(self, whose, lane, partial(fn, *args, **kwargs))
        if whose is not None:
            with self._guard:
                self._running.setdefault(whose, set()).add(work)
        is_thaw = whose is not None and whose.hook is HookName.ON_PREPARE_FINISH
        if self._is_closing or not lane.submit([work], first=is_thaw):
            self.left(work)
            raise RuntimeError("the executor was shut down")
        return work

    def outlives(self, whose: object, end: Callable[[], object]) -> bool:
        """Return whether something that *whose* began has not returned; *end* is called when it has."""
        with self._guard:
            if whose not in self._running:
                return False
            self._ends[whose] = end
            return True

    def abandon(self, whose: object) -> None:
        """Give up what *whose* has begun: other threads take the places of those that run it.

        What is queued never begins.
        """
        with self._guard:
            begun = list(self._running.get(whose, ()))
        for work in begun:
            if not work.cancel() and work.running():  # else its thread is about to leave it
                work.lane.abandon(work)

    def begins(self, work: _Work) -> None:
        """Note that the calling thread is about to make the call *work*."""
        if self._is_closing and work.is_unwanted:
            work.lane.abandon(work)

    def leave(self, whose: object) -> None:
        """Wait no more for what *whose* has begun, which has ended, and well: as :meth:`abandon`."""
        if whose in self._running:
            self.abandon(whose)

    def left(self, work: _Work) -> None:
        """Note that *work* has returned, or will not begin. Idempotent."""
        if work.whose is None:
            return
        with self._guard:
            running = self._running.get(work.whose)
            if running is None:
                return
            running.discard(work)
            if running:
                return
            del self._running[work.whose]
            end = self._ends.pop(work.whose, None)
        if end is not None:
            end()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: a loop that ends calls this, and there may be others."""

    def close(self) -> None:
        """Run what is queued, then end every thread, but for those that run what was given up."""
        self._is_closing = True  # what begins from now on looks at that
        self._abandon_late()
        for lane in self._lanes:
            lane.close()

    def _lane_of(self, whose: Attempt | None) -> ThreadRunner:
        if whose is None:
            return self._main
        if whose.hook is HookName.ON_ABORT:
            return self._abort
        return self._prepare if whose.hook in PREPARE_HOOKS else self._main

    def _abandon_late(self) -> None:
        """Give up what runs for hooks that began it after they were given up themselves, or ended.

        Not at once: it is most often a quick thaw in a ``finally``, and threads that are given up
        are counted.
        """
        with self._guard:
            begun = [work for works in self._running.values() for work in works]
        for work in begun:
            if work.is_unwanted and work.running():
                work.lane.abandon(work)


class _Work(Future[Any]):
    """A call that a hook on the event loop makes in a thread, and what comes of it."""

    def __init__(
        self, host: OffLoop, whose: Attempt | None, lane: ThreadRunner, fn: Callable[[], Any]
    ) -> None:
        super().__init__()
        self._host, self.whose, self.lane = host, whose, lane
        self._fn = fn
        self.has_ended = False

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for its hook, which was given up, or has ended."""
        whose = self.whose
        return whose is not None and (whose.is_fenced or whose.has_ended)

    def cancel(self) -> bool:
        """Cancel it, unless it has begun; nobody waits then until its turn would have come."""
        is_cancelled = super().cancel()
        if is_cancelled:
            self._fn = _nothing
            self._host.left(self)
        return is_cancelled

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Have *fn* called when it is done, on a thread of the engine's, which goes on."""
        super().add_done_callback(partial(_call_back, fn))

    def execute(self) -> None:
        """Make it, unless it was cancelled."""
        if self.set_running_or_notify_cancel():
            self._host.begins(self)
            liveness.listener.set(self.whose)
            self._settle(*_outcome(self._fn))
            liveness.listener.set(None)
        self.has_ended = True
        self._host.left(self)
        del self  # what was raised knows this frame, and would keep itself

    async def execute_async(self, host: object) -> None:
        """It is never asynchronous."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Tell who waits for it that no thread is there, or that the one that ran it died."""
        if not self.done() and (self.running() or self.set_running_or_notify_cancel()):
            self.set_exception(RuntimeError(why))
        self._host.left(self)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        self._fn = _nothing
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(error)


def _call_back(fn: Callable[[Future[Any]], object], future: Future[Any]) -> None:
    try:
        fn(future)
    except Exception:  # its caller logs that
        raise
    except BaseException as error:
        raise RuntimeError("a callback of a future raised what ends threads") from error


def _nothing() -> None:
    """Stand for what has returned, or will not begin."""


def _outcome(fn: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return what *fn* returns, and what it raises."""
    try:
        return fn(), None
    except StopIteration as error:
        return None, _no_iteration(error)
    except BaseException as error:  # for who awaits it
        return None, error


def _no_iteration(stop: StopIteration) -> RuntimeError:
    """Return what to raise for *stop*, which no asyncio future takes: who awaits it would for ever."""
    error = RuntimeError("StopIteration cannot be raised into a future")
    error.__cause__ = stop
    return error
