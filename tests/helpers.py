"""What many tests share; import it as ``helpers``."""

from __future__ import annotations

import threading
from pathlib import Path

DEADLINE = 30.0
"""Seconds that a test waits for anything: generous, since reaching it means failure."""


class Gate:
    """A place where other threads stop until a test lets them pass."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        """Report that somebody came, and wait until the gate is open."""
        self._entered.set()
        assert self._opened.wait(DEADLINE), "the gate was never opened"

    def wait_entered(self) -> None:
        """Wait until somebody stands at the gate."""
        assert self._entered.wait(DEADLINE), "nobody came to the gate"

    def open(self) -> None:
        """Let everybody pass, now and later."""
        self._opened.set()


def open_files() -> dict[int, str]:
    """Return this process's open file descriptors and what each refers to."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:
            continue  # the listing's own descriptor, or one closed meanwhile
    return found
