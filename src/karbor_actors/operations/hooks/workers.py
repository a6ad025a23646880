"""Workers: the threads of a lane, which take calls in batches and run each once.

A call never raises; it reports its outcome by itself. A worker that has reported, and has nothing
else to do, runs the actors that it has told of it (`Lender`). What those hand to another lane it
runs, too: it goes over to that lane (`Pool`).

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
from typing import TYPE_CHECKING

from karbor_actors.actors.lending import give_up_owed
from karbor_actors.actors.uninterrupted import is_main_thread
from karbor_actors.operations.hooks.pool import Pool
from karbor_actors.operations.hooks.roster import Roster
from karbor_actors.operations.hooks.worker import Worker, refuse, report_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.actors import ThreadDispatcher
    from karbor_actors.operations.hooks.lookout import Lookout
    from karbor_actors.operations.hooks.worker import Call

_NO_THREAD = "no worker is left: the system gives this process no more threads"
_TOO_MANY = "no worker is left: {} hooks that were given up have not returned"
_STUCK = 5.0
"""Seconds without a call taken from its queue after which a lane gets another worker."""
_SLOW = 0.0005
"""Seconds from which a call is slow: what is queued behind it is worth waking another worker for."""
MAX_ABANDONED = 4
"""Times the workers of a lane: so many threads may run calls that were given up."""


class ThreadRunner(Roster):
    """Runs the calls of one lane on up to *workers* threads, woken or started when there is work.

    A call that was given up keeps its thread until it returns, and another thread takes its
    place; once there are too many of those, new calls are refused until some return.

    Args:
        workers: Threads that take calls.
        name: What the names of the threads begin with that work for it.
        max_abandoned: Threads of calls that were given up, at most.
        lookout: Sees whether a call is slow that was thought to be quick; without one, workers wake
            each other as long as something is queued.
        pool: Whose threads it shares with other lanes; None makes one for it alone.
    """

    def __init__(
        self,
        workers: int,
        name: str,
        max_abandoned: int | None = None,
        lookout: Lookout | None = None,
        pool: Pool | None = None,
    ) -> None:
        self._max_abandoned = MAX_ABANDONED * workers if max_abandoned is None else max_abandoned
        super().__init__(workers, name, pool or Pool(), lookout)
        self._lock = self.pool.lock
        self._abandoned: set[Worker] = set()
        self._at_disk: Worker | None = None
        """The one that is lent to what waits for a disk: several disks may hang, and take one only."""
        self._lent: Worker | None = None
        """The last one that was woken to run actors."""
        self._front, self._front_since = 0, 0.0
        """The id of the call that was first in the queue at the last look, and since when."""

    def submit(self, calls: Sequence[Call], *, first: bool = False) -> bool:
        """Queue *calls*, in order, with *first* before all others; False once closed. Any thread."""
        with self._lock:
            if self.is_closed:
                return False
            is_taken = len(self._abandoned) < self._max_abandoned
            if is_taken:
                if first:
                    self.queue.extendleft(reversed(calls))
                else:
                    self.queue.extend(calls)
            stranded = self.leave_queue()
        if not is_taken:
            refuse(calls, _TOO_MANY.format(self._max_abandoned))
        refuse(stranded, _NO_THREAD)
        return True

    def lend(self, dispatcher: ThreadDispatcher) -> bool:
        """Wake a worker to run *dispatcher*'s actors; return whether one comes.

        One that sleeps, and has room here: what they hand to this lane it runs next. Any thread, also
        one that the collector interrupts, whatever it is doing. None comes for the main thread, which
        signals interrupt anywhere: the worker would be lost.
        """
        if is_main_thread() or self._lock.locked():  # it may be this very thread that has it
            return False
        with self._lock:
            if self._lent is not None and dispatcher in self._lent.lender.owed:
                return True
            if self.is_closed or not self.has_room or not self.pool.sleepers:
                return False
            worker = self._lent = self.pool.sleepers.pop()
            self.join(worker)
            self._count_on(worker)  # so that it has them run elsewhere if it finds a call first
            worker.lender.owed.append(dispatcher)
        worker.alarm.release()
        return True

    def look_around(self, now: float) -> None:
        """Call one more worker if nothing is taken from the queue, since all of them hang.

        There are twice as many at most, as long as those hang.
        """
        with self._lock:
            try:
                front = id(self.queue[0])
            except IndexError:  # workers take from it without the lock
                front = 0
            if front != self._front:
                self._front, self._front_since = front, now
                return
            is_stuck = front and not self.expected and now - self._front_since >= _STUCK
            if is_stuck and (self.has_room or self.places < 2 * self.limit):
                self.places += not self.has_room
                self.call_one()

    def look(self) -> None:
        """Have all begin that waits behind a call which was thought to be quick; never blocks."""
        with self._lock:
            if self.queue:
                self.are_slow = True
            stranded = self.leave_queue()
            owed, self.pool.owed = self.pool.owed, []
        for dispatcher in owed:
            dispatcher.rouse()
        refuse(stranded, _NO_THREAD)

    @property
    def abandoned(self) -> int:
        """How many threads still run calls that were given up."""
        return len(self._abandoned)

    @property
    def running(self) -> int:
        """How many workers run a call that was not given up."""
        return sum(worker.call is not None for worker in tuple(self.threads))

    def runs_caller(self) -> bool:
        """Return whether a call of its is what calls this."""
        own = threading.current_thread()
        return isinstance(own, Worker) and own.lane is self and own.call is not None

    def can_lend(self, worker: Worker, *, is_waiting: bool) -> bool:
        """See Roster: nothing is queued, nor would have to wait for it."""
        worker.is_lent = not is_waiting
        self._is_back(worker)
        if worker.is_wanted:
            return False
        if not is_waiting:
            return True
        with self._lock:
            if worker.is_wanted or not self.has_room or self._at_disk is not None:
                return False
            self._at_disk = worker
            self.pool.take_owed(worker)
        worker.lender.give_up()
        return True

    def _is_back(self, worker: Worker) -> None:
        if self._at_disk is worker:
            self._at_disk = None

    def abandon(self, call: Call) -> None:
        """Give up *call*, which takes too long; another thread may take the place of its own."""
        with self._lock:
            for worker in self.threads:
                if worker.call is call:
                    self.leave(worker)
                    worker.is_given_up = True
                    self._abandoned.add(worker)
                    self.pool.forget(worker)
                    break
            else:
                with contextlib.suppress(ValueError):  # a worker takes it meanwhile
                    self.queue.remove(call)
            refused: list[Call] = []
            if len(self._abandoned) >= self._max_abandoned:
                with contextlib.suppress(IndexError):  # a worker takes one meanwhile
                    while self.queue:
                        refused.append(self.queue.popleft())
            stranded = self.leave_queue()
        refuse(refused, _TOO_MANY.format(self._max_abandoned))
        refuse(stranded, _NO_THREAD)

    def close(self) -> None:
        """Run what is queued; blocks until no worker is left, and with the last lane until all ended.

        Not those of abandoned calls: their threads end when the calls do.
        """
        own = threading.current_thread()
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            stranded = self.leave_queue()

        def are_gone() -> bool:
            with self._lock:
                return not self.expected and all(worker is own for worker in self.threads)

        self.pool.left.wait(are_gone)
        refuse(stranded, _NO_THREAD)
        self.pool.lane_closed()

    # -- what a worker does

    def serve(self, worker: Worker) -> bool:
        """See Roster."""
        queue, pool, owed = self.queue, self.pool, worker.lender.owed
        while not worker.is_given_up:
            try:
                call = queue.popleft()  # without the lock, for which all workers would queue up
            except IndexError:
                if not self._rest(worker):
                    return False
                if worker.lane is not self:
                    return True
                continue
            worker.call = call
            if worker.expected_by or owed:  # if given up just now, it is expected no more, but owes
                self._took_first(worker)
                began = time.monotonic()
                call.execute()
                self.are_slow = time.monotonic() - began > _SLOW
            else:
                call.execute()
            worker.call = None
            del call
            if owed or (pool.owed and not queue):
                self._pay(worker)
        with self._lock:
            self._abandoned.discard(worker)
        return False

    def _took_first(self, worker: Worker) -> None:
        """See to it that others look at the queue, of which *worker*, which was expected, took one.

        If none sleeps, it starts one more, ahead of need: a start is waited for, which takes a while
        where many threads want the interpreter, and whoever submits calls should not.
        """
        with self._lock:
            self.came(worker)
            stranded = self._pass_by(worker)
            spare = None
            if self.pool.sleepers:
                if self.queue and not self.is_watched():
                    self.expect()
            elif self.has_room and (self.queue or not self.is_closed):
                spare = self.new_worker()
            if (self.pool.owed or worker.lender.owed) and self.is_watched():
                self.pool.leave_owed(worker)
            else:
                self.pool.take_owed(worker)
        try:
            refuse(stranded, _NO_THREAD)
            worker.lender.give_up()
            if spare is not None:
                spare.start()
        except BaseException as error:
            if spare is None or spare.ident is not None:
                raise
            self._gone(spare, worker)
            if not isinstance(error, RuntimeError):  # as in call_one()
                raise

    def _pass_by(self, worker: Worker) -> list[Call]:
        """Have other lanes count on *worker* no more, which is busy; it looks at them afterwards.

        Return what is stranded. Held: the lock.
        """
        others, stranded = worker.expected_by[:], []
        worker.passes_by = list(dict.fromkeys((*others, *worker.passes_by)))
        for lane in others:
            lane.came(worker)
            if lane.queue and not lane.is_watched():
                stranded += lane.leave_queue()
        return stranded

    def _gone(self, spare: Worker, worker: Worker) -> None:
        """Go on without *spare*, which *worker* cannot start, and on which others may count."""
        with self._lock:
            self.leave(spare)
            self.pool.forget(spare)
            self.pool.take_owed(worker)
            stranded = self.leave_queue()
        worker.lender.give_up()
        refuse(stranded, _NO_THREAD)

    def _pay(self, worker: Worker) -> None:
        """Run the actors that *worker* has told something, while nothing is queued.

        Else leave that to a worker that is expected, or to the lookout: it is not to wait for this
        one's next call, if that is slow, and need not wake a third thread.
        """
        lender = worker.lender
        with self._lock:
            waiting = [lane for lane in (self, *worker.passes_by) if lane.queue]
            is_left = waiting and (self.expected or all(lane.is_watched() for lane in waiting))
            if is_left and not worker.is_given_up:
                self.pool.leave_owed(worker)
                return
            self.pool.take_owed(worker)
        if worker.is_given_up:
            lender.give_up()
            return
        lender.pay()
        worker.is_lent = False
        self._is_back(worker)

    def _rest(self, worker: Worker) -> bool:
        """Go over to another lane, or sleep until one wants it; return False when it must end."""
        with self._lock:
            if self.queue:
                return True
            self.came(worker)
            self.pool.take_owed(worker)  # first: what it goes over to may take long
            if self._go_over(worker):
                return True
            is_owing = bool(worker.lender.owed)  # not looked at later: who sleeps may be lent
            if not is_owing:
                self.leave(worker)
                if self.pool.is_closed:
                    self.pool.forget(worker)
                    return False
                self.pool.sleepers.append(worker)
        if is_owing:
            self._pay(worker)
            return True
        return self.pool.sleep(worker)

    def _go_over(self, worker: Worker) -> bool:
        """Have *worker* work for another lane that has something queued; False if there is none.

        Held: the lock.
        """
        for lane in (*worker.expected_by, *worker.passes_by):
            if lane.queue and lane.has_room:
                self.leave(worker)
                lane.join(worker)
                return True
            lane.came(worker)
        worker.passes_by = []
        return False

    def died(self, worker: Worker, error: BaseException) -> None:
        """See Roster."""
        with self._lock:
            call, worker.call = worker.call, None
            worker.is_given_up = True  # it owes no turn to whom it tells of its death
            self._abandoned.discard(worker)
            if worker in self.pool.sleepers:
                self.pool.sleepers.remove(worker)
            worker.is_lent = False
            self._is_back(worker)
            woken_by = worker.lane  # another than this, if it slept until just now
            woken_by.leave(worker)
            self.pool.forget(worker)
            self.pool.take_owed(worker)
            stranded = woken_by.leave_queue()
            for lane in worker.expected_by[:]:
                lane.came(worker)
                stranded += lane.leave_queue()
        give_up_owed()  # the worker's own thread calls this
        report_lost(call, error)
        refuse(stranded, _NO_THREAD)
