"""Running one seed: processes that are killed and come back, until one that nothing disturbs."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from karbor_actors.testing.simulation.checker import check_log
from karbor_actors.testing.simulation.drawing import draw
from karbor_actors.testing.simulation.history import History
from karbor_actors.testing.simulation.life import Life, Lives
from karbor_actors.testing.simulation.scenario import Process, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.testing.fault_rules import Point
    from karbor_actors.testing.simulation.violation import Violation

_MEMORY = Path("/dev/shm")  # noqa: S108 - only where to make a temporary directory
_DEPTH = 20_000
"""Frames: bodies that wait for the bank stand upon each other on the one thread."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What one seed showed."""

    seed: int
    violations: tuple[Violation, ...]
    """What must not be; nothing if all is well."""
    digest: str
    """Of the trace: equal for equal seeds."""
    trace: tuple[str, ...]
    """What happened, line by line."""
    faults: Counter[str] = field(default_factory=Counter)
    """How often each fault struck."""
    operations: int = 0
    """How many had a hook that began."""
    processes: int = 0
    crashes: int = 0
    passed: Counter[Point] = field(default_factory=Counter)
    """How often the first process passed each point at which a fault may strike."""

    @property
    def is_good(self) -> bool:
        """Whether everything held."""
        return not self.violations


def simulate(seed: int, *, directory: Path | None = None) -> SimulationResult:
    """Run the scenario of *seed* and check everything.

    One thread; takes tens of milliseconds. Equal seeds give equal runs, in any process.

    Args:
        seed: Which run.
        directory: Where to make the bank, which is removed; in memory, if not given.
    """
    return run_scenario(draw(seed), directory=directory)


def run_scenario(scenario: Scenario, *, directory: Path | None = None) -> SimulationResult:
    """Run *scenario* and check everything; see :func:`simulate`."""
    if directory is None and _MEMORY.is_dir():
        directory = _MEMORY
    folder = tempfile.mkdtemp(prefix="karbor-simulation-", dir=directory)
    lives = Lives(scenario, Path(folder), batches=list(map(list, scenario.batches)))
    lives.world.history = History(scenario.children)
    processes = [*scenario.processes, Process()]
    try:
        with _quiet():
            for number, process in enumerate(processes):
                Life(lives, number, process, is_last=number == len(processes) - 1).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    violations = dict.fromkeys(
        [
            *check_log(lives.world, scenario.caps, scenario.policies, scenario.recover),
            *lives.violations,
        ]
    )
    return SimulationResult(
        scenario.seed,
        tuple(violations),
        lives.world.digest(),
        tuple(lives.world.trace),
        lives.faults,
        len(lives.world.operations),
        len(processes),
        lives.crashes,
        lives.passed,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing of what is made to go wrong, and allow deep stacks; within."""
    disabled, depth = logging.root.manager.disable, sys.getrecursionlimit()
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(max(depth, _DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(depth)
        logging.disable(disabled)
