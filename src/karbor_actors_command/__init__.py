"""The console script: the first thing that runs, so that Ctrl-C while the rest loads is no traceback.

A module of its own, since importing any part of ``karbor_actors`` first loads the whole of it,
which takes half a second.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys

_CANCELLED = 128 + signal.SIGINT
_STDOUT, _STDERR = 1, 2
_MESSAGE = "interrupted; no operation was running"


def main() -> int:
    """Run the command in ``sys.argv`` and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _leave)
    code: int = importlib.import_module("karbor_actors.cli.entry").main()
    return code


def _leave(number: int, frame: object) -> None:
    """End the process at once: an exception within an import may be swallowed or printed."""
    with contextlib.suppress(OSError):  # whoever closed them does not want to know
        if "--json" in sys.argv:
            error = {"class": "KeyboardInterrupt", "message": _MESSAGE, "exit_code": _CANCELLED}
            document = json.dumps({"error": {**error, "data": {}}})
            os.write(_STDOUT, f"{document}\n".encode())
        os.write(_STDERR, f"error: {_MESSAGE}\n".encode())
    os._exit(_CANCELLED)
