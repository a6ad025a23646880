"""The threads that lanes share: who has nothing to do in one lane goes over to another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from karbor_actors.actors.waiting import Bell

if TYPE_CHECKING:
    from karbor_actors.actors import ThreadDispatcher
    from karbor_actors.operations.hooks.worker import Worker

_LINGER = 5.0
"""Seconds that a worker waits for work before it ends."""


class Pool:
    """Where workers sleep that no lane needs, and what lanes know together.

    A lane says how many workers it has at most; a worker belongs to the lane that it works for, and
    to none while it sleeps. So the hooks of a small operation, and the steps before and after them, are
    run by one thread, as long as they are quick.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Guards this, the lanes, and where their workers stand."""
        self.sleepers: list[Worker] = []
        """The last to fall asleep is woken first."""
        self.owed: list[ThreadDispatcher] = []
        """What workers that had more to do have left to one that is expected, or to the lookout."""
        self.left = Bell()
        """Rung when a worker leaves a lane that is closed."""
        self._threads: set[Worker] = set()
        """Those that are waited for when all lanes are closed."""
        self._started = 0
        self._lanes = 0

    def add_lane(self) -> None:
        """Note that there is another lane."""
        self._lanes += 1

    def add(self, worker: Worker) -> int:
        """Take up *worker*, which is about to be started; return its number. Held: the lock."""
        self._threads.add(worker)
        self._started += 1
        return self._started

    def forget(self, worker: Worker) -> None:
        """Wait for *worker* no more: it ends, or runs what was given up. Held: the lock."""
        self._threads.discard(worker)

    def take_owed(self, worker: Worker) -> None:
        """Have *worker* run the actors that others have left to it. Held: the lock."""
        if self.owed:
            worker.lender.owed.extend(self.owed)
            self.owed = []

    def leave_owed(self, worker: Worker) -> None:
        """Leave the actors that *worker* owes a turn to whoever takes it, or the lookout. Held: the lock."""
        self.owed += worker.lender.owed
        worker.lender.owed.clear()

    def sleep(self, worker: Worker) -> bool:
        """Sleep, as one of the sleepers, until a lane wakes it; return False when it must end."""
        if worker.alarm.acquire(timeout=_LINGER):
            return worker in self._threads
        with self.lock:
            if worker in self.sleepers:
                self.sleepers.remove(worker)
                self.forget(worker)
                return False
        worker.alarm.acquire()  # it was woken after all
        return worker in self._threads

    def lane_closed(self) -> None:
        """Note that a lane takes nothing more, and has no worker; end all after the last one.

        Blocks until they have ended.
        """
        with self.lock:
            self._lanes -= 1
            if self._lanes:
                return
            threads = list(self._threads)
            self._threads.clear()
            while self.sleepers:
                self.sleepers.pop().alarm.release()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    @property
    def is_closed(self) -> bool:
        """Whether all lanes are."""
        return not self._lanes
