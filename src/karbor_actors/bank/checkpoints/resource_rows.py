"""What a checkpoint keeps of single resources, beside their sections: only what is not usual."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.checkpoints.rows import (
    RESOURCE_ARTIFACTS,
    RESOURCE_CONSISTENCY,
    RESOURCE_STATUS,
    RESOURCES_EMPTY,
    errors_row,
    resource_key,
)
from karbor_actors.bank.database.keys import pack_u64, unpack_u32
from karbor_actors.bank.database.records import field as record_field
from karbor_actors.bank.database.records import pack_plain, pack_record, unpack_record
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import BankFormatError
from karbor_actors.model import ResourceStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from karbor_actors.bank.database.transactions import Reader


_RUNS_LIMIT = 64 << 20
_MAX_RESOURCES = 1 << 32


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


UNKNOWN = Consistency(ConsistencyLevel.NONE, "its plugin did not say")
"""Of a resource whose hooks reported nothing: nothing can be promised of its data."""


def status_row(checkpoint: int, resource: int, status: ResourceStatus) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that keeps a resource's status."""
    key = resource_key(checkpoint, RESOURCE_STATUS, resource)
    return key, ResourceStatus(status).value.encode()


def consistency_row(checkpoint: int, resource: int, found: Consistency) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that keeps a resource's consistency."""
    key = resource_key(checkpoint, RESOURCE_CONSISTENCY, resource)
    return key, pack_record(found.to_dict(), "consistency")


@dataclass(frozen=True, slots=True)
class KeptArtifact:
    """An external thing (a snapshot) that belongs to a checkpoint, and is for delete to remove."""

    kind: str
    """What sort of thing it is, in the plugin's words."""
    name: str
    """Its name, chosen before it was made."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the hook that made it kept with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How making a checkpoint ended, beside its status; resources by number."""

    statuses: Mapping[int, ResourceStatus] = field(default_factory=dict)
    """Those that differ from what the checkpoint's status implies."""
    empty: Iterable[int] = ()
    """The resources of which nothing was to be saved, in ascending order."""
    consistency: Mapping[int, Consistency] = field(default_factory=dict)
    artifacts: Mapping[int, Sequence[KeptArtifact]] = field(default_factory=dict)
    error_info: Sequence[dict[str, Any]] = ()
    """What went wrong, plain dicts."""
    point_in_time: datetime | None = None
    """When the last prepare hook ended, if all the data is of then or shortly before."""

    def rows(self, checkpoint: int) -> list[tuple[bytes, bytes]]:
        """Return the CHECKPOINTS rows that keep it."""
        kept = [status_row(checkpoint, n, s) for n, s in sorted(self.statuses.items())]
        kept += [consistency_row(checkpoint, n, c) for n, c in sorted(self.consistency.items())]
        kept += [artifacts_row(checkpoint, n, a) for n, a in sorted(self.artifacts.items())]
        runs = _runs(self.empty)
        if runs:
            kept.append(empty_row(checkpoint, runs))
        if self.error_info:
            kept.append(errors_row(checkpoint, list(self.error_info)))
        return kept


def artifacts_row(
    checkpoint: int, resource: int, artifacts: Iterable[KeptArtifact]
) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that keeps a resource's artifacts."""
    key = resource_key(checkpoint, RESOURCE_ARTIFACTS, resource)
    return key, pack_record([[a.kind, a.name, a.data] for a in artifacts], "artifacts")


def empty_row(checkpoint: int, runs: list[list[int]]) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that says which resources saved nothing.

    Args:
        checkpoint: Its number.
        runs: The first resource of each run of them, and how many they are; ascending.
    """
    packed = pack_plain(runs, "empty resources", limit=_RUNS_LIMIT)
    return resource_key(checkpoint, RESOURCES_EMPTY), packed


def _runs(resources: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for resource in resources:
        if runs and resource == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([resource, 1])
    return runs


def read_empty(reader: Reader, checkpoint: int) -> list[range]:
    """Return the runs of resources that saved nothing.

    Raises:
        BankFormatError: The row is damaged.
    """
    value = reader.get(Table.CHECKPOINTS, resource_key(checkpoint, RESOURCES_EMPTY))
    return [] if value is None else unpack_empty(value)


def unpack_empty(value: bytes) -> list[range]:
    """Return the runs in the value of :func:`empty_row`; raises as :func:`read_empty`."""
    found = []
    for run in _listed(unpack_record(value, "the empty resources"), "the empty resources"):
        match run:
            case [int(first), int(count)] if first >= 0 and 0 < count <= _MAX_RESOURCES:
                found.append(range(first, first + count))
            case _:
                raise BankFormatError("the list of empty resources is damaged")
    return found


def read_artifacts(reader: Reader, checkpoint: int, resource: int) -> list[KeptArtifact]:
    """Return the artifacts that were kept with a resource.

    Raises:
        BankFormatError: The row is damaged.
    """
    key = resource_key(checkpoint, RESOURCE_ARTIFACTS, resource)
    value = reader.get(Table.CHECKPOINTS, key)
    return [] if value is None else unpack_artifacts(value)


def unpack_artifacts(value: bytes) -> list[KeptArtifact]:
    """Return the artifacts in the value of :func:`artifacts_row`; raises as reading does."""
    found = []
    for artifact in _listed(unpack_record(value, "artifacts"), "the artifacts of a resource"):
        match artifact:
            case [str(kind), str(name), dict(data)]:
                found.append(KeptArtifact(kind, name, {str(k): v for k, v in data.items()}))
            case _:
                raise BankFormatError("the artifacts of a resource are damaged")
    return found


def resources_with_artifacts(reader: Reader, checkpoint: int) -> set[int]:
    """Return the numbers of the resources with which artifacts were kept."""
    prefix = pack_u64(checkpoint) + RESOURCE_ARTIFACTS
    return {unpack_u32(key, len(prefix)) for key, _ in reader.scan(Table.CHECKPOINTS, prefix)}


def _listed(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BankFormatError(f"{what} are damaged")
    return value


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
        level = ConsistencyLevel(record_field(record, "level", str, what))
    except ValueError as error:
        raise BankFormatError(f"{what} is damaged: {error}") from error
    return Consistency(level, record_field(record, "cause", str, what))


def read_consistencies(reader: Reader, checkpoint: int) -> Iterator[tuple[int, Consistency]]:
    """Yield (resource, consistency) for all that were kept. Raises as read_consistency()."""
    prefix = pack_u64(checkpoint) + RESOURCE_CONSISTENCY
    for key, _ in reader.scan(Table.CHECKPOINTS, prefix):
        resource = unpack_u32(key, len(prefix))
        found = read_consistency(reader, checkpoint, resource)
        if found is not None:
            yield resource, found


def _status(value: bytes) -> ResourceStatus:
    try:
        return ResourceStatus(value.decode("ascii", "backslashreplace"))
    except ValueError as error:
        raise BankFormatError(f"the status of a resource is damaged: {error}") from error
