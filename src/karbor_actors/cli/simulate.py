"""``simulate``: whole operations with faults and crashes, by seeds, and what held."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click
from rich.progress import track

from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.options import command
from karbor_actors.cli.text import plural
from karbor_actors.testing.fault_rules import Point
from karbor_actors.testing.simulation.campaign import Tally, run_all
from karbor_actors.testing.simulation.checker import INVARIANTS
from karbor_actors.testing.simulation.crashes import GRAPHS, VERBS, crash_points
from karbor_actors.testing.simulation.simulate import SimulationResult, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.output import Output
    from karbor_actors.testing.simulation.crashes import CrashPoint


def register(app: click.Group) -> None:
    """Add the command to *app*."""
    command(app, "simulate", uses_banks=False)(_simulate)


@click.option(
    "--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many seeds to run."
)
@click.option("--start", type=click.IntRange(0), default=0, help="The first seed.")
@click.option("--seed", type=click.IntRange(0), help="Run this one seed only.")
@click.option("--trace", is_flag=True, help="With --seed: print all that happens.")
@click.option(
    "--crashes",
    is_flag=True,
    help="Instead of seeds, kill a process at every point that it passes, over a set of graphs.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    help="How many processes to use.  [default: one for each core]",
)
def _simulate(
    invocation: Invocation,
    seeds: int,
    start: int,
    seed: int | None,
    trace: bool,
    crashes: bool,
    jobs: int | None,
) -> int:
    """Run simulated processes that fail, are killed and recover, and check that promises held.

    Each seed is a graph, its hooks, what is asked for, the faults, and where processes are
    killed or lose their power. One thread and a virtual clock run it, so that a seed does the
    same each time. Nothing outside of a temporary directory is touched.
    """
    output = invocation.output
    if seed is not None:
        return _run_one(output, seed, trace=trace)
    places: Sequence[int | CrashPoint] = range(start, start + seeds)
    if crashes:
        places = [
            place for graph in GRAPHS for verb in VERBS for place in crash_points(graph, verb)
        ]
    jobs = jobs or len(os.sched_getaffinity(0))
    tally, bad, began = Tally(), [], time.monotonic()
    results = run_all(places, jobs)
    shown = track(
        results, "Simulating", len(places), console=output.err, disable=not output.err.is_terminal
    )
    for place, result in shown:
        tally.add(result)
        if not result.is_good:
            bad.append(_bad(place, result))
    _report(output, tally, bad, time.monotonic() - began)
    return ExitCode.FAILED if bad else ExitCode.OK


def _run_one(output: Output, seed: int, *, trace: bool) -> int:
    result = simulate(seed)
    if trace:
        for line in result.trace:
            output.line(line)
    _show_bad(output, [_bad(seed, result)] if result.violations else [])
    if result.is_good:
        faults = plural(sum(result.faults.values()), "fault")
        output.line(
            f"Seed {seed}: {plural(result.operations, 'operation')} in "
            f"{plural(result.processes, 'process', 'processes')}, {faults}; everything held."
        )
    output.document(
        {
            "seed": seed,
            "digest": result.digest,
            "faults": dict(result.faults),
            "violations": [v._asdict() for v in result.violations],
            "trace": list(result.trace) if trace else [],
        }
    )
    return ExitCode.OK if result.is_good else ExitCode.FAILED


def _bad(place: int | CrashPoint, result: SimulationResult) -> dict[str, Any]:
    name = f"seed {place}" if isinstance(place, int) else str(place)
    return {"place": name, "violations": [v._asdict() for v in result.violations]}


def _show_bad(output: Output, bad: list[dict[str, Any]]) -> None:
    for found in bad:
        for violation in found["violations"]:
            output.line(
                f"{found['place']}: {violation['invariant']}: {violation['sentence']}", "red"
            )
        if found["place"].startswith("seed "):
            output.line(f"  again: karbor-actors simulate --{found['place']} --trace")


def _report(output: Output, tally: Tally, bad: list[dict[str, Any]], seconds: float) -> None:
    faults = sorted(tally.struck, key=_fault_order)
    _show_table(output, tally, faults)
    _show_bad(output, bad)
    output.line(
        f"{plural(tally.runs, 'run')}: {plural(tally.operations, 'operation')}, "
        f"{plural(tally.crashes, 'crash', 'crashes')}, {len(bad)} bad; "
        f"{tally.operations / seconds:.0f} operations a second."
    )
    output.document(
        {
            "runs": tally.runs,
            "operations": tally.operations,
            "processes": tally.processes,
            "crashes": tally.crashes,
            "seconds": seconds,
            "faults": {
                fault: {
                    "struck": tally.struck[fault],
                    "runs": tally.tried[fault],
                    "broken": {n: c for n in INVARIANTS if (c := tally.broken[fault, n])},
                }
                for fault in faults
            },
            "held": tally.held(),
            "bad": bad,
        }
    )


def _show_table(output: Output, tally: Tally, faults: Sequence[str]) -> None:
    """Print which promises held in the runs with each fault."""
    promises = {name: str(number) for number, name in enumerate(INVARIANTS, 1)}
    output.table(
        ("fault", "struck", "in runs", *promises.values()),
        [
            (
                fault,
                f"{tally.struck[fault]:,}",
                f"{tally.tried[fault]:,}",
                *(_mark(tally.broken[fault, name]) for name in promises),
            )
            for fault in faults
        ],
    )
    output.line()
    held = tally.held()
    output.table(
        ("", "promise", "held in", "that"),
        [
            (promises[name], name, f"{held[name]:,}", meaning)
            for name, meaning in INVARIANTS.items()
        ],
    )
    output.line()


def _mark(broken: int) -> str:
    """Return how a promise fared in the runs with a fault: ``+``, or in how many it was broken."""
    return f"-{broken}" if broken else "+"


def _fault_order(fault: str) -> tuple[int, str]:
    points = [str(point) for point in Point]
    point = fault.split(maxsplit=1)[0]
    return (points.index(point) if point in points else len(points), fault)
