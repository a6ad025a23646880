"""delete: a checkpoint and all that it keeps, in the bank and outside of it."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from karbor_actors.bank.checkpoints.resource_rows import Ending, KeptArtifact
from karbor_actors.bank.checkpoints.rows import held_error
from karbor_actors.errors import BankFullError, CheckpointStateError
from karbor_actors.model import (
    CheckpointStatus,
    OnFailure,
    OperationStatus,
    OperationType,
    ResourceStatus,
)
from karbor_actors.operations.admission.conflicts import LockRequest, checkpoint_lock
from karbor_actors.operations.outcome import Outcome
from karbor_actors.operations.planning import StalePlan
from karbor_actors.operations.verbs.abandoning import abandoned
from karbor_actors.operations.verbs.checkpoint_verb import CheckpointVerb, want_status
from karbor_actors.operations.verbs.copy import makes
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.bank.writer import Change
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.options import CallOptions
    from karbor_actors.provider import Provider

T = TypeVar("T")

_COMPLETED, _TAKEN, _FORCE = "completed hooks", "resources with hooks", "force"
_RUNNING = (OperationStatus.QUEUED, OperationStatus.RUNNING, OperationStatus.ABORTING)
DELETABLE = {
    CheckpointStatus.AVAILABLE,
    CheckpointStatus.PARTIAL,
    CheckpointStatus.ERROR,
    CheckpointStatus.ERROR_DELETING,
    CheckpointStatus.DELETING,
}
_MAKING = {CheckpointStatus.PROTECTING, CheckpointStatus.COPYING}


def is_forced(record: OperationRecord) -> bool:
    """Return whether the delete that *record* is of goes on whatever its hooks say."""
    return record.extra.get(_FORCE) is True


class Delete(CheckpointVerb):
    """Runs the delete hooks, then removes the checkpoint's records and blocks.

    Args:
        force: Whether to remove them although hooks failed: what those keep outside of the
            bank may stay there; and although it is still being made, by nothing that is known.
        providers: Returns all, by name: an operation in any one's bank may be making it.
    """

    type: ClassVar[OperationType] = OperationType.DELETE
    is_writer: ClassVar[bool] = True
    undoes_its_end: ClassVar[bool] = False  # what is deleted does not come back

    def __init__(
        self,
        operation_id: str,
        provider: Provider,
        options: CallOptions,
        checkpoint_id: str,
        *,
        force: bool = False,
        providers: Callable[[], Mapping[str, Provider]] = dict,
    ) -> None:
        if force:
            options = replace(options, on_failure=OnFailure.ISOLATE)
        super().__init__(operation_id, provider, options, checkpoint_id)
        self._force, self._providers = force, providers
        if force:
            self.extra[_FORCE] = True
        self._with_artifacts: set[int] = set()
        """The resources with which artifacts were kept, by number."""
        self._ended: list[OperationRecord] = []
        """What had ended on this checkpoint when it was planned: earlier deletes did a part."""
        self._has_reserve = False
        """Whether it has the space that the bank keeps, until it has ended."""

    def check_status(self, checkpoint: Checkpoint) -> None:
        """Want any checkpoint that is not being made; with force, by no operation there is."""
        wanted = DELETABLE
        advice = (
            "no operation of this service's providers makes it: add the provider that it is copied "
            "from, which then goes on, or delete with force"
        )
        if checkpoint.status in _MAKING:
            maker = self._find_maker(checkpoint)
            if maker is not None:
                advice = f"wait until the operation on it has ended ({maker.type} {maker.id})"
            elif self._force:
                wanted = DELETABLE | _MAKING
        want_status(checkpoint, wanted, advice)

    def _find_maker(self, checkpoint: Checkpoint) -> OperationRecord | None:
        """Return the operation, running or not, that makes *checkpoint*."""
        for record in self.bank.journal.operations(is_finished=False):
            if record.type is OperationType.PROTECT and record.checkpoint_id == checkpoint.id:
                return record
        banks = {self.bank, *(provider.bank for provider in self._providers().values())}
        for bank in banks:
            for record in bank.journal.operations(is_finished=False):
                if makes(record, checkpoint.id):
                    return record
        return None

    def locks(self, graph: ResourceGraph) -> LockRequest:
        """Return the checkpoint, for this operation alone."""
        key = checkpoint_lock(self.bank, self.checkpoint_id)
        return LockRequest(exclusive=frozenset({key}))

    def plan(self) -> PlannedOperation:
        """Return what would run: not again what an earlier delete had completed."""
        self._ended = self._find_ended()
        planned = super().plan()
        for hook in self._kept_before(_COMPLETED):
            if hook < len(planned.hook_kinds):
                planned.hook_kinds[hook] = 0
        return planned

    def dry_run(self) -> PlannedOperation:
        """Return what would run, if what is in the way now is only what a delete waits for."""
        planned = self.plan()
        checkpoint = self._reread()
        if checkpoint.holds:
            raise held_error(checkpoint.id, checkpoint.status, checkpoint.holds)
        if not self._force:
            self._want_unneeded(checkpoint, waits=True)
        return planned

    def refusal(self, error: BaseException) -> Outcome:
        """Succeed where another delete has done it all while this one waited for its turn."""
        if self.is_gone(error) and self.recovered is None:
            return Outcome()
        return super().refusal(error)

    def _adjust(self, graph: ResourceGraph, operations: list[Any]) -> None:
        """Run no hook for a resource that saved nothing."""
        checkpoint = self.bank.checkpoint(self.checkpoint_id or "")
        begun = self._kept_before(_TAKEN)  # its hooks may have emptied the section since
        self._with_artifacts = checkpoint.numbers_with_artifacts()
        if self.recovered is not None:
            begun |= self.recovered.begun_resources()
        for number, is_saved in enumerate(checkpoint.saved()):
            if not is_saved and number not in begun:
                operations[number] = None

    def _kept_before(self, what: str) -> set[int]:
        """Return the numbers that failed deletes of this checkpoint recorded as *what*."""
        numbers: set[int] = set()
        for record in self._ended:
            if record.type is self.type:
                packed = record.extra.get(what)
                if isinstance(packed, bytes) and len(packed) % 4 == 0:
                    numbers.update(array("I", packed))
        return numbers

    def _find_ended(self) -> list[OperationRecord]:
        ended = self.bank.journal.operations(is_finished=True)
        return [record for record in ended if record.checkpoint_id == self.checkpoint_id]

    def open(self, planned: PlannedOperation) -> OperationRun:
        """Mark the checkpoint ``deleting`` and record the operation.

        Raises StalePlan if another delete came to its end since it was planned. On a full disk it
        has the bank's reserve from here on: what its hooks did must be recorded too.
        """
        if self.bank.reserve.is_needed:
            self._use_reserve()
        checkpoint = self._reread().view(is_writable=True)
        if self.recovered is None:
            ended = self._find_ended()
            if [record.id for record in ended] != [record.id for record in self._ended]:
                raise StalePlan
            if not self._force:
                self._want_unneeded(checkpoint)
        # Recorded before it is marked: what is marked has an operation that goes on after a crash.
        run = self._write(lambda: self._begin(planned, checkpoint))
        found = self.recovered
        if found is None or not found.record.status.is_terminal:  # else it has been deleted, or not
            # Its manifest must say so too before a hook runs: rebuilt, it must not look whole.
            deletable = DELETABLE | _MAKING if self._force else DELETABLE
            now = CheckpointStatus.DELETING
            self._write(lambda: run.checkpoint.set_status(now, expected=deletable))
        return run

    def _write(self, change: Callable[[], T]) -> T:
        """Return what *change* does; if there is no space for it, again with the bank's reserve.

        One that has that gets what it leaves for a start, too: its end frees its journal at least.
        """
        try:
            return change()
        except BankFullError:
            if not self._has_reserve:
                self._use_reserve()
            elif not self.bank.reserve.give_up():
                raise
            return change()

    def _use_reserve(self) -> None:
        if not self._has_reserve:
            self._has_reserve = True
            self.bank.reserve.use()

    @property
    def must_tidy(self) -> bool:
        """Whether :meth:`tidy` has anything to do."""
        return self._has_reserve or super().must_tidy

    def tidy(self) -> None:
        """Drop what nobody needs once the operation has ended, however early or late."""
        self._leave_reserve()
        super().tidy()

    def close(self, run: OperationRun, outcome: Outcome) -> Any:
        """See Verb. Who hears of the end finds the reserve taken back, and only the rest free."""
        try:
            return super().close(run, outcome)
        finally:
            self._leave_reserve()

    def _leave_reserve(self) -> None:
        if self._has_reserve:
            self._has_reserve = False
            self.bank.reserve.leave()

    def _record_end(self, outcome: Outcome, change: Change[Any] | None) -> Any:
        """Commit the operation's end, and *change* with it; return what that returned."""
        record = super()._record_end
        return self._write(lambda: record(outcome, change))

    def abandon(self, outcome: Outcome) -> Change[Any] | None:
        """Return what says that it was not deleted; what had been done need not be done again."""
        if (found := self.recovered) is not None:
            self._keep_done(found.journal.completed, found.begun_resources())
        now, end = CheckpointStatus.DELETING, CheckpointStatus.ERROR_DELETING
        return abandoned(self.bank, self.checkpoint_id, outcome, now=now, end=end)

    def _keep_done(self, hooks: Iterable[int], resources: Iterable[int]) -> None:
        """Have the record keep which *hooks* had completed, and which *resources* had hooks."""
        self.extra[_COMPLETED] = array("I", sorted(hooks)).tobytes()
        self.extra[_TAKEN] = array("I", sorted(resources)).tobytes()

    def _want_unneeded(self, checkpoint: Checkpoint, *, waits: bool = False) -> None:
        """Refuse to remove what operations that stand still, or what is pending, still need.

        Args:
            checkpoint: What is to be removed.
            waits: Whether it may still wait for operations that run.
        """
        for record in self.bank.journal.operations():
            if record.checkpoint_id != self.checkpoint_id:
                continue
            if waits and record.status in _RUNNING:
                continue
            if not record.status.is_terminal:  # it does not run: it would have its locks
                advice = (
                    f"{record.type} {record.id} has not come to its end: resume or abort it, "
                    "or delete with force"
                )
            elif record.abort_pending:
                advice = (
                    f"{record.type} {record.id} left {record.abort_pending} resources "
                    "abort_pending: abort it again, or delete with force"
                )
            else:
                continue
            raise CheckpointStateError(checkpoint.id, str(checkpoint.status), advice)

    def _hook_arguments(self, attempt: Attempt) -> dict[str, Any]:
        kept: tuple[KeptArtifact, ...] = ()
        if attempt.resource in self._with_artifacts:
            resource = attempt.run.planned.graph.nodes[attempt.resource]
            kept = tuple(attempt.run.checkpoint.artifacts(resource))
        return {"artifacts": kept, **super()._hook_arguments(attempt)}

    def conclude(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Remove the records and blocks, or return what says that something is in the way."""
        is_forced = self._force and outcome.status is not OperationStatus.CANCELLED
        if outcome.status is OperationStatus.SUCCEEDED or is_forced:
            self._write(run.checkpoint.purge)
            if is_forced and outcome.status is OperationStatus.FAILED:
                outcome.status = OperationStatus.PARTIAL
            return None
        return self.give_up(run, outcome)

    def give_up(self, run: OperationRun, outcome: Outcome) -> Change[Any]:
        """Return what says that something is in the way, and what need not be done again."""
        if outcome.schedule is not None:
            undone = {
                number
                for number, status in outcome.resources.items()
                if status in (ResourceStatus.ABORTED, ResourceStatus.ABORT_PENDING)
            }
            kept = [
                h for h in outcome.schedule.completed() if h // HOOKS_PER_RESOURCE not in undone
            ]
            taken = (n for n, found in enumerate(run.planned.operations) if found is not None)
            self._keep_done(kept, taken)
        return run.checkpoint.finish_change(
            CheckpointStatus.ERROR_DELETING,
            Ending(error_info=outcome.error_info()),
            expected={CheckpointStatus.DELETING},
        )

    def result(self, run: OperationRun, outcome: Outcome) -> None:
        """Return nothing: what was asked for is gone."""
