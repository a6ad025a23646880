"""Finding what an earlier checkpoint holds of an entry, by reading both lists side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.errors import BankError
from karbor_filesystem.entries import Kind
from karbor_filesystem.errors import ManifestError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from karbor_filesystem.entries import Entry


class PreviousEntries:
    """The entries of an earlier manifest, found in the order of a walk.

    Args:
        entries: In the order of the manifest.
        log: Told, as a warning, when they cannot be read on: then nothing more is found.
    """

    def __init__(self, entries: Iterator[Entry], log: Any) -> None:
        self._entries, self._log = entries, log
        self._next: Entry | None = None
        self._matched = -1
        """The depth down to which the walk's directories are in the earlier manifest."""
        self._advance()

    def find(self, depth: int, name: bytes) -> Entry | None:
        """Return the earlier entry of the walk's next entry, if there was one."""
        self._matched = min(self._matched, depth - 1)
        if self._matched < depth - 1:
            return None
        while self._next is not None and (
            self._next.depth > depth or (self._next.depth == depth and self._next.name < name)
        ):
            self._advance()
        found = self._next
        if found is None or found.depth != depth or found.name != name:
            return None
        self._matched = depth
        self._advance()
        return found

    def _advance(self) -> None:
        try:
            self._next = next(self._entries, None)
        except (ManifestError, BankError) as error:
            self._log.warning("the previous checkpoint is not used further: %s", error)
            self._next = None


def is_unchanged(previous: Entry, status: os.stat_result) -> bool:
    """Return whether a file is still the one that *previous* describes.

    Any write, and any change of its mode, owner or attributes, changes the ctime.
    """
    return (
        previous.kind is Kind.FILE
        and not previous.is_unstable
        and previous.ctime == status.st_ctime_ns
        and previous.mtime == status.st_mtime_ns
        and previous.size == status.st_size
        and previous.inode == status.st_ino
    )
