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

    @property
    def abandoned(self) -> int:
        """How many threads run what given-up hooks began."""
        return sum(lane.abandoned for lane in self._lanes)

    def runs_caller(self) -> bool:
        """Return whether one of its threads is what calls this."""
        return any(lane.runs_caller() for lane in self._lanes)

    def look_around(self, now: float) -> None:
        """See ThreadRunner, for what thaws."""
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
        if lane.is_closed:
            raise RuntimeError("the executor was shut down")
        work = _Work(whose, lane, partial(fn, *args, **kwargs), self._left)
        if whose is not None:
            with self._guard:
                self._running.setdefault(whose, set()).add(work)
        is_thaw = whose is not None and whose.hook is HookName.ON_PREPARE_FINISH
        lane.submit([work], first=is_thaw)
        return work.future

    def outlives(self, whose: object, end: Callable[[], object]) -> bool:
        """Return whether something that *whose* began has not returned; *end* is called when it has."""
        with self._guard:
            if whose not in self._running:
                return False
            self._ends[whose] = end
            return True

    def abandon(self, whose: object) -> None:
        """Give up what *whose* has begun: other threads take the places of those that run it."""
        with self._guard:
            begun = list(self._running.get(whose, ()))
        for work in begun:
            is_cancelled = work.future.cancel()
            work.lane.abandon(work)
            if is_cancelled:
                self._left(work)

    def leave(self, whose: object) -> None:
        """Wait no more for what *whose* has begun, which has ended, and well: as :meth:`abandon`."""
        if whose in self._running:
            self.abandon(whose)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: a loop that ends calls this, and there may be others."""

    def close(self) -> None:
        """Run what is queued, then end every thread, but for those that run what was given up."""
        for lane in self._lanes:
            lane.close()

    def _lane_of(self, whose: Attempt | None) -> ThreadRunner:
        if whose is None:
            return self._main
        if whose.hook is HookName.ON_ABORT:
            return self._abort
        return self._prepare if whose.hook in PREPARE_HOOKS else self._main

    def _left(self, work: _Work) -> None:
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


class _Work:
    """A call that a hook on the event loop makes in a thread."""

    __slots__ = ("_fn", "_left", "future", "has_ended", "lane", "whose")

    def __init__(
        self,
        whose: Attempt | None,
        lane: ThreadRunner,
        fn: Callable[[], Any],
        left: Callable[[_Work], None],
    ) -> None:
        self.whose, self.lane, self._fn, self._left = whose, lane, fn, left
        self.future: Future[Any] = Future()
        self.has_ended = False

    def execute(self) -> None:
        """Make it, unless it was cancelled."""
        liveness.listener.set(self.whose)  # until the worker's next call: nobody else asks
        if self.future.set_running_or_notify_cancel():
            try:
                result = self._fn()
            except BaseException as error:  # for who asks the future
                self.future.set_exception(error)
            else:
                self.future.set_result(result)
        self.has_ended = True
        self._left(self)

    async def execute_async(self, host: object) -> None:
        """It is never asynchronous."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Tell who waits for it that no thread is there."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(RuntimeError(why))
        self._left(self)
