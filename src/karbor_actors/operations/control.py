"""The hooks of one running operation, and what its actors do to them.

Confined to the control thread: the supervisor, the hook actors and the abort actors of an
operation all run on one dispatcher thread and share this object instead of telling each
other what the next line can read. What comes from other threads comes as messages.

Decisions are the schedules'; here their answers become actors, journal records and calls.
What one turn of the control thread produces is gathered and handed on together by
:meth:`OperationControl.flush`: one journal record, one batch of calls per lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.bank.journal_records import JournalRecord
from karbor_actors.errors import (
    ActorCrashedError,
    BankError,
    HookCancelledError,
    HookFailedError,
    describe_cause,
)
from karbor_actors.model import AbortKind, AbortReason, HookName, OnFailure, RetryPolicy
from karbor_actors.operations.alarms import Retries
from karbor_actors.operations.call import HookCall
from karbor_actors.operations.context import Attempt
from karbor_actors.operations.hook import HookActor
from karbor_actors.operations.ledger import Ledger
from karbor_actors.operations.messages import (
    COMPLETION_DURABLE,
    RUN_HOOK,
    BodyEnded,
    BodyFailed,
    IntentDurable,
    JournalWritten,
    NotBegun,
    Withdraw,
)
from karbor_actors.operations.overtime import Overtime
from karbor_actors.operations.runner import Lane
from karbor_actors.operations.suspension import cannot_resume, needed_hooks
from karbor_actors.operations.taking_up import take_up
from karbor_actors.operations.undo import Undo
from karbor_actors.operations.watch import Watch
from karbor_actors.schedule import DONE, DROPPED, FAILED, HOOKS_PER_RESOURCE, hook_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pykka import ActorRef

    from karbor_actors.actors import Dispatcher
    from karbor_actors.limits import TimeLimits
    from karbor_actors.operations.intake import Intake
    from karbor_actors.operations.outbox import Outbox
    from karbor_actors.operations.run import OperationRun


class OperationControl:
    """One operation's hooks while they run. The control thread only.

    Args:
        run: The operation.
        dispatcher: Where hook and abort actors run: the supervisor's own, with one thread.
        intake: The ready hooks' way to the workers.
        outbox: Takes what workers and the bank's writer report.
        request_flush: Sees to it that :meth:`flush` is called at the end of this turn.
        emit: Takes an event's kind, resource, hook and details.
        retry: The policy for each hook number.
        limits: The time limits of a resource type.
    """

    def __init__(
        self,
        run: OperationRun,
        dispatcher: Dispatcher,
        intake: Intake,
        outbox: Outbox[BodyEnded | JournalWritten],
        *,
        request_flush: Callable[[], None],
        emit: Callable[..., None],
        retry: Callable[[int], RetryPolicy],
        limits: Callable[[str], TimeLimits],
    ) -> None:
        self.run, self.dispatcher, self.retry = run, dispatcher, retry
        self.schedule = run.planned.schedule()
        self.undo = Undo(self)
        self.watch = Watch(run.planned, limits)
        self.overtime = Overtime(self)
        self.failures: list[BaseException] = []
        self.reason: AbortReason | None = None
        """Why everything is undone, if it is."""
        self.doomed: list[int] = []
        """Resources undone by themselves, for the supervisor to take: their grace begins."""
        self._outbox = outbox
        self.request_flush, self.emit = request_flush, emit
        self._ledger = Ledger(run, outbox)
        self.intake = intake
        self._refs: dict[int, ActorRef[HookActor]] = {}
        self._attempts: dict[int, int] = {}
        """By hook of a recovered operation that had begun: the number of its next attempt."""
        self.retries = Retries(dispatcher)

    # -- what the supervisor asks

    def start(self) -> None:
        """Let the first hooks run; or those that a recovered operation has still to run."""
        run = self.run
        if run.recovered is None or run.verdict is None:
            self.admit(self.schedule.start())
        else:
            self._attempts = take_up(self, run.recovered, run.verdict)
        self.request_flush()

    def admit(self, hooks: Iterable[int]) -> None:
        """Queue *hooks*, which may run; a suspension leaves all but the needed ones."""
        needed = self.run.needed
        if needed is None:
            self.intake.add(hooks)
            return
        for hook in hooks:
            if hook in needed:
                self.intake.add([hook])
            else:
                self.schedule.withdraw(hook)

    def record(self, record: JournalRecord, then: Callable[[], None] | None = None) -> None:
        """Have *record* written; *then* is called once its fate is known."""
        self._ledger.add_record(record, then)
        self.request_flush()

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, nothing will, and everything is recorded."""
        return self.schedule.is_over and not self.undo.unfinished and self._ledger.is_clear

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: no body, no write, no timer.

        What waits to get in does not count if some of its own are in: it may wait for those.
        """
        is_waiting = not self._refs and not self.intake.is_empty
        is_quiet = self.watch.is_clear and self._ledger.is_clear and self.retries.is_empty
        return is_quiet and not is_waiting

    def end_stall(self) -> None:
        """End an operation in which nothing is under way any more: a message was lost."""
        lost = ActorCrashedError("hooks wait although nothing runs: a message was lost")
        for hook in list(self._refs):
            self._drop(hook, self.schedule.fail)
        self.undo.end_stall(lost)
        if self.reason is None:
            self.failures.append(lost)
            self.abort(AbortReason(AbortKind.FAILURE, str(lost)))
        self.request_flush()

    def take_reports(self) -> None:
        """Deal with what workers and the writer have reported."""
        for report in self._outbox.take():
            if isinstance(report, JournalWritten):
                self._journal_written(report)
                continue
            attempt = report.attempt
            if attempt.is_fenced:
                self.overtime.came_back(attempt)
                continue
            self.watch.ended(attempt.resource, attempt.hook)
            if report.attempt.hook is HookName.ON_ABORT:
                self.undo.body_ended(report)
            else:
                self._body_ended(report)
        self.request_flush()

    def abandon_reports(self) -> None:
        """Read no more of them: the operation has ended."""
        self._outbox.abandon()

    def flush(self) -> None:
        """Admit hooks; hand this turn's journal record and calls on."""
        for hook in self.intake.admit(self.dispatcher.now()):
            self._admit(hook)
        self._ledger.flush()
        self.intake.hand_on()

    def abort(self, reason: AbortReason) -> None:
        """Start nothing new, and undo what began. A second reason changes nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        self.schedule.close()
        self.run.is_cancelled = True
        for hook in self.intake.clear():
            self.schedule.withdraw(hook)
        for ref in self._refs.values():
            ref.tell(Withdraw())
        decision = JournalRecord.of_abort_decision(reason)
        self.record(decision, lambda: self.undo.add_begun(reason))

    def suspend(self) -> None:
        """End the critical spans that are open, then start nothing more; undo what cannot wait."""
        if self.reason is not None or self.run.needed is not None:
            return
        planned = self.run.planned
        stuck = cannot_resume(planned, self.schedule)
        if stuck is not None or not self.run.bank.is_writable:
            self.abort(AbortReason(AbortKind.SHUTDOWN, "the service was closed"))
            return
        self.run.needed = needed_hooks(planned, self.schedule)
        self.admit(self.intake.clear())
        for hook, ref in self._refs.items():
            if hook not in self.run.needed:
                ref.tell(Withdraw())
        self._end_spans()

    def _end_spans(self) -> None:
        """Close the schedule once no hook is needed any more."""
        needed = self.run.needed
        if needed is not None and self.reason is None:
            ended = (DONE, FAILED, DROPPED)
            if all(self.schedule.state(hook) in ended for hook in needed):
                self.schedule.close()
        self.request_flush()

    def given_up(self, call: HookCall, error: HookFailedError) -> None:
        """Go on without *call*, whose body takes too long, as if it had failed of *error*."""
        attempt = call.attempt
        self.intake.abandon(call)
        if attempt.hook is HookName.ON_ABORT:
            self.undo.body_ended(BodyEnded(attempt, began=True, error=error))
        elif self.is_suspending:
            self._drop(attempt.hook_number, self.schedule.withdraw)
        else:
            self._tell(attempt.hook_number, BodyFailed(error))

    @property
    def is_suspending(self) -> bool:
        """Whether the operation ends with nothing undone, for a later process to go on."""
        return self.run.needed is not None and self.reason is None

    # -- what hook actors ask

    def needs_intent(self, hook: int) -> bool:
        """Return whether *hook*'s intent must be durable before its body runs."""
        return bool(self.run.planned.abort_kinds[hook // HOOKS_PER_RESOURCE])

    def record_intent(self, hook: int) -> None:
        """Have *hook*'s intent recorded; its actor is told when it is durable."""
        self._ledger.add_intent(hook)
        self.request_flush()

    def dispatch(self, hook: int, number: int) -> bool:
        """Have attempt *number* of *hook* run; False if nothing starts any more."""
        needed = self.run.needed
        if self.schedule.is_closed or (needed is not None and hook not in needed):
            return False
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        number += self._attempts.get(hook, 1) - 1
        lane = self.intake.lane(hook)
        attempt = Attempt(self.run, resource, name, number, hook)
        call = HookCall(attempt, lane or Lane.MAIN, self._outbox.put)
        self.watch.begin(call, self.dispatcher.now())
        self.intake.add_call(call, lane)
        self.emit("hook_started", resource, name, attempt=number)
        self.request_flush()
        return True

    def hook_completed(self, hook: int) -> None:
        """Let *hook*'s downstream hooks run."""
        self._retire(hook)
        self.admit(self.schedule.complete(hook))
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        self.watch.completed(resource, name)
        self.undo.hooks_changed([resource])
        self.emit("hook_completed", resource, name)
        self._end_spans()

    def hook_withdrawn(self, hook: int) -> None:
        """Give up *hook*, whose body did not run."""
        self._retire(hook)
        self.schedule.withdraw(hook)
        self.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
        self._end_spans()

    def hook_failed(self, hook: int, error: BaseException) -> None:
        """Deal with the last failure of *hook*."""
        self._retire(hook)
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        is_leaving = isinstance(error.__cause__, HookCancelledError)
        if is_leaving and self.is_suspending:
            self._give_back(hook)
            return
        touched = self.schedule.fail(hook)
        if self.reason is None or not is_leaving:
            self.failures.append(error)  # leaving early when told to is no failure
        self.emit("hook_failed", resource, name, error=describe_cause(error))
        key = self.run.planned.graph.nodes[resource].key
        reason = AbortReason(AbortKind.FAILURE, describe_cause(error), key, name)
        if self.run.planned.on_failure is OnFailure.ABORT:
            self.abort(reason)
        self.undo.hooks_changed(touched)
        if self.reason is None:
            decision = JournalRecord.of_abort_decision(reason, touched)
            self.record(decision, lambda: self.undo_doomed(touched, reason))
        self._end_spans()

    def _give_back(self, hook: int) -> None:
        """Leave *hook*, which left early when told to, to the process that goes on."""
        self.schedule.withdraw(hook)
        self._end_spans()

    def undo_doomed(self, resources: list[int], reason: AbortReason) -> None:
        """Undo *resources*, which lost a hook; that it was decided is recorded."""
        self.undo.add(resources, reason)
        self.doomed += resources
        self.request_flush()

    def hook_actor_died(self, hook: int, error: BaseException) -> None:
        """Deal with the death of *hook*'s actor."""
        if hook in self._refs:
            self.overtime.leave(hook)
            self.hook_failed(hook, error)

    # -- what the aborts ask

    def run_abort(self, attempt: Attempt, arguments: dict[str, Any], lane: Lane | None) -> None:
        """Have an ``on_abort`` run on *lane*; None: on the event loop."""
        call = HookCall(attempt, Lane.ABORT, self._outbox.put, arguments)
        self.watch.begin(call, self.dispatcher.now())
        self.intake.add_call(call, lane)
        self.request_flush()

    # -- the rest

    def _admit(self, hook: int) -> None:
        if not self.schedule.begin(hook):
            self.schedule.withdraw(hook)
            self.intake.leave(hook)
            return
        ref = self._refs[hook] = HookActor.start_on(self.dispatcher, self, hook)
        ref.tell(RUN_HOOK)

    def _retire(self, hook: int) -> None:
        if self._refs.pop(hook, None) is not None:
            self.intake.leave(hook)

    def _tell(self, hook: int, message: Any) -> None:
        """Tell *hook*'s actor; one that died has failed its hook already."""
        ref = self._refs.get(hook)
        if ref is not None:
            ref.tell(message)

    def _body_ended(self, report: BodyEnded) -> None:
        hook = report.attempt.hook_number
        error = report.error or (self.run.left_behind(report.attempt) if report.began else None)
        if not report.began:
            self._tell(hook, NotBegun())
        elif error is not None:
            self._tell(hook, BodyFailed(error))
        elif hook in self._refs:
            self._ledger.add_completion(report)

    def _journal_written(self, report: JournalWritten) -> None:
        if report.error is not None:
            self._journal_failed(report, report.error)
        else:
            for completion in report.completions:
                attempt = completion.attempt
                if attempt.has_changes:
                    self.run.memory.apply(attempt.resource, attempt.changes)
                self._tell(attempt.hook_number, COMPLETION_DURABLE)
            for hook in report.intents:
                self._tell(hook, IntentDurable())
        self._ledger.written(report)

    def _journal_failed(self, report: JournalWritten, error: BaseException) -> None:
        """Give up what could not be recorded: nothing that is not durable counts as done."""
        if not any(isinstance(failure, BankError) for failure in self.failures):
            self.failures.append(error)
        self.abort(AbortReason(AbortKind.FAILURE, describe_cause(error)))
        for hook in report.intents:
            self._tell(hook, NotBegun())
        for completion in report.completions:
            self._drop(completion.attempt.hook_number, self.schedule.fail)

    def _drop(self, hook: int, forget: Callable[[int], object]) -> None:
        """End *hook* and its actor, without a word to downstream."""
        ref = self._refs.get(hook)
        if ref is not None:
            ref.stop(block=False)
            self._retire(hook)
            forget(hook)
            self.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
            self._end_spans()
