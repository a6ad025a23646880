"""The blocks of a bank: where each is, who still needs it, and when its pack goes.

How it stays exact, whatever happens when:

- A pack's row is durable (``WRITING``) before its object is put. So whatever a dead owner left in
  the object store is known, and goes at the next start.
- References are made when a stream's segments are recorded, in one transaction with them. Streams
  that are not visible yet are listed as garbage until the transaction that makes them visible; a
  dead owner's are simply collected.
- Deleting a stream lists it as garbage. The sweep gives its references up, in small transactions,
  each together with the segments that made them.
- A session that writes may count on every block that it saw with a reference. So a block that
  lost its last one stays until all the sessions that were open then have ended.
- A pack whose last needed block went is ``FREEING`` until its object is deleted.

Pack and stream ids hold the number of the opening that made them, so none is ever used again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks import rows as block_rows
from karbor_actors.bank.blocks.health import BlockHealth
from karbor_actors.bank.blocks.rows import HOLE, PackRow, PackState, block_row, pack_key
from karbor_actors.bank.blocks.sweep import Sweeper
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.inline import make_executor
from karbor_actors.errors import (
    BankClosedError,
    BankError,
    BankFormatError,
    BankReadonlyError,
    BlockCorruptError,
    BlockMissingError,
    ObjectNotFoundError,
)
from karbor_actors.store.codec import BLOCK_SIZE, decode, digest_of, encode
from karbor_actors.store.ranges import RangeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future

    from karbor_actors.bank.blocks.rows import BlockRow
    from karbor_actors.bank.database.environment import Environment
    from karbor_actors.bank.database.transactions import Reader, Transaction
    from karbor_actors.bank.writer import Change, T, Writer
    from karbor_actors.store.codec import Block
    from karbor_actors.store.objects import ObjectStore

FOLDER = "packs"

_META_KEY = b"blocks"
_META = struct.Struct(">8sI")
_ID_BITS = 40
_MAX_OPENING = (1 << 64 - _ID_BITS) - 1
_RESERVED = (4, 32)
"""How many packs are reserved at once: the first time, and later."""
_PACK_NUMBER = re.compile(r"[0-9a-f]{16}")
_ZEROS = bytes(BLOCK_SIZE)
_PUTTERS = 2


class BlockStore:
    """Stores blocks in packs, finds, counts and frees them. Any thread may call it.

    Args:
        environment: the bank's records.
        objects: where the packs are. The caller closes it, after this.
        writer: takes the changes; None for a bank that is only read.
        bank_id: of the lost records that new ones are to replace (see ``block_rebuild``).
        inline: whether to work on the caller's threads only, for a simulation.

    Raises:
        BankFormatError: the records are damaged.
    """

    def __init__(
        self,
        environment: Environment,
        objects: ObjectStore,
        writer: Writer | None,
        *,
        bank_id: bytes | None = None,
        inline: bool = False,
    ) -> None:
        self.environment = environment
        self.objects = objects
        self._writer = writer
        self._ranges = RangeReader(objects)
        workers = min(4, max(2, os.cpu_count() or 1))
        # Threads start with the first work.
        self.encoders = make_executor(workers, "karbor-blocks", inline=inline)
        self._putters = make_executor(_PUTTERS, "karbor-packs", inline=inline)
        self._lock = threading.Lock()
        self._is_closed = False
        self._next_number = 0
        self._reserved: list[int] = []
        self._has_reserved = False
        self._bank_id = b""
        self._opening = 0
        self.health = BlockHealth(environment, objects, self.object_name, writer)
        """Knows which blocks cannot be counted on."""
        self.sweeper = Sweeper(environment, self.write, self.next_ids, self.delete_pack)
        """Knows who may still need what, and frees the rest."""
        try:
            if writer is not None:
                self._open(bank_id)
        except BaseException:
            self.close()
            raise

    # Opening and closing

    def close(self) -> None:
        """Wait for what is being written, and end the threads. Idempotent."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            reserved, self._reserved = self._reserved, []
        self.sweeper.close()
        self.encoders.shutdown()
        self._putters.shutdown()
        if reserved and not was_closed:
            with contextlib.suppress(BankError):  # the next start removes them
                self.write(partial(block_rows.forget_packs, packs=reserved))

    def write(self, change: Change[T]) -> T:
        """Run *change* through the bank's writer and return its result, durable."""
        if self._writer is None:
            raise BankReadonlyError
        return self._writer.write(change)

    def _open(self, lost_id: bytes | None) -> None:
        fresh = secrets.token_bytes(8) if lost_id is None else lost_id
        self._bank_id = fresh
        last = 0
        if lost_id is not None:  # no id of a pack that is there may be given again
            last = max(self.stored_packs(), default=0) >> _ID_BITS

        def change(transaction: Transaction) -> tuple[bytes, int]:
            value = transaction.get(Table.META, _META_KEY)
            bank_id, opening = _unpack_meta(value) if value else (fresh, last)
            transaction.put(Table.META, _META_KEY, _META.pack(bank_id, opening + 1))
            return bank_id, opening + 1

        self._bank_id, self._opening = self.write(change)
        with self.environment.snapshot() as snapshot:
            left = [
                pack
                for pack, row in block_rows.pack_rows(snapshot)
                if row.state != PackState.PRESENT
            ]
        self.sweeper.bury(left)
        self.sweeper.sweep()

    # Ids and names

    def next_ids(self, count: int) -> int:
        """Return the first of *count* ids, in a row, that were never used before."""
        with self._lock:
            first = self._next_number + 1
            self._next_number += count
        if self._next_number >> _ID_BITS:
            raise BankError("this bank was open for too long; open it again")
        return (self._opening << _ID_BITS) + first

    @property
    def bank_id(self) -> bytes:
        """Eight bytes that no other bank has, not even one made in this one's place."""
        if not self._bank_id:
            with self.environment.snapshot() as snapshot:
                found = stored_bank_id(snapshot)
            if not any(found):
                return found
            self._bank_id = found
        return self._bank_id

    def object_name(self, pack: int) -> str:
        """Return the name of a pack's object."""
        return f"{FOLDER}/{self.bank_id.hex()}/{pack:016x}"

    def stored_packs(self) -> dict[int, int]:
        """Return the size in bytes of every pack of this bank's in the object store, by id."""
        found = {}
        for name, size in self.objects.list(f"{FOLDER}/{self.bank_id.hex()}"):
            number = name.rpartition("/")[2]
            if _PACK_NUMBER.fullmatch(number):
                found[int(number, 16)] = size
        return found

    def is_of_earlier_opening(self, pack: int) -> bool:
        """Tell whether no session of this process can have made *pack*."""
        return pack >> _ID_BITS < self._opening

    def reserve_pack(self) -> int:
        """Return the id of a pack that may be put; its row is durable."""
        with self._lock:
            if self._reserved:
                return self._reserved.pop(0)
            count = _RESERVED[self._has_reserved]
            self._has_reserved = True
        first = self.next_ids(count)
        packs = list(range(first, first + count))
        row = PackRow(PackState.WRITING, 0, 0, 0).packed()
        rows = [(pack_key(pack), row) for pack in packs]
        self.write(lambda transaction: transaction.put_many(Table.PACKS, rows))
        with self._lock:
            self._reserved += packs[1:]
        return packs[0]

    def put_pack(self, pack: int, data: Sequence[bytes | bytearray | memoryview]) -> Future[None]:
        """Put a reserved pack's object, on another thread."""
        return _submit(self._putters, self.objects.put, self.object_name(pack), data)

    def delete_pack(self, pack: int) -> None:
        """Delete a pack's object, if it is there."""
        name = self.object_name(pack)
        self._ranges.forget(name)
        self.objects.delete(name)

    # Blocks

    def encode(self, raws: Sequence[bytes]) -> list[tuple[bytes, Block | None]]:
        """Return (digest, block to store) of each; None for a hole and for what is stored."""
        digests = [HOLE if _is_zero(raw) else digest_of(raw) for raw in raws]
        known = self.known(digests)
        return [
            (digest, None if is_known else encode(raw, digest))
            for raw, digest, is_known in zip(raws, digests, known, strict=True)
        ]

    def submit_encode(self, raws: Sequence[bytes]) -> Future[list[tuple[bytes, Block | None]]]:
        """Encode on another thread."""
        return _submit(self.encoders, self.encode, raws)

    def known(self, digests: Sequence[bytes]) -> list[bool]:
        """Tell for each digest whether an open session may count on its block.

        It may not on one that was found damaged, or whose pack is lost or cut: such a block is
        stored anew, and its record then names the new place.
        """
        with self.environment.snapshot() as snapshot:
            rows = [None if d == HOLE else block_row(snapshot, d) for d in digests]
            sizes = self.health.unseen_packs(snapshot, [row.pack for row in rows if row])
        self.health.look_at(sizes)
        return [
            digest == HOLE
            or (
                row is not None and row.references > 0 and not self.health.is_lost(digest, row.pack)
            )
            for digest, row in zip(digests, rows, strict=True)
        ]

    def read(self, digest: bytes, raw_length: int, where: str) -> bytes:
        """Return a block's raw bytes, verified.

        Args:
            digest: the block's.
            raw_length: how many bytes it must have.
            where: what it belongs to, for errors.

        Raises:
            BlockMissingError: it is not recorded, or its pack is gone.
            BlockCorruptError: they are not the bytes that were stored.
        """
        if digest == HOLE:
            return bytes(raw_length)
        row, data = self._find(digest, where)
        if row.raw_length != raw_length:
            reason = f"it is recorded with {row.raw_length} bytes, not {raw_length}"
            raise BlockCorruptError(digest.hex(), where, reason)
        try:
            return decode(data, row.codec, raw_length, digest, where)
        except BlockCorruptError:
            self.health.mark_damaged(digest)
            raise

    def submit_read(self, digest: bytes, raw_length: int, where: str) -> Future[bytes]:
        """Read on another thread."""
        return _submit(self.encoders, self.read, digest, raw_length, where)

    def _find(self, digest: bytes, where: str) -> tuple[BlockRow, bytes | memoryview]:
        """Return where a block is, and its stored bytes."""
        row = self._locate(digest, where)
        while True:
            try:
                return row, self._fetch(row)
            except ObjectNotFoundError as error:
                moved = self._locate(digest, where)  # its pack may have been repacked meanwhile
                if moved.pack == row.pack:
                    raise BlockMissingError(digest.hex(), where) from error
                row = moved

    def _locate(self, digest: bytes, where: str) -> BlockRow:
        with self.environment.snapshot() as snapshot:
            row = block_row(snapshot, digest)
        if row is None:
            raise BlockMissingError(digest.hex(), where)
        return row

    def _fetch(self, row: BlockRow) -> bytes | memoryview:
        return self._ranges.get(self.object_name(row.pack), row.offset, row.stored_length)


def stored_bank_id(reader: Reader) -> bytes:
    """Return the id in a bank's records; zeros where nothing was ever stored."""
    value = reader.get(Table.META, _META_KEY)
    return bytes(8) if value is None else _unpack_meta(value)[0]


def _submit(pool: Executor, function: Callable[..., T], *args: object) -> Future[T]:
    try:
        return pool.submit(function, *args)
    except RuntimeError as error:  # after its shutdown
        raise BankClosedError from error


def _is_zero(raw: bytes) -> bool:
    if raw[0]:
        return False
    return raw == (_ZEROS if len(raw) == BLOCK_SIZE else bytes(len(raw)))


def _unpack_meta(value: bytes) -> tuple[bytes, int]:
    if len(value) != _META.size:
        raise BankFormatError("the head of the bank's block records is damaged")
    bank_id, opening = _META.unpack(value)
    if opening >= _MAX_OPENING:
        raise BankFormatError("the head of the bank's block records is damaged")
    return bank_id, opening
