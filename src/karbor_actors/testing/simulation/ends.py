"""Whether operations end as it is told and recorded, and checkpoints as what made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.model import CheckpointStatus, OperationStatus, OperationType
from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from karbor_actors.bank.bank import Bank
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.bank.journal.journal import OperationRecord

_GOOD = (CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL)
_LEAVING = (CheckpointStatus.DELETING, CheckpointStatus.ERROR_DELETING)


def check_told(
    label: str, status: OperationStatus, record: OperationRecord | None, *, must_be: bool
) -> Iterator[Violation]:
    """Yield what is wrong with an end as it is told: what is recorded at that moment is otherwise.

    Args:
        label: What the operation is called.
        status: What its handle says.
        record: What is durable.
        must_be: Whether the bank could write, so that a failure is recorded too.
    """
    if status in (OperationStatus.SUCCEEDED, OperationStatus.PARTIAL):
        must_be = True  # whatever happens, or it is none
    recorded = "nothing" if record is None else record.status
    if must_be and recorded is not status:
        yield Violation("told", f"{label} is said to be {status}, and {recorded} is recorded")


def check_reasons(label: str, record: OperationRecord) -> Iterator[Violation]:
    """Yield a failure of which nobody will ever know why."""
    is_bad = record.status in (OperationStatus.FAILED, OperationStatus.PARTIAL)
    if is_bad and not record.error_info:
        yield Violation("told", f"{label} is {record.status}, and its record does not say why")


def check_made(
    records: Mapping[str, OperationRecord], banks: Iterable[Bank]
) -> Iterator[Violation]:
    """Yield the checkpoints that are not as what made them, or deleted them, says; nothing runs."""
    found = {c.id: c for bank in banks for c in bank.checkpoints()}
    deletes = [r for r in records.values() if r.type is OperationType.DELETE]
    for record in deletes:
        if record.status is OperationStatus.SUCCEEDED and record.checkpoint_id in found:
            yield Violation("marked", "a checkpoint is there although its delete succeeded")
    gone = {record.checkpoint_id for record in deletes}
    for record in records.values():
        made = makes(record)
        if not made or not record.status.is_terminal:
            if made in found and found[made].status in _GOOD:
                what = f"a checkpoint is {found[made].status}, its {record.type} {record.status}"
                yield Violation("marked", what)
        elif made in found:
            source = found.get(found[made].copied_from or "")
            yield from _check_end(record, found[made], source)
        elif record.status is OperationStatus.SUCCEEDED and made not in gone:
            yield Violation("marked", f"the checkpoint of a {record.type} that succeeded is gone")


def makes(record: OperationRecord) -> str:
    """Return the id of the checkpoint that *record*'s operation makes; nothing if it makes none."""
    if record.type is OperationType.COPY:
        return str(record.extra.get("copy", ""))
    return record.checkpoint_id if record.type is OperationType.PROTECT else ""


def _check_end(
    record: OperationRecord, made: Checkpoint, source: Checkpoint | None
) -> Iterator[Violation]:
    if made.status in _LEAVING:
        return
    wanted = {
        OperationStatus.SUCCEEDED: CheckpointStatus.AVAILABLE,
        OperationStatus.PARTIAL: CheckpointStatus.PARTIAL,
    }.get(record.status, CheckpointStatus.ERROR)
    if made.copied_from and wanted is CheckpointStatus.AVAILABLE:  # no better than its source
        if source is None or source.status in _LEAVING:
            wanted = made.status if made.status in _GOOD else wanted
        else:
            wanted = source.status
    if made.status is not wanted:
        what = f"the {record.type} that made a checkpoint is {record.status}, that {made.status}"
        yield Violation("marked", what)
