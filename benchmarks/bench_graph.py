"""What does building a resource graph cost the engine itself, per resource?

The time of `build_graph` without that of the listings: the same look-ups, called alone in a loop,
are measured beside it and taken off. "with a protect's threads" is what a protect does, which looks
up many resources at once where look-ups wait for something, and times each of them to know.

What counts is the processor's time, since nothing here waits, and a difference of two times of the
wall clock is mostly what else the machine did. Each run builds the graph several times, a small one
many times, and takes the median of the differences: a machine's speed changes within a second.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors.graph import build_graph
from karbor_actors.operations.verbs.protect import ParallelMap
from karbor_actors.protectables import Protectables
from karbor_actors.testing import SyntheticProtectable, make_graph, synthetic_plan

if TYPE_CHECKING:
    import argparse

OURS = "karbor_actors"
THREADS = "karbor_actors, with a protect's threads"
LISTED = "the listings alone"
BUILT = "graph"
WARM_UP = 100
AT_LEAST, ONCE_MORE = 100_000, 3
"""Resources that are built in all, and times at least: a ladder of 2,000 is done in ten milliseconds."""


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return one case for each shape."""
    shapes = {
        "chain": arguments.size * 2 // 5,
        "ladder": min(arguments.size, 2_000),
        "tree": arguments.size,
    }
    return [
        measuring.Case(
            f"{shape} of {size:,} through a plugin",
            (OURS, THREADS, LISTED),
            {"shape": shape, "size": size},
        )
        for shape, size in shapes.items()
    ]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Build the graph once, or as often as it takes to measure it."""
    shape, size = parameters["shape"], parameters["size"]
    build(system, shape, min(WARM_UP, size))
    times = max(AT_LEAST // size, ONCE_MORE) if size > WARM_UP else 1
    pairs = [(build(LISTED, shape, size), build(system, shape, size)) for _ in range(times)]
    figures = {}
    if system != LISTED:
        own = statistics.median(ours - alone for alone, ours in pairs)
        figures["engine's own, us a resource"] = own / size * 1e6
    seconds = sum(ours for _, ours in pairs)
    return measuring.Measured({BUILT: seconds}, {BUILT: times * size}, {}, figures)


def build(system: str, shape: str, size: int) -> float:
    """Return the processor's seconds that it took to build a graph, or to list all of one."""
    graph = make_graph(shape, size)
    plugin = SyntheticProtectable(graph)
    roots = synthetic_plan(graph).resources
    if system == LISTED:
        resources = [*roots]
        seen = {resource.key for resource in roots}
        seconds = 0.0
        while resources:
            began = time.process_time()
            listed = [plugin.get_dependent_resources(None, one) for one in resources]
            seconds += time.process_time() - began
            found = {child.key: child for children in listed for child in children}
            resources = [found[key] for key in found if key not in seen]
            seen.update(found)
        return seconds
    find_children = partial(Protectables([plugin]).find_children, None)
    began = time.process_time()
    if system == OURS:
        built = build_graph(roots, find_children)
    else:
        with ParallelMap() as map_parallel:
            built = build_graph(roots, find_children, map_parallel=map_parallel)
    seconds = time.process_time() - began
    if len(built) != size:
        raise RuntimeError(f"{len(built)} resources were found instead of {size}")
    return seconds


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument(
        "--size", type=int, default=250_000, help="resources of the tree (%(default)s)"
    )
    arguments = parser.parse_args()
    measuring.run(arguments, "graph", "resources/s", cases, measure)


if __name__ == "__main__":
    main()
