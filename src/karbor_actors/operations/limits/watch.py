"""Which hooks have taken too long: kept by the control thread, asked with the time."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from karbor_actors.operations.hooks.attempt import PREPARE_HOOKS, Attempt
from karbor_actors.operations.recovery.suspension import span_end
from karbor_actors.schedule import HOOKS_PER_RESOURCE, PREPARE_FINISH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from karbor_actors.limits import TimeLimits
    from karbor_actors.model import HookName
    from karbor_actors.operations.planning import PlannedOperation

_SOONEST = 0.01
"""Seconds between two looks at the least."""


class Watch:
    """The bodies that run and the resources that are held, with their limits.

    Args:
        planned: The operation.
        limits: Returns the limits of a resource type.
    """

    def __init__(self, planned: PlannedOperation, limits: Callable[[str], TimeLimits]) -> None:
        self._planned = planned
        self._limits = {kind: limits(kind) for kind in planned.graph.types}
        self._shortest = min((each.shortest for each in self._limits.values()), default=inf)
        self._attempts: dict[int, Attempt] = {}
        """By hook number."""
        self.held: dict[int, float] = {}
        """Since when each resource is held that is, by the engine's clock, or is about to be."""
        self._holders: dict[int, Attempt] = {}
        """By resource, what began to hold it, or will: one that waits for a worker holds nothing yet."""
        self.soonest = inf
        """No hook is overdue before then, by the engine's clock."""

    def begin(self, attempt: Attempt, now: float) -> None:
        """Watch *attempt*, which was handed to a worker at *now*."""
        self._attempts[attempt.hook_number] = attempt
        if now + self._shortest < self.soonest:  # noqa: PLR1730 - too soon, often; but cheap
            self.soonest = now + self._shortest
        resource, holds = attempt.resource, attempt.hook in PREPARE_HOOKS
        if holds and self._planned.abort_kinds[resource] and resource not in self.held:
            self.held[resource], self._holders[resource] = now, attempt

    def hold(self, resources: Iterable[int], now: float) -> None:
        """Watch *resources*, which an earlier process held: their time counts from *now* on."""
        self.held.update(dict.fromkeys(resources, now))
        self.look_again(now)

    @property
    def is_clear(self) -> bool:
        """Whether no body runs, or waits for a worker."""
        return not self._attempts

    def running(self) -> list[Attempt]:
        """Return the attempts that run, or wait for a worker."""
        return list(self._attempts.values())

    def ended(self, hook_number: int) -> Attempt | None:
        """Watch a body no more; return its attempt."""
        return self._attempts.pop(hook_number, None)

    def completed(self, hook: int) -> None:
        """Note that *hook* completed: its resource is held no more, if that was the span's end."""
        resource, kind = divmod(hook, HOOKS_PER_RESOURCE)
        if resource in self.held and kind >= self._last_of_span(resource):
            self.released(resource)

    def released(self, resource: int) -> None:
        """Note that *resource* was undone."""
        self.held.pop(resource, None)
        self._holders.pop(resource, None)

    def overdue(self, now: float) -> list[Attempt]:
        """Return the attempts that have taken too long; they are watched no more."""
        late = [attempt for attempt in self._attempts.values() if self._left(attempt, now) <= 0]
        for attempt in late:
            self.ended(attempt.hook_number)
        return late

    def held_too_long(self, now: float) -> list[int]:
        """Return the resources whose critical span has taken too long, once each."""
        late = [r for r, since in self.held.items() if self._left_held(r, since, now) <= 0]
        for resource in late:
            self.released(resource)
        return late

    def look_again(self, now: float) -> None:
        """Find out anew when something could be overdue."""
        waits = [self._left(attempt, now) for attempt in self._attempts.values()]
        waits += [self._left_held(r, since, now) for r, since in self.held.items()]
        self.soonest = now + max(min(waits, default=inf), _SOONEST)

    def limit_of(self, resource: int, hook: HookName) -> float | None:
        """Return how many seconds an attempt of that hook may take; None for no limit."""
        return self._limits_of(resource).of(hook)

    def _left(self, attempt: Attempt, now: float) -> float:
        limit = self.limit_of(attempt.resource, attempt.hook)
        if limit is None:
            return inf
        # One that waits for a worker has all its time: it has not begun.
        return limit if attempt.alive_at is None else attempt.alive_at + limit - now

    def _left_held(self, resource: int, since: float, now: float) -> float:
        limit = self._limits_of(resource).max_quiesce
        if limit is not None and (holder := self._holders.get(resource)) is not None:
            since = now if holder.began_at is None else holder.began_at
        return inf if limit is None else since + limit - now

    def _limits_of(self, resource: int) -> TimeLimits:
        return self._limits[self._planned.graph.nodes[resource].type]

    def _last_of_span(self, resource: int) -> int:
        """Return which hook ends the resource's critical span."""
        end = span_end(self._planned, resource)
        return PREPARE_FINISH if end is None else end % HOOKS_PER_RESOURCE
