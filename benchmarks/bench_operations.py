"""What do many operations at once cost, beside one that is as large as all of them?

Each protects 25 resources of its own (100 no-op hooks); all are started as fast as a thread can.
"waited for" is how many had ended before the last one's first hook began: 1 would be a queue.

Beside them what the many leave, made alone: as many checkpoints of 25 resources, begun and finished
by 32 threads, without an operation, a plugin or a hook.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors import (
    Bank,
    CheckpointStatus,
    HookName,
    Operation,
    OperationStatus,
    Plan,
    ProtectionService,
)
from karbor_actors.graph import build_graph
from karbor_actors.testing import (
    SyntheticProtection,
    make_graph,
    synthetic_plan,
    synthetic_provider,
)

if TYPE_CHECKING:
    import argparse

    from karbor_actors import Resource

MANY, ONE = "karbor_actors, many operations", "karbor_actors, one operation"
CHECKPOINTS = "karbor_actors, as many checkpoints alone"
RECORDERS = 32
RESOURCES = 25
TOGETHER = "from the first call to the last end"
WARM_UP = 3


class Stamps(SyntheticProtection):
    """No-op hooks; that of a plan's first resource notes when it began."""

    def __init__(self) -> None:
        super().__init__()
        began: dict[int, float] = {}
        self.began = began

        class Stamping(type(self.get_protect_operation(None))):  # type: ignore[misc]
            def on_prepare_begin(self, checkpoint: Any, resource: Any, *_: Any, **__: Any) -> None:
                began[int(resource.id) // RESOURCES] = time.perf_counter()

        self._stamping: Operation = Stamping()

    def get_protect_operation(self, resource: Resource | None) -> Operation:
        """Return the operation that notes the time, for every 25th resource."""
        if resource is not None and int(resource.id) % RESOURCES == 0:
            return self._stamping
        return self._operation


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return the one case."""
    hooks = RESOURCES * len(HookName)
    name = f"{arguments.size:,} operations of {hooks - RESOURCES} hooks"
    return [measuring.Case(name, (MANY, ONE, CHECKPOINTS), {"count": arguments.size})]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Start all, and wait for all."""
    count = parameters["count"]
    graph = make_graph("flat", RESOURCES * count)
    resources = synthetic_plan(graph).resources
    step = len(resources) if system == ONE else RESOURCES
    plans = [
        Plan(f"plan {first}", "synthetic", resources[first : first + step])
        for first in range(0, len(resources), step)
    ]
    if system == CHECKPOINTS:
        seconds = make_checkpoints(parameters["directory"], plans)
        return measuring.Measured({TOGETHER: seconds}, {TOGETHER: 4 * graph.size})
    stamps = Stamps()
    ended: dict[str, float] = {}
    all_ended = threading.Event()

    def note_end(handle: Any) -> None:
        ended[handle.id] = time.perf_counter()
        if len(ended) == len(plans):
            all_ended.set()

    with ProtectionService() as service:
        bank = Bank.open(f"{parameters['directory']}/bank")
        provider = synthetic_provider(graph, bank=bank)
        provider.protection_plugins = dict.fromkeys(provider.protection_plugins, stamps)
        service.add_provider(provider)
        for _ in range(WARM_UP):
            service.protect(Plan("warm-up", "synthetic", resources[:RESOURCES])).result()
        began = time.perf_counter()
        with ThreadPoolExecutor(1) as pool:  # not the main one, which has another do it, and waits
            handles = pool.submit(lambda: [service.protect(plan) for plan in plans]).result()
        for handle in handles:
            handle.add_done_callback(note_end)
        all_ended.wait()
        seconds = max(ended.values()) - began
        if any(handle.status is not OperationStatus.SUCCEEDED for handle in handles):
            raise RuntimeError("an operation did not succeed")
    figures = {}
    if system == MANY:
        last = stamps.began[count - 1]
        figures["waited for, share"] = sum(at < last for at in ended.values()) / count
    return measuring.Measured({TOGETHER: seconds}, {TOGETHER: 4 * graph.size}, {}, figures)


def make_checkpoints(directory: str, plans: list[Plan]) -> float:
    """Return the seconds that a checkpoint of each plan takes, begun and finished."""
    with Bank.open(f"{directory}/bank") as bank, ThreadPoolExecutor(RECORDERS) as pool:

        def make(plan: Plan) -> None:
            graph = build_graph(plan.resources, lambda _: [])
            bank.create_checkpoint(plan, "bench", graph).finish(CheckpointStatus.AVAILABLE)

        for _ in range(WARM_UP):
            make(plans[0])
        began = time.perf_counter()
        for _ in pool.map(make, plans):
            pass
        return time.perf_counter() - began


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--size", type=int, default=1_000, help="operations (%(default)s)")
    arguments = parser.parse_args()
    measuring.run(arguments, "operations", "hooks/s", cases, measure, removes_late=True)


if __name__ == "__main__":
    main()
