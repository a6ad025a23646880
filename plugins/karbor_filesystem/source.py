"""Reading one file: its data without its holes, and whether it stood still meanwhile."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Protocol

from karbor_filesystem.entries import MAX_EXTENTS

if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
# Something else may have taken the file's place: opening a fifo must not wait for a writer.
_OPEN_FILE |= os.O_NONBLOCK
_BLOCK = 512
_SETTLED_AFTER = 0.02
"""Seconds in which two changes may get the same time: two ticks of the slowest kernel clock."""


class Readable(Protocol):
    """What data is read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes; b"" at the end."""


def open_file(name: bytes, directory_fd: int) -> int:
    """Open *name* in a directory for reading, leaving its access time alone where permitted.

    Raises:
        OSError: It is missing, a link (ELOOP), or forbidden.
    """
    try:
        return os.open(name, _OPEN_FILE | os.O_NOATIME, dir_fd=directory_fd)
    except PermissionError:
        return os.open(name, _OPEN_FILE, dir_fd=directory_fd)


def is_same(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether a file was not written, replaced or altered in between."""
    return (
        before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
        and before.st_ino == after.st_ino
        and stat.S_IFMT(before.st_mode) == stat.S_IFMT(after.st_mode)
    )


def wait_settled(fd: int) -> os.stat_result:
    """Return a file's status once a further change would give the file another time.

    A file that is read in the very moment it is written could change once more without
    showing it, and a later protect would take it for unchanged.
    """
    status = os.fstat(fd)
    age = time.time() - status.st_ctime
    if 0 <= age < _SETTLED_AFTER:
        time.sleep(_SETTLED_AFTER - age)
        status = os.fstat(fd)
    return status


def find_extents(fd: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """Return (offset, length) of each run of data in a file, or None if it has no holes.

    Behind :data:`~karbor_filesystem.entries.MAX_EXTENTS` runs the rest counts as data.
    """
    size = status.st_size
    if status.st_blocks * _BLOCK >= size:
        return None
    extents: list[tuple[int, int]] = []
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        if start >= size:
            break
        if len(extents) == MAX_EXTENTS - 1:
            extents.append((start, size - start))
            break
        offset = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        extents.append((start, offset - start))
    return None if extents == [(0, size)] else extents


class FileSource:
    """The data of an open file as a readable, run by run.

    Args:
        fd: The file; stays the caller's to close.
        size: Where reading ends, even if the file grows.
        extents: Its runs of data, or None for all.
        count: Called with the length of each piece read.
    """

    def __init__(
        self,
        fd: int,
        size: int,
        extents: list[tuple[int, int]] | None,
        count: Callable[[int], None],
    ) -> None:
        self._fd, self._count = fd, count
        self._runs = iter([(0, size)] if extents is None else extents)
        self._position = self._end = 0
        self.shrunk_to: int | None = None
        """The offset at which the file ended too early, if it did."""

    def read(self, size: int = 1 << 20) -> bytes:
        """Return at most *size* bytes; b"" at the end.

        Raises:
            OSError: The file cannot be read.
            HookCancelledError: The operation is being cancelled.
        """
        if self.shrunk_to is not None:
            return b""
        while self._position == self._end:
            run = next(self._runs, None)
            if run is None:
                return b""
            self._position, self._end = run[0], run[0] + run[1]
        left = self._end - self._position
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._position)
        if not data:
            self.shrunk_to = self._position
            return b""
        self._position += len(data)
        self._count(len(data))
        return data


def cut_extents(extents: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Return the runs of data of a file that ended at *end*."""
    return [(start, min(length, end - start)) for start, length in extents if start < end]
