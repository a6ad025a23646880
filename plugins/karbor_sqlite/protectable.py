"""Finds databases below a directory."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Any

from karbor_actors import ProtectablePlugin, Resource
from karbor_sqlite.engine import connect, primary_code
from karbor_sqlite.errors import DatabaseUnreadableError, reason_of
from karbor_sqlite.places import (
    DATABASE_TYPE,
    DIRECTORY_TYPE,
    MAX_PATH_BYTES,
    directory,
    identity,
    stat_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HEADER = b"SQLite format 3\x00"
"""How each database file begins: https://www.sqlite.org/fileformat2.html#the_database_header"""

_MIN_SIZE = 512
"""The smallest page; a file below it is no database yet, whatever it begins with."""
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors for what was there when its directory was listed, and is gone or became a link."""
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DatabaseProtectable(ProtectablePlugin):
    """Finds ``SQLite::Database`` resources by the header of their files.

    A resource's id is the file's absolute path, its name the path below the directory that was
    searched; ``extra_info`` holds both parts. Links are not followed. A file whose path SQLite
    cannot open (more than 503 bytes) stays with its directory. Safe from any thread.
    """

    def get_resource_type(self) -> str:
        """Return ``SQLite::Database``."""
        return DATABASE_TYPE

    def get_parent_resource_types(self) -> Sequence[str]:
        """Return ``FileSystem::Directory``."""
        return (DIRECTORY_TYPE,)

    def show_resource(
        self, context: Any, resource_id: str, parameters: Mapping[str, Any] | None = None
    ) -> Resource | None:
        """Return the database at the path *resource_id*, or None if there is none.

        Raises:
            DatabaseUnreadableError: The file or its directory cannot be read.
        """
        path, name = os.path.split(resource_id)
        if not os.path.isabs(path) or not name or "\0" in resource_id:
            return None
        if len(os.fsencode(resource_id)) > MAX_PATH_BYTES:
            return None
        try:
            with directory(path) as fd:
                found = _is_database(fd, name, resource_id, _inodes_in_use())
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise DatabaseUnreadableError(resource_id, reason_of(error)) from error
        return _resource(path, name, path) if found else None

    def get_dependent_resources(
        self, context: Any, parent_resource: Resource
    ) -> Sequence[Resource]:
        """Return every database below the directory *parent_resource*, in order of path.

        What may not be read is passed over: the directory's own protect meets it too, and fails,
        reports it or excludes it, as its parameters say.

        Raises:
            DatabaseUnreadableError: It, or something below it, cannot be read for other reasons.
        """
        # One id for one file, however its directory is written.
        root = os.path.normpath(parent_resource.id)
        in_use = _inodes_in_use()
        found = [
            os.path.join(*parts, name)
            for parts, fd, files in _walk(root, getattr(context, "check_cancelled", lambda: None))
            for name in files
            if _is_readable_database(fd, name, os.path.join(root, *parts, name), in_use)
        ]
        found.sort(key=os.fsencode)
        return [_resource(root, path, parent_resource.id) for path in found]


def _resource(root: str, path: str, parent_id: str) -> Resource:
    extra_info = {"directory": parent_id, "path": path}
    return Resource(DATABASE_TYPE, os.path.join(root, path), path, extra_info)


def _walk(
    root: str, check_cancelled: Callable[[], None]
) -> Iterator[tuple[tuple[str, ...], int, list[str]]]:
    """Yield each directory's parts below *root*, a descriptor, and its files' names."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        check_cancelled()
        parts = waiting.pop()
        path = os.path.join(root, *parts)
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            continue
        try:
            with directory(root, parts) as fd:
                files, directories = _list(fd)
                yield parts, fd, files
        except OSError as error:
            if parts and (error.errno in _GONE or isinstance(error, PermissionError)):
                continue
            raise DatabaseUnreadableError(path, reason_of(error)) from error
        waiting.extend((*parts, name) for name in directories)


def _list(fd: int) -> tuple[list[str], list[str]]:
    files, directories = [], []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                files.append(entry.name)
    return files, directories


def _is_readable_database(fd: int, name: str, path: str, in_use: set[tuple[int, int]]) -> bool:
    try:
        return _is_database(fd, name, path, in_use)
    except PermissionError:
        return False
    except OSError as error:
        raise DatabaseUnreadableError(path, reason_of(error)) from error


def _is_database(fd: int, name: str, path: str, in_use: set[tuple[int, int]]) -> bool:
    """Return whether *name* in the directory *fd* is a database.

    Args:
        path: Its whole path.
        in_use: The inodes that this process has open.

    Raises:
        OSError: The file cannot be read.
    """
    status = stat_at(fd, name)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size < _MIN_SIZE:
        return False
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        return False
    # Closing any descriptor of a file drops all fcntl locks that this process holds on it, those
    # of an SQLite connection of the host's too; SQLite itself minds its own.
    if (status.st_dev, status.st_ino) in in_use:
        return _sqlite_knows(path)
    try:
        return _header(fd, name) == HEADER
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise


def _header(directory_fd: int, name: str) -> bytes:
    try:
        fd = os.open(name, _OPEN_FILE | os.O_NOATIME, dir_fd=directory_fd)
    except PermissionError:  # only a file's owner may leave its access time as it is
        fd = os.open(name, _OPEN_FILE, dir_fd=directory_fd)
    try:
        return os.pread(fd, len(HEADER), 0)
    finally:
        os.close(fd)


def _sqlite_knows(path: str) -> bool:
    try:
        with connect(path, mode="ro") as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        return primary_code(error) == sqlite3.SQLITE_BUSY
    return True


def _inodes_in_use() -> set[tuple[int, int]]:
    """Return the device and inode of each file that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            device, inode = identity(os.stat(int(number)))
        except OSError:  # closed meanwhile by another thread: no longer in use
            continue
        found.add((device, inode))
    return found
