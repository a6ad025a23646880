"""What the verbs give back, and how far they are: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from karbor_actors.errors import ResourceKey
    from karbor_actors.model import HookName, OperationStatus, ResourceStatus


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore made."""

    checkpoint_id: str
    new_resources: Mapping[ResourceKey, Any]
    """What the plugins said each original resource became."""
    resources: Mapping[ResourceKey, ResourceStatus]
    """Each resource's status: ``available``, ``empty`` (nothing was saved of it), ``skipped`` (its
    plugin has no restore operation, so that nobody restored it), or what went wrong; what the
    checkpoint does not hold has the status that it has there."""
    reports: Mapping[ResourceKey, tuple[str, str]] = field(default_factory=dict)
    """(status, reason) by (type, new id), where plugins reported them."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was looked at to verify one resource."""

    records: int = 0
    streams: int = 0
    blocks: int = 0
    bytes: int = 0
    """Bytes of content whose digests were compared."""
    errors: tuple[str, ...] = ()
    """One sentence per fault."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a verify found."""

    checkpoint_id: str
    resources: Mapping[ResourceKey, ResourceStatus]
    """``verified`` (by its plugin too), ``engine_only``, ``failed``, ``empty`` (nothing was saved of
    it) or ``skipped`` (nobody looked at what was saved: it is outside of the bank, and no plugin
    verifies it); what the checkpoint does not hold has the status that it has there."""
    evidence: Mapping[ResourceKey, Evidence]


@dataclass(frozen=True, slots=True)
class ResourceProgress:
    """How far one running hook is."""

    resource: ResourceKey
    hook: HookName
    attempt: int
    started_at: float
    """Seconds since the epoch."""
    done: float = 0
    total: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is."""

    status: OperationStatus
    hooks_done: int = 0
    """Hooks that are over, whether they ran or were given up."""
    hooks_total: int = 0
    """Those that the plugins implement: as many as a dry run's ``hook_count``."""
    running: tuple[ResourceProgress, ...] = ()
    """The hooks that run now."""
    failures: tuple[str, ...] = ()
    """One sentence per failure so far."""
    looked_up: int | None = None
    """While it is planned: how many resources have been looked at. None before and after."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in an operation."""

    kind: str
    """``status``, ``hook_started``, ``hook_completed``, ``hook_failed``, ``aborted``,
    ``abort_failed``, ``dropped`` or ``ended``."""
    at: float
    """Seconds since the epoch."""
    resource: ResourceKey | None = None
    hook: HookName | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    """For ``status``: status; for failures: error; for ``dropped``: count."""
