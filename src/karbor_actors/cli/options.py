"""The options that commands share, and how a command is declared."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import click

from karbor_actors.cli.files import RECOVER
from karbor_actors.cli.invocation import WORKERS, Invocation
from karbor_actors.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]


class PathName(click.Path):
    """A path that is not empty: what an unset variable leaves would be the current directory."""

    def __init__(self) -> None:
        super().__init__(readable=False)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return *value* as it is, if it is one."""
        if not os.fspath(value):
            self.fail("it is empty; name a directory or a file", param, ctx)
        return super().convert(value, param, ctx)


_JSON = click.option("--json", "is_json", is_flag=True, help="Print one JSON document.")
_DEBUG = click.option("--debug", is_flag=True, help="Print debug messages, and tracebacks.")
_BANK = (
    click.option(
        "--bank",
        metavar="DIRECTORY",
        envvar="KARBOR_ACTORS_BANK",
        show_envvar=True,
        type=PathName(),
        help="The bank; its provider is named 'local' and has the plugins filesystem and sqlite.",
    ),
    click.option(
        "--objects",
        metavar="URL",
        help="The object store of --bank's data, if it is not below the directory.",
    ),
    click.option(
        "--config",
        metavar="FILE",
        envvar="KARBOR_ACTORS_CONFIG",
        show_envvar=True,
        type=PathName(),
        help="A TOML file of providers.",
    ),
    click.option("--provider", metavar="NAME", help="Which provider of --config."),
)
_RUN = (
    click.option(
        "--progress",
        type=click.Choice(["auto", "plain", "json", "none"]),
        default="auto",
        show_default=True,
        help="How progress is shown on stderr; auto: live on a terminal, else plain lines.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        default=WORKERS,
        show_default=True,
        metavar="N",
        help="Threads for the plugins' work.",
    ),
)
_RECOVER = click.option(
    "--recover",
    type=click.Choice(RECOVER),
    help="What becomes first of operations that a dead process left in the bank.",
)


def command(
    group: click.Group,
    name: str,
    *,
    uses_banks: bool = True,
    runs: bool = False,
    recovers_first: bool | None = None,
) -> Callable[[Function], click.Command]:
    """Declare a function as the command *name* of *group*.

    The function gets an :class:`Invocation` first, then its own options' values.

    Args:
        group: Where the command is.
        name: What it is called.
        uses_banks: Whether it has the options that name providers.
        runs: Whether it runs an operation, with progress.
        recovers_first: Whether it first ends what a dead process left; None: if it *runs*.
    """
    shared = [*(_BANK if uses_banks else ()), *(_RUN if runs else ())]
    if runs if recovers_first is None else recovers_first:
        shared.append(_RECOVER)
    shared += [_JSON, _DEBUG]

    def declare(function: Function) -> click.Command:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            output = Output(is_json=values.pop("is_json"), is_debug=values.pop("debug"))
            names = ("config", "bank", "objects", "provider", "progress", "workers", "recover")
            given = {key: values.pop(key) for key in names if key in values}
            return function(Invocation(output, **given), **values)

        own = getattr(function, "__click_params__", [])
        call.__click_params__ = []  # type: ignore[attr-defined]
        decorated: Function = call
        for option in reversed(shared):
            decorated = option(decorated)
        # click reads the list from its end: the command's own come first in the help.
        decorated.__click_params__ += own  # type: ignore[attr-defined]
        return group.command(name, short_help=_first_line(function))(decorated)

    return declare


def _first_line(function: Function) -> str:
    return (function.__doc__ or "").partition("\n")[0]
