"""The list of a protected directory's entries, as streams of a bank section.

A manifest is cut into chunks of about 1 MiB, each a stream of packed entries, so that
neither writing nor reading holds more than one of them. The object ``directory`` of the
section says how many chunks and entries there are; it is written last.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgpack

from karbor_filesystem.entries import MAX_EXTENTS, Kind, entry_row, unpack_entry
from karbor_filesystem.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from karbor_filesystem.entries import Entry

FORMAT = 1
"""The version of the manifest's format."""
INFO_KEY = "directory"
"""The object that describes the manifest."""
CHUNK_SIZE = 1 << 20
"""Bytes after which a chunk is full."""
MAX_ENTRY = 16 << 20
"""Bytes of the largest entry: one with a great many attributes or holes."""
_MAX_CHUNK = CHUNK_SIZE + MAX_ENTRY


def chunk_key(number: int) -> str:
    """Return the key of the stream that holds chunk *number* of the manifest."""
    return f"manifest/{number:06x}"


def data_key(number: int) -> str:
    """Return the key of stream *number* of those that hold the data of files."""
    return f"data/{number:08x}"


class ManifestWriter:
    """Packs entries into chunks.

    Args:
        store: Stores a readable under a key; called once per full chunk.
    """

    def __init__(self, store: Callable[[str, io.BytesIO], object]) -> None:
        self._store = store
        self._pack = msgpack.Packer().pack
        self._buffer = bytearray()
        self.chunks = 0
        """Chunks stored so far."""
        self.entries = 0
        """Entries so far, which is the ordinal of the next one."""

    def add(self, entry: Entry) -> int:
        """Add *entry* and return its ordinal.

        Raises:
            ManifestError: The entry is larger than any reader would take.
        """
        return self.add_row(entry_row(entry))

    def add_row(self, row: list[Any]) -> int:
        """Add an entry as :func:`~karbor_filesystem.entries.entry_row` returns it.

        Raises:
            ManifestError: As for an entry.
        """
        packed = self._pack(row)
        if len(packed) > MAX_ENTRY:
            raise ManifestError(f"the attributes of {row[2]!r} take {len(packed)} bytes")
        self._buffer += packed
        if len(self._buffer) >= CHUNK_SIZE:
            self.flush()
        self.entries += 1
        return self.entries - 1

    def flush(self) -> None:
        """Store what is left as the last chunk."""
        if self._buffer:
            self._store(chunk_key(self.chunks), io.BytesIO(bytes(self._buffer)))
            self.chunks += 1
            self._buffer.clear()


class Manifest:
    """Reads the manifest of a bank section; safe with one that was forged.

    Args:
        section: The section of a protected directory.

    Raises:
        ManifestError: There is none, or it is of a newer format.
        BankError: The bank cannot be read.
    """

    def __init__(self, section: Any) -> None:
        self.section = section
        """The section that it was read from."""
        info = section.get_object(INFO_KEY)
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise ManifestError(
                "the checkpoint's manifest is of another format: use a newer release"
            )
        self.info: dict[str, Any] = info
        """What protect saved of the directory: counts, bytes, reports."""
        self.chunks = _count(info, "chunks")
        self.count = _count(info, "entries")
        """How many entries there are."""
        self.bytes = _count(info, "bytes")
        """Bytes of all files, holes included."""
        self.stored = _count(info, "bytes_stored") if "bytes_stored" in info else None
        """Bytes of all files without their holes: what a restore reads. None: nobody counted."""
        self.bundled, self.live = _count(info, "bundled"), _count(info, "bundled_live")
        """Bytes of all bundles, and of the files in them."""

    def entries(self) -> Iterator[Entry]:
        """Return every entry in the order of the walk, checked.

        Raises:
            ManifestError: While iterating: an entry is malformed or out of place.
            BankError: While iterating: the bank cannot be read.
        """
        return in_order(self.rows(), self.count)

    def rows(self) -> Iterator[Any]:
        """Return every entry as it was unpacked, unchecked.

        Raises:
            ManifestError: While iterating: a chunk is damaged.
            BankError: While iterating: the bank cannot be read.
        """
        for number in range(self.chunks):
            yield from unpack_rows(self._read_chunk(chunk_key(number)))

    def _read_chunk(self, key: str) -> bytes:
        with self.section.open_stream(key) as stream:
            if stream.size > _MAX_CHUNK:
                raise ManifestError(f"the chunk {key} of the manifest is too large to be one")
            parts = []
            while part := stream.read(CHUNK_SIZE):
                parts.append(part)
        return b"".join(parts)


def unpack_rows(chunk: bytes) -> Iterator[Any]:
    """Return the rows that *chunk* holds, unpacked but not checked.

    Raises:
        ManifestError: While iterating: it is not msgpack, or cut short.
    """
    unpacker = msgpack.Unpacker(
        max_buffer_size=_MAX_CHUNK,
        # An array's room is taken when its length is read, before any of its content.
        max_array_len=2 * MAX_EXTENTS + 64,
        max_map_len=65_536,
        max_str_len=0,
        max_ext_len=0,
    )
    unpacker.feed(chunk)
    end = 0
    while True:
        try:
            row = unpacker.unpack()
        except msgpack.OutOfData:
            break
        except (ValueError, msgpack.UnpackException) as error:
            raise ManifestError(f"the manifest is damaged: {error}") from error
        end = unpacker.tell()
        yield row
    if end != len(chunk):
        raise ManifestError("the manifest is damaged: a chunk ends within an entry")


def in_order(rows: Iterable[Any], count: int) -> Iterator[Entry]:
    """Return the checked entries of *rows*, of which there must be *count*.

    Raises:
        ManifestError: While iterating: a malformed entry; one that stands in no directory,
            stands twice or out of order; a link to nothing; more or fewer than *count*.
    """
    last_names: list[bytes] = []
    # Entries below the depth of this many directories have a place to be in.
    open_depth = 0
    linked: set[int] = set()
    ordinal = -1
    for ordinal, row in enumerate(rows):
        if ordinal >= count:
            raise ManifestError(f"the manifest has more than its {count} entries")
        entry = unpack_entry(row, ordinal)
        if (entry.depth == 0) != (ordinal == 0) or entry.depth > open_depth:
            raise ManifestError(f"entry {ordinal} of the manifest stands in no directory")
        del last_names[entry.depth + 1 :]
        if len(last_names) > entry.depth and entry.name <= last_names[entry.depth]:
            raise ManifestError(f"entry {ordinal} of the manifest stands twice or out of order")
        last_names[entry.depth :] = [entry.name]
        if ordinal == 0 and entry.kind is not Kind.DIRECTORY:
            raise ManifestError("the manifest does not begin with a directory")
        if entry.kind is Kind.LINK and entry.ordinal not in linked:
            raise ManifestError(f"entry {ordinal} of the manifest is a link to nothing")
        if entry.is_linked and entry.kind is not Kind.DIRECTORY:
            linked.add(ordinal)
        open_depth = entry.depth + (entry.kind is Kind.DIRECTORY)
        yield entry
    if ordinal + 1 != count or count == 0:
        raise ManifestError(f"the manifest has {ordinal + 1} of its {count} entries")


def _count(info: dict[str, Any], field: str) -> int:
    value = info.get(field)
    if type(value) is not int or value < 0:
        raise ManifestError(f"the checkpoint's manifest has no count of {field}")
    return value
