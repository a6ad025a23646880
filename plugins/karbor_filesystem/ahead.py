"""How much there is to read, found out while it is read: for the time that is left."""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from typing import TYPE_CHECKING, Self

from karbor_filesystem.descent import Descent, list_names
from karbor_filesystem.errors import MovedError
from karbor_filesystem.own_bank import place_of

if TYPE_CHECKING:
    from karbor_filesystem.own_bank import Places
    from karbor_filesystem.patterns import Path, Selection

_BLOCK = 512
"""Bytes that ``st_blocks`` counts in."""


class CountAhead:
    """Counts the bytes of a tree on a thread of its own, from ``__enter__`` on.

    It only looks: what it cannot see is not counted, and the reader says so. A file with
    several names counts once.

    Args:
        root: The absolute path of the directory.
        selection: What of it is read.
        left_to_children: Files that are not.
        bank: Directories that are not.
        one_file_system: Whether what is mounted below is not.
    """

    def __init__(
        self,
        root: str,
        selection: Selection,
        left_to_children: frozenset[Path],
        bank: Places,
        *,
        one_file_system: bool = False,
    ) -> None:
        self._root, self._selection = os.fsencode(posixpath.normpath(root)), selection
        self._left, self._bank = left_to_children, bank
        self._takes_all_files = selection.takes_everything and not left_to_children
        self._device = os.stat(root).st_dev if one_file_system else None
        self._linked: set[tuple[int, int]] = set()
        self._counted = 0
        self._is_wanted = True
        self._thread = threading.Thread(target=self._count, name="karbor-count", daemon=True)
        self.total: int | None = None
        """Bytes in all, holes left out; None until everything is counted."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_wanted = False
        self._thread.join()

    def _count(self) -> None:
        try:
            with Descent(self._root) as descent:
                waiting = [self._look(descent)]
                while waiting and self._is_wanted:
                    if not waiting[-1]:
                        waiting.pop()
                        if waiting:
                            descent.leave()
                        continue
                    try:
                        descent.enter(waiting[-1].pop())
                    except OSError:
                        continue
                    waiting.append(self._look(descent))
        except (OSError, MovedError):
            return  # the reader meets the same, and says so
        if not waiting:
            self.total = self._counted

    def _look(self, descent: Descent) -> list[bytes]:
        """Count the files where the walk is; return the names of the directories to go into."""
        inner = []
        try:
            names = list_names(descent.fd)
        except OSError:
            return []
        for name in names if self._is_wanted else ():
            status = _status(name, descent.fd)
            if status is None:
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            path = (*descent.path, name) if is_directory or not self._takes_all_files else ()
            if is_directory:
                if self._is_entered(path, status):
                    inner.append(name)
            elif self._is_read(path, status) and self._is_first(status):
                self._counted += min(status.st_size, status.st_blocks * _BLOCK)
        return inner

    def _is_first(self, status: os.stat_result) -> bool:
        if status.st_nlink == 1:
            return True
        place = (status.st_dev, status.st_ino)
        is_first = place not in self._linked
        self._linked.add(place)
        return is_first

    def _is_entered(self, path: Path, status: os.stat_result) -> bool:
        if place_of(status, self._bank) is not None or self._device not in (None, status.st_dev):
            return False
        return not self._selection.excludes(path, is_directory=True)

    def _is_read(self, path: Path, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        if self._takes_all_files:
            return True
        if path in self._left:
            return False
        selection = self._selection
        if selection.excludes(path, is_directory=False):
            return False
        return selection.takes_all or any(
            selection.includes(path[:length], is_directory=length < len(path))
            for length in range(1, len(path) + 1)
        )


def _status(name: bytes, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
