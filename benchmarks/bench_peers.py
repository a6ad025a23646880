"""How many no-op hooks per second, beside engines that others use?

Each peer runs the same hooks with the same arguments and edges, at the sizes that one can wait
for. Ours is measured as the user has it: from the call to the durable end, the graph built through
plugins. A peer's time begins when the hooks and their edges are known, but for Karbor's, whose own
flow also builds its graph.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import measuring
import peers
from baselines import HookCaller, Linked

from karbor_actors import OperationStatus
from karbor_actors.testing import make_graph, run_synthetic

if TYPE_CHECKING:
    import argparse

OURS = "karbor_actors"
KARBOR, TASKFLOW, DASK, PYKKA = (
    "Karbor's own flow",
    "TaskFlow, parallel engine",
    "dask, threaded scheduler",
    "a Pykka ThreadingActor per hook",
)
NEEDS = {KARBOR: "karbor", TASKFLOW: "taskflow", DASK: "dask", PYKKA: "pykka"}
SIZES = {
    KARBOR: [400, 1_600],
    TASKFLOW: [400, 2_000],
    DASK: [1_000, 10_000],
    PYKKA: [1_000, 10_000],
}
"""Hooks."""
RUN = {TASKFLOW: peers.run_taskflow, DASK: peers.run_dask, PYKKA: peers.run_pykka}
MEASURED = "plan and run"
WARM_UP = 25


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return a case for each peer and size."""
    return [
        measuring.Case(
            f"{4 * (size // 4):,} hooks, {peer}",
            (OURS, peer),
            {"resources": size // 4, "workers": arguments.workers},
            {peer: NEEDS[peer]},
        )
        for peer in SIZES
        for size in SIZES[peer]
        if arguments.at_most is None or size <= arguments.at_most
    ]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run all hooks once."""
    graph = make_graph("tree", parameters["resources"])
    directory, workers = parameters["directory"], parameters["workers"]
    figures = {}
    if system == OURS:
        run_synthetic(make_graph("tree", WARM_UP), workers=workers)
        most = _Most()
        ran = run_synthetic(graph, directory=directory, workers=workers)
        figures["threads at most"] = float(most.stop())
        if ran.status is not OperationStatus.SUCCEEDED:
            raise RuntimeError(f"the protect ended {ran.status}")
        seconds = ran.total_seconds
    elif system == KARBOR:
        seconds = peers.run_karbor(graph)
    else:
        call = HookCaller(directory)
        seconds = RUN[system](Linked(graph), call, workers)
    return measuring.Measured({MEASURED: seconds}, {MEASURED: 4 * graph.size}, {}, figures)


class _Most:
    """Looks every few milliseconds how many threads there are, on one of its own."""

    def __init__(self) -> None:
        self._most = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopped.wait(0.005):
            self._most = max(self._most, threading.active_count() - 1)

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._most


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--at-most", type=int, help="leave larger sizes out (hooks)")
    parser.add_argument("--workers", type=int, default=16, help="threads (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "peers", "hooks/s", cases, measure)


if __name__ == "__main__":
    main()
