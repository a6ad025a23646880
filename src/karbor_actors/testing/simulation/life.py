"""One life of a simulated process: from opening the bank to its end, orderly or not."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karbor_actors import faultpoints
from karbor_actors.actors.simulated import SimulatedCrash, SimulatedDispatcher
from karbor_actors.bank.bank import Bank
from karbor_actors.errors import KarborError, describe_cause
from karbor_actors.limits import TimeLimits
from karbor_actors.model import CheckpointStatus, OperationStatus, Plan
from karbor_actors.operations.engine import Engine
from karbor_actors.provider import Provider
from karbor_actors.service import ProtectionService
from karbor_actors.testing.simulation.checker import Violation, check_banks, check_undone
from karbor_actors.testing.simulation.faults import SimulatedFaults
from karbor_actors.testing.simulation.plugins import (
    TYPES,
    SimulatedProtectable,
    SimulatedProtection,
    make_resource,
)
from karbor_actors.testing.simulation.runner import SimulatedRunners
from karbor_actors.testing.simulation.store import SimulatedStore
from karbor_actors.testing.simulation.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.testing.fault_rules import Point
    from karbor_actors.testing.simulation.scenario import Process, Request, Scenario

MAX_STEPS = 60_000
"""Turns of a process after which it counts as one that never ends."""
MAX_SECONDS = 50_000.0
"""Virtual seconds after which it does."""
_LIMITS = TimeLimits(prepare=30, main=60, complete=60, abort=20, max_quiesce=120)
BANKS = ("local", "offsite")


@dataclass
class Lives:
    """What outlives each process of one run."""

    scenario: Scenario
    folder: Path
    world: World = field(default_factory=World)
    stores: dict[str, SimulatedStore] = field(
        default_factory=lambda: {name: SimulatedStore() for name in BANKS}
    )
    batches: list[list[Request]] = field(default_factory=list)
    """What the host still wants."""
    told: dict[str, tuple[OperationStatus, str | None]] = field(default_factory=dict)
    """By protect: how the host was told that it ended, and its checkpoint."""
    deleted: set[str] = field(default_factory=set)
    """The checkpoints that the host asked to be deleted."""
    faults: Counter[str] = field(default_factory=Counter)
    passed: Counter[Point] = field(default_factory=Counter)
    """How often the first process passed each point at which a fault may strike."""
    crashes: int = 0
    violations: list[Violation] = field(default_factory=list)

    def blame(self, invariant: str, sentence: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(invariant, sentence))
        self.world.note(f"WRONG  {invariant}: {sentence}")


class Life:
    """One process. One thread.

    Args:
        lives: What it shares with the others.
        number: Which one it is, from 0.
        process: What goes wrong in it.
        is_last: Whether nothing does, and everything is checked at its end.
    """

    def __init__(self, lives: Lives, number: int, process: Process, *, is_last: bool) -> None:
        self._lives, self._world, self._is_last = lives, lives.world, is_last
        self._scenario = lives.scenario
        seed = lives.scenario.seed * 64 + number
        self._dispatcher = dispatcher = SimulatedDispatcher(seed)
        rules = process.rules if process.crash is None else (process.crash, *process.rules)
        self._faults = SimulatedFaults(rules, seed, dispatcher, lives.world)
        self._rng = random.Random(f"life {seed}")  # noqa: S311 - must replay
        self._banks: list[Bank] = []
        self._handles: list[OperationHandle] = []
        self._has_rules = bool(rules)
        lives.world.process = number
        lives.world.now = dispatcher.now
        lives.world.is_dead = lambda: dispatcher.is_halted
        lives.world.is_pending = self._is_pending

    def run(self) -> None:
        """Live it, and clean up behind it."""
        faultpoints.install(self._faults)
        try:
            self._live()
        except SimulatedCrash:
            pass
        except KarborError as error:
            if not (self._dispatcher.is_halted or self._has_rules):
                self._lives.blame("opens", f"the process could not begin: {describe_cause(error)}")
        finally:
            self._bury()
            faultpoints.remove(self._faults)

    def _is_pending(self, operation: str) -> bool:
        records = [r for bank in self._banks for r in bank.journal.operations()]
        return any(r.id == operation and r.abort_pending for r in records)

    def _live(self) -> None:
        service = self._open()
        self._handles += service.recovered
        self._settle(service)
        while self._lives.batches and not self._dispatcher.is_halted:
            for request in self._lives.batches.pop(0):
                self._ask(service, request)
            self._settle(service)
        if self._is_last and not self._dispatcher.is_halted:
            self._lives.violations += check_banks(self._world, self._banks)

    def _open(self) -> ProtectionService:
        scenario, dispatcher = self._scenario, self._dispatcher
        runners = SimulatedRunners(
            dispatcher, scenario.workers, self._rng, self._faults, self._world
        )
        engine = Engine(
            scenario.workers,
            caps=scenario.caps,
            dispatcher=dispatcher,
            runners=runners,
            events=dispatcher,
        )
        service = ProtectionService(workers=scenario.workers, engine=engine)
        for name in BANKS if self._needs_second else BANKS[:1]:
            bank = Bank.open(
                self._lives.folder / name,
                objects=self._lives.stores[name],
                dispatcher=dispatcher,
            )
            self._banks.append(bank)
            provider = Provider(
                name,
                bank=bank,
                protection_plugins=[SimulatedProtection(self._world, scenario.traits)],
                protectables=[SimulatedProtectable(kind, scenario.children) for kind in TYPES],
                retry={"*": scenario.retry},
                time_limits=_LIMITS,
                recover=scenario.recover,
            )
            service.add_provider(provider)
        return service

    @property
    def _needs_second(self) -> bool:
        return any(request.verb == "copy" for batch in self._scenario.batches for request in batch)

    def _ask(self, service: ProtectionService, request: Request) -> None:
        """Begin what *request* wants, if there is what it wants it of."""
        options: dict[str, Any] = {"on_failure": request.on_failure, "timeout": request.timeout}
        handle: OperationHandle | None = None
        if request.verb == "protect":
            names = self._scenario.plans[request.choice % len(self._scenario.plans)]
            plan = Plan(f"plan-{request.choice}", "local", map(make_resource, names))
            handle = service.protect(plan, **options)
        else:
            handle = self._ask_for_checkpoint(service, request, options)
        if handle is None:
            return
        self._world.label(handle.id, request.verb)
        self._handles.append(handle)
        if request.cancel_after is not None:
            self._dispatcher.call_later(request.cancel_after, lambda: _cancel(handle))

    def _ask_for_checkpoint(
        self, service: ProtectionService, request: Request, options: dict[str, Any]
    ) -> OperationHandle | None:
        wanted = {CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL}
        if request.verb == "delete":
            wanted |= {CheckpointStatus.ERROR, CheckpointStatus.ERROR_DELETING}
        found = self._banks[0].checkpoints(status=wanted)
        if not found:
            return None
        chosen = found[request.choice % len(found)].id
        verb = getattr(service, request.verb)
        more: dict[str, Any] = {"provider": "local"}
        if request.verb == "copy":
            more["to"] = "offsite"
        if request.verb in ("copy", "restore"):
            more["allow_partial"] = True
        if request.verb == "delete":
            self._lives.deleted.add(chosen)
        try:
            handle: OperationHandle = verb(chosen, **options, **more)
        except KarborError as error:  # another operation has changed it since
            self._world.note(f"refused {request.verb}: {type(error).__name__}")
            return None
        return handle

    def _settle(self, service: ProtectionService) -> None:
        """Run until nothing is left to do, and look at what is then."""
        dispatcher = self._dispatcher
        while dispatcher.step():
            if dispatcher.steps > MAX_STEPS or dispatcher.now() > MAX_SECONDS:
                break
        self._note_ends()
        if dispatcher.is_halted:
            return
        for handle in service.operations():
            label = self._world.label(handle.id, str(handle.type))
            when = f"after {dispatcher.steps} turns and {dispatcher.now():.0f} seconds"
            self._lives.blame("ended", f"{label} is {handle.status} {when}")
            dispatcher.halt()
        if dispatcher.steps > MAX_STEPS or dispatcher.now() > MAX_SECONDS:
            self._lives.blame("ended", "something goes on although no operation runs")
            dispatcher.halt()
        if not dispatcher.is_halted:
            self._check_rest()

    def _note_ends(self) -> None:
        for handle in self._handles:
            if not handle.wait(0):
                continue
            label = self._world.label(handle.id, str(handle.type))
            if handle.id not in self._lives.told:
                self._world.note(f"ended  {label} {handle.status}")
                self._lives.told[handle.id] = (handle.status, handle.checkpoint_id)

    def _check_rest(self) -> None:
        """Check what must hold whenever no operation runs."""
        records = {r.id: r for bank in self._banks for r in bank.journal.operations()}
        self._lives.violations += check_undone(self._world, records, is_last=self._is_last)
        for operation, (status, checkpoint_id) in self._lives.told.items():
            record = records.get(operation)
            if status is not OperationStatus.SUCCEEDED or record is None:
                continue
            label = self._world.label(operation, "")
            if record.status is not status:
                self._lives.blame("true", f"{label} was said to be {status}, is {record.status}")
            if record.type == "protect" and checkpoint_id not in self._lives.deleted:
                found = [c for c in self._banks[0].checkpoints() if c.id == checkpoint_id]
                if not found or found[0].status is not CheckpointStatus.AVAILABLE:
                    self._lives.blame("true", f"the checkpoint of {label} is not available")

    def _bury(self) -> None:
        """Close what is open, as the process's end does; write what a power cut left."""
        for bank in reversed(self._banks):
            # A dead process commits nothing more.
            with contextlib.suppress(SimulatedCrash, KarborError):
                bank.close()
        if self._dispatcher.is_halted:
            self._lives.crashes += 1
        else:
            self._dispatcher.close()
        self._lives.passed = self._lives.passed or self._faults.passed
        for fired in self._faults.fired:
            self._lives.faults[f"{fired.rule.point} {fired.rule.action}"] += 1
        if self._faults.torn is not None:
            path, data = self._faults.torn
            path.write_bytes(data)


def _cancel(handle: OperationHandle) -> None:
    handle.cancel()
