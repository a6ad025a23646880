"""Laying changed extents over a stream that is stored already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from karbor_actors.arguments import argument_error, checked_count
from karbor_actors.bank.blocks.rows import HOLE
from karbor_actors.bank.streams.rows import block_count
from karbor_actors.store.codec import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from karbor_actors.bank.streams.reader import StreamReader

_HOLES = 1024
MAX_SIZE = (1 << 63) - 1
"""Bytes of a stream at most."""


def _checked(change: Any) -> tuple[int, memoryview]:
    """Return a change's offset, and its data as bytes."""
    try:
        offset, data = change
        left = memoryview(data).cast("B")
    except (TypeError, ValueError):
        raise argument_error("a change", "(offset, bytes)", change) from None
    return checked_count("the offset of a change", offset, least=0, most=MAX_SIZE), left


class Piece(NamedTuple):
    """The next blocks of a stream: one block's bytes, or the digests of stored ones."""

    raw: bytes | None = None
    digests: bytes = b""


class Patch:
    """*base* with *changes* over it, cut or filled up with zeros to *size*; iterate once.

    A block is read only if a change covers a part of it, or if its length changes.

    Args:
        base: the stream below.
        changes: (offset, bytes), in the order of their offsets, none over another.
        size: in bytes.
    """

    def __init__(self, base: StreamReader, changes: Iterable[tuple[int, bytes]], size: int) -> None:
        if size < 0:
            raise ValueError(f"no stream has {size} bytes")
        self._base = base
        self._changes = changes
        self._size = size
        # From this block on, lengths differ.
        self._same = block_count(size) if size == base.size else min(size, base.size) // BLOCK_SIZE

    def __iter__(self) -> Iterator[Piece]:
        following = end = 0
        changing = -1
        raw = bytearray()
        for change in self._changes:
            offset, left = _checked(change)
            if offset < end or offset + len(left) > self._size:
                raise ValueError(
                    f"the change at {offset} of {len(left)} bytes is out of order, over another, "
                    f"or beyond the size of {self._size}"
                )
            end = offset + len(left)
            while left:
                block, start = divmod(offset, BLOCK_SIZE)
                if block != changing:
                    if changing >= 0:
                        yield Piece(bytes(raw))
                        following = changing + 1
                    yield from self._keep(following, block)
                    changing, following = block, block
                    raw = self._load(block, is_replaced=not start and len(left) >= BLOCK_SIZE)
                part = left[: len(raw) - start]
                raw[start : start + len(part)] = part
                left = left[len(part) :]
                offset += len(part)
        if changing >= 0:
            yield Piece(bytes(raw))
            following = changing + 1
        yield from self._keep(following, block_count(self._size))

    def _keep(self, first: int, end: int) -> Iterator[Piece]:
        """Yield the unchanged blocks from *first* to before *end*."""
        if first < min(end, self._same):
            for digests in self._base.digests(first, min(end, self._same)):
                yield Piece(digests=digests)
        first = max(first, self._same)
        while first < end:
            if first < self._base.info.blocks:
                yield Piece(bytes(self._load(first)))
                first += 1
            else:
                count = min(end - first, _HOLES)
                yield Piece(digests=HOLE * count)
                first += count

    def _load(self, block: int, *, is_replaced: bool = False) -> bytearray:
        """Return a block of the base, as long as it is to be."""
        raw = bytearray(min(BLOCK_SIZE, self._size - block * BLOCK_SIZE))
        if block < self._base.info.blocks and not is_replaced:
            part = self._base.block(block)[: len(raw)]
            raw[: len(part)] = part
        return raw
