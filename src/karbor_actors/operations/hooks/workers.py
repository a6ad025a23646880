"""Workers: the threads of one lane, which take calls in batches and run each once.

A call never raises; it reports its outcome by itself. A worker that has reported, and has nothing
else to do, runs the actors that it has told of it (`Lender`).

Who is to come. To wake a worker for nothing costs as much as many short calls. So as long as calls
are quick, one worker takes all that is queued, and after the last of them runs the actors that they
told something; a `Lookout` sees, some milliseconds later, whether one of the calls was slow after
all, and has the others begin then. Where calls are slow, each worker that takes one wakes the next:
all at once, they would only wait for the interpreter.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from karbor_actors.operations.hooks.event_loop import report_lost
from karbor_actors.operations.hooks.worker import Worker, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.actors import ThreadDispatcher
    from karbor_actors.operations.hooks.lookout import Lookout
    from karbor_actors.operations.hooks.worker import Call

_NO_THREAD = "no worker is left: the system gives this process no more threads"
_TOO_MANY = "no worker is left: {} hooks that were given up have not returned"
_LINGER = 5.0
"""Seconds that a worker waits for work before it ends."""
_STUCK = 5.0
"""Seconds without a call taken from its queue after which a lane gets another worker."""
_SLOW = 0.0005
"""Seconds from which a call is slow: what is queued behind it is worth waking another worker for."""
MAX_ABANDONED = 4
"""Times the workers of a lane: so many threads may run calls that were given up."""


class ThreadRunner:
    """Runs calls on up to *workers* threads, started when there is work.

    A thread that has had nothing to do for a while ends.

    A call that was given up keeps its thread until it returns, and another thread takes its
    place; once there are too many of those, new calls are refused until some return.

    Args:
        workers: Threads that take calls.
        name: What the threads' names begin with.
        max_abandoned: Threads of calls that were given up, at most.
        lookout: Sees whether a call is slow that was thought to be quick; without one, workers wake
            each other as long as something is queued.
    """

    def __init__(
        self,
        workers: int,
        name: str,
        max_abandoned: int | None = None,
        lookout: Lookout | None = None,
    ) -> None:
        self._workers, self._name, self._lookout = workers, name, lookout
        self._max_abandoned = MAX_ABANDONED * workers if max_abandoned is None else max_abandoned
        self.queue: deque[Call] = deque()
        """What waits for a worker; only workers take from it."""
        self._lock = threading.Lock()
        self._threads: list[Worker] = []
        self._sleepers: list[Worker] = []
        """The last to fall asleep is woken first."""
        self._abandoned: set[Worker] = set()
        self._owed: list[ThreadDispatcher] = []
        """What workers that had more to do have left to one that is expected, or to the lookout."""
        self._started = 0
        self._expected = 0
        """Workers that will look at the queue, and have not yet."""
        self._at_disk: Worker | None = None
        """The one that is lent to what waits for a disk: several disks may hang, and take one only."""
        self._are_slow = True
        """Whether calls take long, going by the last one that a woken worker took."""
        self._closed = False
        self._front, self._front_since = 0, 0.0
        """The id of the call that was first in the queue at the last look, and since when."""

    def submit(self, calls: Sequence[Call], *, first: bool = False) -> None:
        """Queue *calls*, in order, with *first* before all others; not once closed. Any thread."""
        with self._lock:
            if self._closed:
                return
            is_taken = len(self._abandoned) < self._max_abandoned
            if is_taken:
                if first:
                    self.queue.extendleft(reversed(calls))
                else:
                    self.queue.extend(calls)
                self._expect()
            stranded = self._stranded()
        if not is_taken:
            refuse(calls, _TOO_MANY.format(self._max_abandoned))
        refuse(stranded, _NO_THREAD)

    def look_around(self, now: float) -> None:
        """Start one more worker if nothing is taken from the queue, since all of them hang.

        There are twice as many at most; the others end when there is nothing to do.
        """
        with self._lock:
            front = id(self.queue[0]) if self.queue else 0
            if front != self._front:
                self._front, self._front_since = front, now
                return
            is_stuck = front and not self._expected and now - self._front_since >= _STUCK
            if is_stuck and len(self._threads) < 2 * self._workers:
                self._start(self._new_worker())

    def look(self) -> None:
        """Have all begin that waits behind a call which was thought to be quick; never blocks."""
        with self._lock:
            if self.queue:
                self._are_slow = True
                self._expect()
            owed, self._owed = self._owed, []
        for dispatcher in owed:
            dispatcher.rouse()

    @property
    def abandoned(self) -> int:
        """How many threads still run calls that were given up."""
        return len(self._abandoned)

    @property
    def running(self) -> int:
        """How many workers run a call that was not given up."""
        return sum(worker.call is not None for worker in tuple(self._threads))

    def runs_caller(self) -> bool:
        """Return whether a call of its is what calls this."""
        own = threading.current_thread()
        return isinstance(own, Worker) and own.runner is self and own.call is not None

    def can_lend(self, worker: Worker, *, is_waiting: bool) -> bool:
        """Return whether *worker* may run actors: nothing is queued, nor would have to wait for it.

        Args:
            worker: The calling one, which is lent.
            is_waiting: Whether the actors wait for a disk.
        """
        worker.is_lent = not is_waiting
        self._is_back(worker)
        if self.queue or not is_waiting:
            return not self.queue
        with self._lock:
            is_spare = self._sleepers or len(self._threads) < self._workers
            if self.queue or not is_spare or self._at_disk is not None:
                return False
            self._at_disk = worker
            self._came(worker)  # what is queued meanwhile must not count on it
            self._take_owed(worker)
        worker.lender.give_up()
        return True

    def _is_back(self, worker: Worker) -> None:
        if self._at_disk is worker:
            self._at_disk = None

    def abandon(self, call: Call) -> None:
        """Give up *call*, which takes too long; another thread may take the place of its own."""
        with self._lock:
            for worker in self._threads:
                if worker.call is call:
                    self._threads.remove(worker)
                    worker.is_given_up = True
                    self._abandoned.add(worker)
                    break
            else:
                with contextlib.suppress(ValueError):  # a worker takes it meanwhile
                    self.queue.remove(call)
            refused: list[Call] = []
            if len(self._abandoned) >= self._max_abandoned:
                with contextlib.suppress(IndexError):  # a worker takes one meanwhile
                    while self.queue:
                        refused.append(self.queue.popleft())
            stranded = self._leave_queue()
        refuse(refused, _TOO_MANY.format(self._max_abandoned))
        refuse(stranded, _NO_THREAD)

    def close(self) -> None:
        """Run what is queued, then end the workers; blocks until they have ended.

        Not those of abandoned calls: their threads end when the calls do.
        """
        with self._lock:
            self._closed = True
            while self._sleepers:
                self._sleepers.pop().alarm.release()
            threads = list(self._threads)
        for thread in threads:  # whoever starts another one comes before that
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join()

    # -- who comes. Held: the lock

    def _expect(self) -> None:
        """See to it that a worker looks at the queue."""
        if self._expected:
            return
        own = threading.current_thread()
        if isinstance(own, Worker) and own.runner is self and own.is_lent:
            self._count_on(own)  # it looks once it has done its turns
        elif self._sleepers:
            worker = self._sleepers.pop()
            self._count_on(worker)
            worker.alarm.release()
        elif len(self._threads) < self._workers:
            self._start(self._new_worker())

    def _count_on(self, worker: Worker) -> None:
        if not worker.is_expected:
            worker.is_expected = True
            self._expected += 1

    def _came(self, worker: Worker) -> None:
        if worker.is_expected:
            worker.is_expected = False
            self._expected -= 1

    def _new_worker(self) -> Worker:
        """Return a worker to be started."""
        self._started += 1
        worker = Worker(self, f"{self._name}-{self._started}", self._work)
        self._threads.append(worker)
        self._count_on(worker)
        return worker

    def _start(self, worker: Worker) -> None:
        try:
            worker.start()
        except RuntimeError:  # the system gives no more of them: those that are there go on
            self._threads.remove(worker)
            self._came(worker)

    def _stranded(self) -> list[Call]:
        """Take the calls that nobody is there to run, nor will be."""
        stranded: list[Call] = []
        while self.queue and not self._threads:
            stranded.append(self.queue.popleft())
        return stranded

    def _leave_queue(self) -> list[Call]:
        """Have another worker look at the queue, if there is anything; return what is stranded."""
        if self.queue:
            self._expect()
        return self._stranded()

    def _take_owed(self, worker: Worker) -> None:
        """Have *worker* run the actors that others have left to it."""
        if self._owed:
            worker.lender.owed.extend(self._owed)
            self._owed = []

    # -- what a worker does

    def _work(self, worker: Worker) -> None:
        try:
            self._serve(worker)
        except BaseException as error:  # a bug, or what foreign code has set in this thread
            self._died(worker, error)

    def _serve(self, worker: Worker) -> None:
        queue, owed = self.queue, worker.lender.owed
        while not worker.is_given_up:
            try:
                call = queue.popleft()  # without the lock, for which all workers would queue up
            except IndexError:
                if not self._sleep(worker):
                    return
                continue
            worker.call = call
            if worker.is_expected:
                self._took_first(worker)
                began = time.monotonic()
                call.execute()
                self._are_slow = time.monotonic() - began > _SLOW
            else:
                call.execute()
            worker.call = None
            del call
            if owed or (self._owed and not queue):
                self._pay(worker)
        with self._lock:
            self._abandoned.discard(worker)

    def _is_watched(self) -> bool:
        """Return whether what is left waiting is looked at soon. Held: the lock."""
        return not self._are_slow and self._lookout is not None and self._lookout.ask()

    def _took_first(self, worker: Worker) -> None:
        """See to it that others look at the queue, of which *worker*, which was expected, took one.

        If none sleeps, it starts one more, ahead of need: a start is waited for, which takes a while
        where many threads want the interpreter, and whoever submits calls should not.
        """
        with self._lock:
            self._came(worker)
            spare = None
            if self._sleepers:
                if self.queue and not self._is_watched():
                    self._expect()
            elif not self._closed and len(self._threads) < self._workers:
                spare = self._new_worker()
            self._take_owed(worker)
        try:
            worker.lender.give_up()
            if spare is not None:
                spare.start()
        except BaseException as error:
            if spare is None or spare.ident is not None:
                raise
            self._gone(spare, worker)
            if not isinstance(error, RuntimeError):  # as in _start()
                raise

    def _gone(self, spare: Worker, worker: Worker) -> None:
        """Go on without *spare*, which *worker* cannot start, and on which others may count."""
        with self._lock:
            self._threads.remove(spare)
            self._came(spare)
            self._take_owed(worker)
            stranded = self._leave_queue()
        worker.lender.give_up()
        refuse(stranded, _NO_THREAD)

    def _pay(self, worker: Worker) -> None:
        """Run the actors that *worker* has told something, while the queue is empty.

        Else leave that to a worker that is expected, or to the lookout: it is not to wait for this
        one's next call, if that is slow, and need not wake a third thread.
        """
        lender = worker.lender
        with self._lock:
            is_left = self.queue and (self._expected or self._is_watched())
            if is_left and not worker.is_given_up:
                self._owed += lender.owed
                lender.owed.clear()
                return
            self._take_owed(worker)
        if worker.is_given_up:
            lender.give_up()
            return
        lender.pay()
        worker.is_lent = False
        self._is_back(worker)

    def _sleep(self, worker: Worker) -> bool:
        """Sleep until there may be something to do; return False when the thread must end."""
        with self._lock:
            if self.queue:
                return True
            self._came(worker)
            self._take_owed(worker)
            if not worker.lender.owed:
                if self._closed:
                    return False
                self._sleepers.append(worker)
        if worker.lender.owed:
            self._pay(worker)
            return True
        if worker.alarm.acquire(timeout=_LINGER):
            return True
        with self._lock:
            if worker in self._sleepers:
                self._sleepers.remove(worker)
                self._threads.remove(worker)
                return False
        worker.alarm.acquire()  # it was woken after all
        return True

    def _died(self, worker: Worker, error: BaseException) -> None:
        """Leave the place of *worker*, which dies of *error*, to another one."""
        with self._lock:
            call, worker.call = worker.call, None
            self._abandoned.discard(worker)
            for workers in (self._threads, self._sleepers):
                if worker in workers:
                    workers.remove(worker)
            worker.is_lent = False
            self._is_back(worker)
            self._came(worker)
            self._take_owed(worker)
            stranded = self._leave_queue()
        worker.lender.give_up()
        report_lost(call, error)
        refuse(stranded, _NO_THREAD)
