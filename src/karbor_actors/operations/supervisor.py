"""The actor that takes one operation from its beginning to a terminal status.

Its steps that block (planning, opening, closing) run on a worker and come back as
:class:`StepDone`. Between opening and closing the operation's hooks run: the supervisor
hands on what workers and the bank report to :class:`OperationControl`, and starts closing
once that says that nothing runs any more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import ActorCrashedError, describe_cause
from karbor_actors.model import AbortKind, AbortReason, OperationStatus
from karbor_actors.operations.ending import CLOSED, EndingActor
from karbor_actors.operations.messages import (
    Begin,
    Cancel,
    Flush,
    GetProgress,
    LocksGranted,
    LookAround,
    LookAtClock,
    LookAtOutbox,
    PlanTooLong,
    ReleaseAborts,
    StepDone,
    Suspend,
)
from karbor_actors.operations.outcome import Outcome
from karbor_actors.operations.planning import StalePlan
from karbor_actors.operations.steps import OPEN, PLAN, UNDO_FIRST, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.errors import OperationError
    from karbor_actors.operations.admission.conflicts import LockRequest
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun

_LOG = logging.getLogger("karbor_actors.operations")
PLAN_GRACE = 2.0
"""Seconds that a plan has to notice that it is wanted no more; it has nothing to undo."""
PLAN_LIMIT = 3600.0
"""Seconds that a plan may take without having looked at another resource."""
_MOVES = frozenset({LookAtOutbox, StepDone, LocksGranted, Cancel})


class SupervisorActor(EndingActor):
    """Runs one operation. Lives on the engine's control thread."""

    watcher = staticmethod(lambda actor, error: actor.died(error))

    def on_start(self) -> None:
        """Begin to look around from time to time, until the end; take over from a dead one."""
        if isinstance(self._dead, SupervisorActor) and self._crash is not None:
            self._take_over(self._dead, self._crash)
        else:
            self._alarms.look_around()

    def on_receive(self, message: Any) -> Any:
        """Take the operation one step further."""
        self._moves += type(message) in _MOVES
        match message:
            case LookAtOutbox():
                # Once the outcome is known, what comes is late: it is for look_for_late().
                if self._control is not None and self._outcome is None:
                    self._control.take_reports()
                    self._flush()
            case Flush():
                self._flush()
            case StepDone():
                self._step_done(message)
            case LocksGranted():
                self._locks_granted(waited=True)
            case Cancel(reason=reason):
                self._cancel(reason)
            case Suspend():
                self._suspend()
            case LookAround():
                self._look_around()
            case LookAtClock():
                if self._control is not None and self._outcome is None:
                    self._control.overtime.look_at_clock()
            case ReleaseAborts(resources=resources):
                self._grace_is_over(resources)
            case GetProgress():
                return self._progress(self._handle.status)
            case PlanTooLong():
                if self._is_planning:
                    self._cancel(self._verb.options.too_long)
            case Begin():
                self._begin()
            case _:
                return super().on_receive(message)
        return None

    def died(self, error: BaseException) -> None:
        """Have a successor bring the operation to its end, when this one died of *error*: a bug."""
        crash = ActorCrashedError(f"the supervisor died: {describe_cause(error)}")
        crash.__cause__ = error
        if self._crash is not None:
            self._end_unrecorded(self._failure([self._crash, crash], OperationStatus.FAILED))
            return
        engine = self._engine
        ref = SupervisorActor.start_on(
            engine.dispatcher, engine, self._verb, self._handle, self, crash
        )
        self._handle.attach(ref)

    def _end_unrecorded(self, error: OperationError) -> None:
        """End what two supervisors died of: its journal stays, for who is to undo it."""
        if self._run is not None and self._control is not None:
            self._run.is_over = True
            self._control.overtime.leave_all()
            self._verb.leave_unended(self._control.undo.begun())
        elif (found := self._verb.recovered) is not None:
            self._verb.leave_unended(found.begun_resources())
        self._settle(OperationStatus.FAILED, error=error)

    def _take_over(self, dead: SupervisorActor, crash: ActorCrashedError) -> None:
        """Go on where *dead* died: with the end of the operation, and with nothing else."""
        control = dead._control
        self._planned, self._run, self._control = dead._planned, dead._run, control
        self._step, self._outcome, self._alarms = dead._step, dead._outcome, dead._alarms
        self._started_at = dead._started_at
        self._cancelled = AbortReason(AbortKind.FAILURE, str(crash))
        if self._step is not None:
            if self._step.done is not None:
                self._step_done(self._step.done)
        elif control is None and self._run is not None:
            self._opened(self._run)
        elif control is None:
            self._refuse_cancelled()
        elif self._outcome is None:
            control.ask_flush = self._request_flush
            control.failures.append(crash)
            control.abort(self._cancelled)
            control.take_reports()
            self._request_flush()

    # -- steps

    def _begin(self) -> None:
        if self._step is None and self._planned is None:
            deadline = self._verb.until_deadline
            if deadline is not None:
                self._alarms.tell_later(deadline, Cancel(self._verb.options.past_deadline))
            self._begin_plan()

    def _begin_plan(self) -> None:
        self._plan_began = self._engine.dispatcher.now()
        self._begin_step(PLAN, self._verb.plan)
        left = self._verb.time_left
        if left is not None and self._verb.recovered is None:
            self._alarms.tell_later(max(left - self._planned_for, 0.0), PlanTooLong())

    def _step_done(self, done: StepDone) -> None:
        if done.step is not self._step:
            return  # it came twice
        done.step.done = self._step = None
        if done.step.name in ("close", "suspend", "refuse"):
            self._closed(done)
        elif self._is_refused and done.step.name != OPEN:
            self._refuse_cancelled()
        elif isinstance(done.error, StalePlan):
            self._plan_again()
        elif done.error is not None:
            self._not_begun(done.error)
        elif done.step.name == OPEN:
            self._run = done.result  # it is recorded, whatever becomes of who is told
            self._opened(done.result)
        elif done.step.name == PLAN:
            self._plan_made(done.result)
        else:
            self._wait_for(done.result)

    def _plan_made(self, planned: PlannedOperation) -> None:
        self._planned = planned
        if self._verb.recovered is None:
            self._planned_for += self._engine.dispatcher.now() - self._plan_began
        found, verdict = self._verb.recovered, self._verb.verdict(planned)
        can_wait = verdict is not None and verdict.may_stand_still
        self._may_stand_still = can_wait and self._cancelled is None
        stands_still = found is not None and (found.must_ask or self._handle.is_suspended)
        if self._may_stand_still and stands_still:
            self._settle_suspended()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Undo first what earlier operations left on what this one wants; then lock that."""
        if self._planned is None:
            return
        request = self._verb.locks(self._planned.graph)
        if self._must_undo_first(request):
            self._undone_first |= set(self._engine.pending.touched_by(request))
            self._has_waited = False
            self._engine.release(self._handle.id)  # who undoes it wants the same locks
            self._begin_step(UNDO_FIRST, lambda: self._engine.undo_first(request))
        else:
            self._acquire(request)

    def _wait_for(self, others: list[OperationHandle]) -> None:
        """Go on once *others* have ended."""
        self._step = Step.waiting(self._handle, others)
        self._is_waiting = self._step is not None
        if not self._is_waiting:
            self._go_on()

    def _acquire(self, request: LockRequest) -> None:
        """Have what was planned locked; a plan made again mostly needs what is had already."""
        engine, own_id = self._engine, self._handle.id
        has_all = self._has_waited and engine.covers(own_id, request)
        if self._has_waited and not has_all:
            engine.release(own_id)
        self._is_waiting = True
        if has_all or engine.acquire(own_id, request, self.actor_ref):
            self._locks_granted(waited=False)

    def _locks_granted(self, *, waited: bool) -> None:
        if self._step is not None or self._control is not None or self._outcome is not None:
            return  # it came twice
        self._is_waiting = False
        if self._is_refused:
            self._refuse_cancelled()
        elif waited and self._verb.replans and self._verb.recovered is None:
            self._plan_again()
        elif (planned := self._planned) is not None:
            if waited and self._must_undo_first(self._verb.locks(planned.graph)):
                self._go_on()  # who had them could not undo all
            else:
                self._begin_step(OPEN, lambda: self._verb.open(planned))

    def _must_undo_first(self, request: LockRequest) -> bool:
        """Return whether something of what it wants was left to be undone; each is tried once."""
        is_new = self._verb.recovered is None
        return is_new and not self._undone_first.issuperset(
            self._engine.pending.touched_by(request)
        )

    def _plan_again(self) -> None:
        self._has_waited = True  # the locks are kept: nobody comes in between
        if self._handle.is_suspended and self._verb.recovered is None:
            self._cancel(CLOSED)  # told as it was to be recorded, and it is not
        if self._is_refused:
            self._refuse_cancelled()
        else:
            self._begin_plan()

    def _opened(self, run: OperationRun) -> None:
        self._handle.set_checkpoint_id(self._verb.checkpoint_id)
        self._handle.set_status(OperationStatus.RUNNING)
        handle, engine = self._handle, self._engine
        run.clock, run.on_decided = engine.dispatcher.now, handle.decided
        self._started_at = run.clock() - self._planned_for
        provider = self._verb.provider
        self._control = engine.control_of(run, handle, provider, self._request_flush)
        self._control.start()
        if (left := self._verb.time_left) is not None:
            left = max(left - self._planned_for, 0.0)
            self._alarms.tell_later(left, Cancel(self._verb.options.too_long))
        if self._crash is not None:
            self._control.failures.append(self._crash)
        if self._cancelled is not None:
            self._control.abort(self._cancelled)
        elif handle.is_suspended or (run.recovered and run.recovered.must_ask):
            self._suspend()
        self._flush()

    # -- while hooks run

    def _request_flush(self) -> None:
        """Have what is gathered handed on after the actors that this turn has told something.

        A message to itself would come before those have gathered anything.
        """
        if not self._flush_requested:
            self._flush_requested = True
            self._engine.dispatcher.schedule(self._flusher)

    def _flush(self) -> None:
        self._flush_requested = False
        control = self._control
        if control is None or self._outcome is not None:
            return
        control.flush()
        self._alarms.set_clock(control.watch.soonest)
        if control.reason is not None and self._handle.status is OperationStatus.RUNNING:
            self._handle.set_status(OperationStatus.ABORTING)
            self._alarms.tell_later(self._engine.abort_grace, ReleaseAborts())
        if control.doomed:
            doomed, control.doomed = control.doomed, []
            self._alarms.tell_later(self._engine.abort_grace, ReleaseAborts(doomed))
        if control.is_over:
            self._close(control)

    def _grace_is_over(self, resources: Sequence[int] | None) -> None:
        if (control := self._control) is None:
            self._give_up_plan()
            return
        control.undo.end_grace(resources)
        if resources == () or (resources is None and (self._cancelled or control.suspending.is_on)):
            control.overtime.end_grace()

    def _look_around(self) -> None:
        """See whether a message was lost: do what it asked for, or end what cannot go on."""
        handle, control, step = self._handle, self._control, self._step
        self._engine.runners.look_around()
        if handle.cancel_reason is not None and self._cancelled is None:
            self._cancel(handle.cancel_reason)
        if self._verb.until_deadline == 0.0:  # the clock was set, or the machine slept
            self._cancel(self._verb.options.past_deadline)
        if step is not None:
            if step.done is not None:
                self._step_done(step.done)
            elif step.name == PLAN:
                self._look_at_plan()
        elif self._is_waiting and self._planned is not None:
            if self._engine.covers(handle.id, self._verb.locks(self._planned.graph)):
                self._locks_granted(waited=True)
        elif self._planned is None:
            self._begin()
        elif control is not None and self._outcome is None:
            self._verb.note_ran(self._engine.dispatcher.now() - self._started_at)
            if control.is_idle and self._idle_at == self._moves:
                control.end_stall()
            self._idle_at = self._moves if control.is_idle else None
            if control.watch.soonest < self._engine.dispatcher.now():
                control.overtime.look_at_clock()
            control.take_reports()
            self._flush()

    def _look_at_plan(self) -> None:
        """End an operation whose plan has not got on for too long."""
        looked_up, now = self._verb.looked_up, self._engine.dispatcher.now()
        if looked_up != self._looked_up[0]:
            self._looked_up = (looked_up, now)
        elif now - self._looked_up[1] > PLAN_LIMIT:
            self._cancel(AbortReason(AbortKind.TIMEOUT, "its plan took too long: a plugin hangs"))
            self._give_up_plan()

    def _cancel(self, reason: AbortReason) -> None:
        if self._outcome is not None and self._outcome.status is OperationStatus.SUSPENDED:
            self._note_late_cancel(reason)
        elif self._outcome is not None or (self._run is not None and self._run.is_settled()):
            self._handle.decided()  # as it is: it ends
        if self._outcome is not None or self._cancelled is not None:
            return
        self._cancelled = reason
        self._verb.is_cancelled = True
        self._verb.is_final = reason.kind is not AbortKind.SHUTDOWN
        grace = self._engine.abort_grace
        if self._control is not None:
            if self._control.reason is not None:  # undone already: bodies had no grace
                self._alarms.tell_later(grace, ReleaseAborts(()))
            self._control.abort(reason)
            return
        if self._verb.recovered is None and not self._is_opening:
            self._handle.decided()  # nothing is recorded that could go on
        if self._is_waiting and self._is_refused:
            self._refuse_cancelled()
        else:
            grace = min(grace, PLAN_GRACE) if self._is_refused else grace
            self._alarms.tell_later(grace, ReleaseAborts())

    def _suspend(self) -> None:
        """Stop where the operation stands: what is recorded of it goes on at the next start."""
        control = self._control
        if control is None:
            if self._verb.recovered is None and self._run is None and not self._is_opening:
                self._cancel(CLOSED)  # nothing is recorded that could go on
            elif self._is_waiting and self._may_stand_still:
                self._settle_suspended()
            else:
                self._alarms.tell_later(self._engine.abort_grace, ReleaseAborts())
        elif self._outcome is None and not control.suspending.is_on:
            if not control.suspending.begin():
                self._cancel(CLOSED)
            self._alarms.tell_later(self._engine.abort_grace, ReleaseAborts(()))

    # -- the end

    def _close(self, control: OperationControl) -> None:
        run = control.run
        control.intake.clear()  # what was dropped while it waited gets no place any more
        outcome = self._outcome = Outcome.of(control, self._cancelled)
        if self._verb.waits_for and not run.is_settled():
            outcome.status = OperationStatus.SUSPENDED
        if outcome.status is OperationStatus.SUSPENDED:
            run.is_over = True
            ran = self._engine.dispatcher.now() - self._started_at
            self._begin_step("suspend", lambda: self._verb.suspend(ran, outcome))
        else:
            self._begin_step("close", lambda: self._verb.close(run, outcome))
