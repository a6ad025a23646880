"""The actor of one resource's ``on_abort``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.actors import LightActor
from karbor_actors.errors import ActorCrashedError, describe_cause
from karbor_actors.limits import ABORT_RETRY
from karbor_actors.operations.messages import AbortSucceeded, BodyFailed, RetryDue, RunAbort

if TYPE_CHECKING:
    from karbor_actors.actors.timers import Timer
    from karbor_actors.operations.control import OperationControl


def _abort_died(actor: Any, error: BaseException) -> None:
    """Leave the resource ``abort_pending`` when its abort's actor dies of *error*: a bug."""
    crash = ActorCrashedError(f"the actor of an abort died: {describe_cause(error)}")
    crash.__cause__ = error
    actor.control.undo.finish(actor.resource, crash)


class AbortActor(LightActor):
    """Undoes what one resource's hooks began, whatever it takes, then stops.

    Runs on the operation's control thread; ignores cancellation.
    """

    __slots__ = ("_attempt", "_is_running", "_timer", "control", "resource")

    watcher = staticmethod(_abort_died)

    def __init__(self, control: OperationControl, resource: int) -> None:
        super().__init__()
        self.control, self.resource = control, resource
        self._attempt = 0
        self._is_running = False
        self._timer: Timer | None = None

    def on_receive(self, message: Any) -> None:
        """Take the abort one step further."""
        match message:
            case RunAbort():
                if self._attempt == 0:
                    self._go_on()
            case AbortSucceeded():
                if self._is_running:
                    self.control.undo.finish(self.resource, None)
                    self.stop()
            case BodyFailed(error=error):
                if self._is_running:
                    self._failed(error)
            case RetryDue():
                if not self._is_running:
                    self._go_on()

    def _go_on(self) -> None:
        """Run the next attempt, once one that was given up has returned, or has had long enough."""
        wait = self.control.overtime.wait_for_abort(self.resource)
        if wait > 0:
            self._try_later(wait)
        else:
            self._dispatch()

    def _dispatch(self) -> None:
        self._attempt += 1
        self._is_running = True
        self.control.undo.dispatch(self.resource, self._attempt)

    def _failed(self, error: BaseException) -> None:
        self._is_running = False
        if self._attempt >= ABORT_RETRY.attempts:
            self.control.undo.finish(self.resource, error)
            self.stop()
            return
        self._try_later(ABORT_RETRY.delay(self._attempt))

    def _try_later(self, delay: float) -> None:
        """Be told of the next attempt once: a message that came twice would double with each wait."""
        if self._timer is not None:
            self.control.retries.cancel(self._timer)
        self._timer = self.control.retries.later(delay, self.actor_ref)
