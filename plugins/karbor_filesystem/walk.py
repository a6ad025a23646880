"""Following a manifest through a target directory, by directory descriptors only."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Protocol

from karbor_filesystem.entries import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from karbor_filesystem.descent import Descent
    from karbor_filesystem.entries import Entry
    from karbor_filesystem.report import Ticker

_libc = ctypes.CDLL(None, use_errno=True)


class Visitor(Protocol):
    """What is done at each entry; the walk stands in the directory that holds it."""

    def enter(self, number: int, entry: Entry) -> bool:
        """Go into a directory; return False, staying outside, to pass over all it holds.

        The walk stands in the root directory from the start, and is told of it too.
        """

    def leave(self, number: int, entry: Entry) -> None:
        """Go back up from a directory (the root: stay) after all that it holds."""

    def visit(self, number: int, entry: Entry) -> None:
        """Deal with what is no directory."""


def follow(entries: Iterable[Entry], visitor: Visitor, ticker: Ticker) -> None:
    """Take *visitor* through *entries*, which come in the order of a walk.

    Raises:
        HookCancelledError: The operation is being cancelled.
        ManifestError: The entries are malformed.
    """
    entered: list[tuple[int, Entry]] = []
    passed_over: int | None = None
    for number, entry in enumerate(entries):
        ticker.entry()
        if passed_over is not None:
            if entry.depth > passed_over:
                continue
            passed_over = None
        while len(entered) > entry.depth:
            visitor.leave(*entered.pop())
        if entry.kind is not Kind.DIRECTORY:
            visitor.visit(number, entry)
        elif visitor.enter(number, entry):
            entered.append((number, entry))
        else:
            passed_over = entry.depth
    while entered:
        visitor.leave(*entered.pop())


class FileSystems:
    """The file systems that a walk came through, to be made durable at its end.

    Holds a descriptor for each until it is closed.
    """

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def add(self, descent: Descent) -> None:
        """Remember the file system of the directory that the walk is in."""
        if descent.device not in self._fds:
            self._fds[descent.device] = os.dup(descent.fd)

    def sync(self) -> None:
        """Wait until all that was written is durable.

        Raises:
            OSError: Something could not be written.
        """
        for fd in self._fds.values():
            if _libc.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        while self._fds:
            os.close(self._fds.popitem()[1])
