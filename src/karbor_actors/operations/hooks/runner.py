"""The lanes in which calls run, each with places of its own, and the engine's event loop.

Long mains never keep a frozen server waiting for a thaw: they take no place of its lane.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING

from karbor_actors.operations.hooks.event_loop import LoopRunner
from karbor_actors.operations.hooks.lookout import Lookout
from karbor_actors.operations.hooks.pool import Pool
from karbor_actors.operations.hooks.workers import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.actors import ThreadDispatcher
    from karbor_actors.operations.hooks.worker import Call


class Lane(StrEnum):
    """Which workers a call runs on."""

    PREPARE = "prepare"
    MAIN = "main"
    ABORT = "abort"
    PLAN = "plan"
    """Planning of operations: calls plugins, which may hang."""
    RECORD = "record"
    """Opening and closing of operations: waits for the bank only."""


class Runners:
    """One runner per lane, and the event loop; what an engine owns.

    Args:
        workers: Places in each of the lanes prepare, main and abort; where a thaw would
            wait, since all of a lane's hang, it gets up to twice as many.
        name: What the threads' names begin with.
        call_later: Has a function called, so many seconds later, for a :class:`Lookout`.
    """

    PLANNERS = 16
    RECORDERS = 32
    """Those that wait for one commit share it; they do little else."""

    def __init__(
        self,
        workers: int,
        name: str = "karbor",
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        lookout = None if call_later is None else Lookout(call_later)
        pool = Pool()
        self._lanes: dict[Lane, ThreadRunner] = {
            lane: ThreadRunner(
                {Lane.PLAN: self.PLANNERS, Lane.RECORD: self.RECORDERS}.get(lane, workers),
                f"{name}-{lane}",
                lookout=lookout,
                pool=pool,
            )
            for lane in Lane
        }
        if lookout is not None:
            for runner in self._lanes.values():
                lookout.add(runner)
        self._loop = LoopRunner(f"{name}-loop", workers, pool, call_later)

    @property
    def abandoned(self) -> int:
        """How many threads run calls that were given up and have not returned."""
        return self._loop.abandoned + sum(runner.abandoned for runner in self._lanes.values())

    def runs_caller(self) -> bool:
        """Return whether a call of theirs is what calls this: a hook, say."""
        return self._loop.runs_caller() or any(
            runner.runs_caller() for runner in self._lanes.values()
        )

    def look_around(self) -> None:
        """See whether the event loop answers, and whether hung hooks keep a thaw waiting.

        The loop is replaced, and the lanes of what thaws get more workers. Never blocks.
        """
        self._loop.look_around()
        now = time.monotonic()
        for lane in (Lane.PREPARE, Lane.ABORT):
            self._lanes[lane].look_around(now)

    def submit(self, lane: Lane, calls: Sequence[Call], *, first: bool = False) -> None:
        """Queue *calls* on the workers of *lane*, with *first* before all others."""
        self._lanes[lane].submit(calls, first=first)

    def lend(self, dispatcher: ThreadDispatcher) -> bool:
        """Have a worker that sleeps run *dispatcher*'s actors, and then what they plan."""
        return self._lanes[Lane.PLAN].lend(dispatcher)

    def submit_async(self, calls: Sequence[Call], *, is_urgent: bool = False) -> None:
        """Start *calls* on the event loop; urgent ones soon on another, if a hook blocks it."""
        self._loop.submit(calls, is_urgent=is_urgent)

    def abandon(self, lane: Lane, call: Call) -> None:
        """Give up *call*, which takes too long, wherever it runs."""
        self._lanes[lane].abandon(call)
        self._loop.abandon(call)

    def close(self) -> None:
        """Run what is queued, then end every worker."""
        for runner in self._lanes.values():
            runner.close()
        self._loop.close()
