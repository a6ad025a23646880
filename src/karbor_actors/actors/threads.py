"""The dispatcher of real programs: a few threads that sleep whenever there is nothing to do."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from contextlib import nullcontext, suppress
from math import inf
from typing import TYPE_CHECKING, Any

from karbor_actors.actors.dispatcher import (
    Dispatcher,
    current_dispatcher,
    logger,
    set_current_dispatcher,
)
from karbor_actors.actors.lending import Lender, current_lender
from karbor_actors.actors.timers import TimerQueue
from karbor_actors.actors.uninterrupted import done_aside, hand_over, is_main_thread
from karbor_actors.arguments import check_instance, checked_count
from karbor_actors.errors import DispatcherClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.actors.dispatcher import Reply, Runnable, T
    from karbor_actors.actors.timers import Timer

    Waiter = threading.Lock  # held while its worker sleeps; a release wakes it

_TURNS_BETWEEN_LOOKS = 16
"""Turns after which a busy worker looks whether a timer is due."""
_LENT_TURNS = 8
"""Turns that a thread which is lent takes at most before one of the dispatcher's own goes on."""
_SHOWN = 3
_release = type(threading.Lock()).release
_dispatchers: weakref.WeakSet[ThreadDispatcher] = weakref.WeakSet()


class ThreadDispatcher(Dispatcher):
    """Runs actors on up to *threads* daemon threads, started when there is work for them.

    How workers sleep, without a lock on the way of a tell. A worker with nothing to do puts
    its own lock on a stack of waiters, *then* looks at the ready queue again, then blocks on
    the lock. A scheduler puts its runnable on the ready queue, *then* looks at the waiters.
    Whatever the interleaving, one of them sees the other. One sleeper, the keeper, sits at
    the bottom of the stack and sleeps no longer than the first timer allows; it is woken
    for work only when nobody else sleeps. Workers that are busy look at the timers after
    each turn.

    One with one thread runs its actors on others too, which lend themselves (`Lender`), but on one
    at a time: whoever has the turn looks for what is ready once more after it has given it back.
    Such a one may have a second thread of its own, which goes on while the first is lent.
    Where nobody lends himself who schedules, `lent_by` may find one who sleeps.

    Args:
        threads: how many actors may run at the same time; at least 1.
        name: what the threads are called, with a number added.
        spare: how many more threads may stand in for workers that are blocked in an ask.
            Without them a blocking ask on a worker can deadlock, as in any pool.
        lends: whether a thread that has nothing else to do runs the actors of other dispatchers
            that its own have told something, which never wait for those within their turn.
        blocks: whether its actors wait for a disk or the like.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        name: str = "karbor-control",
        spare: int = 0,
        lends: bool = False,
        blocks: bool = False,
    ) -> None:
        checked_count("threads", threads)
        checked_count("spare", spare, least=0)
        check_instance("name", name, str, "a string")
        super().__init__()
        self.name = name
        self._spare = spare
        self.has_one_thread = threads == 1 and not spare
        self._lends, self.blocks = lends and self.has_one_thread, blocks
        self._limit = threads + self._lends
        self._lent_turns = _LENT_TURNS
        if blocks:  # whoever is lent has others to tell of what it waited for
            self.throughput = self._lent_turns = 1
        self._ready: deque[Runnable] = deque()
        self._waiters: deque[Waiter] = deque()
        # In one call, and not of Python's: a signal that came in between would lose the worker.
        self._wake_last = map(_release, iter(self._waiters.pop, None))
        self._wake_first = map(_release, iter(self._waiters.popleft, None))
        self._keeper: Waiter | None = None
        self._wakes_at = inf
        """When the keeper wakes by itself; ``inf`` while it is about to decide that."""
        self._turn = threading.Lock() if self.has_one_thread else None
        """Held by the one thread that runs its actors."""
        self._is_taken = False
        """Whether some thread has the turn, and looks again once it has given it back."""
        self.lent_by: Callable[[ThreadDispatcher], bool] | None = None
        """Has a thread that sleeps elsewhere `run_here`, or `rouse`, soon; returns whether one will."""
        self._timers = TimerQueue()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._blocked = 0
        self._may_grow = True
        self._closed = False
        _dispatchers.add(self)

    def __repr__(self) -> str:
        return f"<ThreadDispatcher {self.name!r}: {len(self._threads)} of {self._limit} threads>"

    def schedule(self, runnable: Runnable) -> None:
        """Have a worker call ``runnable.run()`` once; after `close()` this does nothing.

        Raises:
            RuntimeError: when the system refuses the very first thread.
        """
        self._ready.append(runnable)
        if self._is_taken:
            return
        if self.has_one_thread and (lender := current_lender()) is not None and lender.owes(self):
            return
        if self.lent_by is None or not self.lent_by(self):
            self._find_worker()

    def schedule_all(self, runnables: Sequence[Runnable]) -> None:
        """See `Dispatcher.schedule_all`; as many workers are woken as there is work for."""
        self._ready.extend(runnables)
        for _ in range(0 if self._is_taken else min(len(runnables), self._limit)):
            self._find_worker()

    def run_all(self, runnables: Sequence[Runnable]) -> None:
        """See `Dispatcher.run_all`: without a way through the queue, where others wait."""
        if self.has_one_thread and current_dispatcher() is self:
            for runnable in runnables:
                runnable.run()
        else:
            self.schedule_all(runnables)

    def call_later(self, delay: float, fn: Callable[[], object]) -> Timer:
        """See `Dispatcher.call_later`. A timer wakes a sleeping worker exactly when it is due."""
        if self._closed:
            raise DispatcherClosedError
        when = time.monotonic() + (delay if delay > 0 else 0.0)
        timer, is_first = self._timers.add(when, fn)
        if is_first and not (self._is_taken and when >= self._wakes_at):
            if self._waiters:
                self._wake(keeper=True)
            elif self._may_grow:
                self._grow()
        return timer

    def run_here(self, lender: Lender) -> None:
        """Run what is ready on the calling thread, which is *lender*'s, unless another one does.

        For some turns, until the thread has something else to do: a commit that it owes, say.
        """
        turn, ready = self._turn, self._ready
        if turn is None or not turn.acquire(False):
            return  # whoever has it looks again
        outer = current_dispatcher()
        set_current_dispatcher(self)
        self._is_taken = True
        try:
            for _ in range(self._lent_turns):
                if not ready or lender.is_wanted:
                    break
                self._run(ready.popleft())
        finally:
            self._is_taken = False  # first: who still finds it set has scheduled before the look
            set_current_dispatcher(outer)
            turn.release()
            self.rouse()

    def rouse(self) -> None:
        """Find a worker for what is ready, if there is anything that nobody looks at."""
        if self._ready and not self._is_taken:
            self._find_worker()

    now = staticmethod(time.monotonic)
    """See `Dispatcher.now`."""

    def close(self, *, timeout: float | None = None) -> None:
        """See `Dispatcher.close`. Its threads have ended when this returns."""
        if current_dispatcher() is self:
            msg = (
                f"close() of dispatcher {self.name!r} waits for the thread that calls it; "
                "call it from a thread that is not the dispatcher's"
            )
            raise RuntimeError(msg)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._begin_closing()
        self._all_stopped.wait(_remaining(deadline))
        left = self._abandon_all()
        with self._lock:
            self._closed, self._may_grow = True, False
            threads = list(self._threads)
        self._timers.clear()
        while self._waiters:
            self._wake()
        for thread in threads:
            thread.join(_remaining(deadline))
        if left or any(thread.is_alive() for thread in threads):
            shown = ", ".join(map(str, left[:_SHOWN]))
            msg = f"dispatcher {self.name!r} gave up {len(left)} actors at its deadline: {shown}"
            raise TimeoutError(msg)

    def uninterrupted(self, function: Callable[[], T]) -> T:
        """See `Dispatcher.uninterrupted`."""
        if self._closed or not is_main_thread():
            return function()
        try:
            return hand_over(function, self.schedule, lambda: self._closed)
        finally:
            self.rouse()  # if it was interrupted before anybody was woken

    def await_reply(self, future: Reply, timeout: float | None) -> Any:
        """Wait for *future*; a spare thread takes over from a worker that waits."""
        if not self._spare or current_dispatcher() is not self:
            return future.wait_result(timeout)
        self._count_blocked(1)
        try:
            return future.wait_result(timeout)
        finally:
            self._count_blocked(-1)

    def _count_blocked(self, change: int) -> None:
        with self._lock:
            self._blocked += change
            self._update_may_grow()
        self._rouse()

    def _update_may_grow(self) -> None:
        wanted = self._limit + min(self._blocked, self._spare)
        self._may_grow = not self._closed and len(self._threads) < wanted

    def _rouse(self) -> None:
        """Find a worker for what is ready or timed: the last one may just have become busy."""
        if self._ready or self._timers.heap:
            self._find_worker()

    def _find_worker(self) -> None:
        if self._waiters:
            self._wake()
        elif self._may_grow:
            self._grow()

    def _wake(self, *, keeper: bool = False) -> None:
        with suppress(IndexError):  # another thread woke it first; it looks at all that is to do
            next(self._wake_first if keeper else self._wake_last)

    def _grow(self) -> None:
        done_aside(self._add_thread)  # a signal's handler may want the lock, or the thread

    def _add_thread(self) -> None:
        with self._lock:
            self._update_may_grow()
            if not self._may_grow:
                return
            self._started += 1
            name = f"{self.name}-{self._started}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                self._threads.add(thread)
                self._update_may_grow()
                thread.start()
            except RuntimeError:
                self._threads.discard(thread)
                if not self._threads:
                    self._may_grow = True
                    raise
                # The workers there are do the work, more slowly.
                self._may_grow = False
                logger.warning("Dispatcher %r cannot start thread %s", self.name, name)

    def _work(self) -> None:
        """Run what is ready, over and over; the body of each thread."""
        set_current_dispatcher(self)
        waiter = threading.Lock()
        waiter.acquire()
        lender = Lender(lambda: True, self._may_run, own=self) if self._lends else None
        while True:
            with self._turn or nullcontext():
                self._is_taken = self.has_one_thread
                self._run_ready(lender)
                self._is_taken = False
            if lender is not None and lender.owed:
                self._keep_time()
                lender.pay()
            if not self._sleep(waiter):
                return

    def _may_run(self, dispatcher: ThreadDispatcher) -> bool:
        """Return whether a thread of its own may run *dispatcher*'s actors: its last waits for no disk."""
        is_spare = bool(self._waiters) or self._may_grow
        return not self._ready and (is_spare or not dispatcher.blocks)

    def _run_ready(self, lender: Lender | None) -> None:
        """Run what is ready, and due, until nothing is; *lender* pays then, or does not wait for it."""
        ready, timers = self._ready, self._timers.heap
        while True:
            if timers and self._timers.is_due(time.monotonic()):
                self._run_due()
            for _ in range(_TURNS_BETWEEN_LOOKS):
                try:
                    runnable = ready.popleft()
                except IndexError:
                    return
                self._run(runnable)
                # An ended actor must not live on in a sleeping worker's frame.
                del runnable
                if lender is not None and ready and lender.owed:
                    lender.give_up()

    def _run(self, runnable: Runnable) -> None:
        try:
            runnable.run()
        except BaseException:  # a bug in a runnable must not cost a worker
            logger.exception("A worker of dispatcher %r ran into an error", self.name)

    def _run_due(self) -> None:
        """Run the timers due now, not those that they add: turns come in between."""
        now = time.monotonic()
        while (timer := self._timers.pop_due(now)) is not None:
            timer.run()

    def _sleep(self, waiter: Waiter) -> bool:
        """Block until there may be something to do; return False when the thread must end."""
        with self._lock:
            surplus = len(self._threads) > self._limit + self._blocked
            if (self._closed and not self._ready) or surplus:
                self._threads.discard(threading.current_thread())
                self._update_may_grow()
                is_ending = True
            else:
                is_ending = False
                is_keeper = self._keeper not in self._waiters
                if is_keeper:
                    self._keeper = waiter
                    self._waiters.appendleft(waiter)
                else:
                    self._waiters.append(waiter)
        if is_ending:
            self._rouse()
            return False
        due = None
        if is_keeper:
            self._wakes_at = inf  # before it looks: who adds a timer now wakes it
            if (due := self._timers.next_due()) is not None:
                self._wakes_at = due
        timeout = (
            -1.0 if due is None else min(max(due - time.monotonic(), 0), threading.TIMEOUT_MAX)
        )
        if self._ready or not waiter.acquire(timeout=timeout):
            try:
                self._waiters.remove(waiter)
            except ValueError:
                waiter.acquire()  # somebody took it to wake us, and is about to release it
        if is_keeper and not self.has_one_thread:
            self._keep_time()
        return True

    def _keep_time(self) -> None:
        """Have another thread keep the time, which is about to be busy, if it was the keeper."""
        if self._keeper not in self._waiters:
            # Never wake a keeper for that: two of them would wake each other for ever.
            self._wakes_at = inf  # before it looks: who adds a timer now wakes somebody
            if self._timers.heap:
                self._rouse()

    def _abandon_after_fork(self) -> None:
        """Close for good, in a child process: the threads stayed in the parent."""
        # A lock may have been held by a thread that does not exist here.
        self._lock = threading.RLock()
        self._turn = threading.Lock() if self.has_one_thread else None
        self._is_taken = False
        self._timers, self._threads = TimerQueue(), set()
        self._waiters.clear()
        self._ready.clear()
        self._closed, self._may_grow = True, False
        self._stop_order, self.is_closing = [], True
        self._all_stopped.set()
        self._abandon_all()


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def _after_fork_in_child() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher._abandon_after_fork()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork_in_child)
