"""What becomes of a checkpoint whose operation ended before any hook ran, after it had begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.bank.checkpoints.resource_rows import Ending
from karbor_actors.errors import CheckpointNotFoundError

if TYPE_CHECKING:
    from karbor_actors.bank.bank import Bank
    from karbor_actors.bank.checkpoints.rows import CheckpointRow
    from karbor_actors.bank.writer import Change
    from karbor_actors.model import CheckpointStatus
    from karbor_actors.operations.outcome import Outcome


def abandoned(
    bank: Bank,
    checkpoint_id: str | None,
    outcome: Outcome,
    *,
    now: CheckpointStatus,
    end: CheckpointStatus,
) -> Change[CheckpointRow] | None:
    """Return what moves a checkpoint from *now* to *end*; None if it is not there, or not there any more."""
    try:
        checkpoint = bank.checkpoint(checkpoint_id or "")
    except CheckpointNotFoundError:
        return None
    if checkpoint.status is not now:
        return None
    return checkpoint.finish_change(end, Ending(error_info=outcome.error_info()), expected={now})
