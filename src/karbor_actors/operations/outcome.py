"""How an operation's hooks ended, for the verb that closes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import (
    CycleError,
    HookFailedError,
    ListingError,
    ResourceMissingError,
    describe_cause,
)
from karbor_actors.model import AbortKind, OperationStatus, OperationType, ResourceStatus
from karbor_actors.operations.results import Progress
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.model import AbortReason
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.schedule import HookSchedule

_MANY = 100
"""The most resources that a record lists of one error."""


def progress_of(
    status: OperationStatus, control: OperationControl | None, run: OperationRun | None
) -> Progress:
    """Return how far an operation is that stands at *status*."""
    if control is None or run is None:
        return Progress(status)
    schedule = control.schedule
    return Progress(
        status,
        len(schedule) - schedule.unfinished - schedule.passed_over,
        run.planned.hook_count,
        () if status.is_terminal else run.progress_of_running(),
        tuple(map(describe_cause, control.failures)),
    )


@dataclass(slots=True)
class Outcome:
    """What happened, once nothing runs any more."""

    status: OperationStatus = OperationStatus.SUCCEEDED
    failures: list[BaseException] = field(default_factory=list)
    """What made the operation fail, first failure first."""
    abort_failures: list[BaseException] = field(default_factory=list)
    """Why resources are ``abort_pending``."""
    resources: dict[int, ResourceStatus] = field(default_factory=dict)
    """The resources that are not as they should be, by number."""
    reason: AbortReason | None = None
    """Why the operation was aborted, if it was."""
    schedule: HookSchedule | None = None
    """Which hooks ended how; None where none ran."""
    graph: ResourceGraph | None = None
    """The resources; None where no hook ran."""

    @classmethod
    def of(cls, control: OperationControl, cancelled: AbortReason | None) -> Outcome:
        """Return how the hooks of *control*, in which nothing runs any more, ended."""
        schedule = control.schedule
        # A look at one resource says nothing about another; anything else needs its children.
        is_verify = control.run.type is OperationType.VERIFY
        is_good = schedule.ended_well if is_verify else schedule.is_complete
        pending = dict(control.undo.failures)
        is_suspended = control.suspending.is_on
        for late in sorted(control.overtime.late, key=lambda late: (late.resource, late.number)):
            if control.undo.concerns(late.resource) or not is_suspended:  # else it runs again
                pending.setdefault(late.resource, TimeoutError(f"{late.hook} has not returned"))
        resources = {}
        for number in range(len(schedule) // HOOKS_PER_RESOURCE):
            if number in pending:
                resources[number] = ResourceStatus.ABORT_PENDING
            elif number in control.undo.aborted:
                resources[number] = ResourceStatus.ABORTED
            elif control.reason is not None or not is_good(number):
                resources[number] = ResourceStatus.ERROR
        status = OperationStatus.SUCCEEDED
        found = control.run.recovered
        if found is not None and found.record.status.is_terminal:
            status = found.record.status  # only what was pending was left to do
        elif is_suspended:
            status = OperationStatus.SUSPENDED
        elif cancelled is not None and control.reason is cancelled:  # not after a failure
            is_cancel = cancelled.kind in (AbortKind.CANCEL, AbortKind.SHUTDOWN)
            status = OperationStatus.CANCELLED if is_cancel else OperationStatus.FAILED
        elif control.reason is not None:
            status = OperationStatus.FAILED
        elif control.failures:
            whole = len(schedule) // HOOKS_PER_RESOURCE
            is_partial = len(resources) < whole
            status = OperationStatus.PARTIAL if is_partial else OperationStatus.FAILED
        failures = list(control.failures)
        if status is OperationStatus.FAILED and not failures and cancelled is not None:
            failures.append(TimeoutError(cancelled.error))
        return cls(
            status,
            failures,
            list(pending.values()),
            resources,
            control.reason,
            schedule,
            control.run.planned.graph,
        )

    def error_info(self) -> list[dict[str, Any]]:
        """Return the failures as plain data for the operation's record."""
        return [error_data(error) for error in (*self.failures, *self.abort_failures)]


def error_data(error: BaseException) -> dict[str, Any]:
    """Return *error* as plain data: its class, its sentence, and where it happened."""
    data: dict[str, Any] = {"type": type(error).__name__, "message": describe_cause(error)}
    match error:
        case HookFailedError():
            data["resource"] = list(error.resource)
            data["hook"] = error.hook
            data["attempt"] = error.attempt
            data["traceback"] = error.trace
        case ListingError():
            data["resource"] = error.resource and list(error.resource)
        case CycleError():
            data["resources"] = [list(key) for key in error.cycle[:_MANY]]
        case ResourceMissingError():
            data["resources"] = [list(key) for key in error.resources[:_MANY]]
    return data
