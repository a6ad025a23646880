"""What restore and verify hooks get to report on single resources, in Karbor's form."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from karbor_actors.errors import PluginError, describe_key
from karbor_actors.model import OperationStatus

if TYPE_CHECKING:
    from karbor_actors.operations.outcome import Outcome

_FAILED = frozenset({"error", "fail", "failed"})
"""The statuses, Karbor's and other people's, that mean a failure."""


class ResourceReport:
    """Statuses that plugins give to what they restored or looked at. Any thread."""

    def __init__(self, operation_id: str, checkpoint_id: str) -> None:
        self.id, self.checkpoint_id = operation_id, checkpoint_id
        self._lock = threading.Lock()
        self._statuses: dict[tuple[str, str], tuple[str, str]] = {}

    def update_resource_status(
        self, resource_type: str, resource_id: str, status: str, reason: str = ""
    ) -> None:
        """Note *status*, and for a failure its *reason*."""
        with self._lock:
            self._statuses[resource_type, str(resource_id)] = (str(status), str(reason))

    def save(self) -> None:
        """Do nothing: what is noted goes into the operation's result."""

    @property
    def statuses(self) -> dict[tuple[str, str], tuple[str, str]]:
        """A copy: (status, reason) by (type, id), as plugins gave them."""
        with self._lock:
            return dict(self._statuses)

    def fail(self, outcome: Outcome) -> None:
        """Make *outcome* a failure if a plugin reported one without raising."""
        for key, (status, reason) in self.statuses.items():
            if status.lower() in _FAILED:
                outcome.failures.append(PluginError(f"{describe_key(key)} is {status}: {reason}"))
                if outcome.status is OperationStatus.SUCCEEDED:
                    outcome.status = OperationStatus.FAILED
