"""restore: from a checkpoint to live resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.errors import PluginError
from karbor_actors.model import OperationStatus, OperationType, ResourceStatus
from karbor_actors.operations.admission.conflicts import LockRequest, resource_locks
from karbor_actors.operations.hooks.context import new_resources_of
from karbor_actors.operations.results import RestoreResult
from karbor_actors.operations.verbs.checkpoint_verb import CheckpointVerb, want_whole
from karbor_actors.operations.verbs.report import ResourceReport

if TYPE_CHECKING:
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.outcome import Outcome
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.options import CallOptions
    from karbor_actors.provider import Provider


class Restore(CheckpointVerb):
    """Makes a checkpoint's resources again, in place or elsewhere, as the plugins do it."""

    type: ClassVar[OperationType] = OperationType.RESTORE

    def __init__(
        self,
        operation_id: str,
        provider: Provider,
        options: CallOptions,
        checkpoint_id: str,
        *,
        allow_partial: bool = False,
    ) -> None:
        super().__init__(operation_id, provider, options, checkpoint_id)
        self._allow_partial = allow_partial
        self._lacking: dict[int, ResourceStatus] = {}
        self._report = ResourceReport(operation_id, checkpoint_id)

    def check_status(self, checkpoint: Checkpoint) -> None:
        """Want an available checkpoint, or a partial one where that is allowed."""
        want_whole(checkpoint, "restore", allow_partial=self._allow_partial)

    def _adjust(self, graph: ResourceGraph, operations: list[Any]) -> None:
        """Leave out what a partial checkpoint does not hold."""
        self._lacking = self._left_out()
        for number in self._lacking:
            operations[number] = None

    def locks(self, graph: ResourceGraph) -> LockRequest:
        """Return a share in the checkpoint, and the live resources that may be written."""
        shared = super().locks(graph).shared
        return LockRequest(exclusive=resource_locks(graph), shared=shared)

    def open(self, planned: PlannedOperation) -> OperationRun:
        """Record the operation."""
        return self._begin(planned, self._reread())

    def conclude(self, run: OperationRun, outcome: Outcome) -> None:
        """Fail if a plugin reported a failure without raising it, or if nothing was restored."""
        self._report.fail(outcome)
        if outcome.status is not OperationStatus.SUCCEEDED or any(
            operation is not None for operation in run.planned.operations
        ):
            return
        saved = run.checkpoint.saved()
        types = {
            r.type: None for r, mark in zip(run.planned.graph.nodes, saved, strict=True) if mark
        }
        why = "the checkpoint holds nothing"
        if types:
            why = f"no plugin has a restore operation for {', '.join(types)}"
        outcome.failures.append(PluginError(f"nothing was restored: {why}"))
        outcome.status = OperationStatus.FAILED

    def result(self, run: OperationRun, outcome: Outcome) -> RestoreResult:
        """Return what each resource became."""
        nodes, found = run.planned.graph.nodes, outcome.resources
        statuses = {
            resource.key: found.get(number, ResourceStatus.AVAILABLE)
            for number, resource in enumerate(nodes)
        }
        if None in run.planned.operations:
            saved = run.checkpoint.saved()
            for number, operation in enumerate(run.planned.operations):
                if operation is None:
                    status = ResourceStatus.SKIPPED if saved[number] else ResourceStatus.EMPTY
                    statuses[nodes[number].key] = self._lacking.get(number, status)
        new = run.memory.new_resources()
        return RestoreResult(run.checkpoint.id, new, statuses, self._report.statuses)

    def _hook_arguments(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "restore": self._report,
            "new_resources": new_resources_of(attempt),
            "operation_log": self._log,
        }
