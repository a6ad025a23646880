"""What ended operations could not undo, and who is about to touch it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from karbor_actors.operations.conflicts import LockRequest


class PendingAborts:
    """The lock keys of what is ``abort_pending``, by operation. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, frozenset[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def note(self, operation_id: str, keys: Iterable[Hashable]) -> None:
        """Remember that an operation left *keys* to be undone; none: that nothing is left."""
        kept = frozenset(keys)
        with self._lock:
            if kept:
                self._keys[operation_id] = kept
            else:
                self._keys.pop(operation_id, None)

    def touched_by(self, request: LockRequest) -> list[str]:
        """Return the operations that left something that *request* wants for itself."""
        with self._lock:
            return [
                operation_id
                for operation_id, keys in self._keys.items()
                if not keys.isdisjoint(request.exclusive)
            ]
