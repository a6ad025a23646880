"""The rows of streams: what a stream is called, how long it is, and which blocks it has.

A stream's row is found by section and key; the row names the stream's id, under which the digests
of its blocks stand in segments (see ``block_rows``). What is staged or deleted has segments but no
row, and its id is listed as garbage.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks.rows import put_ranges
from karbor_actors.bank.database.keys import decode_name, named_row, split_row
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import BankFormatError
from karbor_actors.store.codec import BLOCK_SIZE

if TYPE_CHECKING:
    from karbor_actors.bank.database.transactions import Transaction

_TAG = b"s"
_ROW = struct.Struct(">QQdQQ")


@dataclass(slots=True)
class NewData:
    """What storing a stream has added to the bank so far."""

    blocks: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream of a section.

    What it added to the bank is complete once ``write_stream`` returned, or the ``stream_writer``
    that it was added to has ended.
    """

    key: str
    size: int
    """In bytes."""
    blocks: int
    """How many blocks of 1 MiB it spans, holes included."""
    stored_at: float
    """Seconds since 1970."""
    id: int = field(repr=False)
    bank_id: bytes = field(repr=False)
    new: NewData = field(repr=False, compare=False, default_factory=NewData)

    @property
    def new_blocks(self) -> int:
        """How many blocks were stored for it, since the bank did not have them."""
        return self.new.blocks

    @property
    def new_bytes(self) -> int:
        """How many bytes were stored for it, after compression."""
        return self.new.size


def block_count(size: int) -> int:
    """Return how many blocks a stream of *size* bytes spans."""
    return -(-size // BLOCK_SIZE)


def rows_prefix(scope: bytes) -> bytes:
    """Return what the row keys of the streams of a section, or of several, begin with."""
    return _TAG + scope


def row_key(scope: bytes, raw: bytes) -> bytes:
    """Return the key of the row of the stream that is named *raw* in bytes."""
    return named_row(rows_prefix(scope), raw)[0]


def pack_row(scope: bytes, raw: bytes, info: StreamInfo) -> tuple[bytes, bytes]:
    """Return the row (key, value) of the stream that is named *raw* in bytes."""
    key, head = named_row(rows_prefix(scope), raw)
    return key, head + _ROW.pack(info.id, info.size, info.stored_at, info.new.blocks, info.new.size)


def unpack_row(
    scope: bytes, key: bytes, value: bytes, bank_id: bytes = b"", skipped: int = 0
) -> tuple[bytes, StreamInfo]:
    """Return the stream's name in bytes, and what its row says.

    Args:
        scope: what all rows of the section begin with.
        key: the row's key.
        value: the row's value.
        bank_id: the bank's.
        skipped: how many bytes of the name are the sub-section's.

    Raises:
        BankFormatError: the row is damaged.
    """
    raw, rest = split_row(rows_prefix(scope), key, value)
    if len(rest) != _ROW.size:
        raise BankFormatError("the record of a stream is damaged")
    number, size, stored_at, blocks, new = _ROW.unpack(rest)
    name = decode_name(raw[skipped:])
    data = NewData(blocks, new)
    return raw, StreamInfo(name, size, block_count(size), stored_at, number, bank_id, data)


def row_id(value: bytes) -> int:
    """Return the stream's id in a row's value, whatever its name."""
    return id_and_size(value)[0]


def id_and_size(value: bytes) -> tuple[int, int]:
    """Return the stream's id and its size in bytes, in a row's value.

    Raises:
        BankFormatError: the row is damaged.
    """
    if len(value) < _ROW.size:
        raise BankFormatError("the record of a stream is damaged")
    number, size = _ROW.unpack(value[-_ROW.size :])[:2]
    return number, size


def show(transaction: Transaction, rows: dict[bytes, tuple[bytes, int]]) -> bool:
    """Make streams visible, each in place of the one that had its key.

    Args:
        transaction: where to write.
        rows: by row key, the value and the stream's id.

    Returns:
        whether other streams had to go; they are garbage now.
    """
    keys = sorted(rows)
    replaced = _ids_of(transaction, keys)
    put_ranges(transaction, replaced)
    transaction.put_many(Table.STREAMS, [(key, rows[key][0]) for key in keys])
    return bool(replaced)


def _ids_of(transaction: Transaction, keys: list[bytes]) -> list[int]:
    """Return the ids of the streams that have any of the sorted *keys* now."""
    if not keys:
        return []
    following = next(transaction.scan(Table.STREAMS, b"", keys[0]), None)
    if following is None or following[0] > keys[-1]:
        return []  # the usual case, by one look: nothing is there
    values = (transaction.get(Table.STREAMS, key) for key in keys)
    return [number for value in values if value is not None and (number := row_id(value))]


def hide(transaction: Transaction, scope: bytes, limit: int) -> int:
    """Remove at most *limit* streams of the sections that begin with *scope*; they are garbage.

    Returns:
        how many were removed; fewer than *limit* when there are no more.
    """
    rows = list(islice(transaction.scan(Table.STREAMS, rows_prefix(scope)), limit))
    for key, _ in rows:
        transaction.delete(Table.STREAMS, key)
    put_ranges(transaction, [number for _, value in rows if (number := row_id(value))])
    return len(rows)


def hide_one(transaction: Transaction, key: bytes) -> bool:
    """Remove the stream with row key *key*; return whether it was there. It is garbage now."""
    value = transaction.get(Table.STREAMS, key)
    if value is None:
        return False
    transaction.delete(Table.STREAMS, key)
    if number := row_id(value):
        put_ranges(transaction, [number])
    return True
