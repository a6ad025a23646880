"""What the manifest says of one file, directory, link or device, and its packed form. Pure.

An entry is a msgpack array ``[kind, depth, name, ...]``. Names are bytes. The path is not
written: entries come in the order of a walk (a directory before what it holds, names
ascending), so that *depth* says where an entry belongs and no entry can name a place
outside of the tree.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import msgpack

from karbor_filesystem.errors import ManifestError

if TYPE_CHECKING:
    import os

MAX_NAME = 4095
"""Bytes of a name: what Linux takes in any file system."""
MAX_EXTENTS = 65_536
"""Runs of data that are told apart in one file; behind them holes are stored as zeros."""

_MAX_SIZE = 2**63 - 1
_MAX_ID = 2**32 - 1
_MODE_BITS = 0o7777
_MIN_TIME = -(2**63)
_FARTHEST_TIME = 2**63 * 10**9
"""Nanoseconds between the epoch and the farthest time that a file system can hold."""
_WIDE = 16
"""Bytes of a time that is too far (before 1677, after 2262) for an integer of msgpack's."""
_MAX_INODE = 2**64 - 1
_NO_NAMES = frozenset({b"", b".", b".."})
_COMMON = 10
"""Fields that all kinds but links share."""
_FILE_FIELDS = 6
"""Fields that only files have."""
_LINK_FIELDS = 4
_BUNDLED = 4
_ALL_FLAGS = 7


class Kind(IntEnum):
    """What an entry is."""

    DIRECTORY = 0
    FILE = 1
    LINK = 2
    """Another name (hard link) of an earlier entry."""
    SYMLINK = 3
    FIFO = 4
    CHARACTER_DEVICE = 5
    BLOCK_DEVICE = 6


SPECIAL_KINDS = {
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
"""Kinds by file type for what has no contents."""

_SPECIAL = frozenset(SPECIAL_KINDS.values())
_KINDS = tuple(Kind)


@dataclass(slots=True)
class Entry:
    """One entry; fields that its kind does not have keep their defaults."""

    kind: Kind
    depth: int
    """0 for the protected directory itself."""
    name: bytes
    """Empty for the protected directory itself."""
    mode: int = 0
    """Permission bits."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Nanoseconds since the epoch."""
    atime: int | None = None
    """Nanoseconds since the epoch, if asked for."""
    xattrs: dict[bytes, bytes] | None = None
    """Extended attributes, POSIX ACLs among them."""
    is_linked: bool = False
    """Whether further names of it may follow."""
    is_unstable: bool = False
    """Whether the file changed while it was read."""
    size: int = 0
    """Bytes of a file, holes included."""
    ctime: int = 0
    inode: int = 0
    extents: list[tuple[int, int]] | None = None
    """(offset, length) of the data of a file with holes; None: all is data."""
    stream: int = 0
    """The number of the stream that holds a file's data, if it has any."""
    offset: int = 0
    """Where in that stream it begins."""
    is_bundled: bool = False
    """Whether that stream holds other files too."""
    target: bytes = b""
    """What a symbolic link holds."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""
    ordinal: int = -1
    """Its place in the manifest; of a LINK, that of the entry that it is a name of."""

    @property
    def stored(self) -> int:
        """Bytes of a file that are stored: without its holes."""
        if self.extents is None:
            return self.size
        return sum(length for _, length in self.extents)


def pack_entry(entry: Entry) -> bytes:
    """Return *entry* packed."""
    packed: bytes = msgpack.packb(entry_row(entry))
    return packed


def entry_row(entry: Entry) -> list[Any]:
    """Return *entry* as it is packed; its ordinal is its place and not written."""
    row: list[Any] = [int(entry.kind), entry.depth, entry.name]
    if entry.kind is Kind.LINK:
        row.append(entry.ordinal)
    else:
        flags = entry.is_linked | entry.is_unstable << 1 | entry.is_bundled * _BUNDLED
        atime = None if entry.atime is None else _pack_time(entry.atime)
        row += [entry.mode, entry.uid, entry.gid, _pack_time(entry.mtime), atime, flags]
        row.append(entry.xattrs or None)
        if entry.kind is Kind.FILE:
            extents = entry.extents
            flat = None if extents is None else [number for pair in extents for number in pair]
            row += [entry.size, _pack_time(entry.ctime), entry.inode]
            row += [flat, entry.stream, entry.offset]
        elif entry.kind is Kind.SYMLINK:
            row.append(entry.target)
        elif entry.kind in _SPECIAL:
            row.extend(entry.device)
    return row


def _pack_time(time: int) -> int | bytes:
    return time if _MIN_TIME <= time <= _MAX_SIZE else time.to_bytes(_WIDE, "big", signed=True)


def _unpack_time(packed: Any) -> Any:
    """Return what :func:`_pack_time` was given, or *packed* itself if it is something else."""
    is_wide = type(packed) is bytes and len(packed) == _WIDE
    return int.from_bytes(packed, "big", signed=True) if is_wide else packed


def is_in_place(row: Any) -> bool:
    """Return whether *row*, which is otherwise unchecked, has a depth and a name."""
    return (
        type(row) is list
        and len(row) >= _LINK_FIELDS
        and type(row[1]) is int
        and type(row[2]) is bytes
    )


def describes(row: list[Any], status: os.stat_result) -> bool:
    """Return whether *row*, which is otherwise unchecked, is of a file with this *status*.

    Any write, and any change of its mode, owner or attributes, changes the ctime.
    """
    return (
        len(row) == _COMMON + _FILE_FIELDS
        and row[0] == Kind.FILE
        and row[11] == status.st_ctime_ns
        and row[6] == status.st_mtime_ns
        and row[10] == status.st_size
        and row[12] == status.st_ino
    )


def bundled_place(row: list[Any], status: os.stat_result) -> tuple[int, int] | None:
    """Return where the data of an unchanged file is, (stream, offset), if all is as for most.

    That is: *row*, unchecked, describes a file with this *status* that has no holes and stood
    still, and whose data is in a bundle.
    """
    if not describes(row, status):
        return None
    flags, xattrs, extents, stream, offset = row[8], row[9], row[13], row[14], row[15]
    if (
        flags == _BUNDLED
        and (xattrs is None or are_attributes(xattrs))
        and extents is None
        and type(stream) is type(offset) is int
        and stream >= 0
        and offset >= 0
        and status.st_size
    ):
        return stream, offset
    return None


def bundled_row(earlier: list[Any], status: os.stat_result, stream: int, offset: int) -> list[Any]:
    """Return the row of a file that has a :func:`bundled_place`, from what was checked only."""
    mode = stat.S_IMODE(status.st_mode)
    row = [int(Kind.FILE), earlier[1], earlier[2], mode, status.st_uid, status.st_gid]
    row += (status.st_mtime_ns, None, _BUNDLED, earlier[9])
    row += (status.st_size, status.st_ctime_ns, status.st_ino, None, stream, offset)
    return row


def unpack_entry(row: Any, ordinal: int) -> Entry:
    """Return the entry that *row* describes, trusting nothing in it.

    Raises:
        ManifestError: Anything that no protect would have written.
    """
    try:
        return _unpack(row, ordinal)
    except (TypeError, ValueError, IndexError) as error:
        raise ManifestError(f"entry {ordinal} of the manifest is malformed: {error}") from error


def _unpack(row: Any, ordinal: int) -> Entry:
    if not isinstance(row, list):
        raise TypeError("it is no array")
    kind = _KINDS[_integer(row[0], 0, len(_KINDS) - 1)]
    depth = _integer(row[1], 0, _MAX_ID)
    name = _name(row[2], depth)
    if kind is Kind.LINK:
        if len(row) != _LINK_FIELDS:
            raise ValueError("it has too many fields")
        return Entry(kind, depth, name, ordinal=_integer(row[3], 0, ordinal - 1))
    mode, uid, gid, mtime, atime, flags, xattrs = row[3:_COMMON]
    if type(mtime) is bytes:
        mtime = _unpack_time(mtime)
    # One by one they would cost a third of the time that a list of a million entries takes.
    if not (
        type(mode) is type(uid) is type(gid) is type(mtime) is type(flags) is int
        and 0 <= mode <= _MODE_BITS
        and 0 <= uid <= _MAX_ID
        and 0 <= gid <= _MAX_ID
        and -_FARTHEST_TIME <= mtime <= _FARTHEST_TIME
        and 0 <= flags <= _ALL_FLAGS
    ):
        raise ValueError("its mode, owner or time is none")
    if atime is not None:
        atime = _integer(_unpack_time(atime), -_FARTHEST_TIME, _FARTHEST_TIME)
    if xattrs is not None and not are_attributes(xattrs):
        raise TypeError("its attributes are no map of bytes")
    entry = Entry(kind, depth, name, mode, uid, gid, mtime, atime, xattrs, ordinal=ordinal)
    if flags:
        entry.is_linked, entry.is_unstable = bool(flags & 1), bool(flags & 2)
        entry.is_bundled = bool(flags & _BUNDLED)
    if len(row) != _COMMON + _unpack_specific(entry, row):
        raise ValueError("it has too many fields")
    return entry


def _unpack_specific(entry: Entry, row: list[Any]) -> int:
    """Take the fields of *entry*'s kind from *row* and return how many there are."""
    if entry.kind is Kind.FILE:
        size, ctime, inode, extents, stream, offset = row[_COMMON:]
        if type(ctime) is bytes:
            ctime = _unpack_time(ctime)
        if not (
            type(size) is type(ctime) is type(inode) is type(stream) is type(offset) is int
            and 0 <= size <= _MAX_SIZE
            and -_FARTHEST_TIME <= ctime <= _FARTHEST_TIME
            and 0 <= inode <= _MAX_INODE
            and 0 <= stream <= _MAX_ID
            and 0 <= offset <= _MAX_SIZE
        ):
            raise ValueError("its size or the place of its data is none")
        entry.size, entry.ctime, entry.inode = size, ctime, inode
        entry.stream, entry.offset = stream, offset
        entry.extents = None if extents is None else _extents(extents, size)
        return _FILE_FIELDS
    if entry.kind is Kind.SYMLINK:
        target = row[10]
        if not isinstance(target, bytes) or not target or b"\0" in target:
            raise ValueError("a symbolic link leads nowhere")
        entry.target = target
        return 1
    if entry.kind in _SPECIAL:
        entry.device = (_integer(row[10], 0, _MAX_ID), _integer(row[11], 0, _MAX_ID))
        return 2
    return 0


def _integer(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r} is no whole number from {least} to {most}")
    return value


def _name(name: Any, depth: int) -> bytes:
    if not isinstance(name, bytes) or len(name) > MAX_NAME:
        raise ValueError("its name is no name")
    if depth == 0 and name == b"":
        return name
    if depth == 0 or name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise ValueError(f"the name {name!r} would lead elsewhere")
    return name


def are_attributes(value: Any) -> bool:
    """Return whether *value* can be the extended attributes of an entry."""
    return isinstance(value, dict) and all(
        isinstance(name, bytes) and isinstance(content, bytes) and b"\0" not in name
        for name, content in value.items()
    )


def _extents(value: Any, size: int) -> list[tuple[int, int]]:
    if not isinstance(value, list) or len(value) % 2 or len(value) > 2 * MAX_EXTENTS:
        raise ValueError("its runs of data are no list of pairs")
    extents = []
    end = 0
    for offset, length in zip(value[::2], value[1::2], strict=True):
        _integer(offset, end, size)
        end = offset + _integer(length, 1, size - offset)
        extents.append((offset, length))
    return extents
