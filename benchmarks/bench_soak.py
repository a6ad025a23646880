"""Does anything grow while operations follow each other for a long time?

Again and again a protect, and a verify, a restore and a delete of its checkpoint, so that the bank
holds no more at the end than at the beginning. Growth is from half of the time to its end: by then
whatever is made once has been made. What takes longest are the C library's arenas, one for every few
threads, each of which grows to the most that it ever held: there are two of them, unless the environment
says otherwise (MALLOC_ARENA_MAX), as in a daemon that is to stay small.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
from bench_idle import resident

from karbor_actors import Bank, Operation, ProtectionService, Provider
from karbor_actors.testing import (
    SyntheticProtectable,
    SyntheticProtection,
    make_graph,
    synthetic_plan,
)

if TYPE_CHECKING:
    import argparse

    from karbor_actors import Resource

OURS = "karbor_actors"
RESOURCES = 25
KIB = 1 << 10
OPERATIONS = "operations"
DATA, STORED = "data", 10_000


class Storing(Operation):
    """Stores bytes that are in no other checkpoint."""

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Write them."""
        section = checkpoint.get_resource_bank_section(resource)
        section.write_stream(DATA, io.BytesIO(os.urandom(STORED)))


class Reading(Operation):
    """Reads them again."""

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Read them, which compares their digests."""
        with checkpoint.get_resource_bank_section(resource).open_stream(DATA) as stream:
            if len(stream.read()) != STORED:
                raise RuntimeError(f"{resource} came back with another size")


class StoringProtection(SyntheticProtection):
    """Every node stores, and is restored by reading; verify and delete are the engine's."""

    def get_protect_operation(self, resource: Resource) -> Operation:
        """Return what stores."""
        return Storing()

    def get_restore_operation(self, resource: Resource) -> Operation:
        """Return what reads."""
        return Reading()

    def get_verify_operation(self, resource: Resource) -> Operation:
        """Return one without hooks: the engine verifies."""
        return Operation()

    get_delete_operation = get_verify_operation


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    name = f"{arguments.minutes:g} minutes of operations"
    return [measuring.Case(name, (OURS,), {"seconds": arguments.minutes * 60})]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run operations until the time is over."""
    graph = make_graph("tree", RESOURCES)
    plan = synthetic_plan(graph)
    directory = f"{parameters['directory']}/bank"
    samples: list[tuple[float, dict[str, float]]] = []
    operations = 0
    began = time.perf_counter()
    with ProtectionService() as service:
        service.add_provider(
            Provider(
                "synthetic",
                bank=Bank.open(directory),
                protection_plugins=[StoringProtection()],
                protectables=[SyntheticProtectable(graph)],
            )
        )
        while (now := time.perf_counter() - began) < parameters["seconds"] or len(samples) < 2:  # noqa: PLR2004
            checkpoint = service.protect(plan).result()
            service.verify(checkpoint.id).result()
            service.restore(checkpoint.id).result()
            service.delete(checkpoint.id).result()
            operations += 4
            if not samples or now - samples[-1][0] >= parameters["seconds"] / 100:
                samples.append((now, sizes(directory)))
        samples.append((now, sizes(directory)))
    after = samples[-1][0] / 2
    early = next(found for at, found in samples if at >= after)
    late = samples[-1][1]
    growth = {f"growth of {name}": late[name] - early[name] for name in late}
    figures = {OPERATIONS: float(operations), **growth, **late}
    notes = {"samples": [{"at": at, **found} for at, found in samples]}
    seconds = samples[-1][0]
    return measuring.Measured({OPERATIONS: seconds}, {OPERATIONS: operations}, notes, figures)


def sizes(directory: str) -> dict[str, float]:
    """Return how large everything is now that could grow."""
    records = Path(directory, "bank.lmdb").rglob("*")
    return {
        "memory, MiB": resident() / KIB,
        "threads": float(len(os.listdir("/proc/self/task"))),
        "handles": float(len(os.listdir("/proc/self/fd"))),
        "LMDB file, KiB": sum(file.stat().st_blocks for file in records) * 512 / KIB,
        "objects": float(sum(1 for found in Path(directory).rglob("*") if found.is_file())),
    }


def main() -> None:
    parser = measuring.parser(__doc__, repeats=1)
    parser.set_defaults(warm_up=0)
    parser.add_argument("--minutes", type=float, default=30, help="(%(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # of the process that is measured
    measuring.run(arguments, "soak", "operations/s", cases, measure)


if __name__ == "__main__":
    main()
