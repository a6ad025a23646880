"""Errors of what is asked for: plans, parameters, plugins, graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.errors.base import FaultsError, KarborError, describe_key, describe_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.errors.base import ResourceKey


class PlanError(FaultsError):
    """A plan is malformed; nothing ran."""

    def __str__(self) -> str:
        return f"the plan is not valid: {super().__str__()}"


class ParametersError(FaultsError):
    """Parameters do not fit their schemas; nothing ran."""

    def __str__(self) -> str:
        return f"the parameters are not valid: {super().__str__()}"


class ConfigurationError(FaultsError):
    """A file that describes providers is malformed; nothing ran."""

    def __str__(self) -> str:
        return f"the configuration is not valid: {super().__str__()}"


class ArgumentError(KarborError, ValueError, TypeError):
    """A call's argument that cannot be one; nothing was done."""

    def __init__(self, argument: str, expected: str, given: str) -> None:
        super().__init__(argument, expected, given)
        self.argument, self.expected, self.given = argument, expected, given

    def __str__(self) -> str:
        return f"{self.argument} is {self.expected}, not {self.given}"


class PluginError(KarborError, TypeError):
    """An object cannot serve as a plugin, or answered with rubbish."""


class ProviderNotFoundError(KarborError, LookupError):
    """No provider of that name was added to the service."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(name, tuple(known))
        self.name, self.known = name, tuple(known)

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"no provider named {describe_value(self.name)} (known: {known})"


class GraphError(KarborError):
    """The resource graph cannot be built."""


class CycleError(GraphError, ValueError):
    """Resources depend on each other in a circle."""

    def __init__(self, cycle: Sequence[ResourceKey]) -> None:
        super().__init__(tuple(cycle))
        self.cycle = tuple(cycle)
        """The cycle's resources in order, each once."""

    def __str__(self) -> str:
        names = [describe_key(key) for key in (*self.cycle, *self.cycle[:1])]
        if len(names) > 12:  # noqa: PLR2004 - a line for a person; the data is in .cycle
            names[6:-5] = [f"... {len(names) - 11} more ..."]
        return f"the resources form a cycle: {' -> '.join(names)}"


class MissingPluginError(GraphError, LookupError):
    """Resource types that no protection plugin of the provider handles."""

    def __init__(self, types: Sequence[str], provider: str = "") -> None:
        super().__init__(tuple(types), provider)
        self.types, self.provider = tuple(types), provider

    def __str__(self) -> str:
        where = f" of provider {self.provider!r}" if self.provider else ""
        return f"no protection plugin{where} handles {', '.join(self.types)}"


class ListingError(GraphError):
    """A protectable plugin's look-up failed; ``__cause__`` says why.

    Attributes:
        resource: Whose dependents were asked for, or what was looked up; None if all were listed.
        is_look_up: Whether *resource* itself was looked up.
    """

    def __init__(
        self,
        resource: ResourceKey | None,
        plugin: str,
        reason: str = "",
        is_look_up: bool = False,
    ) -> None:
        super().__init__(resource, plugin, reason, is_look_up)
        self.resource, self.plugin, self.reason = resource, plugin, reason
        self.is_look_up = is_look_up

    def __str__(self) -> str:
        what = "list resources"
        if self.resource is not None:
            deed = "look up" if self.is_look_up else "list the dependents of"
            what = f"{deed} {describe_key(self.resource)}"
        text = f"{self.plugin} could not {what}"
        return f"{text}: {self.reason}" if self.reason else text


class ProtectableNotFoundError(GraphError, LookupError):
    """No protectable plugin finds resources of a type."""

    def __init__(self, resource_type: str, known: Sequence[str] = ()) -> None:
        super().__init__(resource_type, tuple(known))
        self.resource_type, self.known = resource_type, tuple(known)

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"no protectable plugin finds the type {self.resource_type!r} (known: {known})"


class ResourceNotFoundError(GraphError, LookupError):
    """A resource is not in the graph."""

    def __init__(self, resource: ResourceKey) -> None:
        super().__init__(resource)
        self.resource = resource

    def __str__(self) -> str:
        return f"{describe_key(self.resource)} is not in the resource graph"


class ResourceMissingError(GraphError, LookupError):
    """Resources that a plan names, and that their protectable plugins cannot find."""

    def __init__(self, resources: Sequence[ResourceKey], advice: str = "") -> None:
        super().__init__(tuple(resources), advice)
        self.resources, self.advice = tuple(resources), advice

    def __str__(self) -> str:
        names = ", ".join(map(describe_key, self.resources[:5]))
        more = f" and {len(self.resources) - 5} more" if len(self.resources) > 5 else ""  # noqa: PLR2004
        verb = "does not exist" if len(self.resources) == 1 else "do not exist"
        text = f"{names}{more} {verb}"
        return f"{text}: {self.advice}" if self.advice else text
