"""Who works for a lane, and who is expected to."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from karbor_actors.operations.hooks.worker import Worker

if TYPE_CHECKING:
    from karbor_actors.operations.hooks.lookout import Lookout
    from karbor_actors.operations.hooks.pool import Pool
    from karbor_actors.operations.hooks.worker import Call


class Roster(ABC):
    """The workers of one lane: up to so many of a pool's, whose lock is held by whoever asks it.

    Args:
        workers: How many there are at most.
        name: What the names of the threads begin with that work for it.
        pool: Whose threads it shares with other lanes.
        lookout: Sees whether a call is slow that was thought to be quick.
    """

    def __init__(self, workers: int, name: str, pool: Pool, lookout: Lookout | None) -> None:
        self._name, self._lookout = name, lookout
        self.limit, self.pool = workers, pool
        self.places = workers
        """How many workers there may be: more than the limit while all of those hang."""
        self.queue: deque[Call] = deque()
        """What waits for a worker; only workers take from it, and without the lock."""
        self.threads: list[Worker] = []
        """Those that work for it just now."""
        self.expected = 0
        """Workers that will look at the queue, and have not yet."""
        self.are_slow = True
        """Whether calls take long, going by the last one that a worker took which was expected."""
        self.is_closed = False
        pool.add_lane()

    @abstractmethod
    def serve(self, worker: Worker) -> bool:
        """Run what is queued on *worker*, whose thread this is, which holds no lock.

        Returns:
            Whether it goes on with another lane; else it ends.
        """

    @abstractmethod
    def can_lend(self, worker: Worker, *, is_waiting: bool) -> bool:
        """Return whether *worker*, whose thread this is, may run actors. Without the lock.

        Args:
            worker: Which is lent, if so.
            is_waiting: Whether the actors wait for a disk.
        """

    @abstractmethod
    def died(self, worker: Worker, error: BaseException) -> None:
        """Leave the place of *worker*, which dies of *error*, to another one. Without the lock."""

    @property
    def has_room(self) -> bool:
        """Whether another worker may come."""
        return len(self.threads) < self.places

    def is_watched(self) -> bool:
        """Return whether what is left waiting is looked at soon."""
        if self.are_slow or self.is_closed or self._lookout is None:
            return False  # what is closed waits for workers, and for nobody else
        return self._lookout.ask()

    def expect(self) -> None:
        """See to it that a worker looks at the queue."""
        if self.expected:
            return
        own = threading.current_thread()
        if isinstance(own, Worker) and own.is_lent and self._may_count_on(own):
            self._count_on(own)  # it looks once it has done its turns
        elif self.has_room:
            self.call_one()

    def call_one(self) -> None:
        """Wake a worker, or start one."""
        if self.pool.sleepers:
            worker = self.pool.sleepers.pop()
            self.join(worker)
            self._count_on(worker)
            worker.alarm.release()
            return
        worker = self.new_worker()
        try:
            worker.start()
        except RuntimeError:  # the system gives no more of them: those that are there go on
            self.leave(worker)
            self.pool.forget(worker)

    def new_worker(self) -> Worker:
        """Return a worker to be started."""
        worker = Worker(self)
        self.join(worker)
        self._count_on(worker)
        return worker

    def came(self, worker: Worker) -> None:
        """Count on *worker* no more: it has looked at the queue, or will not."""
        if self in worker.expected_by:
            worker.expected_by.remove(self)
            self.expected -= 1
            if self.is_closed:
                self.pool.left.ring()

    def join(self, worker: Worker) -> None:
        """Have *worker* work for this lane."""
        worker.lane = self
        worker.name = f"{self._name}-{worker.number}"
        self.threads.append(worker)

    def leave(self, worker: Worker) -> None:
        """Have *worker* work for this lane no more."""
        self.came(worker)
        if worker in self.threads:  # else it was given up before
            self.threads.remove(worker)
        if len(self.threads) < self.limit:
            self.places = self.limit
        if self.is_closed:
            self.pool.left.ring()

    def leave_queue(self) -> list[Call]:
        """Have a worker look at the queue, if there is anything.

        Returns:
            What nobody is there to run, nor will be; it is taken from the queue.
        """
        if self.queue:
            self.expect()
        stranded: list[Call] = []
        while self.queue and not (self.threads or self.expected):
            stranded.append(self.queue.popleft())
        return stranded

    def _may_count_on(self, own: Worker) -> bool:
        """Return whether *own*, which is lent, looks at the queue before others would."""
        if own.lane is self:
            return True
        is_free = own.lane.pool is self.pool and self.has_room
        return is_free and (not own.expected_by or self.is_watched())

    def _count_on(self, worker: Worker) -> None:
        if self not in worker.expected_by:
            worker.expected_by.append(self)
            self.expected += 1
