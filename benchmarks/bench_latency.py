"""How long does one small protect take on an idle, open service?

Five resources, a parent and its children. Held against as many bare synced commits as there are
hooks on the longest way through the graph, two more, and 2 ms. Commits are measured in between.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import measuring
from baselines import BareCommits, Linked

from karbor_actors import Bank, ProtectionService
from karbor_actors.testing import make_graph, synthetic_plan, synthetic_provider

if TYPE_CHECKING:
    import argparse

OURS = "karbor_actors"
RESOURCES = 5
SLACK = 0.002
WARM_UP = 5


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    return [measuring.Case(f"protect of {RESOURCES}", (OURS,), {"count": arguments.size})]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Protect again and again, one at a time."""
    directory = parameters["directory"]
    graph = make_graph("tree", RESOURCES)
    walk, plan = Linked(graph), synthetic_plan(graph)
    path = max(walk.to_the_end([1.0] * len(walk.hooks)))
    taken, commits = [], []
    with ProtectionService() as service, BareCommits(directory) as bare:
        service.add_provider(synthetic_provider(graph, bank=Bank.open(f"{directory}/bank")))
        for number in range(WARM_UP + parameters["count"]):
            began = time.perf_counter()
            service.protect(plan).result()
            seconds = time.perf_counter() - began
            if number >= WARM_UP:
                taken.append(seconds)
                commits.append(bare.one())
    commit = statistics.median(commits)
    bound = (path + 2) * commit + SLACK
    figures = {
        "latency, ms": statistics.median(taken) * 1e3,
        "bare commit, ms": commit * 1e3,
        f"bound ({path:g} + 2 commits + 2 ms), ms": bound * 1e3,
        "latency / bound": statistics.median(taken) / bound,
    }
    return measuring.Measured({"run": sum(taken)}, {"run": len(taken)}, {}, figures)


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument("--size", type=int, default=100, help="protects (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "latency", "protects/s", cases, measure)


if __name__ == "__main__":
    main()
