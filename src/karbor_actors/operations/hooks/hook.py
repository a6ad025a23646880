"""The actor of one hook of one resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.actors import ConfinedActor
from karbor_actors.errors import (
    ActorCrashedError,
    CannotResumeError,
    HookGivenUpError,
    describe_cause,
)
from karbor_actors.operations.messages import (
    BodyFailed,
    CompletionDurable,
    IntentDurable,
    NotBegun,
    RetryDue,
    RunHook,
    Withdraw,
)

if TYPE_CHECKING:
    from karbor_actors.actors import Timer
    from karbor_actors.operations.control import OperationControl


def _hook_died(actor: Any, error: BaseException) -> None:
    """Fail the hook whose actor died of *error*: a bug of the engine's, not the plugin's."""
    crash = ActorCrashedError(f"the actor of a hook died: {describe_cause(error)}")
    crash.__cause__ = error
    actor.control.hook_actor_died(actor.hook, crash)


_NEW, _INTENDED, _RUNNING, _WAITING = range(4)
"""Where a hook's actor stands; a message that comes twice finds it elsewhere."""


class HookActor(ConfinedActor):
    """Takes one hook from its first attempt to its durable completion, then stops.

    It is made when the last of its upstream hook actors has told its completion; until then
    the hook is a count in the schedule's arrays. Runs on the operation's control thread.

    It stops within its last message's turn, not by a message to itself: the control has let
    it go by then, so nobody will tell it anything more.
    """

    __slots__ = ("_attempt", "_last_error", "_stage", "_timer", "control", "hook")

    watcher = staticmethod(_hook_died)

    def __init__(self, control: OperationControl, hook: int) -> None:
        ConfinedActor.__init__(self)  # super() would cost as much again
        self.control, self.hook = control, hook
        self._attempt = 1
        self._stage = _NEW
        self._timer: Timer | None = None
        self._last_error: BaseException | None = None

    def on_receive(self, message: Any) -> None:
        """Take the hook one step further."""
        kind = type(message)
        if kind is CompletionDurable:  # the two that each hook gets; a match costs more
            self.control.hook_completed(self.hook)
            self._stop()
        elif kind is RunHook:
            if self._stage == _NEW:
                self._begin_attempt()
        else:
            self._receive_other(message)

    def _receive_other(self, message: Any) -> None:
        match message:
            case IntentDurable():
                if self._stage == _INTENDED:
                    self._dispatch()
            case BodyFailed(error=error):
                if self._stage == _RUNNING:
                    self._failed(error)
            case RetryDue():
                if self._stage == _WAITING:
                    self._timer = None
                    self._attempt += 1
                    self._begin_attempt()
            case NotBegun():
                self._give_up()
            case Withdraw():
                if self._timer is not None:
                    self.control.retries.cancel(self._timer)
                    self._give_up()

    def _begin_attempt(self) -> None:
        control, hook = self.control, self.hook
        if (
            control.foresight.is_on
            and control.needs_intent(hook)
            and not control.foresight.take(hook)
        ):
            self._stage = _INTENDED
            control.record_intent(hook)
        else:
            self._dispatch()

    def _dispatch(self) -> None:
        self._stage = _RUNNING
        if not self.control.dispatch(self.hook, self._attempt):
            self._give_up()

    def _failed(self, error: BaseException) -> None:
        policy = self.control.retries.policy(self.hook)
        is_last = self._attempt >= policy.attempts or isinstance(
            error.__cause__, (CannotResumeError, HookGivenUpError)
        )
        if not is_last and self.control.suspending.leaves(self.hook):
            self.control.hook_withdrawn(self.hook, has_run=True)
            self._stop()
            return
        if is_last or self.control.schedule.is_closed:
            self.control.hook_failed(self.hook, error)
            self._stop()
            return
        self._last_error = error
        self._stage = _WAITING
        self._timer = self.control.retries.later(policy.delay(self._attempt), self.actor_ref)

    def _give_up(self) -> None:
        """Leave without another attempt: as failed if one has failed, else as never run.

        Where a later process goes on, the attempts that are left are its own.
        """
        if self._last_error is not None and not self.control.suspending.leaves(self.hook):
            self.control.hook_failed(self.hook, self._last_error)
        else:
            self.control.hook_withdrawn(self.hook, has_run=self._last_error is not None)
        self._stop()
