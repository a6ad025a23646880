"""The simulation: seeds replay, promises hold, every crash is survived, and the checker can fail."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers import DEADLINE
from karbor_actors.testing.fault_rules import Action, Point
from karbor_actors.testing.simulation.campaign import Tally, run_all
from karbor_actors.testing.simulation.checker import (
    INVARIANTS,
)
from karbor_actors.testing.simulation.crashes import (
    GRAPHS,
    VERBS,
    crash,
    crash_points,
)
from karbor_actors.testing.simulation.drawing import draw
from karbor_actors.testing.simulation.plugins import SimulatedOperation
from karbor_actors.testing.simulation.scenario import without_faults
from karbor_actors.testing.simulation.simulate import run_scenario, simulate

SEEDS = 240
ONCE_BAD = (
    9,
    23,
    72,
    194,
    202,
    230,
    273,
    310,
    318,
    371,
    387,
    475,
    549,
    555,
    620,
    639,
    801,
    930,
    979,
    1023,
    1434,
    1588,
    1710,
    1935,
    2558,
    3514,
    4130,
    4216,
    4536,
    5237,
    7750,
    9941,
    11123,
    11578,
    12016,
    13849,
    14144,
    16023,
    16280,
    16436,
    16585,
    16717,
    17571,
    17917,
    18972,
    24783,
    26296,
    27029,
    28557,
    29477,
    30691,
    34539,
    36217,
    51746,
    52287,
    52479,
    58639,
    58855,
    61247,
    62659,
    103563,
)
"""Seeds that showed bugs of the engine, or of what looks at it, when they were found."""
MESSAGE_GRAPHS = ("one",)
"""The graphs for which a process is killed at every single message too; the others in tox -e stress."""


def test_every_promise_holds_under_every_seed():
    tally = Tally()
    bad = {}
    for place, result in run_all([*range(SEEDS), *ONCE_BAD]):
        tally.add(result)
        if not result.is_good:
            bad[place] = list(map(str, result.violations))

    assert not bad, f"karbor-actors simulate --seed N --trace shows them: {bad}"
    assert tally.held() == dict.fromkeys(INVARIANTS, SEEDS + len(ONCE_BAD))
    assert {fault.split()[0] for fault in tally.struck} >= set(map(str, Point)), "some never struck"
    assert tally.crashes > SEEDS / 2


def test_a_seed_does_the_same_each_time():
    first, again = simulate(7), simulate(7)

    assert first.trace == again.trace
    assert first.digest == again.digest
    assert first.digest != simulate(8).digest


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_does_the_same_in_every_process(hash_seed):
    code = (
        "from karbor_actors.testing.simulation.simulate import simulate\n"
        "print(*(simulate(seed).digest for seed in range(20, 30)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )

    assert done.stdout.split() == [simulate(seed).digest for seed in range(20, 30)]


def test_without_faults_every_operation_is_seen_and_nothing_strikes():
    result = run_scenario(without_faults(draw(11)))

    assert result.is_good
    assert not result.faults
    assert result.processes == 1
    assert result.passed[Point.COMMIT_BEFORE] == result.passed[Point.COMMIT_AFTER] > 0


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_crash_anywhere_is_survived(graph, verb):
    points = [point for point in Point if point is not Point.MESSAGE or graph in MESSAGE_GRAPHS]
    places = list(crash_points(graph, verb, points))
    bad = [f"{place}: {v}" for place in places for v in crash(place).violations]

    assert not bad
    assert {place.point for place in places} >= {Point.COMMIT_BEFORE, Point.COMMIT_AFTER}
    assert any(place.action is Action.POWER_CUT for place in places)


def test_every_run_of_a_crash_is_one_with_a_crash():
    places = list(crash_points("one", "protect", [Point.COMMIT_AFTER, Point.HOOK_BEFORE]))
    for place in places:
        result = crash(place)
        assert result.crashes == 1, f"nobody was killed at {place}"
        assert sum(result.faults.values()) == 1


def test_a_plugin_that_undoes_nothing_is_found(monkeypatch):
    monkeypatch.setattr(SimulatedOperation, "undo", lambda *_: None)
    places = crash_points("one", "protect", [Point.HOOK_AFTER])
    found = {violation.invariant for place in places for violation in crash(place).violations}

    assert found == {"undone", "thawed", "accounted"}
