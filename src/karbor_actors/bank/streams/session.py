"""Sessions that write streams: what is added to one becomes visible together."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol, Self

from karbor_actors.bank.blocks import rows as block_rows
from karbor_actors.bank.database.keys import check_name, encode_name
from karbor_actors.bank.streams.patch import Patch, Piece
from karbor_actors.bank.streams.pipeline import Flow, Pipeline
from karbor_actors.bank.streams.reader import AHEAD, StreamReader
from karbor_actors.bank.streams.rows import StreamInfo, block_count, pack_row, show
from karbor_actors.errors import BankError, BlockMissingError
from karbor_actors.liveness import data_moved
from karbor_actors.store.codec import BLOCK_SIZE, DIGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.blocks.rows import Batch
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.writer import Change


class Readable(Protocol):
    """What streams are read from: any binary file will do."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes; none at the end."""
        ...


class StreamSession:
    """Adds streams to a section; all of them become visible when its block ends well.

    A context manager, used by one thread at a time. A stream whose source failed (its ``read``
    raised, and so did ``add``) is left out, and the session may go on. After any other failure,
    and when the block raises, nothing of the session becomes visible.

    Args:
        blocks: where blocks go.
        scope: what all rows of the section begin with.
        prefix: what the section's keys begin with.
        also: runs in the transaction that makes the streams visible; if it raises, none is.

    Raises:
        BankKeyError: a key can name nothing.
        BankFullError: no space is left; what was there before is untouched.
        StoreError: the object store failed.
    """

    def __init__(
        self,
        blocks: BlockStore,
        scope: bytes,
        prefix: str = "",
        *,
        also: Change[None] | None = None,
    ) -> None:
        self._blocks = blocks
        self._scope = scope
        self._prefix = prefix
        self._also = also
        self._session = 0
        self._pipeline: Pipeline | None = None
        self._failure: BaseException | None = None
        self._rows: dict[bytes, tuple[bytes, int]] = {}
        """By row key: the value and the id of each stream that is to be visible."""
        self._given_up: list[int] = []
        self._unrecorded: list[Batch] = []

    def __enter__(self) -> Self:
        self._session = self._blocks.sweeper.open_session()
        self._pipeline = Pipeline(self._blocks, self._session, self._on_settled)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pipeline = self._running(check=False)
        has_garbage = True
        try:
            if error is None:
                has_garbage = self._finish(self._running())
        except BaseException:
            pipeline.discard(self._unrecorded)
            raise
        else:
            if error is not None:
                pipeline.discard(self._unrecorded)
        finally:
            self._pipeline = None
            self._blocks.sweeper.close_session(self._session, sweep=has_garbage)

    def add(self, key: str, readable: Readable) -> StreamInfo:
        """Store what *readable* gives, to its end, as *key*."""
        pipeline = self._running()
        with self._writing(key) as flow:
            size = 0
            while True:
                try:
                    raw = _read_block(readable)
                except BaseException:
                    flow.is_given_up = True
                    raise
                if raw:
                    pipeline.feed(flow, raw)
                    size += len(raw)
                data_moved()
                if len(raw) < BLOCK_SIZE:
                    return self._end(flow, size)

    def patch(
        self,
        key: str,
        changes: Iterable[tuple[int, bytes]],
        *,
        base: StreamInfo,
        size: int | None = None,
    ) -> StreamInfo:
        """Store *base* with *changes* over it as *key*; only what changes is read and stored.

        Args:
            key: the new stream's; it may be the base's.
            changes: (offset, bytes), in the order of their offsets, none over another.
            base: a stream of this bank.
            size: in bytes; the base's by default. What is added is zeros.

        Raises:
            ValueError: *base* is of another bank, or a change is out of order or beyond *size*.
            ObjectNotFoundError: *base* was deleted.
        """
        if base.bank_id != self._blocks.bank_id:
            raise ValueError(f"stream {base.key!r} is of another bank; copy it")
        pipeline = self._running()
        if pipeline.owns(base.id):
            pipeline.flush()
        length = base.size if size is None else size
        with StreamReader(self._blocks, base) as reader, self._writing(key) as flow:
            with _giving_up(flow):
                patch = Patch(reader, changes, length)
            self._copy(flow, patch)
            return self._end(flow, length)

    def reuse(self, key: str, stream: StreamInfo) -> StreamInfo:
        """Store *stream*, of this bank, once more as *key*, without reading it.

        Raises:
            ValueError: it is of another bank.
            ObjectNotFoundError: it was deleted.
        """
        return self.patch(key, (), base=stream)

    def copy(self, key: str, source: StreamReader) -> StreamInfo:
        """Store *source*, a stream of any bank, as *key*; blocks that are there are not read."""
        if source.info.bank_id == self._blocks.bank_id:
            return self.reuse(key, source.info)
        with self._writing(key) as flow:
            self._copy(flow, self._pieces(source))
            return self._end(flow, source.size)

    def adopt(self, key: str, size: int, digests: Iterable[bytes]) -> StreamInfo:
        """Store a stream of *size* bytes as *key*, made of blocks that are recorded already.

        Args:
            key: the stream's.
            size: in bytes.
            digests: of its blocks, in order, any number of them joined at a time.

        Raises:
            ValueError: their number does not fit *size*.
        """
        with self._writing(key) as flow:
            parts = (Piece(digests=part) for part in digests)
            self._copy(flow, parts, must_be_known=False)  # recorded, but nobody refers to them yet
            with _giving_up(flow):
                if flow.fed != block_count(size):
                    raise ValueError(f"{size} bytes are not {flow.fed} blocks")
            return self._end(flow, size)

    def _pieces(self, source: StreamReader) -> Iterator[Piece]:
        first = 0
        for page in source.digests():
            digests = block_rows.digests_in(page)
            known = self._blocks.known(digests)
            lacking = [first + at for at, is_known in enumerate(known) if not is_known]
            reading = 0
            for at, (digest, is_known) in enumerate(zip(digests, known, strict=True)):
                if is_known:
                    yield Piece(digests=digest)
                else:
                    reading += 1
                    yield Piece(source.block(first + at, lacking[reading : reading + AHEAD]))
            first += len(digests)

    def _copy(self, flow: Flow, pieces: Iterable[Piece], *, must_be_known: bool = True) -> None:
        pipeline = self._running()
        iterator = iter(pieces)
        while True:
            with _giving_up(flow):
                piece = next(iterator, None)
                if piece is not None and len(piece.digests) % DIGEST_SIZE:
                    raise ValueError(f"{len(piece.digests)} bytes are no digests")
                if piece is not None and piece.raw is None and must_be_known:
                    self._check_known(flow.key, piece.digests)
            if piece is None:
                return
            data_moved()
            if piece.raw is None:
                pipeline.refer(flow, piece.digests)
            else:
                pipeline.feed(flow, piece.raw)

    def _check_known(self, key: str, digests: bytes) -> None:
        """Refuse to refer to a block that cannot be counted on."""
        listed = block_rows.digests_in(digests)
        for digest, is_known in zip(listed, self._blocks.known(listed), strict=True):
            if not is_known:
                raise BlockMissingError(digest.hex(), f"the stored data for stream {key!r}")

    def _running(self, *, check: bool = True) -> Pipeline:
        if self._pipeline is None:
            raise BankError("a session is used within its with block, once")
        if check and self._failure is not None:
            raise BankError("an earlier failure ended this session") from self._failure
        return self._pipeline

    def _writing(self, key: str) -> _Writing:
        self._running()
        encode_name(self._prefix + check_name(key))
        return _Writing(key, self._fail)

    def _fail(self, error: BaseException) -> None:
        self._failure = error

    def _end(self, flow: Flow, size: int) -> StreamInfo:
        bank_id = self._blocks.bank_id
        flow.info = StreamInfo(flow.key, size, flow.fed, time.time(), flow.id, bank_id, flow.new)
        if not flow.fed:
            self._running().refer(flow, b"")
        return flow.info

    def _on_settled(self, flow: Flow) -> None:
        """Prepare the row of a stream whose blocks are all counted."""
        if flow.info is None:
            self._given_up.append(flow.id)
            return
        raw = encode_name(self._prefix + flow.key)
        key, value = pack_row(self._scope, raw, flow.info)
        replaced = self._rows.get(key)
        if replaced is not None and replaced[1]:
            self._given_up.append(replaced[1])
        self._rows[key] = value, flow.id

    def _finish(self, pipeline: Pipeline) -> bool:
        """Make everything visible; return whether that left garbage."""
        batches = self._unrecorded = pipeline.drain()

        def change(transaction: Transaction) -> tuple[bool, list[int]]:
            if self._also is not None:
                self._also(transaction)
            dead = pipeline.finish(transaction, batches)
            replaced = show(transaction, self._rows)
            block_rows.put_ranges(transaction, self._given_up)
            return replaced, dead

        replaced, dead = self._blocks.write(change)
        self._blocks.sweeper.bury(dead)
        return replaced or bool(dead or self._given_up)


class _Writing:
    """Around the writing of one stream. Any failure ends the session, but its source's."""

    __slots__ = ("_flow", "_on_failure")

    def __init__(self, key: str, on_failure: Callable[[BaseException], None]) -> None:
        self._flow = Flow(key)
        self._on_failure = on_failure

    def __enter__(self) -> Flow:
        return self._flow

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not self._flow.is_given_up:
            self._on_failure(error)


@contextlib.contextmanager
def _giving_up(flow: Flow) -> Iterator[None]:
    """Run what may fail without harm to the session: only *flow* is given up."""
    try:
        yield
    except BaseException:
        flow.is_given_up = True
        raise


def _read_block(readable: Readable) -> bytes:
    """Return the next block: all of BLOCK_SIZE bytes, or what is left."""
    parts: list[bytes] = []
    wanted = BLOCK_SIZE
    while wanted:
        part = readable.read(wanted)
        if part is None:
            raise BlockingIOError("the source of a stream must wait for its data")
        if isinstance(part, str):
            raise TypeError("read() of the source of a stream gives text: open it in binary mode")
        if not isinstance(part, bytes):
            part = bytes(memoryview(part))
        if not part:
            break
        if len(part) > wanted:
            raise ValueError(f"read({wanted}) returned {len(part)} bytes")
        parts.append(part)
        wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
