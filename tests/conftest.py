"""What every test is watched for: threads, actors, files and logged errors left behind."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

import hypothesis
import pykka
import pytest

from helpers import DEADLINE, open_files

if TYPE_CHECKING:
    from collections.abc import Iterator

# A landing must not depend on chance, so CI tries the same examples each time; elsewhere each
# run tries new ones, and prints what reproduces a failure.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

PROCESS_WIDE_THREADS = ("karbor-default",)
"""Name prefixes of threads that serve the whole process and start with their first user."""


# Where tests are run in the background SIGINT may be ignored, and all children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


class _ErrorRecords(logging.Handler):
    """Keeps what is logged as an ERROR or worse."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1]:
            text += f" ({record.exc_info[1]!r})"
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _no_logged_error(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which the engine or Pykka logged an ERROR that it does not expect."""
    handler = _ErrorRecords()
    loggers = [logging.getLogger(name) for name in ("pykka", "karbor_actors")]
    for logger in loggers:
        logger.addHandler(handler)
    yield
    for logger in loggers:
        logger.removeHandler(handler)
    if request.node.get_closest_marker("crash_expected") is None:
        assert not handler.lines, "logged as an ERROR:\n" + "\n".join(handler.lines)


def _left_threads(before: set[threading.Thread]) -> list[str]:
    """Return the names of threads that came since *before* and do not end by themselves."""
    left = []
    for thread in set(threading.enumerate()) - before:
        # A "dummy" is one that was not begun by `threading`, and stays in its books when it has ended.
        if thread.name.startswith((*PROCESS_WIDE_THREADS, "Dummy-")):
            continue
        thread.join(DEADLINE / 6)  # one that was told to stop may be on its last lines
        if thread.is_alive():
            left.append(thread.name)
    return sorted(left)


def _left_files(before: dict[int, str]) -> list[str]:
    """Return what was opened since *before* and is open still."""
    left = open_files().items() - before.items()
    if left:
        gc.collect()  # what only a reference cycle holds is no leak of the product's
        left = open_files().items() - before.items()
    return sorted(f"{number} -> {target}" for number, target in left)


@pytest.fixture(autouse=True)
def _nothing_left_behind(_no_logged_error: None) -> Iterator[None]:
    """Fail a test that a thread, an actor or an open file outlives."""
    threads, actors, files = set(threading.enumerate()), _actors(), open_files()
    yield
    left_actors = sorted(str(ref) for ref in _actors() - actors)
    for ref in _actors() - actors:
        ref.stop(timeout=DEADLINE / 6)  # so that only this test fails
    left_threads = _left_threads(threads)

    assert not left_actors, f"actors left running: {left_actors}"
    assert not left_threads, f"threads left running: {left_threads}"
    assert not (left := _left_files(files)), f"files left open: {left}"


def _actors() -> set[pykka.ActorRef]:
    """Return the actors that are registered with Pykka."""
    return set(pykka.ActorRegistry.get_all())
