"""What a checkpoint keeps of single resources, beside their sections: only what is not usual."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.checkpoint_rows import (
    RESOURCE_CONSISTENCY,
    RESOURCE_STATUS,
    errors_row,
    resource_key,
)
from karbor_actors.bank.keys import pack_u64, unpack_u32
from karbor_actors.bank.records import field, pack_record, unpack_record
from karbor_actors.bank.transactions import Table
from karbor_actors.errors import BankFormatError
from karbor_actors.model import ResourceStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from karbor_actors.bank.transactions import Reader


class ConsistencyLevel(StrEnum):
    """How well the parts of a resource's data fit together."""

    APPLICATION = "application"
    """The application had brought its data to rest."""
    FILESYSTEM = "filesystem"
    """The file systems had been frozen."""
    CRASH = "crash"
    """As after a power cut: all of one moment."""
    NONE = "none"
    """Of several moments."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """How consistent a resource's data in a checkpoint is, and what made it so."""

    level: ConsistencyLevel
    cause: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"level": self.level.value, "cause": self.cause}


def status_row(checkpoint: int, resource: int, status: ResourceStatus) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that keeps a resource's status."""
    key = resource_key(checkpoint, RESOURCE_STATUS, resource)
    return key, ResourceStatus(status).value.encode()


def consistency_row(checkpoint: int, resource: int, found: Consistency) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that keeps a resource's consistency."""
    key = resource_key(checkpoint, RESOURCE_CONSISTENCY, resource)
    return key, pack_record(found.to_dict(), "consistency")


def ending_rows(
    checkpoint: int,
    statuses: Mapping[int, ResourceStatus] | None,
    consistency: Mapping[int, Consistency] | None,
    error_info: Sequence[dict[str, Any]],
) -> list[tuple[bytes, bytes]]:
    """Return the CHECKPOINTS rows that keep how making a checkpoint ended."""
    kept = [status_row(checkpoint, n, s) for n, s in sorted((statuses or {}).items())]
    kept += [consistency_row(checkpoint, n, c) for n, c in sorted((consistency or {}).items())]
    if error_info:
        kept.append(errors_row(checkpoint, list(error_info)))
    return kept


def read_status(reader: Reader, checkpoint: int, resource: int) -> ResourceStatus | None:
    """Return a resource's status where it was kept.

    Raises:
        BankFormatError: The row is damaged.
    """
    value = reader.get(Table.CHECKPOINTS, resource_key(checkpoint, RESOURCE_STATUS, resource))
    return None if value is None else _status(value)


def read_statuses(reader: Reader, checkpoint: int) -> Iterator[tuple[int, ResourceStatus]]:
    """Yield (resource, status) for all that were kept."""
    prefix = pack_u64(checkpoint) + RESOURCE_STATUS
    for key, value in reader.scan(Table.CHECKPOINTS, prefix):
        yield unpack_u32(key, len(prefix)), _status(value)


def read_consistency(reader: Reader, checkpoint: int, resource: int) -> Consistency | None:
    """Return a resource's consistency where it was kept.

    Raises:
        BankFormatError: The row is damaged.
    """
    key = resource_key(checkpoint, RESOURCE_CONSISTENCY, resource)
    value = reader.get(Table.CHECKPOINTS, key)
    if value is None:
        return None
    what = f"the consistency of resource {resource}"
    record = unpack_record(value, what)
    try:
        level = ConsistencyLevel(field(record, "level", str, what))
    except ValueError as error:
        raise BankFormatError(f"{what} is damaged: {error}") from error
    return Consistency(level, field(record, "cause", str, what))


def _status(value: bytes) -> ResourceStatus:
    try:
        return ResourceStatus(value.decode("ascii", "backslashreplace"))
    except ValueError as error:
        raise BankFormatError(f"the status of a resource is damaged: {error}") from error
