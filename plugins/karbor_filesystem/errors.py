"""What can go wrong with a directory, in sentences for people."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from karbor_actors.errors import (
    BlockCorruptError,
    BlockMissingError,
    KarborError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def show(path: bytes | str) -> str:
    """Return *path* as people read it, in one line, with odd characters escaped."""
    text = path if isinstance(path, str) else os.fsdecode(path)
    return text if text.isprintable() else ascii(text)[1:-1]


class DirectoryError(KarborError):
    """A directory cannot be protected, restored or verified."""


class PatternError(DirectoryError, ValueError):
    """An include or exclude pattern that cannot match anything."""

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(pattern, reason)
        self.pattern, self.reason = pattern, reason

    def __str__(self) -> str:
        return f"the pattern {self.pattern!r} {self.reason}"


class RootError(DirectoryError, OSError):
    """The directory to protect is missing, is no directory or may not be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{show(self.path)} {self.reason}"


class UnreadableError(DirectoryError, OSError):
    """Something in the tree cannot be read; ``__cause__`` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"cannot read {show(self.path)}: {self.reason}; exclude it, or leave it out "
            'with on_unreadable="report"'
        )


class ChangedError(DirectoryError):
    """A file changed while it was read, and ``on_change`` is "fail"."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{show(self.path)} changed each time it was read; try again when nothing writes it"


class MovedError(DirectoryError):
    """A directory was moved while the tree below it was being walked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the directory {show(self.name)} was moved while the tree was walked; try again"


class TargetError(DirectoryError, OSError):
    """The place to restore into cannot take what is to be restored."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"cannot restore into {show(self.path)}: {self.reason}"


class UnsupportedError(DirectoryError, OSError):
    """The target refuses an owner, an attribute or a device; ``__cause__`` says why."""

    def __init__(self, path: str, what: str, reason: str) -> None:
        super().__init__(path, what, reason)
        self.path, self.what, self.reason = path, what, reason

    def __str__(self) -> str:
        return (
            f"cannot set {self.what} of {show(self.path)}: {self.reason}; restore elsewhere, or "
            'leave out what the target cannot hold with on_unsupported="report"'
        )


class ManifestError(DirectoryError, ValueError):
    """The list of what a checkpoint holds of a directory is damaged or was forged."""


DAMAGED = (ManifestError, BlockCorruptError, BlockMissingError, ObjectNotFoundError)
"""What reading from a checkpoint raises where it is damaged."""


class VerifyError(DirectoryError):
    """A checkpoint does not hold all that its manifest names."""

    def __init__(self, faults: Sequence[str], count: int) -> None:
        super().__init__(tuple(faults), count)
        self.faults, self.count = tuple(faults), count
        """The first faults, and how many there are in all."""

    def __str__(self) -> str:
        more = (
            f" (and {self.count - len(self.faults)} more)" if self.count > len(self.faults) else ""
        )
        return f"the checkpoint is not complete: {'; '.join(self.faults)}{more}"
