"""Directories and files reached by descriptors, so that no link can lead elsewhere."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DIRECTORY_TYPE = "FileSystem::Directory"
DATABASE_TYPE = "SQLite::Database"

MAX_PATH_BYTES = 503
"""The longest path that SQLite opens on Unix: 512 bytes, with room for ``-journal``."""

SIBLING_SUFFIXES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by what it appends to the name."""

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(path: str, parts: Sequence[str] = (), *, make: bool = False) -> int:
    """Return a descriptor of the directory *path*/*parts*; the caller closes it.

    Args:
        path: A directory whose last name may not be a link.
        parts: Names below it, none of which may be a link.
        make: Whether to make those of *parts* that are missing, as 0700.

    Raises:
        OSError: Something on the way is missing, a link, no directory, or forbidden.
    """
    fd = os.open(path, _OPEN_DIRECTORY)
    try:
        for part in parts:
            if make:
                _make_directory(part, fd)
            below = os.open(part, _OPEN_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_directory(name: str, parent_fd: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        return
    os.fsync(parent_fd)


@contextmanager
def directory(path: str, parts: Sequence[str] = (), *, make: bool = False) -> Iterator[int]:
    """Hold :func:`open_directory`'s descriptor for a ``with`` block."""
    fd = open_directory(path, parts, make=make)
    try:
        yield fd
    finally:
        os.close(fd)


def path_in(directory_fd: int, name: str) -> str:
    """Return a path by which SQLite finds *name* in the directory of *directory_fd*."""
    return f"/proc/self/fd/{directory_fd}/{name}"


def stat_at(directory_fd: int, name: str) -> os.stat_result | None:
    """Return what *name* in a directory is, a link as a link; None if it is missing."""
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove_at(directory_fd: int, name: str, remove: Callable[..., None] = os.unlink) -> None:
    """Remove *name* from a directory; a missing one is fine."""
    try:
        remove(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return


def identity(status: os.stat_result) -> list[int]:
    """Return what tells one file from another: its device and inode numbers."""
    return [status.st_dev, status.st_ino]


def regular_file(path: str) -> os.stat_result | None:
    """Return the status of *path* if it is a regular file itself, no link to one."""
    status = os.stat(path, follow_symlinks=False)
    return status if stat.S_ISREG(status.st_mode) else None
