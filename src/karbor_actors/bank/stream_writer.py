"""What a section stores streams with: a session under keys that can be keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.bank.keys import check_name, encode_name
from karbor_actors.bank.streams import StreamReader, StreamSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from karbor_actors.bank.streams import Readable, StreamInfo


class StreamWriter(StreamSession):
    """What ``BankSection.stream_writer()`` gives: adds streams under keys that can be keys.

    A stream of the bank is given as its StreamInfo, or open for reading.
    """

    def add(self, key: str, readable: Readable) -> StreamInfo:
        """Store what *readable* gives, to its end, as *key*."""
        return super().add(checked_key(key), readable)

    def patch(
        self,
        key: str,
        changes: Iterable[tuple[int, bytes]],
        *,
        base: StreamInfo | StreamReader,
        size: int | None = None,
    ) -> StreamInfo:
        """Store *base* with *changes*, (offset, bytes) in order, over it as *key*."""
        return super().patch(checked_key(key), changes, base=stream_info(base), size=size)

    def reuse(self, key: str, stream: StreamInfo | StreamReader) -> StreamInfo:
        """Store *stream* of this bank once more, as *key*, without reading it."""
        return super().reuse(key, stream_info(stream))


def checked_key(key: str) -> str:
    """Return *key* if it can be one; see :func:`~karbor_actors.bank.keys.check_name`."""
    encode_name(check_name(key))
    return key


def stream_info(stream: StreamInfo | StreamReader) -> StreamInfo:
    """Return what is known of *stream*, which may be open for reading."""
    return stream.info if isinstance(stream, StreamReader) else stream
