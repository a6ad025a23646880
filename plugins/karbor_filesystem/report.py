"""Counting and telling: what was left out, what changed, and how far the work is."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from karbor_filesystem.errors import UnreadableError, show

if TYPE_CHECKING:
    from karbor_filesystem.ahead import CountAhead
    from karbor_filesystem.patterns import Path

KEPT_REPORTS = 1000
"""Reports that are kept with the checkpoint; all are counted and logged."""
_NAMED = 100
_TICK_BYTES = 1 << 20
_TICK_ENTRIES = 256


class What(StrEnum):
    """What is reported of an entry."""

    SKIPPED = "skipped"
    """It has no contents to save: a socket, a directory of another file system, the bank itself."""
    CHANGED = "changed"
    """It changed each time it was read; what is saved may mix old and new."""
    VANISHED = "vanished"
    """It was gone between being listed and being read."""
    UNREADABLE = "unreadable"
    """It could not be read, and ``on_unreadable`` is "report"."""


def reason_of(error: OSError) -> str:
    """Return what the system said, without its number and the path."""
    return error.strerror or str(error)


class Report:
    """Collects what protect has to say of single entries.

    Args:
        root: The protected directory's path.
        log: Where each report goes as a warning.
        fails_on_unreadable: Whether an entry that cannot be read ends the protect.
    """

    def __init__(self, root: str, log: Any, *, fails_on_unreadable: bool) -> None:
        self._root, self._log = root, log
        self._fails_on_unreadable = fails_on_unreadable
        self.counts = dict.fromkeys(map(str, What), 0)
        """How many entries each kind of report is about."""
        self.kept: list[dict[str, str]] = []
        """The first reports: ``what``, ``path`` and ``reason``."""

    def add(self, what: What, path: Path, reason: str) -> None:
        """Report *reason* about the entry at *path*."""
        self.counts[what] += 1
        text = self.full_path(path)
        self._log.warning("%s %s: %s", show(text), what, reason)
        if len(self.kept) < KEPT_REPORTS:
            self.kept.append({"what": str(what), "path": text, "reason": reason})

    def unreadable(self, path: Path, error: OSError) -> None:
        """Report that *path* cannot be read.

        Raises:
            UnreadableError: Unless such entries are to be left out.
        """
        if self._fails_on_unreadable:
            raise UnreadableError(self.full_path(path), reason_of(error)) from error
        self.add(What.UNREADABLE, path, reason_of(error))

    def full_path(self, path: Path) -> str:
        """Return the absolute path of the entry at *path*."""
        return os.path.join(self._root, *map(os.fsdecode, path))


class LostFiles:
    """Collects the files that a restore leaves out, since their data is damaged.

    Args:
        log: Where each is reported as a warning.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self.count = 0
        self.first: list[str] = []
        """The first paths."""

    def add(self, path: str, reason: str) -> None:
        """Report that the file at *path* is not restored."""
        self.count += 1
        self._log.warning("%s is not restored, its data is damaged: %s", show(path), reason)
        if len(self.first) < _NAMED:
            self.first.append(path)

    def describe(self) -> str:
        """Return one sentence that names the first of them."""
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        names = ", ".join(map(show, self.first))
        files = "1 file is" if self.count == 1 else f"{self.count} files are"
        return f"{files} not restored, since the data is damaged: {names}{more}"


class Ticker:
    """Tells the engine how far a hook is, and leaves the hook when it is cancelled.

    Args:
        context: The hook's context.
        total: Bytes in all, if known; about, for what the tree had before.
        ahead: Finds that out meanwhile.
    """

    def __init__(
        self, context: Any, total: int | None = None, ahead: CountAhead | None = None
    ) -> None:
        self._context, self._total, self._ahead = context, total, ahead
        self._entries = self._since = 0
        self.done = 0
        """Bytes so far."""

    def entry(self) -> None:
        """Count one entry.

        Raises:
            HookCancelledError: The operation is being cancelled.
        """
        self._entries += 1
        if self._entries % _TICK_ENTRIES == 0:
            self._tell()

    def entries(self, number: int, size: int) -> None:
        """Count *number* entries of *size* bytes in all.

        Raises:
            HookCancelledError: The operation is being cancelled.
        """
        self._entries += number
        self.done += size
        self._tell()

    def count(self, size: int) -> None:
        """Count *size* bytes.

        Raises:
            HookCancelledError: The operation is being cancelled.
        """
        self.done += size
        self._since += size
        if self._since >= _TICK_BYTES:
            self._tell()

    def _tell(self) -> None:
        self._since = 0
        self._context.check_cancelled()
        total = self._total if self._ahead is None else self._ahead.total
        # Files grow while they are read.
        self._context.progress(self.done, total and max(total, self.done), "bytes")
