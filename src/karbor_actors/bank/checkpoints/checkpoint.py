"""Checkpoints: what protect makes and the other operations use."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.checkpoints.resource_rows import Ending
from karbor_actors.bank.checkpoints.sections import BankSection
from karbor_actors.bank.checkpoints.stored import StoredCheckpoint
from karbor_actors.bank.database.keys import pack_u64
from karbor_actors.bank.database.records import pack_record
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.manifests.manifests import MAKING
from karbor_actors.bank.streams.streams import delete_streams
from karbor_actors.bank.writer import write_in_steps
from karbor_actors.errors import BankKeyError, describe_key
from karbor_actors.model import CheckpointStatus, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from karbor_actors.bank.admission import Guard
    from karbor_actors.bank.checkpoints.rows import CheckpointRow
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.parts import BankParts
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
_NOTHING_ELSE = Ending()


class CheckpointMaking:
    """The change that adds a checkpoint with its graph, and returns it with sections to write.

    Args:
        parts: The open bank.
        row: The checkpoint.
        is_own: Whether all of it is known to be plain, and nobody else's.
        graph: Its packed graph.
    """

    def __init__(self, parts: BankParts, row: CheckpointRow, graph: bytes, *, is_own: bool) -> None:
        self._parts, self._graph = parts, graph
        self._packed = row.pack(is_new=not is_own)
        self._row = row if is_own else rows.CheckpointRow.unpack(self._packed, 0)
        self.graph_digest = row.graph_digest
        """The digest of its graph."""

    def __call__(self, transaction: Transaction) -> Checkpoint:
        """Add it."""
        row = self._row
        number = rows.insert(transaction, row, self._packed, self._graph)
        if row.status in MAKING:
            self._parts.manifests.announce(transaction, number, row.id)
        return Checkpoint(self._parts, number, row, is_writable=True).know_packed(self._packed)


class Checkpoint(StoredCheckpoint):
    """One checkpoint of a bank: what is stored of it, its sections, and how it changes.

    Any thread may call it. Get one from a Bank.

    Args:
        parts: The open bank.
        number: Its number in the bank.
        row: Its row.
        is_writable: Whether its sections may be written.
        guard: Is asked before each write to a section.
    """

    def __init__(
        self,
        parts: BankParts,
        number: int,
        row: CheckpointRow,
        *,
        is_writable: bool = False,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(parts, number, row)
        self._is_writable = is_writable
        self._guard = guard

    def view(self, *, is_writable: bool = False, guard: Guard | None = None) -> Checkpoint:
        """Return the same checkpoint with sections that may be written, or not, under *guard*."""
        other = Checkpoint.__new__(Checkpoint)  # one for each hook: without the constructors
        other.number, other._parts, other._row = self.number, self._parts, self._row  # noqa: SLF001
        other._graph, other._packed = self._graph, self._packed  # noqa: SLF001
        other._is_writable, other._guard = is_writable, guard  # noqa: SLF001
        return other

    def recorded_as(self, row: CheckpointRow) -> Checkpoint:
        """Return the same checkpoint, read-only, as its *row* has it; its graph is not kept in memory."""
        return Checkpoint(self._parts, self.number, row)

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
        row = self._parts.manifests.change(
            self.number,
            lambda transaction: rows.set_status(transaction, self.number, self.id, new, allowed),
        )
        self._know(row)

    def finish(
        self,
        status: CheckpointStatus,
        ending: Ending = _NOTHING_ELSE,
        *,
        expected: Collection[CheckpointStatus] = (
            CheckpointStatus.PROTECTING,
            CheckpointStatus.COPYING,
        ),
    ) -> None:
        """Record how making it ended, all in one transaction, after its manifest is durable.

        Args:
            status: The new status.
            ending: What else is to be known of it.
            expected: Raises CheckpointStateError unless it is in one of these.

        Raises:
            StoreError: The manifest could not be written; nothing is recorded.
        """
        change = self.finish_change(status, ending, expected=expected)
        self._know(self._parts.writer.write(change))

    def finish_change(
        self,
        status: CheckpointStatus,
        ending: Ending = _NOTHING_ELSE,
        *,
        expected: Collection[CheckpointStatus],
    ) -> Callable[[Transaction], CheckpointRow]:
        """Return what :meth:`finish` writes, to be part of a larger change; refresh() after it.

        For a good end the manifest is written now; for another one, what was written of it goes.
        """
        new, allowed, number = CheckpointStatus(status), frozenset(expected), self.number
        kept = ending.rows(number)
        changes: dict[str, Any] = {}
        if ending.point_in_time is not None:
            changes["point_in_time"] = rows.microseconds(ending.point_in_time) / 1_000_000
        self.refresh()
        before = self._packed  # first: of what another thread reads meanwhile it knows nothing
        row = dataclasses.replace(self._row, status=new, **changes)
        is_allowed = self.status in allowed
        settle = self._parts.manifests.prepare(number, row, dict(kept), is_allowed=is_allowed)
        key, before = rows.row_key(number), before if is_allowed else None
        packed = b"" if before is None else row.pack()

        def change(transaction: Transaction) -> CheckpointRow:
            if before is not None and transaction.get(Table.CHECKPOINTS, key) == before:
                transaction.put(Table.CHECKPOINTS, key, packed)  # little for the one writer to do
                now = row
            else:
                now = rows.set_status(transaction, number, self.id, new, allowed, **changes)
            if kept:
                transaction.put_many(Table.CHECKPOINTS, kept)
            settle(transaction, now)
            return now

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
            change_of = partial(rows.remove_checkpoint, self.number)
            write_in_steps(self._parts.writer.write, change_of, _REMOVED_AT_ONCE)
        self._know(dataclasses.replace(self._row, status=CheckpointStatus.DELETED))

    def hold(self, reason: str) -> None:
        """Keep it from being deleted until :meth:`release_hold`; twice is once."""
        if not isinstance(reason, str) or not reason:
            raise BankKeyError("a hold has a reason, a non-empty string")
        now = time.time()
        pack_record(reason, "the reason of a hold")

        def change(transaction: Transaction) -> CheckpointRow:
            row = rows.read_row(transaction, self.number)
            holds = () if row is None else row.holds
            if reason not in dict(holds):
                holds = (*holds, (reason, now))
            return rows.change_row(transaction, self.number, self.id, holds=holds)

        self._know(self._parts.manifests.change(self.number, change))

    def release_hold(self, reason: str) -> None:
        """Take back what :meth:`hold` did for *reason*; none is fine."""

        def change(transaction: Transaction) -> CheckpointRow:
            row = rows.read_row(transaction, self.number)
            kept = () if row is None else tuple(hold for hold in row.holds if hold[0] != reason)
            return rows.change_row(transaction, self.number, self.id, holds=kept)

        self._know(self._parts.manifests.change(self.number, change))
