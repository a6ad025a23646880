"""A little space that a bank keeps for a start on a full disk.

What a killed process left frozen is undone at the next start, which has to write: who owns the
bank now, and what is undone. So a file beside the records holds some space, and gives it to the
records when they cannot be opened otherwise.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from karbor_actors.bank.database.mapping import data_file

NAME: Final = "reserve"
"""The file's name in the bank's directory."""
_SIZE: Final = 1 << 20
"""Bytes: some 60 commits' of new pages, before those of the first ones are free again."""


def keep(directory: str) -> None:
    """Make the file, or see that it is there; where there is no space for it there is none."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(directory, NAME), flags, 0o600)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if _is_own(status) and status.st_size < _SIZE:
            try:
                # Not zeros, nor posix_fallocate(): a file system may keep those without space.
                written = os.pwrite(fd, os.urandom(_SIZE), 0)
            except OSError:
                written = 0
            if written < _SIZE:
                os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _is_own(status: os.stat_result) -> bool:
    """Return whether it is a file that nothing else is called too: all else is somebody else's."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def give_up(directory: str, records: str) -> bool:
    """Give the space to the data file in the folder *records*; return whether there was any."""
    path = os.path.join(directory, NAME)
    try:
        status = os.lstat(path)
        if not _is_own(status) or status.st_size < _SIZE:
            return False
        os.unlink(path)
        fd = os.open(data_file(records), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):  # before anybody else takes it
            os.posix_fallocate(fd, os.fstat(fd).st_size, _SIZE)
    finally:
        os.close(fd)
    return True
