"""``plan check``: what a protect would do, without doing it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from karbor_actors.cli.files import LOCAL, merge_parameters, parse_parameters, read_parameters
from karbor_actors.cli.invocation import local_settings
from karbor_actors.cli.options import PathName, command
from karbor_actors.cli.resources import checked_plan, named_plan, plan_of_paths
from karbor_actors.cli.text import plural, shown
from karbor_actors.cli.tree import tree_lines
from karbor_actors.errors import describe_key

if TYPE_CHECKING:
    from karbor_actors import Plan, PlannedOperation
    from karbor_actors.cli.files import ProviderSettings
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.output import Output

_SHOWN = 50
"""Resources up to which the whole graph and each hook are shown."""


def register(app: click.Group) -> None:
    """Add the commands to *app*."""

    @app.group()
    def plan() -> None:
        """Look at a plan."""

    command(plan, "check")(_check)


@click.argument("names", nargs=-1, required=True, metavar="PLAN.toml | PATH...")
@click.option("--parameter", "-p", "assignments", multiple=True, metavar="TYPE.FIELD=VALUE")
@click.option("--parameters", "parameters_file", metavar="FILE", type=PathName())
@click.option("--all", "shows_all", is_flag=True, help="Show every resource and hook of many.")
def _check(
    invocation: Invocation,
    names: tuple[str, ...],
    assignments: tuple[str, ...],
    parameters_file: str | None,
    shows_all: bool,
) -> None:
    """Validate a plan and show its resources, and the order of the hooks; run nothing.

    Without a bank, the plan is checked with the plugins filesystem and sqlite.
    """
    from_file = {} if parameters_file is None else read_parameters(parameters_file)
    parameters = merge_parameters(from_file, parse_parameters(assignments))
    plan = named_plan(names, name=None, provider=invocation.provider)
    settings = _settings(invocation, plan)
    with invocation.planning_service(settings) as service:
        provider = service.provider(settings.name)
        plan = (
            plan_of_paths(names, None, provider) if plan is None else checked_plan(plan, provider)
        )
        planned = service.plan_operation("protect", plan, parameters=parameters)
    _show(invocation.output, plan, planned, shows_all=shows_all)
    invocation.output.document(_describe(plan, planned))


def _settings(invocation: Invocation, plan: Plan | None) -> ProviderSettings:
    if not invocation.settings:
        if plan is not None and plan.provider != LOCAL:
            what = f"provider {shown(plan.provider)!r} is not described: name its --config"
            invocation.output.note(
                f"warning: {what}; until then filesystem and sqlite stand for it"
            )
        return local_settings("/nonexistent/bank", name="local" if plan is None else plan.provider)
    return invocation.only() if plan is None else invocation.named(plan.provider)


def _show(output: Output, plan: Plan, planned: PlannedOperation, *, shows_all: bool) -> None:
    graph = planned.graph
    output.fields([("plan", plan.name), ("provider", plan.provider)])
    types = Counter(resource.type for resource in graph.nodes)
    counts = ", ".join(f"{count:,} {shown(kind)}" for kind, count in types.items())
    output.line(f"\n{plural(len(graph), 'resource')}: {counts}", "bold")
    is_whole = shows_all or len(graph) <= _SHOWN
    if is_whole:
        for line in tree_lines(graph):
            output.line(f"  {line.branch}{shown(describe_key(line.key))}")
    waves = planned.waves()
    hooks = plural(planned.hook_count, "hook")
    output.line(f"\n{hooks} in {plural(len(waves), 'step')}, each after the one before:", "bold")
    if not waves:
        output.line("  none: the plugins have nothing to do")
    for number, wave in enumerate(waves, 1):
        if is_whole:
            for place, hook in enumerate(wave):
                mark = f"{number:>3}." if not place else "    "
                output.line(f"{mark} {hook.hook:<17} {shown(describe_key(hook.resource))}")
        else:
            kinds = Counter((str(hook.hook), hook.resource[0]) for hook in wave)
            for place, ((hook_name, kind), count) in enumerate(kinds.items()):
                mark = f"{number:>3}." if not place else "    "
                output.line(f"{mark} {hook_name:<17} {count:>9,} x {shown(kind)}")
    if not is_whole:
        output.line("  (--all shows each of them)", "dim")


def _describe(plan: Plan, planned: PlannedOperation) -> dict[str, Any]:
    graph = planned.graph
    return {
        "plan": plan.to_dict(),
        "resources": [
            {
                **resource.to_dict(),
                "children": [list(graph.nodes[child].key) for child in graph.children(number)],
                "parameters": planned.parameters.for_resource(number),
            }
            for number, resource in enumerate(graph.nodes)
        ],
        "steps": [
            [{"resource": list(hook.resource), "hook": str(hook.hook)} for hook in wave]
            for wave in planned.waves()
        ],
    }
