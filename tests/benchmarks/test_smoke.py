"""Each benchmark, at a tiny size: that it runs and what it prints; its figures mean nothing."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LIMIT = 120.0
NEEDS_ZSTD = pytest.mark.skipif(
    shutil.which("zstd") is None, reason="the command zstd is not installed"
)
RUNS = {
    "async": ["--size", "20", "--sleep", "0.01"],
    "bank_writes": ["--size", "8", "--threads", "1", "4"],
    "filesystem": ["--size", "0.5"],
    "graph": ["--size", "50"],
    "hooks": ["--size", "40"],
    "idle": ["--seconds", "0.1"],
    "latency": ["--size", "3"],
    "makespan": ["--size", "40", "--workers", "4", "--seeds", "2"],
    "operations": ["--size", "3"],
    "peers": ["--at-most", "0"],
    "recovery": ["--size", "2"],
    "soak": ["--minutes", "0"],
    "unchanged": ["--size", "20"],
}
MARKS = {"filesystem": NEEDS_ZSTD}


def run(name, *arguments, **kwargs):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"bench_{name}.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        **kwargs,
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MARKS.get(name, ())) for name in sorted(RUNS)]
)
def test_a_benchmark_prints_a_table_and_one_json_line(name, tmp_path):
    repeats = ("--repeats", "2", "--warm-up", "0")
    ended = run(name, *RUNS[name], *repeats, "--directory", str(tmp_path))

    assert ended.returncode == 0, ended.stderr
    *table, last = ended.stdout.splitlines()
    line = json.loads(last)
    assert line["benchmark"] == name
    assert {"unit", "commit", "python", "machine", "parameters"} <= line.keys()
    assert {"cores", "cpu"} <= line["machine"].keys()
    rates, figures = line["results"], line["figures"]
    assert len(table) == sum(1 + len(rows) for rows in (rates, figures) if rows)
    below = table[1 + len(rates) :] if rates else table
    for text, row in zip(table[1:], rates, strict=False):
        assert row["system"] in text
        assert len(row["seconds"]) == 2
        assert 0 < row["seconds_min"] <= row["seconds_median"]
        assert row["rate_best"] >= row["rate_median"] > 0
    for text, row in zip(below[1:], figures, strict=False):
        assert row["figure"] in text
        assert min(row["values"]) <= row["median"] <= max(row["values"])
        assert len(row["values"]) == 2
    assert not list(tmp_path.iterdir())


def test_every_benchmark_has_a_smoke_run_and_a_place_in_the_readme():
    names = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")

    assert names == set(RUNS)
    assert all(f"bench_{name}.py" in readme for name in names)


def test_a_missing_command_is_an_error_that_names_it(tmp_path):
    ended = run("filesystem", env={**os.environ, "PATH": str(tmp_path)})

    assert ended.returncode != 0
    assert "bench_filesystem.py needs the command" in ended.stderr


def test_no_repeats_are_refused():
    ended = run("hooks", "--repeats", "0")

    assert ended.returncode != 0
    assert "--repeats must be at least 1" in ended.stderr


def test_a_peer_that_is_not_installed_is_counted_and_named(tmp_path):
    pieces = ("taskflow", "dask", "karbor", "eventlet")
    hiding = "import importlib.util, runpy, sys\n"
    hiding += "find = importlib.util.find_spec\n"
    hiding += f"importlib.util.find_spec = lambda name: None if name in {pieces} else find(name)\n"
    hiding += "sys.argv = sys.argv[1:]\n"
    hiding += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    script = tmp_path / "hiding.py"
    script.write_text(hiding, encoding="utf-8")
    arguments = ("--at-most", "400", "--repeats", "1", "--warm-up", "0")
    ended = subprocess.run(
        [sys.executable, script, ROOT / "benchmarks" / "bench_peers.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": path_of("benchmarks")},
    )

    assert ended.returncode == 0, ended.stderr
    *table, last = ended.stdout.splitlines()
    absent = json.loads(last)["missing"]
    assert {one["module"] for one in absent} == {"taskflow", "karbor"}
    assert "TaskFlow, parallel engine was not measured: taskflow is not installed" in table[-1]


def path_of(folder):
    """Return PYTHONPATH with a folder of the project before what it has."""
    return os.pathsep.join(filter(None, (str(ROOT / folder), os.environ.get("PYTHONPATH", ""))))


def test_all_benchmarks_run_together_and_say_which_goals_are_met(tmp_path):
    output, picture = tmp_path / "out.json", tmp_path / "out.svg"
    ended = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "run",
            *("--quick", "--only", "latency", "--only", "graph"),
            *("--directory", str(tmp_path), "--output", str(output), "--picture", str(picture)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )

    assert ended.returncode == 0, ended.stderr
    everything = json.loads(output.read_text(encoding="utf-8"))
    assert {"commit", "python", "machine"} <= everything.keys()
    assert list(everything["benchmarks"]) == ["graph", "latency"]
    goals = everything["goals"]
    assert {goal["benchmark"] for goal in goals} == {"graph", "latency"}
    for goal in goals:
        [text] = [line for line in ended.stdout.splitlines() if goal["what"] in line]
        assert text.endswith("NOT MET" if not goal["is_met"] else "met")
    assert not picture.exists(), "there are no curves without hooks and peers"


def test_every_benchmark_of_the_whole_run_exists_and_every_goal_has_one():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        goals = importlib.import_module("goals")
    finally:
        sys.path.pop(0)
    scripts = {benchmark.script for benchmark in goals.BENCHMARKS.values()}

    assert scripts == {f"bench_{name}.py" for name in RUNS}
    assert {goal.benchmark for goal in goals.GOALS} == set(goals.BENCHMARKS)
