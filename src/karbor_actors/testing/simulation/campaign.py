"""Many runs, over several processes, and what they come to."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from karbor_actors.testing.simulation.checker import INVARIANTS
from karbor_actors.testing.simulation.crashes import CrashPoint, crash
from karbor_actors.testing.simulation.simulate import SimulationResult, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AT_ONCE = 8


@dataclass
class Tally:
    """What runs come to."""

    runs: int = 0
    operations: int = 0
    processes: int = 0
    crashes: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    """How often each fault struck."""
    tried: Counter[str] = field(default_factory=Counter)
    """In how many runs."""
    broken: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By fault and invariant: in how many of those it did not hold."""
    violated: Counter[str] = field(default_factory=Counter)
    """In how many runs each invariant did not hold."""

    def add(self, result: SimulationResult) -> None:
        """Count one run."""
        self.runs += 1
        self.operations += result.operations
        self.processes += result.processes
        self.crashes += result.crashes
        self.struck += result.faults
        violated = {violation.invariant for violation in result.violations}
        for fault in result.faults:
            self.tried[fault] += 1
            self.broken.update((fault, invariant) for invariant in violated)
        self.violated.update(violated)

    def held(self) -> dict[str, int]:
        """Return in how many runs each invariant held."""
        return {name: self.runs - self.violated[name] for name in INVARIANTS}


def run_all(
    places: Iterable[int | CrashPoint], jobs: int = 1
) -> Iterator[tuple[int | CrashPoint, SimulationResult]]:
    """Run each seed, or kill a process at each place; yield the results as they come.

    Args:
        places: Seeds and crash points.
        jobs: Processes to use; with 1 everything runs in this one.
    """
    if jobs == 1:
        yield from map(_run, places)
        return
    # Not forked: a child would inherit the locks of threads that it does not have.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_run, places, chunksize=_AT_ONCE)


def _run(place: int | CrashPoint) -> tuple[int | CrashPoint, SimulationResult]:
    result = simulate(place) if isinstance(place, int) else crash(place)
    return place, replace(result, trace=())  # the trace is long, and can be made again
