"""How fast the running hooks are, and how long they will take."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from karbor_actors.errors import ResourceKey
    from karbor_actors.operations.results import ResourceProgress

_WINDOW = 10.0
"""Seconds that a rate looks back."""
_STEP = 0.5
"""Seconds between two samples, so that a window holds few."""

_Hook = tuple["ResourceKey", str, int, str]


class Rates:
    """Remembers how far each running hook was in the last seconds. One thread only.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: dict[_Hook, deque[tuple[float, float]]] = {}

    def update(self, running: Iterable[ResourceProgress]) -> None:
        """Note how far the hooks in *running*, all that run now, are."""
        now = self._clock()
        kept: dict[_Hook, deque[tuple[float, float]]] = {}
        for one in running:
            key = _key(one)
            samples = self._samples.get(key) or deque()
            if samples and one.done < samples[-1][1]:
                samples.clear()  # it began to count again
            if not samples or now - samples[-1][0] >= _STEP:
                samples.append((now, one.done))
            while len(samples) > 2 and now - samples[0][0] > _WINDOW:  # noqa: PLR2004 - two make a rate
                samples.popleft()
            kept[key] = samples
        self._samples = kept

    def rate(self, one: ResourceProgress) -> float | None:
        """Return how many units a second a hook does now; None if it is too early to say."""
        samples = self._samples.get(_key(one))
        if not samples:
            return None
        since, done = samples[0]
        seconds = self._clock() - since
        return (one.done - done) / seconds if seconds >= _STEP and one.done > done else None

    def time_left(self, one: ResourceProgress) -> float | None:
        """Return the seconds that a hook still takes; None if nobody knows."""
        rate = self.rate(one)
        if not rate or one.total is None:
            return None
        return max(0.0, one.total - one.done) / rate

    def bytes_per_second(self, running: Iterable[ResourceProgress]) -> float:
        """Return how many bytes a second all hooks together do."""
        return sum(self.rate(one) or 0.0 for one in running if one.unit == "bytes")


def _key(one: ResourceProgress) -> _Hook:
    """Return what tells one count from another: a hook may count pages first, and then bytes."""
    return (one.resource, str(one.hook), one.attempt, one.unit)
