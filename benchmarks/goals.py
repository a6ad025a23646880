"""Which benchmarks there are, at which sizes, and what each is to show."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Document = dict[str, Any]
"""What a benchmark printed as JSON."""
POOL = "graphlib + ThreadPoolExecutor"
ONCE = ("--repeats", "1", "--warm-up", "0")


@dataclass(frozen=True)
class Benchmark:
    """A script with the arguments for a whole run, and for a quick one."""

    script: str
    full: Sequence[str]
    quick: Sequence[str]


@dataclass(frozen=True)
class Goal:
    """What a benchmark is to show."""

    what: str
    benchmark: str
    find: Callable[[Document], float | None]
    """Returns what was measured, or None if a peer was not there."""
    limit: float
    unit: str = "x"
    is_at_least: bool = False
    """Whether *limit* is the least that is good, not the most."""

    def is_met(self, measured: float) -> bool:
        """Return whether *measured* is good enough."""
        return measured >= self.limit if self.is_at_least else measured <= self.limit


def _rows(document: Document, kind: str, case: str, name: str) -> list[dict[str, Any]]:
    """Return the rows of a metric or a figure; the last case's first."""
    key = "metric" if kind == "results" else "figure"
    return [row for row in document[kind][::-1] if case in row["case"] and row[key] == name]


def rate(document: Document, peer: str, metric: str, case: str = "") -> float | None:
    """Return our rate divided by the peer's, in the last case whose name contains *case*."""
    for row in _rows(document, "results", case, metric):
        if peer in row["system"]:
            return float(row["our_rate_by_this"])
    return None


def cost(document: Document, peer: str, metric: str, case: str = "") -> float | None:
    """Return our cost divided by the peer's."""
    found = rate(document, peer, metric, case)
    return None if found is None else 1 / found


def growth(document: Document, metric: str) -> float:
    """Return our cost in the last case divided by that in the first."""
    ours = [row for row in document["results"] if row["metric"] == metric]
    ours = [row for row in ours if "our_rate_by_this" not in row]
    return float(ours[0]["rate_median"] / ours[-1]["rate_median"])


def figure(document: Document, name: str, case: str = "", system: str = "") -> float | None:
    """Return a figure's median, in the last case whose name contains *case*."""
    for row in _rows(document, "figures", case, name):
        if system in row["system"]:
            return float(row["median"])
    return None


def more(document: Document, name: str, case: str, systems: tuple[str, str]) -> float:
    """Return by how much one system's figure exceeds another's, run by run, as a median."""
    one, other = (
        next(row["values"] for row in _rows(document, "figures", case, name) if row["system"] == s)
        for s in systems
    )
    return float(statistics.median(a - b for a, b in zip(one, other, strict=True)))


BENCHMARKS = {
    "hooks": Benchmark(
        "bench_hooks.py",
        ("--size", "10000", "30000", "100000", "300000", "1000000", "--no-serial", "--repeats=3"),
        ("--size", "1000", "10000", "--no-serial", *ONCE),
    ),
    "unimplemented": Benchmark(
        "bench_hooks.py",
        ("--size", "1000000", "--unimplemented", "--no-serial", "--repeats", "3"),
        ("--size", "10000", "--unimplemented", "--no-serial", *ONCE),
    ),
    "peers": Benchmark("bench_peers.py", ("--repeats", "3"), ("--at-most", "1000", *ONCE)),
    "graph": Benchmark("bench_graph.py", (), ("--size", "10000", *ONCE)),
    "async": Benchmark("bench_async.py", (), ("--size", "1000", *ONCE)),
    "makespan": Benchmark(
        "bench_makespan.py", (), ("--size", "400", "--workers", "64", "--seeds", "2", *ONCE)
    ),
    "bank_writes": Benchmark("bench_bank_writes.py", (), ("--size", "1280", *ONCE)),
    "latency": Benchmark("bench_latency.py", (), ("--size", "20", *ONCE)),
    "operations": Benchmark("bench_operations.py", (), ("--size", "50", *ONCE)),
    "idle": Benchmark("bench_idle.py", (), ("--seconds", "2", *ONCE)),
    "soak": Benchmark("bench_soak.py", (), ("--minutes", "0.1", *ONCE)),
    "filesystem": Benchmark("bench_filesystem.py", (), ("--size", "20", *ONCE)),
    "unchanged": Benchmark("bench_unchanged.py", (), ("--size", "2000", *ONCE)),
    "recovery": Benchmark("bench_recovery.py", (), ("--size", "50", *ONCE)),
}
"""By name, in the order in which they run."""

OWN = "engine's own, us a resource"
ASK, TELL = "karbor_actors, writer.write", "karbor_actors, writer.submit and one wait"
SINGLE = "py-lmdb, one transaction each"
ALL = "plan and run"

GOALS = (
    Goal(
        "a protect, graph and plugins included / the bare pool, per hook",
        "hooks",
        partial(cost, peer=POOL, metric=ALL),
        0.8,
    ),
    Goal("cost per hook: the largest size / 10,000", "hooks", partial(growth, metric=ALL), 1.25),
    Goal("peak memory", "hooks", partial(figure, name="peak memory, MiB"), 1024, "MiB"),
    Goal(
        "unimplemented hooks / the bare pool",
        "unimplemented",
        partial(cost, peer=POOL, metric=ALL),
        0.4,
    ),
    *(
        Goal(
            f"rate / that of {peer}",
            "peers",
            partial(rate, peer=peer, metric=ALL),
            least,
            is_at_least=True,
        )
        for peer, least in (
            ("TaskFlow, parallel engine", 300),
            ("Karbor's own flow", 300),
            ("dask, threaded scheduler", 4),
            ("a Pykka ThreadingActor per hook", 50),
        )
    ),
    Goal(
        "threads meanwhile",
        "peers",
        partial(figure, name="threads at most", case="Pykka"),
        64,
        "threads",
    ),
    *(
        Goal(
            f"graph: {shape}, the engine's own",
            "graph",
            partial(figure, name=OWN, case=shape, system=system),
            2,
            "us a resource",
        )
        for shape, system in (
            ("chain", "karbor_actors"),
            ("ladder", "karbor_actors"),
            ("tree", "karbor_actors, with a protect's threads"),
        )
    ),
    Goal(
        "async hooks: makespan / (1.5 sleeps + own cost)",
        "async",
        partial(figure, name="makespan / (1.5 sleeps + own)", system="karbor_actors"),
        1,
    ),
    Goal(
        "random graphs, 64 workers: makespan / ideal",
        "makespan",
        partial(figure, name="makespan / ideal", case="64 workers", system="karbor_actors"),
        1.05,
    ),
    Goal(
        "bank: 64 threads telling / py-lmdb alone",
        "bank_writes",
        partial(rate, peer="py-lmdb, grouped", metric="durable writes", case="64 threads, telling"),
        0.8,
        is_at_least=True,
    ),
    Goal(
        "bank: 64 threads asking / py-lmdb alone",
        "bank_writes",
        partial(rate, peer="py-lmdb, grouped", metric="durable writes", case="64 threads, asking"),
        0.3,
        is_at_least=True,
    ),
    Goal(
        "bank: 1 thread asking, more than a bare synced transaction",
        "bank_writes",
        partial(more, name="us a write", case="1 thread, asking", systems=(ASK, SINGLE)),
        80,
        "us",
    ),
    Goal(
        "a small protect / (hooks on its way + 2 commits + 2 ms)",
        "latency",
        partial(figure, name="latency / bound", system="by a thread"),
        1,
    ),
    Goal(
        "many operations at once / one as large",
        "operations",
        partial(cost, peer="one operation", metric="from the first call to the last end"),
        1.25,
    ),
    Goal(
        "the last of many waits for the others' ends",
        "operations",
        partial(figure, name="waited for, share"),
        0.5,
        "of them",
    ),
    Goal("idle: wake-ups", "idle", partial(figure, name="wake-ups"), 0, ""),
    Goal("idle: threads", "idle", partial(figure, name="threads"), 8, ""),
    Goal(
        "idle: memory over the interpreter",
        "idle",
        partial(figure, name="over the interpreter, MiB"),
        40,
        "MiB",
    ),
    *(
        Goal(f"soak: {name}", "soak", partial(figure, name=name), most, unit)
        for name, most, unit in (
            ("growth of memory, MiB", 2, "MiB"),
            ("growth of threads", 0, ""),
            ("growth of handles", 0, ""),
            ("growth of LMDB file, KiB", 64, "KiB"),
        )
    ),
    Goal(
        "protect of mixed files / tar | zstd -3 -T0",
        "filesystem",
        partial(rate, peer="tar", metric="protect"),
        0.8,
        is_at_least=True,
    ),
    Goal(
        "second, unchanged protect: faster than the first",
        "unchanged",
        partial(figure, name="first / second"),
        5,
        is_at_least=True,
    ),
    Goal(
        "recovery: until all unfinished operations are known",
        "recovery",
        partial(figure, name="until they are known, s"),
        5,
        "s",
    ),
)
