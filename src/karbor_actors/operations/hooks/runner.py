"""Where hook bodies run: worker threads, or the engine's event loop.

A runner takes calls in batches and runs each once. A call never raises; it reports its
outcome by itself. Each lane has workers of its own, so that long mains never keep a frozen
server waiting for a thaw.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from karbor_actors.operations.hooks.event_loop import LoopRunner, report_lost

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence


_NO_THREAD = "no worker is left: the system gives this process no more threads"
_LINGER = 5.0
"""Seconds that a worker waits for work before it ends."""
_STUCK = 5.0
"""Seconds without a call taken from its queue after which a lane gets another worker."""
MAX_ABANDONED = 4
"""Times the workers of a lane: so many threads may run calls that were given up."""


class Lane(StrEnum):
    """Which workers a call runs on."""

    PREPARE = "prepare"
    MAIN = "main"
    ABORT = "abort"
    PLAN = "plan"
    """Planning of operations: calls plugins, which may hang."""
    RECORD = "record"
    """Opening and closing of operations: waits for the bank only."""


class Call(Protocol):
    """Something to run once on a worker."""

    def execute(self) -> None:
        """Run; must not raise."""

    def execute_async(self) -> Coroutine[Any, Any, None]:
        """Run on the event loop; must not raise."""

    def refuse(self, why: str) -> None:
        """Report that it will not run; must not raise."""


class HookRunner(Protocol):
    """Runs calls somewhere else than on the caller's thread."""

    def submit(self, calls: Sequence[Call], *, first: bool = False) -> None:
        """Queue *calls*, in order, with *first* before all others; never blocks. Any thread."""

    def abandon(self, call: Call) -> None:
        """Give up *call*, which takes too long: nobody waits for it, others get its place."""

    def close(self) -> None:
        """Run what is queued, then end the workers; blocks until they have ended.

        Not those of abandoned calls: their threads end when the calls do.
        """


class ThreadRunner:
    """Runs calls on up to *workers* threads, started when there is work.

    A thread that has had nothing to do for a while ends. One worker at a time is woken, or
    started; if it finds more than one call it wakes the next: so all get to work on long calls,
    and the first few deal with a burst of short ones.

    A call that was given up keeps its thread until it returns, and another thread takes its
    place; once there are too many of those, new calls are refused until some return.

    Args:
        workers: Threads that take calls.
        name: What the threads' names begin with.
        max_abandoned: Threads of calls that were given up, at most.
    """

    def __init__(self, workers: int, name: str, max_abandoned: int | None = None) -> None:
        self._workers, self._name = workers, name
        self._max_abandoned = MAX_ABANDONED * workers if max_abandoned is None else max_abandoned
        self._queue: deque[Call] = deque()
        self._lock = threading.Lock()
        self._sleepers: list[threading.Lock] = []
        """Of each worker that sleeps, the lock that wakes it; the last to fall asleep is woken first."""
        self._threads: list[threading.Thread] = []
        self._running: dict[threading.Thread, Call] = {}
        self._abandoned: set[threading.Thread] = set()
        self._started = 0
        self._is_waking = False
        """Whether a worker was woken, or started, that has not looked at the queue yet."""
        self._closed = False
        self._front, self._front_since = 0, 0.0
        """The id of the call that was first in the queue at the last look, and since when."""

    def submit(self, calls: Sequence[Call], *, first: bool = False) -> None:
        """Queue *calls*, in order, with *first* before all others; not once closed. Any thread."""
        with self._lock:
            if self._closed:
                return
            is_taken = len(self._abandoned) < self._max_abandoned
            if is_taken and first:
                self._queue.extendleft(reversed(calls))
            elif is_taken:
                self._queue.extend(calls)
            if is_taken:
                self._wake_one()
            stranded = self._stranded()
        if not is_taken:
            self._refuse(calls)
        for unlucky in stranded:
            unlucky.refuse(_NO_THREAD)

    def look_around(self, now: float) -> None:
        """Start one more worker if nothing is taken from the queue, since all of them hang.

        There are twice as many at most; the others end when there is nothing to do.
        """
        with self._lock:
            front = id(self._queue[0]) if self._queue else 0
            if front != self._front:
                self._front, self._front_since = front, now
                return
            is_stuck = front and not self._is_waking and now - self._front_since >= _STUCK
            if is_stuck and len(self._threads) < 2 * self._workers:
                self._start_worker()

    @property
    def abandoned(self) -> int:
        """How many threads still run calls that were given up."""
        return len(self._abandoned)

    def runs_caller(self) -> bool:
        """Return whether a call of its is what calls this."""
        return threading.current_thread() in self._running

    def abandon(self, call: Call) -> None:
        """Give up *call*; another thread may take the place of the one that runs it."""
        with self._lock:
            for thread, running in list(self._running.items()):
                if running is call:
                    self._threads.remove(thread)
                    self._abandoned.add(thread)
                    break
            else:
                with contextlib.suppress(ValueError):  # a worker takes it meanwhile
                    self._queue.remove(call)
            refused: list[Call] = []
            if len(self._abandoned) >= self._max_abandoned:
                with contextlib.suppress(IndexError):  # a worker takes one meanwhile
                    while self._queue:
                        refused.append(self._queue.popleft())
            if self._queue:
                self._wake_one()
            stranded = self._stranded()
        self._refuse(refused)
        for unlucky in stranded:
            unlucky.refuse(_NO_THREAD)

    def _refuse(self, calls: Sequence[Call]) -> None:
        why = f"no worker is left: {self._max_abandoned} hooks that were given up have not returned"
        for call in calls:
            call.refuse(why)

    def close(self) -> None:
        """Run what is queued, then end the workers; blocks until they have ended."""
        with self._lock:
            self._closed = True
            while self._sleepers:
                self._sleepers.pop().release()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _wake_one(self) -> None:
        if self._is_waking:
            return
        if self._sleepers:
            self._is_waking = True
            self._sleepers.pop().release()
        elif len(self._threads) < self._workers:
            self._start_worker()

    def _start_worker(self) -> None:
        self._started += 1
        name = f"{self._name}-{self._started}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more of them: those that are there go on
            return
        self._threads.append(thread)
        self._is_waking = True

    def _stranded(self) -> list[Call]:
        """Take the calls that nobody is there to run, nor will be."""
        stranded: list[Call] = []
        while self._queue and not self._threads:
            stranded.append(self._queue.popleft())
        return stranded

    def _work(self) -> None:
        alarm = threading.Lock()
        alarm.acquire()
        try:
            self._serve(alarm)
        except BaseException as error:  # a bug, or what foreign code has set in this thread
            self._died(alarm, error)

    def _died(self, alarm: threading.Lock, error: BaseException) -> None:
        """Leave the place of this worker, which dies of *error*, to another one."""
        own = threading.current_thread()
        with self._lock:
            call = self._running.pop(own, None)
            self._abandoned.discard(own)
            if own in self._threads:
                self._threads.remove(own)
            if alarm in self._sleepers:
                self._sleepers.remove(alarm)
            self._is_waking = False  # it may be the one that was woken
            if self._queue:
                self._wake_one()
            stranded = self._stranded()
        report_lost(call, error)
        for unlucky in stranded:
            unlucky.refuse(_NO_THREAD)

    def _serve(self, alarm: threading.Lock) -> None:
        own, queue, running = threading.current_thread(), self._queue, self._running
        is_fresh = True
        while True:
            if own in self._abandoned:
                with self._lock:
                    self._abandoned.discard(own)
                return
            try:
                call = queue.popleft()  # without the lock, for which all workers would queue up
            except IndexError:
                if not self._sleep(alarm):
                    return
                is_fresh = True
                continue
            running[own] = call
            if is_fresh:
                is_fresh = False
                with self._lock:
                    self._is_waking = False
                    if queue:
                        self._wake_one()
            call.execute()
            del running[own], call

    def _sleep(self, alarm: threading.Lock) -> bool:
        """Sleep until there may be something to do; return False when the thread must end."""
        with self._lock:
            if self._queue:
                return True
            self._is_waking = False
            if self._closed:
                return False
            self._sleepers.append(alarm)
        if alarm.acquire(timeout=_LINGER):
            return True
        with self._lock:
            if alarm in self._sleepers:
                self._sleepers.remove(alarm)
                self._threads.remove(threading.current_thread())
                return False
        alarm.acquire()  # it was woken after all
        return True


class Runners:
    """One runner per lane, and the event loop; what an engine owns.

    Args:
        workers: Threads at most, in each of the lanes prepare, main and abort; where a thaw would
            wait, since all of a lane's hang, it gets up to twice as many.
        name: What the threads' names begin with.
    """

    PLANNERS = 16
    RECORDERS = 32
    """Those that wait for one commit share it; they do little else."""

    def __init__(self, workers: int, name: str = "karbor") -> None:
        self._lanes: dict[Lane, ThreadRunner] = {
            lane: ThreadRunner(
                {Lane.PLAN: self.PLANNERS, Lane.RECORD: self.RECORDERS}.get(lane, workers),
                f"{name}-{lane}",
            )
            for lane in Lane
        }
        self._loop = LoopRunner(f"{name}-loop")

    @property
    def abandoned(self) -> int:
        """How many threads run calls that were given up and have not returned."""
        return self._loop.abandoned + sum(runner.abandoned for runner in self._lanes.values())

    def runs_caller(self) -> bool:
        """Return whether a call of theirs is what calls this: a hook, say."""
        return self._loop.runs_caller() or any(
            runner.runs_caller() for runner in self._lanes.values()
        )

    def look_around(self) -> None:
        """See whether the event loop answers, and whether hung hooks keep a thaw waiting.

        The loop is replaced, and the lanes of what thaws get more workers. Never blocks.
        """
        self._loop.look_around()
        now = time.monotonic()
        for lane in (Lane.PREPARE, Lane.ABORT):
            self._lanes[lane].look_around(now)

    def submit(self, lane: Lane, calls: Sequence[Call], *, first: bool = False) -> None:
        """Queue *calls* on the workers of *lane*, with *first* before all others."""
        self._lanes[lane].submit(calls, first=first)

    def submit_async(self, calls: Sequence[Call]) -> None:
        """Start *calls* on the event loop."""
        self._loop.submit(calls)

    def abandon(self, lane: Lane, call: Call) -> None:
        """Give up *call*, which takes too long, wherever it runs."""
        self._lanes[lane].abandon(call)
        self._loop.abandon(call)

    def close(self) -> None:
        """Run what is queued, then end every worker."""
        runners: list[HookRunner] = [*self._lanes.values(), self._loop]
        for runner in runners:
            runner.close()
