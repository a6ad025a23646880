"""What to do with an operation that its process did not end: pure decisions.

Read from the operation's record and journal: what is open is aborted, the rest goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karbor_actors.model import HOOKS, AbortKind, AbortReason, HookName, OperationType
from karbor_actors.plugins import Operation
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.bank.journal import OperationRecord
    from karbor_actors.bank.journal_records import JournalState
    from karbor_actors.operations.planning import PlannedOperation

MAX_RECOVERIES = 5
"""How often an operation is taken up again before it is aborted."""
RECOVERIES = "recoveries"
"""Where an operation's record counts them."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """An operation that an earlier process left unfinished."""

    record: OperationRecord
    journal: JournalState
    must_abort: bool = False
    """Whether it was said from outside that it is to be aborted."""

    @property
    def count(self) -> int:
        """How often it has been taken up before."""
        count = self.record.extra.get(RECOVERIES, 0)
        return count if isinstance(count, int) else 0

    def begun_resources(self) -> set[int]:
        """Return the resources of which a hook has begun and no abort succeeded."""
        hooks = [*self.journal.attempts, *self.journal.completed]
        undone = {resource for resource, ok in self.journal.aborts.items() if ok}
        return {hook // HOOKS_PER_RESOURCE for hook in hooks} - undone

    def began(self, resource: int) -> frozenset[HookName]:
        """Return the hooks of *resource* that the journal says have begun."""
        return frozenset(
            name
            for name, hook in _own_hooks(resource)
            if hook in self.journal.attempts or hook in self.journal.completed
        )

    def completed(self, resource: int) -> frozenset[HookName]:
        """Return the hooks of *resource* that had completed."""
        return frozenset(n for n, hook in _own_hooks(resource) if hook in self.journal.completed)


def abort_reason(planned: PlannedOperation, found: Recovered) -> AbortReason | None:
    """Return why an operation must be aborted, or None if it goes on.

    - What had been decided stays decided.
    - A protect with an open critical span has lost its point in time.
    - A protect whose Operation keeps state in its own attributes cannot go on.
    """
    if found.journal.decisions:
        return found.journal.decisions[0].reason
    if found.record.status.is_terminal or found.must_abort:
        return AbortReason(AbortKind.CRASH, "its process ended before it was undone")
    if found.count >= MAX_RECOVERIES:
        return AbortReason(AbortKind.CRASH, f"it was taken up {found.count} times in vain")
    if found.record.type is not OperationType.PROTECT:
        return None
    touched = {hook // HOOKS_PER_RESOURCE for hook in found.journal.attempts}
    touched.update(hook // HOOKS_PER_RESOURCE for hook in found.journal.completed)
    for resource in sorted(touched):
        key = planned.graph.nodes[resource].key
        operation = planned.operations[resource]
        if is_open(planned, found, resource):
            why = "its process ended while this resource was held"
            return AbortReason(AbortKind.CRASH, why, key)
        if not getattr(operation, "resumable", isinstance(operation, Operation)):
            why = "its process ended, and the plugin kept state in memory only"
            return AbortReason(AbortKind.CRASH, why, key)
    return None


def is_open(planned: PlannedOperation, found: Recovered, resource: int) -> bool:
    """Return whether *resource*'s critical span had begun and not ended.

    The span ends with the hook ``held_until``, or the last implemented one before it.
    """
    operation = planned.operations[resource]
    if operation is None:
        return False
    end = HOOKS.index(getattr(operation, "held_until", HookName.ON_PREPARE_FINISH))
    first = resource * HOOKS_PER_RESOURCE
    span = [hook for hook in range(first, first + end + 1) if planned.hook_kinds[hook]]
    begun = [h for h in span if h in found.journal.attempts or h in found.journal.completed]
    return bool(begun) and span[-1] not in found.journal.completed


def _own_hooks(resource: int) -> Iterator[tuple[HookName, int]]:
    first = resource * HOOKS_PER_RESOURCE
    return zip(HOOKS, range(first, first + HOOKS_PER_RESOURCE), strict=True)


def call_parameters(record: OperationRecord) -> dict[str, dict[str, Any]]:
    """Return the parameters that the call gave; what is no table is left out."""
    return {k: v for k, v in record.parameters.items() if isinstance(v, dict)}
