"""Which hooks have taken too long: kept by the control thread, asked with the time."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from karbor_actors.model import HOOKS, HookName
from karbor_actors.operations.suspension import span_end
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.limits import TimeLimits
    from karbor_actors.operations.call import HookCall
    from karbor_actors.operations.planning import PlannedOperation

_PREPARE = frozenset({HookName.ON_PREPARE_BEGIN, HookName.ON_PREPARE_FINISH})
_SOONEST = 0.01
"""Seconds between two looks at the least."""


class Watch:
    """The bodies that run and the resources that are held, with their limits.

    Args:
        planned: The operation.
        limits: Returns the limits of a resource type.
    """

    def __init__(self, planned: PlannedOperation, limits: Callable[[str], TimeLimits]) -> None:
        self._planned, self._limits = planned, limits
        self._calls: dict[tuple[int, HookName], HookCall] = {}
        self._held: dict[int, float] = {}
        self._known: dict[str, TimeLimits] = {}
        self.soonest = inf
        """No hook is overdue before then, by the engine's clock."""

    def begin(self, call: HookCall, now: float) -> None:
        """Watch *call*, which was handed to a worker at *now*."""
        resource, hook = call.attempt.resource, call.attempt.hook
        self._calls[resource, hook] = call
        limits = self._limits_of(resource)
        limit = limits.of(hook)
        if limit is not None and now + limit < self.soonest:
            self.soonest = now + limit
        if self._planned.abort_kinds[resource] and hook in _PREPARE:
            self._held.setdefault(resource, now)
            if limits.max_quiesce is not None:
                self.soonest = min(self.soonest, self._held[resource] + limits.max_quiesce)

    @property
    def is_clear(self) -> bool:
        """Whether no body runs, or waits for a worker."""
        return not self._calls

    def running(self) -> list[HookCall]:
        """Return the calls that run, or wait for a worker."""
        return list(self._calls.values())

    def ended(self, resource: int, hook: HookName) -> HookCall | None:
        """Watch a body no more; return its call."""
        return self._calls.pop((resource, hook), None)

    def completed(self, resource: int, hook: HookName) -> None:
        """Note that *hook* completed: the resource is held no more, if that was its end."""
        if resource in self._held and HOOKS.index(hook) >= self._last_of_span(resource):
            del self._held[resource]

    def released(self, resource: int) -> None:
        """Note that *resource* was undone."""
        self._held.pop(resource, None)

    def overdue(self, now: float) -> list[HookCall]:
        """Return the calls that have taken too long; they are watched no more."""
        late = [call for call in self._calls.values() if self._left(call, now) <= 0]
        for call in late:
            self.ended(call.attempt.resource, call.attempt.hook)
        return late

    def held_too_long(self, now: float) -> list[int]:
        """Return the resources whose critical span has taken too long, once each."""
        late = [r for r, since in self._held.items() if self._left_held(r, since, now) <= 0]
        for resource in late:
            del self._held[resource]
        return late

    def look_again(self, now: float) -> None:
        """Find out anew when something could be overdue."""
        waits = [self._left(call, now) for call in self._calls.values()]
        waits += [self._left_held(r, since, now) for r, since in self._held.items()]
        self.soonest = now + max(min(waits, default=inf), _SOONEST)

    def _left(self, call: HookCall, now: float) -> float:
        attempt = call.attempt
        limit = self._limits_of(attempt.resource).of(attempt.hook)
        if limit is None:
            return inf
        # One that waits for a worker has all its time: it has not begun.
        return limit if attempt.alive_at is None else attempt.alive_at + limit - now

    def _left_held(self, resource: int, since: float, now: float) -> float:
        limit = self._limits_of(resource).max_quiesce
        return inf if limit is None else since + limit - now

    def _limits_of(self, resource: int) -> TimeLimits:
        resource_type = self._planned.graph.nodes[resource].type
        known = self._known.get(resource_type)
        if known is None:
            known = self._known[resource_type] = self._limits(resource_type)
        return known

    def _last_of_span(self, resource: int) -> int:
        """Return which hook ends the resource's critical span."""
        end = span_end(self._planned, resource)
        return HOOKS.index(HookName.ON_PREPARE_FINISH) if end is None else end % HOOKS_PER_RESOURCE
