"""Making files, links and devices in the target directory, whole or not at all."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import describe_cause
from karbor_filesystem.descent import open_directory
from karbor_filesystem.entries import Kind
from karbor_filesystem.errors import DAMAGED, ManifestError
from karbor_filesystem.target import remove_if_there

if TYPE_CHECKING:
    from karbor_filesystem.data import DataReader
    from karbor_filesystem.entries import Entry
    from karbor_filesystem.metadata import MetadataSetter
    from karbor_filesystem.patterns import Path
    from karbor_filesystem.report import LostFiles, Ticker
    from karbor_filesystem.target import Place

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 20
_FILE_TYPES = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


class FileMaker:
    """Writes files, links and devices under a name of its own and moves them into place.

    Args:
        place: The target.
        data: Gives the data.
        setter: Sets owners, modes, times and attributes.
        part_name: The name under which a file is until it is whole.
        ticker: Told of what is written.
        makes_devices: Whether device nodes are made; else they are reported.
        log: Told of what is left out.
        lost: Told of files whose data is damaged, which are left out; None: that is an error.
    """

    def __init__(
        self,
        place: Place,
        data: DataReader,
        setter: MetadataSetter,
        part_name: bytes,
        ticker: Ticker,
        *,
        makes_devices: bool,
        log: Any,
        lost: LostFiles | None = None,
    ) -> None:
        self._place, self._data, self._setter = place, data, setter
        self._part, self._ticker = part_name, ticker
        self._makes_devices, self._log, self._lost = makes_devices, log, lost
        # Where the first name of each file with several names is; None: it was left out.
        self._linked: dict[int, Path | None] = {}
        self._damaged: set[int] = set()

    def enter(self, number: int, entry: Entry) -> bool:
        """Go into a directory that the prepare hook made."""
        with self._place.errors_at(entry.name):
            self._place.enter(entry)
        return True

    def leave(self, number: int, entry: Entry) -> None:
        """Go back up."""
        if entry.depth:
            self._place.descent.leave()

    def visit(self, number: int, entry: Entry) -> None:
        """Make what is no directory.

        Raises:
            TargetError: It cannot be made.
            UnsupportedError: The target cannot hold its metadata.
            ManifestError: Its data is not what the manifest says, and may not be left out.
            BankError: Its data cannot be read; where it is damaged, unless it may be left out.
        """
        with self._place.errors_at(entry.name):
            try:
                is_made = self._make(entry)
                if is_made:
                    directory = self._place.descent.fd
                    os.rename(self._part, entry.name, src_dir_fd=directory, dst_dir_fd=directory)
            except DAMAGED as error:
                self._remove_part()
                if self._lost is None:
                    raise
                self._lost.add(self._place.path(entry.name), describe_cause(error))
                self._damaged.add(number)
                is_made = False
            except BaseException:
                self._remove_part()
                raise
            if entry.kind is Kind.LINK:
                # Renaming one name of a file to another of the same file does nothing.
                self._remove_part()
        if entry.is_linked:
            path = (*self._place.descent.path, entry.name)
            self._linked[number] = path if is_made else None

    def _make(self, entry: Entry) -> bool:
        """Make *entry* under the part's name; return False if it is left out."""
        if entry.kind is Kind.FILE:
            self._make_file(entry)
            return True
        self._remove_part()
        if entry.kind is Kind.LINK:
            return self._make_link(entry)
        directory = self._place.descent.fd
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, self._part, dir_fd=directory)
            path = partial(self._place.path, entry.name)
            self._setter.apply_to_symlink(self._part, directory, entry, path)
            return True
        return self._make_special(entry)

    def _make_file(self, entry: Entry) -> None:
        directory = self._place.descent.fd
        try:
            fd = os.open(self._part, _CREATE, 0o600, dir_fd=directory)
        except FileExistsError:
            self._remove_part()
            fd = os.open(self._part, _CREATE, 0o600, dir_fd=directory)
        try:
            if entry.stored:
                self._write_data(fd, entry)
            if entry.extents is not None:
                os.ftruncate(fd, entry.size)
            self._setter.apply(fd, entry, partial(self._place.path, entry.name))
        finally:
            os.close(fd)

    def _write_data(self, fd: int, entry: Entry) -> None:
        runs = [(0, entry.size)] if entry.extents is None else entry.extents
        with self._data.open(entry) as stream:
            for start, length in runs:
                offset, end = start, start + length
                while offset < end:
                    data = memoryview(stream.read(min(_PIECE, end - offset)))
                    if not data:
                        raise ManifestError(
                            f"the data of {self._place.path(entry.name)} is cut short"
                        )
                    self._ticker.count(len(data))
                    while data:
                        written = os.pwrite(fd, data, offset)
                        offset += written
                        data = data[written:]

    def _make_link(self, entry: Entry) -> bool:
        path = self._linked.get(entry.ordinal)
        if path is None:
            own_path = self._place.path(entry.name)
            if self._lost is not None and entry.ordinal in self._damaged:
                self._lost.add(own_path, "it is another name of such a file")
            else:
                self._log.warning("%s left out, as is what it is a name of", own_path)
            return False
        *parents, name = path
        source = None
        try:
            if tuple(parents) != self._place.descent.path:
                source = self._open_from_root(parents)
            os.link(
                name,
                self._part,
                src_dir_fd=self._place.descent.fd if source is None else source,
                dst_dir_fd=self._place.descent.fd,
                follow_symlinks=False,
            )
        finally:
            if source is not None:
                os.close(source)
        return True

    def _open_from_root(self, names: list[bytes]) -> int:
        fd = open_directory(os.fsencode(self._place.root))
        for name in names:
            try:
                inner = open_directory(name, fd)
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _make_special(self, entry: Entry) -> bool:
        path = self._place.path(entry.name)
        if entry.kind is not Kind.FIFO and not self._makes_devices:
            self._log.warning("%s left out: devices are not restored", path)
            return False
        directory = self._place.descent.fd
        mode = _FILE_TYPES[entry.kind] | 0o600
        try:
            os.mknod(self._part, mode, os.makedev(*entry.device), dir_fd=directory)
        except PermissionError as error:
            self._setter.refused(path, "the device", error)
            return False
        fd = os.open(self._part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            self._setter.apply(fd, entry, lambda: path)
        finally:
            os.close(fd)
        return True

    def _remove_part(self) -> None:
        remove_if_there(self._part, self._place.descent.fd)
