"""What stands in a recovered operation for what its plugins do not give any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.errors import ParametersError, PluginError, describe_cause
from karbor_actors.operations.hooks.calls import SYNC
from karbor_actors.schedule import HOOKS_PER_RESOURCE
from karbor_actors.schema import unchecked_parameters, validate_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.bank.journal.records import JournalState
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.model import OperationType
    from karbor_actors.operations.recovery.recovery import Recovered
    from karbor_actors.provider import Provider
    from karbor_actors.rules import Schema
    from karbor_actors.schema import ResourceParameters


class LostOperation:
    """An Operation that can undo nothing, and says why: its resource stays ``abort_pending``."""

    resumable: ClassVar[bool] = False

    def __init__(self, why: str) -> None:
        self._why = why

    def on_abort(self, *_: Any, **__: Any) -> None:
        """Say what is missing."""
        raise PluginError(self._why)


def stand_in(
    lost: Mapping[int, str],
    journal: JournalState,
    operations: list[Any],
    kinds: bytearray,
    aborts: bytearray,
) -> None:
    """Put operations in for resources that lost theirs, with the hooks that had begun.

    Args:
        lost: Why, by resource.
        journal: What had been done: a resource that had intents had an ``on_abort``.
        operations: Changed, and so are the hooks' *kinds* and the *aborts*.
    """
    for resource, why in lost.items():
        first = resource * HOOKS_PER_RESOURCE
        hooks = range(first, first + HOOKS_PER_RESOURCE)
        operations[resource] = LostOperation(why)
        aborts[resource] = SYNC if any(hook in journal.attempts for hook in hooks) else 0
        for hook in hooks:
            has_begun = hook in journal.attempts or hook in journal.completed
            kinds[hook] = SYNC if has_begun else 0


def find_without_way_back(
    found: Recovered,
    operations: Sequence[Any],
    aborts: Sequence[int],
    *,
    always_main: bool,
) -> dict[int, str]:
    """Return why resources that had begun are lost although their plugin is there.

    It gives no Operation for them any more, whose hooks would have to go on; or one that cannot
    undo what had been begun for it to undo. To go on without would leave that as it is for ever.

    Args:
        found: What had been done.
        operations: What the plugin gives now, by resource; None for nothing.
        aborts: Whether those have an ``on_abort``.
        always_main: Whether the engine itself runs a main hook: then to have begun says nothing.
    """
    lost: dict[int, str] = {}
    for resource in sorted(found.begun_resources()):
        first = resource * HOOKS_PER_RESOURCE
        hooks = range(first, first + HOOKS_PER_RESOURCE)
        if not aborts[resource] and any(hook in found.journal.attempts for hook in hooks):
            lost[resource] = "its plugin has no on_abort any more that undoes what had begun"
        elif operations[resource] is None and not always_main:
            lost[resource] = "its plugin has no operation any more that goes on with what had begun"
    return lost


def check_parameters(
    provider: Provider,
    operation_type: OperationType,
    graph: ResourceGraph,
    parameters: Mapping[str, Mapping[str, Any]],
    found: Recovered | None,
) -> tuple[ResourceParameters, str]:
    """Return an operation's parameters, checked.

    Those of one that was *found* and that do not fit any more are returned unchecked, and why:
    what was begun with them must be undone with them.

    Raises:
        ParametersError: A new operation's do not fit, or a secret cannot be read.
        PluginError: A schema is none.
    """

    def schema_for(kind: str) -> Schema | None:
        if found is not None and kind not in provider.protection_plugins:
            return None  # its resources are lost; the others go on
        return provider.schema(operation_type, kind)

    try:
        checked = validate_parameters(graph, parameters, schema_for, what=str(operation_type))
        if found is None:  # what was begun is undone as far as it goes without
            checked.check_secrets()
    except (ParametersError, PluginError) as error:
        if found is None:
            raise
        return unchecked_parameters(graph, parameters, schema_for), describe_cause(error)
    return checked, ""
