"""What LMDB and the disk report, said as the bank's errors."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import lmdb

from karbor_actors.errors import (
    BankBrokenError,
    BankFormatError,
    BankFullError,
    BankPathError,
    BankReadonlyError,
)

if TYPE_CHECKING:
    from karbor_actors.errors import BankError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_DIRECTORY = frozenset({errno.EEXIST, errno.ENOTDIR})
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)
_PROBE = 1 << 16


def record_error(error: lmdb.Error, path: str) -> BankError:
    """Return what *error*, met while reading or writing the records in *path*, means."""
    code = getattr(error, "code", 0)
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or code in _FULL:
        return _full(path)
    if code == errno.EIO and _is_full(path):
        return _full(path)  # LMDB says EIO where a write was cut short
    if isinstance(error, _DAMAGE):
        return BankFormatError(f"{path} is damaged ({error}); stop all users, then rebuild it")
    if isinstance(error, lmdb.ReadonlyError) or code in _READONLY:
        return BankReadonlyError(f"{path} may not be written: {error}")
    if isinstance(error, lmdb.ReadersFullError):
        return BankBrokenError(f"{path} has too many readers at once; wait for some to end")
    return BankBrokenError(
        f"the records in {path} could not be read or written: {error}; if that is so again, "
        "rebuild them"
    )


def open_error(error: lmdb.Error | OSError, path: str) -> BankError:
    """Return what *error*, met while opening the environment *path*, means."""
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    if isinstance(error, _DAMAGE):
        return _foreign(error, path)
    if code in _FULL or (code == errno.EIO and _is_full(path)):
        return _full(path)
    if code in _READONLY:
        return BankReadonlyError(f"{path} may not be opened: {os.strerror(code)}")
    if code == errno.ENOMEM:
        return BankBrokenError(
            f"{path} cannot be opened: there is no memory or address space for it; free some, or "
            "allow more (ulimit -v)"
        )
    if code in _NO_DIRECTORY:
        return BankPathError(f"{path} is not a directory, or lies below what is none")
    if code:
        reason = os.strerror(code) if code > 0 else str(error)
        return BankPathError(f"{path} cannot be opened: {reason}")
    if "already open" in str(error):
        return BankPathError(f"{path} is open in this process already, by other means than a Bank")
    return _foreign(error, path)


def _foreign(error: lmdb.Error | OSError, path: str) -> BankFormatError:
    return BankFormatError(
        f"{path} holds no bank that this release can read ({error}); if it held one, rebuild "
        "it, else name another directory"
    )


def _full(path: str) -> BankFullError:
    return BankFullError(f"no space is left for {path}; free some, what it holds is intact")


def _is_full(path: str) -> bool:
    """Return whether a write beside *path* finds no space, or *path* is as large as allowed."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    data = os.path.join(path, "data.mdb")
    try:
        if limit != resource.RLIM_INFINITY and os.path.getsize(data) + _PROBE > limit:
            return True
        fd = os.open(path, os.O_TMPFILE | os.O_WRONLY, 0o600)
        try:
            return os.write(fd, bytes(_PROBE)) < _PROBE
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno in _FULL
