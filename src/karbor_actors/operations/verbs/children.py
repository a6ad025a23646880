"""Which of the children that were found a protect takes along: their parent's plugin says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.errors import ListingError, ParametersError, describe_cause
from karbor_actors.graph import as_listing, build_graph
from karbor_actors.model import OperationType
from karbor_actors.plugins import ProtectionPlugin
from karbor_actors.schema import validate_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.model import Resource
    from karbor_actors.provider import Provider


class ChildChoice:
    """Asks protection plugins which children they want, with their parents' parameters.

    Safe from any thread as far as the plugins are.

    Args:
        provider: Whose plugins are asked.
        parameters: Those of the whole protect, as they were given.
    """

    def __init__(self, provider: Provider, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        self._provider, self._given = provider, parameters
        self._by_type: dict[str, dict[str, Any] | None] = {}

    def of(self, resource: Resource, children: Sequence[Resource]) -> Sequence[Resource]:
        """Return those of *children* that the plugin of *resource* takes along.

        Raises:
            ListingError: The plugin failed, or returned something else.
        """
        plugin: Any = self._provider.protection_plugins.get(resource.type)
        chooser = getattr(type(plugin), "choose_children", ProtectionPlugin.choose_children)
        if not children or chooser is ProtectionPlugin.choose_children:
            return children
        parameters = self._parameters_of(resource)
        if parameters is None:
            return children
        try:
            chosen = as_listing(plugin.choose_children(resource, tuple(children), parameters))
            is_choice = set(chosen) <= set(children)
        except Exception as error:  # plugin code: ends the operation, naming the plugin
            raise ListingError(
                resource.key, type(plugin).__name__, describe_cause(error)
            ) from error
        if not is_choice:
            reason = "chose a resource that is none of the children"
            raise ListingError(resource.key, type(plugin).__name__, reason)
        return chosen

    def _parameters_of(self, resource: Resource) -> dict[str, Any] | None:
        """Return a resource's parameters, validated; None if that is not possible.

        What is wrong with them is said once the graph is there, with all other faults.
        """
        own = self._given.get(f"{resource.type}#{resource.id}")
        if own is None and resource.type in self._by_type:
            return self._by_type[resource.type]
        fields = {**self._given.get(resource.type, {}), **(own or {})}
        try:
            found: dict[str, Any] | None = validate_parameters(
                build_graph([resource], lambda _: ()),
                {resource.type: fields},
                lambda kind: self._provider.schema(OperationType.PROTECT, kind),
            ).for_resource(0)
        except ParametersError:
            found = None
        if own is None:
            self._by_type[resource.type] = found
        return found
