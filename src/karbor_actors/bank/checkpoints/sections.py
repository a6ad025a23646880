"""Bank sections: where one resource of a checkpoint keeps its objects and streams."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

from karbor_actors.actors.blocking import check_may_block
from karbor_actors.arguments import argument_error, check_instance, checked_count
from karbor_actors.bank.admission import Guard, admit
from karbor_actors.bank.database.keys import (
    check_name,
    check_prefix,
    decode_name,
    encode_name,
    named_row,
    scan_start,
    section_prefix,
    split_row,
)
from karbor_actors.bank.database.records import pack_record, unpack_record
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.streams.streams import Streams
from karbor_actors.bank.streams.writer import StreamWriter, checked_key, stream_info
from karbor_actors.errors import (
    BankReadonlyError,
    ObjectNotFoundError,
    describe_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from karbor_actors.bank.database.transactions import Reader, Transaction
    from karbor_actors.bank.parts import BankParts
    from karbor_actors.bank.streams.streams import Readable, StreamInfo, StreamReader

_COPY_ROWS = 1000
_COPY_BYTES = 4 << 20


class BankSection:
    """A resource's place in a checkpoint: objects (records) and streams (bulk data), by key.

    A key is a non-empty string of parts between slashes: nearly any file name will do. A write
    is durable when it returns. Any thread may call it; on an event loop await the twins, whose
    names begin with ``a``.

    Args:
        parts: The open bank.
        checkpoint: The checkpoint's number in the bank.
        resource: The resource's number in the checkpoint's graph.
        name: What errors call the section.
        is_writable: Whether it may be written.
        prefix: Of all keys, for a sub-section: empty, or ending in a slash.
        guard: Is asked before each write.
    """

    def __init__(
        self,
        parts: BankParts,
        checkpoint: int,
        resource: int,
        *,
        name: str,
        is_writable: bool,
        prefix: str = "",
        guard: Guard | None = None,
    ) -> None:
        self.name = name
        """What errors call it: the checkpoint, the resource, and the path below."""
        self.is_writable = is_writable and parts.is_writable
        """Whether it may be written."""
        self._parts = parts
        self._checkpoint, self._resource = checkpoint, resource
        self._rows = section_prefix(checkpoint, resource)
        self._prefix = prefix
        self._raw_prefix = encode_name(prefix) if prefix else b""
        self._guard = guard
        self._streams = Streams(parts.blocks, self._rows, prefix, name=name, also=self._admit)

    def __repr__(self) -> str:
        return f"<BankSection {self.name}{'' if self.is_writable else ', read-only'}>"

    def get_sub_section(self, section: str, is_writable: bool = True) -> Self:
        """Return the section of the keys below ``section/``.

        Raises:
            BankReadonlyError: *is_writable*, and this section is read-only.
            BankKeyError: *section* cannot be part of a key.
        """
        check_name(section, "sub-section")
        if is_writable and not self.is_writable:
            raise BankReadonlyError(
                f"section {self.name} is read-only; ask for {describe_value(section)} "
                "with is_writable=False"
            )
        return type(self)(
            self._parts,
            self._checkpoint,
            self._resource,
            name=f"{self.name}/{section}",
            is_writable=is_writable,
            prefix=f"{self._prefix}{section}/",
            guard=self._guard,
        )

    def update_object(self, key: str, value: Any) -> None:
        """Set the object *key* to *value*, a plain value: what msgpack holds, with str as keys.

        Raises:
            BankKeyError: *key* can name nothing.
            BankValueError: *value* is not plain.
            RecordTooLargeError: It has more than 16 MiB; write it as a stream.
            BankReadonlyError: The section is read-only.
            CheckpointStateError: The checkpoint is finished.
            FencedError: The engine gave the calling hook up.
            BankError: The bank cannot write.
        """
        self._put([self._packed_row(key, value)])

    def update_objects(self, objects: Mapping[str, Any]) -> None:
        """Set several objects at once: all of them, or none. Raises as :meth:`update_object`."""
        check_instance("objects", objects, Mapping, "a mapping of keys to values")
        rows = [self._packed_row(key, value) for key, value in objects.items()]
        self._put(sorted(rows))

    def get_object(self, key: str) -> Any:
        """Return the object *key*; changing it changes nothing in the bank.

        Raises:
            ObjectNotFoundError: There is none.
            BankFormatError: It is damaged.
        """
        check_may_block("get_object()")
        row, _ = self._row(key)
        with self._parts.environment.snapshot() as snapshot:
            value = snapshot.get(Table.OBJECTS, row)
        if value is None:
            raise ObjectNotFoundError(key, self.name)
        _, packed = split_row(self._rows, row, value)
        return unpack_record(packed, f"object {describe_value(key)} of {self.name}")

    def delete_object(self, key: str) -> None:
        """Remove the object *key*. Raises as :meth:`get_object` and :meth:`update_object`."""
        row, _ = self._row(key)
        self._check_writable()

        def change(transaction: Transaction) -> bool:
            self._admit(transaction)
            return transaction.delete(Table.OBJECTS, row)

        if not self._parts.writer.write(change):
            raise ObjectNotFoundError(key, self.name)

    def list_objects(
        self, prefix: str | None = "", *, limit: int | None = None, marker: str | None = None
    ) -> list[str]:
        """Return the keys, sorted, of the objects here and in the sub-sections.

        Args:
            prefix: What they begin with; need not be whole parts.
            limit: How many at most.
            marker: Return only what comes after this key.

        Raises:
            BankKeyError: No key can begin with *prefix*, or the limit or the marker is none.
        """
        check_may_block("list_objects()")
        checked_count("limit", limit, least=0, or_none=True)
        if marker:
            check_name(marker, "marker")
        with self._parts.environment.snapshot() as snapshot:
            raws = [raw for raw, _ in self._scan(snapshot, check_prefix(prefix))]
        skipped = len(self._raw_prefix)
        keys = sorted(decode_name(raw[skipped:]) for raw in raws)
        if marker is not None:
            keys = [key for key in keys if key > marker]
        return keys[:limit]

    def write_stream(
        self,
        key: str,
        readable: Readable | Iterable[tuple[int, bytes]],
        *,
        base: StreamInfo | StreamReader | None = None,
        size: int | None = None,
    ) -> StreamInfo:
        """Store a stream as *key*; durable and visible on return.

        Args:
            key: As for objects, but a name of its own: an object may have the same.
            readable: Has ``read(n)``, and is read to its end. With *base*: the changes to it,
                (offset, bytes) in the order of their offsets, none over another.
            base: A stream of this bank.
            size: With *base*, the new stream's size in bytes, the base's by default.

        Raises:
            BankKeyError: *key* can name nothing.
            BankReadonlyError: The section is read-only.
            FencedError: The engine gave the calling hook up.
            BankError: The bank or its object store cannot write.
        """
        with self.stream_writer() as writer:
            if base is None:
                return writer.add(key, cast("Readable", readable))
            changes = cast("Iterable[tuple[int, bytes]]", readable)
            return writer.patch(key, changes, base=base, size=size)

    def stream_writer(self) -> StreamWriter:
        """Return a context manager that stores many streams, small ones packed together.

        All become durable and visible together when its block ends well; else none does.
        """
        check_may_block("storing a stream")
        self._check_writable()
        return StreamWriter(self._parts.blocks, self._rows, self._prefix, also=self._admit)

    def open_stream(self, key: str) -> StreamReader:
        """Return the stream *key* as a file for reading; its blocks are verified as they are read.

        Raises:
            ObjectNotFoundError: There is none.
        """
        check_may_block("open_stream()")
        return self._streams.open(checked_key(key))

    def list_streams(self, prefix: str | None = "") -> list[StreamInfo]:
        """Return the streams whose keys begin with *prefix*, sorted by key.

        Raises:
            BankKeyError: No key can begin with *prefix*.
        """
        check_may_block("list_streams()")
        return sorted(self._streams.list(check_prefix(prefix)), key=lambda info: info.key)

    def iterate_streams(self, prefix: str = "") -> Iterator[StreamInfo]:
        """Yield what :meth:`list_streams` lists, nearly sorted, a few at a time."""
        return self._streams.list(prefix)

    def delete_stream(self, key: str) -> None:
        """Remove the stream *key*; its blocks go when nothing else names them.

        Raises:
            ObjectNotFoundError: There is none.
        """
        self._check_writable()
        self._streams.delete(checked_key(key))

    def reuse_stream(self, stream: StreamInfo | StreamReader, key: str | None = None) -> StreamInfo:
        """Add *stream*, of this bank, as *key* (its own without one), without reading it."""
        with self.stream_writer() as writer:
            return writer.reuse(stream_info(stream).key if key is None else key, stream)

    def copy_to(self, other: BankSection) -> None:
        """Copy all objects and streams to *other*, which may be in another bank.

        In pieces: what a failure interrupts is partly there, and may be done again.

        Raises:
            ArgumentError: One of the two is in the other.
            BankReadonlyError: *other* is read-only.
        """
        check_instance("other", other, BankSection, "a BankSection")
        other._check_writable()
        if self._overlaps(other):
            raise argument_error("other", f"a section neither in {self.name} nor over it", other)
        following: bytes | None = b""
        while following is not None:
            rows, following = self._copy_rows(other, following)
            other._put(rows)
        self._streams.copy_to(other._streams)

    # -- for the event loop, where what blocks raises

    async def aupdate_object(self, key: str, value: Any) -> None:
        """Do :meth:`update_object` without blocking the event loop."""
        await asyncio.to_thread(self.update_object, key, value)

    async def aupdate_objects(self, objects: Mapping[str, Any]) -> None:
        """Do :meth:`update_objects` without blocking the event loop."""
        await asyncio.to_thread(self.update_objects, objects)

    async def aget_object(self, key: str) -> Any:
        """Do :meth:`get_object` without blocking the event loop."""
        return await asyncio.to_thread(self.get_object, key)

    async def adelete_object(self, key: str) -> None:
        """Do :meth:`delete_object` without blocking the event loop."""
        await asyncio.to_thread(self.delete_object, key)

    async def alist_objects(
        self, prefix: str | None = "", *, limit: int | None = None, marker: str | None = None
    ) -> list[str]:
        """Do :meth:`list_objects` without blocking the event loop."""
        return await asyncio.to_thread(self.list_objects, prefix, limit=limit, marker=marker)

    async def awrite_stream(
        self,
        key: str,
        readable: Readable | Iterable[tuple[int, bytes]],
        *,
        base: StreamInfo | StreamReader | None = None,
        size: int | None = None,
    ) -> StreamInfo:
        """Do :meth:`write_stream` without blocking the event loop."""
        return await asyncio.to_thread(self.write_stream, key, readable, base=base, size=size)

    async def alist_streams(self, prefix: str | None = "") -> list[StreamInfo]:
        """Do :meth:`list_streams` without blocking the event loop."""
        return await asyncio.to_thread(self.list_streams, prefix)

    async def adelete_stream(self, key: str) -> None:
        """Do :meth:`delete_stream` without blocking the event loop."""
        await asyncio.to_thread(self.delete_stream, key)

    async def areuse_stream(
        self, stream: StreamInfo | StreamReader, key: str | None = None
    ) -> StreamInfo:
        """Do :meth:`reuse_stream` without blocking the event loop."""
        return await asyncio.to_thread(self.reuse_stream, stream, key)

    async def acopy_to(self, other: BankSection) -> None:
        """Do :meth:`copy_to` without blocking the event loop."""
        await asyncio.to_thread(self.copy_to, other)

    # -- inside

    def _check_writable(self) -> None:
        if not self.is_writable:
            raise BankReadonlyError(f"section {self.name} is read-only")
        if self._guard is not None:
            self._guard.check()

    def _admit(self, transaction: Transaction) -> None:
        """Refuse, within the transaction, what a given-up hook writes, or what comes too late."""
        if self._guard is not None:
            self._guard.check()
        checkpoint_id = self.name.partition("/")[0]
        admit(transaction, self._checkpoint, checkpoint_id, is_guarded=self._guard is not None)

    def _overlaps(self, other: BankSection) -> bool:
        """Return whether one of the two is in the other, or is it."""
        mine = self._parts.environment.path, self._rows
        its = other._parts.environment.path, other._rows
        is_in = self._prefix.startswith(other._prefix) or other._prefix.startswith(self._prefix)
        return mine == its and is_in

    def _row(self, key: str) -> tuple[bytes, bytes]:
        raw = self._raw_prefix + encode_name(checked_key(key))
        return named_row(self._rows, raw)

    def _packed_row(self, key: str, value: Any) -> tuple[bytes, bytes]:
        row, head = self._row(key)
        return row, head + pack_record(value, f"object {describe_value(key)} of {self.name}")

    def _put(self, rows: list[tuple[bytes, bytes]]) -> None:
        """Set whole rows of this section, unless its checkpoint is gone."""
        self._check_writable()
        if not rows:
            return

        def change(transaction: Transaction) -> None:
            self._admit(transaction)
            transaction.put_many(Table.OBJECTS, rows)

        self._parts.writer.write(change)

    def _scan(self, reader: Reader, prefix: str) -> Iterator[tuple[bytes, memoryview]]:
        """Yield names in bytes (with the sub-section's), and values, in the rows' order."""
        wanted = self._raw_prefix + (encode_name(prefix) if prefix else b"")
        for key, value in reader.scan(Table.OBJECTS, self._rows + scan_start(wanted)):
            raw, packed = split_row(self._rows, key, value)
            if raw.startswith(wanted):
                yield raw, packed

    def _copy_rows(
        self, other: BankSection, following: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Return some rows, as *other* names them, and where to go on."""
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        with self._parts.environment.snapshot() as snapshot:
            prefix = self._rows + scan_start(self._raw_prefix)
            for key, value in snapshot.scan(Table.OBJECTS, prefix, following):
                if size >= _COPY_BYTES or len(rows) >= _COPY_ROWS:
                    return sorted(rows), key
                raw, packed = split_row(self._rows, key, value)
                if raw.startswith(self._raw_prefix):
                    name = other._raw_prefix + raw[len(self._raw_prefix) :]
                    row, head = named_row(other._rows, name)
                    rows.append((row, head + bytes(packed)))
                    size += len(value)
        return sorted(rows), None
