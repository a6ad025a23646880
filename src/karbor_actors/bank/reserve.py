"""A little space that a bank keeps for a start, and for a delete, on a full disk.

What a killed process left frozen is undone at the next start, which has to write: who owns the
bank now, and what is undone. And a delete, which is to free space, writes first: who runs it, and
that the checkpoint is going. So a file beside the records holds some space. It is given up for as
long as somebody needs it: most of it to the records, as the end of their data file, before anybody
else takes it; the rest is free, for the objects that change. Then it is taken back.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
from typing import TYPE_CHECKING, Final

import lmdb

from karbor_actors.bank.database.mapping import MappedFile, data_file
from karbor_actors.errors import BankError

if TYPE_CHECKING:
    from karbor_actors.bank.database.environment import Environment

NAME: Final = "reserve"
"""The file's name in the bank's directory."""
_SIZE: Final = 1 << 20
"""Bytes: some 60 commits' of new pages, before those of the first ones are free again."""
_FOR_START: Final = _SIZE // 4
"""Bytes that a delete leaves of it: one that takes more than there is must not keep others from all."""
_FOR_RECORDS: Final = 3 * _SIZE // 4
"""Bytes that the records get at most of what is given up; of less, as large a part."""
_REFUSALS: Final = (BankError, OSError, lmdb.Error)


class Reserve:
    """The space that one open bank keeps. Any thread may call it; it waits for the disk.

    No method raises for what the disk refuses: then there is less space, or none.

    Args:
        directory: The bank's.
        environment: Its records.
        is_kept: Whether there is any: not for who only reads, nor in a simulation.
    """

    def __init__(self, directory: str, environment: Environment, *, is_kept: bool) -> None:
        self._directory, self._environment, self._is_kept = directory, environment, is_kept
        self._lock = threading.Lock()
        self._users = 0
        self._is_given_up = False

    def keep(self) -> None:
        """See that there is one, when the bank is opened, where there is space for it."""
        if self._is_kept and not self._is_given_up:
            _fill(self._directory, leaves_half=True)

    @property
    def is_needed(self) -> bool:
        """Whether the file system has less space left than is kept, or only what was kept."""
        if not self._is_kept:
            return False
        try:
            return self._is_given_up or _free(self._directory) < _SIZE
        except OSError:
            return False

    def use(self) -> None:
        """Give up most of it until :meth:`leave` was called as often."""
        with self._lock:
            self._users += 1
            self._give_up(_FOR_START)

    def leave(self) -> None:
        """Need it no more; take it back if nobody does."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._take_back()

    def give_up(self) -> bool:
        """Give up all of it until somebody takes it back; return whether there was any."""
        with self._lock:
            return self._give_up(0)

    def close(self) -> None:
        """Take it back, since nobody writes any more. Idempotent."""
        with self._lock:
            self._take_back()

    def _give_up(self, rest: int) -> bool:
        if not self._is_kept:
            return False
        self._is_given_up = True  # also if there is none: what others leave is kept then
        freed = _shrink(self._directory, rest)
        if freed:
            with contextlib.suppress(*_REFUSALS):
                self._environment.run_alone(lambda file: _allocate(file, freed * 3 // 4))
        return freed > 0

    def _take_back(self) -> None:
        if not self._is_given_up:
            return
        self._is_given_up = False
        with contextlib.suppress(*_REFUSALS):
            self._environment.check_may_wait()  # a forked child leaves it to its parent
            self._environment.run_alone(MappedFile.cut)
            _fill(self._directory)


def _free(place: str | int) -> float:
    """Return how many bytes the file system of a path or descriptor has left; inf if it says nothing."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize if status.f_blocks else math.inf


def _fill(directory: str, *, leaves_half: bool = False) -> None:
    """Make the file, or add what it lacks, as far as there is space.

    Args:
        directory: The bank's.
        leaves_half: Whether to leave as much space free as it takes.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        fd = os.open(os.path.join(directory, NAME), flags, 0o600)
        try:
            status = os.fstat(fd)
            missing = _SIZE - status.st_size
            if leaves_half:
                missing = int(min(missing, _free(fd) // 2))
            if _is_own(status) and missing > 0:
                # Not zeros, nor posix_fallocate(): a file system may keep those without space.
                os.pwrite(fd, os.urandom(missing), status.st_size)
        finally:
            os.close(fd)


def _is_own(status: os.stat_result) -> bool:
    """Return whether it is a file that nothing else is called too: all else is somebody else's."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _shrink(directory: str, rest: int) -> int:
    """Leave *rest* bytes of the file; return how many are free now."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(directory, NAME), flags)
    except OSError:
        return 0
    try:
        status = os.fstat(fd)
        if not _is_own(status) or status.st_size <= rest:
            return 0
        os.ftruncate(fd, rest)
    except OSError:
        return 0
    finally:
        os.close(fd)
    return status.st_size - rest


def _allocate(file: MappedFile, size: int) -> None:
    """Have the data file's end, which LMDB does not use yet, hold *size* bytes more, if it may."""
    used = file.info()["used_bytes"]
    fd = os.open(data_file(file.path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        has = max(os.fstat(fd).st_size, used)
        more = min(size, used + _FOR_RECORDS - has)
        if more > 0:
            os.posix_fallocate(fd, has, more)
    finally:
        os.close(fd)
