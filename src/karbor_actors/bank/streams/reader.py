"""Reading a stream: block by block, each verified, the next ones fetched ahead."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks.rows import HOLE, segment_key, segment_rows
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import ObjectNotFoundError
from karbor_actors.liveness import data_moved
from karbor_actors.store.codec import BLOCK_SIZE, DIGEST_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.database.transactions import Reader
    from karbor_actors.bank.streams.rows import StreamInfo

_PAGE = 4096
AHEAD = 2
"""How many blocks are read ahead."""


class StreamReader(io.RawIOBase):
    """A stream, open for reading; from one thread at a time.

    ``read(n)`` returns n bytes unless the stream ends. What is read is what was stored: every
    block's digest is verified.

    Raises:
        BlockCorruptError: a block's bytes are not those that were stored.
        BlockMissingError: a block is gone.
        ObjectNotFoundError: the stream was deleted while it was read.
    """

    def __init__(self, blocks: BlockStore, info: StreamInfo, section: str = "") -> None:
        super().__init__()
        self.info = info
        self._blocks = blocks
        self._section = section
        self._where = f"stream {info.key!r} of {section}" if section else f"stream {info.key!r}"
        self._position = 0
        self._current = -1
        self._raw = b""
        self._page_first = 0
        self._page = b""
        self._ahead: dict[int, Future[bytes]] = {}

    @property
    def size(self) -> int:
        """The stream's length in bytes."""
        return self.info.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes from the start."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to *offset* from the start, the position or the end; return the new position."""
        self._check_open()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        if whence not in bases:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence!r}")
        if bases[whence] + offset < 0:
            raise ValueError("cannot seek to before the start")
        self._position = bases[whence] + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return *size* bytes, fewer where the stream ends; all that is left by default."""
        self._check_open()
        left = max(0, self.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted:
            part = self._part(wanted)
            parts.append(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        """Return all that is left."""
        return self.read()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill *buffer* and return how many bytes were read, 0 at the end."""
        self._check_open()
        with memoryview(buffer).cast("B") as view:
            done = 0
            while done < len(view) and self._position < self.size:
                part = self._part(len(view) - done)
                view[done : done + len(part)] = part
                done += len(part)
        return done

    def close(self) -> None:
        """Drop what was read ahead. Idempotent."""
        ahead, self._ahead = self._ahead, {}
        for future in ahead.values():
            future.cancel()
        self._raw = b""
        self._current = -1
        super().close()

    def block_length(self, block: int) -> int:
        """Return how many bytes block number *block* has."""
        return min(BLOCK_SIZE, self.size - block * BLOCK_SIZE)

    def block(self, block: int, following: Sequence[int] = ()) -> bytes:
        """Return the bytes of block number *block*; have the *following* read meanwhile."""
        data_moved()
        future = self._ahead.pop(block, None)
        if following or self._ahead:
            self._fetch_ahead(following)
        if future is not None:
            return future.result()
        return self._blocks.read(self.digest(block), self.block_length(block), self._where)

    def digest(self, block: int) -> bytes:
        """Return the digest of block number *block*."""
        at = block - self._page_first
        if not 0 <= at < len(self._page) // DIGEST_SIZE:
            self._page_first, self._page = block, self._load(block)
            at = 0
        return self._page[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE]

    def digests(self, first: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the digests of blocks *first* to before *end*, some thousands at a time joined."""
        end = self.info.blocks if end is None else end
        while first < end:
            page = self._load(first)[: (end - first) * DIGEST_SIZE]
            yield page
            first += len(page) // DIGEST_SIZE

    def _part(self, wanted: int) -> bytes:
        """Return up to *wanted* bytes from the position on, of one block, and move on."""
        block, start = divmod(self._position, BLOCK_SIZE)
        if block != self._current:
            is_next = block == self._current + 1
            end = min(block + 1 + AHEAD, self.info.blocks) if is_next else 0
            self._raw = self.block(block, range(block + 1, end))
            self._current = block
        part = self._raw[start : start + wanted]  # no copy where it is all of the block
        self._position += len(part)
        return part

    def _fetch_ahead(self, blocks: Sequence[int]) -> None:
        """Have *blocks* read on other threads; forget all others."""
        for passed in [block for block in self._ahead if block not in blocks]:
            self._ahead.pop(passed).cancel()
        for block in blocks:
            if block not in self._ahead and (digest := self.digest(block)) != HOLE:
                length = self.block_length(block)
                self._ahead[block] = self._blocks.submit_read(digest, length, self._where)

    def _load(self, block: int) -> bytes:
        """Return the digests from *block* on, as many as make a page."""
        with self._blocks.environment.snapshot() as snapshot:
            whole = self._load_whole(snapshot)
            if whole is not None:
                return whole[block * DIGEST_SIZE :]
            page = bytearray()
            following = block
            for _, last, digests in segment_rows(snapshot, self.info.id, block):
                first = last + 1 - len(digests) // DIGEST_SIZE
                if first > following or (page and first < following) or last >= self.info.blocks:
                    break
                page += digests[(following - first) * DIGEST_SIZE :]
                following = last + 1
                if len(page) >= _PAGE * DIGEST_SIZE:
                    break
        if not page:
            raise ObjectNotFoundError(self.info.key, self._section)
        return bytes(page)

    def _load_whole(self, snapshot: Reader) -> bytes | None:
        """Return all digests of a stream that has one segment, by one look-up."""
        if self.info.blocks > _PAGE:
            return None
        digests = snapshot.get(Table.STREAMS, segment_key(self.info.id, self.info.blocks - 1))
        if digests is None or len(digests) != self.info.blocks * DIGEST_SIZE:
            return None
        return digests

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("this stream was closed")
