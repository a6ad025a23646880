"""Faults in a simulation: the same plan, but what kills the process halts a dispatcher."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from karbor_actors import faultpoints
from karbor_actors.actors.simulated import SimulatedCrash
from karbor_actors.testing.fault_rules import ACTIONS, Action, Point, Rule
from karbor_actors.testing.faults import FaultPlan, hook_facts

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from karbor_actors.actors.simulated import SimulatedDispatcher
    from karbor_actors.testing.simulation.world import World


class SimulatedFaults(FaultPlan):
    """A fault plan for one simulated process.

    Args:
        rules: What goes wrong.
        seed: For their probabilities.
        dispatcher: What a crash halts.
        world: What outlives it.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        seed: int,
        dispatcher: SimulatedDispatcher,
        world: World,
    ) -> None:
        super().__init__(rules, seed)
        self._dispatcher, self._world = dispatcher, world
        self.passed: Counter[Point] = Counter()
        """How often each point was passed."""
        self.torn: tuple[Path, bytes] | None = None
        """What a power cut left of the records, to be written once they are closed."""

    def hook_fault(self, attempt: Any, when: str) -> Rule | None:
        """Return what goes wrong around a hook's body; the runner does it."""
        point = Point.HOOK_BEFORE if when == "before" else Point.HOOK_AFTER
        self.passed[point] += 1
        rule = self.draw(point, hook_facts(attempt)) if point in self._at else None
        if rule is not None:
            self._world.note(f"FAULT  {point} {rule.action}")
        return rule

    def strike(self, rule: Rule) -> None:
        """Do what *rule* says, where it takes no time."""
        self._strike(rule)
        if self._dispatcher.is_halted:
            raise SimulatedCrash

    def on_message(self, actor: Any, message: Any) -> Any:
        """See Injector."""
        fired = len(self.fired)
        self.passed[Point.MESSAGE] += 1
        try:
            given = super().on_message(actor, message)
        finally:
            if len(self.fired) != fired:
                self._world.note(f"FAULT  {self.fired[-1]}")
        return faultpoints.NOTHING if self._dispatcher.is_halted else given

    def on_commit(self, path: str, when: str) -> None:
        """See Injector."""
        if when == "before":
            if self._dispatcher.is_halted:
                raise lmdb.Error("the simulated process is dead")
            self.passed[Point.COMMIT_BEFORE] += 1
            self._world.note(f"commit {self.passed[Point.COMMIT_BEFORE]}")
            self._world.on_commit()
        else:
            self.passed[Point.COMMIT_AFTER] += 1
        fired = len(self.fired)
        try:
            super().on_commit(path, when)
        finally:
            if len(self.fired) != fired:
                self._world.note(f"FAULT  {self.fired[-1].rule.point} {self.fired[-1].rule.action}")
        if when == "before" and self._dispatcher.is_halted:
            raise lmdb.Error("the simulated process was killed")
        is_torn = self.torn is not None  # this commit: a power cut ends its process
        if when == "after" and not is_torn and Path(path).parent.name == "local":
            self._world.commits.append((self._world.process, len(self._world.entries)))

    def on_put(self, name: str, when: str) -> None:
        """See Injector."""
        if self._dispatcher.is_halted:
            raise SimulatedCrash
        self.passed[Point.PUT_BEFORE if when == "before" else Point.PUT_AFTER] += 1
        super().on_put(name, when)
        if self._dispatcher.is_halted:
            raise SimulatedCrash

    def wait(self, seconds: float) -> None:
        """Let the machine stand still."""
        self._world.stalled.add(self._world.process)
        self._dispatcher.stall(seconds)

    def kill(self) -> None:
        """End the simulated process."""
        self._world.note("CRASH")
        self._dispatcher.halt()

    def cut_power(self, file: Path, left: bytes) -> None:
        """End the simulated process; *left* is written once it has closed the records."""
        self.torn = file, left
        self.kill()


def draw_rules(rng: random.Random) -> list[Rule]:
    """Return what goes wrong in one run: each fault is active by chance, at some rate."""
    rules = []
    for point, action, rate, where in _POOL:
        if rng.random() < _ACTIVE:
            rules.append(
                Rule(
                    point,
                    action,
                    where=where,
                    probability=rate * rng.choice((0.3, 1.0, 2.0)),
                    times=rng.choice((1, 2, 5, None)),
                    seconds=rng.choice((0.1, 2.0, 15.0, 90.0)),
                )
            )
    rng.shuffle(rules)
    return rules


def draw_crash(rng: random.Random, haste: int = 2) -> Rule:
    """Return where a process is killed, or loses its power.

    Args:
        rng: Decides.
        haste: 1 for anywhere alike; the higher, the sooner.
    """
    point, reach = rng.choice(_CRASHES)
    nth = 1 + int(rng.random() ** haste * reach)
    is_cut = rng.random() < 0.5 and Action.POWER_CUT in ACTIONS[point]  # noqa: PLR2004
    return Rule(point, Action.POWER_CUT if is_cut else Action.KILL, nth=nth)


_ACTIVE = 0.12
_ON_ABORT = {"hook": "on_abort"}
_POOL: tuple[tuple[Point, Action, float, dict[str, str]], ...] = (
    (Point.HOOK_BEFORE, Action.RAISE, 0.05, {}),
    (Point.HOOK_BEFORE, Action.EXIT, 0.03, {}),
    (Point.HOOK_BEFORE, Action.HANG, 0.04, {}),
    (Point.HOOK_BEFORE, Action.SLOW, 0.10, {}),
    (Point.HOOK_BEFORE, Action.RAISE, 0.20, _ON_ABORT),
    (Point.HOOK_AFTER, Action.RAISE, 0.05, {}),
    (Point.HOOK_AFTER, Action.EXIT, 0.03, {}),
    (Point.HOOK_AFTER, Action.HANG, 0.04, {}),
    (Point.HOOK_AFTER, Action.SLOW, 0.10, {}),
    (Point.HOOK_AFTER, Action.RAISE, 0.20, _ON_ABORT),
    (Point.MESSAGE, Action.RAISE, 0.01, {}),
    (Point.MESSAGE, Action.EXIT, 0.005, {}),
    (Point.MESSAGE, Action.LOSE, 0.02, {}),
    (Point.MESSAGE, Action.DUPLICATE, 0.05, {}),
    (Point.MESSAGE, Action.DELAY, 0.05, {}),
    (Point.MESSAGE, Action.REORDER, 0.10, {}),
    (Point.COMMIT_BEFORE, Action.FAIL, 0.03, {}),
    (Point.COMMIT_BEFORE, Action.MAP_FULL, 0.03, {}),
    (Point.COMMIT_BEFORE, Action.DISK_FULL, 0.05, {}),
    (Point.COMMIT_BEFORE, Action.SLOW, 0.05, {}),
    (Point.PUT_BEFORE, Action.FAIL, 0.10, {}),
    (Point.PUT_BEFORE, Action.DISK_FULL, 0.10, {}),
    (Point.PUT_AFTER, Action.FAIL, 0.10, {}),
)
"""What can go wrong, how often at the most usual rate, and where."""
_CRASHES = (
    (Point.COMMIT_BEFORE, 60),
    (Point.COMMIT_AFTER, 60),
    (Point.HOOK_BEFORE, 30),
    (Point.HOOK_AFTER, 30),
    (Point.MESSAGE, 200),
    (Point.PUT_BEFORE, 8),
    (Point.PUT_AFTER, 8),
)
"""Where a process can be killed, and at which match at the latest."""
