"""How far is the order in which hooks run from the best that is known?

Random graphs whose hooks sleep 1 to 20 ms, beside a simulation that always gives a free worker the
hook with the longest way to the end (critical path first). The simulation has the same workers (half
of them for prepare hooks, half for the others) and waits for a commit after each hook, as long as a
bare synced transaction takes here; it spends nothing on anything else.

A small graph is bound by its longest chain of hooks, a large one by its workers. A bare loop of
threads that sleep, and one that commits, shows what of the distance is the interpreter's and the
disk's: it does nothing else.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import measuring
from bare_loop import BareLoop
from baselines import HOOKS, MAIN, BareCommits, Linked, ideal_makespan

from karbor_actors import OperationStatus
from karbor_actors.testing import Work, make_graph, run_synthetic

if TYPE_CHECKING:
    import argparse

    from karbor_actors.testing import SyntheticGraph

OURS, BARE = "karbor_actors", "a bare loop of threads"
SHORTEST, LONGEST = 0.001, 0.020
WARM_UP = 20


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return a case, of both systems, for each number of workers and size."""
    made = []
    for workers in arguments.workers:
        for size in arguments.size:
            name = f"{workers} workers, {arguments.seeds} graphs of {4 * (size // 4):,} hooks"
            parameters = {
                "resources": size // 4,
                "seeds": arguments.seeds,
                "workers": workers // 2,
            }
            made.append(measuring.Case(name, (OURS, BARE), parameters))
    return made


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run each graph once; the parameter ``workers`` says how many each lane has."""
    directory, workers = parameters["directory"], parameters["workers"]
    run_synthetic(make_graph("random", WARM_UP), workers=workers)
    makespans, ideals, commits = [], [], []
    with BareCommits(directory) as bare:
        for seed in range(parameters["seeds"]):
            graph = make_graph("random", parameters["resources"], seed=seed)
            work = Work(sleep=SHORTEST, sleep_spread=LONGEST - SHORTEST, seed=seed)
            commits.append(bare.median())
            walk = Linked(graph)
            seconds = [work.sleep_of(resource, hook) for resource, _, hook in walk.hooks]
            lanes = [number % len(HOOKS) // MAIN for number in range(len(seconds))]
            if system == BARE:
                makespans.append(BareLoop(walk, seconds, lanes, workers, bare).run())
            else:
                makespans.append(engine_makespan(graph, work, f"{directory}/{seed}", workers))
            ideals.append(ideal_makespan(walk, seconds, lanes, workers, commits[-1]))
    ratios = [ours / best for ours, best in zip(makespans, ideals, strict=True)]
    shown = {
        "makespan / ideal": statistics.median(ratios),
        "makespan / ideal, worst": max(ratios),
        "ideal, ms": statistics.median(ideals) * 1e3,
        "bare commit, ms": statistics.median(commits) * 1e3,
    }
    hooks = 4 * parameters["resources"] * len(makespans)
    return measuring.Measured({"run": sum(makespans)}, {"run": hooks}, {"ratios": ratios}, shown)


def engine_makespan(graph: SyntheticGraph, work: Work, directory: str, workers: int) -> float:
    """Return the seconds that our hooks take."""
    figures = run_synthetic(graph, work, directory=directory, workers=workers)
    if figures.status is not OperationStatus.SUCCEEDED:
        raise RuntimeError(f"the protect ended {figures.status}")
    return figures.running_seconds


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument(
        "--size", type=int, nargs="+", default=[4_000, 16_000], help="hooks of each (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="graphs (%(default)s)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[128, 64], help="threads (%(default)s)"
    )
    arguments = parser.parse_args()
    measuring.run(arguments, "makespan", "hooks/s", cases, measure)


if __name__ == "__main__":
    main()
