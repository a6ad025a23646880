"""What ended operations could not undo, and who is about to touch it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sized

    from karbor_actors.operations.admission.conflicts import LockRequest
    from karbor_actors.operations.hooks.attempt import Attempt


class PendingAborts:
    """The lock keys of what is ``abort_pending``, by operation. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, frozenset[Hashable]] = {}
        self._late: dict[str, tuple[Attempt, ...]] = {}

    def note(
        self, operation_id: str, keys: Iterable[Hashable], late: Iterable[Attempt] = ()
    ) -> None:
        """Remember that an operation left *keys* to be undone; none: that nothing is left.

        Args:
            operation_id: The operation, which has ended.
            keys: The lock keys of what is left.
            late: Bodies that it gave up and that have not returned.
        """
        with self._lock:
            _keep(self._keys, operation_id, frozenset(keys))
            _keep(self._late, operation_id, tuple(late))

    def late(self, operation_id: str) -> list[Attempt]:
        """Return the bodies that an ended operation gave up and that still have not returned."""
        with self._lock:
            return [late for late in self._late.get(operation_id, ()) if not late.has_ended]

    def still_late(self) -> list[str]:
        """Return the names of the bodies that were given up and still have not returned."""
        kept = tuple(
            self._late.values()
        )  # no lock: a signal's handler may come within, and ask, too
        return [str(attempt) for late in kept for attempt in late if not attempt.has_ended]

    def touched_by(self, request: LockRequest) -> list[str]:
        """Return the operations that left something that *request* wants for itself."""
        with self._lock:
            return [
                operation_id
                for operation_id, keys in self._keys.items()
                if not keys.isdisjoint(request.exclusive)
            ]


def _keep(kept: dict[str, Any], operation_id: str, what: Sized) -> None:
    if what:
        kept[operation_id] = what
    else:
        kept.pop(operation_id, None)
