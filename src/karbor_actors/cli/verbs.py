"""The commands that run an operation: protect, restore, verify, copy, delete."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from karbor_actors import CheckpointStatus, OperationType, VerifyResult
from karbor_actors.cli.banks import confirmed
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.files import merge_parameters, parse_parameters, read_parameters
from karbor_actors.cli.invocation import named_by_directory
from karbor_actors.cli.options import PathName, command
from karbor_actors.cli.resources import checked_plan, named_plan, plan_of_paths
from karbor_actors.cli.results import (
    finish,
    is_skipping,
    show_checkpoint,
    show_evidence,
    show_restore,
)
from karbor_actors.cli.running import finish_recovered, run
from karbor_actors.errors import PartialOperationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors import Checkpoint, Provider
    from karbor_actors.cli.invocation import Invocation

_TARGET = "target"
"""The field of a restore schema that ``--target`` sets."""

_PARAMETERS = (
    click.option(
        "--parameter",
        "-p",
        "assignments",
        multiple=True,
        metavar="TYPE.FIELD=VALUE",
        help="A parameter by resource type, or for one resource: TYPE#ID.FIELD=VALUE.",
    ),
    click.option(
        "--parameters",
        "parameters_file",
        metavar="FILE",
        type=PathName(),
        help="A TOML file of parameters: a table for each type, or TYPE#ID.",
    ),
)


def _check_finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """Refuse what click's range lets pass: nan, and a number of seconds without an end."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds")
    return value


_TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    callback=_check_finite,
    metavar="SECONDS",
    help="At most.",
)
_ALLOW_PARTIAL = click.option(
    "--allow-partial", is_flag=True, help="Take a checkpoint in which some resources failed."
)


def _on_failure(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--on-failure",
        type=click.Choice(["abort", "isolate"]),
        default=default,
        show_default=True,
        help="abort: the first failure undoes everything; isolate: the others go on.",
    )


def _parameters(assignments: tuple[str, ...], file: str | None) -> dict[str, Any]:
    from_file = {} if file is None else read_parameters(file)
    return merge_parameters(from_file, parse_parameters(assignments))


def register(app: click.Group) -> None:
    """Add the commands to *app*."""
    shared = [*_PARAMETERS, _TIMEOUT]
    for name, function, own in (
        ("protect", _protect, [_on_failure("abort")]),
        ("restore", _restore, [_on_failure("abort"), _ALLOW_PARTIAL]),
        ("verify", _verify, [_on_failure("isolate")]),
        ("copy", _copy, [_on_failure("abort"), _ALLOW_PARTIAL]),
        ("delete", _delete, [_on_failure("abort")]),
    ):
        decorated: Any = function
        for option in reversed([*shared, *own]):
            decorated = option(decorated)
        command(app, name, runs=True)(decorated)


@click.argument("names", nargs=-1, required=True, metavar="PLAN.toml | PATH...")
@click.option(
    "--name",
    help="The plan's name; of paths, the first one's last part by default, and how many more.",
)
def _protect(
    invocation: Invocation,
    names: tuple[str, ...],
    name: str | None,
    assignments: tuple[str, ...],
    parameters_file: str | None,
    **options: Any,
) -> None:
    """Make a checkpoint of a plan, or of paths.

    A path is a directory or a database, or what else the provider finds at it.

    A bank that is not there yet is made.
    """
    parameters = _parameters(assignments, parameters_file)
    plan = named_plan(names, name=name, provider=invocation.provider)
    settings = invocation.only() if plan is None else invocation.named(plan.provider)
    with invocation.planning_service(settings) as planning:
        # Before the bank is made or taken: a path that is missing leaves no trace.
        provider = planning.provider(settings.name)
        plan = (
            plan_of_paths(names, name, provider) if plan is None else checked_plan(plan, provider)
        )
    chosen = plan
    with invocation.service(settings, create=True) as service:
        bank = service.provider(settings.name).bank
        result, handle, seconds = run(
            invocation, lambda: service.protect(chosen, parameters=parameters, **options), bank
        )
        show_checkpoint(invocation.output, result, handle, seconds)


@click.argument("checkpoint")
@click.option(
    "--target",
    metavar="PATH",
    type=PathName(),
    help="Where to restore the checkpoint's only root resource; else where it was.",
)
@click.option("--readonly", is_flag=True, help="Read a bank that a running daemon owns.")
def _restore(
    invocation: Invocation,
    checkpoint: str,
    target: str | None,
    assignments: tuple[str, ...],
    parameters_file: str | None,
    readonly: bool,
    **options: Any,
) -> ExitCode:
    """Restore a checkpoint, in place or elsewhere."""
    parameters = _parameters(assignments, parameters_file)
    settings, whole = invocation.holder(checkpoint)
    with invocation.service(settings, readonly=readonly) as service:
        provider = service.provider(settings.name)
        if target is not None:
            extra = _target_parameters(provider.bank.checkpoint(whole), target, provider)
            parameters = merge_parameters(parameters, extra)
        result, handle, seconds = run(
            invocation,
            lambda: service.restore(whole, parameters=parameters, **options),
            provider.bank,
        )
        return show_restore(invocation.output, result, handle, seconds)


def _target_parameters(
    checkpoint: Checkpoint, target: str, provider: Provider
) -> dict[str, dict[str, str]]:
    roots = list(checkpoint.resource_graph)
    if len(roots) != 1:
        message = f"the checkpoint has {len(roots)} root resources; name each one's place with -p"
        raise click.UsageError(message)
    resource = roots[0].value
    if _TARGET not in (provider.schema(OperationType.RESTORE, resource.type) or {}):
        raise click.UsageError(f"{resource.type} takes no target; see what it takes: plugins show")
    return {f"{resource.type}#{resource.id}": {_TARGET: os.path.abspath(target)}}


@click.argument("checkpoint")
@click.option("--readonly", is_flag=True, help="Read a bank that a running daemon owns.")
def _verify(
    invocation: Invocation,
    checkpoint: str,
    assignments: tuple[str, ...],
    parameters_file: str | None,
    readonly: bool,
    **options: Any,
) -> ExitCode:
    """Read all of a checkpoint and check that it could be restored."""
    parameters = _parameters(assignments, parameters_file)
    settings, whole = invocation.holder(checkpoint)
    with invocation.service(settings, readonly=readonly) as service:
        bank = service.provider(settings.name).bank
        try:
            result, handle, seconds = run(
                invocation, lambda: service.verify(whole, parameters=parameters, **options), bank
            )
        except PartialOperationError as error:
            if isinstance(error.result, VerifyResult):
                show_evidence(invocation.output, error.result)
            raise
        show_evidence(invocation.output, result)
        verdict = f"checkpoint {whole} is good"
        if bank.checkpoint(whole).status is not CheckpointStatus.AVAILABLE:
            verdict = f"what there is of the partial checkpoint {whole} is good"
        if is_skipping(result.resources):
            verdict = f"what was verified of checkpoint {whole} is good, but not all of it was"
        finish(invocation.output, result, handle, verdict, seconds)
        return ExitCode.PARTIAL if is_skipping(result.resources) else ExitCode.OK


@click.argument("checkpoint")
@click.option("--to", metavar="NAME", help="The provider of --config whose bank gets the copy.")
@click.option(
    "--to-bank",
    metavar="DIRECTORY",
    type=PathName(),
    help="The bank that gets the copy.",
)
@click.option("--again", is_flag=True, help="Copy although there is a finished copy.")
def _copy(
    invocation: Invocation,
    checkpoint: str,
    to: str | None,
    to_bank: str | None,
    assignments: tuple[str, ...],
    parameters_file: str | None,
    **options: Any,
) -> ExitCode:
    """Copy a checkpoint into another bank.

    A bank that is not there yet is made.
    """
    parameters = _parameters(assignments, parameters_file)
    if (to is None) == (to_bank is None):
        raise click.UsageError("say where the copy goes: --to NAME, or --to-bank DIRECTORY")
    settings, whole = invocation.holder(checkpoint)
    # By the directory's name, a copy that is killed is found to go on with, and no other is.
    target = invocation.named(to) if to else named_by_directory(str(to_bank))
    own, other = os.path.realpath(settings.bank), os.path.realpath(target.bank)
    if os.path.commonpath([own, other]) == own:
        raise click.UsageError("the copy would go into the checkpoint's own bank; name another")
    with invocation.opened(settings, target=target) as service:
        finish_recovered(invocation, service)  # a copy that was killed wanted the target too
        bank = service.provider(settings.name).bank
        result, handle, seconds = run(
            invocation,
            lambda: service.copy(
                whole, to=target.name, provider=settings.name, parameters=parameters, **options
            ),
            bank,
        )
        show_checkpoint(invocation.output, result, handle, seconds)
        return ExitCode.PARTIAL if is_skipping(result.resource_statuses()) else ExitCode.OK


@click.argument("checkpoint")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def _delete(
    invocation: Invocation,
    checkpoint: str,
    yes: bool,
    assignments: tuple[str, ...],
    parameters_file: str | None,
    **options: Any,
) -> int:
    """Delete a checkpoint and what only it needs."""
    parameters = _parameters(assignments, parameters_file)
    settings, whole = invocation.holder(checkpoint)
    question = f"Delete checkpoint {whole} for good?"
    if not yes and not confirmed(invocation.output, question, "delete"):
        return ExitCode.CANCELLED
    with invocation.service(settings) as service:
        bank = service.provider(settings.name).bank
        result, handle, seconds = run(
            invocation, lambda: service.delete(whole, parameters=parameters, **options), bank
        )
        finish(invocation.output, result, handle, f"checkpoint {whole} is deleted", seconds)
    return ExitCode.OK
