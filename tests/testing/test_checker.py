"""The simulation's checker, shown one process that broke each promise."""

from __future__ import annotations

import pytest

from histories import HOOKS, IN_ORDER, broken, record_of, run, world_of
from karbor_actors.limits import Caps
from karbor_actors.testing.simulation.checker import check_pending, check_success, check_undone


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
    assert broken(world_of(*began_after)) == {"upwards", "decided"}


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
    records = {"op": record_of("failed", pending=1)}
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
    records = {"op": record_of("failed", pending=0)}
    last = {v.invariant for v in check_undone(world, records, is_last=True)}
    assert last == {"thawed", "undone"}

    pending = {"op": record_of("failed", pending=1)}
    assert not list(check_undone(world, pending, is_last=False)), "visibly pending is allowed"
    assert list(check_undone(world, {"op": record_of("failed", pending=0)}, is_last=False))
    running = {v.invariant for v in check_undone(world, {"op": record_of("running")}, is_last=True)}
    assert "ended" in running
