"""The words that everything else is said in: resources, plans, hooks, statuses.

Frozen values, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.arguments import FOR_EVER, checked_count, checked_limit, names_only_fields
from karbor_actors.errors import Fault, PlanError, describe_key, describe_value
from karbor_actors.plain import checked_parameters, copy_plain, frozen, text_fault, type_fault

if TYPE_CHECKING:
    from karbor_actors.errors import ResourceKey


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
    """Nothing was saved of the resource, so there is nothing to restore, verify or copy."""
    SKIPPED = "skipped"
    """Something of it was saved, but no plugin, nor the engine, restored, verified or copied it."""


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

    def describe(self) -> str:
        """Return the reason in one line."""
        where = "" if self.resource is None else f"{describe_key(self.resource)}: "
        return f"{where}{self.error or self.kind}"


_RESOURCE_FIELDS = ("type", "id", "name", "extra_info")


class Resource:
    """A thing that can be protected; its key is (type, id).

    Immutable and hashable by key: *name* and *extra_info* are not identity, so
    two sightings of one key are equal.

    Args:
        type: The resource type, such as ``OS::Nova::Server``; no ``#``, ``/`` or NUL.
        id: Anything that names it within its type; need not be UTF-8 (surrogateescape).
        name: For people.
        extra_info: Plain data (what msgpack can hold) for a plugin; copied, and cannot be changed.

    Raises:
        PlanError: A field that cannot be one; every fault at once.
    """

    __slots__ = ("extra_info", "id", "key", "name", "type")

    type: str
    id: str
    name: str
    extra_info: Any
    key: ResourceKey

    def __init__(
        self,
        type: str,  # noqa: A002 - Karbor's names
        id: str,  # noqa: A002
        name: str | None = "",
        extra_info: Any = None,
    ) -> None:
        faults = []
        if (fault := type_fault(type)) is not None:
            faults.append(Fault("resource.type", fault))
        if (fault := text_fault(id)) is not None:
            faults.append(Fault("resource.id", fault))
        if name is None or name == "":
            name = ""  # what has no name often has None for it
        elif (fault := text_fault(name)) is not None:
            faults.append(Fault("resource.name", fault))
        if extra_info is not None:
            extra_info = frozen(copy_plain(extra_info, "resource.extra_info", faults))
        if faults:
            raise PlanError(faults)
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
        """Return the four fields as a dict, plain data of its own."""
        info = copy_plain(self.extra_info, "resource.extra_info", [])
        return {"type": self.type, "id": self.id, "name": self.name, "extra_info": info}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the resource that :meth:`to_dict` described.

        Raises:
            PlanError: A missing, unknown or malformed field; every fault at once.
        """
        if not isinstance(fields, Mapping):
            raise PlanError([Fault("resource", "must be a table with type and id")])
        faults = [
            Fault(f"resource.{key}", "is not a field of a resource")
            for key in fields
            if key not in _RESOURCE_FIELDS
        ]
        try:
            resource = cls(
                fields.get("type", ""),
                fields.get("id", ""),
                fields.get("name", ""),
                fields.get("extra_info"),
            )
        except PlanError as error:
            faults.extend(error.faults)
        if faults:
            raise PlanError(faults)
        return resource


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
            Fault(label, fault)
            for label, value in (("name", name), ("provider", provider))
            if (fault := text_fault(value)) is not None
        ]
        listed = _listed_resources(resources, faults)
        kept = checked_parameters(parameters, faults)
        if faults:
            raise PlanError(faults)
        assign = object.__setattr__
        assign(self, "name", name)
        assign(self, "provider", provider)
        assign(self, "resources", listed)
        assign(self, "parameters", frozen(kept))

    def __hash__(self) -> int:
        return hash((self.name, self.provider, self.resources))

    def __reduce__(self) -> tuple[Any, ...]:
        parameters = {key: dict(fields) for key, fields in self.parameters.items()}
        return (Plan, (self.name, self.provider, self.resources, parameters))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data of its own, as a TOML file holds it."""
        return {
            "name": self.name,
            "provider": self.provider,
            "resources": [resource.to_dict() for resource in self.resources],
            "parameters": copy_plain(self.parameters, "parameters", []),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the plan that *data* (from TOML, say) describes.

        Raises:
            PlanError: Anything malformed, unknown fields included; every fault at once.
        """
        if not isinstance(data, Mapping):
            raise PlanError([Fault("plan", f"must be a table, not {describe_value(data)}")])
        faults = [Fault(str(key), "is not a field of a plan") for key in data if key not in _FIELDS]
        resources = _described_resources(data.get("resources", ()), faults)
        try:
            plan = cls(
                data.get("name", ""), data.get("provider", ""), resources, data.get("parameters")
            )
        except PlanError as error:
            # A list whose every entry is malformed is reported as that, not as empty.
            empty = not resources and bool(data.get("resources"))
            faults.extend(f for f in error.faults if not (empty and f.where == "resources"))
        if faults:
            raise PlanError(faults)
        return plan


_FIELDS = frozenset({"name", "provider", "resources", "parameters"})


def _described_resources(described: object, faults: list[Fault]) -> list[Resource]:
    """Return the resources that a list of tables describes, reporting what is malformed."""
    if not isinstance(described, (list, tuple)):
        faults.append(Fault("resources", "must be a list of tables"))
        return []
    resources = []
    for number, fields in enumerate(described):
        try:
            resources.append(Resource.from_dict(fields))
        except PlanError as error:
            where = f"resources[{number}]"
            faults.extend(
                Fault(where + fault.where.removeprefix("resource"), fault.message)
                for fault in error.faults
            )
    return resources


def _listed_resources(resources: object, faults: list[Fault]) -> tuple[Resource, ...]:
    """Return *resources* as a tuple, reporting what is no resource, is listed twice or missing."""
    if not isinstance(resources, Iterable) or isinstance(resources, (str, bytes, Mapping)):
        faults.append(Fault("resources", "must be a list of Resource objects"))
        return ()
    listed = tuple(resources)
    if not listed:
        faults.append(Fault("resources", "names no resource"))
    seen: set[ResourceKey] = set()
    for number, resource in enumerate(listed):
        if not isinstance(resource, Resource):
            fault = f"is {describe_value(resource)}, not a Resource"
            faults.append(Fault(f"resources[{number}]", fault))
        elif resource.key in seen:
            faults.append(Fault(f"resources[{number}]", f"{resource} is listed twice"))
        else:
            seen.add(resource.key)
    return listed


@names_only_fields
@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failing hook is tried, and how long to wait in between.

    Raises:
        ArgumentError: No number, or one out of its range.
    """

    attempts: int = 1
    """Attempts in all; 1 means no retry."""
    backoff: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    max_backoff: float = 60.0
    """Seconds that no wait exceeds."""

    def __post_init__(self) -> None:
        checked_count("attempts", self.attempts)
        for name in ("backoff", "max_backoff"):
            seconds = checked_limit(name, getattr(self, name), positive=False, or_none=False)
            object.__setattr__(self, name, FOR_EVER if seconds is None else seconds)

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after *attempt* (1, 2, ...) has failed."""
        return min(self.max_backoff, self.backoff * 2.0 ** min(attempt - 1, 60))
