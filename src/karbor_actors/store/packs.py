"""Packs: the objects that hold a bank's blocks.

Format, all numbers big-endian: the blocks' stored bytes one after another; the index, msgpack of
``[[digest, offset, stored length, raw length, codec], ...]`` in order; the footer, which is the
index's length (4 bytes), its SHA-256 digest (32) and ``KARBORPACK`` with the format's version
(10 + 2). With the index, a lost database can be rebuilt from the packs alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from karbor_actors.errors import BankFormatError
from karbor_actors.store.codec import BLOCK_SIZE, DIGEST_SIZE, Codec, digest_of

if TYPE_CHECKING:
    from karbor_actors.store.codec import Block
    from karbor_actors.store.objects import Buffer, ObjectStore

PACK_TARGET = 8 << 20
"""A pack is full at this many stored bytes; the last block may go beyond it."""
PACK_LIMIT = 16 << 20
"""No pack is larger, its index included."""
MAX_BLOCKS = 8192
"""A pack is full at this many blocks, however small."""

_FOOTER = struct.Struct(">I32s10sH")
_MAGIC = b"KARBORPACK"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One block in a pack."""

    digest: bytes
    offset: int
    """Where its stored bytes begin in the object."""
    stored_length: int
    raw_length: int
    codec: int


class PackBuilder:
    """Collects blocks into one pack. For one thread."""

    def __init__(self) -> None:
        self.entries: list[PackEntry] = []
        self.size = 0
        """Stored bytes so far, without index and footer."""
        self._parts: list[Buffer] = []

    @property
    def is_full(self) -> bool:
        """Whether the pack should be finished."""
        return self.size >= PACK_TARGET or len(self.entries) >= MAX_BLOCKS

    def add(self, block: Block) -> None:
        """Append *block*; the pack must not be full."""
        length = len(block.data)
        self.entries.append(
            PackEntry(block.digest, self.size, length, block.raw_length, block.codec)
        )
        self._parts.append(block.data)
        self.size += length

    def finish(self) -> list[Buffer]:
        """Return the whole object, in parts."""
        index = msgpack.packb(
            [[e.digest, e.offset, e.stored_length, e.raw_length, e.codec] for e in self.entries]
        )
        footer = _FOOTER.pack(len(index), digest_of(index), _MAGIC, _VERSION)
        return [*self._parts, index, footer]


def read_index(store: ObjectStore, name: str) -> list[PackEntry]:
    """Return the blocks of the pack *name*, in order. Trusts nothing in it.

    Raises:
        ObjectNotFoundError: there is no such object.
        BankFormatError: it is no pack, is damaged, or was written by a newer release.
        StoreError: the store failed.
    """
    size = store.size(name)
    if not _FOOTER.size <= size <= PACK_LIMIT:
        raise BankFormatError(f"object {name} is no pack: it has {size} bytes")
    footer = store.get(name, size - _FOOTER.size)
    if len(footer) != _FOOTER.size:
        raise BankFormatError(f"object {name} is cut short")
    length, digest, magic, version = _FOOTER.unpack(footer)
    if magic != _MAGIC:
        raise BankFormatError(f"object {name} is no pack, or its end is damaged")
    if version != _VERSION:
        raise BankFormatError(f"pack {name} has format {version}; this release reads {_VERSION}")
    data_size = size - _FOOTER.size - length
    if data_size < 0:
        raise BankFormatError(f"the index of pack {name} is damaged")
    index = store.get(name, data_size, length)
    if digest_of(index) != digest:
        raise BankFormatError(f"the index of pack {name} is damaged")
    return _parse(index, data_size, name)


def _parse(index: bytes, data_size: int, name: str) -> list[PackEntry]:
    """Unpack an index whose digest fits; it may still be forged."""
    try:
        rows = msgpack.unpackb(
            index, max_array_len=MAX_BLOCKS, max_bin_len=DIGEST_SIZE, max_str_len=0, max_map_len=0
        )
    except ValueError as error:
        raise BankFormatError(f"the index of pack {name} is damaged: {error}") from error
    entries = []
    end = 0
    for row in rows if isinstance(rows, list) else [rows]:
        entry = _entry(row)
        if entry is None or entry.offset != end:
            raise BankFormatError(f"the index of pack {name} is damaged")
        end += entry.stored_length
        entries.append(entry)
    if end != data_size:
        raise BankFormatError(f"the index of pack {name} does not fit its data")
    return entries


def _entry(row: object) -> PackEntry | None:
    match row:
        case [bytes(digest), int(offset), int(stored), int(raw), int(codec)] if (
            len(digest) == DIGEST_SIZE
            and not any(isinstance(number, bool) for number in (offset, stored, raw, codec))
            and 0 < stored <= BLOCK_SIZE
            and 0 < raw <= BLOCK_SIZE
            and codec in tuple(Codec)
        ):
            return PackEntry(digest, offset, stored, raw, codec)
    return None
