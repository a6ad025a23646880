"""The actor of one resource's ``on_abort``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.actors import LightActor
from karbor_actors.errors import ActorCrashedError, describe_cause
from karbor_actors.limits import ABORT_RETRY
from karbor_actors.operations.messages import AbortSucceeded, BodyFailed, RetryDue, RunAbort

if TYPE_CHECKING:
    from karbor_actors.operations.control import OperationControl


def _abort_died(actor: Any, error: BaseException) -> None:
    """Leave the resource ``abort_pending`` when its abort's actor dies of *error*: a bug."""
    crash = ActorCrashedError(f"the actor of an abort died: {describe_cause(error)}")
    crash.__cause__ = error
    actor.control.abort_ended(actor.resource, crash)


class AbortActor(LightActor):
    """Undoes what one resource's hooks began, whatever it takes, then stops.

    Runs on the operation's control thread; ignores cancellation.
    """

    __slots__ = ("_attempt", "control", "resource")

    watcher = staticmethod(_abort_died)

    def __init__(self, control: OperationControl, resource: int) -> None:
        super().__init__()
        self.control, self.resource = control, resource
        self._attempt = 1

    def on_receive(self, message: Any) -> None:
        """Take the abort one step further."""
        match message:
            case RunAbort():
                self.control.dispatch_abort(self.resource, self._attempt)
            case AbortSucceeded():
                self.control.abort_ended(self.resource, None)
                self.stop()
            case BodyFailed(error=error):
                self._failed(error)
            case RetryDue():
                self._attempt += 1
                self.control.dispatch_abort(self.resource, self._attempt)

    def _failed(self, error: BaseException) -> None:
        if self._attempt >= ABORT_RETRY.attempts:
            self.control.abort_ended(self.resource, error)
            self.stop()
            return
        ref = self.actor_ref
        self.control.dispatcher.call_later(
            ABORT_RETRY.delay(self._attempt), lambda: ref.tell(RetryDue())
        )
