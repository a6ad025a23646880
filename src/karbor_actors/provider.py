"""A provider: the plugins that act, and the bank that keeps."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from karbor_actors.arguments import check_instance
from karbor_actors.bank.bank import Bank
from karbor_actors.errors import (
    AmbiguousCheckpointError,
    CheckpointNotFoundError,
    KarborError,
    PluginError,
    ProviderNotFoundError,
    describe_cause,
    describe_value,
)
from karbor_actors.limits import RetryPolicy, TimeLimits
from karbor_actors.model import HOOKS, OperationType
from karbor_actors.plain import type_fault
from karbor_actors.plugins import PROTECTABLE_GROUP, PROTECTION_GROUP, instantiate, load_plugin
from karbor_actors.protectables import Protectables
from karbor_actors.schema import plugin_schema, validate_saved_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.model import Resource
    from karbor_actors.rules import Schema

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
        time_limits: How long hooks may take: for all resources, or by resource type, with
            ``"*"`` for the others.
        recovery_context: The ``context`` of operations that a restart takes up again: a
            mapping, or a callable that gets the operation's id.
        recover: What becomes of operations that a dead process left: ``"resume"`` goes on
            with those that can and aborts the others, ``"abort"`` aborts them all, ``"ask"``
            aborts those that cannot go on, or held something, and leaves the others suspended,
            for ``service.resume(id)`` or ``service.abort(id)``.
        description: For people.

    Raises:
        PluginError: A plugin is not one, two plugins handle one type, or a policy or time limit
            is none.
    """

    def __init__(
        self,
        name: str,
        *,
        bank: Bank,
        protection_plugins: Iterable[Any] = (),
        protectables: Iterable[Any] = (),
        retry: Mapping[Any, RetryPolicy] | None = None,
        time_limits: TimeLimits | Mapping[str, TimeLimits] | None = None,
        recovery_context: Mapping[str, Any] | Callable[[str], Any] | None = None,
        recover: str = "resume",
        description: str = "",
    ) -> None:
        if not isinstance(name, str) or not name:
            msg = f"a provider's name is a non-empty string, not {describe_value(name)}"
            raise PluginError(msg)
        check_instance("bank", bank, Bank, "a Bank: Bank.open(...)")
        check_instance("description", description, str, "a string")
        check_instance("retry", retry, (Mapping, type(None)), "a mapping to RetryPolicies, or None")
        limits = (TimeLimits, Mapping, type(None))
        check_instance("time_limits", time_limits, limits, "a TimeLimits, or a mapping to them")
        self.name, self.bank, self.description = name, bank, description
        self.retry = dict(retry) if retry is not None else {}
        default = TimeLimits()
        if isinstance(time_limits, TimeLimits):
            default, time_limits = time_limits, None
        self._limits = {"*": default, **(time_limits or {})}
        _check_policies(self.retry, self._limits)
        self.recovery_context = recovery_context
        if not isinstance(recover, str) or recover not in {"resume", "abort", "ask"}:
            msg = f'recover is "resume", "abort" or "ask", not {describe_value(recover)}'
            raise PluginError(msg)
        self.recover = recover
        self._schemas: dict[tuple[str, str], Schema | None] = {}
        self.protection_plugins = _by_type(_loaded(PROTECTION_GROUP, protection_plugins))
        """The protection plugin of each resource type."""
        self.protectables = Protectables(_loaded(PROTECTABLE_GROUP, protectables))
        """Finds resources."""

    def __repr__(self) -> str:
        return f"<Provider {self.name!r}: {', '.join(sorted(self.protection_plugins))}>"

    @property
    def abort_pending(self) -> int:
        """How many resources still wait to be undone: a gauge. Reads the bank; any thread."""
        return sum(record.abort_pending for record in self.bank.journal.operations())

    def limits_of(self, resource_type: str) -> TimeLimits:
        """Return the time limits of the hooks of a type's resources."""
        return self._limits.get(resource_type) or self._limits["*"]

    def schema(self, operation_type: OperationType, resource_type: str) -> Schema | None:
        """Return the checked schema of the parameters of *operation_type*; None takes any.

        Raises:
            LookupError: No plugin handles the type.
            PluginError: The plugin failed to say, or its schema is none.
        """
        plugin = self.protection_plugins[resource_type]
        getter = _SCHEMA_GETTERS.get(operation_type)
        return None if getter is None else self._schema(plugin, getter, resource_type)

    def saved_info_schema(self, resource_type: str) -> Schema | None:
        """Return the checked schema of a type's saved info; raises as :meth:`schema`."""
        plugin = self.protection_plugins[resource_type]
        return self._schema(plugin, "get_saved_info_schema", resource_type)

    def saved_info(self, checkpoint: Checkpoint, resource: Resource) -> dict[str, Any]:
        """Return what the plugin says of *resource* in *checkpoint*, checked; {} for nothing.

        Raises:
            LookupError: No plugin handles the type.
            PluginError: The plugin failed, or what it says does not fit its schema.
        """
        plugin = self.protection_plugins[resource.type]
        getter = getattr(plugin, "get_saved_info", None)
        if getter is None:
            return {}
        section = checkpoint.get_resource_bank_section(resource)
        try:
            info = getter(section, resource)
        except NotImplementedError:
            return {}
        except KarborError:
            raise
        except Exception as error:  # plugin code: reported with the plugin's name
            name = type(plugin).__name__
            msg = f"{name} has no saved info of {resource}: {describe_cause(error)}"
            raise PluginError(msg) from error
        return validate_saved_info(self.saved_info_schema(resource.type), info)

    def _schema(self, plugin: Any, getter: str, resource_type: str) -> Schema | None:
        place = (getter, resource_type)
        if place not in self._schemas:
            self._schemas[place] = plugin_schema(plugin, getter, resource_type)
        return self._schemas[place]


class ProviderRegistry:
    """The providers of a service, by name. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._providers: dict[str, Provider] = {}

    @contextmanager
    def adding(self, *providers: Provider) -> Iterator[tuple[Provider, ...]]:
        """Add all of *providers*, or none of them where what is done meanwhile raises.

        Their banks are this registry's until they are closed.

        Raises:
            ArgumentError: One is no provider.
            ValueError: There is one of that name.
            BankLeaseError: Its bank is another service's.
            BankClosedError: Its bank is closed.
        """
        for provider in providers:
            check_instance("provider", provider, Provider, "a Provider")
        added: list[Provider] = []
        try:
            for provider in providers:
                self._add(provider)
                added.append(provider)
            yield providers
        except BaseException:
            for provider in added:
                self._remove(provider)
            raise

    def _add(self, provider: Provider) -> None:
        with self._lock:
            if provider.name in self._providers:
                msg = f"a provider named {provider.name!r} was added already"
                raise ValueError(msg)
            owner = f"the provider {provider.name!r} of another service of this process"
            provider.bank.claim(self, owner)
            self._providers[provider.name] = provider

    def _remove(self, provider: Provider) -> None:
        with self._lock:
            del self._providers[provider.name]
            if all(other.bank is not provider.bank for other in self._providers.values()):
                provider.bank.disclaim()

    def all(self) -> dict[str, Provider]:
        """Return a copy: the providers by name."""
        return dict(self._providers)

    def close_banks(self) -> None:
        """Close the bank of each provider, although another one's cannot be closed."""
        with ExitStack() as banks:
            for provider in self.all().values():
                banks.callback(provider.bank.close)

    def get(self, name: str) -> Provider:
        """Return the provider of that name.

        Raises:
            ProviderNotFoundError: There is none.
        """
        # Without the lock, which a signal's handler could find held by its own thread.
        found = self._providers.get(name) if isinstance(name, str) else None
        if found is None:
            raise ProviderNotFoundError(name, sorted(self._providers))
        return found

    def find_checkpoint(
        self, checkpoint_id: str, provider: str | None = None
    ) -> tuple[Provider, Checkpoint]:
        """Return a checkpoint, and the provider in whose bank it is.

        Args:
            checkpoint_id: Its id, or enough of the beginning.
            provider: Where to look; everywhere if not given.

        Raises:
            CheckpointNotFoundError: There is none.
            AmbiguousCheckpointError: There are several.
        """
        if provider is not None:
            own = self.get(provider)
            return own, own.bank.checkpoint(checkpoint_id)
        found = []
        for candidate in self.all().values():
            try:
                found.append((candidate, candidate.bank.checkpoint(checkpoint_id)))
            except CheckpointNotFoundError:
                continue  # it may be in another provider's bank
        if not found:
            raise CheckpointNotFoundError(checkpoint_id)
        if len({(id(owner.bank), checkpoint.id) for owner, checkpoint in found}) > 1:
            raise AmbiguousCheckpointError(checkpoint_id, [c.id for _, c in found])
        # Providers may share a bank: the one that made the checkpoint knows it best.
        return next((pair for pair in found if pair[0].name == pair[1].provider), found[0])


def _check_policies(retry: Mapping[Any, Any], limits: Mapping[str, Any]) -> None:
    """Refuse what is no policy, or belongs to nothing that there can be."""
    for key, policy in retry.items():
        name = key[1] if isinstance(key, tuple) and len(key) == 2 else key  # noqa: PLR2004 - (type, hook)
        if not isinstance(policy, RetryPolicy):
            raise PluginError(f"retry[{key!r}] is a RetryPolicy, not {describe_value(policy)}")
        if not isinstance(name, str) or (name.startswith("on_") and name not in HOOKS):
            raise PluginError(f"retry[{key!r}] names no hook; there are {', '.join(HOOKS)}")
    for kind, limit in limits.items():
        if not isinstance(limit, TimeLimits):
            raise PluginError(f"time_limits[{kind!r}] is a TimeLimits, not {describe_value(limit)}")


def _loaded(group: str, plugins: Iterable[Any]) -> list[Any]:
    if isinstance(plugins, (str, bytes)) or not isinstance(plugins, Iterable):
        msg = f"plugins are given as a list, not as {describe_value(plugins)}"
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
