"""Run Pykka's own test suite with `karbor_actors.actors.PooledActor` as its runtime.

It downloads the source distribution of the installed Pykka, adds the runtime to the tests'
``RUNTIMES`` and runs them once for each number of workers. Needs pip, pytest and pytest-mock.

    python tests/pykka_suite/run.py [--threads 1,2,4,8] [--repeat 1] [pytest arguments]

It exits with 0 only if every run passed and ran tests on the pooled runtime.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

THREADS_VARIABLE = "KARBOR_PYKKA_SUITE_THREADS"
MINIMUM = 50
"""Fewer tests than this on the pooled runtime mean that the suite did not take it up."""

ANCHOR = '\n@pytest.fixture(scope="session", params=RUNTIMES.values())\n'
RUNTIME = f"""
import os

from karbor_actors.actors import PooledActor, ThreadDispatcher, set_default_dispatcher
from karbor_actors.actors.future import PooledFuture

set_default_dispatcher(
    ThreadDispatcher(threads=int(os.environ["{THREADS_VARIABLE}"]), name="pykka-suite")
)
RUNTIMES["pooled"] = pytest.param(
    Runtime(
        name="pooled",
        actor_class=PooledActor,
        event_class=threading.Event,
        future_class=PooledFuture,
        sleep_func=time.sleep,
    ),
    id="pooled",
)
"""


class SuiteError(Exception):
    """The suite cannot be run, or ran without the pooled runtime."""


def fetch_suite(directory: Path) -> Path:
    """Download and unpack the installed Pykka's source into *directory*; return its root."""
    release = version("pykka")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "pykka", "--dest", str(directory), f"pykka=={release}"]
    subprocess.run(command, check=True)
    (archive,) = directory.glob("pykka-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    return directory / f"pykka-{release}"


def add_runtime(root: Path) -> None:
    """Add the pooled runtime to the suite's ``RUNTIMES``."""
    conftest = root / "tests" / "conftest.py"
    text = conftest.read_text()
    if text.count(ANCHOR) != 1:
        raise SuiteError(f"{conftest.name} of this Pykka is not as expected: adapt ANCHOR")
    conftest.write_text(text.replace(ANCHOR, RUNTIME + ANCHOR))


def run_suite(root: Path, threads: int, arguments: list[str]) -> int:
    """Run the suite once on *threads* workers; return the number of tests on the runtime."""
    report = root / f"report-{threads}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    command += ["-k", "not [threading", f"--junit-xml={report}", *arguments]
    environment = {**os.environ, THREADS_VARIABLE: str(threads)}
    if paths := os.environ.get("PYTHONPATH"):
        # The suite runs elsewhere, where relative paths lead nowhere.
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths.split(os.pathsep)))
    subprocess.run(command, cwd=root, env=environment, check=True)
    cases = ET.parse(report).iter("testcase")
    return sum("[pooled" in case.get("name", "") for case in cases if not len(case))


def run_all(counts: list[int], arguments: list[str]) -> None:
    """Fetch the suite and run it on each number of workers in *counts*."""
    with tempfile.TemporaryDirectory(prefix="pykka-suite-") as directory:
        root = fetch_suite(Path(directory))
        add_runtime(root)
        for threads in counts:
            ran = run_suite(root, threads, arguments)
            if ran < MINIMUM:
                raise SuiteError(f"only {ran} tests passed on the pooled runtime")
            say(f"{threads} workers: {ran} tests passed on PooledActor")


def say(line: str) -> None:
    """Write *line* among the output of the runs."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the suite as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2,4,8", help="numbers of workers to try")
    parser.add_argument("--repeat", type=int, default=1, help="how often to run each")
    options, arguments = parser.parse_known_args()
    counts = [int(count) for count in options.threads.split(",")] * options.repeat
    try:
        run_all(counts, arguments)
    except (SuiteError, subprocess.CalledProcessError) as error:
        say(f"the Pykka suite failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
