"""Records: plain values as msgpack, written checked and read with no trust in what is there.

Text is UTF-8 with surrogateescape, so that a file name which is no text survives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgpack

from karbor_actors.errors import (
    BankFormatError,
    BankValueError,
    RecordTooLargeError,
)
from karbor_actors.plain import copy_plain

if TYPE_CHECKING:
    from karbor_actors.errors import Fault

T = TypeVar("T")

MAX_RECORD_SIZE = 16 << 20
"""The most bytes of one object's value."""


def pack_record(value: Any, what: str, *, limit: int | None = MAX_RECORD_SIZE) -> bytes:
    """Return *value* as msgpack.

    Args:
        value: None, bool, int (64 bits), float, str, bytes, and lists and dicts (with strings
            as keys) of these.
        what: What the value is, for the error.
        limit: The most bytes that may come out.

    Raises:
        BankValueError: It holds something else; the error names where, and its type.
        RecordTooLargeError: It is larger than *limit*.
    """
    return pack_plain(checked_plain(value, what), what, limit=limit)


def checked_plain(value: T, what: str) -> T:
    """Return a copy of *value*, which is plain, as :func:`pack_record` wants it; raises as that."""
    faults: list[Fault] = []
    plain: T = copy_plain(value, what, faults)
    if faults:
        raise BankValueError("; ".join(map(str, faults[:5])))
    return plain


def pack_plain(value: Any, what: str, *, limit: int | None = MAX_RECORD_SIZE) -> bytes:
    """Do :func:`pack_record` with what is known to be plain: it was read from a record."""
    try:
        packed: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    except ValueError as error:  # what is plain fails only by size
        raise RecordTooLargeError(f"{what} is too large: {error}") from error
    if limit is not None and len(packed) > limit:
        raise RecordTooLargeError(
            f"{what} takes {len(packed)} bytes and a record at most {limit}; "
            "keep it with write_stream()"
        )
    return packed


def unpack_record(packed: bytes | memoryview, what: str) -> Any:
    """Return the value that :func:`pack_record` packed.

    Raises:
        BankFormatError: The bytes are no such value.
    """
    try:
        return msgpack.unpackb(packed, unicode_errors="surrogateescape", ext_hook=_refuse)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise BankFormatError(f"{what} is damaged: {error}") from error


def field(record: Any, name: str, kind: type[T] | tuple[type[T], ...], what: str) -> T:
    """Return field *name* of an unpacked record, which must be of *kind*.

    Raises:
        BankFormatError: It is missing, or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise BankFormatError(f"{what} is damaged: its {name!r} is of another type")
    return value


def _refuse(code: int, _: object) -> Any:
    raise ValueError(f"extension type {code}")
