"""How long does it take to open a bank in which many operations were under way?

A process starts them, each with 25 resources (100 hooks): the prepare hooks end, and the main hooks
hang. When all do, it is killed. "know" is from the opening of the bank until the service lists all
of them; "end" until all have ended, their hooks doing nothing now.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import measuring

from karbor_actors import Bank, OperationStatus, Plan, ProtectionService, Provider
from karbor_actors.testing import (
    SyntheticGraph,
    SyntheticProtectable,
    SyntheticProtection,
    Work,
    make_graph,
    synthetic_plan,
)

OURS = "karbor_actors"
RESOURCES = 25
FOREVER = 3600
KNOW, END = "know", "end"


class Hanging(SyntheticProtection):
    """No-op hooks; but the main ones hang, if *count* says how many there are.

    Args:
        count: After so many, :attr:`all_hang` is set; 0: they are no-ops too.
    """

    def __init__(self, count: int) -> None:
        super().__init__(Work(is_async=True))
        self.all_hang = threading.Event()
        if not count:
            return
        left = [count]

        async def on_main(*_arguments: Any, **_keywords: Any) -> None:
            left[0] -= 1
            if not left[0]:
                self.all_hang.set()
            await asyncio.sleep(FOREVER)

        self._operation = type("HangingOperation", (type(self._operation),), {"on_main": on_main})()


def provider_of(graph: SyntheticGraph, bank: str, *, hang: bool) -> tuple[Provider, Hanging]:
    """Return the provider that the killed process has, and the one that comes after it."""
    plugin = Hanging(graph.size if hang else 0)
    made = Provider(
        "bench",
        bank=Bank.open(bank),
        protection_plugins=[plugin],
        protectables=[SyntheticProtectable(graph)],
    )
    return made, plugin


def leave_unfinished(bank: str, count: int) -> None:
    """Start the operations, and kill this process when all their main hooks hang."""
    graph = make_graph("flat", RESOURCES * count)
    resources = synthetic_plan(graph).resources
    service = ProtectionService()
    provider, plugin = provider_of(graph, bank, hang=True)
    service.add_provider(provider)
    for first in range(0, len(resources), RESOURCES):
        service.protect(Plan(f"plan {first}", "bench", resources[first : first + RESOURCES]))
    if not plugin.all_hang.wait(FOREVER):
        raise RuntimeError("the hooks did not all begin")
    os.kill(os.getpid(), signal.SIGKILL)


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case; the bank is made once."""
    leaving = [sys.executable, sys.argv[0], "--leave", arguments.bank, "--size"]
    ended = subprocess.run([*leaving, str(arguments.size)], check=False)
    if ended.returncode != -signal.SIGKILL:
        sys.exit(f"the process that was to be killed ended with {ended.returncode}")
    hooks = 4 * RESOURCES * arguments.size
    name = f"{arguments.size:,} unfinished operations, {hooks:,} hooks"
    return [measuring.Case(name, (OURS,), {"bank": arguments.bank, "operations": arguments.size})]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Open a copy of the bank, and wait until nothing is left unfinished."""
    count = parameters["operations"]
    bank = os.path.join(parameters["directory"], "bank")
    shutil.copytree(parameters["bank"], bank)
    os.sync()  # what the copy left to write is not this run's
    graph = make_graph("flat", RESOURCES * count)
    with ProtectionService() as service:
        began = time.perf_counter()
        service.add_provider(provider_of(graph, bank, hang=False)[0])
        recovered = service.recovered
        known = time.perf_counter() - began
        for handle in recovered:
            handle.wait()
        ended = time.perf_counter() - began
        statuses = [handle.status for handle in recovered]
    if statuses != [OperationStatus.SUCCEEDED] * count:
        raise RuntimeError(f"{len(statuses)} operations came back, as {set(statuses)}")
    return measuring.Measured(
        {KNOW: known, END: ended},
        {KNOW: count, END: count},
        {},
        {"until they are known, s": known, "until they have ended, s": ended},
    )


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--size", type=int, default=1_000, help="operations (%(default)s)")
    parser.add_argument("--leave", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.leave is not None:
        leave_unfinished(arguments.leave, arguments.size)
    elif arguments.one_run is not None:
        measuring.run(arguments, "recovery", "operations/s", cases, measure)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-left-", dir=arguments.directory) as left:
            arguments.bank = os.path.join(left, "bank")
            measuring.run(arguments, "recovery", "operations/s", cases, measure)


if __name__ == "__main__":
    main()
