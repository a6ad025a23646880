"""A provider: the plugins that act, and the bank that keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.errors import PluginError, describe_cause
from karbor_actors.model import OperationType
from karbor_actors.plain import type_fault
from karbor_actors.plugins import PROTECTABLE_GROUP, PROTECTION_GROUP, instantiate, load_plugin
from karbor_actors.protectables import Protectables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from karbor_actors.bank.bank import Bank
    from karbor_actors.model import RetryPolicy
    from karbor_actors.plugins import Schema

_SCHEMA_GETTERS = {
    OperationType.PROTECT: "get_options_schema",
    OperationType.RESTORE: "get_restore_schema",
    OperationType.VERIFY: "get_verify_schema",
}


class Provider:
    """Plugins and a bank under one name. Safe from any thread.

    Args:
        name: What plans refer to.
        bank: Where checkpoints go; the service closes it.
        protection_plugins: Instances, classes, or names of entry points in the group
            ``karbor_actors.protections``.
        protectables: The same for the group ``karbor_actors.protectables``.
        retry: Policies by resource type, by hook name, by (resource type, hook name),
            or under ``"*"``; the most exact one counts.
        recovery_context: The ``context`` of operations that a restart takes up again: a
            mapping, or a callable that gets the operation's id.
        description: For people.

    Raises:
        PluginError: A plugin is not one, or two plugins handle one type.
    """

    def __init__(
        self,
        name: str,
        *,
        bank: Bank,
        protection_plugins: Iterable[Any] = (),
        protectables: Iterable[Any] = (),
        retry: Mapping[Any, RetryPolicy] | None = None,
        recovery_context: Mapping[str, Any] | Callable[[str], Any] | None = None,
        description: str = "",
    ) -> None:
        if not isinstance(name, str) or not name:
            msg = f"a provider's name is a non-empty string, not {name!r}"
            raise PluginError(msg)
        self.name, self.bank, self.description = name, bank, description
        self.retry = dict(retry) if retry is not None else {}
        self.recovery_context = recovery_context
        self.protection_plugins = _by_type(_loaded(PROTECTION_GROUP, protection_plugins))
        """The protection plugin of each resource type."""
        self.protectables = Protectables(_loaded(PROTECTABLE_GROUP, protectables))
        """Finds resources."""

    def __repr__(self) -> str:
        return f"<Provider {self.name!r}: {', '.join(sorted(self.protection_plugins))}>"

    def schema(self, operation_type: OperationType, resource_type: str) -> Schema:
        """Return the plugin's schema of the parameters of *operation_type*; {} for none.

        Raises:
            PluginError: The plugin failed to say.
        """
        getter = _SCHEMA_GETTERS.get(operation_type)
        plugin = self.protection_plugins.get(resource_type)
        method = getattr(plugin, getter, None) if getter else None
        return _schema_from(method, plugin, resource_type)

    def saved_info_schema(self, resource_type: str) -> Schema:
        """Return the plugin's schema of its saved info; {} for none."""
        plugin = self.protection_plugins.get(resource_type)
        method = getattr(plugin, "get_saved_info_schema", None)
        return _schema_from(method, plugin, resource_type)


def _schema_from(method: Any, plugin: Any, resource_type: str) -> Schema:
    if method is None:
        return {}
    try:
        schema = method(resource_type)
    except NotImplementedError:
        return {}
    except Exception as error:  # plugin code: ends the operation with the plugin's sentence
        msg = f"{type(plugin).__name__} has no schema for {resource_type}: {describe_cause(error)}"
        raise PluginError(msg) from error
    if schema is None:
        return {}
    if not isinstance(schema, dict):
        msg = f"{type(plugin).__name__} returned {schema!r} as the schema for {resource_type}"
        raise PluginError(msg)
    return schema


def _loaded(group: str, plugins: Iterable[Any]) -> list[Any]:
    if isinstance(plugins, str):
        msg = f"plugins are given as a list, not as the string {plugins!r}"
        raise PluginError(msg)
    return [
        instantiate(load_plugin(group, plugin) if isinstance(plugin, str) else plugin)
        for plugin in plugins
    ]


def _by_type(plugins: Iterable[Any]) -> dict[str, Any]:
    by_type: dict[str, Any] = {}
    for plugin in plugins:
        for resource_type in _types_of(plugin):
            if resource_type in by_type:
                one, two = type(by_type[resource_type]).__name__, type(plugin).__name__
                msg = f"both {one} and {two} handle {resource_type}"
                raise PluginError(msg)
            by_type[resource_type] = plugin
    return by_type


def _types_of(plugin: Any) -> list[str]:
    name = type(plugin).__name__
    try:
        types = plugin.get_supported_resources_types()
    except Exception as error:  # plugin code, or no plugin at all: refused with a sentence
        msg = f"{name} does not say which resource types it handles: {describe_cause(error)}"
        raise PluginError(msg) from error
    listed = [types] if isinstance(types, str) else list(types or [])
    for resource_type in listed:
        fault = type_fault(resource_type)
        if fault is not None:
            msg = f"{name}: {fault}"
            raise PluginError(msg)
    if not listed:
        msg = f"{name} handles no resource type"
        raise PluginError(msg)
    return listed
