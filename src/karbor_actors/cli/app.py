"""The command ``karbor-actors`` as a whole: its groups, and how a failure ends it."""

from __future__ import annotations

import contextlib
import os
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from karbor_actors.cli import (
    banks,
    bench,
    demo,
    operations,
    plans,
    plugins,
    recovery,
    simulate,
    verbs,
)
from karbor_actors.cli.failures import ExitCode, as_told, error_document, error_line, exit_code
from karbor_actors.cli.output import Output
from karbor_actors.cli.results import describe_result
from karbor_actors.errors import KarborError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPLETION = "_KARBOR_ACTORS_COMPLETE"
"""The variable by which a shell asks for completions."""


def _version() -> str:
    try:
        return version("karbor-actors")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 2 usage, 3 malformed input, 4 resources or plugins, 5 bank, "
    "6 not found, 7 wrong state, 8 failed, 9 in part, 10 disk full, 11 damaged data, "
    "12 not undone yet, 130 cancelled, 141 the reader of the output went away.",
)
@click.version_option(_version(), message="%(prog)s %(version)s")
def app() -> None:
    """Protect, look at, verify and restore application data."""


for module in (demo, bench, simulate, plans, verbs, banks, operations, recovery, plugins):
    module.register(app)


def run(arguments: Sequence[str]) -> int:
    """Run the command that *arguments* describe and return its exit code.

    Raises:
        BrokenPipeError: The reader of the output went away.
    """
    try:
        code = app.main(
            list(arguments),
            prog_name="karbor-actors",
            complete_var=COMPLETION,
            standalone_mode=False,
        )
        Output().flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        return _usage_error(error, arguments)
    except (click.Abort, KeyboardInterrupt):
        return _report(KeyboardInterrupt(), arguments)
    except BrokenPipeError:
        raise
    except SystemExit as error:
        if COMPLETION in os.environ:
            raise
        raise BrokenPipeError from error  # the only other end that click makes by itself
    except Exception as error:  # whatever a command met: one line, and an exit code
        return _report(as_told(error), arguments)
    return int(code or 0)


def _usage_error(error: click.ClickException, arguments: Sequence[str]) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is not None:
        message = f"{message.rstrip('.')} (see {context.command_path} --help)"
    output = Output(is_json="--json" in arguments)
    output.error(message)
    document = {"class": "UsageError", "message": message, "exit_code": int(ExitCode.USAGE)}
    output.document({"error": {**document, "data": {}}})
    return ExitCode.USAGE


def _report(error: BaseException, arguments: Sequence[str]) -> int:
    output = Output(is_json="--json" in arguments, is_debug="--debug" in arguments)
    if isinstance(error, KeyboardInterrupt):
        output.error("interrupted; no operation was running")
        document = {"class": "KeyboardInterrupt", "message": "interrupted", "data": {}}
        output.document({"error": {**document, "exit_code": int(ExitCode.CANCELLED)}})
        return ExitCode.CANCELLED
    if output.is_debug:
        output.err.print("".join(traceback.format_exception(error)), soft_wrap=True)
    output.error(error_line(error))
    document = error_document(error)
    result = getattr(error, "result", None)
    if isinstance(error, KarborError) and result is not None:
        document["result"] = describe_result(result)
    with contextlib.suppress(OSError):  # stdout itself may be what failed
        output.document(document)
    return exit_code(error)
