"""How rows are named. Numbers are big-endian, so that LMDB's order is theirs.

LMDB takes keys of at most 511 bytes. A name of at most 460 bytes stands as it is, in UTF-8 with
surrogateescape; of a longer one the first 400 bytes stand, then a NUL (which no name holds) and a
digest of the whole, and the row's value begins with the name. So rows that share a beginning lie
together, whatever their length.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

from karbor_actors.errors import BankFormatError, BankKeyError, describe_value

if TYPE_CHECKING:
    from collections.abc import Callable

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_SECTION = struct.Struct(">QI")
_LENGTH = struct.Struct(">I")

pack_u32: Final[Callable[[int], bytes]] = _U32.pack
"""Returns a number in 4 bytes, in order."""
pack_u64: Final[Callable[[int], bytes]] = _U64.pack
"""Returns a number in 8 bytes, in order."""

SECTION_SIZE = _SECTION.size
"""Bytes of the prefix that all rows of one resource's section share."""
_SHORT = 460
_KEPT = 400
_DIGEST_SIZE = 32
_MARK = b"\x00"
MAX_NAME_SIZE = 1 << 16
"""The most bytes of a key, sub-section included."""


def unpack_u64(packed: bytes, offset: int = 0) -> int:
    """Return the number that *packed* holds at *offset*.

    Raises:
        BankFormatError: It is too short.
    """
    try:
        number: int = _U64.unpack_from(packed, offset)[0]
    except struct.error as error:
        raise BankFormatError(f"a number in the bank is damaged: {packed!r}") from error
    return number


def unpack_u32(packed: bytes, offset: int = 0) -> int:
    """Return the number that *packed* holds at *offset*.

    Raises:
        BankFormatError: It is too short.
    """
    try:
        number: int = _U32.unpack_from(packed, offset)[0]
    except struct.error as error:
        raise BankFormatError(f"a number in the bank is damaged: {packed!r}") from error
    return number


def section_prefix(checkpoint: int, resource: int) -> bytes:
    """Return what all rows of a section begin with.

    Args:
        checkpoint: The checkpoint's number in the bank.
        resource: The resource's number in the checkpoint's graph.
    """
    return _SECTION.pack(checkpoint, resource)


def check_name(name: object, what: str = "key") -> str:
    """Return *name*, if it can name an object, a stream or a sub-section.

    File names are anything, so a key is nearly anything: a non-empty string without NUL whose
    parts, between slashes, are not empty, ``.`` or ``..``.

    Raises:
        BankKeyError: It cannot; the error says why.
    """
    if not isinstance(name, str) or not name:
        raise BankKeyError(f"a {what} is a non-empty string, not {describe_value(name)}")
    shown = describe_value(name)
    if "\x00" in name:
        raise BankKeyError(f"the {what} {shown} holds NUL")
    if name[0] == "/" or name[-1] == "/" or "//" in name:
        raise BankKeyError(f"the {what} {shown} has an empty part: a slash at an end, or two")
    if "." in name and not {".", ".."}.isdisjoint(name.split("/")):
        raise BankKeyError(f"the {what} {shown} has a part '.' or '..'")
    return name


def check_prefix(prefix: object) -> str:
    """Return *prefix*, if keys can begin with it; None is that of all keys, "".

    Raises:
        BankKeyError: No key can: what is listed would be empty, whatever is there.
    """
    if prefix is None or prefix == "":
        return ""
    if not isinstance(prefix, str):
        raise BankKeyError(f"a prefix is a string, not {describe_value(prefix)}")
    if prefix[0] == "/":
        raise BankKeyError(f"no key begins as the prefix {describe_value(prefix)} does: with a '/'")
    if "\x00" in prefix:
        raise BankKeyError(f"the prefix {describe_value(prefix)} holds NUL")
    head, slash, _ = prefix.rpartition("/")
    if slash:
        check_name(head, "prefix")
    return prefix


def encode_name(name: str) -> bytes:
    """Return *name* in bytes, all of it.

    Raises:
        BankKeyError: It is too long, or no text that comes back the same.
    """
    if not isinstance(name, str):
        raise BankKeyError(f"a key is a string, not {describe_value(name)}")
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BankKeyError(
            f"the key {describe_value(name)} is not text that can be kept"
        ) from error
    if not name.isascii() and raw.decode("utf-8", "surrogateescape") != name:
        raise BankKeyError(f"the key {describe_value(name)} is not text that can be kept")
    if len(raw) > MAX_NAME_SIZE:
        raise BankKeyError(f"the key {describe_value(name)} has more than {MAX_NAME_SIZE} bytes")
    return raw


def decode_name(raw: bytes) -> str:
    """Return the name that :func:`encode_name` encoded."""
    return raw.decode("utf-8", "surrogateescape")


def named_row(prefix: bytes, raw: bytes) -> tuple[bytes, bytes]:
    """Return the key of the row named *raw* below *prefix*, and what its value begins with."""
    if len(raw) <= _SHORT:
        return prefix + raw, b""
    digest = hashlib.blake2b(raw, digest_size=_DIGEST_SIZE).digest()
    return prefix + raw[:_KEPT] + _MARK + digest, _LENGTH.pack(len(raw)) + raw


def scan_start(raw: bytes) -> bytes:
    """Return what the rows have in common whose names begin with *raw*.

    Rows of other names may have it in common too where *raw* is long: compare the names.
    """
    return raw[:_KEPT]


def split_row(prefix: bytes, key: bytes, value: bytes) -> tuple[bytes, memoryview]:
    """Return a row's name in bytes, and its value without the name.

    Args:
        prefix: What the key begins with.
        key: The row's key.
        value: The row's whole value.

    Raises:
        BankFormatError: The row is damaged.
    """
    raw, view = key[len(prefix) :], memoryview(value)
    if _MARK not in raw:
        return raw, view
    length = unpack_u32(value)
    name = value[_LENGTH.size : _LENGTH.size + length]
    if len(name) != length or named_row(prefix, name)[0] != key:
        raise BankFormatError(f"a row with a long name is damaged: {describe_value(key)}")
    return name, view[_LENGTH.size + length :]


def digest_name(name: str) -> bytes:
    """Return 16 bytes that stand for *name* in an index, whatever it holds."""
    raw = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=16).digest()
