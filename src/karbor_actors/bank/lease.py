"""Who may write a bank: a lock on a file that goes with its process, and names its holder.

The lock belongs to the open file description (``F_OFD_SETLK``), so that closing another
descriptor of the file does not drop it, and a second open in one process is refused as another
process's is. It needs no expiry: the kernel drops it with the process. The file names its owner
until that gives the lease up, and says of which boot of which host it is: a dead owner's lease is
free at once on its own host, whatever the clocks say, but another host's kernel cannot be asked,
so its lease goes only by :func:`break_lease`. Should its owner live all the same, the epoch in the
bank's records, which each opening for writing raises and each commit checks, stops it.
"""

from __future__ import annotations

import contextlib
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

from karbor_actors.arguments import checked_path
from karbor_actors.bank.database.faults import open_error
from karbor_actors.errors import BankLeaseError, ForeignLeaseError

_BUSY = frozenset({errno.EACCES, errno.EAGAIN})
_SHOWN_ARGUMENTS = 4
_MAX_RECORD = 1 << 16
_ID_SIZE = 64


class Lease:
    """The right to write one bank, from construction to :meth:`release`. Any thread.

    Args:
        directory: The bank's directory.

    Raises:
        BankLeaseError: Somebody has it; the error names who.
        ForeignLeaseError: Another host's process had it and did not give it up.
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
            before = _read_record(fd)
            if before is not None and not _is_of_this_host(before):
                os.close(fd)
                raise ForeignLeaseError(directory, _describe(before))
            record = json.dumps(_describe_self()).encode()
            _write(fd, record)
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
            with contextlib.suppress(OSError):  # then it is as if the process had died
                _write(self._fd, b"")
            _lock(self._fd, fcntl.F_UNLCK)  # at once, whatever else has the description open
            self.abandon()

    def abandon(self) -> None:
        """Close the file but let the lock be: a forked child's part."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def break_lease(directory: str | os.PathLike[str]) -> str | None:
    """Take the lease from an owner that did not give it up; return who that was, None if nobody.

    For an owner on another host, which must be dead: what it still writes is refused, but what
    its hooks do outside of the bank is not.

    Raises:
        BankLeaseError: The owner lives: its lock is there.
        BankPathError: There is no bank, or its lock file cannot be opened.
    """
    directory = checked_path("directory", directory)
    path = os.path.join(directory, "lease")
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise open_error(error, path) from error
    try:
        _lock(fd)
        owner = _read_record(fd)
        _write(fd, b"")
    except OSError as error:
        if error.errno in _BUSY:
            raise BankLeaseError(directory, _read_owner(fd)) from None
        raise open_error(error, path) from error
    finally:
        os.close(fd)
    return None if owner is None else _describe(owner)


def owner_of(directory: str) -> str | None:
    """Return who may write the bank in *directory* now, None if nobody; takes no lease.

    Another host's process that did not give it up may live, for all that is known here.

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
        if struct.unpack_from("h", found)[0] != fcntl.F_UNLCK:
            return _read_owner(fd)
        record = _read_record(fd)
        return None if record is None or _is_of_this_host(record) else _describe(record)
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
        "machine": _read_id("/etc/machine-id"),
        "boot": _read_id("/proc/sys/kernel/random/boot_id"),
        "command": " ".join(sys.orig_argv[:_SHOWN_ARGUMENTS]),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _read_id(path: str) -> str:
    """Return what tells this host or boot from others, nothing where the system does not say."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read(_ID_SIZE).strip()
    except (OSError, ValueError):
        return ""


def _is_of_this_host(owner: dict[str, Any]) -> bool:
    """Return whether this kernel would know if the *owner* of a free lock lived.

    It is this kernel's, whatever a container calls the host; or that of the boot before.
    """
    own = _describe_self()
    if own["boot"] and owner.get("boot") == own["boot"]:
        return True
    return all(owner.get(name, "") == own[name] for name in ("host", "machine"))


def _write(fd: int, record: bytes) -> None:
    """Write *record* over what the file says, in place: on a full disk a start needs no space."""
    os.pwrite(fd, record.ljust(os.fstat(fd).st_size), 0)


def _read_record(fd: int) -> dict[str, Any] | None:
    """Return what the file says of its owner; None if nothing, or nothing that makes sense."""
    try:
        record = json.loads(os.pread(fd, _MAX_RECORD, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_owner(fd: int) -> str:
    """Return who holds the lock, as far as the file says."""
    record = _read_record(fd)
    return "another process" if record is None else _describe(record)


def _describe(record: dict[str, Any]) -> str:
    if not {"pid", "host", "command", "since"} <= record.keys():
        return "another process"
    host, command, since = (_printable(record[name]) for name in ("host", "command", "since"))
    if record["pid"] == os.getpid() and record.get("boot") == _describe_self()["boot"]:
        return f"this process (opened {since})"
    return f"process {_printable(record['pid'])} on {host} ({command}, since {since})"


def _printable(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else ascii(text)
