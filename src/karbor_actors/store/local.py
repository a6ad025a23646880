"""Objects as files below a local directory.

Layout: ``<two hex digits>/<name with . for />``, the digits from a digest of the name, so that no
directory grows large; ``tmp/`` holds what is being written. All paths are opened relative to
directory descriptors and no link below the directory is followed.
"""

# It works on descriptors and names relative to them, not on paths.

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from karbor_actors import faultpoints
from karbor_actors.errors import BankFullError, BankPathError, ObjectNotFoundError, StoreError
from karbor_actors.folders import make_path
from karbor_actors.store.objects import (
    check_name,
    check_range,
    is_name,
    parts_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.store.objects import (
        Data,
        ObjectStore,
    )

_TMP = "tmp"
_DIGITS = frozenset("0123456789abcdef")
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO planted under an object's name must not hang the reader.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE_BUFFER = 1 << 20
_SMALL = 1 << 13
"""What has fewer bytes (most manifests) is written without a buffer, which is mapped each time."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class LocalStore:
    """An ObjectStore in a local directory. Files are 0600, directories 0700.

    Args:
        directory: made if it is missing and *writable*.
        writable: opening removes what an earlier writer left half written, so there may be one
            writable store per directory at a time; the bank's lease sees to that.
        may_be_missing: whether a *directory* that is missing holds no objects, for who only reads.

    Raises:
        BankPathError: *directory* is a file, is missing, or may not be used.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        writable: bool = True,
        may_be_missing: bool = False,
    ) -> None:
        self.directory = os.path.abspath(os.fspath(directory))
        self._root = self._tmp = -1
        self._unsynced: set[str] = set()
        """First digits of folders that were made, or are about to be, and may not be durable."""
        self._is_missing = may_be_missing and not os.path.lexists(self.directory)
        if self._is_missing:
            return
        try:
            if writable:
                make_path(self.directory)
            self._root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BankPathError(
                f"{self.directory} cannot hold objects: {error.strerror}; name a directory that can"
            ) from error
        try:
            if writable:
                self._tmp = self._open_tmp()
                os.fsync(self._root)  # who made folders may have been killed before
        except OSError as error:
            os.close(self._root)
            raise _failure(f"cannot open {self.directory} for writing", error) from error

    def put(self, name: str, data: Data) -> None:
        """See ObjectStore. The file and its directory are synced before this returns."""
        file_name = _file_name(name)
        tmp_name = secrets.token_hex(8)
        try:
            if faultpoints.injector is not None:
                faultpoints.injector.on_put(name, "before")
            try:
                self._write(tmp_name, data)
                with self._folder(name, create=True) as folder:
                    self._sync_root(_fan(name))
                    os.rename(tmp_name, file_name, src_dir_fd=self._tmp, dst_dir_fd=folder)
                    os.fsync(folder)
            except BaseException:
                with contextlib.suppress(OSError):  # renamed already, or removed at the next open
                    os.unlink(tmp_name, dir_fd=self._tmp)
                raise
            if faultpoints.injector is not None:
                faultpoints.injector.on_put(name, "after")
        except OSError as error:
            raise _failure(f"cannot write object {name} in {self.directory}", error) from error

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ObjectStore."""
        check_range(start, length)
        with self._open(name) as (fd, size):
            wanted = min(size - start, size if length is None else length)
            parts = []
            while wanted > 0:
                part = os.pread(fd, wanted, start)
                if not part:
                    break
                parts.append(part)
                start += len(part)
                wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, name: str) -> int:
        """See ObjectStore."""
        with self._open(name) as (_, size):
            return size

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        file_name = _file_name(name)
        try:
            with self._folder(name) as folder:
                os.unlink(file_name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failure(f"cannot delete object {name} in {self.directory}", error) from error

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """See ObjectStore."""
        start = f"{check_name(folder)}/" if folder else ""
        if self._is_missing:
            return
        try:
            for fan in sorted(os.listdir(self._root)):
                if len(fan) == 2 and _DIGITS.issuperset(fan):  # noqa: PLR2004
                    yield from (item for item in self._list_fan(fan) if item[0].startswith(start))
        except OSError as error:
            raise _failure(f"cannot list {self.directory}", error) from error

    def close(self) -> None:
        """See ObjectStore."""
        root, tmp = self._root, self._tmp
        self._root = self._tmp = -1
        for fd in (root, tmp):
            if fd >= 0:
                os.close(fd)

    def _open_tmp(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(_TMP, 0o700, dir_fd=self._root)
        tmp = os.open(_TMP, _DIRECTORY_FLAGS, dir_fd=self._root)
        for name in os.listdir(tmp):
            os.unlink(name, dir_fd=tmp)
        return tmp

    def _write(self, tmp_name: str, data: Data) -> None:
        # With a name: what is synced without one (O_TMPFILE), and linked then, may be empty after a power
        # cut (on btrfs); and a link does not replace what is there.
        fd = os.open(tmp_name, _WRITE_FLAGS, 0o600, dir_fd=self._tmp)
        try:
            if isinstance(data, bytes) and len(data) < _SMALL:
                while data:
                    data = data[os.write(fd, data) :]
            else:
                with open(fd, "wb", buffering=_WRITE_BUFFER, closefd=False) as file:
                    file.writelines(parts_of(data))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _make_folders(self, fan: str) -> None:
        """Make the folder *fan*, and those whose names begin as its does: each sync costs as much."""
        first = fan[0]
        self._unsynced.add(first)
        for second in sorted(_DIGITS):
            with contextlib.suppress(FileExistsError):
                os.mkdir(first + second, 0o700, dir_fd=self._root)

    def _sync_root(self, fan: str) -> None:
        """Make the name of the folder *fan* durable, unless it is; whoever made it."""
        first = fan[0]
        if first in self._unsynced:
            os.fsync(self._root)
            self._unsynced.discard(first)

    @contextlib.contextmanager
    def _folder(self, name: str, *, create: bool = False) -> Iterator[int]:
        fan = _fan(name)
        if self._is_missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.directory)
        try:
            fd = os.open(fan, _DIRECTORY_FLAGS, dir_fd=self._root)
        except FileNotFoundError:
            if not create:
                raise
            self._make_folders(fan)
            fd = os.open(fan, _DIRECTORY_FLAGS, dir_fd=self._root)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, int]]:
        path = f"{_fan(name)}/{_file_name(name)}"
        try:
            with self._folder(name) as folder:
                fd = os.open(_file_name(name), _READ_FLAGS, dir_fd=folder)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise StoreError(f"{self.directory}/{path} is not a file")
                yield fd, status.st_size
            finally:
                os.close(fd)
        except FileNotFoundError as error:
            raise ObjectNotFoundError(name) from error
        except StoreError:
            raise
        except OSError as error:
            raise _failure(f"cannot read {self.directory}/{path}", error) from error

    def _list_fan(self, fan: str) -> Iterator[tuple[str, int]]:
        fd = os.open(fan, _DIRECTORY_FLAGS, dir_fd=self._root)
        try:
            for file_name in os.listdir(fd):
                name = file_name.replace(".", "/")
                if is_name(name) and _fan(name) == fan:
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        status = os.stat(file_name, dir_fd=fd, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            yield name, status.st_size
        finally:
            os.close(fd)


def open_local(url: str, *, writable: bool) -> ObjectStore:
    """Open the directory of a ``file://`` URL or of a plain path."""
    if "://" not in url:
        return LocalStore(url, writable=writable)
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise BankPathError(f"{url} names no local directory; write file:///path")
    return LocalStore(unquote(parts.path), writable=writable)


def _fan(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=1).hexdigest()


def _file_name(name: str) -> str:
    return check_name(name).replace("/", ".")


def _failure(what: str, error: OSError) -> BankFullError | StoreError:
    """Return the bank's error for *error*; the caller raises it."""
    if error.errno in _FULL:
        return BankFullError(f"{what}: {error.strerror}; free some space")
    return StoreError(f"{what}: {error.strerror or error}")
