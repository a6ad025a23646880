"""Each benchmark, at a tiny size: that it runs and what it prints; its figures mean nothing."""

from __future__ import annotations

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
    "hooks": ["--size", "40"],
    "bank_writes": ["--size", "8", "--threads", "1", "4"],
    "filesystem": ["--size", "0.5"],
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
    ended = run(name, *RUNS[name], "--repeats", "2", "--directory", str(tmp_path))

    assert ended.returncode == 0, ended.stderr
    *table, last = ended.stdout.splitlines()
    line = json.loads(last)
    assert line["benchmark"] == name
    assert {"unit", "commit", "python", "machine", "parameters"} <= line.keys()
    assert {"cores", "cpu"} <= line["machine"].keys()
    assert len(table) == 1 + len(line["results"])
    for text, result in zip(table[1:], line["results"], strict=True):
        assert result["system"] in text
        assert len(result["seconds"]) == 2
        assert 0 < result["seconds_min"] <= result["seconds_median"]
        assert result["rate_best"] >= result["rate_median"] > 0
    is_ours = ["our_rate_by_this" not in result for result in line["results"]]
    assert 0 < sum(is_ours) < len(is_ours)
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
