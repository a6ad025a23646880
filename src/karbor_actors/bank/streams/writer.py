"""What a section stores streams with: a session under keys that can be keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from karbor_actors.arguments import argument_error, check_instance, checked_count
from karbor_actors.bank.database.keys import check_name, encode_name
from karbor_actors.bank.streams.patch import MAX_SIZE
from karbor_actors.bank.streams.streams import StreamInfo, StreamReader, StreamSession

if TYPE_CHECKING:
    from karbor_actors.bank.streams.streams import Readable


class StreamWriter(StreamSession):
    """What ``BankSection.stream_writer()`` gives: adds streams under keys that can be keys.

    A stream of the bank is given as its StreamInfo, or open for reading.
    """

    def add(self, key: str, readable: Readable) -> StreamInfo:
        """Store what *readable* gives, to its end, as *key*."""
        if isinstance(readable, type) or not callable(getattr(readable, "read", None)):
            expected = "a binary file, or what else has read(n): io.BytesIO(...) for bytes"
            raise argument_error("readable", expected, readable)
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
        check_instance("changes", changes, Iterable, "an iterable of (offset, bytes)")
        checked_count("size", size, least=0, most=MAX_SIZE, or_none=True)
        return super().patch(checked_key(key), changes, base=stream_info(base), size=size)

    def reuse(self, key: str, stream: StreamInfo | StreamReader) -> StreamInfo:
        """Store *stream* of this bank once more, as *key*, without reading it."""
        return super().reuse(key, stream_info(stream))


def checked_key(key: str) -> str:
    """Return *key* if it can be one; see :func:`~karbor_actors.bank.database.keys.check_name`."""
    encode_name(check_name(key))
    return key


def stream_info(stream: StreamInfo | StreamReader) -> StreamInfo:
    """Return what is known of *stream*, which may be open for reading."""
    if isinstance(stream, StreamReader):
        return stream.info
    check_instance("a stream of the bank", stream, StreamInfo, "a StreamInfo or a StreamReader")
    return stream
