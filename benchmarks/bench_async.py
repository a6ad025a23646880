"""How long do thousands of `async def` hooks take that all sleep at once?

One wave: a flat graph, one hook per resource. Held against one and a half sleeps and what the same
hooks cost when they do not sleep, measured in the same process. Beside it as many tasks of asyncio
alone, which do nothing but sleep: what that takes, whoever waits this way has to spend.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors import HookName, OperationStatus
from karbor_actors.testing import Work, make_graph, run_synthetic

if TYPE_CHECKING:
    import argparse

OURS, ALONE = "karbor_actors", "asyncio alone"
SLACK = 1.5
WARM_UP = 100


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    name = f"{arguments.size:,} async hooks that sleep {arguments.sleep * 1e3:g} ms"
    parameters = {"resources": arguments.size, "sleep": arguments.sleep}
    return [measuring.Case(name, (OURS, ALONE), parameters)]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run the hooks without sleeping, and then with."""
    graph = make_graph("flat", parameters["resources"])
    sleep, directory = parameters["sleep"], parameters["directory"]
    if system == ALONE:
        asyncio.run(sleep_all(WARM_UP, 0.0))
        seconds = asyncio.run(sleep_all(graph.size, sleep))
        figures = {"makespan, ms": seconds * 1e3}
        return measuring.Measured({"run": seconds}, {"run": graph.size}, {}, figures)
    run(make_graph("flat", min(WARM_UP, graph.size)), 0.0, f"{directory}/warm-up")
    own = run(graph, 0.0, f"{directory}/own")
    seconds = run(graph, sleep, f"{directory}/sleeping")
    figures = {
        "makespan, ms": seconds * 1e3,
        "the same hooks without sleep, ms": own * 1e3,
        "makespan / (1.5 sleeps + own)": seconds / (SLACK * sleep + own),
    }
    return measuring.Measured({"run": seconds}, {"run": graph.size}, {}, figures)


def run(graph: Any, sleep: float, directory: str) -> float:
    """Return the seconds from the graph to the durable end."""
    work = Work(sleep=sleep, is_async=True, hooks=(HookName.ON_MAIN,))
    figures = run_synthetic(graph, work, directory=directory)
    if figures.status is not OperationStatus.SUCCEEDED:
        raise RuntimeError(f"the protect ended {figures.status}")
    return figures.running_seconds


async def sleep_all(count: int, sleep: float) -> float:
    """Return the seconds that *count* tasks take that sleep at once."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(asyncio.sleep(sleep))
    return time.perf_counter() - began


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument("--size", type=int, default=10_000, help="hooks (%(default)s)")
    parser.add_argument("--sleep", type=float, default=0.1, help="seconds (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "async", "hooks/s", cases, measure)


if __name__ == "__main__":
    main()
