"""Who may write a bank: a lock on a file that goes with its process, and names its holder.

The lock belongs to the open file description (``F_OFD_SETLK``), so that closing another
descriptor of the file does not drop it, and a second open in one process is refused as another
process's is. It needs no expiry: the kernel drops it with the process. Beside it the bank's
records hold an epoch, which each opening for writing raises and each commit checks; it stops an
owner on another host whose file system does not share the lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import sys
import time
import weakref
from typing import Any

from karbor_actors.bank.faults import open_error
from karbor_actors.errors import BankLeaseError

_BUSY = frozenset({errno.EACCES, errno.EAGAIN})
_SHOWN_ARGUMENTS = 4
_MAX_RECORD = 1 << 16


class Lease:
    """The right to write one bank, from construction to :meth:`release`. Any thread.

    Args:
        directory: The bank's directory.

    Raises:
        BankLeaseError: Somebody has it; the error names who.
        BankReadonlyError: The lock file may not be written.
        BankPathError: It cannot be opened.
    """

    def __init__(self, directory: str) -> None:
        self._fd = -1
        path = os.path.join(directory, "lease")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise open_error(error, path) from error
        try:
            _lock(fd)
            record = json.dumps(_describe_self()).encode()
            os.ftruncate(fd, 0)
            os.pwrite(fd, record, 0)
        except OSError as error:
            owner = _read_owner(fd)
            os.close(fd)
            if error.errno in _BUSY:
                raise BankLeaseError(directory, owner) from None
            raise open_error(error, path) from error
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Give the lease up. Idempotent."""
        if self._fd >= 0:
            _lock(self._fd, fcntl.F_UNLCK)  # at once, whatever else has the description open
            self.abandon()

    def abandon(self) -> None:
        """Close the file but let the lock be: a forked child's part."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def owner_of(directory: str) -> str | None:
    """Return who may write the bank in *directory* now, None if nobody; takes no lease.

    Raises:
        BankPathError: The lock file cannot be read.
    """
    path = os.path.join(directory, "lease")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise open_error(error, path) from error
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK))
        is_free = struct.unpack_from("h", found)[0] == fcntl.F_UNLCK
        return None if is_free else _read_owner(fd)
    finally:
        os.close(fd)


_held: weakref.WeakSet[Lease] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A child that kept the description would keep the lock beyond its parent's death.
    for lease in list(_held):
        lease.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _lock(fd: int, kind: int = fcntl.F_WRLCK) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(kind))


def _request(kind: int) -> bytes:
    # struct flock: type, whence, start, length (0: all), pid (0: the file description's lock)
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def _describe_self() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(sys.orig_argv[:_SHOWN_ARGUMENTS]),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _read_owner(fd: int) -> str:
    """Return who holds the lock, as far as the file says."""
    try:
        record = json.loads(os.pread(fd, _MAX_RECORD, 0))
        where = "this process" if record["pid"] == os.getpid() else f"process {record['pid']}"
        host, command, since = (str(record[key]) for key in ("host", "command", "since"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
    command = command if command.isprintable() else ascii(command)
    if where == "this process":
        return f"this process (opened {since})"
    return f"{where} on {host} ({command}, since {since})"
