"""The streams of a section: bulk data, stored as blocks that checkpoints share."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from karbor_actors.bank.database.keys import check_name, encode_name, scan_start
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.streams.reader import StreamReader
from karbor_actors.bank.streams.rows import (
    StreamInfo,
    hide,
    hide_one,
    row_key,
    rows_prefix,
    unpack_row,
)
from karbor_actors.bank.streams.session import Readable, StreamSession
from karbor_actors.bank.writer import write_in_steps
from karbor_actors.errors import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.writer import Change

__all__ = ["Readable", "StreamInfo", "StreamReader", "StreamSession", "Streams", "delete_streams"]

_BATCH = 256
_STEP = 2048
"""How many streams one transaction hides."""


class Streams:
    """The streams of one section of a bank. Any thread may call it.

    Args:
        blocks: the bank's blocks.
        scope: what all rows of the section begin with; of one length, so that none begins another.
        prefix: of all keys, for a sub-section: empty, or ending in a slash.
        name: what errors call the section.
        also: runs in each transaction that changes what is visible; it raises to refuse that.
    """

    def __init__(
        self,
        blocks: BlockStore,
        scope: bytes,
        prefix: str = "",
        *,
        name: str = "",
        also: Change[None] | None = None,
    ) -> None:
        self._blocks = blocks
        self._scope = scope
        self._name = name
        self._prefix = prefix
        self._raw_prefix = encode_name(prefix) if prefix else b""
        self._also = also

    def session(self) -> StreamSession:
        """Return a context manager that adds streams; all become visible together."""
        return StreamSession(self._blocks, self._scope, self._prefix, also=self._also)

    def info(self, key: str) -> StreamInfo:
        """Return what is known of the stream *key*.

        Raises:
            ObjectNotFoundError: there is none.
        """
        row = self._row_key(key)
        with self._blocks.environment.snapshot() as snapshot:
            value = snapshot.get(Table.STREAMS, row)
        if value is None:
            raise ObjectNotFoundError(key, self._name)
        return self._unpack(row, value)[1]

    def open(self, key: str) -> StreamReader:
        """Return the stream *key*, open for reading.

        Raises:
            ObjectNotFoundError: there is none.
        """
        return StreamReader(self._blocks, self.info(key), self._name)

    def list(self, prefix: str = "") -> Iterator[StreamInfo]:
        """Yield the streams whose keys begin with *prefix*, in the order of the keys' bytes.

        Keys that share their first 400 bytes come in any order.
        """
        wanted = self._raw_prefix + (encode_name(prefix) if prefix else b"")
        rows_wanted = rows_prefix(self._scope) + scan_start(wanted)
        start = b""
        while True:
            with self._blocks.environment.snapshot() as snapshot:
                rows = list(islice(snapshot.scan(Table.STREAMS, rows_wanted, start), _BATCH))
            for key, value in rows:
                raw, info = self._unpack(key, value)
                if raw.startswith(wanted):
                    yield info
            if len(rows) < _BATCH:
                return
            start = rows[-1][0] + b"\x00"

    def delete(self, key: str) -> None:
        """Delete the stream *key*; what nobody else needs of it is freed.

        Raises:
            ObjectNotFoundError: there is none.
        """
        row = self._row_key(key)

        def change(transaction: Transaction) -> bool:
            if self._also is not None:
                self._also(transaction)
            return hide_one(transaction, row)

        if not self._blocks.write(change):
            raise ObjectNotFoundError(key, self._name)
        self._blocks.sweeper.sweep()

    def copy_to(self, target: Streams) -> None:
        """Store every stream in *target* too, of this bank or another; all visible together."""
        with target.session() as session:
            for info in self.list():
                with StreamReader(self._blocks, info, self._name) as reader:
                    session.copy(info.key, reader)

    def _row_key(self, key: str) -> bytes:
        return row_key(self._scope, encode_name(self._prefix + check_name(key)))

    def _unpack(self, key: bytes, value: bytes) -> tuple[bytes, StreamInfo]:
        bank_id, skipped = self._blocks.bank_id, len(self._raw_prefix)
        return unpack_row(self._scope, key, value, bank_id, skipped)


def delete_streams(blocks: BlockStore, scope: bytes) -> None:
    """Delete all streams of the sections that begin with *scope*, and free what nobody else needs.

    In transactions of bounded size; interrupted, it is done again.
    """

    def hiding(limit: int) -> Change[bool]:
        return lambda transaction: hide(transaction, scope, limit) < limit

    write_in_steps(blocks.write, hiding, _STEP)
    blocks.sweeper.sweep()
