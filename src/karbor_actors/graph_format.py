"""How a resource graph is stored: msgpack columns, whose numbers are 32 bits, little-endian.

Unpacking trusts nothing: what comes out has the right types, lengths and ranges. Whether the
resources are resources and the edges free of cycles is for :mod:`karbor_actors.graph` to say.
"""

from __future__ import annotations

import operator
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgpack

from karbor_actors.errors import BankFormatError, describe_cause

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMAT = 1
_COLUMNS = 7


def damaged(reason: str) -> BankFormatError:
    """Return the error for a stored graph that cannot be one."""
    return BankFormatError(f"the stored resource graph is damaged: {reason}")


@dataclass(frozen=True, slots=True)
class GraphColumns:
    """A graph, column by column; arrays are of type ``I``."""

    types: Sequence[str]
    """The resource types."""
    type_numbers: array[int]
    """Each resource's type, as its place in *types*."""
    ids: list[str]
    names: list[str]
    extra_infos: list[Any]
    child_offsets: array[int]
    """One more than there are resources."""
    child_targets: array[int]

    def pack(self) -> bytes:
        """Return the columns as bytes: equal columns give equal bytes."""
        fields = [
            _FORMAT,
            self.types,
            _array_bytes(self.type_numbers),
            self.ids,
            self.names,
            list(map(_canonical, self.extra_infos)),
            _array_bytes(self.child_offsets),
            _array_bytes(self.child_targets),
        ]
        packed: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return the columns that :meth:`pack` packed.

        Raises:
            BankFormatError: The bytes are damaged, or are from a newer release.
        """
        types, type_numbers, ids, names, extra_infos, offsets, targets = _fields(packed)
        if not all(isinstance(column, list) for column in (types, ids, names, extra_infos)):
            raise damaged("a column is no list")
        count = len(ids)
        if len(names) != count or len(extra_infos) != count:
            raise damaged("its columns differ in length")
        columns = cls(
            types,
            _bytes_array(type_numbers, count),
            ids,
            names,
            extra_infos,
            _bytes_array(offsets, count + 1),
            _bytes_array(targets),
        )
        columns._check_numbers()
        return columns

    def _check_numbers(self) -> None:
        """Refuse types and edges that lead nowhere."""
        offsets, targets = self.child_offsets, self.child_targets
        if max(self.type_numbers, default=-1) >= len(self.types):
            raise damaged("a type is missing")
        ascending = all(map(operator.le, offsets, offsets[1:]))
        if offsets[0] != 0 or offsets[-1] != len(targets) or not ascending:
            raise damaged("its edges do not fit its resources")
        if max(targets, default=-1) >= len(self.ids):
            raise damaged("an edge leads nowhere")
        for number in range(len(self.ids)):
            children = targets[offsets[number] : offsets[number + 1]]
            if len(set(children)) < len(children):
                raise damaged("an edge is in it twice")


def _fields(packed: bytes) -> list[Any]:
    """Return the columns as msgpack has them, nothing about them checked but their number."""
    try:
        fields = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise damaged(describe_cause(error)) from error
    if not isinstance(fields, list) or not fields or type(fields[0]) is not int:
        raise damaged("it has no format number")
    if fields[0] > _FORMAT:
        msg = f"the stored resource graph has format {fields[0]}, of a newer release"
        raise BankFormatError(msg)
    if fields[0] != _FORMAT or len(fields) != _COLUMNS + 1:
        raise damaged("it has the wrong fields")
    return fields[1:]


def _canonical(value: Any) -> Any:
    """Return plain data with every dict's keys in order, so that equal values pack alike."""
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return list(map(_canonical, value))
    return value


def _array_bytes(numbers: array[int]) -> bytes:
    """Return 32-bit numbers as little-endian bytes."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _bytes_array(packed: object, length: int | None = None) -> array[int]:
    """Return the numbers that :func:`_array_bytes` packed, *length* of them if that is given."""
    if not isinstance(packed, bytes) or len(packed) % 4 or length not in {None, len(packed) // 4}:
        raise damaged("a column of numbers has the wrong length")
    numbers = array("I", packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
