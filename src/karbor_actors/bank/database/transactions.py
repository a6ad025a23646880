"""What a bank's rows are read and written through: tables, snapshots and transactions."""

from __future__ import annotations

from enum import Enum
from itertools import islice, takewhile
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import lmdb

from karbor_actors.bank.database.faults import record_error
from karbor_actors.errors import BankError, BankFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_SCAN_BATCH = 256
HEADS: Final = 1000
"""The most that :meth:`Reader.heads` returns at once."""
MAX_KEY_SIZE = 511
"""The most bytes that LMDB 0.9 takes as a key."""


class Table(Enum):
    """The named databases of a bank. The names are part of the format."""

    META = b"meta"
    CHECKPOINTS = b"checkpoints"
    INDICES = b"indices"
    OBJECTS = b"objects"
    STREAMS = b"streams"
    BLOCKS = b"blocks"
    PACKS = b"packs"
    GARBAGE = b"garbage"
    OPERATIONS = b"operations"
    JOURNAL = b"journal"

    # Enum's own hashes the name each time: a fifth of what a small write costs.
    __hash__ = object.__hash__


class Reader:
    """What snapshots and transactions share: reading, by the thread that began it only."""

    __slots__ = ("_path", "_raw", "_tables", "_thread", "failure", "has_removed", "has_written")

    def __init__(self, raw: Any, tables: Mapping[Table, Any], path: str) -> None:
        self._raw = raw
        self._tables = tables
        self._path = path
        self._thread = get_ident()
        self.failure: lmdb.Error | None = None
        """What the database refused first; after that a transaction cannot be committed."""
        self.has_written = False
        """Whether a row was surely set or removed; here, so that a transaction is made at once."""
        self.has_removed = False
        """Whether a row was removed, and with it perhaps a page that the transaction itself took."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of *key*, or None."""
        if self._raw is None or self._thread != get_ident():  # as in put(): a call costs as much
            self._check()
        try:
            value: bytes | None = self._raw.get(key, db=self._tables[table])
        except lmdb.Error as error:
            self._fail(error)
        return value

    def has(self, table: Table, prefix: bytes) -> bool:
        """Return whether a key begins with *prefix*, which is not empty."""
        self._check()
        try:
            with self._raw.cursor(self._tables[table]) as cursor:
                found: bool = cursor.set_range(prefix) and cursor.key().startswith(prefix)
        except lmdb.Error as error:
            self._fail(error)
        return found

    def heads(self, table: Table, prefix: bytes, size: int, after: bytes = b"") -> list[bytes]:
        """Return how the keys begin that begin with *prefix*: their first *size* bytes, each once.

        At most HEADS of them, in order, those above *after* only. What lies between is leapt over.
        """
        self._check()
        found: list[bytes] = []
        following = _after(after) if after else prefix
        try:
            with self._raw.cursor(self._tables[table]) as cursor:
                while following and len(found) < HEADS and cursor.set_range(following):
                    head: bytes = cursor.key()[:size]
                    if not head.startswith(prefix):
                        break
                    found.append(head)
                    following = _after(head)
        except lmdb.Error as error:
            self._fail(error)
        return found

    def count(self, table: Table) -> int:
        """Return how many rows *table* has; costs the same for any number."""
        self._check()
        entries: int = self._raw.stat(self._tables[table])["entries"]
        return entries

    def scan(
        self, table: Table, prefix: bytes = b"", start: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose keys begin with *prefix*, in order, from key *start* on.

        Rows may be written and deleted meanwhile: what was written ahead of the scan is seen
        from the next batch of 256 rows on.
        """
        following = max(prefix, start)
        while True:
            batch = self._batch(table, prefix, following)
            yield from batch
            if len(batch) < _SCAN_BATCH:
                return
            following = batch[-1][0] + b"\x00"

    def scan_back(
        self, table: Table, prefix: bytes = b"", before: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose keys begin with *prefix*, last first, those below *before* only."""
        ends = [end for end in (_after(prefix), before) if end is not None]
        end = min(ends, default=None)
        while True:
            batch = self._batch_back(table, prefix, end)
            yield from batch
            if len(batch) < _SCAN_BATCH:
                return
            end = batch[-1][0]

    def last_key(self, table: Table, prefix: bytes) -> bytes | None:
        """Return the last key that begins with *prefix*, or None."""
        self._check()
        end = _after(prefix)
        try:
            with self._raw.cursor(self._tables[table]) as cursor:
                found = cursor.prev() if end and cursor.set_range(end) else cursor.last()
                key: bytes = cursor.key() if found else b""
        except lmdb.Error as error:
            self._fail(error)
        return key if found and key.startswith(prefix) else None

    def _batch(self, table: Table, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        self._check()
        try:
            with self._raw.cursor(self._tables[table]) as cursor:
                if not (cursor.set_range(start) if start else cursor.first()):
                    return []
                return _first_with(prefix, cursor.iternext())
        except lmdb.Error as error:
            self._fail(error)

    def _batch_back(
        self, table: Table, prefix: bytes, end: bytes | None
    ) -> list[tuple[bytes, bytes]]:
        self._check()
        try:
            with self._raw.cursor(self._tables[table]) as cursor:
                found = cursor.prev() if end and cursor.set_range(end) else cursor.last()
                if not found or end == b"":
                    return []
                return _first_with(prefix, cursor.iterprev())
        except lmdb.Error as error:
            self._fail(error)

    def _check(self) -> None:
        if self._raw is None:
            raise BankError("this transaction is over; read or write in a new one")
        if self._thread != get_ident():
            raise BankError("a transaction may be used only by the thread that began it")

    def _fail(self, error: lmdb.Error) -> NoReturn:
        """Raise *error* as the bank's, and remember it: a change may not hide it."""
        if isinstance(error, lmdb.BadValsizeError):
            raise BankFormatError(f"a key has from 1 to {MAX_KEY_SIZE} bytes") from error
        self.failure = self.failure or error
        raise record_error(error, self._path) from error


class Snapshot(Reader):
    """The rows as they were at one moment; leave it soon, since the map cannot grow meanwhile.

    A context manager. Never waits for the writer, nor the writer for it, but for a map that is
    being grown.
    """

    __slots__ = ("_on_close",)

    def __init__(
        self, raw: Any, tables: Mapping[Table, Any], path: str, on_close: Callable[[], None]
    ) -> None:
        super().__init__(raw, tables, path)
        self._on_close = on_close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshot, on the thread that began it. Idempotent."""
        if self._raw is not None:
            self._check()
            raw, self._raw = self._raw, None
            try:
                raw.abort()
            finally:
                self._on_close()


class Transaction(Reader):
    """A write transaction as changes see it: all of it is recorded, or nothing."""

    __slots__ = ()

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set the row *key*."""
        if self._raw is None or self._thread != get_ident():
            self._check()
        try:
            self._raw.put(key, value, db=self._tables[table])
        except lmdb.Error as error:
            self._fail(error)
        self.has_written = True

    def put_many(self, table: Table, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Set many rows; fastest where they are sorted by key."""
        self._check()
        try:
            with self._raw.cursor(self._tables[table]) as cursor:
                cursor.putmulti(rows)
        except lmdb.Error as error:
            self._fail(error)
        self.has_written = self.has_written or bool(rows)

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove the row *key*; return whether there was one."""
        if self._raw is None or self._thread != get_ident():  # as in put()
            self._check()
        self.has_removed = True
        try:
            there: bool = self._raw.delete(key, db=self._tables[table])
        except lmdb.Error as error:
            self._fail(error)
        return there

    def end(self) -> None:
        """Refuse all further use; called by the environment, which commits."""
        self._raw = None


def _first_with(prefix: bytes, rows: Iterator[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a batch of *rows*, up to the first whose key does not begin with *prefix*.

    What comes after that is not read: it may be many and large, and other checkpoints'.
    """
    batch = islice(rows, _SCAN_BATCH)
    return list(takewhile(lambda row: row[0].startswith(prefix), batch) if prefix else batch)


def _after(prefix: bytes) -> bytes | None:
    """Return the least key above all that begin with *prefix*; None where there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
