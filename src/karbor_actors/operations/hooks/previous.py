"""The newest good checkpoint that holds a resource: what ``context.previous`` gives."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from karbor_actors.errors import CheckpointNotFoundError
from karbor_actors.model import CheckpointStatus, ResourceStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from karbor_actors.bank.bank import Bank
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.errors import ResourceKey


class PreviousCheckpoints:
    """Looks checkpoints up for one operation, each graph once. Any thread; blocks on the bank.

    Args:
        bank: Where to look.
        pin: Keeps the checkpoint of that id from being deleted until the operation ends;
            False if it is being deleted.
    """

    def __init__(self, bank: Bank, pin: Callable[[str], bool]) -> None:
        self._bank, self._pin = bank, pin
        self._lock = threading.Lock()
        self._unread: Iterator[Checkpoint] | None = None
        self._found: dict[ResourceKey, str] = {}
        """By resource: the id of the newest checkpoint that holds it."""
        self._pinned: dict[str, Checkpoint | None] = {}
        """By id; None where it could not be had."""

    def __call__(self, key: ResourceKey) -> Checkpoint | None:
        """Return the newest available checkpoint that holds something of *key*, pinned."""
        with self._lock:
            if self._unread is None:
                self._unread = self._candidates()
            while key not in self._found:
                candidate = next(self._unread, None)
                if candidate is None:
                    return None
                for held in _held_by(candidate):
                    self._found.setdefault(held, candidate.id)
            checkpoint = self._get(self._found[key])
            if checkpoint is not None:
                return checkpoint
            holders = (c for c in self._candidates() if key in set(_held_by(c)))
            return next(filter(None, (self._get(c.id) for c in holders)), None)

    def _candidates(self) -> Iterator[Checkpoint]:
        return iter(self._bank.checkpoints(status=CheckpointStatus.AVAILABLE))

    def _get(self, checkpoint_id: str) -> Checkpoint | None:
        """Return the checkpoint of that id, pinned, if it can be had."""
        if checkpoint_id not in self._pinned:
            self._pinned[checkpoint_id] = None
            if self._pin(checkpoint_id):
                try:
                    checkpoint = self._bank.checkpoint(checkpoint_id)
                except CheckpointNotFoundError:
                    return None  # deleted between the listing and the pin
                if checkpoint.status is CheckpointStatus.AVAILABLE:
                    self._pinned[checkpoint_id] = checkpoint
        return self._pinned[checkpoint_id]


def _held_by(checkpoint: Checkpoint) -> Iterator[ResourceKey]:
    """Yield the resources of which *checkpoint* has something."""
    for key, status in checkpoint.resource_statuses().items():
        if status is ResourceStatus.AVAILABLE:
            yield key
