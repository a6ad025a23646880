"""One life of a simulated process: from opening the bank to its end, orderly or not."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from karbor_actors import faultpoints
from karbor_actors.actors.simulated import SimulatedCrash
from karbor_actors.bank.bank import Bank
from karbor_actors.errors import (
    KarborError,
    describe_cause,
)
from karbor_actors.model import CheckpointStatus, OperationStatus, Plan
from karbor_actors.provider import Provider
from karbor_actors.testing.simulation.bounds import LIMITS
from karbor_actors.testing.simulation.checker import (
    check_banks,
    check_pending,
    check_success,
    check_undone,
)
from karbor_actors.testing.simulation.ends import check_made, check_reasons
from karbor_actors.testing.simulation.lookout import BANKS, LETHAL, QUIET, Lookout
from karbor_actors.testing.simulation.plugins import (
    TYPES,
    SimulatedProtectable,
    SimulatedProtection,
    make_resource,
)
from karbor_actors.testing.simulation.process import SimulatedProcess, is_endless
from karbor_actors.testing.simulation.store import SimulatedStore
from karbor_actors.testing.simulation.violation import Violation
from karbor_actors.testing.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.service import ProtectionService
    from karbor_actors.testing.fault_rules import Point
    from karbor_actors.testing.simulation.scenario import Process, Request, Scenario


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

    def note(self, violations: Iterable[Violation]) -> None:
        """Note *violations*."""
        for violation in violations:
            self.blame(*violation)

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
        rules = process.rules if process.crash is None else (process.crash, *process.rules)
        self._closing, self._is_hasty = process.closing, process.is_hasty
        self._process = SimulatedProcess(
            lives.scenario.seed * 64 + number,
            rules,
            lives.world,
            workers=lives.scenario.workers,
            caps=lives.scenario.caps,
            latest=lives.scenario.latest,
        )
        self._dispatcher, self._faults = self._process.dispatcher, self._process.faults
        self._banks: list[Bank] = []
        self._handles: list[OperationHandle] = []
        self._has_rules = bool(rules)
        self._lookout = Lookout(lives, self._process, self._banks)
        lives.world.process = number

    def run(self) -> None:
        """Live it, and clean up behind it."""
        faultpoints.install(self._faults)
        try:
            self._live()
        except SimulatedCrash:
            pass  # the next life finds what this one left
        except KarborError as error:
            if not (self._dispatcher.is_halted or self._has_rules):
                self._lives.blame("opens", f"the process could not begin: {describe_cause(error)}")
        finally:
            self._bury()
            faultpoints.remove(self._faults)

    def _live(self) -> None:
        service = self._open()
        self._handles += service.recovered
        self._world.recovered |= {(self._world.process, h.id) for h in service.recovered}
        for change in self._scenario.changes:
            if change.process == self._world.process:
                change_it = partial(self._world.history.change, change.children)
                self._dispatcher.call_later(change.after, change_it)
        if self._is_hasty:
            self._ask_for_more(service)
        self._settle(service)
        while self._lives.batches and not self._dispatcher.is_halted and not service.operations():
            self._ask_for_more(service)
            self._settle(service)
        if service.operations() and not self._dispatcher.is_halted:
            self._close(service)
        elif self._is_last and not self._dispatcher.is_halted:
            self._lives.violations += check_banks(self._world, self._banks)

    def _ask_for_more(self, service: ProtectionService) -> None:
        """Begin the next batch, if one is left."""
        for request in self._lives.batches.pop(0) if self._lives.batches else ():
            self._ask(service, request)

    def _close(self, service: ProtectionService) -> None:
        """Close the service in the middle of operations, as for a planned downtime."""
        closing = self._closing
        if closing is None:
            return
        self._world.note(f"closing, drain={closing.drain}")
        self._world.closed.add(self._world.process)  # also if it is killed meanwhile
        service.close(drain=closing.drain, timeout=closing.timeout)
        self._note_ends()
        for handle in self._handles:
            if not handle.wait(0):
                label = self._world.label(handle.id, str(handle.type))
                self._lives.blame("ended", f"{label} is {handle.status} after close()")
        records = {}
        for name, bank in zip(BANKS, self._banks, strict=False):
            store = self._lives.stores[name]
            with Bank.open(bank.directory, objects=store, readonly=True) as reader:
                records.update({record.id: record for record in reader.journal.operations()})
        for resource, operation in self._world.frozen:
            record = records.get(operation)
            if record is None or not record.abort_pending:
                label = self._world.label(operation, "")
                self._lives.blame("thawed", f"{resource} stays frozen by {label} after close()")

    def _open(self) -> ProtectionService:
        scenario, dispatcher = self._scenario, self._dispatcher
        service = self._process.service
        is_asked = self._is_last and scenario.recover == "ask"  # and the answer is yes
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
                protectables=[SimulatedProtectable(kind, self._world) for kind in TYPES],
                retry=scenario.policies,
                time_limits=LIMITS,
                recover="resume" if is_asked else scenario.recover,
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
            self._world.history.ask(handle.id, names)
        else:
            handle = self._ask_for_checkpoint(service, request, options)
        if handle is None:
            return
        self._world.label(handle.id, request.verb)
        self._handles.append(handle)
        if request.timeout is not None:
            self._world.timed.add(handle.id)
        if request.cancel_after is not None:
            self._dispatcher.call_later(request.cancel_after, lambda: self._cancel(handle))

    def _cancel(self, handle: OperationHandle) -> None:
        if handle.cancel():
            self._lookout.cancelled.append(handle)
            self._world.cancels[handle.id] = (self._world.process, self._dispatcher.now())

    def _ask_for_checkpoint(
        self, service: ProtectionService, request: Request, options: dict[str, Any]
    ) -> OperationHandle | None:
        wanted = {CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL}
        if request.verb == "delete":
            wanted |= {CheckpointStatus.ERROR, CheckpointStatus.ERROR_DELETING}
        where = min(BANKS.index(request.at), len(self._banks) - 1)
        found = self._banks[where].checkpoints(status=wanted)
        if not found:
            return None
        chosen = found[request.choice % len(found)].id
        verb = getattr(service, request.verb)
        more: dict[str, Any] = {"provider": BANKS[where]}
        if request.verb == "copy":
            more |= {"to": "offsite", "again": request.again}
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
        dispatcher, closing = self._dispatcher, self._closing
        self._process.run(None if closing is None else closing.after)
        self._note_ends()
        if dispatcher.is_halted:
            return
        if closing is not None and not is_endless(dispatcher) and service.operations():
            return  # it is time to close
        for handle in service.operations():
            label = self._world.label(handle.id, str(handle.type))
            when = f"after {dispatcher.steps} turns and {dispatcher.now():.0f} seconds"
            self._lives.blame("ended", f"{label} is {handle.status} {when}")
            dispatcher.halt()
        if is_endless(dispatcher):
            self._lives.blame("ended", "something goes on although no operation runs")
            dispatcher.halt()
        if not dispatcher.is_halted:
            self._check_rest()

    def _note_ends(self) -> None:
        for handle in self._handles:
            if not handle.wait(0):
                continue
            label = self._world.label(handle.id, str(handle.type))
            if handle.id not in self._lives.told and handle.status.is_terminal:
                self._world.note(f"ended  {label} {handle.status}")
                self._lives.told[handle.id] = (handle.status, handle.checkpoint_id)

    def _is_disturbed(self) -> bool:
        """Whether a message or a write has gone wrong in this process."""
        return any(
            fired.rule.point not in QUIET and fired.rule.action not in LETHAL
            for fired in self._faults.fired
        )

    def _check_rest(self) -> None:
        """Check what must hold whenever no operation runs."""
        records = {r.id: r for bank in self._banks for r in bank.journal.operations()}
        self._lives.note(check_made(records, self._banks))
        for record in records.values():
            self._lives.note(check_reasons(self._world.label(record.id, str(record.type)), record))
        self._lives.violations += check_undone(self._world, records, is_last=self._is_last)
        if all(fired.rule.point in QUIET for fired in self._faults.fired):
            self._lives.violations += check_pending(self._world, records)
        for operation, (status, checkpoint_id) in self._lives.told.items():
            found_record = records.get(operation)
            if status is not OperationStatus.SUCCEEDED or found_record is None:
                continue
            label = self._world.label(operation, "")
            self._lives.violations += check_success(self._world, operation)
            if found_record.status is not status:
                what = f"{label} was said to be {status}, is {found_record.status}"
                self._lives.blame("true", what)
            if found_record.type == "protect" and checkpoint_id not in self._lives.deleted:
                found = [c for c in self._banks[0].checkpoints() if c.id == checkpoint_id]
                if not found or found[0].status is not CheckpointStatus.AVAILABLE:
                    self._lives.blame("true", f"the checkpoint of {label} is not available")

    def _bury(self) -> None:
        """Close what is open, as the process's end does; write what a power cut left."""
        for handle in self._handles:
            # A cancel that died with an earlier process is nothing that this one could have decided.
            cancelled_in, _ = self._world.cancels.get(handle.id, (-1, 0.0))
            if cancelled_in == self._world.process and handle.is_decided:
                self._world.decided.setdefault(handle.id, self._world.process)
        for bank in reversed(self._banks):
            # A dead process commits nothing more.
            with contextlib.suppress(SimulatedCrash, KarborError):
                bank.close()
        self._lives.crashes += self._dispatcher.is_halted
        self._process.bury()
        if self._dispatcher.is_halted and self._banks:
            self._lookout.look_at_what_is_left()
        self._lives.passed = self._lives.passed or self._faults.passed
        if self._lookout.is_disturbed:
            self._world.disturbed.add(self._world.process)
        for fired in self._faults.fired:
            if ("actor", "AbortActor") in fired.facts and fired.rule.action not in LETHAL:
                self._world.struck_aborts.add(self._world.process)
            self._lives.faults[f"{fired.rule.point} {fired.rule.action}"] += 1
