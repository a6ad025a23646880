"""What happens to a stream's blocks on the way into the bank, all at the same time.

The session's thread gathers blocks; hashing and compressing run on the bank's encoder threads,
puts on others; what comes back is taken in order. Each pack that fills is put, and recorded with
the segments that it completes once it is durable. In memory at a time: some 16 MiB on the way to
the encoders and back, and the packs that are being put (at most 4).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from karbor_actors.bank.blocks import rows as block_rows
from karbor_actors.bank.blocks.rows import Batch, segment_key
from karbor_actors.bank.blocks.sweep import STEP
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.streams.rows import NewData
from karbor_actors.store.codec import BLOCK_SIZE, DIGEST_SIZE
from karbor_actors.store.packs import PackBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.streams.rows import StreamInfo
    from karbor_actors.store.codec import Block

_IDS = (1, 63, 1024)
"""How many stream ids are taken at once: first, then, and each later time."""
_TASK_SIZE = BLOCK_SIZE
_TASK_BLOCKS = 1024
_TASKS = 12
_PUTS = 3
_SEGMENT = 1024 * DIGEST_SIZE


class Flow:
    """A stream on its way in."""

    __slots__ = ("fed", "id", "info", "is_given_up", "key", "new", "pending", "taken")

    def __init__(self, key: str) -> None:
        self.key = key
        self.id = 0
        """0 until its first block came, and so for ever for an empty stream."""
        self.fed = 0
        """How many blocks came in."""
        self.taken = 0
        """How many of them came back."""
        self.pending = bytearray()
        """The digests of those that are in no segment yet."""
        self.new = NewData()
        self.info: StreamInfo | None = None
        """Set when it is whole."""
        self.is_given_up = False


class _Encoding(NamedTuple):
    flows: list[Flow]
    future: Future[list[tuple[bytes, Block | None]]]


class _References(NamedTuple):
    flow: Flow
    digests: bytes


class Pipeline:
    """Takes the blocks of one session's streams. For the session's thread.

    Args:
        blocks: where they go.
        session: the number of the open session.
        on_settled: hears of each stream, in order, when all its blocks have come back.
    """

    def __init__(
        self, blocks: BlockStore, session: int, on_settled: Callable[[Flow], None]
    ) -> None:
        self._blocks = blocks
        self._session = session
        self._on_settled = on_settled
        self._ids = range(0)
        self._id_turn = 0
        self._ranges: list[range] = []
        self._listed: list[range] = []
        """The ranges of ids that the records list as garbage until the session ends well."""
        self._raws: list[bytes] = []
        self._flows: list[Flow] = []
        self._raw_size = 0
        self._tasks: deque[_Encoding | _References] = deque()
        self._current: Flow | None = None
        self._fresh: set[bytes] = set()
        """Digests of new blocks that are not recorded yet."""
        self._pack = PackBuilder()
        self._segments: list[tuple[bytes, bytes]] = []
        self._gathered = 0
        """How many digests are in the segments and pending since the last cut."""
        self._puts: deque[tuple[Batch, Future[None] | None]] = deque()
        self._staging: Sequence[Batch] = ()

    def feed(self, flow: Flow, raw: bytes) -> None:
        """Take the next block of *flow*: its bytes."""
        self._identify(flow)
        flow.fed += 1
        self._raws.append(raw)
        self._flows.append(flow)
        self._raw_size += len(raw)
        if self._raw_size >= _TASK_SIZE or len(self._raws) >= _TASK_BLOCKS:
            self._send()

    def refer(self, flow: Flow, digests: bytes) -> None:
        """Take the next blocks of *flow*: the digests, joined, of ones that are stored.

        None at all is how an empty stream takes its place in the order.
        """
        if digests:
            self._identify(flow)
        flow.fed += len(digests) // DIGEST_SIZE
        self._send()
        self._tasks.append(_References(flow, digests))
        self._take(_TASKS)

    def owns(self, stream: int) -> bool:
        """Tell whether *stream* is an id of this session's."""
        return any(stream in ids for ids in self._ranges)

    def flush(self) -> None:
        """Record all that came so far; it is in the rows on return, but not visible."""
        batches = self.drain()
        if batches:
            self._stage(batches)

    def drain(self) -> list[Batch]:
        """Wait until all blocks are in packs and these durable; return what is not recorded."""
        self._send()
        self._take(0)
        if self._current is not None:
            self._settle(self._current)
        self._cut()
        return self._put_until(0)

    def finish(self, transaction: Transaction, batches: Sequence[Batch]) -> list[int]:
        """Record the last *batches* and take the session's streams off the list of garbage.

        Returns:
            packs that hold dead copies only.
        """
        dead = block_rows.stage(transaction, batches, self._blocks.health)
        for ids in self._listed:
            transaction.delete(Table.GARBAGE, block_rows.range_key(ids.start))
        return dead

    def discard(self, batches: Sequence[Batch]) -> None:
        """Give all of it up. *batches* are those that ``drain`` returned and nobody recorded."""
        for task in self._tasks:
            if isinstance(task, _Encoding):
                task.future.cancel()
        lost = [batch.pack for batch in (*self._staging, *batches)]
        for batch, put in self._puts:
            if put is not None and not put.cancel():
                put.exception()  # known already, or less than the first; wait for its end only
            lost.append(batch.pack)
        self._blocks.sweeper.bury([pack for pack in lost if pack is not None])

    def _identify(self, flow: Flow) -> None:
        if flow.id:
            return
        if not self._ids:
            count = _IDS[min(self._id_turn, len(_IDS) - 1)]
            self._id_turn += 1
            first = self._blocks.next_ids(count)
            self._ids = range(first, first + count)
            self._ranges.append(self._ids)
            self._blocks.sweeper.own_range(self._session, first)
        flow.id, self._ids = self._ids[0], self._ids[1:]

    def _send(self) -> None:
        if self._raws:
            future = self._blocks.submit_encode(self._raws)
            self._tasks.append(_Encoding(self._flows, future))
            self._raws, self._flows, self._raw_size = [], [], 0
        self._take(_TASKS)

    def _take(self, most: int) -> None:
        """Take what came back, in order, until at most *most* tasks are under way."""
        while self._tasks:
            task = self._tasks[0]
            if isinstance(task, _Encoding):
                if len(self._tasks) <= most and not task.future.done():
                    return
                results = task.future.result()
                self._tasks.popleft()
                for flow, (digest, block) in zip(task.flows, results, strict=True):
                    self._append(flow, digest, block)
            else:
                self._tasks.popleft()
                self._turn_to(task.flow)
                self._extend(task.flow, task.digests)

    def _turn_to(self, flow: Flow) -> None:
        if self._current is not flow:
            if self._current is not None:
                self._settle(self._current)
            self._current = flow

    def _append(self, flow: Flow, digest: bytes, block: Block | None) -> None:
        self._turn_to(flow)
        if block is not None and digest not in self._fresh:
            self._fresh.add(digest)
            self._pack.add(block)
            flow.new.blocks += 1
            flow.new.size += len(block.data)
        self._extend(flow, digest)
        if self._pack.is_full:
            self._cut()

    def _extend(self, flow: Flow, digests: bytes) -> None:
        """Add *digests* to the stream, as many at a time as a segment and a step take."""
        while digests:
            room = min(_SEGMENT - len(flow.pending), (STEP - self._gathered) * DIGEST_SIZE)
            part, digests = digests[:room], digests[room:]
            flow.pending += part
            flow.taken += len(part) // DIGEST_SIZE
            self._gathered += len(part) // DIGEST_SIZE
            if len(flow.pending) >= _SEGMENT:
                self._end_segment(flow)
            if self._gathered >= STEP:
                self._cut()

    def _settle(self, flow: Flow) -> None:
        self._end_segment(flow)
        self._current = None
        self._on_settled(flow)

    def _end_segment(self, flow: Flow) -> None:
        if flow.pending:
            self._segments.append((segment_key(flow.id, flow.taken - 1), bytes(flow.pending)))
            flow.pending.clear()

    def _cut(self) -> None:
        """Put the pack as it is, and record what it completes when that is done."""
        if self._current is not None:
            self._end_segment(self._current)
        if not self._segments:
            return
        pack, segments = self._pack, self._segments
        self._pack, self._segments, self._gathered = PackBuilder(), [], 0
        if pack.entries:
            number = self._blocks.reserve_pack()
            data = pack.finish()
            batch = Batch(number, sum(map(len, data)), pack.entries, segments)
            self._puts.append((batch, self._blocks.put_pack(number, data)))
        else:
            self._puts.append((Batch(segments=segments), None))
        self._record()

    def _record(self) -> None:
        """Hand the writer what is durable; wait where too much is under way."""
        batches = self._put_until(_PUTS)
        if batches:
            self._stage(batches)

    def _put_until(self, most: int) -> list[Batch]:
        """Return what is durable, in order, waiting until at most *most* packs are being put."""
        ready = 0
        for _, future in self._puts:
            if future is not None:
                if len(self._puts) - ready <= most and not future.done():
                    break
                future.result()  # what fails here leaves all of them to discard()
            ready += 1
        return [self._puts.popleft()[0] for _ in range(ready)]

    def _stage(self, batches: list[Batch]) -> None:
        """Have *batches* recorded; the encoders have enough to do while this waits for it."""
        ranges = self._ranges[len(self._listed) :]

        def change(transaction: Transaction) -> list[int]:
            for ids in ranges:
                block_rows.put_range(transaction, ids.start, ids.stop)
            return block_rows.stage(transaction, batches, self._blocks.health)

        self._staging = batches
        self._blocks.sweeper.bury(self._blocks.write(change))
        self._staging = ()
        self._listed += ranges
        for batch in batches:
            self._fresh.difference_update(entry.digest for entry in batch.entries)
