"""The simulation: seeds replay, promises hold, every crash is survived, and the checker can fail."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers import DEADLINE
from karbor_actors.bank.journal import OperationRecord
from karbor_actors.limits import Caps
from karbor_actors.model import OnFailure, OperationStatus, OperationType
from karbor_actors.testing.fault_rules import Action, Point
from karbor_actors.testing.simulation.campaign import Tally, run_all
from karbor_actors.testing.simulation.checker import (
    INVARIANTS,
    check_log,
    check_pending,
    check_success,
    check_undone,
)
from karbor_actors.testing.simulation.crashes import (
    GRAPHS,
    VERBS,
    crash,
    crash_points,
)
from karbor_actors.testing.simulation.plugins import SimulatedOperation
from karbor_actors.testing.simulation.scenario import draw, without_faults
from karbor_actors.testing.simulation.simulate import run_scenario, simulate
from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

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
    1935,
    2558,
    3514,
    4130,
    4216,
    4536,
    11578,
    13849,
    14144,
    16280,
    16585,
    51746,
    58639,
    58855,
    12016,
    16717,
    17571,
    17917,
    30691,
    34539,
    36217,
    52287,
    52479,
    61247,
    62659,
    103563,
    11123,
    29477,
)
"""Seeds that showed bugs of the engine, when they were found."""
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


# The checker: each promise, broken


TWO = OperationSeen(
    verb="protect",
    on_failure="abort",
    keys=["parent", "child"],
    children=[[1], []],
    hook_kinds=bytes([1] * 8),
    abort_kinds=bytes([1, 1]),
    label="protect-1",
    types=["T", "T"],
    groups=[(), ("array",)],
    span_ends=[1, 1],
)
HOOKS = ("on_prepare_begin", "on_prepare_finish", "on_main", "on_complete")


def world_of(*lines: tuple[object, ...]) -> World:
    """Return a world whose log says: resource, hook, what; attempt and time if not 1 and 0."""
    world = World()
    world.operations["op"] = TWO
    for line in lines:
        resource, hook, what, attempt, time = (*line, *(1, 0.0)[len(line) - 3 :])
        world.entries.append(Entry(0, "op", resource, hook, what, attempt, time))  # type: ignore[arg-type]
    return world


def run(resource: int, hook: str, attempt: int = 1) -> list[tuple[object, ...]]:
    return [(resource, hook, what, attempt) for what in ("begin", "start", "end", "done")]


IN_ORDER = [
    *run(0, HOOKS[0]),
    *run(1, HOOKS[0]),
    *run(1, HOOKS[1]),
    *run(0, HOOKS[1]),
    *run(1, HOOKS[2]),
    *run(0, HOOKS[2]),
    *run(1, HOOKS[3]),
    *run(0, HOOKS[3]),
]


def broken(world: World, caps: Caps | None = None) -> set[str]:
    return {violation.invariant for violation in check_log(world, caps or Caps())}


def test_a_log_in_order_breaks_nothing():
    assert broken(world_of(*IN_ORDER)) == set()


def test_a_child_before_its_parent_breaks_the_order():
    assert "order" in broken(world_of(*run(1, HOOKS[0]), *run(0, HOOKS[0])))


def test_a_hook_whose_upstream_was_not_recorded_breaks_the_order():
    assert "order" in broken(world_of((0, HOOKS[0], "begin"), *run(1, HOOKS[0])))


def test_a_hook_that_runs_again_too_late_breaks_once():
    again = [*run(0, HOOKS[0]), *run(1, HOOKS[0]), *run(0, HOOKS[0], 2)]
    assert broken(world_of(*again)) == {"once"}


def test_an_attempt_that_does_not_grow_breaks_attempts():
    assert broken(world_of((0, HOOKS[0], "begin"), *run(0, HOOKS[0]))) == {"attempts"}


ABORTED = [*run(0, HOOKS[0]), *run(1, HOOKS[0]), *run(1, "on_abort"), *run(0, "on_abort")]


def test_an_abort_that_does_not_wait_for_its_child_or_for_its_own_hook_goes_the_wrong_way():
    assert broken(world_of(*ABORTED)) == set()
    parent_first = [*ABORTED[:8], *ABORTED[12:], *ABORTED[8:12]]
    assert broken(world_of(*parent_first)) == {"upwards"}
    within = [*ABORTED[:9], *ABORTED[12:], *ABORTED[9:12]]
    assert broken(world_of(*within)) == {"upwards"}
    own_hook = [*run(0, HOOKS[0])[:3], *run(0, "on_abort"), (0, HOOKS[0], "done")]
    assert broken(world_of(*own_hook)) == {"upwards"}


def test_an_abort_need_not_wait_for_one_of_a_resource_of_which_nothing_began():
    """Its intent alone has it undone, by who takes the operation up again."""
    later = [*run(0, HOOKS[0]), *run(0, "on_abort"), *run(1, "on_abort")]
    assert broken(world_of(*later)) == set()
    began_after = [*run(0, HOOKS[0]), *run(0, "on_abort"), *run(1, HOOKS[0]), *run(1, "on_abort")]
    assert broken(world_of(*began_after)) == {"upwards"}


def test_an_abort_need_not_wait_for_longer_than_the_grace():
    late = [(*line, 1, 31.0) for line in run_plain(0, "on_abort") + run_plain(1, "on_abort")]
    assert broken(world_of(*ABORTED[:8], *late)) == set()


def run_plain(resource: int, hook: str) -> list[tuple[object, ...]]:
    return [line[:3] for line in run(resource, hook)]


def test_what_goes_on_for_too_long_is_out_of_bounds():
    slow = [(0, HOOKS[0], "begin"), (0, HOOKS[0], "done", 1, 45.0)]
    assert broken(world_of(*slow)) == {"bounded"}
    held = [*run(0, HOOKS[0]), (0, HOOKS[1], "begin", 1, 140.0)]
    assert "bounded" in broken(world_of(*held))
    world = world_of(*run(0, HOOKS[0]), *run(1, HOOKS[0]))
    assert broken(world) == set()
    world.cancels["op"] = (0, -12.0)
    assert broken(world) == {"bounded"}


def test_a_success_without_a_hook_is_false():
    whole = world_of(*IN_ORDER)
    assert not list(check_success(whole, "op"))
    assert [v.invariant for v in check_success(world_of(*IN_ORDER[:-4]), "op")] == ["true"]


class Given:
    """What a hook is given."""

    def __init__(self, key: str, **state: int) -> None:
        self.idempotency_key, self.state = key, state


def test_what_hooks_are_given_wrongly_is_seen():
    own = HOOKS[:2]
    world = world_of()
    world.enter("op", "parent", HOOKS[0], Given("a"), {}, own)
    world.enter("op", "parent", HOOKS[1], Given("b", on_prepare_begin=1), {}, own)
    assert broken(world) == set()

    world.enter("op", "parent", HOOKS[1], Given("b"), {}, own)
    assert broken(world) == {"kept"}


@pytest.mark.parametrize("key", ["a", "other"])
def test_an_idempotency_key_that_changes_or_is_another_hooks_is_seen(key):
    world = world_of()
    world.enter("op", "parent", HOOKS[0], Given("a"), {}, HOOKS)
    world.enter("op", "child", HOOKS[0], Given("c"), {}, HOOKS)
    world.enter("op", "child" if key == "a" else "parent", HOOKS[0], Given(key), {}, HOOKS)
    assert broken(world) == {"attempts"}


def test_what_an_on_abort_is_told_wrongly_is_seen():
    world = world_of(*run(0, HOOKS[0]))
    told = {"began": {HOOKS[0]}, "completed": {HOOKS[0]}, "artifacts": ()}
    world.enter_abort("op", "parent", Given("a"), told, has_artifact=False)
    assert broken(world) == set()

    for wrong in ({"began": set()}, {"completed": {HOOKS[2]}}):
        world = world_of(*run(0, HOOKS[0]))
        world.snapshots["op/parent"] = "op"
        world.enter_abort("op", "parent", Given("a"), told | wrong, has_artifact=False)
        assert broken(world) == {"kept"}
    world.faults.clear()
    world.enter_abort("op", "parent", Given("a"), told, has_artifact=True)
    assert broken(world) == {"kept"}


def test_what_is_pending_though_nothing_is_in_its_way_is_seen():
    world = world_of(*run(0, HOOKS[0]), *run(0, "on_abort"))
    world.process = 0
    records = {"op": _record("failed", pending=1)}
    assert {v.invariant for v in check_pending(world, records)} == {"thawed"}
    world.entries.append(world.entries[4])  # another abort has begun, and hangs
    assert not list(check_pending(world, records))


def test_too_many_at_once_break_a_cap():
    both = [
        *run(0, HOOKS[0]),
        *run(1, HOOKS[0]),
        *run(1, HOOKS[1]),
        *run(0, HOOKS[1]),
        (0, HOOKS[2], "begin"),
        (1, HOOKS[2], "begin"),
        (0, HOOKS[2], "done"),
        (1, HOOKS[2], "done"),
    ]
    assert broken(world_of(*both), Caps(types={"T": 1})) == {"capped"}
    assert broken(world_of(*both), Caps(types={"T": 2}, groups={"array": 1})) == set()


def test_what_the_world_saw_wrong_is_a_violation():
    world = world_of()
    world.freeze("parent", "op")
    world.freeze("parent", "another")
    assert broken(world) == {"exclusive"}


def test_what_stays_frozen_and_what_was_not_undone_is_seen():
    world = world_of(*run(0, HOOKS[0]))
    world.freeze("parent", "op")
    records = {"op": _record("failed", pending=0)}
    last = {v.invariant for v in check_undone(world, records, is_last=True)}
    assert last == {"thawed", "undone"}

    pending = {"op": _record("failed", pending=1)}
    assert not list(check_undone(world, pending, is_last=False)), "visibly pending is allowed"
    assert list(check_undone(world, {"op": _record("failed", pending=0)}, is_last=False))
    running = {v.invariant for v in check_undone(world, {"op": _record("running")}, is_last=True)}
    assert "ended" in running


def _record(status: str, pending: int = 0) -> object:
    return OperationRecord(
        id="op",
        type=OperationType.PROTECT,
        status=OperationStatus(status),
        provider="local",
        plan_name="plan",
        checkpoint_id="c",
        on_failure=OnFailure.ABORT,
        parameters={},
        created_at=0.0,
        started_at=0.0,
        abort_pending=pending,
    )


def test_a_plugin_that_undoes_nothing_is_found(monkeypatch):
    monkeypatch.setattr(SimulatedOperation, "undo", lambda *_: None)
    places = crash_points("one", "protect", [Point.HOOK_AFTER])
    found = {violation.invariant for place in places for violation in crash(place).violations}

    assert found == {"undone", "thawed", "accounted"}
