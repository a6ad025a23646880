"""Checkpoints: what protect makes and the other operations use."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.bank import checkpoint_rows as rows
from karbor_actors.bank.keys import pack_u64
from karbor_actors.bank.records import pack_record
from karbor_actors.bank.resource_rows import (
    ending_rows,
    read_consistency,
    read_status,
    read_statuses,
)
from karbor_actors.bank.sections import BankSection
from karbor_actors.bank.streams import delete_streams
from karbor_actors.bank.transactions import Table
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
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from karbor_actors.bank.checkpoint_rows import CheckpointRow
    from karbor_actors.bank.parts import BankParts
    from karbor_actors.bank.resource_rows import Consistency
    from karbor_actors.bank.transactions import Transaction
    from karbor_actors.errors import ResourceKey

_DELETABLE = frozenset(
    {
        CheckpointStatus.AVAILABLE,
        CheckpointStatus.PARTIAL,
        CheckpointStatus.ERROR,
        CheckpointStatus.ERROR_DELETING,
    }
)
_REMOVED_AT_ONCE = 10_000
_USUAL = {
    CheckpointStatus.PROTECTING: ResourceStatus.PENDING,
    CheckpointStatus.COPYING: ResourceStatus.PENDING,
    CheckpointStatus.ERROR: ResourceStatus.ABORTED,
}


class Checkpoint:
    """One checkpoint of a bank, as it was when it was read; :meth:`refresh` reads it again.

    Any thread may call it. Get one from a Bank.

    Args:
        parts: The open bank.
        number: Its number in the bank.
        row: Its row.
        is_writable: Whether its sections may be written.
        guard: Called before each write to a section; what it raises refuses it.
    """

    def __init__(
        self,
        parts: BankParts,
        number: int,
        row: CheckpointRow,
        *,
        is_writable: bool = False,
        guard: Callable[[], None] | None = None,
    ) -> None:
        self.number = number
        """Its number in the bank, never used again."""
        self._parts = parts
        self._row = row
        self._is_writable = is_writable
        self._guard = guard
        self._graph: ResourceGraph | None = None

    def __repr__(self) -> str:
        return f"<Checkpoint {self.id}, {self.status}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Checkpoint):
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
        """The moment, in UTC, that the data is of, where there is one for all of it."""
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
            row = rows.read_row(snapshot, self.number)
        if row is None:
            raise CheckpointNotFoundError(self.id)
        self._row = row
        return self

    def view(
        self, *, is_writable: bool = False, guard: Callable[[], None] | None = None
    ) -> Checkpoint:
        """Return the same checkpoint with sections that may be written, or not, under *guard*."""
        other = Checkpoint(
            self._parts, self.number, self._row, is_writable=is_writable, guard=guard
        )
        other._graph = self._graph
        return other

    def get_resource_bank_section(self, resource: Resource | ResourceKey | str) -> BankSection:
        """Return the section of *resource*: a Resource, its (type, id), or an id that is one's own.

        Raises:
            ResourceNotFoundError: It is not in this checkpoint.
            BankKeyError: An id that resources of several types share.
        """
        graph = self.resource_graph
        number = self.resource_number(resource)
        key = graph.nodes[number].key
        return BankSection(
            self._parts,
            self.number,
            number,
            name=f"{self.id}/{describe_key(key)}",
            is_writable=self._is_writable,
            guard=self._guard,
        )

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
        return kept or self._usual_status

    def resource_statuses(self) -> dict[ResourceKey, ResourceStatus]:
        """Return where every resource stands, in the order of the graph."""
        nodes = self.resource_graph.nodes
        usual = self._usual_status
        statuses = {resource.key: usual for resource in nodes}
        with self._parts.environment.snapshot() as snapshot:
            for number, status in read_statuses(snapshot, self.number):
                if number < len(nodes):
                    statuses[nodes[number].key] = status
        return statuses

    def consistency(self, resource: Resource | ResourceKey | str) -> Consistency | None:
        """Return how consistent *resource*'s data is, where the engine recorded it."""
        number = self.resource_number(resource)
        with self._parts.environment.snapshot() as snapshot:
            return read_consistency(snapshot, self.number, number)

    def set_status(
        self, status: CheckpointStatus, *, expected: Collection[CheckpointStatus]
    ) -> None:
        """Move from one of *expected* to *status*, in one transaction.

        Raises:
            CheckpointStateError: It is in none of *expected*; or held and to be deleted.
            CheckpointNotFoundError: It was deleted.
            StoreError: It has moved, but its manifest does not say so yet.
        """
        new, allowed = CheckpointStatus(status), frozenset(expected)
        self._row = self._parts.manifests.change(
            self.number,
            lambda transaction: rows.set_status(transaction, self.number, self.id, new, allowed),
        )

    def finish(
        self,
        status: CheckpointStatus,
        *,
        expected: Collection[CheckpointStatus] = (
            CheckpointStatus.PROTECTING,
            CheckpointStatus.COPYING,
        ),
        statuses: Mapping[int, ResourceStatus] | None = None,
        consistency: Mapping[int, Consistency] | None = None,
        error_info: Sequence[dict[str, Any]] = (),
        point_in_time: datetime | None = None,
    ) -> None:
        """Record how making it ended, all in one transaction, after its manifest is durable.

        Args:
            status: The new status.
            expected: Raises CheckpointStateError unless it is in one of these.
            statuses: By resource number, those that differ from what the status implies.
            consistency: By resource number.
            error_info: What went wrong, plain dicts.
            point_in_time: The moment that all the data is of.

        Raises:
            StoreError: The manifest could not be written; nothing is recorded.
        """
        change = self.finish_change(
            status,
            expected=expected,
            statuses=statuses,
            consistency=consistency,
            error_info=error_info,
            point_in_time=point_in_time,
        )
        self._row = self._parts.writer.write(change)

    def finish_change(
        self,
        status: CheckpointStatus,
        *,
        expected: Collection[CheckpointStatus],
        statuses: Mapping[int, ResourceStatus] | None = None,
        consistency: Mapping[int, Consistency] | None = None,
        error_info: Sequence[dict[str, Any]] = (),
        point_in_time: datetime | None = None,
    ) -> Callable[[Transaction], CheckpointRow]:
        """Return what :meth:`finish` writes, to be part of a larger change; refresh() after it.

        For a good end the manifest is written now; for another one, what was written of it goes.
        """
        new, allowed, number = CheckpointStatus(status), frozenset(expected), self.number
        kept = ending_rows(number, statuses, consistency, error_info)
        changes: dict[str, Any] = {}
        if point_in_time is not None:
            changes["point_in_time"] = rows.microseconds(point_in_time) / 1_000_000
        self.refresh()
        row = dataclasses.replace(self._row, status=new, **changes)
        settle = self._parts.manifests.prepare(
            number, row, dict(kept), is_allowed=self.status in allowed
        )

        def change(transaction: Transaction) -> CheckpointRow:
            rows.set_status(transaction, number, self.id, new, allowed)
            transaction.put_many(Table.CHECKPOINTS, kept)
            settle(transaction)
            return rows.change_row(transaction, number, self.id, **changes)

        return change

    def begin_delete(self) -> None:
        """Mark it ``deleting``.

        Raises:
            CheckpointStateError: It is held, being made, or being deleted.
        """
        self.set_status(CheckpointStatus.DELETING, expected=_DELETABLE)

    def purge(self) -> None:
        """Remove all that the bank has of it, in transactions of bounded size.

        CheckpointStateError unless it is ``deleting``. Killed at any point, the next call goes on.
        """
        with self._parts.environment.snapshot() as snapshot:
            row = rows.read_row(snapshot, self.number)
        if row is not None:
            if row.status is not CheckpointStatus.DELETING:  # refused
                self.set_status(CheckpointStatus.DELETING, expected={CheckpointStatus.DELETING})
            self._parts.manifests.remove(self.number, self.id)
            delete_streams(self._parts.blocks, pack_u64(self.number))
            change = rows.remove_checkpoint(self.number, _REMOVED_AT_ONCE)
            while not self._parts.writer.write(change):
                pass
        self._row = dataclasses.replace(self._row, status=CheckpointStatus.DELETED)

    def hold(self, reason: str) -> None:
        """Keep it from being deleted until :meth:`release_hold`; twice is once."""
        if not reason:
            raise BankKeyError("a hold has a reason, a non-empty string")
        now = time.time()
        pack_record(reason, "the reason of a hold")

        def change(transaction: Transaction) -> CheckpointRow:
            row = rows.read_row(transaction, self.number)
            holds = () if row is None else row.holds
            if reason not in dict(holds):
                holds = (*holds, (reason, now))
            return rows.change_row(transaction, self.number, self.id, holds=holds)

        self._row = self._parts.manifests.change(self.number, change)

    def release_hold(self, reason: str) -> None:
        """Take back what :meth:`hold` did for *reason*; none is fine."""

        def change(transaction: Transaction) -> CheckpointRow:
            row = rows.read_row(transaction, self.number)
            kept = () if row is None else tuple(hold for hold in row.holds if hold[0] != reason)
            return rows.change_row(transaction, self.number, self.id, holds=kept)

        self._row = self._parts.manifests.change(self.number, change)

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
