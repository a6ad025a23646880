"""The protectable plugins of a provider: which types there are, and who depends on whom.

Safe from any thread as far as the plugins are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Self
from uuid import UUID

from karbor_actors.errors import (
    ListingError,
    OperationCancelledError,
    PlanError,
    PluginError,
    ProtectableNotFoundError,
    ResourceMissingError,
    describe_cause,
    describe_value,
)
from karbor_actors.graph import as_listing
from karbor_actors.model import Resource
from karbor_actors.plain import type_fault
from karbor_actors.plugins import ProtectablePlugin, instantiate, is_raised_by_plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from karbor_actors.errors import ResourceKey


class Protectables:
    """Protectable plugins by the type that they find and by its parent types.

    Args:
        plugins: Objects or classes with the methods of
            :class:`~karbor_actors.ProtectablePlugin`; a class is made into an object.

    Raises:
        PluginError: One cannot serve, or two find the same type.
    """

    def __init__(self, plugins: Iterable[Any]) -> None:
        self._plugins: dict[str, Any] = {}
        self._by_parent: dict[str, list[Any]] = {}
        for plugin in map(instantiate, plugins):
            resource_type = _resource_type(plugin)
            if resource_type in self._plugins:
                other = _name(self._plugins[resource_type])
                msg = f"{_name(plugin)} and {other} both find the type {resource_type!r}"
                raise PluginError(msg)
            self._plugins[resource_type] = plugin
            for parent_type in _parent_types(plugin):
                self._by_parent.setdefault(parent_type, []).append(plugin)

    @property
    def types(self) -> tuple[str, ...]:
        """The types that can be found, in the order of registration."""
        return tuple(self._plugins)

    def get(self, resource_type: str) -> Any:
        """Return the plugin that finds a type.

        Raises:
            ProtectableNotFoundError: There is none.
        """
        try:
            return self._plugins[resource_type]
        except KeyError:
            raise ProtectableNotFoundError(resource_type, self.types) from None

    def for_context(self, context: Any) -> Self:
        """Return these plugins for one operation's *context*.

        A plugin that keeps the context it is made with, as Karbor's do, would answer
        everybody with the first one's; so one that has an ``instance`` method is made anew.

        Raises:
            PluginError: A plugin could not be made anew.
        """
        return type(self)([_for_context(plugin, context) for plugin in self._plugins.values()])

    def find_children(self, context: Any, resource: Resource) -> list[Resource]:
        """Return the resources that depend on *resource*, plugin by plugin as registered.

        Raises:
            ListingError: A plugin failed, or returned no list of resources.
            OperationCancelledError: A plugin that asked its context was told so.
        """
        found: list[Resource] = []
        for plugin in self._by_parent.get(resource.type, ()):
            try:
                listed = plugin.get_dependent_resources(context, resource)
                if type(listed) is not list:  # nearly all are
                    listed = as_listing(listed)
                for one in listed:
                    if type(one) is not Resource:
                        found += map(as_resource, listed)
                        break
                else:
                    found += listed
            except OperationCancelledError:
                raise  # the plugin asked, and was told
            except BaseException as error:  # plugin code: ends the operation, naming the plugin
                _raise_listing_error(error, resource.key, plugin)
        return found

    def list_resources(
        self, context: Any, resource_type: str, parameters: Mapping[str, Any] | None = None
    ) -> list[Resource]:
        """Return every resource of a type.

        Raises:
            ProtectableNotFoundError: No plugin finds that type.
            ListingError: The plugin failed, or returned no list of resources.
        """
        plugin = self.get(resource_type)
        try:
            listed = plugin.list_resources(context, parameters=parameters)
            return list(map(as_resource, as_listing(listed)))
        except BaseException as error:  # plugin code: goes to the caller, naming the plugin
            _raise_listing_error(error, None, plugin)

    def show_resource(
        self,
        context: Any,
        resource_type: str,
        resource_id: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> Resource | None:
        """Return the resource of a type and an id, or None if there is none.

        Raises:
            ProtectableNotFoundError: No plugin finds that type.
            ListingError: The plugin failed, or returned no resource.
        """
        plugin = self.get(resource_type)
        try:
            shown = plugin.show_resource(context, resource_id, parameters=parameters)
            return None if shown is None else as_resource(shown)
        except BaseException as error:  # plugin code: goes to the caller, naming the plugin
            _raise_listing_error(error, (resource_type, resource_id), plugin, is_look_up=True)

    def look_up(
        self,
        context: Any,
        resources: Iterable[Resource],
        map_each: Callable[..., Iterable[Resource | None]] = map,
    ) -> list[Resource]:
        """Return *resources* as their plugins show them, with the names and facts they give.

        One whose type no plugin finds, or whose plugin shows no single resources, stays as it is.

        Raises:
            ResourceMissingError: Resources that are not there, all of them at once.
            ListingError: A plugin failed.
        """
        given = list(resources)
        found = list(map_each(lambda resource: self._look_up(context, resource), given))
        missing = [one.key for one, there in zip(given, found, strict=True) if there is None]
        if missing:
            raise ResourceMissingError(missing, "create what is missing, or correct the plan")
        return [there for there in found if there is not None]

    def _look_up(self, context: Any, resource: Resource) -> Resource | None:
        shows = getattr(type(self._plugins.get(resource.type)), "show_resource", None)
        if shows in (None, ProtectablePlugin.show_resource):
            return resource
        try:
            found = self.show_resource(context, resource.type, resource.id)
        except ListingError as error:
            if isinstance(error.__cause__, NotImplementedError):
                return resource
            raise
        if found is None:
            return None
        info = found.extra_info if resource.extra_info is None else resource.extra_info
        return Resource(found.type, found.id, resource.name or found.name, info)


def as_resource(found: Any) -> Resource:
    """Return what a plugin found as a Resource; Karbor's own resource objects will do.

    Raises:
        TypeError: It has no type or no id.
        PlanError: Its fields cannot be a resource's.
    """
    if isinstance(found, Resource):
        return found
    if not hasattr(found, "type") or not hasattr(found, "id"):
        msg = f"returned {describe_value(found)}, not a Resource"
        raise TypeError(msg)
    # Karbor's pods have a UUID for an id, and database rows a number.
    odd = isinstance(found.id, (UUID, int)) and not isinstance(found.id, bool)
    resource_id = str(found.id) if odd else found.id
    name = getattr(found, "name", "")
    return Resource(found.type, resource_id, name, getattr(found, "extra_info", None))


def _raise_listing_error(
    error: BaseException, resource: ResourceKey | None, plugin: Any, *, is_look_up: bool = False
) -> NoReturn:
    if isinstance(error, ListingError) or not is_raised_by_plugin(error):
        raise error
    reason = describe_cause(error)
    if isinstance(error, PlanError):
        reason = f"returned what is no resource: {'; '.join(map(str, error.faults))}"
    raise ListingError(resource, _name(plugin), reason, is_look_up) from error


def _name(plugin: Any) -> str:
    return type(plugin).__name__


def _resource_type(plugin: Any) -> str:
    try:
        resource_type = plugin.get_resource_type()
    except Exception as error:  # plugin code: the plugin is refused, saying why
        msg = f"{_name(plugin)} cannot serve as a protectable plugin: {describe_cause(error)}"
        raise PluginError(msg) from error
    if (fault := type_fault(resource_type)) is not None:
        msg = f"get_resource_type() of {_name(plugin)} cannot be used: {fault}"
        raise PluginError(msg)
    return str(resource_type)


def _parent_types(plugin: Any) -> list[str]:
    """Return a plugin's parent types; a bare string is one (two of Karbor's return that)."""
    try:
        parent_types = plugin.get_parent_resource_types()
        if isinstance(parent_types, str):
            parent_types = (parent_types,)
        parent_types = list(dict.fromkeys(parent_types))
    except Exception as error:  # plugin code: the plugin is refused, saying why
        msg = f"get_parent_resource_types() of {_name(plugin)} failed: {describe_cause(error)}"
        raise PluginError(msg) from error
    for parent_type in parent_types:
        if (fault := type_fault(parent_type)) is not None:
            msg = f"get_parent_resource_types() of {_name(plugin)} cannot be used: {fault}"
            raise PluginError(msg)
    return parent_types


def _for_context(plugin: Any, context: Any) -> Any:
    make = getattr(plugin, "instance", None)
    if not callable(make):
        return plugin
    try:
        return make(context, getattr(plugin, "_conf", None))
    except Exception as error:  # plugin code: ends the operation, naming the plugin
        msg = f"instance() of {_name(plugin)} failed: {describe_cause(error)}"
        raise PluginError(msg) from error
