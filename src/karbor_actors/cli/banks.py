"""The commands that look into a bank: checkpoints, and the bank itself."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from karbor_actors import Bank, CheckpointStatus, ConsistencyLevel, KarborError
from karbor_actors.bank.lease import break_lease, owner_of
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.invocation import make_provider, open_bank, read_bank, read_banks
from karbor_actors.cli.options import command
from karbor_actors.cli.text import SHORT, human_bytes, local_time, plural, sentence, shown
from karbor_actors.cli.tree import tree_lines
from karbor_actors.errors import describe_cause, describe_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from karbor_actors import Checkpoint, Provider
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.output import Output
    from karbor_actors.errors import BankFormatError

_SHOWN_RESOURCES = 200
_DATES = ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]


def register(app: click.Group) -> None:
    """Add the commands to *app*."""

    @app.group()
    def checkpoints() -> None:
        """Look at the checkpoints of a bank; keep one from being deleted."""

    @app.group()
    def bank() -> None:
        """Look at a bank."""

    command(checkpoints, "list")(_list)
    command(checkpoints, "show")(_show)
    command(checkpoints, "hold")(_hold)
    command(checkpoints, "release")(_release)
    command(bank, "info")(_info)
    command(bank, "check")(_check)
    command(bank, "rebuild")(_rebuild)
    command(bank, "break-lease")(_break_lease)


@click.option("--plan", metavar="NAME", help="Only those of plans of this name.")
@click.option(
    "--status",
    type=click.Choice([str(status) for status in CheckpointStatus]),
    multiple=True,
    help="Only those with this status; may be given several times.",
)
@click.option("--since", type=click.DateTime(_DATES), help="Only those made then or later.")
@click.option("--until", type=click.DateTime(_DATES), help="Only those made before then.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most the newest N.")
def _list(
    invocation: Invocation,
    plan: str | None,
    status: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
) -> ExitCode:
    """List checkpoints, newest first. Times are local."""
    chosen = invocation.chosen()
    output = invocation.output
    found: list[Checkpoint] = []
    damaged: list[BankFormatError] = []
    with invocation.logging():
        for _, bank in read_banks(chosen):
            found += bank.checkpoints(
                plan=plan,
                status=status or None,
                since=since and since.astimezone(),
                until=until and until.astimezone(),
                limit=limit,
                damaged=damaged,
            )
    found.sort(key=lambda checkpoint: checkpoint.created_at, reverse=True)
    found = found[:limit]
    ids = shorter([checkpoint.id for checkpoint in found], output)
    rows = [
        (short, c.status, c.plan_name, c.provider, local_time(c.created_at))
        for short, c in zip(ids, found, strict=True)
    ]
    if rows:
        output.table(["checkpoint", "status", "plan", "provider", "created"], rows)
    elif not output.is_json and not damaged:
        output.note("no checkpoints")
    output.document([checkpoint.to_dict() for checkpoint in found])
    if not damaged:
        return ExitCode.OK
    records = plural(len(damaged), "checkpoint's record is", "checkpoints' records are")
    output.error(f"{records} damaged; see: karbor-actors bank check")
    return ExitCode.DAMAGED


def shorter(ids: list[str], output: Output) -> list[str]:
    """Return *ids*, on a terminal cut to what still tells them apart."""
    if not output.out.is_terminal:
        return ids
    size = SHORT
    while len({one[:size] for one in ids}) < len(set(ids)):
        size += 1
    return [one[:size] for one in ids]


@click.argument("checkpoint")
def _show(invocation: Invocation, checkpoint: str) -> None:
    """Show one checkpoint with its resources and what was saved of each."""
    settings, whole = invocation.holder(checkpoint)
    with invocation.logging(), read_bank(settings) as bank:
        found = bank.checkpoint(whole)
        provider = make_provider(settings, bank)
        resources = [_resource(found, number, provider) for number in range(_count(found))]
        output = invocation.output
        moment = found.point_in_time
        output.fields(
            [
                ("checkpoint", found.id),
                ("status", found.status),
                ("plan", found.plan_name),
                ("provider", found.provider),
                ("created", local_time(found.created_at)),
                ("point in time", local_time(moment)),
                ("copied from", found.copied_from),
                ("held for", ", ".join(found.holds)),
            ]
        )
        output.line(f"\n{plural(len(resources), 'resource')}:", "bold")
        _show_tree(output, found, resources)
        errors = found.error_info
        for error in errors:
            output.line(f"error: {sentence(error.get('message', error))}", "red")
        output.document({**found.to_dict(), "resources": resources, "errors": errors})


def _count(checkpoint: Checkpoint) -> int:
    return len(checkpoint.resource_graph)


def _resource(checkpoint: Checkpoint, number: int, provider: Provider) -> dict[str, Any]:
    """Return what is known of one resource of a checkpoint."""
    graph = checkpoint.resource_graph
    resource = graph.nodes[number]
    consistency = checkpoint.consistency(resource)
    return {
        **resource.to_dict(),
        "status": str(checkpoint.resource_status(resource)),
        "consistency": consistency.to_dict(),
        "children": [list(graph.nodes[child].key) for child in graph.children(number)],
        "saved": _saved_info(checkpoint, number, provider),
    }


def _saved_info(checkpoint: Checkpoint, number: int, provider: Provider) -> dict[str, Any] | None:
    resource = checkpoint.resource_graph.nodes[number]
    plugin = provider.protection_plugins.get(resource.type)
    if plugin is None or not hasattr(plugin, "get_saved_info"):
        return None
    section = checkpoint.get_resource_bank_section(resource)
    try:
        saved = plugin.get_saved_info(section, resource)
    except Exception as error:  # plugin code: shown in place of what it would have said
        return {"error": describe_cause(error)} if not _is_missing(error) else None
    return None if saved is None else dict(saved)


def _is_missing(error: Exception) -> bool:
    """Tell a resource of which nothing was saved from one whose records are damaged."""
    return isinstance(error, KarborError) and isinstance(error, LookupError)


def _show_tree(output: Output, checkpoint: Checkpoint, resources: list[dict[str, Any]]) -> None:
    if len(resources) > _SHOWN_RESOURCES:
        statuses = Counter(resource["status"] for resource in resources)
        for status, count in statuses.items():
            output.line(f"  {count:,} {status}")
        output.line("  (--json shows each of them)", "dim")
        return
    by_key = {(resource["type"], resource["id"]): resource for resource in resources}
    for line in tree_lines(checkpoint.resource_graph):
        resource = by_key[line.key]
        status = resource["status"]
        if resource["consistency"]["level"] != ConsistencyLevel.NONE:
            status += f", {resource['consistency']['level']} consistent"
            if cause := resource["consistency"]["cause"]:
                status += f" ({shown(cause)})"
        output.line(f"  {line.branch}{shown(describe_key(line.key))}  {status}")
        for name, value in (resource["saved"] or {}).items():
            if isinstance(value, (str, int, float)) and value not in (0, ""):
                text = human_bytes(float(value)) if "bytes" in name or name == "size" else value
                output.line(f"  {' ' * len(line.branch)}    {shown(name)}: {shown(text)}", "dim")


@click.argument("checkpoint")
@click.option("--reason", required=True, metavar="TEXT", help="Why: who deletes it is told.")
def _hold(invocation: Invocation, checkpoint: str, reason: str) -> None:
    """Keep a checkpoint from being deleted, even by force, until it is released."""
    _change_holds(invocation, checkpoint, lambda found: found.hold(reason))


@click.argument("checkpoint")
@click.option("--reason", metavar="TEXT", help="Only what was held for this; else all of it.")
def _release(invocation: Invocation, checkpoint: str, reason: str | None) -> None:
    """Take back what hold did."""

    def release(found: Checkpoint) -> None:
        for held in found.holds if reason is None else [reason]:
            found.release_hold(held)

    _change_holds(invocation, checkpoint, release)


def _change_holds(
    invocation: Invocation, checkpoint: str, change: Callable[[Checkpoint], None]
) -> None:
    settings, whole = invocation.holder(checkpoint)
    with invocation.logging(), open_bank(settings) as bank:
        found = bank.checkpoint(whole)
        change(found)
        reasons = ", ".join(map(shown, found.holds))
        held = f"held for {reasons}" if reasons else "not held"
        invocation.output.line(f"checkpoint {whole} is {held}")
        invocation.output.document(found.to_dict())


def _info(invocation: Invocation) -> None:
    """Show figures about a bank."""
    settings = invocation.only()
    with read_bank(settings) as bank:
        info = bank.info()
        del info["writable"], info["epoch"]  # they are about this reader, not about the bank
        statuses = Counter(str(checkpoint.status) for checkpoint in bank.checkpoints())
    info["statuses"] = dict(statuses)
    output = invocation.output
    pairs = []
    for name, value in info.items():
        if isinstance(value, dict):
            text: object = ", ".join(f"{count:,} {key}" for key, count in value.items())
        elif isinstance(value, int) and not isinstance(value, bool) and _is_size(name):
            text = human_bytes(value)
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = value
        pairs.append((name.replace("_", " "), text))
    output.fields(pairs)
    output.document(info)


def _is_size(name: str) -> bool:
    return any(part in name for part in ("size", "bytes"))


@click.option("--deep", is_flag=True, help="Read every block, and compare its digest.")
def _check(invocation: Invocation, deep: bool) -> int:
    """Look for damage in a bank: records, indices, counts and blocks."""
    settings = invocation.only()
    with read_bank(settings) as bank:
        findings = _findings(bank, deep=deep)
    output = invocation.output
    for finding in findings:
        output.line(sentence(finding))
    output.document({"path": settings.bank, "deep": deep, "findings": findings})
    if findings:
        output.error(f"the bank {settings.bank} is damaged: {plural(len(findings), 'finding')}")
        return ExitCode.DAMAGED
    output.line(f"the bank {shown(settings.bank)} is sound")
    return ExitCode.OK


@click.option("--bank-id", metavar="ID", help="Which bank's, where the objects are of several.")
def _rebuild(invocation: Invocation, bank_id: str | None) -> ExitCode:
    """Make a bank's records, lost or damaged, again from its objects.

    Damaged records are moved aside. The history of operations does not come back.
    """
    settings = invocation.only()
    with invocation.logging():
        report = Bank.rebuild(settings.bank, objects=settings.objects, bank_id=bank_id)
    output = invocation.output
    output.fields(
        [
            ("bank id", report.bank_id),
            ("checkpoints", f"{report.checkpoints:,} whole, {len(report.damaged):,} damaged"),
            ("blocks", f"{report.blocks:,} in {plural(report.packs, 'pack')}"),
            ("packs freed", report.packs_freed or None),
            ("old records", report.moved_to),
        ]
    )
    for checkpoint_id, reason in report.damaged.items():
        output.line(f"checkpoint {shown(checkpoint_id)}: {sentence(reason)}", "red")
    for reason in report.unreadable:
        output.line(sentence(reason), "red")
    output.document(dataclasses.asdict(report))
    if not report.damaged and not report.unreadable:
        return ExitCode.OK
    output.error(f"the bank {settings.bank} is rebuilt, but not all of it was there")
    return ExitCode.DAMAGED


@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def _break_lease(invocation: Invocation, yes: bool) -> ExitCode:
    """Take a bank from an owner that is dead and did not give it up.

    That is needed for one on another host only, and only you can know that it is dead. An owner
    that lives on this host is not touched.
    """
    settings, output = invocation.only(), invocation.output
    owner = owner_of(settings.bank)
    if owner is not None and not yes:
        question = f"Take the bank {shown(settings.bank)} from {shown(owner)}, which is dead?"
        if not confirmed(output, question, "break the lease"):
            return ExitCode.CANCELLED
    broken = break_lease(settings.bank)
    output.line("nobody owned the bank" if broken is None else f"{shown(broken)} owns it no more")
    output.document({"path": settings.bank, "owner": broken})
    return ExitCode.OK


def confirmed(output: Output, question: str, deed: str) -> bool:
    """Ask a person for a yes.

    Raises:
        click.UsageError: Nobody is there to ask.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"nobody is there to ask; say --yes to {deed}")
    try:
        is_wanted = click.confirm(question, err=True)
    except click.Abort:
        output.note("")  # what follows begins a line of its own
        raise
    if not is_wanted:
        output.note("nothing was changed")
    return is_wanted


def _findings(bank: Bank, *, deep: bool) -> list[str]:
    return [str(finding) for finding in bank.check(deep=deep)]
