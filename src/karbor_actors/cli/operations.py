"""The commands that look at operations, those that run and those that have ended."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from karbor_actors import OperationStatus
from karbor_actors.bank.lease import owner_of
from karbor_actors.cli.banks import shorter
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.invocation import read_bank, read_banks
from karbor_actors.cli.options import command
from karbor_actors.cli.text import human_seconds, iso_time, local_time, plural, sentence, shown
from karbor_actors.errors import AmbiguousOperationError, OperationNotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from karbor_actors import Bank
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.cli.files import ProviderSettings
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.errors import BankFormatError

INTERRUPTED = "interrupted"
"""What the status of an operation is called whose process is gone."""
_RUNNING = {OperationStatus.QUEUED, OperationStatus.RUNNING, OperationStatus.ABORTING}
_LIMIT = 50
_SHOWN_MATCHES = 10


def register(app: click.Group) -> None:
    """Add the commands to *app*."""

    @app.group()
    def operations() -> None:
        """Look at the operations of a bank."""

    command(operations, "list")(_list)
    command(operations, "show")(_show)


@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=_LIMIT,
    show_default=True,
    metavar="N",
    help="At most the newest N.",
)
@click.option("--unfinished", is_flag=True, help="Only those that have not ended.")
def _list(invocation: Invocation, limit: int, unfinished: bool) -> ExitCode:
    """List operations, newest first. Times are local."""
    records: list[OperationRecord] = []
    interrupted: set[str] = set()
    damaged: list[BankFormatError] = []
    with invocation.logging():
        for _, bank in read_banks(invocation.chosen()):
            found = bank.journal.operations(
                is_finished=False if unfinished else None, limit=limit, damaged=damaged
            )
            interrupted |= find_interrupted(bank, found)
            records += found
    records.sort(key=lambda record: record.created_at, reverse=True)
    records = records[:limit]
    output = invocation.output
    any_pending = any(record.abort_pending for record in records)
    ids = shorter([record.id for record in records], output)
    checkpoints = [record.checkpoint_id for record in records]
    if output.out.is_terminal:
        checkpoints = [one[: len(ids[0])] for one in checkpoints]
    documents = [describe_record(record, interrupted) for record in records]
    any_waits = any(record.waits_for for record in records)
    rows = [
        (short, r.type, document["status"], checkpoint, local_time(r.created_at), _took(r))
        + ((r.abort_pending or "",) if any_pending else ())
        + ((r.waits_for,) if any_waits else ())
        for short, checkpoint, r, document in zip(ids, checkpoints, records, documents, strict=True)
    ]
    columns = ["operation", "type", "status", "checkpoint", "started", "took"]
    if rows:
        columns += ["abort pending"] * any_pending + ["waits for"] * any_waits
        output.table(columns, rows)
    elif not output.is_json and not damaged:
        output.note("no operations")
    output.document(documents)
    if not damaged:
        return ExitCode.OK
    said = plural(len(damaged), "operation's record is", "operations' records are")
    output.error(f"{said} damaged; see: karbor-actors bank check")
    return ExitCode.DAMAGED


@click.argument("operation")
def _show(invocation: Invocation, operation: str) -> None:
    """Show one operation, with what went wrong in it."""
    settings, record = find_operation(invocation, operation)
    with read_bank(settings) as bank:
        document = describe_record(record, find_interrupted(bank, [record]))
    output = invocation.output
    output.fields(
        [
            ("operation", record.id),
            ("type", record.type),
            ("status", document["status"]),
            ("waits for", record.waits_for),
            ("checkpoint", record.checkpoint_id),
            ("plan", record.plan_name),
            ("provider", record.provider),
            ("on failure", record.on_failure),
            ("started", local_time(record.created_at)),
            ("ended", local_time(record.ended_at)),
            ("took", _took(record)),
            ("resources", ", ".join(f"{n:,} {status}" for status, n in record.resources.items())),
            ("abort pending", record.abort_pending or None),
        ]
    )
    for key, fields in record.parameters.items():
        for name, value in fields.items():
            output.line(f"parameter: {shown(key)}.{shown(name)} = {shown(repr(value))}")
    for error in record.error_info:
        output.line(f"error: {sentence(error.get('message', error))}", "red")
        if output.is_debug and error.get("traceback"):
            for line in str(error["traceback"]).splitlines():
                output.line(f"  {shown(line)}", "dim")
    output.document(document)


def find_operation(
    invocation: Invocation, operation_id: str
) -> tuple[ProviderSettings, OperationRecord]:
    """Return the operation with that id, or the only one that begins so, and a bank that has it.

    Raises:
        OperationNotFoundError: There is none.
        AmbiguousOperationError: There are several.
    """
    found: dict[str, tuple[ProviderSettings, OperationRecord]] = {}
    for settings, bank in read_banks(invocation.chosen()):
        for record in bank.journal.operations():
            if operation_id and record.id.startswith(operation_id):
                found[record.id] = settings, record
    if operation_id in found:
        return found[operation_id]
    if not found:
        raise OperationNotFoundError(operation_id)
    if len(found) > 1:
        raise AmbiguousOperationError(operation_id, list(found)[:_SHOWN_MATCHES], len(found))
    return next(iter(found.values()))


def find_interrupted(bank: Bank, records: Iterable[OperationRecord]) -> set[str]:
    """Return the ids of those *records* of a bank whose process is gone without ending them."""
    running = {record.id for record in records if record.status in _RUNNING}
    if not running or owner_of(bank.directory) is not None:
        return set()
    # Whoever had the bank until a moment ago may have ended them properly.
    return {one for one in running if bank.journal.get(one).status in _RUNNING}


def _took(record: OperationRecord) -> str:
    began = record.created_at if record.started_at is None else record.started_at
    return "" if record.ended_at is None else human_seconds(record.ended_at - began)


def describe_record(record: OperationRecord, interrupted: Collection[str] = ()) -> dict[str, Any]:
    """Return a record as plain data; of the ids in *interrupted*, with that as the status."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    for name in ("created_at", "started_at", "ended_at"):
        fields[name] = iso_time(fields[name])
    if record.id in interrupted:
        fields["status"] = INTERRUPTED
    fields["waits_for"] = record.waits_for
    del fields["extra"], fields["number"]
    return fields
