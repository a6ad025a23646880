"""The words that everything else is said in: resources, plans, hooks, statuses.

Frozen values, safe from any thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.errors import Fault, PlanError, ResourceKey, describe_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FORBIDDEN_IN_TYPE = re.compile(r"[#/\x00]")


class HookName(StrEnum):
    """The hooks of an Operation."""

    ON_PREPARE_BEGIN = "on_prepare_begin"
    ON_PREPARE_FINISH = "on_prepare_finish"
    ON_MAIN = "on_main"
    ON_COMPLETE = "on_complete"
    ON_ABORT = "on_abort"


HOOKS = (
    HookName.ON_PREPARE_BEGIN,
    HookName.ON_PREPARE_FINISH,
    HookName.ON_MAIN,
    HookName.ON_COMPLETE,
)
"""The four hooks that a resource passes through, in order."""


class OperationType(StrEnum):
    """What the engine does to a graph of resources."""

    PROTECT = "protect"
    RESTORE = "restore"
    VERIFY = "verify"
    COPY = "copy"
    DELETE = "delete"


class CheckpointStatus(StrEnum):
    """Where a checkpoint stands."""

    PROTECTING = "protecting"
    AVAILABLE = "available"
    PARTIAL = "partial"
    ERROR = "error"
    DELETING = "deleting"
    ERROR_DELETING = "error_deleting"
    DELETED = "deleted"
    COPYING = "copying"


class OperationStatus(StrEnum):
    """Where an operation stands."""

    QUEUED = "queued"
    RUNNING = "running"
    ABORTING = "aborting"
    SUSPENDED = "suspended"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the operation has ended for good."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {
        OperationStatus.SUCCEEDED,
        OperationStatus.PARTIAL,
        OperationStatus.FAILED,
        OperationStatus.CANCELLED,
    }
)


class ResourceStatus(StrEnum):
    """Where one resource of an operation, or of a checkpoint, stands."""

    PENDING = "pending"
    AVAILABLE = "available"
    ERROR = "error"
    ABORTED = "aborted"
    ABORT_PENDING = "abort_pending"
    VERIFIED = "verified"
    FAILED = "failed"
    ENGINE_ONLY = "engine_only"
    """Verify: the engine found all records and blocks, and no plugin looked further."""
    EMPTY = "empty"
    """The resource saved nothing, so nothing was verified or copied."""


class OnFailure(StrEnum):
    """What a failing hook does to the rest of its operation."""

    ABORT = "abort"
    ISOLATE = "isolate"


class AbortKind(StrEnum):
    """Why ``on_abort`` runs."""

    FAILURE = "failure"
    TIMEOUT = "timeout"
    CANCEL = "cancel"
    CRASH = "crash"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class AbortReason:
    """What ``on_abort`` is told of why it runs."""

    kind: AbortKind
    error: str = ""
    """The first failure's sentence; empty for a cancel."""
    resource: ResourceKey | None = None
    """The resource whose hook failed, if one did."""
    hook: HookName | None = None


def type_fault(resource_type: object) -> str | None:
    """Return what is wrong with *resource_type* as a resource type, or None."""
    if not isinstance(resource_type, str) or not resource_type:
        return "a resource type is a non-empty string"
    if _FORBIDDEN_IN_TYPE.search(resource_type):
        return f"the resource type {resource_type!r} holds '#', '/' or NUL"
    return None


class Resource:
    """A thing that can be protected; its key is (type, id).

    Immutable and hashable by key: *name* and *extra_info* are not identity, so
    two sightings of one key are equal.

    Args:
        type: The resource type, such as ``OS::Nova::Server``; no ``#``, ``/`` or NUL.
        id: Anything that names it within its type; need not be UTF-8 (surrogateescape).
        name: For people.
        extra_info: Plain data (what msgpack can hold) that a plugin wants to keep.

    Raises:
        PlanError: A type or an id that cannot be one.
    """

    __slots__ = ("extra_info", "id", "key", "name", "type")

    type: str
    id: str
    name: str
    extra_info: Any
    key: ResourceKey

    def __init__(self, type: str, id: str, name: str = "", extra_info: Any = None) -> None:  # noqa: A002 - Karbor's names
        fault = type_fault(type)
        if fault is None and (not isinstance(id, str) or not id):
            fault = f"the id of a {type} is {id!r}, not a non-empty string"
        if fault is not None:
            raise PlanError([Fault("resource", fault)])
        assign = object.__setattr__
        assign(self, "type", type)
        assign(self, "id", id)
        assign(self, "name", name)
        assign(self, "extra_info", extra_info)
        assign(self, "key", (type, id))

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"a Resource is immutable; {name!r} cannot be set"
        raise AttributeError(msg)

    def __delattr__(self, name: str) -> None:
        msg = f"a Resource is immutable; {name!r} cannot be deleted"
        raise AttributeError(msg)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Resource):
            return self.key == other.key
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Resource({self.type!r}, {self.id!r}, {self.name!r})"

    def __str__(self) -> str:
        return describe_key(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Resource, (self.type, self.id, self.name, self.extra_info))

    def to_dict(self) -> dict[str, Any]:
        """Return the four fields as a dict."""
        return {"type": self.type, "id": self.id, "name": self.name, "extra_info": self.extra_info}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the resource that :meth:`to_dict` described."""
        return cls(fields["type"], fields["id"], fields.get("name", ""), fields.get("extra_info"))


Parameters = dict[str, dict[str, Any]]
"""Parameters by resource type, or by ``type#id``."""


@dataclass(frozen=True)
class Plan:
    """What to protect, with which provider and parameters.

    Raises:
        PlanError: Anything malformed; every fault is listed at once.
    """

    name: str
    """For people, and what ``bank.checkpoints(plan=...)`` looks for."""
    provider: str
    """The name of a provider that was added to the service."""
    resources: tuple[Resource, ...]
    """Where the graph starts; dependents are found by the protectable plugins."""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Parameters for protect, by resource type or by ``type#id``."""

    def __init__(
        self,
        name: str,
        provider: str,
        resources: Iterable[Resource],
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        faults = [
            Fault(label, f"must be a non-empty string, not {value!r}")
            for label, value in (("name", name), ("provider", provider))
            if not isinstance(value, str) or not value
        ]
        listed = _listed_resources(resources, faults)
        kept = _checked_parameters(parameters, faults)
        if faults:
            raise PlanError(faults)
        assign = object.__setattr__
        assign(self, "name", name)
        assign(self, "provider", provider)
        assign(self, "resources", listed)
        assign(self, "parameters", MappingProxyType(kept))

    def __reduce__(self) -> tuple[Any, ...]:
        parameters = {key: dict(value) for key, value in self.parameters.items()}
        return (Plan, (self.name, self.provider, self.resources, parameters))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, as a TOML file holds it."""
        return {
            "name": self.name,
            "provider": self.provider,
            "resources": [resource.to_dict() for resource in self.resources],
            "parameters": {key: dict(value) for key, value in self.parameters.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the plan that *data* (from TOML, say) describes.

        Raises:
            PlanError: Anything malformed, unknown fields included; every fault at once.
        """
        known = {"name", "provider", "resources", "parameters"}
        faults = [Fault(str(key), "is not a field of a plan") for key in data if key not in known]
        resources = []
        listed = data.get("resources", [])
        if not isinstance(listed, (list, tuple)):
            faults.append(Fault("resources", "must be a list of tables"))
            listed = []
        for number, fields in enumerate(listed):
            where = f"resources[{number}]"
            if not isinstance(fields, dict):
                faults.append(Fault(where, "must be a table with type and id"))
                continue
            unknown = sorted(map(str, fields.keys() - {"type", "id", "name", "extra_info"}))
            faults.extend(
                Fault(f"{where}.{key}", "is not a field of a resource") for key in unknown
            )
            missing = [key for key in ("type", "id") if key not in fields]
            faults.extend(Fault(f"{where}.{key}", "is missing") for key in missing)
            if not missing:
                try:
                    resources.append(Resource.from_dict(fields))
                except PlanError as error:
                    faults.extend(Fault(where, fault.message) for fault in error.faults)
        try:
            plan = cls(
                data.get("name", ""), data.get("provider", ""), resources, data.get("parameters")
            )
        except PlanError as error:
            if not (faults and not resources):
                faults.extend(error.faults)
            else:
                faults.extend(fault for fault in error.faults if fault.where != "resources")
        if faults:
            raise PlanError(faults)
        return plan


def _listed_resources(resources: object, faults: list[Fault]) -> tuple[Resource, ...]:
    """Return *resources* as a tuple, reporting what is no resource, is listed twice or missing."""
    try:
        listed = tuple(resources)  # type: ignore[arg-type]
    except TypeError:
        faults.append(Fault("resources", "must be a list of Resource objects"))
        return ()
    if not listed:
        faults.append(Fault("resources", "names no resource"))
    seen: set[ResourceKey] = set()
    for number, resource in enumerate(listed):
        if not isinstance(resource, Resource):
            faults.append(Fault(f"resources[{number}]", f"is {resource!r}, not a Resource"))
        elif resource.key in seen:
            faults.append(Fault(f"resources[{number}]", f"{resource} is listed twice"))
        else:
            seen.add(resource.key)
    return listed


def _checked_parameters(parameters: object, faults: list[Fault]) -> dict[str, dict[str, Any]]:
    """Return *parameters* as a dict of dicts, reporting what has another shape."""
    if parameters is None:
        return {}
    try:
        kept = dict(parameters)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        faults.append(Fault("parameters", "must be a table of tables"))
        return {}
    for key, value in kept.items():
        fault = type_fault(key.partition("#")[0] if isinstance(key, str) else key)
        if fault is not None:
            faults.append(Fault(f"parameters[{key!r}]", fault))
        try:
            kept[key] = dict(value)
        except (TypeError, ValueError):
            faults.append(Fault(f"parameters[{key!r}]", "must be a table of fields"))
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a failing hook is tried, and how long to wait in between.

    Raises:
        ValueError: A number out of its range.
    """

    attempts: int = 1
    """Attempts in all; 1 means no retry."""
    backoff: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    max_backoff: float = 60.0
    """Seconds that no wait exceeds."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff < 0 or self.max_backoff < 0:
            msg = "attempts must be at least 1, backoff and max_backoff not negative"
            raise ValueError(msg)

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after *attempt* (1, 2, ...) has failed."""
        return min(self.max_backoff, self.backoff * 2.0 ** min(attempt - 1, 60))
