"""The console script: what stands around every command."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import signal
import sys
from typing import Any

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
EXIT_CANCELLED = 128 + signal.SIGINT
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a program to end."""
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
        commands = importlib.import_module("karbor_actors.cli.app")
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # the console script had its own
        code: int = commands.run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; no operation was running\n")
        code = EXIT_CANCELLED
    except BrokenPipeError:  # the reader of our output went away, as head does
        code = EXIT_BROKEN_PIPE
    # Python gives up its handlers before it ends: a late signal would kill it.
    _hear_signals(signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError:
        # The command has said so; Python's own flush at the exit must not meet it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    atexit.register(_hear_signals, signal.SIG_IGN)
    # Until then Python waits for threads that plugins have left, maybe for ever.
    _hear_signals(lambda *_: os._exit(code))
    return code


def _hear_signals(handler: Any) -> None:
    """Have *handler* called for the signals that ask a program to end."""
    for number in ENDING:
        signal.signal(number, handler)


def _open_missing_streams() -> None:
    """Give output that the caller closed somewhere to go; Python has None for it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
