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
    BankError,
    CannotResumeError,
    HookCancelledError,
    HookFailedError,
    describe_cause,
    describe_key,
)
from karbor_actors.model import AbortKind, AbortReason, HookName, OnFailure, RetryPolicy
from karbor_actors.operations.call import HookCall
from karbor_actors.operations.context import Attempt
from karbor_actors.operations.hook import HookActor
from karbor_actors.operations.hooks import ASYNC
from karbor_actors.operations.intake import Intake
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
from karbor_actors.operations.recovery import abort_reason
from karbor_actors.operations.runner import Lane
from karbor_actors.operations.undo import Undo
from karbor_actors.operations.watch import Watch
from karbor_actors.schedule import HOOKS_PER_RESOURCE, hook_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from pykka import ActorRef

    from karbor_actors.actors import Dispatcher
    from karbor_actors.limits import TimeLimits
    from karbor_actors.operations.outbox import Outbox
    from karbor_actors.operations.recovery import Recovered
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.runner import Runners


class OperationControl:
    """One operation's hooks while they run. The control thread only.

    Args:
        run: The operation.
        dispatcher: Where hook and abort actors run: the supervisor's own, with one thread.
        runners: Where bodies run.
        outbox: Takes what workers and the bank's writer report.
        request_flush: Sees to it that :meth:`flush` is called at the end of this turn.
        emit: Takes an event's kind, resource, hook and details.
        retry: The policy for each hook number.
        limits: The time limits of a resource type.
        workers: Threads per lane, for the admission window.
    """

    def __init__(
        self,
        run: OperationRun,
        dispatcher: Dispatcher,
        runners: Runners,
        outbox: Outbox[BodyEnded | JournalWritten],
        *,
        request_flush: Callable[[], None],
        emit: Callable[..., None],
        retry: Callable[[int], RetryPolicy],
        limits: Callable[[str], TimeLimits],
        workers: int,
    ) -> None:
        self.run, self.dispatcher, self.retry = run, dispatcher, retry
        self.schedule = run.planned.schedule()
        self.undo = Undo(self)
        self.watch = Watch(run.planned, limits)
        self.late: dict[tuple[int, HookName], Attempt] = {}
        """Bodies that were given up and have not returned."""
        self.failures: list[BaseException] = []
        self.reason: AbortReason | None = None
        """Why everything is undone, if it is."""
        self.doomed: list[int] = []
        """Resources undone by themselves, for the supervisor to take: their grace begins."""
        self._outbox = outbox
        self.request_flush, self.emit = request_flush, emit
        self._ledger = Ledger(run, outbox)
        self._intake = Intake(run.planned, runners, workers)
        self._refs: dict[int, ActorRef[HookActor]] = {}
        self._attempts: dict[int, int] = {}
        """By hook of a recovered operation that had begun: the number of its next attempt."""

    # -- what the supervisor asks

    def start(self) -> None:
        """Let the first hooks run; or those that a recovered operation has still to run."""
        found = self.run.recovered
        if found is None:
            self._intake.add(self.schedule.start())
        else:
            self._take_up(found)
        self.request_flush()

    def _take_up(self, found: Recovered) -> None:
        """Go on where an earlier process stopped, or undo what it began."""
        ready = self.schedule.resume(found.journal.completed)
        reason = abort_reason(self.run.planned, found)
        if reason is None:
            self._attempts = {h: found.journal.attempts.get(h, 0) + 1 for h in ready}
            self._intake.add(ready)
            return
        self.failures.append(CannotResumeError(reason.describe()))
        for hook in ready:
            if hook in found.journal.attempts:
                self.schedule.fail(hook)
            else:
                self.schedule.withdraw(hook)
        self.undo.forget(resource for resource, ok in found.journal.aborts.items() if ok)
        self.abort(reason)

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, nothing will, and everything is recorded."""
        return self.schedule.is_over and not self.undo.unfinished and self._ledger.is_clear

    @property
    def is_stalled(self) -> bool:
        """Whether hooks wait although nothing at all is under way: a lost message, or a bug."""
        return (
            self.schedule.is_stalled
            and not self._refs
            and self._intake.is_empty
            and not self.undo.unfinished
            and self._ledger.is_clear
        )

    def take_reports(self) -> None:
        """Deal with what workers and the writer have reported."""
        for report in self._outbox.take():
            if isinstance(report, JournalWritten):
                self._journal_written(report)
                continue
            attempt = report.attempt
            if attempt.is_fenced:
                self._came_late(attempt)
                continue
            self.watch.ended(attempt.resource, attempt.hook)
            if report.attempt.hook is HookName.ON_ABORT:
                self.undo.body_ended(report)
            else:
                self._body_ended(report)
        self.request_flush()

    def flush(self) -> None:
        """Admit hooks; hand this turn's journal record and calls on."""
        for hook in self._intake.admit():
            self._admit(hook)
        self._ledger.flush()
        self._intake.hand_on()

    def abort(self, reason: AbortReason) -> None:
        """Start nothing new, and undo what began. A second reason changes nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        self.schedule.close()
        self.run.is_cancelled = True
        for hook in self._intake.clear():
            self.schedule.withdraw(hook)
        for ref in self._refs.values():
            ref.tell(Withdraw())
        decision = JournalRecord.of_abort_decision(reason)
        self._ledger.add_record(decision, lambda: self.undo.add_begun(reason))
        self.request_flush()

    def look_at_clock(self) -> None:
        """Give up what has taken too long."""
        now = self.dispatcher.now()
        for call in self.watch.overdue(now):
            self._give_up(call)
        for resource in self.watch.held_too_long(now):
            key = self.run.planned.graph.nodes[resource].key
            why = "it was held for longer than max_quiesce allows"
            self.failures.append(TimeoutError(f"{describe_key(key)}: {why}"))
            self.abort(AbortReason(AbortKind.TIMEOUT, why, key))
        self.watch.look_again(now)
        self.request_flush()

    def _give_up(self, call: HookCall) -> None:
        """Fence *call* off and go on as if it had failed; what it froze later is thawed."""
        attempt = call.attempt
        attempt.is_fenced = True
        self._intake.abandon(call)
        self.late[attempt.resource, attempt.hook] = attempt
        key = self.run.planned.graph.nodes[attempt.resource].key
        why = "it took longer than its time limit and was given up"
        error = HookFailedError(key, str(attempt.hook), attempt.number, why)
        error.__cause__ = TimeoutError(why)
        if attempt.hook is HookName.ON_ABORT:
            self.undo.body_ended(BodyEnded(attempt, began=True, error=error))
        else:
            self._tell(attempt.hook_number, BodyFailed(error))

    def _came_late(self, attempt: Attempt) -> None:
        """Undo once more what a body did that was given up and has now returned."""
        if self.late.pop((attempt.resource, attempt.hook), None) is not None:
            if attempt.hook is not HookName.ON_ABORT:
                self.undo.again(attempt.resource)
            self.request_flush()

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
        if self.schedule.is_closed:
            return False
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        number += self._attempts.get(hook, 1) - 1
        lane = self._intake.lane(hook)
        attempt = Attempt(self.run, resource, name, number, hook)
        call = HookCall(attempt, lane or Lane.MAIN, self._outbox.put)
        self.watch.begin(call, self.dispatcher.now())
        self._intake.add_call(call, lane)
        self.emit("hook_started", resource, name, attempt=number)
        self.request_flush()
        return True

    def hook_completed(self, hook: int) -> None:
        """Let *hook*'s downstream hooks run."""
        self._retire(hook)
        self._intake.add(self.schedule.complete(hook))
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        self.watch.completed(resource, name)
        self.undo.hooks_changed([resource])
        self.emit("hook_completed", resource, name)
        self.request_flush()

    def hook_withdrawn(self, hook: int) -> None:
        """Give up *hook*, whose body did not run."""
        self._retire(hook)
        self.schedule.withdraw(hook)
        self.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
        self.request_flush()

    def hook_failed(self, hook: int, error: BaseException) -> None:
        """Deal with the last failure of *hook*."""
        self._retire(hook)
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        touched = self.schedule.fail(hook)
        if self.reason is None or not isinstance(error.__cause__, HookCancelledError):
            self.failures.append(error)  # leaving early when told to is no failure
        self.emit("hook_failed", resource, name, error=describe_cause(error))
        key = self.run.planned.graph.nodes[resource].key
        reason = AbortReason(AbortKind.FAILURE, describe_cause(error), key, name)
        if self.run.planned.on_failure is OnFailure.ABORT:
            self.abort(reason)
        self.undo.hooks_changed(touched)
        if self.reason is None:
            decision = JournalRecord.of_abort_decision(reason, touched)
            self._ledger.add_record(decision, lambda: self._undo_doomed(touched, reason))
        self.request_flush()

    def _undo_doomed(self, resources: list[int], reason: AbortReason) -> None:
        """Undo *resources*, which lost a hook; that it was decided is recorded."""
        self.undo.add(resources, reason)
        self.doomed += resources
        self.request_flush()

    # -- what abort actors ask

    def dispatch_abort(self, resource: int, number: int) -> None:
        """Have attempt *number* of *resource*'s ``on_abort`` run."""
        attempt = Attempt(self.run, resource, HookName.ON_ABORT, number)
        call = HookCall(attempt, Lane.ABORT, self._outbox.put, self.undo.arguments(resource))
        self.watch.begin(call, self.dispatcher.now())
        is_async = self.run.planned.abort_kinds[resource] == ASYNC
        self._intake.add_call(call, None if is_async else Lane.ABORT)
        self.request_flush()

    def abort_ended(self, resource: int, error: BaseException | None) -> None:
        """Deal with the end of *resource*'s abort."""
        if not self.undo.ended(resource, error):
            return
        self.watch.released(resource)
        self._ledger.add_record(JournalRecord.of_abort(resource, ok=error is None))
        detail = {} if error is None else {"error": describe_cause(error)}
        self.emit("abort_failed" if error else "aborted", resource, HookName.ON_ABORT, **detail)
        self.request_flush()

    def hook_actor_died(self, hook: int, error: BaseException) -> None:
        """Deal with the death of *hook*'s actor."""
        if hook in self._refs:
            self.hook_failed(hook, error)

    # -- the rest

    def _admit(self, hook: int) -> None:
        if not self.schedule.begin(hook):
            self.schedule.withdraw(hook)
            self._intake.leave(hook)
            return
        ref = self._refs[hook] = HookActor.start_on(self.dispatcher, self, hook)
        ref.tell(RUN_HOOK)

    def _retire(self, hook: int) -> None:
        if self._refs.pop(hook, None) is not None:
            self._intake.leave(hook)

    def _tell(self, hook: int, message: Any) -> None:
        """Tell *hook*'s actor; one that died has failed its hook already."""
        ref = self._refs.get(hook)
        if ref is not None:
            ref.tell(message)

    def _body_ended(self, report: BodyEnded) -> None:
        hook = report.attempt.hook_number
        error = report.error or self._left_behind(hook, report)
        if not report.began:
            self._tell(hook, NotBegun())
        elif error is not None:
            self._tell(hook, BodyFailed(error))
        elif hook in self._refs:
            self._ledger.add_completion(report)

    def _left_behind(self, hook: int, report: BodyEnded) -> BaseException | None:
        """Return an error if *hook* was its resource's last and an artifact is outstanding."""
        resource = hook // HOOKS_PER_RESOURCE
        last = (resource + 1) * HOOKS_PER_RESOURCE
        if not report.began or any(self.run.planned.hook_kinds[hook + 1 : last]):
            return None
        left = self.run.memory.outstanding(resource)
        if not left:
            return None
        names = ", ".join(f"{artifact.kind} {artifact.name!r}" for artifact in left)
        key = self.run.planned.graph.nodes[resource].key
        why = f"it left {names} outstanding: release() what is gone, keep() what is for delete"
        return HookFailedError(key, str(report.attempt.hook), report.attempt.number, why)

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
        for hook in report.intents:  # their bodies have not run
            self._drop(hook, self.schedule.withdraw)
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
