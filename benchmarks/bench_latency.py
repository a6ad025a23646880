"""How long does one small protect take on an idle, open service?

Five resources, a parent and its children. Held against as many bare synced commits as there are
hooks on the longest way through the graph, two more, and 2 ms. Commits are measured in between, and
a manifest: an object as small as that of such a checkpoint, put durably in a store. The bound has no
time for it.

The service is asked by a thread of the program's own. One that is asked by the main thread takes a change
of thread more (the main thread wakes no worker, since signals interrupt it), and is measured, too.

The bank has been in use: each of the first few hundred objects of a new one makes a folder, which is
one more sync.

A second run has everything in memory, where a sync costs nothing: what is left is the interpreter's.
A third makes alone what such a protect stores, in one thread: a checkpoint, a row for each hook on the
way, one after another, and its end with the manifest; no operation, no plugin, no hook.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
from baselines import BareCommits, Linked

from karbor_actors import Bank, CheckpointStatus, ProtectionService
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.writer import Put
from karbor_actors.graph import build_graph
from karbor_actors.store import LocalStore
from karbor_actors.testing import make_graph, synthetic_plan, synthetic_provider

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

OURS, IN_MEMORY = "karbor_actors, asked by a thread", "karbor_actors, in memory"
MAIN = "karbor_actors, asked by the main thread"
STORED = "karbor_actors, what it stores alone"
MEMORY = "/dev/shm"  # noqa: S108 - folders of the benchmark's own are made there
MANIFEST = b"m" * 600
RESOURCES = 5
SLACK = 0.002
WARM_UP = 500


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    systems = (OURS, MAIN, STORED, IN_MEMORY) if Path(MEMORY).is_dir() else (OURS, MAIN, STORED)
    return [measuring.Case(f"protect of {RESOURCES}", systems, {"count": arguments.size})]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Protect again and again, one at a time."""
    if system == IN_MEMORY:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY) as directory:
            taken, _, _ = in_a_thread(protect_often, directory, parameters["count"])
        figures = {"latency, ms": statistics.median(taken) * 1e3}
        return measuring.Measured({"run": sum(taken)}, {"run": len(taken)}, {}, figures)
    walk = Linked(make_graph("tree", RESOURCES))
    path = max(walk.to_the_end([1.0] * len(walk.hooks)))
    if system == STORED:
        taken = in_a_thread(store_often, parameters["directory"], parameters["count"], int(path))
        figures = {"latency, ms": statistics.median(taken) * 1e3}
        return measuring.Measured({"run": sum(taken)}, {"run": len(taken)}, {}, figures)
    run = protect_often if system == MAIN else partial(in_a_thread, protect_often)
    taken, commits, manifests = run(parameters["directory"], parameters["count"])
    commit = statistics.median(commits)
    bound = (path + 2) * commit + SLACK
    figures = {
        "latency, ms": statistics.median(taken) * 1e3,
        "bare commit, ms": commit * 1e3,
        "bare manifest, ms": statistics.median(manifests) * 1e3,
        f"bound ({path:g} + 2 commits + 2 ms), ms": bound * 1e3,
        "latency / bound": statistics.median(taken) / bound,
    }
    return measuring.Measured({"run": sum(taken)}, {"run": len(taken)}, {}, figures)


def protect_often(directory: str, count: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of each protect, and of a bare commit and a bare manifest after each."""
    graph = make_graph("tree", RESOURCES)
    plan, warm_up = synthetic_plan(graph), min(WARM_UP, 5 * count)
    taken, commits, manifests = [], [], []
    store = LocalStore(f"{directory}/objects")
    for _ in range(warm_up):
        store.put(f"checkpoints/bench/{uuid.uuid4()}/head", MANIFEST)
    with ProtectionService() as service, BareCommits(directory) as bare:
        service.add_provider(synthetic_provider(graph, bank=Bank.open(f"{directory}/bank")))
        for number in range(warm_up + count):
            began = time.perf_counter()
            service.protect(plan).result()
            seconds = time.perf_counter() - began
            if number >= warm_up:
                taken.append(seconds)
                commits.append(bare.one())
                began = time.perf_counter()
                store.put(f"checkpoints/bench/{uuid.uuid4()}/head", MANIFEST)
                manifests.append(time.perf_counter() - began)
    store.close()
    return taken, commits, manifests


def store_often(directory: str, count: int, path: int) -> list[float]:
    """Return the seconds of each checkpoint that is begun, written to *path* times, and finished."""
    plan, warm_up, taken = (
        synthetic_plan(make_graph("tree", RESOURCES)),
        min(WARM_UP, 5 * count),
        [],
    )

    with Bank.open(f"{directory}/bank") as bank:
        for number in range(warm_up + count):
            began = time.perf_counter()
            graph = build_graph(plan.resources, lambda _: [])
            checkpoint = bank.create_checkpoint(plan, "bench", graph)
            for hook in range(path):
                bank.writer.write(Put(Table.META, b"hook %d" % hook, MANIFEST[:40]))
            checkpoint.finish(CheckpointStatus.AVAILABLE)
            if number >= warm_up:
                taken.append(time.perf_counter() - began)
    return taken


def in_a_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what *function* does on a thread that is not the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument("--size", type=int, default=100, help="protects (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "latency", "protects/s", cases, measure, removes_late=True)


if __name__ == "__main__":
    main()
