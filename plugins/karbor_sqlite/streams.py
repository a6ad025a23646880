"""Moves bytes between files and a bank section, watching for a cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

STREAM = "database"
"""The key of the section's stream, which is the database file, and of the record about it."""

_CHUNK = 1 << 20


class WatchedReader:
    """A file to read that reports progress in bytes, and raises when the hook should stop."""

    def __init__(self, file: BinaryIO, total: int, context: Any) -> None:
        self._file, self._total, self._context = file, total, context
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes."""
        self._context.check_cancelled()
        data = self._file.read(size)
        self._done += len(data)
        self._context.progress(self._done, self._total, "bytes")
        return data


def copy_stream(section: Any, write: Callable[[bytes], object], context: Any) -> int:
    """Give the section's database to *write*, piece by piece; return its size in bytes."""
    with section.open_stream(STREAM) as stream:
        reader = WatchedReader(stream, stream.size, context)
        size = 0
        while data := reader.read(_CHUNK):
            write(data)
            size += len(data)
    return size
