"""Exit codes: every error has one, and the document says the same."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest

from karbor_actors import errors
from karbor_actors.cli.app import app
from karbor_actors.cli.failures import ExitCode, error_document, error_line, exit_code
from karbor_actors.cli.output import json_text

DOCUMENT = Path(__file__).parents[2] / "docs" / "command-line.md"
KEY = ("T", "one")


def caused(error, cause):
    error.__cause__ = cause
    return error


def hook_failed():
    return errors.HookFailedError(KEY, "on_main", 1, "no")


CASES = [
    (errors.PlanError([errors.Fault("a", "b")]), 3),
    (errors.ParametersError([]), 3),
    (errors.ConfigurationError([]), 3),
    (errors.CycleError([KEY]), 4),
    (errors.MissingPluginError(["T"]), 4),
    (errors.ResourceMissingError([KEY]), 4),
    (errors.PluginError("no"), 4),
    (errors.BankPathError("no"), 5),
    (errors.BankFormatError("no"), 5),
    (errors.BankLeaseError("bank", "somebody"), 5),
    (errors.StoreError("no"), 5),
    (errors.CheckpointNotFoundError("a"), 6),
    (errors.AmbiguousCheckpointError("a", ["ab", "ac"]), 6),
    (errors.OperationNotFoundError("a"), 6),
    (errors.ProviderNotFoundError("a"), 6),
    (errors.CheckpointStateError("a", "error", "no"), 7),
    (errors.OperationStateError("a", "failed", "no"), 7),
    (errors.OperationError("protect failed", [hook_failed()]), 8),
    (hook_failed(), 8),
    (errors.PartialOperationError("protect", [hook_failed()]), 9),
    (errors.BankFullError("no"), 10),
    (OSError(errno.ENOSPC, "full"), 10),
    (errors.OperationError("p", [caused(errors.FencedError(), OSError(errno.ENOSPC, "full"))]), 10),
    (errors.PartialOperationError("p", [caused(hook_failed(), errors.BankFullError())]), 10),
    (errors.BlockCorruptError("d", "w"), 11),
    (errors.OperationError("p", [errors.BlockMissingError("d", "w")]), 11),
    (errors.OperationCancelledError("p", [errors.BankFullError()]), 130),
    (ZeroDivisionError("bug"), 1),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=lambda value: type(value).__name__)
def test_each_class_of_error_has_its_exit_code(error, code):
    document = json.loads(json_text(error_document(error)))

    assert exit_code(error) == code
    assert document["error"]["exit_code"] == code
    assert document["error"]["class"] == type(error).__name__
    assert error_line(error).isprintable()


def test_every_error_of_the_engine_has_an_exit_code_of_its_own():
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.KarborError)
    ]
    for error_class in classes:
        error = error_class.__new__(error_class)
        assert exit_code(error) is not ExitCode.INTERNAL, error_class


def test_an_error_that_leads_to_itself_is_no_trap():
    cause = hook_failed()
    error = errors.OperationError("p", [cause])
    cause.__context__ = error

    assert exit_code(error) == ExitCode.FAILED


def test_the_document_lists_every_exit_code():
    rows = re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(rows) == len(set(rows))
    assert {int(code) for code in rows} == {*map(int, ExitCode), 141}


def test_the_help_lists_every_exit_code_but_that_of_a_bug():
    listed = re.findall(r"(\d+) [a-z]", app.epilog or "")

    assert {int(code) for code in listed} == {*map(int, ExitCode), 141} - {ExitCode.INTERNAL}
