"""Finding what an earlier checkpoint holds of a file, by reading both lists side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.errors import BankError
from karbor_filesystem.entries import describes, is_in_place, unpack_entry
from karbor_filesystem.errors import ManifestError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from karbor_filesystem.entries import Entry


class PreviousEntries:
    """The entries of an earlier manifest, found in the order of a walk.

    Only what is taken over is checked whole, since that costs more than all else that an
    unchanged file takes. Rows out of order are not found, so what they describe is read.

    Args:
        rows: In the order of the manifest, unchecked.
        log: Told, as a warning, when they cannot be read on: then nothing more is found.
    """

    def __init__(self, rows: Iterator[Any], log: Any) -> None:
        self._rows, self._log = rows, log
        self.next: list[Any] | None = None
        """What comes next in it: a row with a depth and a name, otherwise unchecked."""
        self._ordinal = -1
        self._matched = -1
        """The depth down to which the walk's directories are in the earlier manifest."""
        self.advance()

    def is_in(self, depth: int) -> bool:
        """Return whether the directory that holds the walk's next, at *depth*, is in it."""
        return self._matched >= depth - 1

    def enter(self, depth: int, name: bytes) -> None:
        """Follow the walk into the directory *name*."""
        if self._is_next(depth, name):
            self._matched = depth
            self.advance()

    def find(self, depth: int, name: bytes, status: os.stat_result) -> Entry | None:
        """Return the earlier entry of a file that is the walk's next; None if it has changed."""
        if not self._is_next(depth, name) or (row := self.next) is None:
            return None
        try:
            entry = unpack_entry(row, self._ordinal) if describes(row, status) else None
        except ManifestError as error:
            self._give_up(error)
            return None
        self.advance()
        return None if entry is None or entry.is_unstable else entry

    def _is_next(self, depth: int, name: bytes) -> bool:
        """Return whether *name*, for which all before it is passed over, comes next."""
        if self._matched >= depth:
            self._matched = depth - 1
        elif self._matched < depth - 1:
            return False
        row = self.next
        while row is not None and (row[1] > depth or (row[1] == depth and row[2] < name)):
            row = self.advance()
        return row is not None and row[1] == depth and row[2] == name

    def advance(self) -> list[Any] | None:
        """Pass over what comes next, and return what comes then."""
        self._ordinal += 1
        try:
            self.next = next(self._rows, None)
        except (ManifestError, BankError) as error:
            self._give_up(error)
        else:
            if self.next is not None and not is_in_place(self.next):
                self._give_up(ManifestError(f"entry {self._ordinal} is malformed"))
        return self.next

    def _give_up(self, error: Exception) -> None:
        self._log.warning("the previous checkpoint is not used further: %s", error)
        self._rows, self.next = iter(()), None
