"""Timers: a heap of callbacks, each with the time at which it is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("karbor_actors.actors")

_COMPACT_FROM = 64


class Timer:
    """A callback that is due later, as `Dispatcher.call_later` returns it.

    Any thread may call its methods.
    """

    __slots__ = ("_fn", "_queue", "when")

    def __init__(self, queue: TimerQueue, when: float, fn: Callable[[], object]) -> None:
        self._queue = queue
        self._fn: Callable[[], object] | None = fn
        self.when = when
        """When it is due, in seconds of its dispatcher's clock."""

    def cancel(self) -> None:
        """See to it that the callback does not start after this returns.

        Does nothing to a callback that has started, or was cancelled before.
        """
        if self._queue.take(self) is not None:
            self._queue.count_cancelled()

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to run."""
        return self._fn is not None

    def run(self) -> None:
        """Call the callback, unless it was cancelled; log what it raises. For dispatchers."""
        fn = self._queue.take(self)
        if fn is None:
            return
        try:
            fn()
        except BaseException:  # foreign code; the worker must live on
            logger.exception("A timer's callback failed: %r", fn)

    def _claim(self) -> Callable[[], object] | None:
        """Return the callback the first time, None ever after; the queue's lock is held."""
        fn, self._fn = self._fn, None
        return fn


class TimerQueue:
    """Timers ordered by when they are due, then by when they were added.

    Any thread may call its methods. Cancelled timers stay in the heap until they surface or
    outnumber the others: an hour's timeout for each of a million steps must not pile up.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Timer]] = []
        """For a cheap look at whether there are timers at all; otherwise private."""
        self._cancelled = 0
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # the collector may run a __del__ that cancels

    def add(self, when: float, fn: Callable[[], object]) -> tuple[Timer, bool]:
        """Add a timer; return it, and whether it is now the first one due."""
        timer = Timer(self, when, fn)
        with self._lock:
            heapq.heappush(self.heap, (when, next(self._numbers), timer))
            return timer, self.heap[0][2] is timer

    def take(self, timer: Timer) -> Callable[[], object] | None:
        """Return the timer's callback to the one caller that may run or drop it."""
        with self._lock:
            return timer._claim()  # noqa: SLF001

    def count_cancelled(self) -> None:
        """Note that a timer in the heap is void, and clean up when most of them are."""
        with self._lock:
            self._cancelled += 1
            if self._cancelled > max(_COMPACT_FROM, len(self.heap) // 2):
                # In place: workers hold on to the list.
                self.heap[:] = [entry for entry in self.heap if entry[2]._fn is not None]  # noqa: SLF001
                heapq.heapify(self.heap)
                self._cancelled = 0

    def pop_due(self, now: float) -> Timer | None:
        """Return the first timer due at *now*, for the caller to run, or None."""
        with self._lock:
            while self.heap and self.heap[0][0] <= now:
                timer = heapq.heappop(self.heap)[2]
                if timer._fn is not None:  # noqa: SLF001
                    return timer
                self._cancelled -= 1
        return None

    def is_due(self, now: float) -> bool:
        """Return whether a timer may be due at *now*: a cheap look without the lock."""
        try:
            return self.heap[0][0] <= now
        except IndexError:  # taken out meanwhile
            return False

    def next_due(self) -> float | None:
        """Return when the first timer is due, or None without timers."""
        with self._lock:
            while self.heap and self.heap[0][2]._fn is None:  # noqa: SLF001
                heapq.heappop(self.heap)
                self._cancelled -= 1
            return self.heap[0][0] if self.heap else None

    def clear(self) -> None:
        """Drop every timer."""
        with self._lock:
            for _, _, timer in self.heap:
                timer._claim()  # noqa: SLF001
            self.heap.clear()
            self._cancelled = 0
