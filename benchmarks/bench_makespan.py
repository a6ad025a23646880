"""How far is the order in which hooks run from the best that is known?

Random graphs whose hooks sleep 1 to 20 ms, beside a simulation that always gives a free worker the
hook with the longest way to the end (critical path first). The simulation has the same workers (as
many for prepare hooks as for the others) and waits for a commit after each hook, as long as a bare
synced transaction takes here; it spends nothing on anything else.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import measuring
from baselines import HOOKS, MAIN, BareCommits, Linked, ideal_makespan

from karbor_actors import OperationStatus
from karbor_actors.testing import Work, make_graph, run_synthetic

if TYPE_CHECKING:
    import argparse

OURS = "karbor_actors"
SHORTEST, LONGEST = 0.001, 0.020
WARM_UP = 20


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    name = f"{arguments.seeds} random graphs of {4 * (arguments.size // 4):,} hooks"
    parameters = {
        "resources": arguments.size // 4,
        "seeds": arguments.seeds,
        "workers": arguments.workers,
    }
    return [measuring.Case(name, (OURS,), parameters)]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run each graph once."""
    directory, workers = parameters["directory"], parameters["workers"]
    run_synthetic(make_graph("random", WARM_UP), workers=workers)
    makespans, ideals, commits = [], [], []
    with BareCommits(directory) as bare:
        for seed in range(parameters["seeds"]):
            graph = make_graph("random", parameters["resources"], seed=seed)
            work = Work(sleep=SHORTEST, sleep_spread=LONGEST - SHORTEST, seed=seed)
            commits.append(bare.median())
            figures = run_synthetic(graph, work, directory=f"{directory}/{seed}", workers=workers)
            if figures.status is not OperationStatus.SUCCEEDED:
                raise RuntimeError(f"the protect ended {figures.status}")
            makespans.append(figures.running_seconds)
            ideals.append(ideal(Linked(graph), work, workers, commits[-1]))
    ratios = [ours / best for ours, best in zip(makespans, ideals, strict=True)]
    shown = {
        "makespan / ideal": statistics.median(ratios),
        "makespan / ideal, worst": max(ratios),
        "ideal, ms": statistics.median(ideals) * 1e3,
        "bare commit, ms": statistics.median(commits) * 1e3,
    }
    hooks = 4 * parameters["resources"] * len(makespans)
    return measuring.Measured({"run": sum(makespans)}, {"run": hooks}, {"ratios": ratios}, shown)


def ideal(walk: Linked, work: Work, workers: int, commit: float) -> float:
    """Return the seconds that the simulation takes."""
    seconds = [work.sleep_of(resource, hook) for resource, _, hook in walk.hooks]
    lanes = [number % len(HOOKS) // MAIN for number in range(len(seconds))]
    return ideal_makespan(walk, seconds, lanes, workers, commit)


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--size", type=int, default=4_000, help="hooks of each (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="graphs (%(default)s)")
    parser.add_argument("--workers", type=int, default=64, help="threads (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "makespan", "hooks/s", cases, measure)


if __name__ == "__main__":
    main()
