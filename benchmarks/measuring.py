"""What the benchmarks share: fresh processes, paired runs, one JSON line and a table.

A script says which cases there are and how one system is measured in one case. Each measured run
is a process of its own. The systems of a case run one after another, round by round, every second
round in the reverse order; a ratio compares two runs of one round, so that a load that comes and
goes on the machine hits both alike. A first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Case:
    """One row of the question: the systems that are compared, ours first."""

    name: str
    systems: Sequence[str]
    parameters: dict[str, Any]


@dataclass
class Measured:
    """What one run of one system took."""

    seconds: dict[str, float]
    """By metric."""
    amounts: dict[str, float]
    """What was done in that time, by metric, in the benchmark's unit."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else is worth knowing; our system's are passed on to the others of its case."""


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repeats", type=int, default=repeats, help="counted rounds (%(default)s)")
    made.add_argument(
        "--directory",
        default=tempfile.gettempdir(),
        help="where the data goes, in a folder that is removed (%(default)s)",
    )
    made.add_argument("--one-run", help=argparse.SUPPRESS)
    return made


def run(
    arguments: argparse.Namespace,
    name: str,
    unit: str,
    cases: Callable[[argparse.Namespace], Sequence[Case]],
    measure: Callable[[str, dict[str, Any], dict[str, Any]], Measured],
) -> None:
    """Measure and print; or, in a process of its own, do the one run that was asked for.

    Args:
        arguments: What the parser of :func:`parser` found.
        name: The benchmark's name.
        unit: Of the rates.
        cases: Returns the cases.
        measure: Measures a system (its name), given the case's parameters, with ``directory``
            to work in, and the notes of our system's latest run.
    """
    if arguments.one_run is not None:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.directory) as directory:
            asked = json.loads(arguments.one_run)
            parameters = {**asked["parameters"], "directory": directory}
            measured = measure(asked["system"], parameters, asked["notes"])
        print(json.dumps(vars(measured)))
        return
    if arguments.repeats < 1:
        sys.exit("--repeats must be at least 1")
    results = [row for case in cases(arguments) for row in _measure_case(arguments, case, measure)]
    _print_table(unit, results)
    given = {key: value for key, value in vars(arguments).items() if key != "one_run"}
    line = {
        "benchmark": name,
        "unit": unit,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": _machine(arguments.directory),
        "parameters": given,
        "results": results,
    }
    print(json.dumps(line))


def _measure_case(
    arguments: argparse.Namespace,
    case: Case,
    measure: Callable[[str, dict[str, Any], dict[str, Any]], Measured],
) -> list[dict[str, Any]]:
    runs: dict[str, list[Measured]] = {system: [] for system in case.systems}
    notes: dict[str, Any] = {}
    for number in range(arguments.repeats + 1):
        order = case.systems if number % 2 == 0 else case.systems[::-1]
        for system in order:
            print(f"{case.name}: {system}, round {number}", file=sys.stderr)
            measured = _one_run(arguments, case, system, notes)
            if system == case.systems[0]:
                notes = measured.notes
            if number:
                runs[system].append(measured)
    return [
        _row(case, metric, system, runs)
        for metric in runs[case.systems[0]][0].seconds
        for system in case.systems
        if metric in runs[system][0].seconds
    ]


def _one_run(
    arguments: argparse.Namespace, case: Case, system: str, notes: dict[str, Any]
) -> Measured:
    """Measure *system* in a fresh process."""
    asked = json.dumps({"system": system, "parameters": case.parameters, "notes": notes})
    ended = subprocess.run(
        [sys.executable, sys.argv[0], "--directory", arguments.directory, "--one-run", asked],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{case.name}: the run of {system} failed; see above")
    return Measured(**json.loads(ended.stdout.splitlines()[-1]))


def _row(case: Case, metric: str, system: str, runs: dict[str, list[Measured]]) -> dict[str, Any]:
    own = runs[system]
    seconds = [run.seconds[metric] for run in own]
    amount = own[0].amounts[metric]
    row = {
        "case": case.name,
        "metric": metric,
        "system": system,
        "amount": amount,
        "seconds": seconds,
        "seconds_min": min(seconds),
        "seconds_median": statistics.median(seconds),
        "rate_best": amount / min(seconds),
        "rate_median": amount / statistics.median(seconds),
        "notes": own[-1].notes,
    }
    if system != case.systems[0]:
        ours = runs[case.systems[0]]
        ratios = [
            (our.amounts[metric] / our.seconds[metric])
            / (run.amounts[metric] / run.seconds[metric])
            for our, run in zip(ours, own, strict=True)
        ]
        row["our_rate_by_this"] = statistics.median(ratios)
        row["our_rate_by_this_range"] = [min(ratios), max(ratios)]
    return row


def _print_table(unit: str, results: list[dict[str, Any]]) -> None:
    head = ("case", "measured", "system", f"{unit}, median", "best", "ours / this (range)")
    rows = [head]
    for result in results:
        ratio = ""
        if "our_rate_by_this" in result:
            low, high = result["our_rate_by_this_range"]
            ratio = f"{result['our_rate_by_this']:.2f} ({low:.2f}-{high:.2f})"
        median, best = _figure(result["rate_median"]), _figure(result["rate_best"])
        rows.append((result["case"], result["metric"], result["system"], median, best, ratio))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _commit() -> str:
    """Return the commit that is measured, ``-dirty`` if files differ from it, or "unknown"."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() or "unknown"


def _machine(directory: str) -> dict[str, Any]:
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in information.splitlines()]
    keys = [line.partition(":")[0].strip() for line in information.splitlines()]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": dict(zip(keys, names, strict=True)).get("model name", platform.machine()),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "filesystem": _filesystem(directory),
        "load_at_end": os.getloadavg()[0],
    }


def _filesystem(directory: str) -> str:
    """Return the type of the file system that *directory* is on."""
    place = os.path.realpath(directory)
    found = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mounted, kind, *_ = line.split()
        if (place + "/").startswith(mounted.rstrip("/") + "/") and len(mounted) >= len(found[0]):
            found = (mounted, kind)
    return found[1]
