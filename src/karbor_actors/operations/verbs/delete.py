"""delete: a checkpoint and all that it keeps, in the bank and outside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.model import CheckpointStatus, OperationStatus, OperationType
from karbor_actors.operations.conflicts import LockRequest
from karbor_actors.operations.verbs.verb import (
    CheckpointVerb,
    checkpoint_lock,
    want_status,
)

if TYPE_CHECKING:
    from karbor_actors.bank.checkpoint import Checkpoint
    from karbor_actors.bank.writer import Change
    from karbor_actors.operations.outcome import Outcome
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun

DELETABLE = {
    CheckpointStatus.AVAILABLE,
    CheckpointStatus.PARTIAL,
    CheckpointStatus.ERROR,
    CheckpointStatus.ERROR_DELETING,
    CheckpointStatus.DELETING,
}


class Delete(CheckpointVerb):
    """Runs the delete hooks, then removes the checkpoint's records and blocks."""

    type: ClassVar[OperationType] = OperationType.DELETE

    def check_status(self, checkpoint: Checkpoint) -> None:
        """Want any checkpoint that is not being made, and that nobody holds."""
        want_status(checkpoint, DELETABLE, "wait until the operation on it has ended")

    def locks(self, planned: PlannedOperation) -> LockRequest:
        """Return the checkpoint, for this operation alone."""
        key = checkpoint_lock(self.bank, self.checkpoint_id)
        return LockRequest(exclusive=frozenset({key}))

    def _adjust(self, graph: Any, operations: list[Any]) -> None:
        """Run no hook for a resource that saved nothing."""
        checkpoint = self.bank.checkpoint(self.checkpoint_id or "")
        for number, resource in enumerate(graph.nodes):
            if operations[number] is not None:
                section = checkpoint.get_resource_bank_section(resource)
                if not section.list_objects() and not section.list_streams():
                    operations[number] = None

    def open(self, planned: PlannedOperation) -> OperationRun:
        """Mark the checkpoint ``deleting`` and record the operation."""
        checkpoint = self._reread()
        checkpoint.set_status(CheckpointStatus.DELETING, expected=DELETABLE)
        return self._begin(planned, checkpoint.view(is_writable=True))

    def conclude(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Remove the records and blocks, or return what says that something is in the way."""
        if outcome.status is OperationStatus.SUCCEEDED:
            run.checkpoint.purge()
            return None
        return self.give_up(run, outcome)

    def give_up(self, run: OperationRun, outcome: Outcome) -> Change[Any]:
        """Return what says that something is in the way."""
        return run.checkpoint.finish_change(
            CheckpointStatus.ERROR_DELETING,
            expected={CheckpointStatus.DELETING},
            error_info=outcome.error_info(),
        )

    def result(self, run: OperationRun, outcome: Outcome) -> None:
        """Return nothing: what was asked for is gone."""
