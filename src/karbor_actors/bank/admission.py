"""Whether the sections of a checkpoint may be written: within the transaction that writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgpack

from karbor_actors.bank.checkpoints.rows import CheckpointRow, row_key
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.manifests.manifests import GOOD
from karbor_actors.errors import CheckpointNotFoundError, CheckpointStateError
from karbor_actors.model import CheckpointStatus

if TYPE_CHECKING:
    from karbor_actors.bank.database.transactions import Transaction

_FIELDS = 2
_HEAD = 2048
"""Bytes in which the id and the status are found, which a row begins with."""


class Guard(Protocol):
    """Knows whether something may still be written: a hook, which the engine may give up."""

    def check(self) -> None:
        """Raise what is to refuse a write, if nothing may be written any more. Any thread."""


def admit(transaction: Transaction, number: int, checkpoint_id: str, *, is_guarded: bool) -> None:
    """Refuse what is written to a checkpoint that is gone, or finished.

    Args:
        transaction: What writes.
        number: The checkpoint's.
        checkpoint_id: Its id, for errors.
        is_guarded: Whether the engine says when nothing is written any more.

    Raises:
        CheckpointNotFoundError: It was deleted.
        CheckpointStateError: It is finished: its manifest would not have what is written.
    """
    value = transaction.get(Table.CHECKPOINTS, row_key(number))
    if value is None:
        raise CheckpointNotFoundError(checkpoint_id)
    if not is_guarded and (status := _status_in(value, number)) in GOOD:
        advice = "what is finished is written no more; make another checkpoint"
        raise CheckpointStateError(checkpoint_id, str(status), advice)


def _status_in(value: bytes, number: int) -> CheckpointStatus:
    """Return the status in a row, without reading its plan, which may be large."""
    unpacker = msgpack.Unpacker(unicode_errors="surrogateescape")
    unpacker.feed(value[:_HEAD])
    try:
        if unpacker.read_map_header() >= _FIELDS:
            for _ in range(_FIELDS):
                name, found = unpacker.unpack(), unpacker.unpack()
                if name == "status":
                    return CheckpointStatus(found)
    except (ValueError, TypeError, msgpack.UnpackException):
        pass  # reading all of it says what is wrong
    return CheckpointRow.unpack(value, number).status
