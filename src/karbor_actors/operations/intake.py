"""Which ready hooks of one operation get in, and the calls that a turn hands to the workers.

Each lane has a queue and a window of its own, so that long mains do not keep a thaw waiting,
and so that intents are recorded only for hooks that are about to run.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from karbor_actors.operations.hooks import ASYNC
from karbor_actors.operations.runner import Lane
from karbor_actors.schedule import HOOKS_PER_RESOURCE, MAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from karbor_actors.operations.call import HookCall
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.runner import Runners

WINDOW = 1024
"""Plain hooks of one lane that are in at once, when no resource has an abort."""


class Intake:
    """The queues of one operation. The control thread only.

    Args:
        planned: The operation.
        runners: Where calls go.
        workers: Threads per lane; twice as many hooks are in where an abort could be needed.
    """

    def __init__(self, planned: PlannedOperation, runners: Runners, workers: int) -> None:
        self._kinds, self._runners = planned.hook_kinds, runners
        self._window = 2 * workers if any(planned.abort_kinds) else WINDOW
        lanes: tuple[Lane | None, ...] = (Lane.PREPARE, Lane.MAIN, None)
        self._ready: dict[Lane | None, deque[int]] = {lane: deque() for lane in lanes}
        """By lane; None: the event loop, which takes thousands."""
        self._inside = dict.fromkeys(lanes, 0)
        self._calls: dict[Lane | None, list[HookCall]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no hook waits to get in."""
        return not any(self._ready.values())

    def lane(self, hook: int) -> Lane | None:
        """Return whose workers run *hook*; None means the event loop."""
        if self._kinds[hook] == ASYNC:
            return None
        return Lane.PREPARE if hook % HOOKS_PER_RESOURCE < MAIN else Lane.MAIN

    def add(self, hooks: Iterable[int]) -> None:
        """Queue hooks that may run."""
        for hook in hooks:
            self._ready[self.lane(hook)].append(hook)

    def admit(self) -> Iterator[int]:
        """Yield the hooks that get in now."""
        for lane, ready in self._ready.items():
            while ready and (lane is None or self._inside[lane] < self._window):
                self._inside[lane] += 1
                yield ready.popleft()

    def leave(self, hook: int) -> None:
        """Make room for another hook in the lane of *hook*, which was in."""
        self._inside[self.lane(hook)] -= 1

    def clear(self) -> list[int]:
        """Turn all that waits away; return it."""
        waiting = [hook for ready in self._ready.values() for hook in ready]
        for ready in self._ready.values():
            ready.clear()
        return waiting

    def add_call(self, call: HookCall, lane: Lane | None) -> None:
        """Gather *call* for the workers of *lane*; None: for the event loop."""
        self._calls.setdefault(lane, []).append(call)

    def hand_on(self) -> None:
        """Give the calls that were gathered to the workers."""
        gathered, self._calls = self._calls, {}
        for lane, calls in gathered.items():
            if lane is None:
                self._runners.submit_async(calls)
            else:
                self._runners.submit(lane, calls)

    def abandon(self, call: HookCall) -> None:
        """Give up *call*, wherever it runs."""
        self._runners.abandon(call.lane, call)
