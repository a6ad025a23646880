"""The extended attributes of a database's file: its access list, and those of applications."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from karbor_sqlite.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

_ACCESS_LIST = "system.posix_acl_access"
_KEPT = (_ACCESS_LIST, "user.")
_MISSING = {errno.ENODATA, errno.ENOTSUP, errno.ENOSYS}


def read_attributes(path: str) -> dict[str, bytes]:
    """Return what :func:`set_attributes` takes, of the file at *path*, no link being followed.

    Raises:
        OSError: They cannot be read.
    """
    found = {}
    try:
        names = os.listxattr(path, follow_symlinks=False)
        for name in names:
            if name.startswith(_KEPT):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
    return found


def set_attributes(fd: int, saved: Any, warn: Callable[[str, str, str], None]) -> None:
    """Give an open file the attributes *saved*, and no access list that its directory lent it.

    Args:
        saved: What :func:`read_attributes` returned, from the bank, so that nothing else is set.
        warn: Called with a sentence to format with the attribute and the reason, for each that
            the file system refuses.
    """
    wanted = saved if isinstance(saved, dict) else {}
    for name, value in {_ACCESS_LIST: None, **wanted}.items():
        try:
            if value is None:
                os.removexattr(fd, name)
            elif name.startswith(_KEPT) and isinstance(value, bytes):
                os.setxattr(fd, name, value)
        except OSError as error:
            if value is not None or error.errno not in _MISSING:
                warn("the attribute %s is not as it was: %s", name, reason_of(error))
