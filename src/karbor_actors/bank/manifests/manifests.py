"""The manifests of a bank's checkpoints: when each is written, changed and removed.

The records decide; a manifest follows. A checkpoint is *listed* (a GARBAGE row, which holds the
epoch of who listed it, and whether there may be more than a head) as long as it is being made, and
whenever what its manifest says of it changes, and until that is done. So whatever a dead owner left
is known: the next opening settles every listed manifest by the checkpoint's row.

- ``available``, ``partial``: the manifest says so, with the holds that the row has.
- ``deleting``, ``error_deleting``: it says ``deleting``, as long as it is there.
- anything else: there is none.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING
from weakref import ref

from karbor_actors.actors.waiting import Bell, forget_interrupted
from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.database.keys import unpack_u64
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.manifests.listing import (
    Listed,
    all_listed,
    find_listed,
    put_listed,
    unlist,
)
from karbor_actors.bank.manifests.manifest import (
    bank_folder,
    folder_part,
    head_name,
    put_manifest,
    read_head,
    read_values,
    remove_manifest,
)
from karbor_actors.bank.manifests.records import manifest_records
from karbor_actors.errors import (
    BankError,
    BankFormatError,
    BankFullError,
    ObjectNotFoundError,
    describe_cause,
)
from karbor_actors.model import CheckpointStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.checkpoints.rows import CheckpointRow
    from karbor_actors.bank.database.environment import Environment
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.writer import Change, Writer

_LOG = logging.getLogger("karbor_actors.bank")

GOOD = frozenset({CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL})
"""What a checkpoint is that must have a manifest."""
_LEAVING = frozenset({CheckpointStatus.DELETING, CheckpointStatus.ERROR_DELETING})
MAKING = frozenset({CheckpointStatus.PROTECTING, CheckpointStatus.COPYING})
"""What a checkpoint is whose manifest is to come."""


_LOOK = 0.05
"""Seconds after which who waits for a turn looks whether who has it was interrupted."""


class _Turn:
    """Is alive as long as somebody changes a checkpoint's manifest, or waits to."""

    def __init__(self, number: int) -> None:
        self.number = number


class Manifests:
    """Writes, changes and removes manifests. Any thread may call it; it waits for the store.

    Args:
        environment: The bank's records.
        writer: Takes the changes.
        blocks: Knows the bank's id and the object store.
    """

    def __init__(self, environment: Environment, writer: Writer, blocks: BlockStore) -> None:
        self._environment = environment
        self._writer = writer
        self._blocks = blocks
        self._store = blocks.objects
        self._turns: list[ref[_Turn]] = []
        """Of each checkpoint, the first one changes its manifest; a dead one was interrupted."""
        self._changed = Bell()

    def prepare(
        self,
        number: int,
        row: CheckpointRow,
        ending: Mapping[bytes, bytes],
        *,
        is_allowed: bool = True,
    ) -> Callable[[Transaction, CheckpointRow], None]:
        """Make the manifest of a checkpoint durable that is about to be *row*.

        Where that is no good end, remove what an earlier try had written.

        Args:
            number: The checkpoint's.
            row: Its row as it will be.
            ending: The other CHECKPOINTS rows, by key, that will be put with it.
            is_allowed: Whether the row may become so; if not, nothing is done.

        Returns:
            what is to be recorded with the row, called with the row as it is then.

        Raises:
            StoreError: The object store failed.
            BankError: The bank cannot write, or is damaged.
        """
        if row.status not in GOOD:
            return self._given_up(number)
        if not is_allowed:
            return _do_nothing
        with self._alone(number):
            listed = self._find(number)
            has_chunks = listed is not None and listed.has_chunks
            if listed is None or listed.epoch != self._epoch:
                self._list_now(number, row.id, has_chunks=has_chunks)
            if has_chunks:  # of an earlier try; of a head alone, the new one takes the place
                remove_manifest(self._store, self.folder(row.id))
            self._put(number, row, ending, lambda: self._list_now(number, row.id, has_chunks=True))

        def settled(transaction: Transaction, now: CheckpointRow) -> None:
            if now.holds == row.holds:  # else: at the next opening
                unlist(transaction, number)

        return settled

    def change(self, number: int, change: Change[CheckpointRow]) -> CheckpointRow:
        """Run *change*, which gives the new row, and have the manifest say the same.

        Where a checkpoint is deleted to make space, and there is none to say so, its manifest goes.

        Raises:
            StoreError: The row is changed; the manifest will be, at the next opening or call.
        """

        def listed(transaction: Transaction) -> tuple[CheckpointRow, bool]:
            row = change(transaction)
            must = row.status in GOOD | _LEAVING
            if must:
                self._list(transaction, number, row.id, has_chunks=True)
            return row, must

        with self._alone(number):
            row, must = self._writer.write(listed)
            if must:
                try:
                    self._settle(number, row)
                except BankFullError:
                    if row.status is not CheckpointStatus.DELETING:
                        raise
                    remove_manifest(self._store, self.folder(row.id))
                self._unlist(number)
        return row

    def announce(self, transaction: Transaction, number: int, checkpoint_id: str) -> None:
        """List a checkpoint that is to be made: :meth:`prepare` need not, which saves a commit."""
        self._list(transaction, number, checkpoint_id, has_chunks=False)

    def remove(self, number: int, checkpoint_id: str) -> None:
        """Remove the manifest of a checkpoint that is being deleted. Repeatable."""
        with self._alone(number):
            remove_manifest(self._store, self.folder(checkpoint_id))
            self._unlist(number)

    def settle_all(self) -> None:
        """Settle what is listed, but what is being made. What fails is logged and stays listed."""
        with self._environment.snapshot() as snapshot:
            numbers = [listed.number for listed in all_listed(snapshot)]
        for number in numbers:
            with self._alone(number):
                if self._try_to_settle(number, is_given_up=False):
                    self._unlist(number)

    def complete(self) -> None:
        """Settle what is listed, and write anew what is missing or does not fit its checkpoint."""
        self.settle_all()
        for number, row in self._rows():
            if row.status in GOOD and self._compare(number, row):
                with self._alone(number):
                    self._write_anew(number)

    def check(self, *, deep: bool) -> Iterator[str]:
        """Yield what is wrong, a line each; with *deep*, read all and compare it."""
        kept = {folder_part(row.id): (number, row) for number, row in self._rows()}
        with self._environment.snapshot() as snapshot:
            listed = {folder_part(listed.checkpoint_id) for listed in all_listed(snapshot)}
        names = {name for name, _ in self._store.list(bank_folder(self._blocks.bank_id))}
        for name in sorted(names):
            part = name.split("/")[2]
            if part not in kept and part not in listed and not self._is_known(part):
                yield f"object {name} belongs to no checkpoint"
        for part, (number, row) in kept.items():
            if row.status not in GOOD or part in listed or not self._is_still(number, row):
                continue
            if head_name(self.folder(row.id)) not in names:
                yield f"checkpoint {row.id} has no manifest; compact() writes it"
            elif deep and (found := self._compare(number, row)):
                yield f"{found}; compact() writes it anew"

    def folder(self, checkpoint_id: str) -> str:
        """Return the folder of a checkpoint's manifest."""
        return f"{bank_folder(self._blocks.bank_id)}/{folder_part(checkpoint_id)}"

    # One checkpoint, alone

    def _put(
        self,
        number: int,
        row: CheckpointRow,
        ending: Mapping[bytes, bytes],
        before_chunks: Callable[[], object] = lambda: None,
    ) -> None:
        records = manifest_records(self._environment, number, row, ending)
        folder = self.folder(row.id)
        put_manifest(self._store, folder, row.id, row.status, row.holds, records, before_chunks)

    def _write_anew(self, number: int) -> None:
        with self._environment.snapshot() as snapshot:
            row = rows.read_row(snapshot, number)
        if row is not None and row.status in GOOD:
            self._list_now(number, row.id, has_chunks=True)
            remove_manifest(self._store, self.folder(row.id))
            self._put(number, row, {})
            self._unlist(number)

    def _settle(self, number: int, row: CheckpointRow | None, listed: Listed | None = None) -> None:
        """Have a manifest say what the row does; if it was *listed*, what all the records do."""
        if row is not None and row.status in GOOD:
            if not self._say(row, row.status) or (listed and self._compare(number, row)):
                remove_manifest(self._store, self.folder(row.id))
                self._put(number, row, {})
        elif row is not None and row.status in _LEAVING:
            self._say(row, CheckpointStatus.DELETING)
        elif listed is not None:
            folder = self.folder(listed.checkpoint_id)
            if listed.has_chunks:
                remove_manifest(self._store, folder)
            else:
                self._store.delete(head_name(folder))

    def _given_up(self, number: int) -> Callable[[Transaction, CheckpointRow], None]:
        """Remove what :meth:`prepare` put; return what unlists it, if nothing is left to do."""
        with self._alone(number):
            is_done = self._try_to_settle(number, is_given_up=True)
        return (lambda transaction, _: unlist(transaction, number)) if is_done else _do_nothing

    def _say(self, row: CheckpointRow, status: CheckpointStatus) -> bool:
        """Change the head; return whether there is one."""
        folder = self.folder(row.id)
        try:
            head = read_head(self._store, folder)
        except (ObjectNotFoundError, BankFormatError):
            return False
        if (head.status, head.holds) != (status, row.holds):
            new = replace(head, status=status, holds=row.holds)
            self._store.put(head_name(folder), new.pack())
        return True

    def _try_to_settle(self, number: int, *, is_given_up: bool) -> bool:
        """Settle what is listed; return whether it need not be listed any more. Logs failures.

        One that is being made stays listed, so that it costs no commit, unless *is_given_up*.
        """
        try:
            with self._environment.snapshot() as snapshot:
                listed = find_listed(snapshot, number)
                row = rows.read_row(snapshot, number)
            if listed is None:
                return False
            is_making = row is not None and row.status in MAKING and not is_given_up
            if not (is_making and listed.epoch == self._epoch):
                self._settle(number, row, listed)
        except BankError as error:
            _LOG.warning(
                "the manifest of checkpoint number %d could not be changed yet: %s", number, error
            )
            return False
        return not is_making

    @property
    def _epoch(self) -> int:
        return self._environment.epoch or 0

    def _find(self, number: int) -> Listed | None:
        with self._environment.snapshot() as snapshot:
            return find_listed(snapshot, number)

    def _list(
        self, transaction: Transaction, number: int, checkpoint_id: str, *, has_chunks: bool
    ) -> None:
        put_listed(transaction, Listed(number, self._epoch, has_chunks, checkpoint_id))

    def _list_now(self, number: int, checkpoint_id: str, *, has_chunks: bool) -> None:
        self._writer.write(
            lambda transaction: self._list(
                transaction, number, checkpoint_id, has_chunks=has_chunks
            )
        )

    def _unlist(self, number: int) -> None:
        if self._find(number) is not None:
            self._writer.write(partial(unlist, number=number))

    @contextlib.contextmanager
    def _alone(self, number: int) -> Iterator[None]:
        turn = _Turn(number)
        try:
            self._turns.append(ref(turn))
            if not self._is_first(turn):
                forget_interrupted()
                self._changed.wait(lambda: self._is_first(turn), look=_LOOK)
            yield
        finally:
            for one in tuple(self._turns):
                if one() in (None, turn):
                    with contextlib.suppress(ValueError):  # another thread removes the dead, too
                        self._turns.remove(one)
            self._changed.ring()

    def _is_first(self, turn: _Turn) -> bool:
        """Return whether nobody who came before *turn* changes that checkpoint's manifest."""
        turns = (one() for one in tuple(self._turns))
        return next(one for one in turns if one is not None and one.number == turn.number) is turn

    # Comparing

    def _rows(self) -> list[tuple[int, CheckpointRow]]:
        """Return every checkpoint whose row can be read; check() says which cannot."""
        found = []
        with self._environment.snapshot() as snapshot:
            for _, value in snapshot.scan(Table.INDICES, rows.BY_ID):
                with contextlib.suppress(BankFormatError):
                    number = unpack_u64(value)
                    row = rows.read_row(snapshot, number)
                    if row is not None:
                        found.append((number, replace(row, plan={})))
        return found

    def _is_known(self, part: str) -> bool:
        """Return whether a checkpoint came meanwhile, or one that is going was seen late."""
        with self._environment.snapshot() as snapshot:
            return rows.find_number(snapshot, part) is not None or any(
                folder_part(listed.checkpoint_id) == part for listed in all_listed(snapshot)
            )

    def _is_still(self, number: int, row: CheckpointRow) -> bool:
        with self._environment.snapshot() as snapshot:
            now = rows.read_row(snapshot, number)
        return now is not None and (now.status, now.holds) == (row.status, row.holds)

    def _fits(self, row: CheckpointRow) -> bool:
        try:
            head = read_head(self._store, self.folder(row.id))
        except (ObjectNotFoundError, BankFormatError):
            return False
        return (head.id, head.status, head.holds) == (row.id, row.status, row.holds)

    def _compare(self, number: int, row: CheckpointRow) -> str:
        """Return what is wrong with a manifest, nothing if it is what it would be if written now."""
        what = f"the manifest of checkpoint {row.id}"
        if not self._is_still(number, row):
            return ""
        folder = self.folder(row.id)
        try:
            head = read_head(self._store, folder)
            if not self._fits(row):
                return f"{what} has another status, or other holds"
            with self._environment.snapshot() as snapshot:
                whole = rows.read_row(snapshot, number)
            wanted = manifest_records(self._environment, number, whole or row, {})
            found = read_values(self._store, folder, head)
            same = all(one == other for one, other in zip_longest(wanted, found))
        except (ObjectNotFoundError, BankFormatError) as error:
            found_wrong = f"{what} is damaged: {describe_cause(error)}"
        else:
            found_wrong = "" if same else f"{what} does not say what its records say"
        return found_wrong if self._is_still(number, row) else ""


def _do_nothing(_: Transaction, __: CheckpointRow) -> None:
    pass
