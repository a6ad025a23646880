"""Taking over files that have not changed, in runs.

What the protect of an unchanged tree takes is this loop, so it calls next to nothing for a file:
that is a quarter of what the reader's way takes. It leaves to the reader whatever there may be
more to do or to say about: files that changed, came or went, are large, empty, sparse or have
several names. So nothing depends on it but the time.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from karbor_filesystem.entries import bundled_place, bundled_row

if TYPE_CHECKING:
    from karbor_filesystem.data import DataWriter
    from karbor_filesystem.manifest import ManifestWriter
    from karbor_filesystem.previous import PreviousEntries

_RUN = 256
"""Files after which it is time to look whether the operation is cancelled."""


class UnchangedFiles:
    """Takes over runs of small files; one use, one thread.

    Args:
        previous: The entries of the earlier checkpoint.
        manifest: Takes the entries.
        data: Takes over their data.
    """

    def __init__(
        self, previous: PreviousEntries, manifest: ManifestWriter, data: DataWriter
    ) -> None:
        self._previous, self._manifest, self._data = previous, manifest, data

    def take_over(self, fd: int, depth: int, names: list[bytes], start: int) -> tuple[int, int]:
        """Take over files as long as they come next in the earlier manifest and are unchanged.

        Args:
            fd: The directory.
            depth: That of what it holds.
            names: What is in it, ascending.
            start: The place of the first to look at.

        Returns:
            how many were taken over, and how many bytes they have. The reader sees to the next.

        Raises:
            BankError: The bank cannot write.
        """
        previous = self._previous
        taken = size = 0
        earlier = stream = room = -1
        for name in names[start : start + _RUN] if previous.is_in(depth) else ():
            row = previous.next
            if row is None or row[2] != name or row[1] != depth:
                break
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                break
            found = bundled_place(row, status)
            if found is None or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                break
            number, offset = found
            if number != earlier:
                bundle = self._data.take_over_bundle(number)
                if bundle is None:
                    break
                earlier, (stream, room) = number, bundle
            if offset + status.st_size > room:
                break
            self._manifest.add_row(bundled_row(row, status, stream, offset))
            previous.advance()
            taken += 1
            size += status.st_size
        self._data.live += size
        return taken, size
