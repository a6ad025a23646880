"""How many no-op hooks does the engine run per second?

A protect of a synthetic graph whose hooks do nothing, beside the same hooks, called with the
same arguments in an order that keeps the same edges, by `graphlib` with a `ThreadPoolExecutor`,
and by `graphlib` on one thread. Neither of those records anything, retries, or can be cancelled.

"run" begins when the graph is known and ends when the last hook has ended (ours: when that is
durable). "plan and run" begins with the call; the peers also ask the plugins for the graph.
"""

from __future__ import annotations

import graphlib
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import measuring

from karbor_actors import Bank, HookName, Operation, OperationStatus, ProtectionService, Resource
from karbor_actors.testing import (
    SHAPES,
    SyntheticProtectable,
    SyntheticProtection,
    Work,
    make_graph,
    run_synthetic,
    synthetic_plan,
    synthetic_provider,
)

if TYPE_CHECKING:
    import argparse

    from karbor_actors.testing import SyntheticGraph

OURS, POOL, SERIAL = "karbor_actors", "graphlib + ThreadPoolExecutor", "graphlib, one thread"
HOOKS = Work().hooks
BEGIN, FINISH, COMPLETE = 0, 1, 3
"""Where a resource's hooks that wait for other resources' stand in HOOKS."""
WARM_UP = 100


def cases(arguments: argparse.Namespace) -> list[measuring.Case]:
    """Return one case for each size."""
    return [
        measuring.Case(
            f"{4 * (size // 4):,} hooks, {arguments.shape}",
            (OURS, POOL, SERIAL),
            {
                "resources": size // 4,
                "shape": arguments.shape,
                "workers": arguments.workers,
                "is_async": arguments.asynchronous,
                "has_abort": arguments.abort,
            },
        )
        for size in arguments.size
    ]


def measure(system: str, parameters: dict[str, Any], notes: dict[str, Any]) -> measuring.Measured:
    """Run all hooks once."""
    graph = make_graph(parameters["shape"], parameters["resources"])
    warm_up = make_graph(parameters["shape"], min(WARM_UP, graph.size))
    workers, directory = parameters["workers"], parameters["directory"]
    if system == OURS:
        work = Work(is_async=parameters["is_async"], has_abort=parameters["has_abort"])
        run_synthetic(warm_up, work, workers=workers)
        figures = run_synthetic(graph, work, directory=directory, workers=workers)
        if figures.status is not OperationStatus.SUCCEEDED:
            raise RuntimeError(f"the protect ended {figures.status}")
        hooks, planned, ran = figures.hooks, figures.planning_seconds, figures.running_seconds
        notes = {"cpu_seconds": figures.cpu_seconds, "peak_memory": figures.peak_memory}
    else:
        call = HookCaller(directory)
        run = Walk.in_pool if system == POOL else Walk.alone
        run(Walk(warm_up), call, workers)
        cpu, began = time.process_time(), time.perf_counter()
        walk = Walk(graph)
        planned = time.perf_counter() - began
        hooks = run(walk, call, workers)
        ran = time.perf_counter() - began - planned
        notes = {"cpu_seconds": time.process_time() - cpu}
    if hooks != 4 * graph.size:
        raise RuntimeError(f"{hooks} hooks ran instead of {4 * graph.size}")
    return measuring.Measured(
        {"run": ran, "plan and run": planned + ran},
        {"run": hooks, "plan and run": hooks},
        notes,
    )


class Walk:
    """The hooks as peers walk them: numbered, and in the order that the engine keeps.

    Asks the plugins for resources and operations, as the engine does.
    """

    def __init__(self, graph: SyntheticGraph) -> None:
        protectable, protection = SyntheticProtectable(graph), SyntheticProtection()
        self.sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
        self.hooks: list[tuple[Resource, Operation, HookName]] = []
        """By number: four for each resource."""
        first_hooks: dict[tuple[str, str], int] = {}
        resources: list[Resource] = []

        def first_hook_of(resource: Resource) -> int:
            first = first_hooks.setdefault(resource.key, len(self.hooks))
            if first == len(self.hooks):
                resources.append(resource)
                operation = protection.get_protect_operation(resource)
                self.hooks.extend((resource, operation, hook) for hook in HOOKS)
                for number in range(first, first + 3):
                    self.sorter.add(number + 1, number)
            return first

        for root in synthetic_plan(graph).resources:
            first_hook_of(root)
        for resource in resources:  # grows meanwhile
            parent = first_hooks[resource.key]
            for found in protectable.get_dependent_resources(None, resource):
                child = first_hook_of(found)
                self.sorter.add(child + BEGIN, parent + BEGIN)
                self.sorter.add(parent + FINISH, child + FINISH)
                self.sorter.add(parent + COMPLETE, child + COMPLETE)

    def in_pool(self, call: HookCaller, workers: int) -> int:
        """Run each hook on a pool once what it waits for has ended; return how many ran."""
        sorter, hooks = self.sorter, self.hooks
        ended: queue.SimpleQueue[int] = queue.SimpleQueue()

        def run(number: int) -> None:
            call(*hooks[number])
            ended.put(number)

        count = 0
        with ThreadPoolExecutor(workers) as pool:
            sorter.prepare()
            while sorter.is_active():
                for number in sorter.get_ready():
                    pool.submit(run, number)
                sorter.done(ended.get())
                count += 1
        return count

    def alone(self, call: HookCaller, _workers: int) -> int:
        """Run the hooks here, one after another; return how many ran."""
        sorter, hooks = self.sorter, self.hooks
        count = 0
        sorter.prepare()
        while sorter.is_active():
            for number in sorter.get_ready():
                call(*hooks[number])
                sorter.done(number)
                count += 1
        return count


class HookCaller:
    """Calls a hook with the arguments that the engine gives to one.

    Args:
        directory: Where a bank is made, for an operation that shows what the arguments are.
    """

    def __init__(self, directory: str) -> None:
        shown: dict[str, Any] = {}

        class Showing(Operation):
            def on_main(
                self,
                checkpoint: Any,
                resource: Resource,
                context: Any,
                parameters: Any,
                **kwargs: Any,
            ) -> None:
                shown.update(checkpoint=checkpoint, context=context, kwargs=kwargs)

        class ShowingProtection(SyntheticProtection):
            def get_protect_operation(self, resource: Resource) -> Operation:
                return Showing()

        graph = make_graph("flat", 1)
        with ProtectionService(workers=1) as service:
            provider = synthetic_provider(graph, bank=Bank.open(f"{directory}/arguments"))
            provider.protection_plugins = dict.fromkeys(
                provider.protection_plugins, ShowingProtection()
            )
            service.add_provider(provider)
            service.protect(synthetic_plan(graph)).result()
        self._checkpoint, self._context = shown["checkpoint"], shown["context"]
        self._kwargs = shown["kwargs"]

    def __call__(self, resource: Resource, operation: Operation, hook: HookName) -> None:
        """Run one hook; parameters are a dict of its own."""
        getattr(operation, hook)(self._checkpoint, resource, self._context, {}, **self._kwargs)


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument(
        "--size", type=int, nargs="+", default=[10_000, 100_000], help="hooks (%(default)s)"
    )
    parser.add_argument("--shape", choices=SHAPES, default="tree", help="of the graph (tree)")
    parser.add_argument("--workers", type=int, default=16, help="threads (%(default)s)")
    parser.add_argument(
        "--async", action="store_true", dest="asynchronous", help="our hooks are async def"
    )
    parser.add_argument(
        "--abort", action="store_true", help="our hooks have an on_abort: intents are recorded"
    )
    arguments = parser.parse_args()
    if min(arguments.size) < 4:  # noqa: PLR2004 - one resource has four hooks
        parser.error("--size must be at least 4")
    measuring.run(arguments, "hooks", "hooks/s", cases, measure)


if __name__ == "__main__":
    main()
