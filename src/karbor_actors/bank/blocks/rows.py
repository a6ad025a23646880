"""The rows that account for blocks and packs, and the changes that keep them exact.

``BLOCKS`` holds a row per stored block: where it is, and how many references the streams'
segments make to it. ``PACKS`` holds a row per object. ``GARBAGE`` lists what is to be freed:
ranges of stream ids whose segments count for no visible stream, and blocks without a reference.

The invariant, true after every transaction: a block's count is the number of times that its
digest stands in the segments, whoever they belong to.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import BankFormatError, BlockMissingError
from karbor_actors.store.codec import DIGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from karbor_actors.bank.blocks.health import BlockHealth
    from karbor_actors.bank.database.transactions import Reader, Transaction
    from karbor_actors.store.packs import PackEntry

HOLE = bytes(DIGEST_SIZE)
"""Stands for a block of zeros, which is never stored."""
MAX_ID = 2**64 - 1

_BLOCK = struct.Struct(">QIIIBQ")
_PACK = struct.Struct(">BQQQ")
_U64 = struct.Struct(">Q")
_U64_PAIR = struct.Struct(">QQ")

_SEGMENT_TAG = b"d"
_RANGE_TAG = b"s"
_ZERO_TAG = b"z"


class PackState(IntEnum):
    """What is known of a pack's object. The numbers are part of the format."""

    WRITING = 1
    """It may exist, whole or not at all; no block is in it yet."""
    PRESENT = 2
    FREEING = 3
    """It holds nothing that is needed; it may exist still."""


class BlockRow(NamedTuple):
    """Where a block is, and how often segments name it."""

    pack: int
    offset: int
    stored_length: int
    raw_length: int
    codec: int
    references: int

    def packed(self) -> bytes:
        """Return the row's value."""
        return _BLOCK.pack(*self)

    @classmethod
    def unpack(cls, value: bytes, digest: bytes) -> BlockRow:
        """Return the row in *value*.

        Raises:
            BankFormatError: it is damaged.
        """
        if len(value) != _BLOCK.size:
            raise BankFormatError(f"the record of block {digest.hex()[:16]} is damaged")
        return cls._make(_BLOCK.unpack(value))


class PackRow(NamedTuple):
    """A pack: its object's size, and what of it is still needed."""

    state: int
    size: int
    """Of the object, in bytes; 0 while it is written."""
    live_blocks: int
    live_bytes: int

    def packed(self) -> bytes:
        """Return the row's value."""
        return _PACK.pack(*self)

    @classmethod
    def unpack(cls, value: bytes, pack: int) -> PackRow:
        """Return the row in *value*.

        Raises:
            BankFormatError: it is damaged.
        """
        if len(value) == _PACK.size:
            row = cls._make(_PACK.unpack(value))
            if row.state in PackState.__members__.values():
                return row
        raise BankFormatError(f"the record of pack {pack:016x} is damaged")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one pack brings: its blocks, and the segments that are complete with it."""

    pack: int | None = None
    """None: the segments need no new block."""
    size: int = 0
    """Of the pack's object, in bytes."""
    entries: Sequence[PackEntry] = ()
    segments: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(key, digests one after another), in the order of their keys for each stream."""


def pack_key(pack: int) -> bytes:
    """Return the PACKS key of a pack."""
    return _U64.pack(pack)


def pack_rows(reader: Reader) -> Iterator[tuple[int, PackRow]]:
    """Yield every (pack, row)."""
    for key, value in reader.scan(Table.PACKS):
        pack = _number(key)
        yield pack, PackRow.unpack(value, pack)


def pack_row(reader: Reader, pack: int) -> PackRow | None:
    """Return a pack's row, or None."""
    value = reader.get(Table.PACKS, pack_key(pack))
    return None if value is None else PackRow.unpack(value, pack)


def block_row(reader: Reader, digest: bytes) -> BlockRow | None:
    """Return a block's row, or None."""
    value = reader.get(Table.BLOCKS, digest)
    return None if value is None else BlockRow.unpack(value, digest)


def segment_key(stream: int, last: int) -> bytes:
    """Return the STREAMS key of the segment whose last block is number *last* of *stream*.

    The last and not the first: so the first row from ``segment_key(stream, n)`` on holds block n.
    """
    return _SEGMENT_TAG + _U64_PAIR.pack(stream, last)


def segment_rows(
    reader: Reader, stream: int, block: int = 0, *, end: int | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (stream, last block, digests) from the segment that holds *block* of *stream* on.

    Args:
        reader: where to read.
        stream: the stream's id.
        block: a block's number.
        end: the stream id to stop before; without it, only *stream*'s are yielded.
    """
    start = segment_key(stream, block)
    prefix = start[:9] if end is None else _SEGMENT_TAG
    for key, value in reader.scan(Table.STREAMS, prefix, start):
        if len(key) != 1 + _U64_PAIR.size or len(value) % DIGEST_SIZE or not value:
            raise BankFormatError("the record of a stream's blocks is damaged")
        found, last = _U64_PAIR.unpack(key[1:])
        if end is not None and found >= end:
            return
        yield found, last, value


def digests_in(segment: bytes) -> list[bytes]:
    """Return a segment's digests."""
    return [segment[at : at + DIGEST_SIZE] for at in range(0, len(segment), DIGEST_SIZE)]


def range_key(start: int) -> bytes:
    """Return the GARBAGE key of the range of stream ids that begins with *start*."""
    return _RANGE_TAG + _U64.pack(start)


def put_range(transaction: Transaction, start: int, end: int) -> None:
    """List the streams from *start* to before *end* as garbage."""
    transaction.put(Table.GARBAGE, range_key(start), _U64.pack(end))


def put_ranges(transaction: Transaction, streams: Sequence[int]) -> None:
    """List *streams* as garbage, those that follow on each other as one range."""
    ordered = sorted(streams)
    for index, stream in enumerate(ordered):
        if index == 0 or stream != ordered[index - 1] + 1:
            start = stream
        if index + 1 == len(ordered) or ordered[index + 1] != stream + 1:
            put_range(transaction, start, stream + 1)


def garbage_ranges(reader: Reader) -> Iterator[tuple[int, int]]:
    """Yield every (start, end) of stream ids that are garbage."""
    for key, value in reader.scan(Table.GARBAGE, _RANGE_TAG):
        yield _number(key[1:]), _number(value)


def unreferenced(reader: Reader) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (key, round, digest) of every block that was left without a reference."""
    for key, _ in reader.scan(Table.GARBAGE, _ZERO_TAG):
        if len(key) != 1 + _U64.size + DIGEST_SIZE:
            raise BankFormatError("the list of blocks to be freed is damaged")
        yield key, _number(key[1:9]), key[9:]


def stage(
    transaction: Transaction, batches: Sequence[Batch], health: BlockHealth | None = None
) -> list[int]:
    """Record *batches*: their segments, the references they make, their packs.

    A block that is there already, whoever stored it, is referred to where it is, and the copy
    in the batch's pack is dead; but one that is lost by *health* is found in that copy now.

    Returns:
        the packs that hold nothing but dead copies; they are FREEING.

    Raises:
        BlockMissingError: a segment names a block that is neither recorded nor in *batches*.
    """
    counts: Counter[bytes] = Counter()
    segments = []
    for batch in batches:
        segments += batch.segments
        for _, digests in batch.segments:
            counts.update(digests_in(digests))
    counts.pop(HOLE, None)
    brought = {
        entry.digest: (batch.pack, entry) for batch in reversed(batches) for entry in batch.entries
    }
    live = {batch.pack: [0, 0] for batch in batches if batch.pack is not None}
    rows, dead = [], []
    for digest in sorted(counts):
        row, references = block_row(transaction, digest), 0
        if row is not None and digest in brought and health and health.is_lost(digest, row.pack):
            references = row.references
            if lower_pack(transaction, row.pack, 1, row.stored_length):
                dead.append(row.pack)
            health.stored_anew(transaction, digest)
            row = None
        if row is None:
            pack, entry = brought.get(digest, (None, None))
            if pack is None or entry is None:
                raise BlockMissingError(digest.hex(), "a stream that is being written")
            numbers = (entry.offset, entry.stored_length, entry.raw_length, entry.codec)
            row = BlockRow(pack, *numbers, references)
            live[pack][0] += 1
            live[pack][1] += entry.stored_length
        rows.append((digest, row._replace(references=row.references + counts[digest]).packed()))
    transaction.put_many(Table.BLOCKS, rows)
    transaction.put_many(Table.STREAMS, sorted(segments))
    return dead + _put_packs(transaction, batches, live)


def _put_packs(
    transaction: Transaction, batches: Sequence[Batch], live: dict[int, list[int]]
) -> list[int]:
    dead = []
    for batch in batches:
        if batch.pack is not None:
            blocks, size = live[batch.pack]
            state = PackState.PRESENT if blocks else PackState.FREEING
            row = PackRow(state, batch.size, blocks, size)
            transaction.put(Table.PACKS, pack_key(batch.pack), row.packed())
            if not blocks:
                dead.append(batch.pack)
    return dead


def release(
    transaction: Transaction, ranges: Sequence[tuple[int, int]], turn: int, limit: int
) -> int:
    """Give up the references of garbage streams, at most about *limit* of them.

    Args:
        transaction: where to write.
        ranges: (start, end) of stream ids; one that GARBAGE does not list any more is left alone.
        turn: the round under which blocks that lost their last reference are listed.
        limit: how many references a transaction may give up.

    Returns:
        how many of *ranges* are done, from the first on.
    """
    counts: Counter[bytes] = Counter()
    segments: list[bytes] = []
    done = given_up = 0
    for start, end in ranges:
        if transaction.get(Table.GARBAGE, range_key(start)) is not None:
            for stream, last, digests in segment_rows(transaction, start, end=end):
                if given_up >= limit:
                    break
                counts.update(digests_in(digests))
                segments.append(segment_key(stream, last))
                given_up += len(digests) // DIGEST_SIZE
            else:
                transaction.delete(Table.GARBAGE, range_key(start))
                done += 1
                continue
            break
        done += 1
    for key in segments:
        transaction.delete(Table.STREAMS, key)
    counts.pop(HOLE, None)
    _lower(transaction, counts, turn)
    return done


def _lower(transaction: Transaction, counts: Counter[bytes], turn: int) -> None:
    rows, zeros = [], []
    for digest in sorted(counts):
        row = block_row(transaction, digest)
        if row is not None:  # a missing one is for check() to report; freeing goes on
            count = max(0, row.references - counts[digest])
            rows.append((digest, row._replace(references=count).packed()))
            if not count:
                zeros.append(digest)
    transaction.put_many(Table.BLOCKS, rows)
    list_unreferenced(transaction, zeros, turn)


def list_unreferenced(transaction: Transaction, digests: Sequence[bytes], turn: int) -> None:
    """List blocks, sorted by digest, that have no reference since round *turn*."""
    start = _ZERO_TAG + _U64.pack(turn)
    transaction.put_many(Table.GARBAGE, [(start + digest, b"") for digest in digests])


def remove_unreferenced(
    transaction: Transaction, before: int, limit: int
) -> tuple[list[int], bool]:
    """Remove blocks that are without a reference since a round before *before*.

    Returns:
        the packs that hold no needed block any more (they are FREEING), and whether there is
        more to do.
    """
    dead: set[int] = set()
    lost: dict[int, list[int]] = {}
    keys: list[bytes] = []
    more = False
    for key, turn, digest in unreferenced(transaction):
        if turn >= before:
            break
        if len(keys) >= limit:
            more = True
            break
        keys.append(key)
        row = block_row(transaction, digest)
        if row is not None and not row.references:
            transaction.delete(Table.BLOCKS, digest)
            numbers = lost.setdefault(row.pack, [0, 0])
            numbers[0] += 1
            numbers[1] += row.stored_length
    for key in keys:
        transaction.delete(Table.GARBAGE, key)
    for pack, (blocks, size) in sorted(lost.items()):
        if lower_pack(transaction, pack, blocks, size):
            dead.add(pack)
    return sorted(dead), more


def lower_pack(transaction: Transaction, pack: int, blocks: int, size: int) -> bool:
    """Count *blocks* of *size* stored bytes off *pack*; return whether it is FREEING now."""
    row = pack_row(transaction, pack)
    if row is None:
        return False
    left = max(0, row.live_blocks - blocks)
    state = row.state if left else PackState.FREEING
    lowered = PackRow(state, row.size, left, max(0, row.live_bytes - size) if left else 0)
    transaction.put(Table.PACKS, pack_key(pack), lowered.packed())
    return not left


def forget_packs(transaction: Transaction, packs: Sequence[int]) -> None:
    """Remove the rows of packs whose objects are gone."""
    for pack in packs:
        row = pack_row(transaction, pack)
        if row is not None and row.state != PackState.PRESENT:
            transaction.delete(Table.PACKS, pack_key(pack))


def _number(value: bytes) -> int:
    if len(value) != _U64.size:
        raise BankFormatError("the bank is damaged: a number in its block records is not one")
    number: int = _U64.unpack(value)[0]
    return number
