"""How long hooks may take, and how often they are tried: frozen values."""

from __future__ import annotations

from dataclasses import dataclass, fields

from karbor_actors.model import HookName, RetryPolicy

__all__ = ["ABORT_RETRY", "RetryPolicy", "TimeLimits"]

ABORT_RETRY = RetryPolicy(attempts=3, backoff=0.5, max_backoff=5.0)
"""How often an ``on_abort`` is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Seconds that one attempt of a hook may take; None for no limit.

    Raises:
        ValueError: A limit that is not positive.
    """

    prepare: float | None = 600.0
    """Each of the two prepare hooks."""
    main: float | None = 3600.0
    """The main hook, since it last said ``context.progress(...)``."""
    complete: float | None = 3600.0
    """The complete hook, since it last said ``context.progress(...)``."""
    abort: float | None = 300.0
    """``on_abort``."""
    max_quiesce: float | None = 300.0
    """The critical span of a resource that has an ``on_abort``: from the beginning of its
    prepare hooks to the end of ``held_until``."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not value > 0:
                msg = f"{limit.name} must be more than 0 seconds, or None, not {value!r}"
                raise ValueError(msg)

    def of(self, hook: HookName) -> float | None:
        """Return the limit of one attempt of *hook*."""
        if hook is HookName.ON_MAIN:
            return self.main
        if hook is HookName.ON_COMPLETE:
            return self.complete
        return self.abort if hook is HookName.ON_ABORT else self.prepare
