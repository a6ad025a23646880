"""Within an operation the longest way ahead goes first: in virtual time, beside the best order."""

from __future__ import annotations

import random
from collections import deque
from heapq import heappop, heappush
from typing import Any

import pytest

from karbor_actors import Caps, OnFailure, OperationType
from karbor_actors.graph import build_graph
from karbor_actors.operations.admission.intake import Intake, new_admission
from karbor_actors.operations.admission.paths import paths_ahead
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.operations.planning import PlannedOperation
from karbor_actors.testing import SHAPES, SyntheticProtectable, make_graph, synthetic_plan

MAIN = 2


def planned(shape: str, size: int, seed: int) -> PlannedOperation:
    made = make_graph(shape, size, seed=seed)
    finder = SyntheticProtectable(made)
    graph = build_graph(
        synthetic_plan(made).resources, lambda found: finder.get_dependent_resources(None, found)
    )
    nothing: Any = None
    return PlannedOperation(
        OperationType.PROTECT,
        "nowhere",
        graph,
        [None] * size,
        bytearray(b"\x01") * (4 * size),
        bytearray(size),
        nothing,
        OnFailure.ABORT,
    )


def ours(planned: PlannedOperation, seconds: list[float], workers: int) -> float:
    """Return how long the hooks take in the order in which the engine lets them in."""
    schedule, nobody, caps = planned.schedule(), None, Caps()
    runners: Any = nobody
    admission, paths = new_admission(workers, caps), paths_ahead(planned.graph)
    intake = Intake(planned, runners, admission, caps, paths, lambda: None)
    queues = {lane: deque[int]() for lane in (Lane.PREPARE, Lane.MAIN)}
    free = dict.fromkeys(queues, workers)
    ends: list[tuple[float, int, Lane]] = []
    now, ready = 0.0, schedule.start()
    while True:
        intake.arrived.extend(ready)
        for hook in intake.admit(now):
            schedule.begin(hook)
            queues[intake.way(hook).lane or Lane.MAIN].append(hook)
        for lane, queue in queues.items():
            while queue and free[lane]:
                free[lane] -= 1
                hook = queue.popleft()
                heappush(ends, (now + seconds[hook], hook, lane))
        if not ends:
            assert schedule.is_over
            return now
        now, hook, lane = heappop(ends)
        free[lane] += 1
        intake.leave(hook, seconds[hook])
        ready = schedule.complete(hook)


def best(
    planned: PlannedOperation, seconds: list[float], workers: int, ahead: list[float]
) -> float:
    """Return how long they take if that with the most *ahead* of it always goes first."""
    schedule = planned.schedule()
    waiting: dict[int, list[tuple[float, int]]] = {0: [], 1: []}
    free = {0: workers, 1: workers}
    ends: list[tuple[float, int]] = []
    now, ready = 0.0, schedule.start()
    while True:
        for hook in ready:
            heappush(waiting[hook % 4 // MAIN], (-ahead[hook], hook))
        for lane, queue in waiting.items():
            while queue and free[lane]:
                free[lane] -= 1
                hook = heappop(queue)[1]
                heappush(ends, (now + seconds[hook], hook))
        if not ends:
            return now
        now, hook = heappop(ends)
        free[hook % 4 // MAIN] += 1
        schedule.begin(hook)
        ready = schedule.complete(hook)


def most_ahead(planned: PlannedOperation, seconds: list[float]) -> list[float]:
    """Return the longest way from each hook's start to the end."""
    schedule = planned.schedule()
    order, walk = [], planned.schedule()
    ready = walk.start()
    while ready:
        order += ready
        ready = [following for hook in ready for following in walk.complete(hook)]
    ahead = list(seconds)
    for hook in reversed(order):
        ahead[hook] += max((ahead[other] for other in schedule.downstream(hook)), default=0.0)
    return ahead


def drawn_seconds(seed: int, count: int) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.uniform(0.001, 0.020) for _ in range(count)]


@pytest.mark.parametrize("workers", [4, 16, 64])
@pytest.mark.parametrize("seed", range(5))
def test_on_random_graphs_the_order_is_as_good_as_if_each_hooks_time_were_known(workers, seed):
    made, seconds = planned("random", 300, seed), drawn_seconds(seed, 1200)
    known = best(made, seconds, workers, most_ahead(made, seconds))

    assert ours(made, seconds, workers) <= 1.05 * known


@pytest.mark.parametrize("workers", [4, 16, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_is_as_good_as_by_the_number_of_hooks_ahead(shape, workers):
    for seed in range(3):
        made, seconds = planned(shape, 300, seed), drawn_seconds(seed, 1200)
        counted = best(made, seconds, workers, most_ahead(made, [1.0] * len(seconds)))

        assert ours(made, seconds, workers) <= 1.05 * counted
