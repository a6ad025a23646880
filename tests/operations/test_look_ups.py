"""Which thread a protect's look-ups run on."""

import threading

import pytest

from helpers import DEADLINE
from karbor_actors.operations.verbs.protect import ParallelMap

ITEMS = list(range(5_000))


def run(seconds_each):
    """Return the results and the threads of look-ups that take *seconds_each*, by the clock."""
    now = 0.0
    threads = []

    def look_up(item):
        nonlocal now
        now += seconds_each
        threads.append(threading.current_thread())
        return item

    with ParallelMap(clock=lambda: now) as map_parallel:
        found = list(map_parallel(look_up, ITEMS))
    return found, threads


@pytest.mark.parametrize("seconds", [0, 10e-6])
def test_look_ups_that_wait_for_nothing_stay_on_the_callers_thread(seconds):
    found, threads = run(seconds)

    assert found == ITEMS
    assert set(threads) == {threading.current_thread()}


@pytest.mark.parametrize(("seconds", "most"), [(1, 1), (1e-3, 21), (100e-6, 201)])
def test_look_ups_that_wait_go_to_threads_soon_and_keep_their_order(seconds, most):
    found, threads = run(seconds)

    assert found == ITEMS
    assert len(threads) == len(ITEMS)
    own = threads.count(threading.current_thread())
    assert 1 <= own <= most


def test_look_ups_run_at_once_when_they_wait():
    together = threading.Barrier(2, timeout=DEADLINE)
    seconds = iter([0.0, 1.0])  # the first one is seen to be slow

    def look_up(item):
        if item:
            together.wait()  # passes only if two look-ups run at once
        return item

    with ParallelMap(clock=lambda: next(seconds)) as map_parallel:
        assert list(map_parallel(look_up, range(5))) == [0, 1, 2, 3, 4]
