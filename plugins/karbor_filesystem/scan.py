"""Walking the tree to protect: what there is, in the order of the manifest."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from karbor_filesystem.descent import list_names
from karbor_filesystem.entries import SPECIAL_KINDS, Kind
from karbor_filesystem.metadata import entry_of, path_of, read_attributes
from karbor_filesystem.own_bank import place_of
from karbor_filesystem.report import What, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from karbor_filesystem.descent import Descent
    from karbor_filesystem.entries import Entry
    from karbor_filesystem.own_bank import Places
    from karbor_filesystem.patterns import Path, Selection
    from karbor_filesystem.report import Report

_NO_DIRECTORY_NOW = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(slots=True)
class _Directory:
    """A directory that the walk is in."""

    names: list[bytes]
    status: os.stat_result
    is_included: bool
    waiting: Entry | None
    """Its entry, until something in it turns out to be taken."""
    at: int = 0
    """The place of the next name."""


@dataclass(slots=True)
class Scanner:
    """Lists a tree: each directory before what it holds, names ascending.

    An entry is complete but for a file's size, holes, attributes and whether it is another
    name of an earlier entry: those are for who reads it, while the walk stands in its
    directory. Not for use from several threads.
    """

    descent: Descent
    """Where the walk is; it starts at the root."""
    selection: Selection
    left_to_children: frozenset[Path]
    """Files that belong to child resources."""
    bank: Places
    """The bank's own directories, which are left out."""
    report: Report
    one_file_system: bool = False
    keeps_atime: bool = False
    left_out: int = field(default=0, init=False)
    """How many files were left to children."""
    directories: int = field(default=0, init=False)
    """How many directories were listed."""

    def entries(
        self,
        takes_over: Callable[[int, bytes, os.stat_result], bool] | None = None,
        takes_run: Callable[[int, int, list[bytes], int], int] | None = None,
    ) -> Iterator[tuple[Entry, os.stat_result]]:
        """Return the entries, with the status that each was found with.

        Args:
            takes_over: Called with the depth, name and status of each file that is taken, when
                it is its turn; if it returns True, the file is dealt with and not returned.
            takes_run: Called where all files are taken, with a directory's descriptor, the depth
                of what it holds, its names, and the place of the next: returns how many files,
                from that one on, it has dealt with.

        Raises:
            UnreadableError: While iterating: something cannot be read and may not be left out.
            MovedError: While iterating: a directory was moved away below the walk.
        """
        status = os.fstat(self.descent.fd)
        walked = [self._directory(b"", status, is_included=self.selection.takes_all)]
        yield from self._take(walked)
        while walked:
            directory = walked[-1]
            if takes_run is not None and self._takes_all_files:
                directory.at += takes_run(
                    self.descent.fd, len(walked), directory.names, directory.at
                )
            if directory.at == len(directory.names):
                self._check_unchanged(directory)
                walked.pop()
                if walked:
                    self.descent.leave()
                continue
            name = directory.names[directory.at]
            directory.at += 1
            if (found := self._look(name, directory)) is None:
                continue
            status, is_included = found
            if stat.S_ISREG(status.st_mode):
                if is_included and not self._leave(name):
                    yield from self._file(name, status, walked, takes_over)
            elif not stat.S_ISDIR(status.st_mode):
                entry = self._special(name, status) if is_included else None
                if entry is not None:
                    yield from self._take(walked)
                    yield entry, status
            else:
                yield from self._inner(name, status, walked, is_included=is_included)

    def _inner(
        self, name: bytes, status: os.stat_result, walked: list[_Directory], *, is_included: bool
    ) -> Iterator[tuple[Entry, os.stat_result]]:
        """Enter a directory, unless it is left out or only noted; yield what is taken by that."""
        if place_of(status, self.bank) is not None:
            reason = "it is the bank that the checkpoint goes to"
            self.report.add(What.SKIPPED, self._path(name), reason)
        elif self.one_file_system and status.st_dev != walked[0].status.st_dev:
            yield from self._take(walked)
            yield self._mount_point(name, status), status
        elif (inner := self._enter(name, status, is_included)) is not None:
            walked.append(inner)
            if is_included:
                yield from self._take(walked)

    def _file(
        self,
        name: bytes,
        status: os.stat_result,
        walked: list[_Directory],
        takes_over: Callable[[int, bytes, os.stat_result], bool] | None,
    ) -> Iterator[tuple[Entry, os.stat_result]]:
        """Yield a file's entry, if nobody takes it over, behind the directories on the way to it."""
        yield from self._take(walked)
        depth = len(walked)
        if takes_over is None or not takes_over(depth, name, status):
            yield entry_of(Kind.FILE, depth, name, status, atime=self.keeps_atime), status

    @property
    def _takes_all_files(self) -> bool:
        return self.selection.takes_everything and not self.left_to_children

    def _take(self, walked: list[_Directory]) -> Iterator[tuple[Entry, os.stat_result]]:
        """Yield the directories on the way that were not yet taken."""
        first = len(walked)
        while first and walked[first - 1].waiting is not None:
            first -= 1
        for directory in walked[first:]:
            entry, directory.waiting = directory.waiting, None
            assert entry is not None
            self.directories += 1
            yield entry, directory.status

    def _path(self, name: bytes) -> Path:
        return (*self.descent.path, name)

    def _look(self, name: bytes, directory: _Directory) -> tuple[os.stat_result, bool] | None:
        """Return the status of *name* and whether it is asked for; None if it is left out."""
        try:
            status = os.stat(name, dir_fd=self.descent.fd, follow_symlinks=False)
        except FileNotFoundError:
            if not self._is_left(name):
                reason = "it was gone before it was read"
                self.report.add(What.VANISHED, self._path(name), reason)
            return None
        except OSError as error:
            self.report.unreadable(self._path(name), error)
            return None
        if self.selection.takes_everything:
            return status, True
        path, is_directory = self._path(name), stat.S_ISDIR(status.st_mode)
        if self.selection.excludes(path, is_directory=is_directory):
            return None
        is_included = directory.is_included or self.selection.includes(
            path, is_directory=is_directory
        )
        return status, is_included

    def _directory(self, name: bytes, status: os.stat_result, *, is_included: bool) -> _Directory:
        """Return the directory that the walk has just entered."""
        entry = entry_of(Kind.DIRECTORY, self.descent.depth, name, status, atime=self.keeps_atime)
        names: list[bytes] = []
        try:
            entry.xattrs = read_attributes(self.descent.fd)
            names = sorted(list_names(self.descent.fd))
        except OSError as error:
            self.report.unreadable(self.descent.path, error)
        return _Directory(names, status, is_included, entry)

    def _enter(self, name: bytes, status: os.stat_result, is_included: bool) -> _Directory | None:
        try:
            status = self.descent.enter(name)
        except OSError as error:
            if error.errno in _NO_DIRECTORY_NOW:
                reason = f"it is no directory any more: {reason_of(error)}"
                self.report.add(What.VANISHED, self._path(name), reason)
                return None
            self.report.unreadable(self._path(name), error)
            return None
        return self._directory(name, status, is_included=is_included)

    def _check_unchanged(self, directory: _Directory) -> None:
        """Report names that came or went while the walk was in the directory.

        What SQLite keeps beside a database comes and goes with each transaction, those of the
        database's own protect too.
        """
        now = os.fstat(self.descent.fd)
        if now.st_mtime_ns == directory.status.st_mtime_ns or directory.waiting is not None:
            return
        if self.left_to_children:
            names = {name for name in list_names(self.descent.fd) if not self._is_left(name)}
            if names == {name for name in directory.names if not self._is_left(name)}:
                return
        reason = "names came or went while it was read"
        self.report.add(What.CHANGED, self.descent.path, reason)

    def _mount_point(self, name: bytes, status: os.stat_result) -> Entry:
        reason = "another file system is mounted there, and one_file_system is set"
        self.report.add(What.SKIPPED, self._path(name), reason)
        self.directories += 1
        depth = self.descent.depth + 1
        return entry_of(Kind.DIRECTORY, depth, name, status, atime=self.keeps_atime)

    def _is_left(self, name: bytes) -> bool:
        """Return whether a file is left to a child resource."""
        return bool(self.left_to_children) and self._path(name) in self.left_to_children

    def _leave(self, name: bytes) -> bool:
        """Return whether a file is left to a child resource, and count it."""
        is_left = self._is_left(name)
        self.left_out += is_left
        return is_left

    def _special(self, name: bytes, status: os.stat_result) -> Entry | None:
        """Return the entry of what is neither file nor directory, or None if it is left out."""
        depth = self.descent.depth + 1
        file_type = stat.S_IFMT(status.st_mode)
        if file_type == stat.S_IFSOCK:
            self.report.add(What.SKIPPED, self._path(name), "a socket has no contents")
            return None
        kind = Kind.SYMLINK if file_type == stat.S_IFLNK else SPECIAL_KINDS[file_type]
        # Looking at a link changes its access time, so that of links is never kept.
        atime = self.keeps_atime and kind is not Kind.SYMLINK
        entry = entry_of(kind, depth, name, status, atime=atime)
        if status.st_rdev and kind is not Kind.FIFO:
            entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        try:
            if kind is Kind.SYMLINK:
                entry.target = os.readlink(name, dir_fd=self.descent.fd)
            entry.xattrs = read_attributes(path_of(self.descent.fd, name))
        except FileNotFoundError:
            self.report.add(What.VANISHED, self._path(name), "it was gone before it was read")
            return None
        except OSError as error:
            self.report.unreadable(self._path(name), error)
            return None
        return entry
