"""Where the data of files is kept: large files in streams of their own, small ones in bundles.

A bundle is a stream of at most 1 MiB, which is one block, that holds small files one after
the other: a million of them cost the bank some thousand streams, and compress better. A
bundle is kept for as long as one of its files is unchanged; what its other files left behind
is given up only when more than half of all that is bundled is such.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import BlockMissingError, ObjectNotFoundError
from karbor_filesystem.errors import ManifestError
from karbor_filesystem.manifest import data_key

if TYPE_CHECKING:
    from karbor_filesystem.entries import Entry
    from karbor_filesystem.manifest import Manifest
    from karbor_filesystem.source import Readable

SMALL = 64 << 10
"""Bytes up to which a file is bundled: what one costs as a stream is as much again."""
BUNDLE = 1 << 20
"""Bytes of a full bundle."""
_SPARE_DEAD = 64 << 20
_PAGE_DIGITS = 3
_KEPT_BUNDLES = 16


class StreamPages:
    """The data streams of a checkpoint, looked up page by page.

    Args:
        section: The directory's section in that checkpoint.
    """

    def __init__(self, section: Any) -> None:
        self._section = section
        self._page = ""
        self._streams: dict[str, Any] = {}
        self._number = -1
        self._found: Any = None

    def find(self, number: int) -> Any:
        """Return the stream *number*, or None; fastest with ascending numbers."""
        if number != self._number:
            self._number, self._found = number, self._look_up(number)
        return self._found

    def _look_up(self, number: int) -> Any:
        key = data_key(number)
        page = key[:-_PAGE_DIGITS]
        if page != self._page:
            listed = self._section.list_streams(page)
            self._page, self._streams = page, {stream.key: stream for stream in listed}
        return self._streams.get(key)


def fits(entry: Entry, size: int) -> bool:
    """Return whether a stream of *size* bytes holds the data of *entry* where it should."""
    if entry.is_bundled:
        return entry.offset + entry.stored <= size <= BUNDLE
    return entry.offset == 0 and entry.stored == size


def is_mostly_dead(manifest: Manifest) -> bool:
    """Return whether the bundles of a checkpoint are better written anew."""
    return manifest.bundled - manifest.live > max(_SPARE_DEAD, manifest.live)


class DataWriter:
    """Stores the data of files; numbers its streams in the order of the walk.

    Args:
        writer: The section's stream writer.
        previous: The streams of the earlier checkpoint, or None.
        reuses_bundles: Whether earlier bundles are kept.
    """

    def __init__(
        self, writer: Any, previous: StreamPages | None = None, *, reuses_bundles: bool = True
    ) -> None:
        self._writer, self._previous = writer, previous
        self._reuses_bundles = reuses_bundles
        self._count = 0
        self._bundle = bytearray()
        self._bundle_number = 0
        # The numbers of the earlier checkpoint's streams in this one; None: it lacks it.
        self._reused: dict[int, int | None] = {}
        self.bundled = 0
        """Bytes of all bundles."""
        self.live = 0
        """Bytes of the files in them."""

    def store(self, entry: Entry, source: Readable) -> None:
        """Store what *source* gives as the data of *entry*, which gets its place.

        Raises:
            Exception: What *source* raises; then nothing of it is stored.
            BankError: The bank cannot write.
        """
        entry.is_bundled = entry.stored <= SMALL
        entry.stream = entry.offset = 0
        if not entry.is_bundled:
            self._writer.add(data_key(self._count), source)
            entry.stream = self._next()
            return
        parts = []
        while part := source.read(BUNDLE):
            parts.append(part)
        data = b"".join(parts)
        if not data:
            return
        if len(self._bundle) + len(data) > BUNDLE:
            self.flush()
        if not self._bundle:
            self._bundle_number = self._next()
        entry.stream, entry.offset = self._bundle_number, len(self._bundle)
        self._bundle += data
        self.live += len(data)

    def reuse(self, entry: Entry) -> bool:
        """Take over the data of *entry*, which gets its new place; False if there is none."""
        stored = entry.stored
        if not stored:
            return True
        if self._previous is None or (entry.is_bundled and not self._reuses_bundles):
            return False
        stream = self._previous.find(entry.stream)
        if stream is None or not fits(entry, stream.size):
            return False
        number = self._reused_as(entry.stream, stream, is_bundle=entry.is_bundled)
        if number is None:
            return False
        entry.stream = number
        if entry.is_bundled:
            self.live += stored
        return True

    def take_over_bundle(self, number: int) -> tuple[int, int] | None:
        """Take over the earlier bundle *number*, whose files the caller adds to :attr:`live`.

        Returns:
            its number now, and its size; None if there is none.
        """
        if self._previous is None or not self._reuses_bundles:
            return None
        stream = self._previous.find(number)
        if stream is None or stream.size > BUNDLE:
            return None
        taken = self._reused_as(number, stream, is_bundle=True)
        return None if taken is None else (taken, stream.size)

    def flush(self) -> None:
        """Store the bundle that is not full yet."""
        if self._bundle:
            self._writer.add(data_key(self._bundle_number), io.BytesIO(bytes(self._bundle)))
            self.bundled += len(self._bundle)
            self._bundle.clear()

    def _reused_as(self, number: int, stream: Any, *, is_bundle: bool) -> int | None:
        if number not in self._reused:
            self._reused[number] = self._take_over(stream, is_bundle=is_bundle)
        return self._reused[number]

    def _take_over(self, stream: Any, *, is_bundle: bool) -> int | None:
        try:
            self._writer.reuse(data_key(self._count), stream)
        except (ObjectNotFoundError, BlockMissingError):
            return None  # the files are read instead, and their lost blocks stored anew
        if is_bundle:
            self.bundled += stream.size
        return self._next()

    def _next(self) -> int:
        self._count += 1
        return self._count - 1


class DataReader:
    """Gives back the data of files; keeps some bundles in memory.

    Args:
        section: The directory's section.
    """

    def __init__(self, section: Any) -> None:
        self._section = section
        self._bundles: OrderedDict[int, bytes] = OrderedDict()

    def open(self, entry: Entry) -> Any:
        """Return the data of *entry* as a file to read and close.

        Raises:
            ManifestError: The data is not as large as the manifest says.
            BankError: It cannot be read.
        """
        if entry.is_bundled:
            bundle = self._bundle(entry)
            return io.BytesIO(bundle[entry.offset : entry.offset + entry.stored])
        stream = self._section.open_stream(data_key(entry.stream))
        if not fits(entry, stream.size):
            stream.close()
            raise ManifestError(_misfit(entry, stream.size))
        return stream

    def _bundle(self, entry: Entry) -> bytes:
        bundle = self._bundles.pop(entry.stream, None)
        if bundle is None:
            with self._section.open_stream(data_key(entry.stream)) as stream:
                if not fits(entry, stream.size):
                    raise ManifestError(_misfit(entry, stream.size))
                bundle = stream.read(stream.size)
        elif not fits(entry, len(bundle)):
            raise ManifestError(_misfit(entry, len(bundle)))
        self._bundles[entry.stream] = bundle
        if len(self._bundles) > _KEPT_BUNDLES:
            self._bundles.popitem(last=False)
        return bundle


def _misfit(entry: Entry, size: int) -> str:
    wanted = f"{entry.stored} bytes at {entry.offset}"
    return f"stream {entry.stream} of {entry.name!r} has {size} bytes, and should hold {wanted}"
