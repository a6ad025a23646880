"""The commands that end what earlier processes left: recover, operations abort and resume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from karbor_actors import OperationStatus, OperationType, RestoreResult
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.files import RECOVER
from karbor_actors.cli.invocation import named_by_directory, read_banks
from karbor_actors.cli.operations import describe_record, find_operation
from karbor_actors.cli.options import PathName, command
from karbor_actors.cli.running import wait_each
from karbor_actors.cli.text import SHORT, plural, sentence
from karbor_actors.errors import OperationStateError, ProviderNotFoundError, describe_cause
from karbor_actors.operations.verbs.copy import copy_target

if TYPE_CHECKING:
    from karbor_actors import OperationHandle
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.cli.files import ProviderSettings
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.output import Output

_ASK = "ask"
"""How a provider recovers that leaves alone what it was not asked about."""


def register(app: click.Group) -> None:
    """Add the commands to *app*, which has the group ``operations``."""
    command(app, "recover", runs=True, recovers_first=False)(_recover)
    operations = app.commands["operations"]
    assert isinstance(operations, click.Group)
    command(operations, "abort", runs=True, recovers_first=False)(_abort)
    command(operations, "resume", runs=True, recovers_first=False)(_resume)


@dataclass(slots=True)
class _Left:
    """An operation that has not ended, or that left something to be undone."""

    record: OperationRecord
    settings: ProviderSettings
    """A provider that has its bank."""
    reason: str = ""
    """Why it cannot be taken up here, if that is known."""


@click.argument("directory", metavar="[BANK]", required=False, type=PathName())
@click.option(
    "--resume/--abort",
    "resumes",
    default=None,
    help="Go on with what can go on, or undo everything; else as the provider says.",
)
def _recover(invocation: Invocation, directory: str | None, resumes: bool | None) -> ExitCode:
    """Finish, or undo, what earlier processes left unfinished in a bank.

    BANK says the same as --bank BANK.
    """
    if directory is not None:
        invocation.bank = directory
    if resumes is not None:
        invocation.recover = RECOVER[0 if resumes else 1]
    chosen = {settings.name: settings for settings in invocation.chosen()}
    left = _find_left(chosen)
    for one in left:
        _add_target(invocation, one, chosen)
    output, documents, is_pending = invocation.output, [], False
    with invocation.opened(*chosen.values()) as service:
        ended = {handle.id: handle for handle in wait_each(invocation, service.recovered)}
        for one in left:
            now = service.provider(one.settings.name).bank.journal.get(one.record.id)
            _show(output, one, now, ended.get(now.id))
            documents.append(describe_record(now))
            is_pending |= _is_left(now)
    if not left and not output.is_json:
        output.note("no operation was left unfinished")
    output.document(documents)
    return ExitCode.PENDING if is_pending else ExitCode.OK


@click.argument("operation")
def _abort(invocation: Invocation, operation: str) -> ExitCode:
    """Undo an operation that no process runs, or what one could not undo."""
    return _take_up(invocation, operation, abort=True)


@click.argument("operation")
def _resume(invocation: Invocation, operation: str) -> ExitCode:
    """Go on with an operation that is suspended, or whose process died."""
    return _take_up(invocation, operation, abort=False)


def _take_up(invocation: Invocation, operation_id: str, *, abort: bool) -> ExitCode:
    settings, record = find_operation(invocation, operation_id)
    if record.status.is_terminal and not (abort and record.abort_pending):
        wanted = "there is nothing left to undo" if abort else "it cannot go on"
        raise OperationStateError(record.id, str(record.status), wanted)
    one = _Left(record, settings)
    chosen = {
        record.provider: settings
        if settings.name == record.provider
        else invocation.named(record.provider)
    }
    _add_target(invocation, one, chosen)
    if one.reason and not abort:
        raise ProviderNotFoundError(copy_target(record), sorted(invocation.settings))
    invocation.recover = _ASK  # what it is not about is left alone, where that can be
    with invocation.opened(*chosen.values()) as service:
        journal = service.provider(record.provider).bank.journal
        ended = {handle.id: handle for handle in wait_each(invocation, service.recovered)}
        handle = ended.get(record.id)
        if _is_left(journal.get(record.id)):
            handle = service.abort(record.id) if abort else service.resume(record.id)
            list(wait_each(invocation, [handle]))
        now = journal.get(record.id)
    error = None if handle is None else handle.exception()
    if error is not None and not abort and not now.abort_pending:
        raise error
    _show(invocation.output, one, now, handle)
    invocation.output.document(describe_record(now))
    return ExitCode.PENDING if _is_left(now) else ExitCode.OK


def _find_left(chosen: dict[str, ProviderSettings]) -> list[_Left]:
    """Return what is left in the banks of *chosen*, each bank's oldest operation first."""
    found = []
    one_of_each = {settings.bank: settings for settings in chosen.values()}
    for settings, bank in read_banks(list(one_of_each.values())):
        for record in filter(_is_left, reversed(bank.journal.operations())):
            one = _Left(record, settings)
            owner = chosen.get(record.provider)
            if owner is None or owner.bank != settings.bank:
                one.reason = f"it is of provider {record.provider!r}; name that with --config"
            found.append(one)
    return found


def _add_target(invocation: Invocation, one: _Left, chosen: dict[str, ProviderSettings]) -> None:
    """Add the provider that a copy goes to, which must be there for it to go on."""
    if one.record.type is not OperationType.COPY or one.reason:
        return
    name = copy_target(one.record)
    if name in invocation.settings:
        chosen.setdefault(name, invocation.settings[name])
    elif os.path.isabs(name):
        chosen.setdefault(name, named_by_directory(name))
    else:
        one.reason = f"it copies to provider {name!r}; name that with --config"


def _is_left(record: OperationRecord) -> bool:
    return not record.status.is_terminal or record.abort_pending > 0


def _show(output: Output, one: _Left, now: OperationRecord, handle: OperationHandle | None) -> None:
    """Print in one line what became of an operation."""
    parts = []
    error = None if handle is None else handle.exception()
    waits = now.status is OperationStatus.SUSPENDED and bool(one.reason)
    if waits:
        parts.append(f"{now.status}: {one.reason}")
    elif handle is None:
        parts.append(f"left as it is: {one.reason or 'it cannot be taken up'}")
    elif one.record.status.is_terminal:
        parts.append(f"{now.status}, as before")
    else:
        parts.append(str(now.status))
    if now.abort_pending:
        parts.append(f"{plural(now.abort_pending, 'resource')} not undone yet")
    elif one.record.abort_pending:
        parts.append(f"{plural(one.record.abort_pending, 'resource')} undone")
    result = None if handle is None or error is not None else handle.result()
    if isinstance(result, RestoreResult):
        parts += [sentence(f"{status}: {reason}") for status, reason in result.reports.values()]
    if error is not None and not waits and (now.abort_pending or not one.record.status.is_terminal):
        parts.append(sentence(describe_cause(error)))
    output.line(f"{now.type} {now.id[:SHORT]}: {', '.join(parts)}")
