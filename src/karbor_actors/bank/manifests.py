"""The manifests of a bank's checkpoints: when each is written, changed and removed.

The records decide; a manifest follows. A checkpoint is *listed* (a GARBAGE row, which holds the
epoch of who listed it) before its manifest is first put, and whenever what its manifest says of it
changes, and until that is done. So whatever a dead owner left is known: the next opening settles
every listed manifest by the checkpoint's row.

- ``available``, ``partial``: the manifest says so, with the holds that the row has.
- ``deleting``, ``error_deleting``: it says ``deleting``, as long as it is there.
- anything else: there is none.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from karbor_actors.bank import checkpoint_rows as rows
from karbor_actors.bank.keys import pack_u64, unpack_u64
from karbor_actors.bank.manifest import (
    bank_folder,
    folder_part,
    head_name,
    put_manifest,
    read_head,
    read_values,
    remove_manifest,
)
from karbor_actors.bank.manifest_records import manifest_records
from karbor_actors.bank.transactions import Table
from karbor_actors.errors import (
    BankError,
    BankFormatError,
    ObjectNotFoundError,
    describe_cause,
)
from karbor_actors.model import CheckpointStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from karbor_actors.bank.blocks import BlockStore
    from karbor_actors.bank.checkpoint_rows import CheckpointRow
    from karbor_actors.bank.environment import Environment
    from karbor_actors.bank.transactions import Reader, Transaction
    from karbor_actors.bank.writer import Change, Writer

_LOG = logging.getLogger("karbor_actors.bank")
_TAG = b"m"
_EPOCH_SIZE = 8

GOOD = frozenset({CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL})
"""What a checkpoint is that must have a manifest."""
_LEAVING = frozenset({CheckpointStatus.DELETING, CheckpointStatus.ERROR_DELETING})
_MAKING = frozenset({CheckpointStatus.PROTECTING, CheckpointStatus.COPYING})


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
        self._busy: set[int] = set()
        self._changed = threading.Condition()

    def prepare(
        self,
        number: int,
        row: CheckpointRow,
        ending: Mapping[bytes, bytes],
        *,
        is_allowed: bool = True,
    ) -> Change[None]:
        """Make the manifest of a checkpoint durable that is about to be *row*.

        Where that is no good end, remove what an earlier try had written.

        Args:
            number: The checkpoint's.
            row: Its row as it will be.
            ending: The other CHECKPOINTS rows, by key, that will be put with it.
            is_allowed: Whether the row may become so; if not, nothing is done.

        Returns:
            what is to be recorded with the row.

        Raises:
            StoreError: The object store failed.
            BankError: The bank cannot write, or is damaged.
        """
        if row.status not in GOOD:
            self.discard(number)
            return _do_nothing
        if not is_allowed:
            return _do_nothing
        with self._alone(number):
            if self._writer.write(lambda transaction: self._list(transaction, number, row.id)):
                remove_manifest(self._store, self.folder(row.id))
            self._put(number, row, ending)

        def settled(transaction: Transaction) -> None:
            now = rows.read_row(transaction, number)
            if now is not None and now.holds == row.holds:  # else: at the next opening
                transaction.delete(Table.GARBAGE, _key(number))

        return settled

    def change(self, number: int, change: Change[CheckpointRow]) -> CheckpointRow:
        """Run *change*, which gives the new row, and have the manifest say the same.

        Raises:
            StoreError: The row is changed; the manifest will be, at the next opening or call.
        """

        def listed(transaction: Transaction) -> tuple[CheckpointRow, bool]:
            row = change(transaction)
            must = row.status in GOOD | _LEAVING
            if must:
                self._list(transaction, number, row.id)
            return row, must

        with self._alone(number):
            row, must = self._writer.write(listed)
            if must:
                self._settle(number, row)
        return row

    def discard(self, number: int) -> None:
        """Remove what :meth:`prepare` put, unless the checkpoint became good. Logs what fails."""
        with self._alone(number):
            self._try_to_settle(number, is_given_up=True)

    def remove(self, number: int, checkpoint_id: str) -> None:
        """Remove the manifest of a checkpoint that is being deleted. Repeatable."""
        with self._alone(number):
            remove_manifest(self._store, self.folder(checkpoint_id))
            self._unlist(number)

    def settle_all(self) -> None:
        """Settle what is listed, but what is being made. What fails is logged and stays listed."""
        with self._environment.snapshot() as snapshot:
            numbers = [number for number, _, _ in _listed(snapshot)]
        for number in numbers:
            with self._alone(number):
                self._try_to_settle(number, is_given_up=False)

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
            listed = {folder_part(checkpoint_id) for _, _, checkpoint_id in _listed(snapshot)}
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

    def _put(self, number: int, row: CheckpointRow, ending: Mapping[bytes, bytes]) -> None:
        records = manifest_records(self._environment, number, row, ending)
        folder = self.folder(row.id)
        put_manifest(self._store, folder, row.id, row.status, row.holds, records)

    def _write_anew(self, number: int) -> None:
        with self._environment.snapshot() as snapshot:
            row = rows.read_row(snapshot, number)
        if row is not None and row.status in GOOD:
            checkpoint_id = row.id
            self._writer.write(lambda transaction: self._list(transaction, number, checkpoint_id))
            remove_manifest(self._store, self.folder(checkpoint_id))
            self._put(number, row, {})
            self._unlist(number)

    def _settle(
        self,
        number: int,
        row: CheckpointRow | None,
        checkpoint_id: str = "",
        *,
        whole: bool = False,
    ) -> None:
        """Have a manifest say what the row does; with *whole*, what all the records do."""
        if row is not None and row.status in GOOD:
            if not self._say(row, row.status) or (whole and self._compare(number, row)):
                remove_manifest(self._store, self.folder(row.id))
                self._put(number, row, {})
        elif row is not None and row.status in _LEAVING:
            self._say(row, CheckpointStatus.DELETING)
        else:
            remove_manifest(self._store, self.folder(checkpoint_id))
        self._unlist(number)

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

    def _try_to_settle(self, number: int, *, is_given_up: bool) -> None:
        try:
            with self._environment.snapshot() as snapshot:
                value = snapshot.get(Table.GARBAGE, _key(number))
                row = rows.read_row(snapshot, number)
            if value is None:
                return
            epoch, checkpoint_id = _unpack(value)
            is_mine = epoch == (self._environment.epoch or 0)
            if row is not None and row.status in _MAKING and is_mine and not is_given_up:
                return
            self._settle(number, row, checkpoint_id, whole=True)
        except BankError as error:
            _LOG.warning(
                "the manifest of checkpoint number %d could not be changed yet: %s", number, error
            )

    def _list(self, transaction: Transaction, number: int, checkpoint_id: str) -> bool:
        """List a checkpoint; return whether it was listed."""
        key = _key(number)
        was_listed = transaction.get(Table.GARBAGE, key) is not None
        value = pack_u64(self._environment.epoch or 0)
        value += checkpoint_id.encode("utf-8", "surrogateescape")
        transaction.put(Table.GARBAGE, key, value)
        return was_listed

    def _unlist(self, number: int) -> None:
        key = _key(number)
        with self._environment.snapshot() as snapshot:
            is_listed = snapshot.get(Table.GARBAGE, key) is not None
        if is_listed:
            self._writer.write(lambda transaction: transaction.delete(Table.GARBAGE, key))

    @contextlib.contextmanager
    def _alone(self, number: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: number not in self._busy)
            self._busy.add(number)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(number)
                self._changed.notify_all()

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
                folder_part(checkpoint_id) == part for _, _, checkpoint_id in _listed(snapshot)
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


def _do_nothing(_: Transaction) -> None:
    pass


def _key(number: int) -> bytes:
    return _TAG + pack_u64(number)


def _unpack(value: bytes) -> tuple[int, str]:
    return unpack_u64(value), value[_EPOCH_SIZE:].decode("utf-8", "surrogateescape")


def _listed(reader: Reader) -> Iterator[tuple[int, int, str]]:
    """Yield (number, epoch, id) of every checkpoint that is listed."""
    for key, value in reader.scan(Table.GARBAGE, _TAG):
        yield unpack_u64(key, len(_TAG)), *_unpack(value)
