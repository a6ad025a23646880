"""Where hook bodies run in a simulation: on the dispatcher's own thread, in virtual time.

Between a hook's beginning, its body and its report virtual time passes, and others run. A body
that hangs stands still before it acts, or after: once the engine has given it up, it may go on,
so that a freeze takes effect late.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.hooks.runner import Lane, Runners
from karbor_actors.testing.fault_rules import Action

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from karbor_actors.actors.simulated import SimulatedDispatcher
    from karbor_actors.operations.hooks.worker import Call
    from karbor_actors.testing.fault_rules import Rule
    from karbor_actors.testing.simulation.faults import SimulatedFaults
    from karbor_actors.testing.simulation.world import World

_NEVER = -1.0
_LONG = 10.0
"""Virtual seconds after which a body may be given up: the shortest limit is 20, and pauses count."""
_RETURNS_LATE = 0.7
"""How many of the bodies that were given up return at all."""
LATEST = 400.0
"""Seconds that they take for it at most, if nothing else is said."""


class _Job:
    """One call on its way: a generator that says how long it takes until it goes on."""

    __slots__ = ("_phases", "call", "is_abandoned", "is_hanging", "lane", "runners")

    def __init__(
        self, runners: SimulatedRunners, lane: Lane | None, call: Call, phases: Iterator[float]
    ) -> None:
        self.runners, self.lane, self.call = runners, lane, call
        self._phases = phases
        self.is_abandoned = self.is_hanging = False

    def run(self) -> None:
        """Go on until the next pause; scheduled by the dispatcher."""
        self.is_hanging = False
        self.runners.is_calling = True
        try:
            pause = next(self._phases, None)
        finally:
            self.runners.is_calling = False
        if pause is None:
            self.runners.ended(self)
        elif pause == _NEVER:
            self.is_hanging = True
            if self.is_abandoned:
                self.runners.let_go(self)
        else:
            self.runners.dispatcher.call_later(pause, self.run)


class SimulatedRunners(Runners):
    """A number of workers in each lane, without a thread. One thread: the dispatcher's.

    Args:
        dispatcher: What runs everything.
        workers: Bodies of a lane that run at once.
        rng: Decides how long everything takes.
        faults: What goes wrong in the hooks.
        world: Remembers what they did.
        latest: Seconds that bodies that were given up take to return at most.
    """

    def __init__(
        self,
        dispatcher: SimulatedDispatcher,
        workers: int,
        rng: random.Random,
        faults: SimulatedFaults,
        world: World,
        latest: float = LATEST,
    ) -> None:
        # Not Runners' own: it would make threads.
        self.dispatcher = dispatcher
        self._latest = latest
        self._workers, self._rng, self._faults, self._world = workers, rng, faults, world
        self._queues: dict[Lane, deque[Call]] = {lane: deque() for lane in Lane}
        self._busy = dict.fromkeys(Lane, 0)
        self._jobs: list[_Job] = []
        self.is_calling = False
        """Whether a body runs just now."""

    def waiting(self) -> list[Call]:
        """Return what waits for a worker."""
        return [call for queue in self._queues.values() for call in queue]

    def running(self) -> list[Call]:
        """Return what has a worker, or is on the loop, and was not given up."""
        return [job.call for job in self._jobs if not job.is_abandoned]

    def runs_caller(self) -> bool:
        """See Runners."""
        return self.is_calling

    def submit(self, lane: Lane, calls: Sequence[Call], *, first: bool = False) -> None:
        """See Runners."""
        if first:
            self._queues[lane].extendleft(reversed(calls))
        else:
            self._queues[lane].extend(calls)
        self._fill(lane)

    def submit_async(self, calls: Sequence[Call], *, is_urgent: bool = False) -> None:
        """See Runners."""
        for call in calls:
            self._start(None, call)

    def abandon(self, lane: Lane, call: Call) -> None:
        """See Runners."""
        if call in self._queues[lane]:
            self._queues[lane].remove(call)
        for job in self._jobs:
            if job.call is call and not job.is_abandoned:
                job.is_abandoned = True
                self._leave(job.lane)
                if job.is_hanging:
                    self.let_go(job)
                return

    def look_around(self) -> None:
        """See Runners."""

    def close(self) -> None:
        """See Runners."""

    def ended(self, job: _Job) -> None:
        """Give the worker's place to the next call."""
        self._jobs.remove(job)
        if not job.is_abandoned:
            self._leave(job.lane)

    def let_go(self, job: _Job) -> None:
        """Have a hanging body return after all, or never."""
        if self._rng.random() < _RETURNS_LATE:
            self.dispatcher.call_later(self._rng.random() * self._latest, job.run)

    def _leave(self, lane: Lane | None) -> None:
        if lane is not None:
            self._busy[lane] -= 1
            self._fill(lane)

    def _fill(self, lane: Lane) -> None:
        queue = self._queues[lane]
        while queue and self._busy[lane] < self._workers:
            self._busy[lane] += 1
            self._start(lane, queue.popleft())

    def _start(self, lane: Lane | None, call: Call) -> None:
        phases = self._hook(call) if isinstance(call, Attempt) else self._step(call)
        job = _Job(self, lane, call, phases)
        self._jobs.append(job)
        self.dispatcher.schedule(job)

    def _step(self, call: Call) -> Iterator[float]:
        yield self._a_while()
        call.execute()

    def _hook(self, attempt: Attempt) -> Iterator[float]:
        """Run a hook as ``Attempt.execute`` does, with pauses."""
        world = self._world
        if not attempt.begin():
            return
        world.log(attempt, "begin")
        error: BaseException | None = None
        try:
            yield from self._suffer(self._faults.hook_fault(attempt, "before"))
            yield self._a_while()
            world.log(attempt, "start")
            with world.living(is_late=attempt.is_fenced):
                _drive(attempt.body())
            world.log(attempt, "end")
            yield from self._suffer(self._faults.hook_fault(attempt, "after"))
            yield self._a_while()
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = raised
        if world.is_dead():
            world.log(attempt, "killed")
        elif attempt.is_fenced:
            world.log(attempt, "late")
        else:
            world.log(attempt, "done" if error is None else "failed")
        attempt.end(error)

    def _suffer(self, rule: Rule | None) -> Iterator[float]:
        if rule is None:
            return
        if rule.action is Action.HANG:
            self._world.hung.add(self._world.process)
            yield _NEVER
        elif rule.action is Action.SLOW:
            if rule.seconds > _LONG:
                self._world.hung.add(self._world.process)
            yield rule.seconds
        else:
            self._faults.strike(rule)

    def _a_while(self) -> float:
        """Return how long something takes: mostly no time, so that much happens at once."""
        drawn = self._rng.random()
        return 0.0 if drawn < 0.5 else drawn * drawn * 3  # noqa: PLR2004


def _drive(result: Any) -> None:
    """Run an ``async def`` hook that awaits nothing real.

    Raises:
        RuntimeError: It does: a simulation has no event loop.
    """
    if result is None:
        return
    if not inspect.iscoroutine(result):
        msg = f"a simulation has no event loop for {result!r}"
        raise RuntimeError(msg)
    try:
        result.send(None)
    except StopIteration:
        return
    finally:
        result.close()
    msg = "a hook awaits something real, and a simulation has no event loop"
    raise RuntimeError(msg)
