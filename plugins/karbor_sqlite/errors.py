"""What can go wrong with a database, in sentences for people.

The tree::

    KarborError
    +-- DatabaseError
        +-- DatabaseMissingError     FileNotFoundError
        +-- DatabaseUnreadableError  OSError      it, or a directory on the way, cannot be read
        +-- DatabaseWrongError       ValueError   no SQLite database, encrypted, or damaged
        |   +-- CopyWrongError                    the same of a checkpoint's copy
        +-- DatabaseUnsupportedError              it needs an extension that is not here
        +-- DatabaseBusyError        TimeoutError somebody keeps it locked
        +-- DatabaseReplacedError                 another file took its place during the copy
        +-- ScratchError             OSError      no room or no right for the temporary copy
        +-- RestorePlaceError        OSError      the place to restore to cannot hold it
        +-- TargetExistsError        FileExistsError
        +-- TargetInUseError                      overwriting a database that somebody has open
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from karbor_actors import KarborError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN_FINDINGS = 3


def show(path: bytes | str) -> str:
    """Return *path* as people read it, in one line, with odd characters escaped."""
    text = path if isinstance(path, str) else os.fsdecode(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def reason_of(error: OSError) -> str:
    """Return what the system says is wrong, without number and path."""
    return error.strerror or str(error)


class DatabaseError(KarborError):
    """A database cannot be found, protected, verified or restored."""

    def __init__(self, path: str, reason: str = "") -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{show(self.path)}: {self.reason}"


class DatabaseMissingError(DatabaseError, FileNotFoundError):
    """There is no regular file at the database's path."""

    def __str__(self) -> str:
        return f"there is no database at {show(self.path)}: {self.reason}"


class DatabaseUnreadableError(DatabaseError, OSError):
    """A database, a file that may be one, or a directory above it cannot be read."""

    def __str__(self) -> str:
        return f"cannot read {show(self.path)}: {self.reason}"


class DatabaseWrongError(DatabaseError, ValueError):
    """The file is no SQLite database that can be read: foreign, encrypted or damaged."""

    def __init__(self, path: str, findings: Sequence[str]) -> None:
        super().__init__(path)
        self.args = (path, tuple(findings))
        self.findings = tuple(findings)
        """What SQLite says is wrong, a line each."""

    def __str__(self) -> str:
        what = f"{show(self.path)} is damaged, encrypted or no SQLite database"
        return f"{what}: {self._found()}; repair it, or leave it out"

    def _found(self) -> str:
        shown = ", ".join(show(finding) for finding in self.findings[:_SHOWN_FINDINGS])
        more = len(self.findings) - _SHOWN_FINDINGS
        return f"{shown}, and {more} more" if more > 0 else shown


class CopyWrongError(DatabaseWrongError):
    """A checkpoint's copy of a database is damaged, or not what was saved."""

    def __str__(self) -> str:
        what = f"the checkpoint's copy of {show(self.path)} is damaged"
        return f"{what}: {self._found()}; use another checkpoint"


class DatabaseUnsupportedError(DatabaseError):
    """The database cannot be checked here: it needs an extension or a newer SQLite."""

    def __str__(self) -> str:
        return f"{show(self.path)} cannot be checked by the SQLite at hand: {self.reason}"


class DatabaseBusyError(DatabaseError, TimeoutError):
    """Somebody kept the database locked for longer than ``busy_timeout``."""

    def __str__(self) -> str:
        return (
            f"{show(self.path)} stayed locked for {self.reason} s; "
            "end what holds it, or raise busy_timeout"
        )


class DatabaseReplacedError(DatabaseError):
    """Another file took the database's place while it was being copied."""

    def __str__(self) -> str:
        return f"{show(self.path)} was replaced while it was being copied; try again"


class ScratchError(DatabaseError, OSError):
    """The temporary copy cannot be written."""

    def __str__(self) -> str:
        return (
            f"the temporary copy cannot be written to {show(self.path)}: {self.reason}; "
            'name a directory with room for the database with the parameter "scratch"'
        )


class RestorePlaceError(DatabaseError, OSError):
    """A database cannot be restored to a place."""

    def __str__(self) -> str:
        return f"cannot restore to {show(self.path)}: {self.reason}"


class TargetExistsError(DatabaseError, FileExistsError):
    """Something stands where a database is to be restored, and ``overwrite`` is not set."""

    def __str__(self) -> str:
        return f"{show(self.path)} exists; restore elsewhere, or set overwrite = true"


class TargetInUseError(DatabaseError):
    """The database that a restore is to overwrite is open in a program."""

    def __str__(self) -> str:
        return f"{show(self.path)} is in use; stop what uses it before restoring over it"
