"""Looking for damage in a bank: records, indices, journals, counts and blocks."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks.check import check_blocks
from karbor_actors.bank.checkpoints import rows
from karbor_actors.bank.checkpoints.resource_rows import (
    read_artifacts,
    read_consistency,
    read_empty,
    read_statuses,
    resources_with_artifacts,
)
from karbor_actors.bank.database.keys import (
    SECTION_SIZE,
    pack_u64,
    split_row,
    unpack_u32,
    unpack_u64,
)
from karbor_actors.bank.database.records import unpack_record
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.journal.journal import OperationRecord, operation_index_key
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import BankError, describe_cause
from karbor_actors.graph import ResourceGraph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.bank.database.transactions import Reader
    from karbor_actors.bank.parts import BankParts

_U64_SIZE = 8
_SHOWN = 1000
"""How many findings of a kind are listed; a damaged bank may have millions."""


def check_bank(parts: BankParts, *, deep: bool) -> list[str]:
    """Return what is wrong in a bank, a line each. See :meth:`Bank.check`."""
    with parts.environment.snapshot() as snapshot:
        findings = check_records(snapshot)
    findings.extend(check_blocks(parts.blocks, deep=deep))
    findings.extend(parts.manifests.check(deep=deep))
    return findings


def check_records(reader: Reader) -> list[str]:
    """Return what is wrong with checkpoints, objects and operations, a line each."""
    findings: list[str] = []
    sizes: dict[int, int] = {}
    for found in (
        _check_checkpoints(reader, sizes),
        _check_indices(reader),
        _check_objects(reader, sizes),
        _check_operations(reader),
        _check_journals(reader),
    ):
        findings.extend(islice(found, _SHOWN))
        if next(found, None) is not None:
            findings.append(f"and more of the kind, after the first {_SHOWN}")
    return findings


def _check_checkpoints(reader: Reader, sizes: dict[int, int]) -> Iterator[str]:
    """Yield what is wrong with checkpoints; fill *sizes*: resources by checkpoint number."""
    number = -1
    for key, _ in reader.scan(Table.CHECKPOINTS):
        if len(key) < _U64_SIZE:
            yield f"a checkpoint's record has the odd key {key.hex()}"
        elif number != (number := unpack_u64(key)):
            sizes[number] = 0
            try:
                yield from _check_checkpoint(reader, number, sizes)
            except BankError as error:
                yield describe_cause(error)


def _check_checkpoint(reader: Reader, number: int, sizes: dict[int, int]) -> Iterator[str]:
    row = rows.read_row(reader, number)
    if row is None:
        yield f"checkpoint number {number} has records but no row"
        return
    sizes[number] = 1 << 32  # until the graph says better, so that its objects are not blamed
    rows.moment_of(row.created)
    for key, value in rows.index_rows(row, number):
        if reader.get(Table.INDICES, key) != value:
            yield f"checkpoint {row.id} is missing from the index {key[:1].decode()!r}"
    packed = rows.read_graph(reader, number)
    if rows.digest_graph(packed) != row.graph_digest:
        yield f"the graph of checkpoint {row.id} is not the one that was stored"
    sizes[number] = len(ResourceGraph.unpack(packed))
    rows.read_errors(reader, number)
    for resource, _ in read_statuses(reader, number):
        if resource >= sizes[number]:
            yield f"checkpoint {row.id} has a status for resource {resource}, which it has not"
    prefix = pack_u64(number) + rows.RESOURCE_CONSISTENCY
    for key, _ in reader.scan(Table.CHECKPOINTS, prefix):
        read_consistency(reader, number, unpack_u32(key, len(prefix)))
    for resource in resources_with_artifacts(reader, number):
        read_artifacts(reader, number, resource)
    read_empty(reader, number)


def _check_indices(reader: Reader) -> Iterator[str]:
    for key, value in reader.scan(Table.INDICES):
        try:
            yield from _check_index(reader, key, value)
        except BankError as error:
            yield describe_cause(error)


def _check_index(reader: Reader, key: bytes, value: bytes) -> Iterator[str]:
    if key.startswith(rows.OPERATION_BY_ID):
        packed = reader.get(Table.OPERATIONS, value)
        if packed is None:
            yield f"the index names operation {key[1:]!r}, which is gone"
        elif operation_index_key(OperationRecord.unpack(packed, unpack_u64(value)).id) != key:
            yield f"the index names operation {key[1:]!r}, and its record is of another"
        return
    number = unpack_u64(value if key.startswith(rows.BY_ID) else key[-_U64_SIZE:])
    row = rows.read_row(reader, number)
    if row is None:
        yield f"the index {key[:1]!r} names checkpoint number {number}, which is gone"
    elif (key, value) not in rows.index_rows(row, number):
        yield f"the index {key[:1]!r} has a wrong entry for checkpoint {row.id}"


def _check_objects(reader: Reader, sizes: dict[int, int]) -> Iterator[str]:
    for key, value in reader.scan(Table.OBJECTS):
        try:
            number, resource = unpack_u64(key), unpack_u32(key, _U64_SIZE)
            where = f"checkpoint number {number}, resource {resource}"
            name, packed = split_row(key[:SECTION_SIZE], key, value)
            unpack_record(packed, f"object {name!r} of {where}")
            if resource >= sizes.get(number, 0):
                yield f"object {name!r} belongs to {where}, which the bank does not have"
        except BankError as error:
            yield describe_cause(error)


def _check_operations(reader: Reader) -> Iterator[str]:
    for key, value in reader.scan(Table.OPERATIONS):
        try:
            record = OperationRecord.unpack(value, unpack_u64(key))
            if reader.get(Table.INDICES, operation_index_key(record.id)) != key:
                yield f"operation {record.id} is missing from the index"
        except BankError as error:
            yield describe_cause(error)


def _check_journals(reader: Reader) -> Iterator[str]:
    number = -1
    for key, value in reader.scan(Table.JOURNAL):
        try:
            JournalRecord.unpack(value)
            is_new = number != (number := unpack_u64(key))
            if is_new and reader.get(Table.OPERATIONS, pack_u64(number)) is None:
                yield f"there is a journal of operation number {number}, but no record of it"
        except BankError as error:
            yield f"the journal of an operation: {describe_cause(error)}"
