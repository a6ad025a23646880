"""From a graph, plugins and parameters to an operation that is ready to run.

Runs on a worker; everything that can be refused is refused here, before any hook runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import (
    MissingPluginError,
    PluginError,
    describe_cause,
    describe_key,
    describe_value,
)
from karbor_actors.model import HOOKS, HookName, OnFailure, OperationType
from karbor_actors.operations.hooks.calls import ABORT, HookTable
from karbor_actors.plugins import is_raised_by_plugin
from karbor_actors.schedule import HOOKS_PER_RESOURCE, MAIN, HookSchedule, hook_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from karbor_actors.errors import ResourceKey
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.model import Resource
    from karbor_actors.schema import ResourceParameters


class StalePlan(Exception):  # noqa: N818 - the supervisor plans again, and nobody else sees it
    """What was planned is not what is to run now that the locks are had."""


@dataclass(frozen=True, slots=True)
class PlannedHook:
    """One hook of a dry run."""

    resource: ResourceKey
    hook: HookName


@dataclass(slots=True)
class PlannedOperation:
    """What would run, in what order; also the object that the verb then runs."""

    type: OperationType
    provider: str
    graph: ResourceGraph
    operations: list[Any]
    """The Operation object of each resource, or None."""
    hook_kinds: bytearray
    """One byte per hook: absent, plain or async."""
    abort_kinds: bytearray
    """The same for each resource's ``on_abort``."""
    parameters: ResourceParameters
    on_failure: OnFailure
    lost: dict[int, str] = field(default_factory=dict)
    """Why resources of a recovered operation have no Operation any more."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why plugins cannot go on with what a recovered operation kept, by resource type."""
    why_stale: str = ""
    """Why a recovered operation as a whole cannot go on; empty if it can."""

    def schedule(self) -> HookSchedule:
        """Return a fresh schedule of the hooks."""
        graph = self.graph
        return HookSchedule(
            graph.child_offsets,
            graph.child_targets,
            graph.parent_offsets,
            graph.parent_targets,
            self.hook_kinds,
            isolate=self.on_failure is OnFailure.ISOLATE,
        )

    @property
    def hook_count(self) -> int:
        """How many hooks will run."""
        return len(self.hook_kinds) - self.hook_kinds.count(0)

    def waves(self) -> list[list[PlannedHook]]:
        """Return the hooks in the order in which they may run: each wave waits for the last.

        A hook appears in the first wave in which it may start if all hooks took equally
        long; in a real run it starts as soon as what it waits for has ended.
        """
        hooks = self.schedule()
        waves = []
        ready = hooks.start()
        while ready:
            waves.append([self._planned(hook) for hook in sorted(ready)])
            ready = [following for hook in ready for following in hooks.complete(hook)]
        return waves

    def _planned(self, hook: int) -> PlannedHook:
        resource = hook // HOOKS_PER_RESOURCE
        return PlannedHook(self.graph.nodes[resource].key, hook_name(hook))


def plan_operations(
    graph: ResourceGraph,
    plugins: Mapping[str, Any],
    operation_type: OperationType,
    provider: str,
    lost: dict[int, str] | None = None,
) -> list[Any]:
    """Ask each resource's protection plugin for its Operation, once.

    Args:
        graph: The resources.
        plugins: The protection plugin by resource type.
        operation_type: The verb.
        provider: The provider's name, for errors.
        lost: Takes what would be raised, by resource, if it is given.

    Raises:
        MissingPluginError: Types that no plugin handles, all of them at once.
        PluginError: A plugin failed, or returned what cannot be an Operation.
    """
    missing = {r.type: None for r in graph.nodes if r.type not in plugins}
    if missing and lost is None:
        raise MissingPluginError(list(missing), provider)
    getters = {
        resource_type: getattr(plugin, f"get_{operation_type}_operation", None)
        for resource_type, plugin in plugins.items()
    }
    if lost is None:
        return [_operation_of(getters[resource.type], resource) for resource in graph.nodes]
    operations = []
    for number, resource in enumerate(graph.nodes):
        operation = None
        if resource.type in missing:
            lost[number] = str(MissingPluginError([resource.type], provider))
        else:
            try:
                operation = _operation_of(getters[resource.type], resource)
            except PluginError as error:
                lost[number] = str(error)
        operations.append(operation)
    return operations


def _operation_of(getter: Callable[[Resource], Any] | None, resource: Resource) -> Any:
    if getter is None:
        return None
    try:
        return getter(resource)
    except NotImplementedError:
        return None  # the guide's base class says so: there is no such operation
    except BaseException as error:  # plugin code: ends the operation with the plugin's sentence
        if not is_raised_by_plugin(error):
            raise
        name = getattr(getter, "__qualname__", describe_value(getter))
        msg = f"{name}() failed for {describe_key(resource.key)}: {describe_cause(error)}"
        raise PluginError(msg) from error


def hook_kinds_of(
    operations: list[Any],
    graph: ResourceGraph,
    *,
    always_main: bool,
    lost: dict[int, str] | None = None,
) -> tuple[bytearray, bytearray]:
    """Return the kinds of all hooks, and of all ``on_abort`` hooks.

    Args:
        operations: The Operation of each resource, or None; one without a hook becomes None,
            unless it is of a recovered operation and has an ``on_abort``.
        graph: The resources, for errors.
        always_main: Whether the engine itself has something to do in each resource's main hook.
        lost: Takes what would be raised, by resource, if it is given.

    Raises:
        PluginError: What a plugin gave is no Operation.
    """
    table = HookTable()
    kinds = bytearray(len(operations) * HOOKS_PER_RESOURCE)
    aborts = bytearray(len(operations))
    last, own = None, table.kinds(None)
    for number, operation in enumerate(operations):
        try:
            if operation is not last:  # many plugins have one for all resources
                own = _kinds_of(table, operation, graph.nodes[number])
                last = operation
        except PluginError as error:
            if lost is None:
                raise
            lost[number] = str(error)
            continue
        if not any(own if lost is not None else own[: len(HOOKS)]):
            operations[number] = None  # one that an earlier process began may be undone by it yet
        first = number * HOOKS_PER_RESOURCE
        kinds[first : first + HOOKS_PER_RESOURCE] = own[: len(HOOKS)]
        if always_main and not kinds[first + MAIN]:
            kinds[first + MAIN] = 1
        aborts[number] = own[ABORT]
    return kinds, aborts


def _kinds_of(table: HookTable, operation: Any, resource: Resource) -> bytes:
    try:
        own = table.kinds(operation)
    except PluginError as error:
        msg = f"{resource}: {error}"
        raise PluginError(msg) from error
    if isinstance(operation, type):
        what = f"the plugin of {resource} returned the class {operation.__name__}"
        raise PluginError(f"{what}, not an object of it")
    until = getattr(operation, "held_until", HOOKS[0])
    if until not in HOOKS:
        what = f"the held_until of {resource}'s operation is {until!r}"
        raise PluginError(f"{what}; it is one of {', '.join(HOOKS)}")
    groups = getattr(operation, "cap_groups", ())
    if groups and not (
        isinstance(groups, str)
        or (
            isinstance(groups, (list, tuple, set, frozenset))
            and all(isinstance(g, str) for g in groups)
        )
    ):
        what = f"the cap_groups of {resource}'s operation are {groups!r}"
        raise PluginError(f"{what}, not names of groups")
    if operation is not None and not any(own) and not _could_be_operation(operation):
        msg = f"the plugin of {resource} returned {operation!r}, not an Operation"
        raise PluginError(msg)
    return own


def _could_be_operation(operation: object) -> bool:
    """Tell an Operation that implements nothing from something else altogether."""
    return any(hasattr(operation, name) for name in HookName)
