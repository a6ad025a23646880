"""What a failure means to the shell: an exit code, one line, or a JSON document."""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from karbor_actors import errors
from karbor_actors.cli.output import PrintError
from karbor_actors.cli.text import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExitCode(IntEnum):
    """How a command ended; docs/command-line.md has the same table."""

    OK = 0
    INTERNAL = 1
    """A bug: ``--debug`` shows its traceback."""
    USAGE = 2
    INVALID = 3
    """A plan, a configuration or parameters."""
    GRAPH = 4
    """A resource that is missing, a cycle, a plugin."""
    BANK = 5
    """A bank that cannot be used."""
    NOT_FOUND = 6
    STATE = 7
    """A checkpoint or an operation whose status forbids it."""
    FAILED = 8
    PARTIAL = 9
    FULL = 10
    DAMAGED = 11
    """Data that is not what was stored."""
    PENDING = 12
    """Something that an operation began is not undone, or not finished, yet."""
    CANCELLED = 130


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], ExitCode], ...] = (
    (errors.OperationCancelledError, ExitCode.CANCELLED),
    ((errors.BlockCorruptError, errors.BlockMissingError), ExitCode.DAMAGED),
    (errors.BankFullError, ExitCode.FULL),
    (
        (
            errors.CheckpointNotFoundError,
            errors.AmbiguousCheckpointError,
            errors.AmbiguousOperationError,
            errors.OperationNotFoundError,
            errors.ProviderNotFoundError,
            errors.ObjectNotFoundError,
        ),
        ExitCode.NOT_FOUND,
    ),
    (errors.BankError, ExitCode.BANK),
    (
        (errors.PlanError, errors.ParametersError, errors.ConfigurationError),
        ExitCode.INVALID,
    ),
    ((errors.GraphError, errors.PluginError), ExitCode.GRAPH),
    ((errors.CheckpointStateError, errors.OperationStateError), ExitCode.STATE),
    (errors.PartialOperationError, ExitCode.PARTIAL),
    (errors.KarborError, ExitCode.FAILED),
)
"""The first class that fits counts."""

_LIST = "see: karbor-actors checkpoints list"
_ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (errors.CheckpointNotFoundError, _LIST),
    (errors.AmbiguousCheckpointError, "give more of the id"),
    (errors.AmbiguousOperationError, "give more of the id"),
    (errors.OperationNotFoundError, "see: karbor-actors operations list"),
    (errors.ProviderNotFoundError, "correct the plan, --provider or --config"),
    (errors.BankPathError, "name the bank's directory with --bank"),
    (
        errors.BankReadonlyError,
        "name a bank that may be written, or restore and verify with --readonly",
    ),
)
"""What to do about errors whose sentences, made for programs too, do not say it."""

_ADVICE_BY_CODE = {
    ExitCode.FULL: "free some",
    ExitCode.DAMAGED: "use another checkpoint, or a copy of this one",
}

_TELLING = {ExitCode.FULL, ExitCode.DAMAGED}
"""Codes that say more of a failed operation than that it failed."""


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code of *error*; of a failed operation, its cause's if that says more."""
    if isinstance(error, errors.OperationError) and not isinstance(
        error, errors.OperationCancelledError
    ):
        for cause in _causes(error):
            code = _code_of(cause)
            if code in _TELLING:
                return code
    return _code_of(error)


def _code_of(error: BaseException) -> ExitCode:
    if isinstance(error, OSError) and error.errno in _FULL:
        return ExitCode.FULL
    if isinstance(error, PrintError):
        return ExitCode.FAILED
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return ExitCode.INTERNAL


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what led to *error*, each once."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        if cause is not error:
            yield cause
        waiting.extend(getattr(cause, "causes", ()))
        waiting.extend(c for c in (cause.__cause__, cause.__context__) if c is not None)


def as_told(error: BaseException) -> BaseException:
    """Return *error*, or what a person made of it: nothing works in a directory that is gone."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_directory():
        return errors.BankPathError(
            "the current directory was deleted; change to one that exists, or write absolute paths"
        )
    return error


def _has_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def error_line(error: BaseException) -> str:
    """Return *error* in one line for a person."""
    if isinstance(error, errors.KarborError):
        line, advice = sentence(error), _advice(error)
        if isinstance(error, errors.BankPathError) and "; " in line:  # it says what to do
            return line
        return f"{line}; {advice}" if advice and advice not in line else line
    if isinstance(error, PrintError):
        return sentence(error)
    if exit_code(error) is ExitCode.FULL:
        return sentence(f"no space is left: {error}; free some and try again")
    return sentence(
        f"{errors.describe_cause(error)}; this is a bug, --debug shows where it comes from"
    )


def _advice(error: BaseException) -> str:
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return advice
    return _ADVICE_BY_CODE.get(exit_code(error), "")


def error_document(error: BaseException) -> dict[str, Any]:
    """Return *error* as plain data for ``--json``."""
    data = {
        name: plain
        for name, value in vars(error).items()
        if not name.startswith("_") and (plain := _plain(value)) is not None
    }
    return {
        "error": {
            "class": type(error).__name__,
            "message": error_line(error),
            "exit_code": int(exit_code(error)),
            "data": data,
        }
    }


def _plain(value: object) -> Any:
    """Return *value* as JSON has it, or None where it has no place there."""
    if isinstance(value, errors.Fault):
        return {"where": value.where, "message": value.message}
    if isinstance(value, BaseException):
        return {"class": type(value).__name__, "message": errors.describe_cause(value)}
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None
