"""Copying a tree into a bank section: each entry once, unchanged files without reading."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import BankError
from karbor_filesystem.entries import Entry, Kind
from karbor_filesystem.errors import ChangedError
from karbor_filesystem.metadata import read_attributes
from karbor_filesystem.report import What
from karbor_filesystem.source import (
    FileSource,
    cut_extents,
    find_extents,
    is_same,
    open_file,
    wait_settled,
)
from karbor_filesystem.unchanged import UnchangedFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_filesystem.data import DataWriter
    from karbor_filesystem.manifest import ManifestWriter
    from karbor_filesystem.patterns import Path
    from karbor_filesystem.previous import PreviousEntries
    from karbor_filesystem.report import Ticker
    from karbor_filesystem.scan import Scanner

READ_ATTEMPTS = 3
"""How often a file is read before it is taken as it is, although it keeps changing."""


class _UnstableError(Exception):
    """The file changed while it was read; read it again."""


class TreeReader:
    """Writes the entries of a tree and their data; one use, one thread.

    Args:
        scanner: Lists the tree.
        manifest: Takes the entries.
        data: Takes their data.
        ticker: Told of what is read.
        previous: The entries of the earlier checkpoint, or None.
        fails_on_change: Whether a file that keeps changing ends the protect.
        after_read: Called with the path of each file, before it is looked at whether it changed.
    """

    def __init__(
        self,
        scanner: Scanner,
        manifest: ManifestWriter,
        data: DataWriter,
        ticker: Ticker,
        *,
        previous: PreviousEntries | None = None,
        fails_on_change: bool = False,
        after_read: Callable[[Path], None] | None = None,
    ) -> None:
        self._scanner, self._ticker = scanner, ticker
        self._manifest, self._data = manifest, data
        self._report = scanner.report
        self._previous = previous
        self._runs = (
            None
            if previous is None or scanner.keeps_atime
            else UnchangedFiles(previous, manifest, data)
        )
        self._fails_on_change = fails_on_change
        self._after_read = after_read
        # By (device, inode): ordinal, size and mtime, for files with several names.
        self._linked: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._counts = dict.fromkeys(Kind, 0)
        self._bytes = self._stored = self._read = self._unchanged = 0

    def run(self) -> dict[str, Any]:
        """Write everything and return the counts for the manifest's description.

        Raises:
            UnreadableError: Something cannot be read and may not be left out.
            ChangedError: A file kept changing and may not.
            MovedError: A directory was moved away below the walk.
            HookCancelledError: The operation is being cancelled.
            BankError: The bank cannot write.
        """
        previous = self._previous
        found = self._scanner.entries(
            None if previous is None else self._take_over,
            None if self._runs is None else self._take_run,
        )
        for entry, status in found:
            self._ticker.entry()
            if previous is not None and entry.kind is Kind.DIRECTORY:
                previous.enter(entry.depth, entry.name)
            first = self._first_name(entry, status)
            if first is not None:
                self._add(Entry(Kind.LINK, entry.depth, entry.name, ordinal=first), status)
            elif entry.kind is not Kind.FILE or self._take_file(entry):
                self._add(entry, status)
        self._data.flush()
        self._manifest.flush()
        return self._info()

    def _add(self, entry: Entry, status: os.stat_result) -> None:
        ordinal = self._manifest.add(entry)
        self._counts[entry.kind] += 1
        if entry.is_linked:
            self._linked[status.st_dev, status.st_ino] = (ordinal, entry.size, entry.mtime)

    def _info(self) -> dict[str, Any]:
        counts = self._counts
        special = counts[Kind.FIFO] + counts[Kind.CHARACTER_DEVICE] + counts[Kind.BLOCK_DEVICE]
        return {
            "entries": self._manifest.entries,
            "chunks": self._manifest.chunks,
            "files": counts[Kind.FILE],
            "directories": counts[Kind.DIRECTORY],
            "links": counts[Kind.LINK],
            "symlinks": counts[Kind.SYMLINK],
            "special": special,
            "bytes": self._bytes,
            "bytes_stored": self._stored,
            "bytes_read": self._read,
            "bundled": self._data.bundled,
            "bundled_live": self._data.live,
            "unchanged": self._unchanged,
            "left_to_children": self._scanner.left_out,
            **self._report.counts,
            "reports": self._report.kept,
        }

    def _first_name(self, entry: Entry, status: os.stat_result) -> int | None:
        """Return the ordinal of the entry that this is another name of."""
        if not entry.is_linked:
            return None
        found = self._linked.get((status.st_dev, status.st_ino))
        if found is None:
            return None
        ordinal, size, mtime = found
        # An inode whose file was removed may be another file's by now: then it is no link.
        is_file = entry.kind is Kind.FILE
        is_first = (size, mtime) == (status.st_size if is_file else 0, status.st_mtime_ns)
        return ordinal if is_first else None

    def _take_run(self, fd: int, depth: int, names: list[bytes], start: int) -> int:
        """Take over the next files that are unchanged; return how many."""
        assert self._runs is not None
        taken, size = self._runs.take_over(fd, depth, names, start)
        if taken:
            self._counts[Kind.FILE] += taken
            self._unchanged += taken
            self._bytes += size
            self._stored += size
            self._ticker.entries(taken, size)
        return taken

    def _take_over(self, depth: int, name: bytes, status: os.stat_result) -> bool:
        """Take over a file as the earlier checkpoint has it; return False if it is to be read."""
        is_linked = status.st_nlink > 1
        if is_linked and (status.st_dev, status.st_ino) in self._linked:
            return False  # it is another name of that file
        assert self._previous is not None
        earlier = self._previous.find(depth, name, status)
        if earlier is None or not self._data.reuse(earlier):
            return False
        self._ticker.entry()
        earlier.is_linked = is_linked
        earlier.atime = status.st_atime_ns if self._scanner.keeps_atime else None
        self._add(earlier, status)
        stored = earlier.stored
        self._unchanged += 1
        self._bytes += earlier.size
        self._stored += stored
        self._ticker.count(stored)
        return True

    def _take_file(self, entry: Entry) -> bool:
        """Read a file and store its data; return False if it is left out."""
        path = (*self._scanner.descent.path, entry.name)
        try:
            for attempt in range(1, READ_ATTEMPTS + 1):
                try:
                    return self._read_file(entry, path, is_last=attempt == READ_ATTEMPTS)
                except _UnstableError:
                    continue
        except FileNotFoundError:
            self._report.add(What.VANISHED, path, "it was gone before it was read")
        except BankError:
            raise  # a full bank is an OSError too, but no fault of the file
        except OSError as error:
            self._report.unreadable(path, error)
        return False

    def _read_file(self, entry: Entry, path: Path, *, is_last: bool) -> bool:
        fd = open_file(entry.name, self._scanner.descent.fd)
        try:
            status = wait_settled(fd)
            if not stat.S_ISREG(status.st_mode):
                self._report.add(What.VANISHED, path, "it is no file any more")
                return False
            self._fill_in(entry, fd, status)
            source = FileSource(fd, entry.size, entry.extents, self._ticker.count)
            checked = _CheckedSource(source, lambda: self._check(fd, status, path, is_last, entry))
            if entry.stored:
                self._data.store(entry, checked)
            else:
                checked.read()
            if source.shrunk_to is not None:
                entry.size = source.shrunk_to
                if entry.extents is not None:
                    entry.extents = cut_extents(entry.extents, entry.size)
        finally:
            os.close(fd)
        self._bytes += entry.size
        self._stored += entry.stored
        self._read += entry.stored
        return True

    def _fill_in(self, entry: Entry, fd: int, status: os.stat_result) -> None:
        """Set what is known of a file once it is open."""
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.mtime, entry.ctime = status.st_mtime_ns, status.st_ctime_ns
        entry.size, entry.inode = status.st_size, status.st_ino
        entry.extents = find_extents(fd, status)
        entry.xattrs = read_attributes(fd)
        entry.is_unstable = False

    def _check(
        self, fd: int, before: os.stat_result, path: Path, is_last: bool, entry: Entry
    ) -> None:
        """Look, at the end of a file's data, whether it changed meanwhile."""
        if self._after_read is not None:
            self._after_read(path)
        if is_same(before, os.fstat(fd)):
            return
        if not is_last:
            raise _UnstableError
        if self._fails_on_change:
            raise ChangedError(self._report.full_path(path))
        entry.is_unstable = True
        self._report.add(What.CHANGED, path, "it changed each time it was read")


class _CheckedSource:
    """A readable that checks, before it says that it is at its end, what it gave.

    So a writer never takes in what turned out to be unstable.
    """

    def __init__(self, source: FileSource, check: Callable[[], None]) -> None:
        self._source, self._check = source, check
        self._is_checked = False

    def read(self, size: int = 1 << 20) -> bytes:
        """Return at most *size* bytes; b"" at the end, once the check has passed."""
        data = self._source.read(size)
        if not data and not self._is_checked:
            self._is_checked = True
            self._check()
        return data
