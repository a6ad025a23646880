"""Blocks: at most 1 MiB of a stream, named by its digest and compressed when that pays."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from enum import IntEnum

import zstandard

from karbor_actors.errors import BlockCorruptError

BLOCK_SIZE = 1 << 20
"""The most bytes that a block holds before compression."""
DIGEST_SIZE = 32
_LEVEL = 3


class Codec(IntEnum):
    """How a block's bytes are stored. The numbers are part of the format."""

    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Block:
    """A block as it is stored."""

    digest: bytes
    """Of the raw bytes, before compression."""
    raw_length: int
    codec: Codec
    data: bytes | memoryview


class _Contexts(threading.local):
    """zstd's working memory: costly to make, and for one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def digest_of(raw: bytes | bytearray | memoryview) -> bytes:
    """Return the 32 byte digest that names *raw*: SHA-256.

    Most processors have instructions for it: measured, twice as fast as BLAKE2b here. Releases
    the GIL for all but small blocks.
    """
    return hashlib.sha256(raw).digest()


def compress(raw: bytes) -> bytes:
    """Return *raw* as a frame of zstd that says how long it is. Any thread."""
    return _contexts.compressor.compress(raw)


def encode(raw: bytes, digest: bytes) -> Block:
    """Return *raw* as it is to be stored: compressed, or as it is where that saves nothing.

    Any thread; the GIL is released while it compresses.
    """
    data = compress(raw)
    if len(data) >= len(raw):
        return Block(digest, len(raw), Codec.RAW, raw)
    return Block(digest, len(raw), Codec.ZSTD, data)


def decode(
    data: bytes | memoryview, codec: int, raw_length: int, digest: bytes, where: str
) -> bytes:
    """Return the raw bytes of a stored block, which must have *digest*.

    Nothing about *data* is trusted: at most *raw_length*, itself at most ``BLOCK_SIZE``, bytes
    are allocated.

    Args:
        data: the stored bytes.
        codec: a Codec, as found in a record.
        raw_length: how many bytes must come out.
        digest: their digest.
        where: what the block belongs to, for the error.

    Raises:
        BlockCorruptError: they are not the bytes that were stored.
    """

    def corrupt(reason: str) -> BlockCorruptError:
        return BlockCorruptError(digest.hex(), where, reason)

    if not 0 <= raw_length <= BLOCK_SIZE:
        raise corrupt(f"no block holds {raw_length} bytes")
    match codec:
        case Codec.RAW:
            raw = bytes(data)
        case Codec.ZSTD:
            try:
                # The library allocates what the header claims, whatever maximum it is given.
                claimed = zstandard.frame_content_size(data)
                if claimed != raw_length:
                    raise corrupt(f"it holds {claimed} bytes, not {raw_length}")
                raw = _contexts.decompressor.decompress(
                    data, max_output_size=BLOCK_SIZE, allow_extra_data=False
                )
            except zstandard.ZstdError as error:
                raise corrupt(str(error)) from error
        case _:
            raise corrupt(f"codec {codec} is unknown")
    if len(raw) != raw_length:
        raise corrupt(f"it holds {len(raw)} bytes, not {raw_length}")
    if digest_of(raw) != digest:
        raise corrupt("its digest differs")
    return raw
