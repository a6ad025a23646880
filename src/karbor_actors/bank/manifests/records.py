"""What a checkpoint's records are in its manifest; read a few at a time, for any number."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks.rows import segment_key, segment_rows
from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.database.keys import (
    SECTION_SIZE,
    pack_u64,
    split_row,
    unpack_u32,
)
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.manifests.manifest import (
    ARTIFACTS,
    BLOCKS,
    CONSISTENCY,
    EMPTY,
    ERRORS,
    GRAPH,
    OBJECT,
    ROW,
    STATUS,
    STREAM,
)
from karbor_actors.bank.streams.rows import rows_prefix, unpack_row
from karbor_actors.errors import BankFormatError
from karbor_actors.model import CheckpointStatus
from karbor_actors.store.codec import DIGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from karbor_actors.bank.checkpoints.rows import CheckpointRow
    from karbor_actors.bank.database.environment import Environment
    from karbor_actors.bank.database.transactions import Reader
    from karbor_actors.bank.manifests.manifest import Record

_PIECE = 1 << 20
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 1000
_ONE_SEGMENT = 1024
_KINDS = {
    rows.RESOURCE_ARTIFACTS: ARTIFACTS,
    rows.RESOURCE_CONSISTENCY: CONSISTENCY,
    rows.RESOURCE_ERRORS: ERRORS,
    rows.RESOURCE_STATUS: STATUS,
    rows.RESOURCES_EMPTY: EMPTY,
}


def manifest_records(
    environment: Environment, number: int, row: CheckpointRow, ending: Mapping[bytes, bytes]
) -> Iterator[Record]:
    """Yield what the manifest of a checkpoint holds after its head's first value.

    No snapshot is held while the caller uses them.

    Args:
        environment: The bank's records.
        number: The checkpoint's.
        row: Its row as it is, or will be.
        ending: CHECKPOINTS rows by key that it will have besides, or instead.

    Raises:
        BankFormatError: The records are damaged.
    """
    # Status and holds change later, and are in the head.
    if row.holds or row.status is not CheckpointStatus.AVAILABLE:
        row = replace(row, status=CheckpointStatus.AVAILABLE, holds=())
    packed = row.pack()
    for start in range(0, len(packed), _PIECE):
        yield [ROW, packed[start : start + _PIECE]]
    prefix = pack_u64(number)
    with environment.snapshot() as snapshot:  # one is all that a small checkpoint needs
        kept, rest = _batch(snapshot, Table.CHECKPOINTS, prefix, b"")
        has_objects = snapshot.has(Table.OBJECTS, prefix)
        has_streams = snapshot.has(Table.STREAMS, rows_prefix(prefix))
    if rest is None:
        yield from _small_records(kept, prefix, ending)
    else:  # read kind by kind
        for _, value in _scan(environment, Table.CHECKPOINTS, prefix + rows.GRAPH):
            yield [GRAPH, value]
        for kind, name in _KINDS.items():
            found = _scan(environment, Table.CHECKPOINTS, prefix + kind)
            yield from _resource_records(found, prefix + kind, name, ending)
    for key, value in _scan(environment, Table.OBJECTS, prefix) if has_objects else ():
        raw, packed_value = split_row(key[:SECTION_SIZE], key, value)
        yield [OBJECT, unpack_u32(key, len(prefix)), raw, bytes(packed_value)]
    if has_streams:
        yield from _stream_records(environment, prefix)


def _small_records(
    kept: list[tuple[bytes, bytes]], prefix: bytes, ending: Mapping[bytes, bytes]
) -> Iterator[Record]:
    """Yield what a checkpoint's few CHECKPOINTS rows, all of them *kept*, are in its manifest."""
    by_kind: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for row in sorted({**dict(kept), **ending}.items()):
        by_kind.setdefault(row[0][len(prefix) : len(prefix) + 1], []).append(row)
    for _, value in by_kind.get(rows.GRAPH, ()):
        yield [GRAPH, value]
    for kind, name in _KINDS.items():
        for key, value in by_kind.get(kind, ()):
            yield [name, unpack_u32(key, len(prefix) + 1), value]


def _resource_records(
    old: Iterable[tuple[bytes, bytes]], prefix: bytes, name: str, ending: Mapping[bytes, bytes]
) -> Iterator[Record]:
    new = sorted((key, 0, value) for key, value in ending.items() if key.startswith(prefix))
    last = b""
    for key, _, value in heapq.merge(new, ((key, 1, value) for key, value in old)):
        if key != last:
            yield [name, unpack_u32(key, len(prefix)), value]
        last = key


def _scan(environment: Environment, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield rows as Reader.scan does, in several snapshots."""
    start: bytes | None = b""
    while start is not None:
        with environment.snapshot() as snapshot:
            batch, start = _batch(snapshot, table, prefix, start)
        yield from batch


def _batch(
    reader: Reader, table: Table, prefix: bytes, start: bytes
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Return some of the rows that a scan yields, and where the next begin; None after the last."""
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in reader.scan(table, prefix, start):
        batch.append((key, value))
        size += len(value)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
            return batch, key + b"\x00"
    return batch, None


def _stream_records(environment: Environment, prefix: bytes) -> Iterator[Record]:
    start: bytes | None = b""
    while start is not None:
        batch: list[Record] = []
        with environment.snapshot() as snapshot:
            found, start = snapshot.scan(Table.STREAMS, rows_prefix(prefix), start), None
            size = 0
            for key, value in found:
                record, stream, blocks = _stream_record(key, value)
                batch.append(record)
                pages, done = _pages(snapshot, stream, 0, blocks, _BATCH_BYTES - size)
                batch += pages
                size += sum(len(page[1]) for page in pages)
                if done < blocks or size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
                    start = key + b"\x00"
                    break
        yield from batch
        while start is not None and done < blocks:
            with environment.snapshot() as snapshot:
                pages, done = _pages(snapshot, stream, done, blocks, _BATCH_BYTES)
            yield from pages


def _stream_record(key: bytes, value: bytes) -> tuple[Record, int, int]:
    """Return a stream's record, its id, and how many blocks it has."""
    scope = key[len(rows_prefix(b"")) :][:SECTION_SIZE]
    raw, info = unpack_row(scope, key, value)
    resource = unpack_u32(scope, SECTION_SIZE - 4)
    figures = [info.size, info.stored_at, info.new_blocks, info.new_bytes]
    return [STREAM, resource, raw, *figures], info.id, info.blocks


def _pages(
    reader: Reader, stream: int, first: int, end: int, limit: int
) -> tuple[list[Record], int]:
    """Return digests of blocks from *first* on, about *limit* bytes of them, and where they end.

    Raises:
        BankFormatError: Some are missing.
    """
    pages: list[Record] = []
    size = 0
    if first == 0 < end <= _ONE_SEGMENT:  # a scan would read the next streams' too
        digests = reader.get(Table.STREAMS, segment_key(stream, end - 1))
        if digests is not None and len(digests) == end * DIGEST_SIZE:
            return [[BLOCKS, digests]], end
    if first < end:
        for _, last, digests in segment_rows(reader, stream, first):
            if last + 1 - len(digests) // DIGEST_SIZE != first:
                break
            pages.append([BLOCKS, digests])
            size += len(digests)
            first = last + 1
            if size >= limit:
                return pages, first
        if first != end:
            raise BankFormatError(f"the stream with id {stream:x} lacks blocks from {first} on")
    return pages, first
