"""What must hold at every moment of a process: looked at as it happens."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from karbor_actors.bank.bank import Bank
from karbor_actors.bank.journal.records import replay
from karbor_actors.errors import (
    CheckpointNotFoundError,
    CheckpointStateError,
    OperationNotFoundError,
)
from karbor_actors.model import CheckpointStatus, HookName, OperationStatus
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.testing.fault_rules import Action, Point
from karbor_actors.testing.simulation.ends import check_told
from karbor_actors.testing.simulation.locks import check_refusal
from karbor_actors.testing.simulation.standstill import Standstill

if TYPE_CHECKING:
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.testing.simulation.life import Lives
    from karbor_actors.testing.simulation.process import SimulatedProcess

BANKS = ("local", "offsite")
"""The names of the providers, and of their banks."""
QUIET = (Point.HOOK_BEFORE, Point.HOOK_AFTER)
"""Where the faults of hooks strike, which is nothing that the engine could not bear in full."""
LETHAL = (Action.KILL, Action.POWER_CUT)
"""What ends a process."""
_GOOD = (CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL)


class Lookout:
    """Compares what a process does with what is durable at that moment. One thread.

    Args:
        lives: Takes what is wrong.
        process: The process.
        banks: Those that it has open; added to from outside.
    """

    def __init__(self, lives: Lives, process: SimulatedProcess, banks: list[Bank]) -> None:
        self._lives, self._world, self._banks = lives, lives.world, banks
        self._engine, self._faults = process.engine, process.faults
        self._runners = process.runners
        self._engine.on_end = self.look_at_end
        self._world.is_pending = self.is_pending
        self._world.on_commit = self.look_at_cancels
        self.cancelled: list[OperationHandle] = []
        """Operations that were cancelled, and do not say yet that this is decided."""
        self._world.is_undo_recorded = self.is_undo_recorded
        self._standstill = Standstill(process, lives.world)
        for name, store in lives.stores.items():
            store.on_manifest = partial(self.look_at_manifest, name)

    @property
    def is_disturbed(self) -> bool:
        """Whether a message or a write has gone wrong in this process."""
        return any(
            fired.rule.point not in QUIET and fired.rule.action not in LETHAL
            for fired in self._faults.fired
        )

    def is_pending(self, operation: str) -> bool:
        """Return whether an operation has ended and left something to be undone."""
        records = [r for bank in self._banks for r in bank.journal.operations()]
        return any(r.id == operation and r.abort_pending for r in records)

    def is_undo_recorded(self, operation: str, resource: int | None) -> bool:
        """Return whether the journal says that *resource*, or all, is undone, or may be unable to."""
        if self.is_disturbed:
            return True
        for bank in self._banks:
            with contextlib.suppress(OperationNotFoundError):
                number = bank.journal.get(operation).number
                decisions = replay(bank.journal.read(number)).decisions
                return any(d.resources is None or resource in d.resources for d in decisions)
        return False

    def look_at_cancels(self) -> None:
        """A cancel is decided once that is durable, unless nothing of the operation runs any more."""
        for handle in [handle for handle in self.cancelled if handle.is_decided]:
            self.cancelled.remove(handle)
            if self._runs(handle.id) and not self.is_undo_recorded(handle.id, None):
                label = self._world.label(handle.id, str(handle.type))
                self._lives.blame("decided", f"{label} counts as cancelled before it is recorded")

    def _runs(self, operation: str) -> bool:
        """Return whether a hook of *operation* has begun, and neither ended nor been given up."""
        return any(
            isinstance(call, Attempt)
            and call.run.id == operation
            and call.hook is not HookName.ON_ABORT
            and call.began_at is not None
            for call in self._runners.running()
        )

    def look_at_end(self, handle: OperationHandle) -> None:
        """Compare what is said of an operation's end with what is durable at that moment."""
        if handle.status.is_terminal:
            if handle.status in (OperationStatus.FAILED, OperationStatus.CANCELLED):
                self._world.failures.add((self._world.process, handle.id))
            label = self._world.label(handle.id, str(handle.type))
            record: OperationRecord | None = None
            for bank in self._banks:
                with contextlib.suppress(OperationNotFoundError):
                    record = bank.journal.get(handle.id)
            self._lives.note(
                check_told(label, handle.status, record, must_be=not self.is_disturbed)
            )
            is_made = handle.type == "protect" and handle.status is OperationStatus.SUCCEEDED
            if is_made and not self._lives.stores["local"].has_manifest(handle.checkpoint_id or ""):
                self._lives.blame("marked", f"{label} succeeded, and its manifest is not there")
            if isinstance(handle.exception(0), CheckpointStateError):
                refused = str(handle.type), handle.checkpoint_id or ""
                running = [other.id for other in self._engine.handles()]
                self._lives.note(check_refusal(self._world, handle.id, refused, running))

    def look_at_manifest(self, name: str, checkpoint_id: str) -> None:
        """A checkpoint whose manifest comes now is not available yet."""
        for bank in self._banks[BANKS.index(name) : BANKS.index(name) + 1]:
            with contextlib.suppress(CheckpointNotFoundError):
                status = bank.checkpoint(checkpoint_id).status
                if status in _GOOD:
                    self._lives.blame(
                        "marked", f"a checkpoint is {status} before its manifest is there"
                    )

    def look_at_what_is_left(self) -> None:
        """Look at the banks as the dead process left them: each good checkpoint has its manifest."""
        for name, bank in zip(BANKS, self._banks, strict=False):
            store = self._lives.stores[name]
            with Bank.open(bank.directory, objects=store, readonly=True) as reader:
                for checkpoint in reader.checkpoints(status=_GOOD):
                    if not store.has_manifest(checkpoint.id):
                        what = f"a checkpoint is {checkpoint.status}, and has no manifest"
                        self._lives.blame("marked", what)
