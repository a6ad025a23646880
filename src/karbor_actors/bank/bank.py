"""The bank: what an embedding program opens, and all that it finds there."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.actors.uninterrupted import done_aside, done_here
from karbor_actors.arguments import checked_choices, checked_count, checked_path
from karbor_actors.bank.backup import back_up
from karbor_actors.bank.blocks.check import repack
from karbor_actors.bank.blocks.rebuild import free_unneeded
from karbor_actors.bank.checking import check_bank
from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.checkpoints.checkpoint import Checkpoint, CheckpointMaking
from karbor_actors.bank.database.environment import FORMAT_VERSION
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.journal.journal import Journal
from karbor_actors.bank.lease import break_lease
from karbor_actors.bank.opening import (
    check_ways,
    open_for_bank,
    rebuild_bank,
    refuse_lost_records,
)
from karbor_actors.errors import (
    BankClosedError,
    BankError,
    BankFormatError,
    BankLeaseError,
    BankReadonlyError,
    CheckpointNotFoundError,
    describe_cause,
)
from karbor_actors.model import CheckpointStatus, Plan

if TYPE_CHECKING:
    import contextlib
    import os
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from karbor_actors.actors.dispatcher import Dispatcher
    from karbor_actors.bank.manifests.rebuild import RebuildReport
    from karbor_actors.bank.parts import BankParts
    from karbor_actors.bank.writer import Writer
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.store.objects import ObjectStore

_LOG = logging.getLogger("karbor_actors.bank")


class Bank:
    """An open bank: a directory with the records, and the object store with the bulk data.

    Any thread may call it. Open it with :meth:`open`; a context manager that closes it.
    """

    def __init__(
        self,
        directory: str,
        parts: BankParts,
        closing: contextlib.ExitStack,
        *,
        aside: Callable[..., Any] = done_aside,
    ) -> None:
        self.directory = directory
        """The bank's directory, absolute."""
        self.writer: Writer = parts.writer
        """Through which everything is written."""
        self.journal = Journal(parts.environment, parts.writer)
        """The operations' records and journals."""
        self.reserve = parts.reserve
        """The space that it keeps for what must write although its disk is full."""
        self._parts = parts
        self._environment = parts.environment
        self._closing = closing
        self._aside = aside  # what no signal is to interrupt half-way
        self._lock = threading.Lock()
        self._owner: tuple[object, str] | None = None

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        objects: ObjectStore | str | None = None,
        readonly: bool = False,
        create: bool = True,
        dispatcher: Dispatcher | None = None,
    ) -> Self:
        """Open the bank in *directory*.

        Args:
            directory: Made where it is missing, with *create*.
            objects: None: a folder beside the records; a URL (``s3://...``); an ObjectStore to close.
            readonly: Only read. Takes no lease: another process may own the bank.
            create: Whether to make a bank where there is none.
            dispatcher: What runs the bank's actor, for a simulation; None: a thread.

        Raises:
            BankLeaseError: Somebody else has it open for writing; the error says who.
            BankPathError: *directory* is a file, is missing, or may not be used; or it held a bank
                whose records are missing.
            BankReadonlyError: It may not be written, or is a :meth:`backup`.
            BankFormatError: It is damaged, something else, or from a newer release.
            BankFullError: No space is left. StoreError: The object store failed.
        """
        path = checked_path("directory", directory)
        check_ways(dispatcher, readonly=readonly, create=create)
        refuse_lost_records(path)
        aside = done_aside if dispatcher is None else done_here
        return aside(
            lambda: cls(
                path, *open_for_bank(path, objects, readonly, create, dispatcher), aside=aside
            ),
            cls.close,
        )

    @classmethod
    def rebuild(
        cls,
        directory: str | os.PathLike[str],
        *,
        objects: ObjectStore | str | None = None,
        bank_id: str | None = None,
    ) -> RebuildReport:
        """Make the records of a bank, lost or damaged, again from what its object store holds.

        Checkpoints that were available, partial or being deleted come back; one of which anything
        is missing, as an error that says what. The history of operations does not, nor do
        checkpoints that were being made. Damaged files, or a :meth:`backup` that was put in their
        place, are moved aside. Killed, it is done again. Nobody may use other records of this bank
        meanwhile or later: what one makes, the other takes for a dead owner's, and removes.

        Args:
            directory: The bank's; made where it is missing.
            objects: As for :meth:`open`.
            bank_id: Which bank's, where the store holds several; the error names them.

        Raises:
            BankPathError: Its records are whole, or those that the backup in their place is of;
                or the store holds no bank, or several.
            BankLeaseError: Somebody has the bank open.
            StoreError: The object store failed.
        """
        path = checked_path("directory", directory)
        return done_aside(lambda: rebuild_bank(path, objects, bank_id))

    break_lease = staticmethod(break_lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bank {self.directory}>"

    @property
    def is_writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._parts.is_writable

    @property
    def is_open(self) -> bool:
        """Whether :meth:`close` was not called yet."""
        return self._environment.is_open

    def close(self) -> None:
        """Commit what was submitted, end the threads and give the lease up. Idempotent.

        What is asked of it later raises BankClosedError.
        """
        if self._environment.is_reading:  # it would wait for itself
            raise BankError("close the snapshot before closing the bank")
        self._aside(self._close)

    def _close(self) -> None:
        with self._lock:
            self._owner = None
            self._closing.close()

    def claim(self, owner: object, name: str) -> None:
        """Let *owner*, known by *name*, run operations on it from now on, and nobody else.

        Raises:
            BankLeaseError: Somebody else in this process does; BankClosedError: it is closed.
        """
        with self._lock:
            if not self.is_open:
                raise BankClosedError
            first, known_as = self._owner = self._owner or (owner, name)
            if first is not owner:
                raise BankLeaseError(self.directory, known_as)

    def disclaim(self) -> None:
        """Take :meth:`claim` back: nobody runs operations on it."""
        self._owner = None

    def create_checkpoint(
        self,
        plan: Plan | Mapping[str, Any],
        provider: str,
        graph: ResourceGraph | bytes,
        *,
        status: CheckpointStatus = CheckpointStatus.PROTECTING,
        copied_from: str | None = None,
        created_at: datetime | None = None,
        checkpoint_id: str | None = None,
    ) -> Checkpoint:
        """Add a checkpoint with its graph, and return it with sections to write until it is finished.

        Args:
            plan: What it is made for.
            provider: The name of the provider that makes it.
            graph: Its resources, packed or not.
            status: Where it stands.
            copied_from: The id of the checkpoint that it becomes a copy of.
            created_at: None for now; one without a zone is taken as UTC.
            checkpoint_id: None for a new one.

        Raises:
            BankValueError: *plan* is not plain data.
            BankError: The bank cannot write.
        """
        return self.writer.write(
            self.create_checkpoint_change(
                plan,
                provider,
                graph,
                status=status,
                copied_from=copied_from,
                created_at=created_at,
                checkpoint_id=checkpoint_id,
            )
        )

    def create_checkpoint_change(
        self,
        plan: Plan | Mapping[str, Any],
        provider: str,
        graph: ResourceGraph | bytes,
        *,
        status: CheckpointStatus = CheckpointStatus.PROTECTING,
        copied_from: str | None = None,
        created_at: datetime | None = None,
        checkpoint_id: str | None = None,
    ) -> CheckpointMaking:
        """Return what :meth:`create_checkpoint` writes, to be part of a larger change."""
        packed_graph = graph if isinstance(graph, bytes) else graph.pack()
        created = time.time_ns() // 1000 if created_at is None else rows.microseconds(created_at)
        row = rows.CheckpointRow(
            id=checkpoint_id or str(uuid.uuid4()),
            status=CheckpointStatus(status),
            provider=provider,
            plan=plan.to_dict() if isinstance(plan, Plan) else dict(plan),
            created=created,
            graph_digest=rows.digest_graph(packed_graph),
            copied_from=copied_from,
        )
        is_own = isinstance(plan, Plan)  # whose to_dict() is plain, and a copy
        return CheckpointMaking(self._parts, row, packed_graph, is_own=is_own)

    def checkpoint(self, checkpoint_id: str) -> Checkpoint:
        """Return the checkpoint with that id, or the only one whose id begins so; read-only.

        Raises:
            CheckpointNotFoundError: There is none.
            AmbiguousCheckpointError: Several ids begin so.
        """
        if not isinstance(checkpoint_id, str) or not checkpoint_id:
            raise CheckpointNotFoundError(checkpoint_id)
        with self._environment.snapshot() as snapshot:
            number = rows.find_begun_so(snapshot, checkpoint_id)
            row = rows.read_row(snapshot, number)
        if row is None or not row.id.startswith(checkpoint_id):
            raise CheckpointNotFoundError(checkpoint_id)
        return Checkpoint(self._parts, number, row)

    def checkpoints(
        self,
        plan: str | None = None,
        status: CheckpointStatus | str | Collection[str] | None = None,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        limit: int | None = None,
        *,
        provider: str | None = None,
        damaged: list[BankFormatError] | None = None,
    ) -> list[Checkpoint]:
        """Return checkpoints, newest first; read-only.

        Args:
            plan: Only those of plans of this name.
            status: Only those with this status, or one of these; ValueError if there is no such.
            since: Only those created then or later: a datetime (else UTC), or seconds since 1970.
            until: Only those created before then.
            limit: How many at most.
            provider: Only those that this provider made.
            damaged: Gets the errors of damaged rows; they are logged, and left out.
        """
        wanted = checked_choices("status", status, CheckpointStatus)
        checked_count("limit", limit, least=0, or_none=True)
        found: list[Checkpoint] = []
        with self._environment.snapshot() as snapshot:
            for number in rows.numbers_by_date(
                snapshot,
                plan=plan,
                provider=provider,
                since=rows.moment_given("since", since),
                until=rows.moment_given("until", until),
            ):
                if limit is not None and len(found) >= limit:
                    break
                try:
                    row = rows.read_row(snapshot, number)
                except BankFormatError as error:
                    _LOG.error("%s; run check()", describe_cause(error))
                    ([] if damaged is None else damaged).append(error)
                    continue
                if (
                    row is not None
                    and (wanted is None or row.status in wanted)
                    and plan in (None, row.plan_name)
                    and provider in (None, row.provider)
                ):
                    found.append(Checkpoint(self._parts, number, row))
        return found

    def check(self, *, deep: bool = False) -> list[str]:
        """Look for damage; return what was found, a line each, nothing if all is well.

        Decodes every record, compares indices and counts with what they are of, and looks for
        every block's object. It keeps the bank's map from growing while it reads the records.

        Args:
            deep: Read every block too, and compare its digest.
        """
        return check_bank(self._parts, deep=deep)

    def info(self) -> dict[str, Any]:
        """Return figures about the bank: path, format, epoch, sizes and counts."""
        with self._environment.snapshot() as snapshot:
            counts = {table.name.lower(): snapshot.count(table) for table in Table}
            checkpoints = sum(1 for _ in snapshot.scan(Table.INDICES, rows.BY_ID))
        return {
            "path": self.directory,
            "format": FORMAT_VERSION,
            "epoch": self._environment.epoch,
            "writable": self.is_writable,
            "checkpoints": checkpoints,
            "rows": counts,
            **self._environment.info(),
        }

    def compact(self) -> None:
        """Give the space that was deleted back: rewrite sparse packs, then the records.

        Writes wait while the records are rewritten.

        Raises:
            BankFullError: There is no space for a second copy of the records.
            BankReadonlyError: The bank was opened for reading only.
        """
        if not self.is_writable:
            raise BankReadonlyError(f"the bank {self.directory} was opened for reading only")
        self._environment.check_may_wait()
        self._parts.manifests.complete()
        free_unneeded(self._parts.blocks)
        repack(self._parts.blocks)
        self._aside(self._environment.compact)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write the records as they are at one moment to the new directory *path*, to be read.

        Open it with ``readonly=True`` and ``objects=`` of this bank; it is never opened for writing.
        The bulk data is not copied: of a checkpoint that this bank deletes, the backup loses it.
        Lost records do not come from it but from the objects (:meth:`rebuild`), newer checkpoints
        too. The backup has what those do not: the operations' history, and unfinished checkpoints.

        Raises:
            BankPathError: *path* exists, or cannot be written; nothing is left of the attempt.
            BankFullError: There is no space for it; the same.
        """
        back_up(self._environment, path)
