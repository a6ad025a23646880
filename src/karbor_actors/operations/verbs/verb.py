"""What the five verbs share. Their methods run on a worker and may block."""

from __future__ import annotations

import abc
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.bank.journal.journal import OperationRecord, PackedRecord
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import (
    BankFullError,
    CheckpointNotFoundError,
    KarborError,
    OperationCancelledError,
)
from karbor_actors.model import (
    AbortKind,
    AbortReason,
    OperationStatus,
    OperationType,
)
from karbor_actors.operations.admission.paths import paths_ahead
from karbor_actors.operations.outcome import Outcome
from karbor_actors.operations.planning import PlannedOperation, hook_kinds_of, plan_operations
from karbor_actors.operations.recovery.lost import check_parameters, find_without_way_back, stand_in
from karbor_actors.operations.recovery.recovery import (
    GRAPH,
    Verdict,
    check_graph,
    conditions_of,
    decide,
    unreadable_states,
)
from karbor_actors.operations.run import OperationRun
from karbor_actors.operations.verbs.options import OperationLog
from karbor_actors.operations.verbs.recorded import RecordedOperation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint, CheckpointMaking
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.writer import Change
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.admission.conflicts import LockRequest
    from karbor_actors.operations.hooks.attempt import Attempt


class Verb(RecordedOperation):
    """One operation's plan, beginning and end.

    Args:
        operation_id: The operation's id.
        provider: Whose plugins run, and whose bank keeps the operation's record.
        options: What the caller asked for.
    """

    type: ClassVar[OperationType]
    is_writer: ClassVar[bool] = False
    """Whether hooks may write to the checkpoint's sections."""
    undoes_its_end: ClassVar[bool] = True
    """Whether the hooks are undone if all of them ended well, and that cannot be recorded."""
    replans: ClassVar[bool] = False
    """Whether a plan is stale once the operation had to wait for its locks."""

    @abc.abstractmethod
    def plan(self) -> PlannedOperation:
        """Return what would run; raises what the caller is to see. Changes nothing."""

    def dry_run(self) -> PlannedOperation:
        """Return what would run; raises what the operation would end with as things stand."""
        return self.plan()

    @abc.abstractmethod
    def locks(self, graph: ResourceGraph) -> LockRequest:
        """Return what the operation must have for itself, or share."""

    @abc.abstractmethod
    def open(self, planned: PlannedOperation) -> OperationRun:
        """Record the operation durably and return it, ready to run."""

    @abc.abstractmethod
    def conclude(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Make all but the end itself durable; may change *outcome*.

        Returns what is to be recorded in the very transaction that ends the operation.
        """

    @abc.abstractmethod
    def result(self, run: OperationRun, outcome: Outcome) -> Any:
        """Return the verb's result, once the end is durable."""

    def close(self, run: OperationRun, outcome: Outcome) -> Any:
        """Conclude, record the operation's end, and return the result.

        If that cannot be recorded the hooks are to be undone, or, where they were, or need not
        be, that it failed is recorded; but of what is finished all the same that it is, or nothing.
        """
        run.is_over = True
        is_over = run.verdict is not None and run.verdict.is_over
        try:
            change = (self.conclude_again if is_over else self.conclude)(run, outcome)
            self._concluded = self._record_end(outcome, change)
        except BaseException as error:
            self._has_end = is_over or self._is_recorded()
            if self.must_undo(outcome):
                run.mark_aborted(error)
                raise
            if not is_over and not self._has_end and self.is_finished:
                self._record_end(outcome, None)  # once more: it has what it was to make
            elif is_over or not self._has_end:
                self._give_up(run, outcome, error)
                raise
        return self.result(run, outcome)

    @property
    def is_finished(self) -> bool:
        """Whether what it was to make is durable and whole, whatever becomes of its own record."""
        return False

    def _is_recorded(self) -> bool:
        """Return whether the end is in the bank, although who wrote it did not say so."""
        try:
            return self.bank.journal.get(self.operation_id).status.is_terminal
        except KarborError:
            return False

    def _give_up(self, run: OperationRun, outcome: Outcome, error: BaseException) -> None:
        """Record that the operation failed of *error* at its end; one that was over stays as it was."""
        is_over = run.verdict is not None and run.verdict.is_over
        outcome.failures.append(error)
        if (
            not is_over
        ):  # else what it holds is good, and a later start would undo all of a failed one
            outcome.status = OperationStatus.FAILED
        self._record_end(outcome, None if is_over else self.give_up(run, outcome))
        outcome.failures.pop()

    def must_undo(self, outcome: Outcome) -> bool:
        """Return whether an operation whose end could not be recorded is to be undone."""
        is_good = outcome.status in (OperationStatus.SUCCEEDED, OperationStatus.PARTIAL)
        return is_good and self.undoes_its_end and not self._has_end

    def conclude_again(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Return what is to be recorded when only pending aborts of an ended one were left."""
        return None

    def give_up(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Return what is to be recorded when concluding itself failed."""
        return None

    def refusal(self, error: BaseException) -> Outcome:
        """Return how an operation ends that met *error* before any hook ran.

        One that had ended, and only undoes what was pending, stays as it was.
        """
        if self.recovered is not None and self.recovered.record.status.is_terminal:
            return Outcome(self.recovered.record.status, [error])
        is_cancelled = isinstance(error, OperationCancelledError)
        status = OperationStatus.CANCELLED if is_cancelled else OperationStatus.FAILED
        return Outcome(status, [error])

    def refuse(self, outcome: Outcome) -> None:
        """Record an operation that ended before any hook ran.

        Not its parameters: nobody has checked that they are plain, and hold no secret.
        """
        if not self.bank.is_writable:
            return
        journal, record, found = self.bank.journal, self._record({}), self.recovered
        begun = set() if found is None else found.begun_resources()
        self.leave(begun)
        if found is not None and found.record.status.is_terminal:
            return  # what was pending stays so
        end: dict[str, Any] = {
            "status": outcome.status,
            "ended_at": record.created_at,
            "error_info": outcome.error_info(),
        }

        lost = AbortReason(AbortKind.CRASH, "its process ended, and it could not be taken up again")
        number = self._number if found is None else found.record.number
        change = self.abandon(outcome) if number else None
        end["extra"] = (record if found is None else found.record).extra | self.extra

        def refuse(transaction: Transaction) -> None:
            if change is not None:
                change(transaction)
            if not number:
                journal.create(transaction, replace(record, **end))
                return
            if found is not None:
                journal.append(transaction, number, JournalRecord.of_abort_decision(lost))
            journal.update(transaction, number, **end, abort_pending=len(begun))

        self.bank.writer.write(refuse)

    def abandon(self, outcome: Outcome) -> Change[Any] | None:
        """Return what is to be recorded of the checkpoint of one that is refused after it began."""
        return None

    def verdict(self, planned: PlannedOperation) -> Verdict | None:
        """Return what becomes of what an earlier process left; None where none did."""
        if self.recovered is None:
            return None
        return decide(planned, self.recovered)

    # -- for the verbs

    def _planned(
        self, graph: ResourceGraph, parameters: Mapping[str, Mapping[str, Any]]
    ) -> PlannedOperation:
        provider = self.provider
        found, plugins = self.recovered, provider.protection_plugins
        lost: dict[int, str] | None = None if found is None else {}
        operations = plan_operations(graph, plugins, self.type, provider.name, lost)
        self._adjust(graph, operations)
        always_main = self.type in (OperationType.VERIFY, OperationType.COPY)
        kinds, aborts = hook_kinds_of(operations, graph, always_main=always_main, lost=lost)
        if found is not None and lost is not None:
            gone = find_without_way_back(found, operations, aborts, always_main=always_main)
            lost |= {number: why for number, why in gone.items() if number not in lost}
            stand_in(lost, found.journal, operations, kinds, aborts)
        checked, why_stale = check_parameters(provider, self.type, graph, parameters, found)
        return PlannedOperation(
            self.type,
            provider.name,
            graph,
            operations,
            kinds,
            aborts,
            checked,
            self.options.on_failure,
            lost or {},
            {} if found is None else unreadable_states(found, plugins, graph.types),
            why_stale,
        )

    def _adjust(self, graph: ResourceGraph, operations: list[Any]) -> None:
        """Change the operations that the plugins gave, where the verb has reason to."""

    def _begin(
        self,
        planned: PlannedOperation,
        checkpoint: Checkpoint | None,
        change: CheckpointMaking | None = None,
    ) -> OperationRun:
        """Record the operation's beginning, and *change*, which gives the checkpoint, with it.

        A recovered operation has a record: that it is taken up again is added.
        """
        journal, found = self.bank.journal, self.recovered
        if found is None:
            plugins = self.provider.protection_plugins
            self.extra |= conditions_of(planned, plugins, self.options)
            if (maker := change or checkpoint) is not None:
                self.extra[GRAPH] = maker.graph_digest
        else:
            check_graph(planned, found)
            self.extra = found.record.extra | self.extra | found.counts_now()
        record = self._record(self.options.parameters)
        made, verdict = checkpoint, self.verdict(planned)
        is_recorded = self.bank.is_writable or change is not None  # else it only reads a bank
        new = PackedRecord.of(record) if found is None and is_recorded else None

        def begin(transaction: Transaction) -> tuple[int, Checkpoint | None]:
            if found is not None:
                number = found.record.number
                journal.update(transaction, number, status=found.status_now, extra=self.extra)
                return number, checkpoint
            made = checkpoint if change is None else change(transaction)
            return journal.create(transaction, new or record), made

        try:
            if is_recorded:
                self._number, made = self.bank.writer.write(begin)
                self._known = new
        except BankFullError:
            can_wait = verdict is None or (verdict.may_stand_still and not self.is_cancelled)
            if found is None or can_wait:
                raise
            self._number = found.record.number  # undone all the same, or what is held goes on
        run = self._begun(planned, made, verdict)
        self._log = OperationLog.of(record, run.checkpoint)
        return run

    def _begun(
        self, planned: PlannedOperation, made: Checkpoint | None, verdict: Verdict | None
    ) -> OperationRun:
        """Return the operation, whose beginning is recorded, ready to run."""
        if made is None:
            raise CheckpointNotFoundError(self.checkpoint_id or "")
        self.graph = planned.graph
        return OperationRun(
            id=self.operation_id,
            type=self.type,
            bank=self.bank,
            planned=planned,
            checkpoint=made.know_graph(planned.graph),
            journal_number=self._number,
            caller_context=self.options.context,
            hook_arguments=self._hook_arguments,
            recovered=self.recovered,
            verdict=verdict,
            is_writable=self.is_writer,
            paths=paths_ahead(planned.graph),
        )

    def _hook_arguments(self, attempt: Attempt) -> dict[str, Any]:
        return {"operation_log": self._log}

    def _plan_name(self) -> str:
        return ""

    def _record(self, parameters: Mapping[str, Mapping[str, Any]]) -> OperationRecord:
        now = time.time()
        return OperationRecord(
            id=self.operation_id,
            type=self.type,
            status=OperationStatus.RUNNING,
            provider=self.provider.name,
            plan_name=self._plan_name(),
            checkpoint_id=self.checkpoint_id or "",
            on_failure=self.options.on_failure,
            parameters={key: dict(value) for key, value in parameters.items()},
            created_at=now,
            started_at=now,
            extra=dict(self.extra),
        )

    def _why(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the causes to record: of what had ended before, its first cause stays."""
        new, found = outcome.error_info(), self.recovered
        if found is None or not found.record.status.is_terminal:
            return new
        first = found.record.error_info[:1]
        return first + [cause for cause in new if cause not in first]

    def _record_end(self, outcome: Outcome, change: Change[Any] | None) -> Any:
        """Commit the operation's end, and *change* with it; return what that returned."""
        if not self.bank.is_writable:
            self._has_end = True
            return None
        journal, number = self.bank.journal, self._number
        counts = Counter(str(status) for status in outcome.resources.values())
        pending = self._leave_pending(outcome)
        update = journal.update_change(
            number,
            self._known,
            status=outcome.status,
            ended_at=time.time(),
            error_info=self._why(outcome),
            resources=dict(counts),
            abort_pending=pending,
            extra=dict(self.extra),
        )

        def end(transaction: Transaction) -> tuple[Any, bool]:
            concluded = None if change is None else change(transaction)
            update(transaction)
            return concluded, pending == 0 and journal.drop_some(transaction, number)

        concluded, is_dropped = self.bank.writer.write(end)
        self._has_end = True
        self._is_done_with = pending == 0 and not is_dropped
        return concluded
