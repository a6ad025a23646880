"""What many tests share; import it as ``helpers``."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """Make *place* a file system of its own, of *size* (``"4m"``), in memory."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system, to fill it")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(ballast: Path) -> None:
    """Leave no space on a small file system, made for that: the file *ballast* takes all."""
    assert shutil.disk_usage(ballast.parent).total < 1 << 30, "mount a small one"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
