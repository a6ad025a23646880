"""The actor that takes one operation from its beginning to a terminal status.

Its steps that block (planning, opening, closing) run on a worker and come back as
:class:`StepDone`. Between opening and closing the operation's hooks run: the supervisor
hands on what workers and the bank report to :class:`OperationControl`, and starts closing
once that says that nothing runs any more.
"""

from __future__ import annotations

import logging
import time
from math import inf
from typing import TYPE_CHECKING, Any

from karbor_actors.actors import PooledActor
from karbor_actors.errors import (
    ActorCrashedError,
    KarborError,
    OperationCancelledError,
    OperationError,
    PartialOperationError,
    describe_cause,
)
from karbor_actors.model import AbortKind, AbortReason, OperationStatus
from karbor_actors.operations.control import OperationControl
from karbor_actors.operations.messages import (
    Begin,
    Cancel,
    Flush,
    GetProgress,
    LocksGranted,
    LookAtClock,
    LookAtOutbox,
    ReleaseAborts,
    StepDone,
    TakeOver,
)
from karbor_actors.operations.outbox import Outbox
from karbor_actors.operations.outcome import Outcome
from karbor_actors.operations.results import Event, Progress
from karbor_actors.operations.runner import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.actors import Timer
    from karbor_actors.model import HookName
    from karbor_actors.operations.conflicts import LockRequest
    from karbor_actors.operations.engine import Engine
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.verb import Verb

_LOG = logging.getLogger("karbor_actors.operations")


class _Step:
    """A blocking step of a supervisor, as a call for a worker."""

    def __init__(self, handle: OperationHandle, name: str, body: Callable[[], Any]) -> None:
        self._handle, self._name, self._body = handle, name, body

    def run(self) -> None:
        """Run the step and tell the supervisor how it ended."""
        try:
            done = StepDone(self._name, self._body())
        except BaseException as error:
            done = StepDone(self._name, error=error)
        self._handle.tell(done)

    async def run_async(self) -> None:
        """Steps are never asynchronous."""
        raise NotImplementedError


class _Tidying:
    """Drops what an ended operation leaves, as a call for a worker."""

    def __init__(self, verb: Verb) -> None:
        self._verb = verb

    def run(self) -> None:
        """Tidy up; a failure costs space only, and is logged."""
        try:
            self._verb.tidy()
        except KarborError as error:
            _LOG.warning("the journal of %s stays: %s", self._verb.operation_id, error)

    async def run_async(self) -> None:
        """Steps are never asynchronous."""
        raise NotImplementedError


class SupervisorActor(PooledActor):
    """Runs one operation. Lives on the engine's control thread."""

    registered = False
    watcher = staticmethod(lambda actor, error: actor.died(error))

    def __init__(self, engine: Engine, verb: Verb, handle: OperationHandle) -> None:
        super().__init__()
        self._engine, self._verb, self._handle = engine, verb, handle
        self._planned: PlannedOperation | None = None
        self._run: OperationRun | None = None
        self._control: OperationControl | None = None
        self._outcome: Outcome | None = None
        self._cancelled: AbortReason | None = None
        self._step = ""
        self._flush_requested = False
        self._timers: list[Timer] = []
        self._clock_timer: Timer | None = None
        self._clock_due = 0.0
        self._is_successor = False
        self._has_waited = False

    def on_receive(self, message: Any) -> Any:
        """Take the operation one step further."""
        match message:
            case LookAtOutbox():
                if self._control is not None:
                    self._control.take_reports()
            case Flush():
                self._flush()
            case StepDone():
                self._step_done(message)
            case LocksGranted(waited=waited):
                self._locks_granted(waited=waited)
            case Cancel(reason=reason):
                self._cancel(reason)
            case LookAtClock():
                self._look_at_clock()
            case ReleaseAborts(resources=resources):
                if self._control is not None:
                    self._control.undo.release(resources)
            case TakeOver(dead=dead, crash=crash):
                self._take_over(dead, crash)
            case GetProgress():
                return self._progress()
            case Begin():
                self._begin_step("plan", self._verb.plan)
            case _:
                return super().on_receive(message)
        return None

    def died(self, error: BaseException) -> None:
        """Have a successor undo what began, when its supervisor died of *error*: a bug."""
        crash = ActorCrashedError(f"the supervisor died: {describe_cause(error)}")
        crash.__cause__ = error
        if self._control is None or self._outcome is not None or self._is_successor:
            self._settle(OperationStatus.FAILED, error=self._failure([crash]))
            return
        ref = SupervisorActor.start_on(
            self._engine.dispatcher, self._engine, self._verb, self._handle
        )
        self._handle.attach(ref)
        ref.tell(TakeOver(self, crash))

    def _take_over(self, dead: SupervisorActor, crash: ActorCrashedError) -> None:
        """Go on where *dead* died: with the end of the operation, and with nothing else."""
        control = dead._control
        if control is None:
            return
        self._is_successor = True
        self._planned, self._run, self._control = dead._planned, dead._run, control
        self._timers = dead._timers
        control.request_flush, control.emit = self._request_flush, self._emit
        control.failures.append(crash)
        control.abort(AbortReason(AbortKind.FAILURE, str(crash)))
        control.take_reports()

    # -- steps

    def _begin_step(self, name: str, body: Callable[[], Any]) -> None:
        self._step = name
        self._engine.runners.submit(Lane.PLAN, [_Step(self._handle, name, body)])

    def _step_done(self, done: StepDone) -> None:
        self._step = ""
        if done.step in ("close", "refuse"):
            self._closed(done)
        elif done.error is not None:
            self._refuse(done.error)
        elif self._cancelled is not None:
            self._refuse(OperationCancelledError(f"the {self._verb.type} was cancelled"))
        elif done.step == "plan":
            self._planned = done.result
            self._acquire(self._verb.locks(done.result.graph))
        else:
            self._opened(done.result)

    def _acquire(self, request: LockRequest) -> None:
        """Have what was planned locked; a plan made again mostly needs what is had already."""
        if self._has_waited:
            if self._engine.covers(self._handle.id, request):
                self._locks_granted(waited=False)
                return
            self._engine.release(self._handle.id)
        self._engine.acquire(self._handle.id, request, self.actor_ref)

    def _locks_granted(self, *, waited: bool) -> None:
        if self._cancelled is not None:
            self._refuse(OperationCancelledError(f"the {self._verb.type} was cancelled"))
        elif waited and self._verb.replans and self._verb.recovered is None:
            self._has_waited = True  # the locks are kept: nobody comes in between
            self._begin_step("plan", self._verb.plan)
        else:
            planned = self._planned
            if planned is not None:
                self._begin_step("open", lambda: self._verb.open(planned))

    def _opened(self, run: OperationRun) -> None:
        self._run = run
        self._handle.set_checkpoint_id(self._verb.checkpoint_id)
        self._handle.set_status(OperationStatus.RUNNING)
        handle = self._handle
        self._control = OperationControl(
            run,
            self._engine.dispatcher,
            self._engine.runners,
            Outbox(lambda: handle.tell(LookAtOutbox())),
            request_flush=self._request_flush,
            emit=self._emit,
            retry=self._engine.retry_policy(run.planned, self._verb.provider.retry),
            limits=self._verb.provider.limits_of,
            workers=self._engine.workers,
        )
        self._control.start()
        if self._verb.timeout is not None:
            reason = AbortReason(AbortKind.TIMEOUT, f"it took longer than {self._verb.timeout} s")
            self._call_later(self._verb.timeout, Cancel(reason))
        if self._cancelled is not None:
            self._control.abort(self._cancelled)

    def _call_later(self, delay: float, message: object) -> None:
        handle = self._handle
        self._timers.append(self._engine.dispatcher.call_later(delay, lambda: handle.tell(message)))

    # -- while hooks run

    def _request_flush(self) -> None:
        if not self._flush_requested:
            self._flush_requested = True
            self.actor_ref.tell(Flush())

    def _flush(self) -> None:
        self._flush_requested = False
        control = self._control
        if control is None or self._outcome is not None:
            return
        control.flush()
        self._set_clock(control.watch.soonest)
        if control.reason is not None and self._handle.status is OperationStatus.RUNNING:
            self._handle.set_status(OperationStatus.ABORTING)
            self._call_later(self._engine.abort_grace, ReleaseAborts())
        if control.doomed:
            doomed, control.doomed = control.doomed, []
            self._call_later(self._engine.abort_grace, ReleaseAborts(doomed))
        if control.is_stalled:
            message = "hooks wait although nothing runs: a completion was lost"
            control.failures.append(ActorCrashedError(message))
            control.abort(AbortReason(AbortKind.FAILURE, message))
        if control.is_over:
            self._close(control)

    def _look_at_clock(self) -> None:
        self._clock_timer = None
        if self._control is not None and self._outcome is None:
            self._control.look_at_clock()

    def _set_clock(self, due: float) -> None:
        """See to it that the clock is looked at when it is *due*, or before."""
        if due == inf or (self._clock_timer is not None and self._clock_due <= due):
            return
        if self._clock_timer is not None:
            self._clock_timer.cancel()
        handle, dispatcher = self._handle, self._engine.dispatcher
        self._clock_due = due
        self._clock_timer = dispatcher.call_later(
            due - dispatcher.now(), lambda: handle.tell(LookAtClock())
        )

    def _cancel(self, reason: AbortReason) -> None:
        if self._outcome is not None or self._cancelled is not None:
            return
        self._cancelled = reason
        self._verb.is_cancelled = True
        if self._control is not None:
            self._control.abort(reason)
        elif not self._step:  # it waits for its locks
            self._refuse(OperationCancelledError(f"the {self._verb.type} was cancelled"))

    def _emit(self, kind: str, resource: int, hook: HookName, **detail: Any) -> None:
        if self._handle.has_listeners and self._planned is not None:
            key = self._planned.graph.nodes[resource].key
            self._handle.emit(Event(kind, time.time(), key, hook, detail))

    def _progress(self) -> Progress:
        control, run = self._control, self._run
        if control is None or run is None:
            return Progress(self._handle.status)
        schedule = control.schedule
        return Progress(
            self._handle.status,
            len(schedule) - schedule.unfinished,
            len(schedule),
            run.progress_of_running(),
            tuple(map(describe_cause, control.failures)),
        )

    # -- the end

    def _close(self, control: OperationControl) -> None:
        run = self._run
        if run is None:
            return
        outcome = self._outcome = Outcome.of(control, self._cancelled)
        self._begin_step("close", lambda: self._verb.close(run, outcome))

    def _refuse(self, error: BaseException) -> None:
        """End an operation of which no hook ran."""
        outcome = self._outcome = Outcome(OperationStatus.FAILED, [error])
        if isinstance(error, OperationCancelledError):
            outcome.status = OperationStatus.CANCELLED
        self._begin_step("refuse", lambda: self._verb.refuse(outcome))

    def _closed(self, done: StepDone) -> None:
        outcome = self._outcome
        if outcome is None:
            return
        if done.error is not None:
            outcome.failures.append(done.error)
            outcome.status = OperationStatus.FAILED
        if outcome.status is OperationStatus.SUCCEEDED:
            self._settle(outcome.status, done.result)
        elif done.step == "refuse":
            first = outcome.failures[0]
            is_plain = isinstance(first, KarborError) and len(outcome.failures) == 1
            error = first if is_plain else self._failure(outcome.failures)
            self._settle(outcome.status, error=error)
        else:
            causes = [*outcome.failures, *outcome.abort_failures]
            error = self._failure(causes, outcome.status, done.result)
            self._settle(outcome.status, error=error)

    def _failure(
        self,
        causes: list[BaseException],
        status: OperationStatus = OperationStatus.FAILED,
        result: Any = None,
    ) -> OperationError:
        what = f"{self._verb.type} {self._handle.id}"
        error: OperationError
        if status is OperationStatus.PARTIAL:
            error = PartialOperationError(f"{what} succeeded in part", causes, result)
        elif status is OperationStatus.CANCELLED:
            error = OperationCancelledError(f"{what} was cancelled", causes)
        else:
            error = OperationError(f"{what} failed", causes)
        error.result = result
        if causes:
            error.__cause__ = causes[0]
        return error

    def _settle(
        self, status: OperationStatus, result: Any = None, error: BaseException | None = None
    ) -> None:
        for timer in (*self._timers, self._clock_timer):
            if timer is not None:
                timer.cancel()
        self._engine.release(self._handle.id)
        progress = self._progress()
        final = Progress(status, progress.hooks_done, progress.hooks_total, (), progress.failures)
        _LOG.info("%s %s: %s", self._verb.type, self._handle.id, status)
        self._engine.runners.submit(Lane.PLAN, [_Tidying(self._verb)])
        self._engine.operation_ended(self._handle.id)
        self._handle.settle(status, final, result, error)
        self.stop()
