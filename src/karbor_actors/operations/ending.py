"""What a supervisor holds of its operation, and how it ends it."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError

from karbor_actors.actors import PooledActor
from karbor_actors.errors import BankFullError, KarborError, OperationCancelledError, describe_cause
from karbor_actors.model import AbortKind, AbortReason, OperationStatus
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.operations.limits.alarms import Alarms, Teller
from karbor_actors.operations.messages import FLUSH
from karbor_actors.operations.outcome import Outcome, progress_of
from karbor_actors.operations.steps import OPEN, PLAN, Step, failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.errors import ActorCrashedError, OperationError
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.engine import Engine
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.messages import StepDone
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.results import Progress
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.verb import Verb

_LOG = logging.getLogger("karbor_actors.operations")
CLOSED = AbortReason(AbortKind.SHUTDOWN, "the service was closed")
_NONE: frozenset[str] = frozenset()  # one for all: each call makes another


class EndingActor(PooledActor):
    """The part of a supervisor that ends its operation, well or not. The control thread only."""

    registered = False

    def __init__(
        self,
        engine: Engine,
        verb: Verb,
        handle: OperationHandle,
        dead: EndingActor | None = None,
        crash: ActorCrashedError | None = None,
    ) -> None:
        super().__init__()
        self._engine, self._verb, self._handle = engine, verb, handle
        self._planned: PlannedOperation | None = None
        self._run: OperationRun | None = None
        self._control: OperationControl | None = None
        self._outcome: Outcome | None = None
        self._cancelled: AbortReason | None = None
        self._late_cancel: AbortReason | None = None
        """Why it was cancelled while it was being recorded that it is suspended."""
        self._step: Step | None = None
        self._moves = 0
        """Messages that moved the operation; where they stand still, nothing happens."""
        self._idle_at: int | None = None
        """How many there were when nothing was under way."""
        self._flush_requested = False
        self._flusher = Teller(handle, FLUSH)
        self._alarms = Alarms(engine.dispatcher, handle)
        self._dead, self._crash = dead, crash
        """The supervisor before this one, and what it died of."""
        self._has_waited = False
        self._undone_first = _NONE
        """The operations whose rest it has had tried again before it began."""
        self._is_waiting = False
        """Whether it waits for locks, or for what must be undone first."""
        self._may_stand_still = False
        """Whether it was recovered, and nothing of it must be undone, or is held."""
        self._started_at = 0.0
        """When its hooks began, less the time that the plan took: that counts too."""
        self._plan_began = 0.0
        self._planned_for = 0.0
        """Seconds that its plans have taken."""
        self._looked_up = (-1, 0.0)
        """How many resources a plan had looked at, and since when that has been so."""

    def on_stop(self) -> None:
        """Let go of what has ended; nobody asks it anything any more.

        The control knows its parts, and they know it: else all of that were there until the
        collector's next look at everything, which costs the more the more there is.
        """
        if self._control is not None and not self._control.overtime.late:
            vars(self._control).clear()
            self._control = None

    # -- steps

    def _begin_step(self, name: str, body: Callable[[], Any]) -> None:
        self._step = Step(self._handle, name, body)
        lane = Lane.PLAN if name == PLAN else Lane.RECORD
        self._engine.runners.submit(lane, [self._step])

    @property
    def _is_planning(self) -> bool:
        return self._step is not None and self._step.name == PLAN

    @property
    def _is_opening(self) -> bool:
        """Whether it is being recorded: from then on a later process can go on with it."""
        return self._step is not None and self._step.name == OPEN

    def _progress(self, status: OperationStatus) -> Progress:
        """Return how far it is, whose status is *status*."""
        looked_up = self._verb.looked_up if self._is_planning else None
        return progress_of(status, self._control, self._run, looked_up)

    def _give_up_plan(self) -> None:
        """Wait no longer for a plan, which hangs in a plugin, of an operation that is to end."""
        step = self._step
        if step is None or not self._is_planning:
            return
        self._engine.runners.abandon(Lane.PLAN, step)
        self._step = None
        if self._cancelled is not None:
            self._refuse_cancelled()
        elif self._handle.is_suspended:
            self._settle_suspended()

    # -- the end

    @property
    def _is_refused(self) -> bool:
        """Whether it ends before it begins: it was cancelled, and there is nothing to undo."""
        found = self._verb.recovered
        return self._cancelled is not None and (found is None or not found.begun_resources())

    def _refuse(self, error: BaseException) -> None:
        """End an operation of which no hook ran."""
        self._is_waiting = False
        outcome = self._outcome = self._verb.refusal(error)
        self._begin_step("refuse", lambda: self._verb.refuse(outcome))

    def _not_begun(self, error: BaseException) -> None:
        """End an operation that met *error*; for want of space, one that can wait stays as it was found."""
        if self._may_stand_still and isinstance(error, BankFullError):
            self._settle_suspended(error)
        else:
            self._refuse(error)

    def _refuse_cancelled(self) -> None:
        why: BaseException = OperationCancelledError(f"the {self._verb.type} was cancelled")
        if self._cancelled is not None and self._cancelled.kind is AbortKind.TIMEOUT:
            why = TimeoutError(self._cancelled.error)
        self._refuse(self._crash or why)

    def _settle_suspended(self, *why: BaseException) -> None:
        """Leave a recovered operation as it was found, and say that it stands still."""
        self._is_waiting = False
        self._outcome = Outcome(OperationStatus.SUSPENDED, [*why])
        self._begin_step("suspend", self._verb.stand_still)

    def _closed(self, done: StepDone) -> None:
        outcome = self._outcome
        if outcome is None:
            return
        if self._late_cancel is not None and self._control is not None:
            self._outcome, self._control.run.is_over = None, False
            self._cancelled, self._late_cancel = self._late_cancel, None
            self._control.abort(self._cancelled)
            return
        if done.error is not None and self._control is not None and self._verb.must_undo(outcome):
            self._undo_end(self._control, done.error)
            return
        if done.error is not None:
            outcome.failures.append(done.error)
            outcome.status = OperationStatus.FAILED
        error: KarborError | None = None
        causes = [*outcome.failures, *outcome.abort_failures]
        if done.step.name == "refuse" and len(causes) == 1 and isinstance(causes[0], KarborError):
            error = causes[0]  # refused before anything ran: its sentence says all
        elif outcome.status is not OperationStatus.SUCCEEDED:
            error = self._failure(causes, outcome.status, done.result)
        self._settle(outcome.status, done.result, error)

    def _note_late_cancel(self, reason: AbortReason) -> None:
        """Undo what is being suspended, once that is recorded; no shutdown wants more than that."""
        if reason.kind is not AbortKind.SHUTDOWN:
            self._late_cancel = reason

    def _undo_end(self, control: OperationControl, error: BaseException) -> None:
        """Undo what the hooks did, all of them well, since that could not be recorded."""
        self._outcome, control.run.is_over = None, False
        control.failures.append(error)
        control.abort(AbortReason(AbortKind.FAILURE, describe_cause(error)))

    def _failure(
        self, causes: list[BaseException], status: OperationStatus, result: Any = None
    ) -> OperationError:
        what, waits_for = f"{self._verb.type} {self._handle.id}", self._verb.waits_for
        return failure(what, status, causes, result, waits_for=waits_for)

    def _settle(
        self, status: OperationStatus, result: Any = None, error: BaseException | None = None
    ) -> None:
        self._alarms.cancel()
        final = self._progress(status)
        _LOG.info("%s %s: %s", self._verb.type, self._handle.id, status)
        if self._verb.pending_keys:
            what = f"what {self._verb.type} {self._handle.id} did"
            is_late = self._control is not None and self._control.overtime.late
            when = "when a hook that was given up returns" if is_late else "by the next start"
            _LOG.warning("%s is not all undone: tried again %s, or by abort() now", what, when)
        self._engine.end(self._handle, self._verb, self._control)
        try:
            self._handle.settle(status, final, result, error)
        finally:
            self._engine.look_for_late(self._handle.id, self._control)
        with suppress(ActorDeadError):  # it may be dead already
            self.stop()  # told, not asked: nobody waits for it
