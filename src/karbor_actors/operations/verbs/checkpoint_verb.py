"""What the verbs on a checkpoint that exists share."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from karbor_actors.errors import CheckpointNotFoundError, CheckpointStateError
from karbor_actors.model import CheckpointStatus, ResourceStatus
from karbor_actors.operations.admission.conflicts import LockRequest, checkpoint_lock
from karbor_actors.operations.verbs.verb import Verb

if TYPE_CHECKING:
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.outcome import Outcome
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.verbs.options import CallOptions
    from karbor_actors.provider import Provider

_HELD = frozenset({ResourceStatus.AVAILABLE, ResourceStatus.EMPTY})


class CheckpointVerb(Verb):
    """A verb on a checkpoint that exists, with the graph that the checkpoint kept."""

    def __init__(
        self, operation_id: str, provider: Provider, options: CallOptions, checkpoint_id: str
    ) -> None:
        super().__init__(operation_id, provider, options)
        self.checkpoint_id = checkpoint_id

    def plan(self) -> PlannedOperation:
        """Return what would run over the kept graph."""
        checkpoint = self._reread()
        return self._planned(checkpoint.resource_graph, self.options.parameters)

    @abc.abstractmethod
    def check_status(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointStateError if the verb cannot have *checkpoint*."""

    def locks(self, graph: ResourceGraph) -> LockRequest:
        """Return a share in the checkpoint."""
        return LockRequest(shared=frozenset({checkpoint_lock(self.bank, self.checkpoint_id)}))

    def refusal(self, error: BaseException) -> Outcome:
        """Return how it ends; of a checkpoint that is gone it says since when."""
        if self.is_gone(error):
            why = f"it was deleted before the {self.type} could begin"
            gone = CheckpointNotFoundError(self.checkpoint_id or "", why)
            gone.__cause__ = error
            error = gone
        return super().refusal(error)

    def is_gone(self, error: BaseException) -> bool:
        """Return whether *error* says that the checkpoint, which was there at the call, is not."""
        return (
            isinstance(error, CheckpointNotFoundError) and error.checkpoint_id == self.checkpoint_id
        )

    def _left_out(self) -> dict[int, ResourceStatus]:
        """Return by number what a partial checkpoint does not hold, and where that stands."""
        return left_out(self.bank.checkpoint(self.checkpoint_id or ""))

    def _reread(self) -> Checkpoint:
        """Return the checkpoint as it is now that the locks are had."""
        checkpoint = self.bank.checkpoint(self.checkpoint_id or "")
        if self.recovered is None:
            self.check_status(checkpoint)
        return checkpoint


def left_out(checkpoint: Checkpoint) -> dict[int, ResourceStatus]:
    """Return by number the resources that *checkpoint* does not hold, and where they stand."""
    statuses = checkpoint.resource_statuses().values()
    return {number: status for number, status in enumerate(statuses) if status not in _HELD}


def want_status(checkpoint: Checkpoint, wanted: set[CheckpointStatus], advice: str) -> None:
    """Raise CheckpointStateError unless *checkpoint* has one of the statuses *wanted*."""
    if checkpoint.status not in wanted:
        raise CheckpointStateError(checkpoint.id, str(checkpoint.status), advice)


def want_whole(checkpoint: Checkpoint, verb: str, *, allow_partial: bool) -> None:
    """Want an available checkpoint, or a partial one where that is allowed."""
    wanted = {CheckpointStatus.AVAILABLE}
    if allow_partial:
        wanted.add(CheckpointStatus.PARTIAL)
    advice = f"{verb} wants an available one"
    if checkpoint.status is CheckpointStatus.PARTIAL:
        advice = f"say allow_partial=True (--allow-partial) to {verb} what is there"
    want_status(checkpoint, wanted, advice)
