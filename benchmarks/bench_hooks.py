"""How many no-op hooks does the engine run per second?

A protect of a synthetic graph whose hooks do nothing, beside the same hooks, called with the
same arguments in an order that keeps the same edges, by `graphlib` with a `ThreadPoolExecutor`,
and by `graphlib` on one thread. Neither of those records anything, retries, or can be cancelled.

With --unimplemented, our plugin has no hook at all, and passing over them is what is measured.

"run" begins when the graph is known and ends when the last hook has ended (ours: when that is
durable). "plan and run" begins with the call; the peers also ask the plugins for the graph.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import measuring
from baselines import HookCaller, Sorted

from karbor_actors import OperationStatus
from karbor_actors.testing import SHAPES, Work, make_graph, run_synthetic

if TYPE_CHECKING:
    import argparse

OURS, POOL, SERIAL = "karbor_actors", "graphlib + ThreadPoolExecutor", "graphlib, one thread"
WARM_UP = 100
MIB = 1 << 20


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return one case for each size."""
    return [
        measuring.Case(
            f"{4 * (size // 4):,} hooks, {arguments.shape}",
            (OURS, POOL) if arguments.no_serial else (OURS, POOL, SERIAL),
            {
                "resources": size // 4,
                "shape": arguments.shape,
                "workers": arguments.workers,
                "is_async": arguments.asynchronous,
                "has_abort": arguments.abort,
                "is_empty": arguments.unimplemented,
            },
        )
        for size in arguments.size
    ]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run all hooks once."""
    graph = make_graph(parameters["shape"], parameters["resources"])
    warm_up = make_graph(parameters["shape"], min(WARM_UP, graph.size))
    workers, directory = parameters["workers"], parameters["directory"]
    if system == OURS:
        work = Work(is_async=parameters["is_async"], has_abort=parameters["has_abort"])
        if parameters["is_empty"]:
            work = Work(hooks=())
        run_synthetic(warm_up, work, workers=workers)
        figures = run_synthetic(graph, work, directory=directory, workers=workers)
        if figures.status is not OperationStatus.SUCCEEDED:
            raise RuntimeError(f"the protect ended {figures.status}")
        hooks = 4 * graph.size if parameters["is_empty"] else figures.hooks
        planned, ran = figures.planning_seconds, figures.running_seconds
        notes = {"cpu_seconds": figures.cpu_seconds}
        peaks = {"peak memory, MiB": figures.peak_memory / MIB}
    else:
        call = HookCaller(directory)
        run = Sorted.in_pool if system == POOL else Sorted.alone
        run(Sorted(warm_up), call, workers)
        cpu, began = time.process_time(), time.perf_counter()
        walk = Sorted(graph)
        planned = time.perf_counter() - began
        hooks = run(walk, call, workers)
        ran = time.perf_counter() - began - planned
        notes, peaks = {"cpu_seconds": time.process_time() - cpu}, {}
    if hooks != 4 * graph.size:
        raise RuntimeError(f"{hooks} hooks ran instead of {4 * graph.size}")
    return measuring.Measured(
        {"run": ran, "plan and run": planned + ran},
        {"run": hooks, "plan and run": hooks},
        notes,
        peaks,
    )


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument(
        "--size", type=int, nargs="+", default=[10_000, 100_000], help="hooks (%(default)s)"
    )
    parser.add_argument("--shape", choices=SHAPES, default="tree", help="of the graph (tree)")
    parser.add_argument("--workers", type=int, default=16, help="threads (%(default)s)")
    parser.add_argument(
        "--async", action="store_true", dest="asynchronous", help="our hooks are async def"
    )
    parser.add_argument(
        "--abort", action="store_true", help="our hooks have an on_abort: intents are recorded"
    )
    parser.add_argument(
        "--unimplemented",
        action="store_true",
        help="our plugin implements no hook; the peers call them all the same",
    )
    parser.add_argument("--no-serial", action="store_true", help="leave the one thread out")
    arguments = parser.parse_args()
    if min(arguments.size) < 4:  # noqa: PLR2004 - one resource has four hooks
        parser.error("--size must be at least 4")
    measuring.run(arguments, "hooks", "hooks/s", cases, measure)


if __name__ == "__main__":
    main()
