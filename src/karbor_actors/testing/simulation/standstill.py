"""Whether an operation that is undone waits for others, or a place is kept that nobody uses.

Looked at whenever nothing can run until time has passed: what is to be done at once is done then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.model import HookName
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.steps import Step
from karbor_actors.testing.fault_rules import Action, Point

if TYPE_CHECKING:
    from collections.abc import Iterable

    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.hooks.worker import Call
    from karbor_actors.testing.simulation.process import SimulatedProcess
    from karbor_actors.testing.simulation.world import World

_LATE = (Action.LOSE, Action.DELAY)
"""What keeps a message from being heard at once: the engine looks from time to time whether it was."""


class Standstill:
    """Looks at the operations of a process each time before its clock moves. One thread.

    Args:
        process: The process.
        world: Takes what is wrong.
    """

    def __init__(self, process: SimulatedProcess, world: World) -> None:
        self._engine, self._runners = process.engine, process.runners
        self._faults, self._world = process.faults, world
        process.dispatcher.on_still = self.look

    def look(self) -> None:
        """Look at every operation; not where a message or the bank may be what is waited for."""
        if self._is_disturbed:
            return
        waiting, running = self._runners.waiting(), self._runners.running()
        for handle in self._engine.handles():
            control = self._engine.controls.get(handle.id)
            if self._is_undone(handle, control):
                self._look_at_undone(handle, control, waiting, running)
            if control is not None:
                self._look_at_places(handle, control, [*waiting, *running])

    @property
    def _is_disturbed(self) -> bool:
        return any(
            fired.rule.action in _LATE or fired.rule.point is Point.COMMIT_BEFORE
            for fired in self._faults.fired
        )

    def _is_undone(self, handle: OperationHandle, control: OperationControl | None) -> bool:
        """Return whether it was decided to undo it, and that may begin.

        What began in an earlier process, say, is undone only once its turn has come to have its locks.
        """
        if control is not None:
            return control.reason is not None
        is_queued = (self._world.process, handle.id) in self._world.queued
        has_begun = handle.id in self._world.operations
        return handle.cancel_reason is not None and not (is_queued and has_begun)

    def _look_at_undone(
        self,
        handle: OperationHandle,
        control: OperationControl | None,
        waiting: Iterable[Call],
        running: Iterable[Call],
    ) -> None:
        """Something of it runs, or will be tried again; hooks that wait for a worker do not count.

        An ``on_abort`` may wait for one, and so may its steps: no hook is in the way of those.
        """
        moves = [call for call in waiting if not _is_hook(call)]
        is_moving = any(_is_of(handle, call) for call in (*moves, *running))
        if not is_moving and (control is None or control.retries.is_empty):
            self._blame(handle, "is undone, and stands still until another operation moves")

    def _look_at_places(
        self, handle: OperationHandle, control: OperationControl, calls: Iterable[Call]
    ) -> None:
        """Each place is that of a hook that runs, waits for a worker, or will be tried again."""
        used = sum(_is_of(handle, call) and _is_hook(call) for call in calls)
        may_retry = not (control.schedule.is_closed or control.retries.is_empty)
        if control.intake.places > used and not may_retry:
            self._blame(handle, f"keeps {control.intake.places} places for {used} hooks")

    def _blame(self, handle: OperationHandle, what: str) -> None:
        label = self._world.label(handle.id, str(handle.type))
        self._world.blame("alone", f"{label} {what}")


def _is_of(handle: OperationHandle, call: Call) -> bool:
    """Return whether *call* is *handle*'s operation's own."""
    if isinstance(call, Attempt):
        return call.run.id == handle.id
    return isinstance(call, Step) and call.handle is handle


def _is_hook(call: Call) -> bool:
    return isinstance(call, Attempt) and call.hook is not HookName.ON_ABORT
