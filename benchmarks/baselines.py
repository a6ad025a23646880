"""What our figures are held against: the same hooks in a bare loop, bare commits, an ideal order."""

from __future__ import annotations

import graphlib
import heapq
import os
import queue
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import lmdb

from karbor_actors import Bank, HookName, Operation, ProtectionService, Resource
from karbor_actors.testing import (
    SyntheticProtectable,
    SyntheticProtection,
    Work,
    make_graph,
    synthetic_plan,
    synthetic_provider,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.testing import SyntheticGraph

HOOKS = Work().hooks
BEGIN, FINISH, MAIN, COMPLETE = range(4)
"""Where a resource's hooks stand in HOOKS."""
COMMITS = 50


class Walk:
    """The hooks as peers walk them: numbered, four for each resource, with what each waits for.

    Asks the plugins for resources and operations, as the engine does.

    Args:
        graph: The resources.
        add: Is told of each edge: the hook that waits, and the one that it waits for.
    """

    def __init__(self, graph: SyntheticGraph, add: Callable[[int, int], object]) -> None:
        protectable, protection = SyntheticProtectable(graph), SyntheticProtection()
        self.hooks: list[tuple[Resource, Operation, HookName]] = []
        """By number."""
        first_hooks: dict[tuple[str, str], int] = {}
        resources: list[Resource] = []

        def first_hook_of(resource: Resource) -> int:
            first = first_hooks.setdefault(resource.key, len(self.hooks))
            if first == len(self.hooks):
                resources.append(resource)
                operation = protection.get_protect_operation(resource)
                self.hooks.extend((resource, operation, hook) for hook in HOOKS)
                for number in range(first, first + 3):
                    add(number + 1, number)
            return first

        for root in synthetic_plan(graph).resources:
            first_hook_of(root)
        for resource in resources:  # grows meanwhile
            parent = first_hooks[resource.key]
            for found in protectable.get_dependent_resources(None, resource):
                child = first_hook_of(found)
                add(child + BEGIN, parent + BEGIN)
                add(parent + FINISH, child + FINISH)
                add(parent + COMPLETE, child + COMPLETE)


class Sorted(Walk):
    """The hooks in a TopologicalSorter of the standard library."""

    def __init__(self, graph: SyntheticGraph) -> None:
        self.sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
        super().__init__(graph, self.sorter.add)

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


class Linked(Walk):
    """The hooks with lists of what each waits for, and of what waits for each."""

    def __init__(self, graph: SyntheticGraph) -> None:
        edges: list[tuple[int, int]] = []
        super().__init__(graph, lambda waiting, awaited: edges.append((waiting, awaited)))
        self.upstream: list[list[int]] = [[] for _ in self.hooks]
        self.downstream: list[list[int]] = [[] for _ in self.hooks]
        for waiting, awaited in edges:
            self.upstream[waiting].append(awaited)
            self.downstream[awaited].append(waiting)

    def order(self) -> list[int]:
        """Return the hooks, each after all that it waits for."""
        waits = list(map(len, self.upstream))
        found = [number for number, count in enumerate(waits) if not count]
        for number in found:  # grows meanwhile
            for following in self.downstream[number]:
                waits[following] -= 1
                if not waits[following]:
                    found.append(following)
        return found

    def to_the_end(self, seconds: Sequence[float]) -> list[float]:
        """Return how long it takes at least from each hook's start to the end of all."""
        left = list(seconds)
        for number in reversed(self.order()):
            left[number] += max((left[n] for n in self.downstream[number]), default=0.0)
        return left


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


class BareCommits:
    """Synced transactions of one small row, in an LMDB file of their own.

    Args:
        directory: Where the file is made.
    """

    def __init__(self, directory: str) -> None:
        # A bank's file has the 0.9 format; compare with the same.
        path = os.path.join(directory, "commits.lmdb")
        self._environment = lmdb.Environment(path, max_dbs=1, lib_version=0)
        self._table = self._environment.open_db(b"rows")
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._environment.close()

    def one(self) -> float:
        """Commit once; return the seconds."""
        began = time.perf_counter()
        with self._environment.begin(write=True, db=self._table) as transaction:
            transaction.put(self._count.to_bytes(8), b"x" * 100)
        self._count += 1
        return time.perf_counter() - began

    def median(self) -> float:
        """Return the median of some."""
        return statistics.median(self.one() for _ in range(COMMITS))


def ideal_makespan(
    walk: Linked, seconds: Sequence[float], lanes: Sequence[int], workers: int, commit: float
) -> float:
    """Return how long the hooks take if the one with most left after it always goes first.

    Args:
        walk: The hooks.
        seconds: How long each takes.
        lanes: Which group of workers runs each.
        workers: In each group.
        commit: Seconds between a hook's end and what waits for it.
    """
    left = walk.to_the_end([own + commit for own in seconds])
    waits = list(map(len, walk.upstream))
    free = dict.fromkeys(lanes, workers)
    ready: dict[int, list[tuple[float, int]]] = {lane: [] for lane in free}
    events: list[tuple[float, int, int]] = []  # when, 0 a worker is free or 1 it is durable, hook
    now = 0.0
    for number, count in enumerate(waits):
        if not count:
            heapq.heappush(ready[lanes[number]], (-left[number], number))
    while True:
        for lane, queue_ in ready.items():
            while queue_ and free[lane]:
                number = heapq.heappop(queue_)[1]
                free[lane] -= 1
                heapq.heappush(events, (now + seconds[number], 0, number))
        if not events:
            return now
        now, is_durable, number = heapq.heappop(events)
        if not is_durable:
            free[lanes[number]] += 1
            heapq.heappush(events, (now + commit, 1, number))
            continue
        for following in walk.downstream[number]:
            waits[following] -= 1
            if not waits[following]:
                heapq.heappush(ready[lanes[following]], (-left[following], following))
