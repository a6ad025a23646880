"""The console script: what stands around every command."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
_NEEDED = ("click", "rich")


def main() -> int:
    """Run the command in ``sys.argv`` and return its exit code."""
    _open_missing_streams()
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.stderr.write(
            "error: the command line needs its extra: pip install 'karbor-actors[cli]'\n"
        )
        return 2
    try:
        # Imported late: the hint above must work without what the commands import.
        code: int = importlib.import_module("karbor_actors.cli.app").run(sys.argv[1:])
    except BrokenPipeError:  # the reader of our output went away, as head does
        code = EXIT_BROKEN_PIPE
    try:
        sys.stdout.flush()
    except OSError:
        # The command has said so; Python's own flush at the exit must not meet it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _open_missing_streams() -> None:
    """Give output that the caller closed somewhere to go; Python has None for it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
