"""From what was named, in a plan or as paths, to resources that are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from karbor_actors import Plan
from karbor_actors.cli.files import LOCAL, read_plan
from karbor_actors.errors import Fault, GraphError, PlanError, ResourceMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors import Provider, Resource
    from karbor_actors.errors import ResourceKey

PLAN_SUFFIX = ".toml"


def named_plan(names: Sequence[str], *, name: str | None, provider: str | None) -> Plan | None:
    """Return the plan in the file that *names* is, or None if *names* are resources' paths.

    Raises:
        PlanError: A plan file is malformed, or is named beside something else.
    """
    files = [path for path in names if path.endswith(PLAN_SUFFIX) and not os.path.isdir(path)]
    if not files:
        return None
    if len(names) > 1:
        raise PlanError([Fault(files[0], "is a plan; name it alone")])
    plan = read_plan(files[0])
    return Plan(name or plan.name, provider or plan.provider, plan.resources, plan.parameters)


def plan_of_paths(paths: Sequence[str], name: str | None, provider: Provider) -> Plan:
    """Return a plan of what a provider's protectable plugins find at *paths*.

    Raises:
        ResourceMissingError: Nothing is at a path.
        GraphError: What is at a path is nothing that can be protected.
        ListingError: A plugin failed.
    """
    if not all(paths):
        raise PlanError([Fault("PATH", "is empty; name a directory or a file")])
    resources = [_resource_at(os.path.realpath(path), provider) for path in paths]
    resources = list(dict.fromkeys(resources))
    return Plan(name or _name_of(resources), provider.name, resources)


def _name_of(resources: Sequence[Resource]) -> str:
    """Return what a plan of *resources* is called that nobody named."""
    first, more = resources[0].name or LOCAL, len(resources) - 1
    return f"{first} and {more:,} more" if more else first


def _resource_at(path: str, provider: Provider) -> Resource:
    protectables = provider.protectables
    for resource_type in protectables.types:
        found = protectables.show_resource(None, resource_type, path)
        if found is not None:
            return found
    types = ", ".join(protectables.types) or "nothing"
    if os.path.lexists(path):
        raise GraphError(f"{path} is none of what provider {provider.name!r} finds: {types}")
    first = next(iter(protectables.types), "path")
    raise ResourceMissingError([(first, path)], "nothing is at that path")


def checked_plan(plan: Plan, provider: Provider) -> Plan:
    """Return *plan* with its resources as their protectable plugins show them.

    Raises:
        ResourceMissingError: Resources that are not there, all of them at once.
        ListingError: A plugin failed.
    """
    try:
        resources = provider.protectables.look_up(None, plan.resources)
    except ResourceMissingError as error:
        raise ResourceMissingError(error.resources, _advice(error.resources)) from error
    return Plan(plan.name, plan.provider, resources, plan.parameters)


def _advice(missing: Sequence[ResourceKey]) -> str:
    if any("\0" in key[1] for key in missing):
        return "no path holds NUL; correct the plan"
    relative = [key[1] for key in missing if not os.path.isabs(key[1])]
    if relative:
        return "write an absolute path, or ./PATH for one beside the plan"
    return "create it, or correct the plan" if len(missing) == 1 else "correct the plan"
