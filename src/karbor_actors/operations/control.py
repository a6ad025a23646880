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

from karbor_actors.actors import start_all, tell_all
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import (
    ActorCrashedError,
    BankError,
    HookCancelledError,
    HookFailedError,
    HookGivenUpError,
    describe_cause,
)
from karbor_actors.model import AbortKind, AbortReason, HookName, OnFailure
from karbor_actors.operations.aborts.undo import Undo
from karbor_actors.operations.foresight import Foresight
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.hooks.hook import HookActor
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.operations.ledger import Ledger
from karbor_actors.operations.limits.alarms import Retries
from karbor_actors.operations.limits.overtime import Overtime
from karbor_actors.operations.limits.watch import Watch
from karbor_actors.operations.messages import (
    COMPLETION_DURABLE,
    RUN_HOOK,
    BodyFailed,
    IntentDurable,
    JournalWritten,
    NotBegun,
    Withdraw,
)
from karbor_actors.operations.recovery.suspending import Suspending
from karbor_actors.operations.recovery.taking_up import take_up
from karbor_actors.schedule import HOOKS_PER_RESOURCE, hook_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from karbor_actors.actors import Dispatcher
    from karbor_actors.actors.confined import ConfinedMailbox
    from karbor_actors.limits import RetryPolicy, TimeLimits
    from karbor_actors.operations.admission.intake import Intake, Way
    from karbor_actors.operations.handle import HookEvents
    from karbor_actors.operations.outbox import Outbox
    from karbor_actors.operations.run import OperationRun


class OperationControl:
    """One operation's hooks while they run. The control thread only.

    Args:
        run: The operation.
        dispatcher: Where hook and abort actors run: the supervisor's own, with one thread.
        intake: The ready hooks' way to the workers.
        outbox: Takes what workers and the bank's writer report.
        ask_flush: Sees to it that :meth:`flush` is called at the end of this turn.
        events: Takes hooks' events.
        retry: The policies by type and hook, by type, by hook, or ``"*"`` for all.
        limits: The time limits of a resource type.
    """

    def __init__(
        self,
        run: OperationRun,
        dispatcher: Dispatcher,
        intake: Intake,
        outbox: Outbox[Attempt | JournalWritten],
        *,
        ask_flush: Callable[[], None],
        events: HookEvents,
        retry: Mapping[Any, RetryPolicy],
        limits: Callable[[str], TimeLimits],
    ) -> None:
        self.run, self.dispatcher = run, dispatcher
        self._abort_kinds = run.planned.abort_kinds
        self.schedule = run.planned.schedule()
        self.undo = Undo(self)
        self.watch = Watch(run.planned, limits)
        self.overtime = Overtime(self)
        self.suspending = Suspending(self)
        self.failures: list[BaseException] = []
        self.reason: AbortReason | None = None
        """Why everything is undone, if it is."""
        self.doomed: list[int] = []
        """Resources undone by themselves, for the supervisor to take: their grace begins."""
        self.outbox, self.report = outbox, outbox.put
        self.ask_flush, self.events = ask_flush, events
        self._is_flush_asked = False
        self._is_beginning = False  # if so, what hooks want is handed on next
        self._ledger = Ledger(run, outbox, intake)
        self.intake = intake
        self.foresight = Foresight(self)
        self._refs: dict[int, ConfinedMailbox[HookActor]] = {}
        self._attempts: dict[int, int] = {}
        """By hook of a recovered operation that had begun: the number of its next attempt."""
        self.retries = Retries(dispatcher, run.planned, retry)

    def request_flush(self) -> None:
        """Have :meth:`flush` called at the end of this turn."""
        if not self._is_flush_asked:
            self._is_flush_asked = True
            self.ask_flush()

    # -- what the supervisor asks

    def start(self) -> None:
        """Let the first hooks run, or those of a recovered operation; a :meth:`flush` is to follow."""
        run, self._is_flush_asked = self.run, True
        if run.recovered is None or run.verdict is None:
            self.admit(self.schedule.start())
        else:
            self._attempts = take_up(self, run.recovered, run.verdict)

    def admit(self, hooks: Iterable[int]) -> None:
        """Queue *hooks*, which may run, unless nothing starts any more; a suspension wants only some."""
        needed = self.run.needed
        if self.schedule.is_closed or needed is not None:
            hooks = list(hooks)
            wanted = () if self.schedule.is_closed else needed or ()
            for hook in hooks:
                if hook not in wanted:
                    self.foresight.leave_out(hook)
            hooks = filter(wanted.__contains__, hooks)
        self.intake.arrived.extend(hooks)

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
        self.undo.end_stall(lost)  # not the aborts that begin now, since their hooks are dropped
        for hook in list(self._refs):
            self.drop(hook, self.schedule.fail)
        if self.reason is None:
            self.failures.append(lost)
            self.abort(AbortReason(AbortKind.FAILURE, str(lost)))
        for hook in self.schedule.active_hooks():  # handed out, and in nobody's hands
            self.hook_withdrawn(hook)
        self.request_flush()

    def take_reports(self) -> None:
        """Deal with what workers and the writer have reported; a :meth:`flush` is to follow."""
        self._is_flush_asked = True
        for report in self.outbox.take():
            if isinstance(report, JournalWritten):
                self._journal_written(report)
            elif report.is_fenced:
                self.overtime.came_back(report)
            else:
                self.watch.ended(report.hook_number)
                if report.hook is HookName.ON_ABORT:
                    self.undo.body_ended(report, report.error)
                else:
                    self._body_ended(report)

    def flush(self) -> None:
        """Admit hooks; hand this turn's journal record and calls on."""
        self._is_flush_asked = False
        if admitted := self.intake.admit(self.dispatcher.now()):
            self._begin(admitted)
        self._ledger.flush(is_last=self.foresight.only_end_follows(self._ledger))
        self.intake.hand_on()
        if self.intake.has_more:  # or places to give to others
            self.request_flush()

    def abort(self, reason: AbortReason) -> None:
        """Start nothing new, and undo what began. A second reason changes nothing."""
        if self.reason is not None or self.run.is_settled(reason):
            return
        self.reason = reason
        self.schedule.close()
        self.run.is_cancelled = True
        for hook in self.intake.clear():
            self.foresight.leave_out(hook)
        self.withdraw(lambda _: True)
        self.overtime.take_back()
        self.record(JournalRecord.of_abort_decision(reason), lambda: self.undo.add_begun(reason))

    def withdraw(self, is_meant: Callable[[int], bool]) -> None:
        """Tell the actors of the hooks that are meant, and run, to try no more."""
        for hook, ref in self._refs.items():
            if is_meant(hook):
                ref.tell(Withdraw())

    # -- what hook actors ask

    def needs_intent(self, hook: int) -> bool:
        """Return whether *hook*'s intent must be durable before its body runs."""
        return bool(self._abort_kinds[hook // HOOKS_PER_RESOURCE])

    def record_intent(self, hook: int) -> None:
        """Have *hook*'s intent recorded; its actor is told when it is durable."""
        self._ledger.add_intents([hook])
        if not self._is_beginning:
            self.request_flush()

    def dispatch(self, hook: int, number: int) -> bool:
        """Have attempt *number* of *hook* run; False if nothing starts any more."""
        needed = self.run.needed
        if self.schedule.is_closed or (needed is not None and hook not in needed):
            return False
        resource, name, way = hook // HOOKS_PER_RESOURCE, hook_name(hook), self.intake.way(hook)
        if way is None:
            return True  # it was failed meanwhile, and its actor is told to stop
        if self._attempts:
            number += self._attempts.get(hook, 1) - 1
        lane, report = way.lane or Lane.MAIN, self.report
        self.run_attempt(Attempt(self.run, hook, resource, name, number, lane, report), way)
        if self.events.handle.has_listeners:
            self.events.emit("hook_started", resource, name, attempt=number)
        return True

    def hook_completed(self, hook: int) -> None:
        """Let *hook*'s downstream hooks run. Hot: what has nothing to do is not called."""
        self._refs.pop(hook, None)  # it gave up its place when its body ended
        ready = self.schedule.complete(hook)
        if self.foresight.is_on:
            self.foresight.settled(hook)
        if ready:
            self.admit(ready)
        if self.watch.held:
            self.watch.completed(hook)
        if self.undo.is_active:
            self.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
        if self.events.handle.has_listeners:
            self.events.emit("hook_completed", hook // HOOKS_PER_RESOURCE, hook_name(hook))
        if self.run.needed is not None:
            self.suspending.end_spans()
        elif not self._is_flush_asked:
            self.request_flush()

    def hook_withdrawn(self, hook: int, *, has_run: bool = False) -> None:
        """Give up *hook*, whose body did not run, or is not to run again."""
        self._retire(hook)
        self.schedule.withdraw(hook, has_run=has_run)
        self.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
        self.suspending.end_spans()

    def hook_failed(self, hook: int, error: BaseException) -> None:
        """Deal with the last failure of *hook*."""
        self._retire(hook)
        resource, name = hook // HOOKS_PER_RESOURCE, hook_name(hook)
        is_leaving = isinstance(error.__cause__, HookCancelledError)
        if is_leaving and self.run.needed is not None and hook not in self.run.needed:
            self.hook_withdrawn(hook, has_run=True)  # it left early, when told to
            return
        touched = self.schedule.fail(hook)
        if self.reason is None or not is_leaving:
            self.failures.append(error)  # leaving early when told to is no failure
        self.events.emit("hook_failed", resource, name, error=describe_cause(error))
        key = self.run.planned.graph.nodes[resource].key
        is_late = isinstance(error.__cause__, HookGivenUpError)
        kind = AbortKind.TIMEOUT if is_late else AbortKind.FAILURE
        self.lose(touched, AbortReason(kind, describe_cause(error), key, name))

    def lose(self, resources: list[int], reason: AbortReason) -> None:
        """Undo *resources*, which have lost a hook; or everything, if that is what was asked."""
        if self.run.planned.on_failure is OnFailure.ABORT:
            self.abort(reason)
        self.undo.hooks_changed(resources)
        if self.reason is None and resources:
            decision = JournalRecord.of_abort_decision(reason, resources)
            self.doom(resources, reason, decision)
        self.suspending.end_spans()

    def doom(
        self, resources: list[int], reason: AbortReason, decision: JournalRecord | None = None
    ) -> None:
        """Undo *resources*, once *decision* is recorded, if it is not yet; or their grace is over."""
        self.doomed += resources
        self.undo.expect(resources, reason)
        if decision is None:
            self.undo.add(resources, reason)
        else:
            self.record(decision, lambda: self.undo.add(resources, reason))
        self.request_flush()

    def lose_hook(self, hook: int, error: HookFailedError) -> bool:
        """Fail *hook*, of which no body runs, whatever it waits for; False if it has not begun."""
        if (ref := self._refs.get(hook)) is not None:
            ref.stop(block=False)
            self.hook_failed(hook, error)
        return ref is not None

    def hook_actor_died(self, hook: int, error: BaseException) -> None:
        """Deal with the death of *hook*'s actor."""
        if hook in self._refs:
            self.overtime.leave(hook)
            self.hook_failed(hook, error)

    def run_attempt(self, attempt: Attempt, way: Way) -> None:
        """Have *attempt*'s body run, and watched."""
        self.watch.begin(attempt, self.dispatcher.now())
        self.intake.add_call(attempt, way)
        if not self._is_beginning:
            self.request_flush()

    # -- the rest

    def _begin(self, hooks: list[int]) -> None:
        """Make the actors of *hooks*, which got in."""
        begun = list(filter(self.schedule.begin, hooks))
        if len(begun) < len(hooks):
            for hook in sorted(set(hooks).difference(begun)):
                self.foresight.leave_out(hook)
                self.intake.leave(hook)
        refs = start_all(self.dispatcher, [HookActor(self, hook) for hook in begun])
        self._refs.update(zip(begun, refs, strict=True))
        self._is_beginning = True
        tell_all(refs, RUN_HOOK)
        self._is_beginning = False

    def _retire(self, hook: int) -> None:
        self.foresight.settled(hook)
        if self._refs.pop(hook, None) is not None:
            self.intake.leave(hook)

    def tell(self, hook: int, message: Any) -> None:
        """Tell *hook*'s actor; one that died has failed its hook already."""
        if (ref := self._refs.get(hook)) is not None:
            ref.tell(message)

    def _body_ended(self, attempt: Attempt) -> None:
        hook, error = attempt.hook_number, attempt.error
        if error is None and self.run.memory.artifacts:
            error = self.run.left_behind(attempt)
        if attempt.began_at is None:
            self.tell(hook, NotBegun())
        elif error is not None:
            self.tell(hook, BodyFailed(error))
        elif hook in self._refs:
            self.intake.leave(hook, attempt.took)  # its worker is free, whatever the commit takes
            self._ledger.completions.append(attempt)
            if self.foresight.is_on:
                self._ledger.add_intents(self.foresight.ended(hook))

    def _journal_written(self, report: JournalWritten) -> None:
        if report.error is not None:
            self._journal_failed(report, report.error)
        else:
            for attempt in report.completions:
                if attempt.written:
                    self.run.memory.apply(attempt.resource, attempt.written)
            completed = [self._refs.get(attempt.hook_number) for attempt in report.completions]
            tell_all(list(filter(None, completed)), COMPLETION_DURABLE)
            for hook in report.intents:
                self.tell(hook, IntentDurable())
        self._ledger.written(report)

    def _journal_failed(self, report: JournalWritten, error: BaseException) -> None:
        """Give up what could not be recorded: nothing that is not durable counts as done."""
        if not any(isinstance(failure, BankError) for failure in self.failures):
            self.failures.append(error)
        self.undo.journal_failed(error)
        self.abort(AbortReason(AbortKind.FAILURE, describe_cause(error)))
        for hook in report.intents:
            self.tell(hook, NotBegun())
        for attempt in report.completions:
            self.drop(attempt.hook_number, self.schedule.fail)

    def drop(self, hook: int, forget: Callable[[int], object]) -> None:
        """End *hook* and its actor, without a word to downstream."""
        if (ref := self._refs.get(hook)) is not None:
            ref.stop(block=False)
            self._retire(hook)
            forget(hook)
            self.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
            self.suspending.end_spans()
