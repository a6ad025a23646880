"""Checking a bank's blocks against all that names them, and rewriting packs that hold little."""

from __future__ import annotations

import contextlib
from bisect import bisect
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks import rows as block_rows
from karbor_actors.bank.blocks.rows import (
    HOLE,
    BlockRow,
    PackRow,
    PackState,
    block_row,
    digests_in,
    pack_key,
)
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.streams import rows as stream_rows
from karbor_actors.errors import (
    BankError,
    BankFormatError,
    BlockCorruptError,
    ObjectNotFoundError,
    describe_cause,
)
from karbor_actors.store.codec import DIGEST_SIZE, Block, Codec, decode
from karbor_actors.store.packs import PackBuilder, read_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.database.transactions import Reader, Transaction
    from karbor_actors.store.packs import PackEntry

_SPARSE = 0.5
"""A pack is rewritten when less than this share of it is needed."""


def check_blocks(blocks: BlockStore, *, deep: bool = False) -> list[str]:
    """Return what is wrong with a bank's streams, blocks and packs, a line each.

    It holds a snapshot while it reads the records, and some hundred bytes per block in memory.

    Args:
        blocks: the bank's.
        deep: read every block too and compare its digest. One that is damaged is not counted on
            from then on.
    """
    with blocks.environment.snapshot() as snapshot:
        findings = check_block_records(snapshot)
        packs = dict(block_rows.pack_rows(snapshot))
        recorded = _digests_by_pack(snapshot) if deep else {}
    findings += _check_objects(blocks, packs)
    for pack, digests in sorted(recorded.items()):
        findings += _read_pack(blocks, pack, digests)
    return findings


def _digests_by_pack(reader: Reader) -> dict[int, list[bytes]]:
    """Return the digests of the recorded blocks by the pack that each is in."""
    found: dict[int, list[bytes]] = {}
    for digest, value in reader.scan(Table.BLOCKS):
        with contextlib.suppress(BankFormatError):  # a finding already
            found.setdefault(BlockRow.unpack(value, digest).pack, []).append(bytes(digest))
    return found


def check_block_records(reader: Reader) -> list[str]:
    """Return what does not fit together of the records of streams, blocks and packs."""
    return _Records(reader).check()


class _Records:
    """Compares the rows with each other, in one snapshot."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._findings: list[str] = []
        self._references: Counter[bytes] = Counter()
        self._blocks: Counter[int] = Counter()
        """By stream id: how many digests its segments hold."""

    def check(self) -> list[str]:
        """Return what does not fit together."""
        try:
            self._check_segments()
            self._check_streams()
            self._check_blocks()
        except BankError as error:
            self._findings.append(describe_cause(error))
        return self._findings

    def _check_segments(self) -> None:
        for stream, last, digests in block_rows.segment_rows(
            self._reader, 0, end=block_rows.MAX_ID
        ):
            self._references.update(digests_in(digests))
            self._blocks[stream] += len(digests) // DIGEST_SIZE
            if self._blocks[stream] != last + 1:
                self._findings.append(f"stream {stream:x} has a gap before block {last}")
        self._references.pop(HOLE, None)

    def _check_streams(self) -> None:
        kept = set()
        for key, value in self._reader.scan(Table.STREAMS, stream_rows.rows_prefix(b"")):
            number, size = stream_rows.id_and_size(value)
            wanted = stream_rows.block_count(size)
            if number in kept:
                self._findings.append(f"the stream in row {key!r} shares its blocks' records")
            if number:
                kept.add(number)
            if self._blocks[number] != wanted:
                self._findings.append(
                    f"the stream in row {key!r} has {self._blocks[number]} of {wanted} blocks"
                )
        ranges = list(block_rows.garbage_ranges(self._reader))  # in order, none over another
        for stream, count in self._blocks.items():
            at = bisect(ranges, (stream, block_rows.MAX_ID)) - 1
            listed = at >= 0 and stream < ranges[at][1]
            if count and listed == (stream in kept):
                state = "is listed as garbage" if listed else "belongs to nothing"
                self._findings.append(f"stream {stream:x} {state}")

    def _check_blocks(self) -> None:
        unreferenced = {digest for _, _, digest in block_rows.unreferenced(self._reader)}
        live: dict[int, list[int]] = {}
        for digest, value in self._reader.scan(Table.BLOCKS):
            row = BlockRow.unpack(value, digest)
            wanted = self._references.pop(digest, 0)
            name = f"block {digest.hex()[:16]}"
            if row.references != wanted:
                self._findings.append(
                    f"{name} is counted {row.references} times and named {wanted} times"
                )
            if not row.references and digest not in unreferenced:
                self._findings.append(f"{name} is needed by nobody and would never be freed")
            numbers = live.setdefault(row.pack, [0, 0])
            numbers[0] += 1
            numbers[1] += row.stored_length
        for digest in self._references:
            self._findings.append(f"block {digest.hex()[:16]} has no record of where it is")
        for pack, pack_row in block_rows.pack_rows(self._reader):
            blocks, size = live.pop(pack, (0, 0))
            if (pack_row.live_blocks, pack_row.live_bytes) != (blocks, size):
                self._findings.append(
                    f"pack {pack:016x} is said to hold {pack_row.live_blocks} needed blocks with "
                    f"{pack_row.live_bytes} bytes, and holds {blocks} with {size}"
                )
            if (pack_row.state == PackState.PRESENT) != bool(blocks):
                state = PackState(pack_row.state).name.lower()
                self._findings.append(f"pack {pack:016x} with {blocks} needed blocks is {state}")
        self._findings += [f"pack {pack:016x} has no record" for pack in live]


def _check_objects(blocks: BlockStore, packs: dict[int, PackRow]) -> list[str]:
    """Compare the packs with the objects that there are."""
    findings = []
    found = blocks.stored_packs()
    for pack, row in packs.items():
        if row.state != PackState.PRESENT or found.get(pack) == row.size:
            continue
        if _pack_row(blocks, pack) != row:
            continue  # it went, or was used, while this looked
        name = blocks.object_name(pack)
        if pack in found:
            findings.append(f"pack {name} has {found[pack]} bytes instead of {row.size}")
        else:
            findings.append(f"pack {name} is missing, with {row.live_blocks} needed blocks")
    strays = [pack for pack in sorted(found.keys() - packs.keys()) if not _pack_row(blocks, pack)]
    names = map(blocks.object_name, strays)
    return findings + [f"object {name} belongs to nothing; compact the bank" for name in names]


def _pack_row(blocks: BlockStore, pack: int) -> PackRow | None:
    with blocks.environment.snapshot() as snapshot:
        return block_rows.pack_row(snapshot, pack)


def _read_pack(blocks: BlockStore, pack: int, digests: Sequence[bytes]) -> Iterator[str]:
    """Yield what is wrong with the blocks that are recorded in a pack; read all of them."""
    name = blocks.object_name(pack)
    try:
        indexed = {(e.digest, e.offset) for e in read_index(blocks.objects, name)}
    except ObjectNotFoundError:
        return  # reported where objects are compared; or it was freed meanwhile
    except BankError as error:
        yield describe_cause(error)
        indexed = None  # the blocks may be whole all the same
    rows = _rows_in(blocks, pack, digests)
    absent = [
        digest
        for digest, row in rows
        if indexed is not None and (digest, row.offset) not in indexed
    ]
    for digest in absent:
        blocks.health.mark_damaged(digest)
    if absent:
        yield (
            f"pack {name} does not hold {len(absent)} of the {len(rows)} blocks that are recorded in "
            f"it, such as {absent[0].hex()[:16]}: another object is in its place, or it was "
            "overwritten"
        )
    for digest, row in rows:
        if indexed is None or (digest, row.offset) in indexed:
            try:
                data = blocks.objects.get(name, row.offset, row.stored_length)
                decode(data, row.codec, row.raw_length, digest, f"pack {name}")
            except ObjectNotFoundError:
                return
            except BankError as error:
                if isinstance(error, BlockCorruptError):
                    blocks.health.mark_damaged(digest)
                yield describe_cause(error)


def _rows_in(
    blocks: BlockStore, pack: int, digests: Sequence[bytes]
) -> list[tuple[bytes, BlockRow]]:
    """Return those of *digests*, with their rows, that are recorded in *pack* now."""
    with blocks.environment.snapshot() as snapshot:
        rows = [(digest, block_row(snapshot, digest)) for digest in digests]
    return [(digest, row) for digest, row in rows if row is not None and row.pack == pack]


def _live_entries(
    blocks: BlockStore, pack: int, entries: Sequence[PackEntry]
) -> list[tuple[PackEntry, BlockRow]]:
    """Return those of a pack's *entries* where the records say that the block is there."""
    with blocks.environment.snapshot() as snapshot:
        rows = [(entry, block_row(snapshot, entry.digest)) for entry in entries]
    return [
        (entry, row)
        for entry, row in rows
        if row is not None and (row.pack, row.offset) == (pack, entry.offset)
    ]


def repack(blocks: BlockStore) -> int:
    """Rewrite the packs of which less than half is needed, and delete the old ones.

    Objects that nobody knows, left by an owner that was taken for dead, go too. Readers and writers may go on meanwhile. A block that is damaged stays where it is.

    Returns:
        how many packs were rewritten.

    Raises:
        BankFullError: there is no space for the new packs.
        StoreError: the object store failed.
    """
    with blocks.environment.snapshot() as snapshot:
        sparse = [
            pack
            for pack, row in block_rows.pack_rows(snapshot)
            if row.state == PackState.PRESENT and row.live_bytes < _SPARSE * row.size
        ]
    moving = _Mover(blocks)
    for pack in sparse:
        moving.take(pack)
    moving.flush()
    blocks.sweeper.bury(_strays(blocks))
    blocks.sweeper.sweep()
    return len(sparse)


def _strays(blocks: BlockStore) -> list[int]:
    """Return packs that an owner put after another had taken the bank over."""
    old = [pack for pack in blocks.stored_packs() if blocks.is_of_earlier_opening(pack)]
    with blocks.environment.snapshot() as snapshot:
        return [pack for pack in old if block_rows.pack_row(snapshot, pack) is None]


class _Mover:
    """Moves blocks into new packs."""

    def __init__(self, blocks: BlockStore) -> None:
        self._blocks = blocks
        self._pack = PackBuilder()
        self._from: list[BlockRow] = []

    def take(self, pack: int) -> None:
        """Move what is needed of *pack*."""
        name = self._blocks.object_name(pack)
        try:
            entries = read_index(self._blocks.objects, name)
        except ObjectNotFoundError:
            return  # freed meanwhile, or lost: check() says so
        for entry, row in _live_entries(self._blocks, pack, entries):
            data = self._blocks.objects.get(name, row.offset, row.stored_length)
            try:
                decode(data, row.codec, row.raw_length, entry.digest, f"pack {name}")
            except BankError:
                continue  # nothing is gained by moving it; check() and whoever reads it say so
            self._pack.add(Block(entry.digest, row.raw_length, Codec(row.codec), data))
            self._from.append(row)
            if self._pack.is_full:
                self.flush()

    def flush(self) -> None:
        """Put the new pack and record where its blocks are now."""
        if not self._from:
            return
        data = self._pack.finish()
        size = sum(map(len, data))
        pack = self._blocks.reserve_pack()
        try:
            self._blocks.put_pack(pack, data).result()
            moves = list(zip(self._pack.entries, self._from, strict=True))
            dead = self._blocks.write(partial(_move, pack=pack, size=size, moves=moves))
        except BaseException:
            self._blocks.sweeper.bury([pack])
            raise
        self._blocks.sweeper.bury(dead)
        self._pack, self._from = PackBuilder(), []


def _move(
    transaction: Transaction, pack: int, size: int, moves: Sequence[tuple[PackEntry, BlockRow]]
) -> list[int]:
    """Record that blocks are in *pack* now, unless they were freed or moved meanwhile."""
    lost: dict[int, list[int]] = {}
    rows = []
    live_bytes = 0
    for entry, old in sorted(moves, key=lambda move: move[0].digest):
        row = block_row(transaction, entry.digest)
        if row is not None and (row.pack, row.offset) == (old.pack, old.offset):
            rows.append((entry.digest, row._replace(pack=pack, offset=entry.offset).packed()))
            numbers = lost.setdefault(old.pack, [0, 0])
            numbers[0] += 1
            numbers[1] += row.stored_length
            live_bytes += entry.stored_length
    transaction.put_many(Table.BLOCKS, rows)
    state = PackState.PRESENT if rows else PackState.FREEING
    new = PackRow(state, size, len(rows), live_bytes)
    transaction.put(Table.PACKS, pack_key(pack), new.packed())
    dead = [] if rows else [pack]
    for number, (count, stored) in sorted(lost.items()):
        if block_rows.lower_pack(transaction, number, count, stored):
            dead.append(number)
    return dead
