"""Manifests: what a checkpoint is, in the object store, so that lost records can be made again.

A manifest is ``checkpoints/<bank>/<checkpoint>/head`` and, where it does not fit in that, numbered
objects beside it, which hold what comes first. Each object is zstd of msgpack values one after
another, then a footer, big-endian: the length before compression (8 bytes), its SHA-256 digest
(32) and ``KARBORMANIFEST`` with the format's version (14 + 2).

The values are flat lists, which begin with what they are:

- ``manifest``, id, status, holds, the other objects' sizes and digests: the first of the head;
- ``row``, ``graph``: a piece of the checkpoint's row, of its packed graph;
- ``artifacts``, ``consistency``, ``empty``, ``errors``, ``status``: resource, value;
- ``object``: resource, key, packed value;
- ``stream``: resource, key, size, stored at, new blocks, new bytes; then ``blocks``: digests of
  its blocks, any number of times.

Names are bytes as ``keys`` encodes them. What is read is trusted in nothing.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack
import zstandard

from karbor_actors.bank.database.records import pack_plain, unpack_record
from karbor_actors.errors import BankFormatError, ObjectNotFoundError, RecordTooLargeError
from karbor_actors.model import CheckpointStatus
from karbor_actors.store.codec import compress, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from karbor_actors.store.objects import ObjectStore

FOLDER = "checkpoints"
MANIFEST = "manifest"
ROW, GRAPH = "row", "graph"
CONSISTENCY, ERRORS, STATUS = "consistency", "errors", "status"
ARTIFACTS, EMPTY = "artifacts", "empty"
OBJECT, STREAM, BLOCKS = "object", "stream", "blocks"

Record = list[Any]
"""A value of a manifest: what it is, then int, float, str and bytes."""

CHUNK = 4 << 20
"""An object is full at this many bytes before compression."""
_MAX_SIZE = 64 << 20
"""The most bytes of one object, before compression."""
_MAX_STORED = _MAX_SIZE + (1 << 20)
_MAX_FIELDS = 8
_HEAD_FIELDS = 5
_VERSION = 1
_MAGIC = b"KARBORMANIFEST"
_FOOTER = struct.Struct(">Q32s14sH")
_CHUNK = struct.Struct(">Q32s")
_PLAIN_ID = re.compile(r"(?!digest-)[a-z0-9_-]{1,80}")
_KEPT = {CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL, CheckpointStatus.DELETING}


@dataclass(frozen=True, slots=True)
class Chunk:
    """One of a manifest's numbered objects."""

    stored_size: int
    digest: bytes
    """Of its bytes before compression."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is read first of a manifest."""

    id: str
    status: CheckpointStatus
    """``available``, ``partial``, or ``deleting`` once a delete has begun."""
    holds: tuple[tuple[str, float], ...]
    chunks: tuple[Chunk, ...]
    rest: bytes
    """The values that follow those of the chunks, as msgpack."""

    def pack(self) -> bytes:
        """Return the head's object."""
        holds = pack_plain([list(hold) for hold in self.holds], "holds")
        chunks = b"".join(_CHUNK.pack(chunk.stored_size, chunk.digest) for chunk in self.chunks)
        record = [MANIFEST, self.id, self.status.value, holds, chunks]
        return seal(pack_value(record) + self.rest)[0]


def bank_folder(bank_id: bytes) -> str:
    """Return the folder of a bank's manifests."""
    return f"{FOLDER}/{bank_id.hex()}"


def folder_part(checkpoint_id: str) -> str:
    """Return what a checkpoint's manifest is called: its id, or what stands for an odd one."""
    if _PLAIN_ID.fullmatch(checkpoint_id):
        return checkpoint_id
    raw = checkpoint_id.encode("utf-8", "surrogatepass")
    return f"digest-{hashlib.sha256(raw).hexdigest()}"


def head_name(folder: str) -> str:
    """Return the name of a manifest's head."""
    return f"{folder}/head"


def chunk_name(folder: str, number: int) -> str:
    """Return the name of the object *number* of a manifest."""
    return f"{folder}/{number:08x}"


def pack_value(record: Record) -> bytes:
    """Return *record* as msgpack."""
    packed: bytes = msgpack.packb(record, unicode_errors="surrogateescape")
    return packed


def seal(raw: bytes) -> tuple[bytes, bytes]:
    """Return the object that holds *raw*, and the digest of *raw*.

    Raises:
        RecordTooLargeError: It is too large to be read again.
    """
    if len(raw) > _MAX_SIZE:
        raise RecordTooLargeError(f"a part of a manifest has {len(raw)} bytes, over {_MAX_SIZE}")
    digest = digest_of(raw)
    return compress(raw) + _FOOTER.pack(len(raw), digest, _MAGIC, _VERSION), digest


def unseal(data: bytes, name: str, wanted: bytes | None = None) -> bytes:
    """Return what :func:`seal` was given; with digest *wanted*, where that is said.

    Raises:
        BankFormatError: *data* is damaged, or was written by a newer release.
    """
    if not _FOOTER.size <= len(data) <= _MAX_STORED:
        raise BankFormatError(f"object {name} is no manifest: it has {len(data)} bytes or more")
    length, digest, magic, version = _FOOTER.unpack(data[-_FOOTER.size :])
    if magic != _MAGIC:
        raise BankFormatError(f"object {name} is no manifest, or its end is damaged")
    if version != _VERSION:
        raise BankFormatError(f"{name} has format {version}; this release reads {_VERSION}")
    body = data[: -_FOOTER.size]
    try:
        # The library allocates what the frame's header claims.
        if length > _MAX_SIZE or zstandard.frame_content_size(body) != length:
            raise BankFormatError(f"object {name} is damaged: its lengths differ")
        raw = zstandard.ZstdDecompressor().decompress(
            body, max_output_size=_MAX_SIZE, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise BankFormatError(f"object {name} is damaged: {error}") from error
    if len(raw) != length or digest_of(raw) != digest:
        raise BankFormatError(f"object {name} is damaged: its digest differs")
    if wanted is not None and digest != wanted:
        raise BankFormatError(f"object {name} is not the one that its manifest names")
    return raw


def unpack_values(raw: bytes, name: str, start: int = 0) -> Iterator[tuple[Record, int]]:
    """Yield the values in *raw* from *start* on, and where each ends.

    Raises:
        BankFormatError: Something else is among them.
    """
    unpacker = msgpack.Unpacker(
        unicode_errors="surrogateescape",
        max_buffer_size=_MAX_SIZE,
        max_array_len=_MAX_FIELDS,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(memoryview(raw)[start:])
    end = start
    try:
        for value in unpacker:
            if not isinstance(value, list) or not value or not isinstance(value[0], str):
                raise BankFormatError(f"object {name} is damaged: it holds an odd value")
            end = start + unpacker.tell()
            yield value, end
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        if isinstance(error, BankFormatError):
            raise
        raise BankFormatError(f"object {name} is damaged: {error}") from error
    if end != len(raw):
        raise BankFormatError(f"object {name} is damaged: it ends in the middle of a value")


def read_head(store: ObjectStore, folder: str) -> Head:
    """Return the head of the manifest in *folder*.

    Raises:
        ObjectNotFoundError: There is none.
        BankFormatError: It is damaged, or of another checkpoint.
        StoreError: The store failed.
    """
    name = head_name(folder)
    raw = unseal(store.get(name, 0, _MAX_STORED + 1), name)
    record, end = next(unpack_values(raw, name), ([], 0))
    match record:
        case ["manifest", str(checkpoint_id), str(status), bytes(holds), bytes(chunks)]:
            try:
                head = Head(
                    checkpoint_id,
                    CheckpointStatus(status),
                    tuple((str(why), float(at)) for why, at in unpack_record(holds, name)),
                    tuple(Chunk(*fields) for fields in _CHUNK.iter_unpack(chunks)),
                    raw[end:],
                )
            except (ValueError, TypeError, struct.error) as error:
                raise BankFormatError(f"object {name} is damaged: {error}") from error
        case _:
            raise BankFormatError(f"object {name} is damaged: it begins with an odd value")
    if head.status not in _KEPT or f"/{folder_part(head.id)}" != folder[folder.rindex("/") :]:
        raise BankFormatError(f"object {name} is of another checkpoint, or of none that was made")
    return head


def read_chunk(store: ObjectStore, folder: str, number: int, chunk: Chunk) -> Iterator[Record]:
    """Yield the values of a manifest's object *number*. Raises as :func:`read_head`."""
    name = chunk_name(folder, number)
    raw = unseal(store.get(name, 0, _MAX_STORED + 1), name, chunk.digest)
    for record, _ in unpack_values(raw, name):
        yield record


def read_values(store: ObjectStore, folder: str, head: Head) -> Iterator[Record]:
    """Yield all values of a manifest after its head's first. Raises as :func:`read_head`."""
    for number, chunk in enumerate(head.chunks):
        yield from read_chunk(store, folder, number, chunk)
    for record, _ in unpack_values(head.rest, head_name(folder)):
        yield record


def put_manifest(
    store: ObjectStore,
    folder: str,
    checkpoint_id: str,
    status: CheckpointStatus,
    holds: tuple[tuple[str, float], ...],
    records: Iterable[Record],
    before_chunks: Callable[[], object] = lambda: None,
) -> None:
    """Store a manifest, its head last: durable on return. Holds one chunk in memory.

    Calls *before_chunks* before it puts more than a head.
    """
    chunks: list[Chunk] = []
    parts: list[bytes] = []
    size = 0
    for record in records:
        parts.append(pack_value(record))
        size += len(parts[-1])
        if size >= CHUNK:
            if not chunks:
                before_chunks()
            data, digest = seal(b"".join(parts))
            store.put(chunk_name(folder, len(chunks)), data)
            chunks.append(Chunk(len(data), digest))
            parts, size = [], 0
    head = Head(checkpoint_id, status, holds, tuple(chunks), b"".join(parts))
    store.put(head_name(folder), head.pack())


def remove_manifest(store: ObjectStore, folder: str) -> None:
    """Remove a manifest or what there is of one, its head last. Repeatable."""
    try:
        chunks = len(read_head(store, folder).chunks)
        names = [chunk_name(folder, number) for number in range(chunks)]
    except (BankFormatError, ObjectNotFoundError):
        names = [name for name, _ in store.list(folder) if name != head_name(folder)]
    for name in names:
        store.delete(name)
    store.delete(head_name(folder))
