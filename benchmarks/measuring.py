"""What the benchmarks share: fresh processes, paired runs, one JSON line and two tables.

A script says which cases there are and how one system is measured in one case. Each measured run
is a process of its own. The systems of a case run one after another, round by round, every second
round in the reverse order; a ratio compares two runs of one round, so that a load that comes and
goes on the machine hits both alike. A first round warms up and is not counted.

What is no rate (a latency, a size, a share) is a figure: it has a table of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
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
    needs: dict[str, str] = field(default_factory=dict)
    """The module that a system cannot do without, by system; it may not be installed."""

    def split(self) -> tuple[list[str], dict[str, str]]:
        """Return the systems that can run, and the missing module of each of the others."""
        missing = {
            system: module
            for system, module in self.needs.items()
            if importlib.util.find_spec(module) is None
        }
        return [system for system in self.systems if system not in missing], missing


@dataclass
class Measured:
    """What one run of one system took."""

    seconds: dict[str, float]
    """By metric."""
    amounts: dict[str, float]
    """What was done in that time, by metric, in the benchmark's unit."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else is worth knowing; our system's are passed on to the others of its case."""
    figures: dict[str, float] = field(default_factory=dict)
    """What was measured and is no rate, by name."""


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repeats", type=int, default=repeats, help="counted rounds (%(default)s)")
    made.add_argument("--warm-up", type=int, default=1, help="rounds before those (%(default)s)")
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
    *,
    removes_late: bool = False,
) -> None:
    """Measure and print; or, in a process of its own, do the one run that was asked for.

    Args:
        arguments: What the parser of :func:`parser` found.
        name: The benchmark's name.
        unit: Of the rates.
        cases: Returns the cases.
        measure: Measures a system (its name), given the case's parameters, with ``directory``
            to work in, and the notes of our system's latest run.
        removes_late: Whether the runs' folders stay until the last run has ended. For minutes
            ext4 gives no inode of a deleted file to a new one: who makes a file beside where
            thousands were just removed waits for half a millisecond instead of 0.01.
    """
    if arguments.one_run is not None:
        asked = json.loads(arguments.one_run)
        parameters = {**asked["parameters"], "directory": arguments.directory}
        print(json.dumps(vars(measure(asked["system"], parameters, asked["notes"]))))
        return
    if arguments.repeats < 1:
        sys.exit("--repeats must be at least 1")
    results, figures, missing = [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.directory) as folder:
        for case in cases(arguments):
            runs = _measure_case(arguments, folder, case, removes_late=removes_late)
            results += _rows(case, runs)
            figures += _figures(case, runs)
            absent = case.split()[1]
            missing += [{"case": case.name, "system": one, "module": absent[one]} for one in absent]
    _print_tables(unit, results, figures, missing)
    found = {"results": results, "figures": figures, "missing": missing}
    print(json.dumps({"benchmark": name, "unit": unit, **_where(arguments), **found}))


def _where(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured, on what, and how."""
    # Not where things lie on one machine: its file system is said.
    given = {k: v for k, v in vars(arguments).items() if not os.path.isabs(str(v))}
    del given["one_run"]
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "machine": machine(arguments.directory),
        "parameters": given,
    }


def _measure_case(
    arguments: argparse.Namespace, folder: str, case: Case, *, removes_late: bool
) -> dict[str, list[Measured]]:
    systems, _ = case.split()
    runs: dict[str, list[Measured]] = {system: [] for system in systems}
    notes: dict[str, Any] = {}
    for number in range(arguments.warm_up + arguments.repeats):
        # Notes of ours are for the others: so the first round begins with ours.
        for system in systems if number % 2 == 0 else systems[::-1]:
            print(f"{case.name}: {system}, round {number}", file=sys.stderr)
            directory = tempfile.mkdtemp(dir=folder)
            measured = _one_run(directory, case, system, notes)
            if not removes_late:
                shutil.rmtree(directory)
            if system == systems[0]:
                notes = measured.notes
            if number >= arguments.warm_up:
                runs[system].append(measured)
    return runs


def _rows(case: Case, runs: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    return [
        _row(case, metric, system, runs)
        for metric in runs[case.systems[0]][0].seconds
        for system in runs
        if metric in runs[system][0].seconds
    ]


def _figures(case: Case, runs: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    found = []
    for system, own in runs.items():
        for name in own[0].figures:
            values = [run.figures[name] for run in own]
            found.append(
                {
                    "case": case.name,
                    "system": system,
                    "figure": name,
                    "values": values,
                    "median": statistics.median(values),
                }
            )
    return found


def _one_run(directory: str, case: Case, system: str, notes: dict[str, Any]) -> Measured:
    """Measure *system* in a fresh process."""
    asked = json.dumps({"system": system, "parameters": case.parameters, "notes": notes})
    ended = subprocess.run(
        [sys.executable, sys.argv[0], "--directory", directory, "--one-run", asked],
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


def _print_tables(
    unit: str,
    results: list[dict[str, Any]],
    figures: list[dict[str, Any]],
    missing: list[dict[str, Any]],
) -> None:
    if results:
        _print_rates(unit, results)
    if figures:
        head = ("case", "system", "figure", "median", "range")
        rows = [head]
        for one in figures:
            span = f"{figure(min(one['values']))} - {figure(max(one['values']))}"
            rows.append((one["case"], one["system"], one["figure"], figure(one["median"]), span))
        print_columns(rows)
    for one in missing:
        print(f"{one['case']}: {one['system']} was not measured: {one['module']} is not installed")


def _print_rates(unit: str, results: list[dict[str, Any]]) -> None:
    head = ("case", "measured", "system", f"{unit}, median", "best", "ours / this (range)")
    rows = [head]
    for result in results:
        ratio = ""
        if "our_rate_by_this" in result:
            low, high = result["our_rate_by_this_range"]
            ratio = f"{result['our_rate_by_this']:.2f} ({low:.2f}-{high:.2f})"
        median, best = figure(result["rate_median"]), figure(result["rate_best"])
        rows.append((result["case"], result["metric"], result["system"], median, best, ratio))
    print_columns(rows)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* with their cells below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def figure(value: float) -> str:
    """Return *value* for a person: three digits, or whole thousands."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def commit() -> str:
    """Return the commit that is measured, ``-dirty`` if files differ from it, or "unknown"."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() or "unknown"


def machine(directory: str) -> dict[str, Any]:
    """Return what the figures were taken on; *directory* is where the data went."""
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
