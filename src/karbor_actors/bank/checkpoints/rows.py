"""A checkpoint's rows and indices, and the changes that keep them together.

``CHECKPOINTS`` holds, per checkpoint number: its row, its graph in pieces, and a row for each
resource whose status or consistency is not the usual one. ``INDICES`` finds numbers by id, and in
the order of creation, of all checkpoints and of a plan's or a provider's. Names are digested, so
that odd ones are safe; an index entry is therefore only a hint, and the row decides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from karbor_actors.arguments import check_text, checked_moment
from karbor_actors.bank.database.keys import digest_name, pack_u32, pack_u64, unpack_u64
from karbor_actors.bank.database.records import field, pack_plain, pack_record, unpack_record
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import (
    AmbiguousCheckpointError,
    BankFormatError,
    CheckpointNotFoundError,
    CheckpointStateError,
)
from karbor_actors.model import CheckpointStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from karbor_actors.bank.database.transactions import Reader, Transaction

ROW = b"\x00"
GRAPH = b"g"
RESOURCE_ERRORS = b"e"
RESOURCE_STATUS = b"s"
RESOURCE_CONSISTENCY = b"c"
RESOURCE_ARTIFACTS = b"a"
RESOURCES_EMPTY = b"n"
_GRAPH_PIECE = 1 << 20

BY_ID = b"i"
BY_DATE = b"d"
BY_PLAN = b"p"
BY_PROVIDER = b"r"
OPERATION_BY_ID = b"o"
"""Of operations, whose records are elsewhere."""
_COUNTER = b"checkpoint number"

_MICROSECONDS = 1_000_000
_MAX_ID = 256
_ROW_LIMIT = 256 << 20
_SHOWN_MATCHES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """What is always at hand of a checkpoint."""

    id: str
    status: CheckpointStatus
    provider: str
    plan: dict[str, Any]
    created: int
    """Microseconds since 1970."""
    graph_digest: bytes
    copied_from: str | None = None
    point_in_time: float | None = None
    """Seconds since 1970."""
    holds: tuple[tuple[str, float], ...] = ()
    """Reasons not to delete it, and since when."""

    @property
    def plan_name(self) -> str:
        """The plan's name."""
        return str(self.plan.get("name", ""))

    def pack(self, *, is_new: bool = False) -> bytes:
        """Return the row's value; *is_new*: its plan is a caller's, and is looked at first."""
        fields = {
            "id": self.id,
            "status": self.status.value,
            "provider": self.provider,
            "plan": self.plan,
            "created": self.created,
            "graph": self.graph_digest,
            "copied_from": self.copied_from,
            "point_in_time": self.point_in_time,
            "holds": [list(hold) for hold in self.holds],
        }
        pack = pack_record if is_new else pack_plain
        return pack(fields, f"checkpoint {self.id}", limit=_ROW_LIMIT)

    @classmethod
    def unpack(cls, value: bytes, number: int) -> CheckpointRow:
        """Return the row in *value*.

        Raises:
            BankFormatError: It is damaged.
        """
        what = f"the row of checkpoint number {number}"
        record = unpack_record(value, what)
        holds = field(record, "holds", list, what)
        try:
            return cls(
                id=field(record, "id", str, what),
                status=CheckpointStatus(field(record, "status", str, what)),
                provider=field(record, "provider", str, what),
                plan=field(record, "plan", dict, what),
                created=field(record, "created", int, what),
                graph_digest=field(record, "graph", bytes, what),
                copied_from=field(record, "copied_from", (str, type(None)), what),
                point_in_time=field(record, "point_in_time", (float, type(None)), what),
                holds=tuple((str(reason), float(since)) for reason, since in holds),
            )
        except (ValueError, TypeError) as error:
            raise BankFormatError(f"{what} is damaged: {error}") from error


def moment_given(argument: str, moment: datetime | float | None) -> int | None:
    """Return a moment as a caller gives it, a datetime or seconds since 1970, in microseconds."""
    seconds = checked_moment(argument, moment, UTC)
    return None if seconds is None else round(seconds * _MICROSECONDS)


def microseconds(moment: datetime) -> int:
    """Return *moment* as the rows and indices have it; one without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * _MICROSECONDS)


def moment_of(created: int) -> datetime:
    """Return what :func:`microseconds` was given, in UTC.

    Raises:
        BankFormatError: No calendar has it.
    """
    try:
        return datetime.fromtimestamp(created / _MICROSECONDS, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise BankFormatError(f"{created} is no time in microseconds") from error


def row_key(number: int) -> bytes:
    """Return the CHECKPOINTS key of a checkpoint's row."""
    return pack_u64(number) + ROW


def resource_key(number: int, kind: bytes, resource: int = 0) -> bytes:
    """Return the CHECKPOINTS key of what is kept of one resource."""
    return pack_u64(number) + kind + pack_u32(resource)


def read_row(reader: Reader, number: int) -> CheckpointRow | None:
    """Return a checkpoint's row, or None."""
    value = reader.get(Table.CHECKPOINTS, row_key(number))
    return None if value is None else CheckpointRow.unpack(value, number)


def insert(transaction: Transaction, row: CheckpointRow, packed: bytes, graph: bytes) -> int:
    """Add a checkpoint with its indices; return its number.

    Args:
        transaction: Where to.
        row: The checkpoint.
        packed: *row* in bytes.
        graph: Its packed graph.
    """
    number = next_number(transaction, _COUNTER)
    transaction.put(Table.CHECKPOINTS, row_key(number), packed)
    pieces = range(0, len(graph), _GRAPH_PIECE)
    for piece, start in enumerate(pieces):
        key = resource_key(number, GRAPH, piece)
        transaction.put(Table.CHECKPOINTS, key, graph[start : start + _GRAPH_PIECE])
    for key, value in index_rows(row, number):
        transaction.put(Table.INDICES, key, value)
    return number


def index_rows(row: CheckpointRow, number: int) -> list[tuple[bytes, bytes]]:
    """Return the INDICES rows that a checkpoint has."""
    order = pack_u64(max(0, row.created)) + pack_u64(number)
    return [
        (id_key(row.id), pack_u64(number)),
        (BY_DATE + order, b""),
        (BY_PLAN + digest_name(row.plan_name) + order, b""),
        (BY_PROVIDER + digest_name(row.provider) + order, b""),
    ]


def id_key(checkpoint_id: str) -> bytes:
    """Return the INDICES key of an id, or of what ids begin with; of a far too long one, none."""
    return BY_ID + checkpoint_id.encode("utf-8", "surrogatepass")[:_MAX_ID]


def next_number(transaction: Transaction, counter: bytes) -> int:
    """Return a number that *counter* has never given before."""
    value = transaction.get(Table.META, counter)
    number = 1 if value is None else unpack_u64(value) + 1
    transaction.put(Table.META, counter, pack_u64(number))
    return number


def change_row(
    transaction: Transaction, number: int, checkpoint_id: str, **changes: Any
) -> CheckpointRow:
    """Replace fields of a row; return the new one.

    Raises:
        CheckpointNotFoundError: The checkpoint was deleted.
    """
    row = read_row(transaction, number)
    if row is None:
        raise CheckpointNotFoundError(checkpoint_id)
    row = replace(row, **changes)
    transaction.put(Table.CHECKPOINTS, row_key(number), row.pack())
    return row


def set_status(
    transaction: Transaction,
    number: int,
    checkpoint_id: str,
    status: CheckpointStatus,
    expected: Collection[CheckpointStatus],
    **changes: Any,
) -> CheckpointRow:
    """Move a checkpoint from one of *expected* to *status*; return the new row.

    Args:
        transaction: Where to.
        number: The checkpoint's.
        checkpoint_id: Its id, for errors.
        status: The new status.
        expected: Those that it may have.
        changes: Other fields of the row.

    Raises:
        CheckpointNotFoundError: The checkpoint was deleted.
        CheckpointStateError: It is in none of *expected*, or held and to be deleted.
    """
    row = read_row(transaction, number)
    if row is None:
        raise CheckpointNotFoundError(checkpoint_id)
    if row.status not in expected:
        wanted = f"only one that is {' or '.join(sorted(expected))} can become {status}"
        raise CheckpointStateError(checkpoint_id, row.status, wanted)
    if status is CheckpointStatus.DELETING and row.holds:
        raise held_error(checkpoint_id, row.status, [reason for reason, _ in row.holds])
    row = replace(row, status=status, **changes)
    transaction.put(Table.CHECKPOINTS, row_key(number), row.pack())
    return row


def held_error(checkpoint_id: str, status: str, reasons: Collection[str]) -> CheckpointStateError:
    """Return what refuses to delete a checkpoint that is held for *reasons*."""
    shown = ", ".join(map(repr, reasons))
    advice = "release it first: release_hold() (karbor-actors checkpoints release)"
    return CheckpointStateError(checkpoint_id, status, f"it is held for {shown}; {advice}")


def read_graph(reader: Reader, number: int) -> bytes:
    """Return a checkpoint's packed graph."""
    prefix = pack_u64(number) + GRAPH
    return b"".join(value for _, value in reader.scan(Table.CHECKPOINTS, prefix))


def digest_graph(packed: bytes) -> bytes:
    """Return what tells packed graphs apart, 32 bytes."""
    return hashlib.blake2b(packed, digest_size=32).digest()


def read_errors(reader: Reader, number: int) -> list[dict[str, Any]]:
    """Return what went wrong in making a checkpoint."""
    value = reader.get(Table.CHECKPOINTS, resource_key(number, RESOURCE_ERRORS))
    if value is None:
        return []
    what = f"the errors of checkpoint number {number}"
    errors = unpack_record(value, what)
    if not isinstance(errors, list) or not all(isinstance(error, dict) for error in errors):
        raise BankFormatError(f"{what} are damaged")
    return errors


def errors_row(number: int, errors: list[dict[str, Any]]) -> tuple[bytes, bytes]:
    """Return the CHECKPOINTS row that keeps *errors*."""
    return resource_key(number, RESOURCE_ERRORS), pack_record(errors, "error_info")


def numbers_by_date(
    reader: Reader,
    *,
    plan: str | None = None,
    provider: str | None = None,
    since: int | None = None,
    until: int | None = None,
) -> Iterator[int]:
    """Yield checkpoints' numbers, newest first.

    Args:
        reader: Where from.
        plan: Only those of plans of this name (and, rarely, of another).
        provider: Only that provider's, as *plan*.
        since: Only those created at this time or later, in microseconds.
        until: Only those created before this time, in microseconds.
    """
    check_text("plan", plan)
    check_text("provider", provider)
    if plan is not None:
        prefix = BY_PLAN + digest_name(plan)
    elif provider is not None:
        prefix = BY_PROVIDER + digest_name(provider)
    else:
        prefix = BY_DATE
    size = len(prefix)
    before = None if until is None else prefix + pack_u64(max(0, until))
    for key, _ in reader.scan_back(Table.INDICES, prefix, before):
        if since is not None and unpack_u64(key, size) < since:
            return
        yield unpack_u64(key, size + 8)


def find_number(reader: Reader, checkpoint_id: str) -> int | None:
    """Return the number of the checkpoint with that whole id, or None."""
    value = reader.get(Table.INDICES, id_key(checkpoint_id))
    return None if value is None else unpack_u64(value)


def find_begun_so(reader: Reader, beginning: str) -> int:
    """Return the number of the checkpoint with that id, or the only one whose id begins so; or 0.

    Raises:
        AmbiguousCheckpointError: Several ids begin so.
    """
    number = find_number(reader, beginning)
    if number is not None:
        return number
    found = list(reader.scan(Table.INDICES, id_key(beginning)))
    if len(found) > 1:
        ids = [key[1:].decode("utf-8", "replace") for key, _ in found]
        raise AmbiguousCheckpointError(beginning, ids[:_SHOWN_MATCHES])
    return unpack_u64(found[0][1]) if found else 0


def remove_rows(
    transaction: Transaction, table: Table, prefix: bytes, limit: int, *, spare: bytes = b""
) -> bool:
    """Delete at most *limit* rows; return whether none is left.

    Args:
        transaction: Where to.
        table: The rows' table.
        prefix: What their keys begin with.
        limit: How many at most.
        spare: A key to leave alone.
    """
    for number, (key, _) in enumerate(transaction.scan(table, prefix)):
        if number >= limit:
            return False
        if key != spare:
            transaction.delete(table, key)
    return True


def remove_checkpoint(number: int, limit: int) -> Callable[[Transaction], bool]:
    """Return a change that removes records of a checkpoint that is being deleted.

    It removes at most *limit*, those of its sections first, its row and indices last; it returns
    whether nothing is left.
    """

    def change(transaction: Transaction) -> bool:
        prefix, home = pack_u64(number), row_key(number)
        if not remove_rows(transaction, Table.OBJECTS, prefix, limit):
            return False
        row = read_row(transaction, number)
        if not remove_rows(transaction, Table.CHECKPOINTS, prefix, limit, spare=home):
            return False
        if row is not None:
            for key, _ in index_rows(row, number):
                transaction.delete(Table.INDICES, key)
        transaction.delete(Table.CHECKPOINTS, home)
        return True

    return change
