"""How long hooks may take, and how many run at once: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf

from karbor_actors.arguments import (
    check_instance,
    checked_count,
    checked_limit,
    names_only_fields,
)
from karbor_actors.model import HOOKS, HookName, RetryPolicy

__all__ = ["ABORT_RETRY", "Caps", "RetryPolicy", "TimeLimits"]

ABORT_RETRY = RetryPolicy(attempts=3, backoff=0.5, max_backoff=5.0)
"""How often an ``on_abort`` is tried."""


@names_only_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How many hooks run at once, over all operations of a service, beside its workers.

    Prepare hooks are counted apart from main and complete hooks, so that long copies never keep
    a freeze waiting; ``on_abort`` is never kept waiting. A hook that waits for its next attempt
    keeps its place.

    Raises:
        ArgumentError: A cap that is no positive int.
        ValueError: One of a hook that there is not.
    """

    types: Mapping[str, int] = field(default_factory=dict)
    """By resource type."""
    hooks: Mapping[str, int] = field(default_factory=dict)
    """By hook name, such as ``"on_main"``."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """By named group: of the hooks of Operations that have the name in ``cap_groups``."""

    def __post_init__(self) -> None:
        for name, caps in (("types", self.types), ("hooks", self.hooks), ("groups", self.groups)):
            check_instance(name, caps, Mapping, "a mapping of names to whole numbers")
            for what, cap in caps.items():
                check_instance(f"a key of {name}", what, str, "a name")
                checked_count(f"{name}[{what!r}]", cap)
        unknown = set(self.hooks) - set(HOOKS)
        if unknown:
            msg = f"there is no hook {min(unknown)!r} to cap; there are {', '.join(HOOKS)}"
            raise ValueError(msg)

    def __bool__(self) -> bool:
        return bool(self.types or self.hooks or self.groups)


@names_only_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Seconds that one attempt of a hook may take; None for no limit.

    Raises:
        ArgumentError: A limit that is not positive, or no number; infinity is None.
    """

    prepare: float | None = 600.0
    """Each of the two prepare hooks."""
    main: float | None = 3600.0
    """The main hook, since it last said ``context.progress(...)`` or moved a stream's data."""
    complete: float | None = 3600.0
    """The complete hook, since the same."""
    abort: float | None = 300.0
    """``on_abort``; one that goes on is waited for as long again, 30 s at most, before the next."""
    max_quiesce: float | None = 300.0
    """The critical span of a resource that has an ``on_abort``: from the beginning of its
    prepare hooks to the end of ``held_until``."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            seconds = checked_limit(limit.name, getattr(self, limit.name))
            object.__setattr__(self, limit.name, seconds)

    def of(self, hook: HookName) -> float | None:
        """Return the limit of one attempt of *hook*."""
        if hook is HookName.ON_MAIN:
            return self.main
        if hook is HookName.ON_COMPLETE:
            return self.complete
        return self.abort if hook is HookName.ON_ABORT else self.prepare

    @property
    def shortest(self) -> float:
        """The shortest of them; infinity if there is none."""
        values = (self.prepare, self.main, self.complete, self.abort, self.max_quiesce)
        return min((value for value in values if value is not None), default=inf)
