"""What an operation must still run before it can be suspended: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.model import HOOKS, HookName
from karbor_actors.plugins import Operation
from karbor_actors.schedule import DONE, FAILED, HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.schedule import HookSchedule


def span_end(planned: PlannedOperation, resource: int) -> int | None:
    """Return the hook that ends *resource*'s critical span; None if it can have none.

    That is ``held_until``, or the last implemented hook before it.
    """
    operation = planned.operations[resource]
    if operation is None:
        return None
    end = HOOKS.index(getattr(operation, "held_until", HookName.ON_PREPARE_FINISH))
    first = resource * HOOKS_PER_RESOURCE
    return next((h for h in range(first + end, first - 1, -1) if planned.hook_kinds[h]), None)


def is_resumable(operation: object) -> bool:
    """Return whether a new process can go on with what *operation* had begun."""
    return bool(getattr(operation, "resumable", isinstance(operation, Operation)))


def needed_hooks(planned: PlannedOperation, schedule: HookSchedule) -> set[int]:
    """Return the hooks that must end before no critical span is open.

    They are what the ends of open spans wait for; and since some of those begin the spans of
    other resources, what the ends of these wait for, too.
    """
    needed: set[int] = set()
    held: set[int] = set()
    todo = [
        resource
        for resource in range(len(planned.operations))
        if _is_open(planned, schedule, resource)
    ]
    while todo:
        resource = todo.pop()
        if resource in held:
            continue
        held.add(resource)
        end = span_end(planned, resource)
        waiting = [] if end is None else [end]
        while waiting:
            hook = waiting.pop()
            if hook in needed or schedule.state(hook) in (DONE, FAILED):
                continue
            needed.add(hook)
            owner = hook // HOOKS_PER_RESOURCE
            if owner not in held and span_end(planned, owner) is not None:
                todo.append(owner)
            waiting += schedule.upstream(hook)
    return needed


def _is_open(planned: PlannedOperation, schedule: HookSchedule, resource: int) -> bool:
    """Return whether *resource*'s critical span has begun and not ended."""
    end = span_end(planned, resource)
    if end is None or schedule.state(end) == DONE:
        return False
    first = resource * HOOKS_PER_RESOURCE
    return any(map(schedule.began, range(first, end + 1)))


def cannot_resume(
    planned: PlannedOperation, schedule: HookSchedule, is_undone: Callable[[int], bool]
) -> bool:
    """Return whether a resource has begun that no other process could go on with.

    What *is_undone* tells of does not count: nobody goes on with that.
    """
    return any(
        operation is not None
        and not is_resumable(operation)
        and schedule.has_begun(resource)
        and not is_undone(resource)
        for resource, operation in enumerate(planned.operations)
    )
