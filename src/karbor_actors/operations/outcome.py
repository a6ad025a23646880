"""How an operation's hooks ended, for the verb that closes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.database.records import pack_record
from karbor_actors.errors import (
    CycleError,
    HookFailedError,
    ListingError,
    ResourceMissingError,
    describe_cause,
)
from karbor_actors.errors.base import class_name, examinable
from karbor_actors.model import AbortKind, OperationStatus, OperationType, ResourceStatus
from karbor_actors.operations.results import Progress
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.graph import ResourceGraph
    from karbor_actors.model import AbortReason
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.schedule import HookSchedule

CANCELS = (AbortKind.CANCEL, AbortKind.SHUTDOWN)
"""Why an operation is undone of which nothing has failed."""
_MANY = 100
"""The most errors that a record lists, and the most resources of one error."""
_MAX_SIZE = 1 << 20
"""About how many bytes of errors a record keeps at most."""


def progress_of(
    status: OperationStatus,
    control: OperationControl | None,
    run: OperationRun | None,
    looked_up: int | None = None,
) -> Progress:
    """Return how far an operation is that stands at *status*."""
    if control is None or run is None:
        return Progress(status, looked_up=looked_up)
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
        elif control.reason is not None:  # the first: a cancel after a failure is none
            is_cancel = control.reason.kind in CANCELS
            status = OperationStatus.CANCELLED if is_cancel else OperationStatus.FAILED
        elif control.failures:
            whole = len(schedule) // HOOKS_PER_RESOURCE
            is_partial = len(resources) < whole
            status = OperationStatus.PARTIAL if is_partial else OperationStatus.FAILED
        failures = list(control.failures)
        if status is OperationStatus.FAILED and cancelled is not None:
            is_late = control.reason is cancelled and cancelled.kind is AbortKind.TIMEOUT
            if is_late or not failures:  # before what was given up for it
                failures.insert(0, TimeoutError(cancelled.error))
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
        """Return the failures as plain data for the operation's record, which always has room for it."""
        return error_list(self.failures) + error_list(self.abort_failures)


def error_list(errors: Sequence[BaseException]) -> list[dict[str, Any]]:
    """Return *errors* as plain data: the first of them, and how many more there are.

    A record can keep it whatever the errors hold, and however many they are: the end of an
    operation is recorded in any case.
    """
    kept: list[dict[str, Any]] = []
    size = 0
    for error in errors[:_MANY]:
        try:
            data = error_data(error)
            size += len(pack_record(data, "an error", limit=_MAX_SIZE))
        except Exception:  # a key that is very long, or none at all: the sentence has its ends
            data = {"type": class_name(error), "message": describe_cause(error)}
        if size > _MAX_SIZE:
            break
        kept.append(data)
    if len(kept) < len(errors):
        kept.append({"type": "", "message": f"and {len(errors) - len(kept):,} more"})
    return kept


def error_data(error: BaseException) -> dict[str, Any]:
    """Return *error* as plain data: its class, its sentence, and where it happened."""
    data: dict[str, Any] = {"type": class_name(error), "message": describe_cause(error)}
    match examinable(error):
        case HookFailedError() as failed:
            data["resource"] = list(failed.resource)
            data["hook"] = failed.hook
            data["attempt"] = failed.attempt
            data["traceback"] = failed.trace
        case ListingError() as failed:
            data["resource"] = failed.resource and list(failed.resource)
        case CycleError() as failed:
            data["resources"] = [list(key) for key in failed.cycle[:_MANY]]
        case ResourceMissingError() as failed:
            data["resources"] = [list(key) for key in failed.resources[:_MANY]]
    return data
