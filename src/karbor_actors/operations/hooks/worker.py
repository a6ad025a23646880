"""A call, and a thread that runs calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from karbor_actors.actors import Lender

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine, Iterable

    from karbor_actors.actors import ThreadDispatcher


class Call(Protocol):
    """Something to run once on a worker."""

    @property
    def has_ended(self) -> bool:
        """Whether it has nothing more to do but to report; always False where that is no matter."""

    def execute(self) -> None:
        """Run; must not raise."""

    def execute_async(self) -> Coroutine[Any, Any, None]:
        """Run on the event loop; must not raise."""

    def refuse(self, why: str) -> None:
        """Report that it will not run; must not raise."""


class _Runner(Protocol):
    queue: deque[Call]

    def can_lend(self, worker: Worker, *, is_waiting: bool) -> bool:
        """See ThreadRunner."""


class Worker(threading.Thread):
    """One thread of a lane, and where it stands; its runner's lock guards that.

    Args:
        runner: The lane's.
        name: The thread's.
        work: What it does.
    """

    def __init__(self, runner: _Runner, name: str, work: Callable[[Worker], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.runner, self._work = runner, work
        self.alarm = threading.Lock()
        """Held while it sleeps; a release wakes it."""
        self.alarm.acquire()
        self.call: Call | None = None
        """What it runs."""
        self.is_expected = False
        """Whether it was woken, or started, or is lent, and will look at the queue."""
        self.is_lent = False
        """Whether it runs actors that do not wait for a disk."""
        self.is_given_up = False
        """Whether its call was, so that another worker has its place."""

    def run(self) -> None:
        """Serve the runner."""
        # Of the thread that makes it.
        self.lender = Lender(self._may_owe, self._may_run, self.runner.queue)
        self._work(self)

    def _may_owe(self) -> bool:
        """Return whether its call has ended, and it will look for another one."""
        return (self.call is None or self.call.has_ended) and not self.is_given_up

    def _may_run(self, dispatcher: ThreadDispatcher) -> bool:
        return self.runner.can_lend(self, is_waiting=dispatcher.blocks)


def refuse(calls: Iterable[Call], why: str) -> None:
    """Have each of *calls* report that it will not run."""
    for call in calls:
        call.refuse(why)
