"""Walking a tree by directory descriptors, so that no path can lead elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from karbor_filesystem.errors import MovedError

if TYPE_CHECKING:
    from types import TracebackType

_KEPT_OPEN = 48
"""Descriptors kept per walk; directories above are opened again through ``..``."""
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    fd: int
    device: int
    inode: int
    name: bytes


def open_directory(name: bytes, parent_fd: int | None = None) -> int:
    """Open a directory for reading; the last name is never followed if it is a link.

    Args:
        name: A name in *parent_fd*, or an absolute path.
        parent_fd: The directory that holds it.

    Raises:
        OSError: It is missing, a link (ENOTDIR or ELOOP), no directory, or forbidden.
    """
    try:
        # Listing must not change the access time that the tree was found with.
        return os.open(name, _OPEN_DIRECTORY | os.O_NOATIME, dir_fd=parent_fd)
    except PermissionError:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent_fd)


def list_names(fd: int) -> list[bytes]:
    """Return the names in an open directory, in any order.

    Raises:
        OSError: It cannot be read.
    """
    names = os.listdir(fd)
    # All at once: one by one they would cost as much as listing them. No name holds a slash.
    return os.fsencode("/".join(names)).split(b"/") if names else []


class Descent:
    """A place in a tree, and the way back up; at most a few descriptors at any depth.

    One thread at a time. Closes its descriptors when left as a context manager.

    Args:
        path: The absolute path of the root directory; its last name may not be a link.

    Raises:
        OSError: The root cannot be opened.
    """

    def __init__(self, path: bytes) -> None:
        self._levels: list[_Level] = []
        self._oldest_open = 0
        self._push(open_directory(path), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """The descriptor of the directory that the walk is in."""
        return self._levels[-1].fd

    @property
    def depth(self) -> int:
        """How many directories below the root the walk is."""
        return len(self._levels) - 1

    @property
    def device(self) -> int:
        """The device number of the directory that the walk is in."""
        return self._levels[-1].device

    @property
    def path(self) -> tuple[bytes, ...]:
        """The names from the root to the directory that the walk is in."""
        return tuple(level.name for level in self._levels[1:])

    def enter(self, name: bytes) -> os.stat_result:
        """Go into the directory *name* and return its status.

        Raises:
            OSError: It is missing, a link, no directory, or forbidden.
        """
        status = self._push(open_directory(name, self.fd), name)
        if len(self._levels) - self._oldest_open > _KEPT_OPEN:
            level = self._levels[self._oldest_open]
            os.close(level.fd)
            level.fd = -1
            self._oldest_open += 1
        return status

    def leave(self) -> None:
        """Go back up to the directory that the walk came from.

        Raises:
            MovedError: The directory is no longer below the one that it was found in.
        """
        left = self._levels.pop()
        try:
            if self._levels and self._levels[-1].fd == -1:
                self._reopen(self._levels[-1], left)
        finally:
            os.close(left.fd)

    def close(self) -> None:
        """Close every descriptor; idempotent."""
        while self._levels:
            level = self._levels.pop()
            if level.fd != -1:
                os.close(level.fd)

    def _push(self, fd: int, name: bytes) -> os.stat_result:
        try:
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        self._levels.append(_Level(fd, status.st_dev, status.st_ino, name))
        return status

    def _reopen(self, level: _Level, left: _Level) -> None:
        fd = open_directory(b"..", left.fd)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (level.device, level.inode):
            os.close(fd)
            raise MovedError(os.fsdecode(left.name))
        level.fd = fd
        self._oldest_open = len(self._levels) - 1
