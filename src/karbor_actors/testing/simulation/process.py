"""One simulated process: a real service whose actors and hooks run on one thread, in virtual time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from karbor_actors.actors.simulated import SimulatedCrash, SimulatedDispatcher
from karbor_actors.operations.engine import Engine
from karbor_actors.service import ProtectionService
from karbor_actors.testing.simulation.faults import SimulatedFaults
from karbor_actors.testing.simulation.runner import LATEST, SimulatedRunners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykka import ActorRef

    from karbor_actors.limits import Caps
    from karbor_actors.operations.admission.conflicts import LockRequest
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.verb import Verb
    from karbor_actors.testing.fault_rules import Rule
    from karbor_actors.testing.simulation.world import World

MAX_STEPS = 60_000
"""Turns of a process after which it counts as one that never ends."""
MAX_SECONDS = 50_000.0
"""Virtual seconds after which it does."""


class _StillDispatcher(SimulatedDispatcher):
    """A dispatcher that says when nothing can run until time has passed."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.on_still: Callable[[], None] = lambda: None
        """Called before the clock moves."""

    def _jump(self, until: float | None) -> bool:
        due = self._timers.next_due()
        if due is not None and due > self.now():
            self.on_still()
        return super()._jump(until)


class _SimulatedEngine(Engine):
    """An engine that whoever waits for it drives."""

    def __init__(
        self,
        workers: int,
        caps: Caps | None,
        dispatcher: SimulatedDispatcher,
        runners: SimulatedRunners,
        world: World,
    ) -> None:
        super().__init__(
            workers, caps=caps, dispatcher=dispatcher, runners=runners, events=dispatcher
        )
        self._simulated, self._world = dispatcher, world
        self.on_end: Callable[[OperationHandle], None] = lambda _: None
        """Called at the very moment at which an operation is said to have ended."""
        self.controls: dict[str, OperationControl] = {}
        """By operation, from its first hook to its end."""

    def start(self, operation_id: str, verb: Verb, **how: Any) -> OperationHandle:
        """See Engine."""
        self._world.starts[self._world.process, operation_id] += 1
        handle = super().start(operation_id, verb, **how)
        handle.add_done_callback(self._ended)
        return handle

    def acquire(self, operation_id: str, request: LockRequest, ref: ActorRef[Any]) -> bool:
        """See Engine."""
        self._world.queue(operation_id)
        return super().acquire(operation_id, request, ref)

    def release(self, operation_id: str) -> None:
        """See Engine."""
        self._world.leave_queue(operation_id)
        super().release(operation_id)

    def end(self, handle: OperationHandle, verb: Verb, control: OperationControl | None) -> None:
        """See Engine."""
        self._world.release(handle.id)
        self.controls.pop(handle.id, None)
        super().end(handle, verb, control)

    def control_of(self, run: OperationRun, *args: Any) -> OperationControl:
        """See Engine."""
        control = self.controls[run.id] = super().control_of(run, *args)
        return control

    def _ended(self, handle: OperationHandle) -> None:
        self.on_end(handle)

    def _defer(self, fn: Callable[..., object], *args: Any) -> None:
        if fn == self._ended:
            fn(*args)  # no host's code: it looks at what is durable just now
        else:
            super()._defer(fn, *args)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """See Engine; *timeout* is in virtual seconds."""
        dispatcher = self._simulated
        until = None if timeout is None else dispatcher.now() + timeout
        while not self.is_idle and not is_endless(dispatcher) and dispatcher.step(until=until):
            pass
        if dispatcher.is_halted:
            raise SimulatedCrash
        return self.is_idle

    def close(self) -> None:
        """Leave the dispatcher to the process: the banks need it to close."""


def is_endless(dispatcher: SimulatedDispatcher) -> bool:
    """Return whether *dispatcher* has gone on for too long."""
    return dispatcher.steps > MAX_STEPS or dispatcher.now() > MAX_SECONDS


class SimulatedProcess:
    """A service, the dispatcher that runs it, and the faults in it. One thread.

    Args:
        seed: Decides the order of everything and how long it takes.
        rules: What goes wrong.
        world: What outlives it.
        workers: As for the service.
        caps: As for the service.
        latest: As for the runners.
    """

    def __init__(
        self,
        seed: int,
        rules: Sequence[Rule],
        world: World,
        *,
        workers: int = 2,
        caps: Caps | None = None,
        latest: float = LATEST,
    ) -> None:
        self.dispatcher = _StillDispatcher(seed)
        self.faults = SimulatedFaults(rules, seed, self.dispatcher, world)
        rng = random.Random(f"life {seed}")  # noqa: S311 - must replay
        self.runners = SimulatedRunners(self.dispatcher, workers, rng, self.faults, world, latest)
        self.engine = _SimulatedEngine(workers, caps, self.dispatcher, self.runners, world)
        self.service = ProtectionService(workers=workers, engine=self.engine)
        world.now = self.dispatcher.now
        world.is_dead = lambda: self.dispatcher.is_halted

    def run(self, until: float | None = None) -> None:
        """Run until nothing is left to do, or something has gone on for too long."""
        while not is_endless(self.dispatcher) and self.dispatcher.step(until=until):
            pass

    def bury(self) -> None:
        """End the dispatcher, and write what a power cut left; all banks are closed."""
        try:
            if not self.dispatcher.is_halted:
                self.dispatcher.close()
        except TimeoutError:
            if not self.dispatcher.is_halted:  # else it was killed as it closed
                raise
        if self.faults.torn is not None:
            path, data = self.faults.torn
            path.write_bytes(data)
