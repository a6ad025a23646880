"""The operations of a bank: one record each, and an append-only journal of their hooks.

``OPERATIONS`` holds the records by the operation's number, which grows; ``INDICES`` finds a
number by the operation's id. A ``JOURNAL`` key is the operation's number and the place in its
journal, so that appending is cheap and reading is one scan.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from karbor_actors.arguments import checked_count
from karbor_actors.bank.checkpoints.rows import OPERATION_BY_ID, next_number, remove_rows
from karbor_actors.bank.database.keys import pack_u64, unpack_u64
from karbor_actors.bank.database.records import (
    checked_plain,
    pack_plain,
    pack_record,
    unpack_record,
)
from karbor_actors.bank.database.records import field as unpacked_field
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import BankFormatError, OperationNotFoundError, describe_cause
from karbor_actors.model import OnFailure, OperationStatus, OperationType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from karbor_actors.bank.database.environment import Environment
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.bank.writer import Change, Writer

_LOG = logging.getLogger("karbor_actors.bank")
_COUNTER = b"operation number"
_KEPT_OPERATIONS = 1000
_KEPT_SECONDS = 90 * 24 * 3600.0
_DROPPED_AT_ONCE = 10_000
_DROPPED_WITH_THE_END = 64
_TRIMMED_AT_ONCE = 100
_READ_AT_ONCE = 256
_RECORD_LIMIT = 256 << 20
_NEW_RECORD_LIMIT = 192 << 20
"""What a new record may take at most, so that its end has room."""
WAITS_FOR = "waits for"
"""Where a record keeps what must come before its operation goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """What is kept of an operation. Times are seconds since 1970."""

    id: str
    type: OperationType
    status: OperationStatus
    provider: str
    plan_name: str = ""
    checkpoint_id: str = ""
    on_failure: OnFailure = OnFailure.ABORT
    parameters: dict[str, Any] = field(default_factory=dict)
    """As the caller gave them, by type or type#id."""
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    error_info: list[dict[str, Any]] = field(default_factory=list)
    """What went wrong, plain dicts, with the traceback."""
    resources: dict[str, int] = field(default_factory=dict)
    """How many resources stand where, by ResourceStatus."""
    abort_pending: int = 0
    """How many resources still wait for their abort; such a record is never trimmed."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the engine needs to go on with it: deadlines, counts, another bank's name."""
    number: int = 0
    """Its number in the journal; 0 before it was created."""

    @property
    def waits_for(self) -> str:
        """What must come before it goes on, such as ``provider 'b'``; ``""`` for nothing."""
        what = self.extra.get(WAITS_FOR)
        is_suspended = self.status is OperationStatus.SUSPENDED
        return what if is_suspended and isinstance(what, str) else ""

    def pack(self, *, is_new: bool = False, known: OperationRecord | None = None) -> bytes:
        """Return the record as bytes.

        Args:
            is_new: Whether there must be room for how it ends.
            known: A record that was packed: what is the same in both is plain.

        Raises:
            BankValueError: It holds something that is not plain.
            RecordTooLargeError: It is larger than any record can be.
        """
        what = f"the record of operation {self.id}"
        fields = {name: getattr(self, name) for name in _FIELDS}
        if known is not None:
            new = {name: at for name, at in fields.items() if at != getattr(known, name)}
            fields |= checked_plain(new, what)
            return pack_plain(fields, what, limit=_RECORD_LIMIT)
        return pack_record(fields, what, limit=_NEW_RECORD_LIMIT if is_new else _RECORD_LIMIT)

    @classmethod
    def unpack(cls, packed: bytes, number: int) -> OperationRecord:
        """Return the record that :meth:`pack` packed.

        Raises:
            BankFormatError: It is damaged.
        """
        what = f"the record of operation number {number}"
        record = unpack_record(packed, what)

        def get(name: str, *kinds: type) -> Any:
            return unpacked_field(record, name, kinds, what)

        try:
            return cls(
                id=get("id", str),
                type=OperationType(get("type", str)),
                status=OperationStatus(get("status", str)),
                provider=get("provider", str),
                plan_name=get("plan_name", str),
                checkpoint_id=get("checkpoint_id", str),
                on_failure=OnFailure(get("on_failure", str)),
                parameters=get("parameters", dict),
                created_at=float(get("created_at", float, int)),
                started_at=get("started_at", float, type(None)),
                ended_at=get("ended_at", float, type(None)),
                error_info=get("error_info", list),
                resources=get("resources", dict),
                abort_pending=get("abort_pending", int),
                extra=get("extra", dict),
                number=number,
            )
        except BankFormatError:
            raise
        except ValueError as error:
            raise BankFormatError(f"{what} is damaged: {error}") from error


_FIELDS = tuple(name for name in OperationRecord.__slots__ if name != "number")


class PackedRecord(NamedTuple):
    """A new operation's record, and the bytes that it is in the bank: packed once, by who has time."""

    record: OperationRecord
    packed: bytes

    @classmethod
    def of(cls, record: OperationRecord) -> Self:
        """Return *record*, packed. Raises as its :meth:`~OperationRecord.pack`."""
        return cls(record, record.pack(is_new=True))


class Journal:
    """The operations of one bank. Any thread may call it.

    The methods that take a transaction are for changes; the others block on the bank.
    """

    def __init__(self, environment: Environment, writer: Writer) -> None:
        self._environment = environment
        self._writer = writer
        self._places: dict[int, int] = {}
        """By operation: the place of its next record, below which are all others. In changes only.

        A change that is run again skips a place, which does no harm.
        """

    def create(self, transaction: Transaction, new: OperationRecord | PackedRecord) -> int:
        """Add a record; return the number that its journal goes by."""
        record, packed = new if isinstance(new, PackedRecord) else PackedRecord.of(new)
        number = next_number(transaction, _COUNTER)
        transaction.put(Table.OPERATIONS, pack_u64(number), packed)
        transaction.put(Table.INDICES, operation_index_key(record.id), pack_u64(number))
        return number

    def update_change(
        self, number: int, known: PackedRecord | None, **changes: Any
    ) -> Change[OperationRecord]:
        """Return what does :meth:`update`; where the record is still as *known*, with little to do.

        The writer has one thread for all operations; whoever calls this has one of his own.
        """
        if known is None:
            return lambda transaction: self.update(transaction, number, **changes)
        key, record = pack_u64(number), replace(known.record, **changes)
        packed = record.pack(known=known.record)

        def change(transaction: Transaction) -> OperationRecord:
            if transaction.get(Table.OPERATIONS, key) != known.packed:
                return self.update(transaction, number, **changes)
            transaction.put(Table.OPERATIONS, key, packed)
            return record

        return change

    def update(self, transaction: Transaction, number: int, **changes: Any) -> OperationRecord:
        """Replace fields of an operation's record; return the new one.

        Raises:
            OperationNotFoundError: It was trimmed.
        """
        value = transaction.get(Table.OPERATIONS, pack_u64(number))
        if value is None:
            raise OperationNotFoundError(str(number))
        record = replace(OperationRecord.unpack(value, number), **changes)
        transaction.put(Table.OPERATIONS, pack_u64(number), record.pack())
        return record

    def append(self, transaction: Transaction, number: int, record: JournalRecord) -> None:
        """Add *record* to the journal of operation *number*."""
        prefix = pack_u64(number)
        place = self._places.get(number)
        if place is None:
            last = transaction.last_key(Table.JOURNAL, prefix)
            place = 0 if last is None else unpack_u64(last, len(prefix)) + 1
        self._places[number] = place + 1
        transaction.put(Table.JOURNAL, prefix + pack_u64(place), record.pack())

    def get(self, operation_id: str) -> OperationRecord:
        """Return the record of the operation with that id.

        Raises:
            OperationNotFoundError: There is none, or no more.
        """
        if not isinstance(operation_id, str):
            raise OperationNotFoundError(operation_id)
        with self._environment.snapshot() as snapshot:
            value = snapshot.get(Table.INDICES, operation_index_key(operation_id))
            number = 0 if value is None else unpack_u64(value)
            packed = snapshot.get(Table.OPERATIONS, pack_u64(number))
        if packed is None:
            raise OperationNotFoundError(operation_id)
        return OperationRecord.unpack(packed, number)

    def operations(
        self,
        *,
        is_finished: bool | None = None,
        limit: int | None = None,
        damaged: list[BankFormatError] | None = None,
    ) -> list[OperationRecord]:
        """Return records, newest first.

        Args:
            is_finished: Only those that have ended for good, or only those that have not.
            limit: How many at most.
            damaged: Gets the errors of damaged records; they are logged, and left out.
        """
        checked_count("limit", limit, least=0, or_none=True)
        found: list[OperationRecord] = []
        with self._environment.snapshot() as snapshot:
            for key, value in snapshot.scan_back(Table.OPERATIONS):
                if limit is not None and len(found) >= limit:
                    break
                try:
                    record = OperationRecord.unpack(value, unpack_u64(key))
                except BankFormatError as error:
                    _LOG.error("%s; run check()", describe_cause(error))
                    ([] if damaged is None else damaged).append(error)
                    continue
                if is_finished is None or record.status.is_terminal is is_finished:
                    found.append(record)
        return found

    def read(self, number: int) -> Iterator[JournalRecord]:
        """Yield the journal of operation *number* from its first record on.

        Read in pieces, each of its own moment: what is appended meanwhile is seen, too.
        """
        prefix, following = pack_u64(number), b""
        while True:
            piece = []
            with self._environment.snapshot() as snapshot:
                for key, value in snapshot.scan(Table.JOURNAL, prefix, following):
                    piece.append(value)
                    following = key + b"\x00"
                    if len(piece) >= _READ_AT_ONCE:
                        break
            yield from map(JournalRecord.unpack, piece)
            if len(piece) < _READ_AT_ONCE:
                return

    def drop_finished(self) -> int:
        """Remove journals that nobody needs: of operations that ended; return how many went."""
        finished = []
        with self._environment.snapshot() as snapshot:
            following = b""
            while (found := next(snapshot.scan(Table.JOURNAL, b"", following), None)) is not None:
                number = unpack_u64(found[0][:8])
                following = pack_u64(number + 1)
                if _is_done_with(snapshot.get(Table.OPERATIONS, pack_u64(number)), number):
                    finished.append(number)
        for number in finished:
            self.drop(number)
        return len(finished)

    def drop(self, number: int) -> None:
        """Remove the journal of operation *number*, in small transactions; not its record."""
        while not self._writer.write(
            lambda transaction: self.drop_some(transaction, number, _DROPPED_AT_ONCE)
        ):
            pass

    def drop_some(
        self, transaction: Transaction, number: int, limit: int = _DROPPED_WITH_THE_END
    ) -> bool:
        """Remove at most *limit* records of a journal; return whether none is left."""
        prefix, places = pack_u64(number), self._places.pop(number, None)
        if places is None or places > limit:
            return remove_rows(transaction, Table.JOURNAL, prefix, limit)
        for place in range(places):
            transaction.delete(Table.JOURNAL, prefix + pack_u64(place))
        return True

    def trim(
        self,
        *,
        kept: int = _KEPT_OPERATIONS,
        seconds: float = _KEPT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> int:
        """Remove finished operations beyond the newest *kept*, or that ended too long ago.

        Those with a pending abort stay. In small transactions; returns how many went.
        """
        oldest = clock() - seconds
        old, journals = [], []
        with self._environment.snapshot() as snapshot:
            too_many = snapshot.count(Table.OPERATIONS) - kept
            for place, (key, value) in enumerate(snapshot.scan(Table.OPERATIONS)):
                number = unpack_u64(key)
                record = _sound(value, number)
                if record is None:
                    continue
                if place >= too_many and record.created_at >= oldest:
                    break  # nor are those that came after it: a look costs no more for a thousand
                ended = record.ended_at if record.ended_at is not None else record.created_at
                is_old = place < too_many or ended < oldest
                if is_old and record.status.is_terminal and not record.abort_pending:
                    old.append((number, record.id))
                    if snapshot.last_key(Table.JOURNAL, key) is not None:
                        journals.append(number)
        for number in journals:
            self.drop(number)
        for start in range(0, len(old), _TRIMMED_AT_ONCE):
            self._forget(old[start : start + _TRIMMED_AT_ONCE])
        return len(old)

    def _forget(self, operations: list[tuple[int, str]]) -> None:
        def change(transaction: Transaction) -> None:
            for number, operation_id in operations:
                transaction.delete(Table.OPERATIONS, pack_u64(number))
                transaction.delete(Table.INDICES, operation_index_key(operation_id))

        self._writer.write(change)


def _is_done_with(value: bytes | None, number: int) -> bool:
    """Return whether nobody needs the journal of an operation with that record any more."""
    if value is None:
        return True
    record = _sound(value, number)
    return record is not None and record.status.is_terminal and not record.abort_pending


def _sound(value: bytes, number: int) -> OperationRecord | None:
    """Return the record, or None if it is damaged: then it stays, and check() says so."""
    try:
        return OperationRecord.unpack(value, number)
    except BankFormatError:
        return None


def operation_index_key(operation_id: str) -> bytes:
    """Return the INDICES key of an operation's id."""
    return OPERATION_BY_ID + operation_id.encode("utf-8", "surrogatepass")[:256]
