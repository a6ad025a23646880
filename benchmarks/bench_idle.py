"""What does a service cost that does nothing?

After one protect, it is left alone: how often its threads wake (voluntary context switches of all
threads but the one that waits here), how many there are, and how much larger the process is than an
interpreter that has imported nothing.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors import Bank, ProtectionService
from karbor_actors.testing import make_graph, synthetic_plan, synthetic_provider

if TYPE_CHECKING:
    import argparse

OURS = "karbor_actors"
SETTLING = 1.0
KIB, MIB = 1 << 10, 1 << 20
SIZE = "import re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    name = f"idle for {arguments.seconds:g} s"
    return [measuring.Case(name, (OURS,), {"seconds": arguments.seconds})]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Protect once, and look at the process before and after a while."""
    graph = make_graph("tree", 5)
    asked = [sys.executable, "-I", "-S", "-c", SIZE]
    bare = int(subprocess.run(asked, check=True, capture_output=True).stdout)
    with ProtectionService() as service:
        bank = Bank.open(f"{parameters['directory']}/bank")
        service.add_provider(synthetic_provider(graph, bank=bank))
        service.protect(synthetic_plan(graph)).result()
        time.sleep(SETTLING)
        before = wake_ups()
        time.sleep(parameters["seconds"])
        after = wake_ups()
        figures = {
            "wake-ups": float(sum(after[thread] - before.get(thread, 0) for thread in after)),
            "threads": float(len(after) + 1),
            "over the interpreter, MiB": (resident() - bare) * KIB / MIB,
        }
    return measuring.Measured({}, {}, {}, figures)


def wake_ups() -> dict[str, int]:
    """Return how often each thread but this one has gone to sleep so far."""
    own = str(threading.get_native_id())
    return {
        task.name: field(task / "status", "voluntary_ctxt_switches")
        for task in Path("/proc/self/task").iterdir()
        if task.name != own
    }


def resident() -> int:
    """Return the process's size in memory, in KiB."""
    return field(Path("/proc/self/status"), "VmRSS")


def field(path: Path, name: str) -> int:
    """Return the number behind *name* in a status file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise LookupError(f"{path} has no {name}")


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--seconds", type=float, default=30, help="to be idle (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "idle", "", cases, measure)


if __name__ == "__main__":
    main()
