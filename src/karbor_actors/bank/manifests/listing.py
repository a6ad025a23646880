"""The rows that list the checkpoints whose manifest may not be what their row says."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from karbor_actors.bank.database.keys import pack_u64, unpack_u64
from karbor_actors.bank.database.transactions import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.bank.database.transactions import Reader, Transaction

_TAG = b"m"
_HEAD, _CHUNKS = b"\x00", b"\x01"
_EPOCH_SIZE = 8
_HEADER_SIZE = _EPOCH_SIZE + 1


class Listed(NamedTuple):
    """A checkpoint whose manifest may not be what its row says."""

    number: int
    epoch: int
    """Of the owner who listed it."""
    has_chunks: bool
    """Whether there may be more of it than a head."""
    checkpoint_id: str


def put_listed(transaction: Transaction, listed: Listed) -> None:
    """List a checkpoint, or say something else of one that is listed."""
    value = pack_u64(listed.epoch) + (_CHUNKS if listed.has_chunks else _HEAD)
    value += listed.checkpoint_id.encode("utf-8", "surrogateescape")
    transaction.put(Table.GARBAGE, _key(listed.number), value)


def unlist(transaction: Transaction, number: int) -> None:
    """List a checkpoint no more."""
    transaction.delete(Table.GARBAGE, _key(number))


def find_listed(reader: Reader, number: int) -> Listed | None:
    """Return what is listed of a checkpoint, or None."""
    value = reader.get(Table.GARBAGE, _key(number))
    return None if value is None else _unpack(number, value)


def all_listed(reader: Reader) -> Iterator[Listed]:
    """Yield every checkpoint that is listed."""
    for key, value in reader.scan(Table.GARBAGE, _TAG):
        yield _unpack(unpack_u64(key, len(_TAG)), value)


def _key(number: int) -> bytes:
    return _TAG + pack_u64(number)


def _unpack(number: int, value: bytes) -> Listed:
    return Listed(
        number,
        unpack_u64(value),
        has_chunks=value[_EPOCH_SIZE:_HEADER_SIZE] != _HEAD,
        checkpoint_id=value[_HEADER_SIZE:].decode("utf-8", "surrogateescape"),
    )
