"""Making one checkpoint's records again from its manifest."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.blocks.rows import (
    HOLE,
    Batch,
    block_row,
    digests_in,
    segment_key,
    segment_rows,
    stage,
)
from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.checkpoints.resource_rows import (
    Consistency,
    ConsistencyLevel,
    artifacts_row,
    consistency_row,
    empty_row,
    status_row,
    unpack_artifacts,
    unpack_empty,
)
from karbor_actors.bank.database.keys import decode_name, encode_name, named_row, section_prefix
from karbor_actors.bank.database.records import unpack_record
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.manifests.manifest import head_name, read_chunk, read_head, unpack_values
from karbor_actors.bank.streams.rows import NewData, StreamInfo, block_count, pack_row
from karbor_actors.errors import (
    BankError,
    BankFormatError,
    BankKeyError,
    ObjectNotFoundError,
    describe_cause,
    describe_key,
    describe_value,
)
from karbor_actors.graph import ResourceGraph
from karbor_actors.model import CheckpointStatus, ResourceStatus
from karbor_actors.store.codec import BLOCK_SIZE, DIGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.checkpoints.rows import CheckpointRow
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.manifests.manifest import Head, Record

_FLUSH_BYTES = 4 << 20
_FLUSH_ROWS = 5000
_SHOWN = 20
_WITHDRAWN = 16
_MAX_PAGE = 4096 * DIGEST_SIZE
_MAX_SIZE = (1 << 63) - 1


@dataclass(slots=True)
class _Stream:
    """A stream whose digests are being read."""

    id: int
    resource: int
    name: bytes
    info: StreamInfo
    blocks: int = 0
    missing: int = 0


@dataclass(slots=True)
class _Made:
    """A checkpoint in the making."""

    head: Head
    row_pieces: list[bytes] = field(default_factory=list)
    graph_pieces: list[bytes] = field(default_factory=list)
    number: int = 0
    row: CheckpointRow | None = None
    graph: ResourceGraph | None = None
    stream: _Stream | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0

    def say(self, what: str) -> None:
        """Note what is missing or damaged."""
        self.wrong_count += 1
        if len(self.wrong) < _SHOWN:
            self.wrong.append(what)


class _UselessError(Exception):
    """Not even a checkpoint's row and graph can be had from its manifest."""


class CheckpointRebuilder:
    """Records checkpoints from their manifests; the packs' blocks are recorded. For one thread.

    Args:
        blocks: Of the new records.
    """

    def __init__(self, blocks: BlockStore) -> None:
        self._blocks, self._store = blocks, blocks.objects
        self._size = 0
        self._rows: list[tuple[Table, bytes, bytes]] = []
        self._segments: list[tuple[bytes, bytes]] = []
        self._given_up: list[int] = []

    def rebuild(self, folder: str) -> tuple[str, str]:
        """Record the checkpoint with the manifest in *folder*; return its id, and what is wrong.

        Raises:
            StoreError: The store failed.
        """
        part = folder.rpartition("/")[2]
        try:
            head = read_head(self._store, folder)
        except (ObjectNotFoundError, BankFormatError) as error:
            return part, self._record_lost(part, describe_cause(error))
        made = _Made(head)
        try:
            for record in self._records(folder, made):
                self._take(made, record)
            self._begin(made)
        except _UselessError as error:
            return head.id, self._record_lost(head.id, str(error))
        self._end_stream(made)
        return head.id, self._finish(made)

    def _records(self, folder: str, made: _Made) -> Iterator[Record]:
        """Yield what can be read; what cannot is noted, and ends the stream that it was in."""
        head = made.head
        for number, chunk in enumerate(head.chunks):
            try:
                yield from read_chunk(self._store, folder, number, chunk)
            except (ObjectNotFoundError, BankFormatError) as error:
                self._lose(made, describe_cause(error))
        try:
            for record, _ in unpack_values(head.rest, head_name(folder)):
                yield record
        except BankFormatError as error:
            self._lose(made, describe_cause(error))

    def _lose(self, made: _Made, why: str) -> None:
        try:
            self._begin(made)
        except _UselessError as error:
            raise _UselessError(why) from error
        made.say(why)
        if made.stream is not None:
            made.stream.missing += 1

    def _take(self, made: _Made, record: Record) -> None:
        """Record one value of the manifest."""
        match record:
            case ["row", bytes(piece)] if made.row is None:
                made.row_pieces.append(piece)
                return
            case ["graph", bytes(piece)] if made.row is None:
                made.graph_pieces.append(piece)
                return
        number, size = self._begin(made)
        try:
            match record:
                case ["status", int(resource), bytes(value)] if 0 <= resource < size:
                    status = ResourceStatus(value.decode("ascii"))
                    self._add(Table.CHECKPOINTS, *status_row(number, resource, status))
                case ["consistency", int(resource), bytes(value)] if 0 <= resource < size:
                    found = unpack_record(value, "a consistency")
                    level = Consistency(ConsistencyLevel(found["level"]), str(found["cause"]))
                    self._add(Table.CHECKPOINTS, *consistency_row(number, resource, level))
                case ["artifacts", int(resource), bytes(value)] if 0 <= resource < size:
                    kept = unpack_artifacts(value)
                    self._add(Table.CHECKPOINTS, *artifacts_row(number, resource, kept))
                case ["empty", 0, bytes(value)]:
                    runs = [[run.start, len(run)] for run in unpack_empty(value)]
                    self._add(Table.CHECKPOINTS, *empty_row(number, runs))
                case ["errors", 0, bytes(value)]:
                    made.errors += (dict(error) for error in unpack_record(value, "errors"))
                case ["object", int(resource), bytes(raw), bytes(value)] if 0 <= resource < size:
                    unpack_record(value, "an object")
                    key, head = named_row(section_prefix(number, resource), _checked(raw))
                    self._add(Table.OBJECTS, key, head + value)
                case ["stream", *fields]:
                    self._end_stream(made)
                    self._begin_stream(made, fields, size)
                case ["blocks", bytes(digests)]:
                    self._add_blocks(made, digests)
                case _:
                    made.say("a value of its manifest is damaged")
        except (BankFormatError, BankKeyError, ValueError, TypeError, KeyError) as error:
            made.say(describe_cause(error))

    def _begin(self, made: _Made) -> tuple[int, int]:
        """Record the checkpoint itself, once; return its number, and how many resources it has."""
        if made.row is None or made.graph is None:
            try:
                row = rows.CheckpointRow.unpack(b"".join(made.row_pieces), 0)
                packed = b"".join(made.graph_pieces)
                if row.id != made.head.id or rows.digest_graph(packed) != row.graph_digest:
                    raise BankFormatError("the graph is not the one that was stored")
                made.graph = ResourceGraph.unpack(packed)
                rows.moment_of(row.created)
            except BankError as error:
                raise _UselessError(describe_cause(error)) from error
            status = made.head.status
            if status is CheckpointStatus.DELETING:
                status = CheckpointStatus.ERROR_DELETING
            made.row = row = replace(row, status=status, holds=made.head.holds)
            value = row.pack()
            made.number = self._blocks.write(
                lambda transaction: rows.insert(transaction, row, value, packed)
            )
            made.row_pieces, made.graph_pieces = [], []
        return made.number, len(made.graph)

    def _begin_stream(self, made: _Made, fields: list[Any], resources: int) -> None:
        match fields:
            case [int(resource), bytes(raw), int(size), float(stored_at), int(new), int(new_bytes)]:
                figures = (size, new, new_bytes)
                if 0 <= resource < resources and all(0 <= n <= _MAX_SIZE for n in figures):
                    name = decode_name(_checked(raw))
                    number = self._blocks.next_ids(1)
                    data = NewData(new, new_bytes)
                    blocks = block_count(size)
                    info = StreamInfo(name, size, blocks, stored_at, number, b"", data)
                    made.stream = _Stream(number, resource, raw, info)
                    return
        raise BankFormatError("the record of a stream is damaged")

    def _add_blocks(self, made: _Made, page: bytes) -> None:
        stream = made.stream
        if stream is None or not page or len(page) % DIGEST_SIZE or len(page) > _MAX_PAGE:
            raise BankFormatError("the record of a stream's blocks is damaged")
        digests = digests_in(page)
        first = stream.blocks
        stream.blocks += len(digests)
        with self._blocks.environment.snapshot() as snapshot:
            for number, digest in enumerate(digests, first):
                row = None if digest == HOLE else block_row(snapshot, digest)
                length = min(BLOCK_SIZE, stream.info.size - number * BLOCK_SIZE)
                if digest != HOLE and (row is None or row.raw_length != length):
                    stream.missing += 1
        if not stream.missing and stream.blocks <= stream.info.blocks:
            self._segments.append((segment_key(stream.id, stream.blocks - 1), page))
            self._size += len(page)
            self._flush_when_full()

    def _end_stream(self, made: _Made) -> None:
        stream, made.stream = made.stream, None
        if stream is None or made.graph is None:
            return
        info = stream.info
        if stream.missing or stream.blocks != info.blocks:
            where = describe_key(made.graph.nodes[stream.resource].key)
            lost = max(stream.missing, info.blocks - stream.blocks)
            made.say(
                f"stream {describe_value(info.key)} of {where} lacks {lost} of {info.blocks} blocks"
            )
            self._given_up.append(stream.id)
            return
        scope = section_prefix(made.number, stream.resource)
        self._add(Table.STREAMS, *pack_row(scope, stream.name, info))

    def _finish(self, made: _Made) -> str:
        """Record how the checkpoint is; return what is wrong with it."""
        self._flush()
        for stream in self._given_up:
            while not self._blocks.write(partial(_withdraw, stream=stream)):
                pass
        self._given_up = []
        wrong = "; ".join(made.wrong)
        changes: dict[str, Any] = {}
        if made.wrong_count:
            if made.wrong_count > len(made.wrong):
                wrong += f"; and {made.wrong_count - len(made.wrong)} more"
            made.errors.append(_error(wrong))
            changes["status"] = CheckpointStatus.ERROR

        def change(transaction: Transaction) -> None:
            if made.errors:
                transaction.put(Table.CHECKPOINTS, *rows.errors_row(made.number, made.errors))
            rows.change_row(transaction, made.number, made.head.id, **changes)

        self._blocks.write(change)
        return wrong

    def _record_lost(self, checkpoint_id: str, why: str) -> str:
        """Record a checkpoint of which nothing can be had, so that it can be seen and deleted."""
        graph = ResourceGraph([], array("I", [0]), array("I")).pack()
        row = rows.CheckpointRow(
            id=checkpoint_id,
            status=CheckpointStatus.ERROR,
            provider="",
            plan={},
            created=0,
            graph_digest=rows.digest_graph(graph),
        )
        why = f"its manifest is lost: {why}"

        def change(transaction: Transaction) -> None:
            number = rows.insert(transaction, row, row.pack(), graph)
            transaction.put(Table.CHECKPOINTS, *rows.errors_row(number, [_error(why)]))

        self._blocks.write(change)
        return why

    # Writing many rows at a time

    def _add(self, table: Table, key: bytes, value: bytes) -> None:
        self._rows.append((table, key, value))
        self._size += len(key) + len(value)
        self._flush_when_full()

    def _flush_when_full(self) -> None:
        if self._size >= _FLUSH_BYTES or len(self._rows) + len(self._segments) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        new, segments = self._rows, self._segments

        def change(transaction: Transaction) -> None:
            for table, key, value in new:
                transaction.put(table, key, value)
            stage(transaction, [Batch(segments=segments)])

        self._blocks.write(change)
        self._rows, self._segments, self._size = [], [], 0


def _withdraw(transaction: Transaction, stream: int) -> bool:
    """Take back some of what a stream names, without freeing it; return whether nothing is left.

    What is missing may be found yet, and the rest is of use then.
    """
    segments = list(islice(segment_rows(transaction, stream), _WITHDRAWN))
    counts: Counter[bytes] = Counter()
    for _, last, digests in segments:
        counts.update(digests_in(digests))
        transaction.delete(Table.STREAMS, segment_key(stream, last))
    for digest, count in counts.items():
        row = None if digest == HOLE else block_row(transaction, digest)
        if row is not None:
            lowered = row._replace(references=row.references - count)
            transaction.put(Table.BLOCKS, digest, lowered.packed())
    return len(segments) < _WITHDRAWN


def _error(message: str) -> dict[str, Any]:
    return {"type": "RebuildError", "message": message}


def _checked(raw: bytes) -> bytes:
    """Return *raw* if it is what a name is encoded to."""
    if not raw or encode_name(decode_name(raw)) != raw:
        raise BankFormatError("a name in the manifest is damaged")
    return raw
