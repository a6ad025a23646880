"""What becomes of bodies that take too long, and of those that return late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.errors import HookFailedError, HookGivenUpError, describe_key
from karbor_actors.model import AbortKind, AbortReason, HookName

if TYPE_CHECKING:
    from karbor_actors.operations.attempt import Attempt
    from karbor_actors.operations.control import OperationControl

_WHY = "it took longer than it may and was given up"


class Overtime:
    """Gives bodies up: fences them off, and undoes what they did when they return.

    The control thread only.
    """

    def __init__(self, control: OperationControl) -> None:
        self._control = control
        self.late: set[Attempt] = set()
        """Bodies that were given up and have not returned."""

    def look_at_clock(self) -> None:
        """Give up what has taken too long."""
        control = self._control
        now = control.dispatcher.now()
        for attempt in control.watch.overdue(now):
            self._give_up(attempt)
        for resource in control.watch.held_too_long(now):
            key = control.run.planned.graph.nodes[resource].key
            why = "it was held for longer than max_quiesce allows"
            control.failures.append(TimeoutError(f"{describe_key(key)}: {why}"))
            control.abort(AbortReason(AbortKind.TIMEOUT, why, key))
        control.watch.look_again(now)
        control.request_flush()

    def end_grace(self) -> None:
        """Give up the bodies that go on although they should stop."""
        control = self._control
        for attempt in control.watch.running():
            if attempt.is_unwanted:
                control.watch.ended(attempt.hook_number)
                self._give_up(attempt)
        control.request_flush()

    def came_back(self, attempt: Attempt) -> None:
        """Undo once more what a body did that was given up and has now returned."""
        if attempt not in self.late:
            return
        self.late.discard(attempt)
        if attempt.hook is not HookName.ON_ABORT:
            self._control.undo.again(attempt.resource)
        self._control.request_flush()

    def leave(self, hook: int) -> None:
        """Fence the body of *hook* off, if it runs: nobody waits for it any more."""
        attempt = self._control.watch.ended(hook)
        if attempt is not None:
            attempt.is_fenced = True
            self.late.add(attempt)
            self._control.intake.abandon(attempt)

    def _give_up(self, attempt: Attempt) -> None:
        """Fence *attempt* off and go on as if it had failed."""
        attempt.is_fenced = True
        self.late.add(attempt)
        key = self._control.run.planned.graph.nodes[attempt.resource].key
        error = HookFailedError(key, str(attempt.hook), attempt.number, _WHY)
        error.__cause__ = HookGivenUpError(_WHY)
        self._control.given_up(attempt, error)
