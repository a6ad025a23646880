"""Which operations may only be undone, where the bank itself cannot take that down.

An operation whose bank cannot write (its disk is full) is undone from memory. Were that forgotten
with the process, the next one would go on with what has been undone. So each bank has a small file
beside its records, with its blocks allocated ahead: to write over it needs no space.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

NAME: Final = "aborts"
"""The file's name in the bank's directory."""
_SIZE: Final = 8192
_SLOT: Final = 64
"""Bytes for an operation's id; the rest of a slot is NUL."""
_SLOTS: Final = _SIZE // _SLOT
_ALL: Final = "*"
"""Stands for every operation that is unfinished, in the last slot."""
_locks: dict[str, threading.Lock] = {}
"""By directory: two that add at once would take the same slot."""
os.register_at_fork(after_in_child=_locks.clear)  # one may be held there for ever


def prepare(directory: str | os.PathLike[str], wanted: Collection[str]) -> frozenset[str]:
    """Make the file, or see that it is there; return the operations of *wanted* that it names.

    The others, which have ended, are forgotten. For the bank's owner, before operations run.

    Raises:
        OSError: The file cannot be made or written.
    """
    fd = _open(directory, os.O_CREAT)
    try:
        named = _named(fd)
        kept = list(wanted) if _ALL in named else [name for name in named if name in wanted]
        if kept != named or os.fstat(fd).st_size < _SIZE:
            slots = kept if len(kept) < _SLOTS else [_ALL]
            # Not posix_fallocate(): a file system may take that for enough and not copy in place.
            os.pwrite(fd, b"".join(map(_slot, slots)).ljust(_SIZE, b"\0"), 0)
            os.fsync(fd)
        return frozenset(kept)
    finally:
        os.close(fd)


def add(directory: str | os.PathLike[str], operation_id: str) -> None:
    """Note durably that an operation may only be undone.

    Where there is no room for one more, all that are unfinished may only be undone: some for
    nothing, but none goes on with what has been undone.

    Raises:
        OSError: The file cannot be written.
    """
    with _locks.setdefault(os.fspath(directory), threading.Lock()):
        _add(directory, operation_id)


def _add(directory: str | os.PathLike[str], operation_id: str) -> None:
    fd = _open(directory)
    try:
        named = _named(fd)
        if _ALL in named or operation_id in named:
            return
        is_last = len(named) >= _SLOTS - 1 or len(operation_id.encode()) > _SLOT
        place = min(len(named), _SLOTS - 1) * _SLOT
        os.pwrite(fd, _slot(_ALL if is_last else operation_id), place)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _open(directory: str | os.PathLike[str], flags: int = 0) -> int:
    path = os.path.join(directory, NAME)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


def _slot(operation_id: str) -> bytes:
    return operation_id.encode().ljust(_SLOT, b"\0")


def _named(fd: int) -> list[str]:
    """Return what the slots say, up to the first empty one; what is no text is nobody's id."""
    data = os.pread(fd, _SIZE, 0)
    slots = (data[at : at + _SLOT].rstrip(b"\0") for at in range(0, len(data), _SLOT))
    named = []
    for slot in slots:
        if not slot:
            break
        named.append(slot.decode("utf-8", "replace"))
    return named
