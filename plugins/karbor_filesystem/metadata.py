"""Reading and setting what is not contents: modes, owners, times, attributes."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from karbor_filesystem.entries import Entry, Kind
from karbor_filesystem.errors import UnsupportedError
from karbor_filesystem.report import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_ATTRIBUTES = {errno.ENOTSUP, errno.ENOSYS}
_ATTRIBUTE_GONE = {errno.ENODATA, errno.ENOTSUP}
_PRIVILEGED = (b"security.", b"trusted.")
_ACCESS_LIST, _DEFAULT_LIST = b"system.posix_acl_access", b"system.posix_acl_default"


def path_of(fd: int, name: bytes | None = None) -> bytes:
    """Return a path that leads to *name* in the directory *fd*, or to *fd* itself.

    For the calls that take no directory descriptor; nothing above can be swapped for a link.
    """
    return b"/proc/self/fd/%d" % fd if name is None else b"/proc/self/fd/%d/%s" % (fd, name)


def read_attributes(where: int | bytes) -> dict[bytes, bytes] | None:
    """Return the extended attributes of a descriptor, or of a path that is not followed.

    Raises:
        OSError: They exist and cannot be read.
    """
    follows = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follows)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return None
        raise
    found = {}
    for name in sorted(map(os.fsencode, names)):
        try:
            found[name] = os.getxattr(where, name, follow_symlinks=follows)
        except OSError as error:
            if error.errno not in _ATTRIBUTE_GONE:
                raise
    return found or None


def entry_of(kind: Kind, depth: int, name: bytes, status: os.stat_result, *, atime: bool) -> Entry:
    """Return an entry with what *status* says."""
    return Entry(
        kind,
        depth,
        name,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        atime=status.st_atime_ns if atime else None,
        is_linked=status.st_nlink > 1 and kind is not Kind.DIRECTORY,
    )


class MetadataSetter:
    """Sets the metadata of restored entries.

    Args:
        restores_owner: Whether owners are set; None: if this process is root.
        report: Told of what the target refuses (path, what, error); None: that is an error.
    """

    def __init__(
        self,
        *,
        restores_owner: bool | None = None,
        report: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._is_root = os.geteuid() == 0
        self.restores_owner = self._is_root if restores_owner is None else restores_owner
        self._report = report

    def refused(self, path: str, what: str, error: OSError) -> None:
        """Deal with a target that cannot hold *what*.

        Raises:
            UnsupportedError: Unless such things are only reported.
        """
        if self._report is None:
            raise UnsupportedError(path, what, reason_of(error)) from error
        self._report(path, what, reason_of(error))

    def apply(self, fd: int, entry: Entry, path: Callable[[], str]) -> None:
        """Give an open file or directory the metadata of *entry*.

        Args:
            fd: The file; one that was opened with O_PATH will do for what is no file.
            entry: What to set; not a symbolic link.
            path: Gives its path, for messages.

        Raises:
            UnsupportedError: The target cannot hold it, and that is not only reported.
        """
        where: int | bytes = fd if entry.kind in {Kind.DIRECTORY, Kind.FILE} else path_of(fd)
        # Changing the owner clears set-user-id and the file capabilities, so it comes first.
        if self.restores_owner:
            self._try(path, "the owner", os.chown, where, entry.uid, entry.gid)
        self._set_attributes(where, entry, path)
        self._remove_inherited_lists(where, entry, path)
        self._try(path, "the mode", os.chmod, where, self._mode(fd, entry))
        os.utime(where, ns=_times(entry))

    def apply_to_symlink(
        self, name: bytes, directory_fd: int, entry: Entry, path: Callable[[], str]
    ) -> None:
        """Give the symbolic link *name* in a directory the metadata of *entry*."""
        if self.restores_owner:
            try:
                os.chown(name, entry.uid, entry.gid, dir_fd=directory_fd, follow_symlinks=False)
            except OSError as error:
                self.refused(path(), "the owner", error)
        self._set_attributes(path_of(directory_fd, name), entry, path)
        os.utime(name, ns=_times(entry), dir_fd=directory_fd, follow_symlinks=False)

    def _set_attributes(self, where: int | bytes, entry: Entry, path: Callable[[], str]) -> None:
        for name, value in (entry.xattrs or {}).items():
            if not self._is_root and name.startswith(_PRIVILEGED):
                continue
            try:
                # A path is that of a link (or leads through /proc to what is no link).
                follows = isinstance(where, int) or entry.kind is not Kind.SYMLINK
                os.setxattr(where, name, value, follow_symlinks=follows)
            except OSError as error:
                self.refused(path(), f"the attribute {os.fsdecode(name)}", error)

    def _remove_inherited_lists(
        self, where: int | bytes, entry: Entry, path: Callable[[], str]
    ) -> None:
        """Remove access lists that a directory of the target's lent to all that is made in it."""
        names = (_ACCESS_LIST, _DEFAULT_LIST) if entry.kind is Kind.DIRECTORY else (_ACCESS_LIST,)
        for name in names:
            if name in (entry.xattrs or {}):
                continue
            try:
                os.removexattr(where, name)
            except OSError as error:
                if error.errno not in {*_NO_ATTRIBUTES, *_ATTRIBUTE_GONE}:
                    self.refused(path(), f"the lack of {os.fsdecode(name)}", error)

    def _mode(self, fd: int, entry: Entry) -> int:
        """Return the mode without the set-id bits that would lend another owner's rights."""
        mode = entry.mode
        if mode & (stat.S_ISUID | stat.S_ISGID) and entry.kind is not Kind.DIRECTORY:
            status = os.fstat(fd)
            if status.st_uid != entry.uid:
                mode &= ~stat.S_ISUID
            if status.st_gid != entry.gid:
                mode &= ~stat.S_ISGID
        return mode

    def _try(
        self, path: Callable[[], str], what: str, call: Callable[..., Any], *arguments: Any
    ) -> None:
        try:
            call(*arguments)
        except OSError as error:
            self.refused(path(), what, error)


def _times(entry: Entry) -> tuple[int, int]:
    return (entry.mtime if entry.atime is None else entry.atime, entry.mtime)
