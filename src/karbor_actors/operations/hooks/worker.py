"""A call, and a thread that runs calls."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from karbor_actors.actors import Lender
from karbor_actors.errors import describe_cause

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from karbor_actors.actors import ThreadDispatcher
    from karbor_actors.operations.hooks.roster import Roster

_LOG = logging.getLogger("karbor_actors.operations")


class Call(Protocol):
    """Something to run once on a worker."""

    @property
    def has_ended(self) -> bool:
        """Whether it has nothing more to do but to report; always False where that is no matter."""

    def execute(self) -> None:
        """Run; must not raise."""

    def execute_async(self, host: Host) -> Coroutine[Any, Any, None]:
        """Run on *host*, if it may begin there, and say when it has reported; must not raise."""

    def refuse(self, why: str) -> None:
        """Report that it will not run; must not raise."""


class Host(Protocol):
    """The event loop that a call runs on, as the call sees it; on the loop's thread."""

    def may_begin(self, call: Call) -> bool:
        """Return whether *call*, which is about to begin, may: it may have been given up."""

    def has_left(self, call: Call) -> None:
        """Note that *call* has reported, or may not begin; it does nothing more here."""

    def outlives(self, call: Call, end: Callable[[], object]) -> bool:
        """Return whether what *call* runs off the loop goes on; *end* is called once it has returned."""


class Worker(threading.Thread):
    """One thread, and where it stands; its pool's lock guards that.

    Args:
        lane: Whose calls it runs, to begin with.
    """

    def __init__(self, lane: Roster) -> None:
        super().__init__(daemon=True)
        self.lane = lane
        """That whose calls it runs, or ran last."""
        self.number = lane.pool.add(self)
        self.alarm = threading.Lock()
        """Held while it sleeps; a release wakes it."""
        self.alarm.acquire()
        self.call: Call | None = None
        """What it runs."""
        self.expected_by: list[Roster] = []
        """Lanes for which it was woken, or started, or is lent, and whose queue it will look at."""
        self.passes_by: list[Roster] = []
        """Other lanes that it looks at when its own has nothing more, unless somebody else has."""
        self.is_lent = False
        """Whether it runs actors that do not wait for a disk."""
        self.is_given_up = False
        """Whether its call was, so that another worker has its place."""

    @property
    def is_wanted(self) -> bool:
        """Whether it has something else to do than to run actors."""
        return bool(self.lane.queue or self.expected_by)

    def run(self) -> None:
        """Serve the lanes."""
        try:
            # Of the thread that makes it.
            self.lender = Lender(self._may_owe, self._may_run, lambda: self.is_wanted)
            while self.lane.serve(self):
                pass
        except BaseException as error:  # a bug, or what foreign code has set in this thread
            self.lane.died(self, error)

    def _may_owe(self) -> bool:
        """Return whether its call has ended, and it will look for another one."""
        return (self.call is None or self.call.has_ended) and not self.is_given_up

    def _may_run(self, dispatcher: ThreadDispatcher) -> bool:
        return self.lane.can_lend(self, is_waiting=dispatcher.blocks)


def report_lost(call: Call | None, error: BaseException) -> None:
    """Have *call*, if any, report that what ran it died of *error*. Never raises."""
    cause = describe_cause(error)
    try:
        if call is not None:
            call.refuse(f"what ran it died: {cause}")
    except BaseException as another:  # logged with the first: there is nobody else to tell
        cause = f"{cause}; then {describe_cause(another)}"
    _LOG.error("%s died of %s; others go on", threading.current_thread().name, cause)


def refuse(calls: Iterable[Call], why: str) -> None:
    """Have each of *calls* report that it will not run."""
    for call in calls:
        call.refuse(why)
