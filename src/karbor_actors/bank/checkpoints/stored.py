"""What a bank has of a checkpoint, to be read: its facts, graph and resources' statuses."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.checkpoints.resource_rows import (
    UNKNOWN,
    KeptArtifact,
    read_artifacts,
    read_consistencies,
    read_consistency,
    read_empty,
    read_status,
    read_statuses,
    resources_with_artifacts,
)
from karbor_actors.bank.database.keys import pack_u64, unpack_u32
from karbor_actors.bank.database.transactions import HEADS, Table
from karbor_actors.bank.streams.rows import rows_prefix
from karbor_actors.errors import (
    BankKeyError,
    CheckpointNotFoundError,
    ResourceNotFoundError,
    describe_key,
    describe_value,
)
from karbor_actors.graph import ResourceGraph
from karbor_actors.model import CheckpointStatus, Resource, ResourceStatus

if TYPE_CHECKING:
    from datetime import datetime

    from karbor_actors.bank.checkpoints.resource_rows import Consistency
    from karbor_actors.bank.checkpoints.rows import CheckpointRow
    from karbor_actors.bank.parts import BankParts
    from karbor_actors.errors import ResourceKey

_USUAL = {
    CheckpointStatus.PROTECTING: ResourceStatus.PENDING,
    CheckpointStatus.COPYING: ResourceStatus.PENDING,
    CheckpointStatus.ERROR: ResourceStatus.ABORTED,
}


_KEPT_PACKED = 1 << 16
"""The most bytes of a row that are kept beside it; one of a huge plan is read again."""


class StoredCheckpoint:
    """One checkpoint of a bank as it was when it was read; :meth:`refresh` reads it again.

    Any thread may call it.

    Args:
        parts: The open bank.
        number: Its number in the bank.
        row: Its row.
    """

    def __init__(self, parts: BankParts, number: int, row: CheckpointRow) -> None:
        self.number = number
        """Its number in the bank, never used again."""
        self._parts = parts
        self._row = row
        self._packed: bytes | None = None
        """The row as it is in the bank, if that is known."""
        self._graph: ResourceGraph | None = None

    def __repr__(self) -> str:
        return f"<Checkpoint {self.id}, {self.status}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StoredCheckpoint):
            return self.id == other.id
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """The id, unique everywhere."""
        return self._row.id

    @property
    def status(self) -> CheckpointStatus:
        """Where it stood when it was read."""
        return self._row.status

    @property
    def plan(self) -> dict[str, Any]:
        """A copy of the plan that it was made for, as ``Plan.to_dict`` gives it."""
        return copy.deepcopy(self._row.plan)

    @property
    def plan_name(self) -> str:
        """The plan's name."""
        return self._row.plan_name

    @property
    def provider(self) -> str:
        """The name of the provider that made it."""
        return self._row.provider

    @property
    def created_at(self) -> datetime:
        """When it was begun, in UTC."""
        return rows.moment_of(self._row.created)

    @property
    def point_in_time(self) -> datetime | None:
        """When the last prepare hook ended, in UTC: what each resource was then, or shortly before.

        None unless every resource that it holds has a prepare hook, and its plugin said that its
        data is at least crash consistent.
        """
        moment = self._row.point_in_time
        return None if moment is None else rows.moment_of(round(moment * 1_000_000))

    @property
    def copied_from(self) -> str | None:
        """The id of the checkpoint that it is a copy of."""
        return self._row.copied_from

    @property
    def graph_digest(self) -> bytes:
        """The digest of its graph, 32 bytes."""
        return self._row.graph_digest

    @property
    def holds(self) -> tuple[str, ...]:
        """The reasons for which it must not be deleted."""
        return tuple(reason for reason, _ in self._row.holds)

    @property
    def bank_directories(self) -> tuple[str, ...]:
        """The local directories of its bank: the records', and the objects' if that is another.

        For plugins, which must neither protect nor overwrite what is there.
        """
        records = os.path.dirname(self._parts.environment.path)
        objects = getattr(self._parts.blocks.objects, "directory", None)
        if objects is None or os.path.dirname(objects) == records:
            return (records,)
        return (records, objects)

    @property
    def resource_graph(self) -> ResourceGraph:
        """Its resources; iterates over the root nodes. Read when first asked for.

        Raises:
            CheckpointNotFoundError: It was deleted.
            BankFormatError: It is damaged.
        """
        if self._graph is None:
            with self._parts.environment.snapshot() as snapshot:
                packed = rows.read_graph(snapshot, self.number)
            if not packed:
                raise CheckpointNotFoundError(self.id)
            self._graph = ResourceGraph.unpack(packed)
        return self._graph

    def know_graph(self, graph: ResourceGraph) -> Self:
        """Take *graph*, which is this checkpoint's, instead of reading it; return this checkpoint.

        Its views share it: else each hook that looks for its section would read it again.
        """
        self._graph = graph
        return self

    def _know(self, row: CheckpointRow) -> None:
        """Note that *row* is what the bank has now."""
        self._packed, self._row = None, row

    def know_packed(self, packed: bytes) -> Self:
        """Note that *packed* is what the bank has as its row; return this checkpoint."""
        self._packed = packed if len(packed) <= _KEPT_PACKED else None
        return self

    @property
    def error_info(self) -> list[dict[str, Any]]:
        """What went wrong in making it, as the operation reported it."""
        with self._parts.environment.snapshot() as snapshot:
            return rows.read_errors(snapshot, self.number)

    def refresh(self) -> Self:
        """Read the row again; return this checkpoint.

        Raises:
            CheckpointNotFoundError: It was deleted.
        """
        with self._parts.environment.snapshot() as snapshot:
            packed = snapshot.get(Table.CHECKPOINTS, rows.row_key(self.number))
        if packed is None:
            raise CheckpointNotFoundError(self.id)
        if packed != self._packed:
            self._row = rows.CheckpointRow.unpack(packed, self.number)
            self.know_packed(packed)
        return self

    def resource_number(self, resource: Resource | ResourceKey | str) -> int:
        """Return *resource*'s number in the graph. Raises as get_resource_bank_section()."""
        graph = self.resource_graph
        if isinstance(resource, str):
            keys = graph.keys_by_id(resource)
            if len(keys) > 1:
                shared = ", ".join(map(describe_key, keys))
                raise BankKeyError(f"the id {describe_value(resource)} is {shared}: say which")
            if not keys:
                raise ResourceNotFoundError(("*", resource))
            return graph.number(keys[0])
        return graph.number(resource.key if isinstance(resource, Resource) else resource)

    def resource_status(self, resource: Resource | ResourceKey | str) -> ResourceStatus:
        """Return where *resource* stands. Raises as get_resource_bank_section()."""
        number = self.resource_number(resource)
        with self._parts.environment.snapshot() as snapshot:
            kept = read_status(snapshot, self.number, number)
            empty = read_empty(snapshot, self.number)
        if kept is None and any(number in run for run in empty):
            kept = ResourceStatus.EMPTY
        return kept or self._usual_status

    def resource_statuses(self) -> dict[ResourceKey, ResourceStatus]:
        """Return where every resource stands, in the order of the graph."""
        nodes = self.resource_graph.nodes
        usual = self._usual_status
        statuses = {resource.key: usual for resource in nodes}
        with self._parts.environment.snapshot() as snapshot:
            for run in read_empty(snapshot, self.number):
                for resource in nodes[run.start : run.stop]:
                    statuses[resource.key] = ResourceStatus.EMPTY
            for number, status in read_statuses(snapshot, self.number):
                if number < len(nodes):
                    statuses[nodes[number].key] = status
        return statuses

    def artifacts(self, resource: Resource | ResourceKey | str) -> list[KeptArtifact]:
        """Return the external things that *resource*'s protect hooks kept for the checkpoint."""
        number = self.resource_number(resource)
        with self._parts.environment.snapshot() as snapshot:
            return read_artifacts(snapshot, self.number, number)

    def numbers_with_artifacts(self) -> set[int]:
        """Return the numbers, in the graph, of the resources with which artifacts were kept."""
        with self._parts.environment.snapshot() as snapshot:
            return resources_with_artifacts(snapshot, self.number)

    def saved(self) -> bytearray:
        """Return a byte for each resource, by number: 1 where something of it is kept, else 0.

        Something is an object or a stream of its section, or an artifact.
        """
        marks, scope = bytearray(len(self.resource_graph)), pack_u64(self.number)
        left = [
            (Table.OBJECTS, scope, b""),
            (Table.STREAMS, rows_prefix(scope), b""),
            (Table.CHECKPOINTS, scope + rows.RESOURCE_ARTIFACTS, b""),
        ]
        while left:  # in several snapshots where there is much, each of them short
            with self._parts.environment.snapshot() as snapshot:
                heads: list[bytes] = []
                while left and len(heads) < HEADS:
                    table, prefix, after = left.pop()
                    heads = snapshot.heads(table, prefix, len(prefix) + 4, after)
                    if len(heads) == HEADS:
                        left.append((table, prefix, heads[-1]))
                    for head in heads:
                        if (number := unpack_u32(head, len(prefix))) < len(marks):
                            marks[number] = 1
        return marks

    def consistency(self, resource: Resource | ResourceKey | str) -> Consistency:
        """Return how consistent *resource*'s data is, as its plugin said; else ``none``.

        Raises as get_resource_bank_section().
        """
        number = self.resource_number(resource)
        with self._parts.environment.snapshot() as snapshot:
            return read_consistency(snapshot, self.number, number) or UNKNOWN

    def consistencies(self) -> dict[int, Consistency]:
        """Return by number how consistent the resources' data is whose plugins said so."""
        with self._parts.environment.snapshot() as snapshot:
            return dict(read_consistencies(snapshot, self.number))

    def to_dict(self) -> dict[str, Any]:
        """Return what describes it as plain data; times are ISO 8601."""
        moment = self.point_in_time
        return {
            "id": self.id,
            "status": self.status.value,
            "provider": self.provider,
            "plan": self.plan,
            "created_at": self.created_at.isoformat(),
            "point_in_time": None if moment is None else moment.isoformat(),
            "copied_from": self.copied_from,
            "holds": list(self.holds),
        }

    @property
    def _usual_status(self) -> ResourceStatus:
        return _USUAL.get(self.status, ResourceStatus.AVAILABLE)
