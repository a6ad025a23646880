"""``bench``: a quick look at how fast the engine is on one's own machine."""

from __future__ import annotations

import graphlib
import os
import platform
import queue
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from karbor_actors import Bank, Plan, Resource
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.invocation import WORKERS, local_settings
from karbor_actors.cli.options import command
from karbor_actors.cli.resources import plan_of_paths
from karbor_actors.cli.text import human_bytes, plural
from karbor_actors.errors import BankPathError
from karbor_actors.graph import build_graph
from karbor_actors.testing import make_graph, run_synthetic

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.testing import SyntheticGraph

_HOOKS = 4
_WRITES = 640
_THREADS = (1, 64)
_FILE = 1 << 20
_MIB = 1 << 20


def register(app: click.Group) -> None:
    """Add the command to *app*."""
    command(app, "bench", uses_banks=False)(_bench)


@click.option(
    "--size",
    "sizes",
    type=click.IntRange(_HOOKS, 1_000_000),
    multiple=True,
    default=(1_000, 10_000),
    show_default=True,
    metavar="N",
    help="Hooks of an operation; may be repeated.",
)
@click.option(
    "--megabytes",
    type=click.IntRange(1, 10_000),
    default=64,
    show_default=True,
    help="Of files to protect and restore.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=WORKERS,
    show_default=True,
    metavar="N",
    help="Threads for the hooks.",
)
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, writable=True),
    help="Where a temporary directory is made: the disk to ask about.",
)
def _bench(
    invocation: Invocation,
    sizes: tuple[int, ...],
    megabytes: int,
    directory: str | None,
) -> int:
    """Measure hooks, durable writes and files, in seconds.

    Hooks that do nothing are run beside a loop of Python's graphlib with a ThreadPoolExecutor,
    which records nothing. One run of each, and the machine may have other work: only a rough
    look. The project's folder benchmarks/ measures properly.
    """
    output, workers = invocation.output, invocation.workers
    try:
        place = tempfile.TemporaryDirectory(prefix="karbor-bench-", dir=directory)
    except OSError as error:
        raise BankPathError(f"no directory in {directory}: {error.strerror}") from error
    with place as name:
        folder = Path(name)
        hooks = [_measure_hooks(folder / f"hooks-{size}", size, workers) for size in sizes]
        output.table(
            ("hooks", "per second", "bare pool", "ours / pool"),
            [
                (
                    f"{row['hooks']:,}",
                    f"{row['per_second']:,.0f}",
                    f"{row['pool_per_second']:,.0f}",
                    f"{row['per_second'] / row['pool_per_second']:.2f}",
                )
                for row in hooks
            ],
        )
        writes = [_measure_writes(folder / f"writes-{threads}", threads) for threads in _THREADS]
        output.line()
        output.table(
            ("durable writes", "per second"),
            [
                (plural(int(row["threads"]), "thread"), f"{row['per_second']:,.0f}")
                for row in writes
            ],
        )
        files = _measure_files(invocation, folder / "files", megabytes * _MIB)
        output.line()
        output.table(
            ("files", "per second"),
            [(verb, human_bytes(files[f"{verb}_per_second"])) for verb in ("protect", "restore")],
        )
    output.document({"machine": _machine(), "hooks": hooks, "writes": writes, "files": files})
    return ExitCode.OK


def _machine() -> dict[str, Any]:
    return {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


# -- hooks


def _measure_hooks(folder: Path, size: int, workers: int) -> dict[str, float]:
    graph = make_graph("tree", size // _HOOKS)
    folder.mkdir()
    ours = run_synthetic(graph, directory=folder, workers=workers).total_seconds
    pool = _seconds(lambda: _run_in_pool(graph, workers))
    hooks = _HOOKS * graph.size
    return {"hooks": hooks, "per_second": hooks / ours, "pool_per_second": hooks / pool}


def _run_in_pool(graph: SyntheticGraph, workers: int) -> None:
    """Run hooks that do nothing in the engine's order, with what Python brings along."""
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    for node in range(graph.size):
        first = _HOOKS * node
        for hook in range(first, first + _HOOKS - 1):
            sorter.add(hook + 1, hook)
        for child in graph.children(node):
            begin = _HOOKS * child
            sorter.add(begin, first)
            sorter.add(first + 1, begin + 1)
            sorter.add(first + 3, begin + 3)
    sorter.prepare()
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    with ThreadPoolExecutor(workers) as pool:
        while sorter.is_active():
            for hook in sorter.get_ready():
                pool.submit(ended.put, hook)
            sorter.done(ended.get())


# -- durable writes


def _measure_writes(folder: Path, threads: int) -> dict[str, float]:
    """Return how fast *threads* threads together write objects, each durable before the next."""
    resource = Resource("Bench::Thing", "1")
    graph = build_graph([resource], lambda _: [])
    with Bank.open(folder) as bank:
        plan = Plan("writes", "bench", [resource]).to_dict()
        made = bank.create_checkpoint(plan=plan, provider="bench", graph=graph)
        checkpoint = bank.checkpoint(made.id).view(is_writable=True)
        section = checkpoint.get_resource_bank_section(resource)

        def write(first: int) -> None:
            for number in range(first, _WRITES, threads):
                section.update_object(f"{number:08}", "x" * 100)

        def write_all() -> None:
            started = [threading.Thread(target=write, args=(n,)) for n in range(threads)]
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()

        seconds = _seconds(write_all)
    return {"threads": threads, "per_second": _WRITES / seconds}


# -- files


def _measure_files(invocation: Invocation, folder: Path, size: int) -> dict[str, float]:
    """Return how many bytes per second are protected, and restored."""
    source = folder / "source"
    source.mkdir(parents=True)
    rng = random.Random(1)  # noqa: S311 - only to be no text that shrinks to nothing
    for number in range(size // _FILE):
        half = rng.randbytes(_FILE // 2)
        (source / f"{number:05}.bin").write_bytes(half + half.hex().encode()[: _FILE // 2])
    settings = local_settings(str(folder / "bank"))
    with invocation.service(settings, create=True) as service:
        plan = plan_of_paths([str(source)], "bench", service.provider("local"))
        made: list[Any] = []
        protect = _seconds(lambda: made.append(service.protect(plan).result()))
        parameters = {"FileSystem::Directory": {"target": str(folder / "restored")}}
        restore = _seconds(lambda: service.restore(made[0].id, parameters=parameters).result())
    whole = size // _FILE * _FILE
    return {
        "bytes": whole,
        "protect_per_second": whole / protect,
        "restore_per_second": whole / restore,
    }
