"""verify: whether a checkpoint could be restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.bank.database.records import pack_record, unpack_record
from karbor_actors.errors import BankError, describe_cause
from karbor_actors.model import (
    CheckpointStatus,
    OperationStatus,
    OperationType,
    ResourceStatus,
)
from karbor_actors.operations.hooks.context import new_resources_of
from karbor_actors.operations.hooks.memory import ENGINE_KEY
from karbor_actors.operations.results import Evidence, VerifyResult
from karbor_actors.operations.verbs.checkpoint_verb import CheckpointVerb, want_status
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

_CHUNK = 1 << 20
_VERIFIED = frozenset({ResourceStatus.VERIFIED, ResourceStatus.ENGINE_ONLY})
_EVIDENCE_KEY = ENGINE_KEY + "evidence"


class Verify(CheckpointVerb):
    """Reads every record and every block of a checkpoint; plugins may look further.

    The engine's own look is part of each resource's main hook, before the plugin's.
    """

    type: ClassVar[OperationType] = OperationType.VERIFY

    def __init__(
        self, operation_id: str, provider: Provider, options: CallOptions, checkpoint_id: str
    ) -> None:
        super().__init__(operation_id, provider, options, checkpoint_id)
        self._report = ResourceReport(operation_id, checkpoint_id)
        self._evidence: dict[int, Evidence] = {}
        self._lacking: dict[int, ResourceStatus] = {}
        self._saved = bytearray()
        """Of which resources there is anything, in the bank or outside of it."""

    def check_status(self, checkpoint: Checkpoint) -> None:
        """Want an available or partial checkpoint."""
        wanted = {CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL}
        want_status(checkpoint, wanted, "verify wants an available or partial one")

    def _adjust(self, graph: ResourceGraph, operations: list[Any]) -> None:
        """Look only at what a partial checkpoint holds."""
        self._lacking = self._left_out()
        for number in self._lacking:
            operations[number] = None

    def open(self, planned: PlannedOperation) -> OperationRun:
        """Record the operation."""
        run = self._begin(planned, self._reread())
        self._saved = run.checkpoint.saved()
        run.engine_main = self._look
        return run

    def conclude(self, run: OperationRun, outcome: Outcome) -> None:
        """Fail if a plugin reported a fault without raising, or if there was nothing to look at."""
        self._report.fail(outcome)
        for number in range(len(run.planned.graph.nodes)):
            kept = run.memory.state_value(number, _EVIDENCE_KEY)
            if kept is not None and number not in self._evidence:  # of before a restart
                self._evidence[number] = Evidence(*unpack_record(kept, "evidence"))
        numbers = range(len(run.planned.graph.nodes))
        if outcome.status is OperationStatus.SUCCEEDED and not any(
            self._status(run, outcome, number) in _VERIFIED for number in numbers
        ):
            why = "the checkpoint holds nothing"
            if any(self._saved):
                why = "what was saved is outside of the bank, and no plugin verifies it"
            outcome.failures.append(BankError(f"nothing was verified: {why}"))
            outcome.status = OperationStatus.FAILED

    def result(self, run: OperationRun, outcome: Outcome) -> VerifyResult:
        """Return what was looked at of each resource, and found."""
        nodes = run.planned.graph.nodes
        statuses = {
            resource.key: self._status(run, outcome, number)
            for number, resource in enumerate(nodes)
        }
        evidence = {nodes[number].key: found for number, found in self._evidence.items()}
        return VerifyResult(run.checkpoint.id, statuses, evidence)

    def _status(self, run: OperationRun, outcome: Outcome, number: int) -> ResourceStatus:
        if number in outcome.resources:
            return ResourceStatus.FAILED
        if number in self._lacking:
            return self._lacking[number]
        if run.planned.operations[number] is not None:
            return ResourceStatus.VERIFIED
        evidence = self._evidence.get(number, Evidence())
        if evidence.records or evidence.streams:
            return ResourceStatus.ENGINE_ONLY
        return ResourceStatus.SKIPPED if self._saved[number] else ResourceStatus.EMPTY

    def _look(self, attempt: Attempt) -> None:
        """Read all of one resource's section; any fault fails its main hook."""
        run, number = attempt.run, attempt.resource
        if number in self._lacking:
            return
        section = run.checkpoint.get_resource_bank_section(run.planned.graph.nodes[number])
        records = streams = blocks = size = 0
        try:
            for key in section.list_objects():
                section.get_object(key)
                records += 1
            for info in section.list_streams():
                with section.open_stream(info.key) as stream:
                    while chunk := stream.read(_CHUNK):
                        size += len(chunk)
                        attempt.report_progress(size, None, "bytes")
                        if run.is_cancelled:
                            return
                streams, blocks = streams + 1, blocks + info.blocks
        except BankError as error:
            faults = (describe_cause(error),)
            self._evidence[number] = Evidence(records, streams, blocks, size, faults)
            raise
        self._evidence[number] = Evidence(records, streams, blocks, size)
        packed = pack_record([records, streams, blocks, size], "evidence")
        attempt.changes.state[_EVIDENCE_KEY] = packed

    def _hook_arguments(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "verify": self._report,
            "new_resources": new_resources_of(attempt),
            "operation_log": self._log,
        }
