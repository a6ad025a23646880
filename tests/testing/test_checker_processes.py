"""The simulation's checker, shown what several attempts, operations or processes must not do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from histories import HOOKS, TWO, broken, log, record_of, run, world_of
from karbor_actors import Bank, CheckpointStatus, OperationStatus, Plan, Resource, RetryPolicy
from karbor_actors.graph import build_graph
from karbor_actors.testing.simulation.ends import check_made, check_reasons, check_told
from karbor_actors.testing.simulation.history import History
from karbor_actors.testing.simulation.locks import check_refusal
from karbor_actors.testing.simulation.store import SimulatedStore
from karbor_actors.testing.simulation.world import World

BEGIN, FINISH, MAIN, COMPLETE = HOOKS
TWICE = {"*": RetryPolicy(attempts=2, backoff=5.0)}


def failed(resource: int, hook: str, attempt: int = 1, time: float = 0.0):
    return [(resource, hook, what, attempt, time) for what in ("begin", "failed")]


# Retries


def test_a_hook_that_is_tried_too_often_too_soon_or_out_of_turn_is_seen():
    within = [*failed(0, BEGIN), *failed(0, BEGIN, 2, 5.0)]
    assert broken(world_of(*within), retry=TWICE) == set()

    too_often = [*within, *failed(0, BEGIN, 3, 15.0)]
    too_soon = [*failed(0, BEGIN), *failed(0, BEGIN, 2, 4.9)]
    skips = [*failed(0, BEGIN), *failed(0, BEGIN, 3, 5.0)]
    given_up = [(0, BEGIN, "begin"), (0, BEGIN, "late"), *failed(0, BEGIN, 2, 5.0)]
    for wrong in (too_often, too_soon, skips, given_up):
        assert broken(world_of(*wrong), retry=TWICE) == {"retried"}


def test_the_policy_that_says_most_of_a_hook_counts():
    within = [*failed(0, BEGIN), *failed(0, BEGIN, 2, 9.0)]
    never = RetryPolicy()
    assert broken(world_of(*within), retry=TWICE | {BEGIN: never}) == {"retried"}
    assert broken(world_of(*within), retry=TWICE | {BEGIN: never, "T": TWICE["*"]}) == set()
    both = TWICE | {"T": TWICE["*"], ("T", BEGIN): never}
    assert broken(world_of(*within), retry=both) == {"retried"}


def test_another_process_may_try_as_often_again():
    world = world_of(*failed(0, MAIN), *failed(0, MAIN, 2, 5.0))
    log(world, 1, "op", *failed(0, MAIN, 3), *failed(0, MAIN, 4, 5.0))
    assert "retried" not in broken(world, retry=TWICE)
    log(world, 1, "op", *failed(0, MAIN, 5, 15.0))
    assert "retried" in broken(world, retry=TWICE)


@pytest.mark.parametrize("hook", [BEGIN, "on_abort"])
def test_what_is_given_up_with_attempts_left_is_seen(hook):
    world = world_of(*failed(0, hook))
    assert broken(world, retry=TWICE) == set(), "it may be about to be tried again"
    world.releases.append((0, len(world.entries), "op"))
    assert broken(world, retry=TWICE) == {"retried"}
    world.disturbed.add(0)
    assert broken(world, retry=TWICE) == set(), "a message may have been lost"


def test_an_abort_that_is_tried_for_ever_is_seen():
    tries = [line for attempt in (1, 2, 3, 4) for line in failed(0, "on_abort", attempt)]
    assert broken(world_of(*tries[:6])) == set()
    assert broken(world_of(*tries)) == {"retried"}


def test_an_abort_that_begins_anew_without_a_reason_is_seen():
    world = world_of(*run(0, BEGIN), *failed(0, "on_abort"), *failed(0, "on_abort"))
    world.starts[0, "op"] = 1
    assert broken(world) == {"retried"}
    world.starts[0, "op"] = 2  # taken up again
    assert broken(world) == set()


# Locks


def two_operations(**second) -> World:
    world = World()
    world.operations["op"] = replace(TWO, checkpoint="c")
    world.operations["other"] = replace(TWO, label="second-1", **({"checkpoint": "d"} | second))
    return world


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({}, {"verb": "restore"}),
        ({"verb": "verify"}, {"verb": "delete", "checkpoint": "c"}),
        ({"verb": "delete"}, {"verb": "copy", "checkpoint": "c"}),
        ({"verb": "copy"}, {"verb": "copy", "checkpoint": "c"}),
    ],
)
@pytest.mark.parametrize("process", [0, 1])
def test_operations_that_conflict_must_not_run_at_once_in_any_process(first, second, process):
    world = two_operations(**second)
    world.operations["op"] = replace(world.operations["op"], **first)
    if process:  # both had begun, one after the other, before the process died
        log(world, 0, "op", (0, MAIN, "begin"))
    log(world, process, "op", *run(0, MAIN, 2))
    log(world, process, "other", *run(0, MAIN))
    assert "exclusive" in broken(world)

    world.releases.append((process, len(world.entries) - 4, "op"))
    assert "exclusive" not in broken(world)


@pytest.mark.parametrize(
    "second",
    [
        {"keys": ["x", "y"]},
        {"verb": "verify", "checkpoint": "c"},
        {"verb": "delete"},
        {"verb": "copy", "keys": ["x", "y"]},
    ],
)
def test_operations_that_do_not_conflict_may_run_at_once(second):
    world = two_operations(**second)
    log(world, 0, "op", (0, MAIN, "begin"))
    log(world, 0, "other", *run(0, MAIN))
    assert "exclusive" not in broken(world)


def test_an_operation_that_begins_out_of_its_turn_is_seen():
    world = two_operations()
    log(world, 0, "other", *run(0, BEGIN))
    world.releases.append((0, len(world.entries), "other"))
    log(world, 0, "op", *run(0, BEGIN))
    world.turns = {(0, "op"): 2, (0, "other"): 1}
    assert broken(world) == set()
    world.turns = {(0, "op"): 1, (0, "other"): 2}
    assert broken(world) == {"exclusive"}


def test_what_was_recovered_comes_before_what_is_new():
    world = two_operations()
    log(world, 0, "op", *run(0, BEGIN))
    log(world, 1, "other", *run(0, BEGIN))
    assert broken(world) == set()
    world.recovered.add((1, "op"))
    assert broken(world) == {"exclusive"}


def test_an_operation_that_begins_before_a_pending_abort_was_tried_again_is_seen():
    def after(*between, is_recovered: bool = False) -> set[str]:
        world = two_operations()
        world.recovered |= {(0, "op"), (0, "other")} if is_recovered else set()
        log(world, 0, "op", *run(0, BEGIN), *failed(0, "on_abort", 3))
        world.releases.append((0, len(world.entries), "op"))
        log(world, 0, "op", *between)
        world.releases.append((0, len(world.entries), "op"))
        log(world, 0, "other", *run(0, BEGIN))
        return broken(world)

    assert after() == {"exclusive"}
    assert after(*failed(0, "on_abort")) == set()
    assert after(is_recovered=True) == set(), "its start has tried it"
    assert after(*failed(1, "on_abort")) == {"exclusive"}, "another resource"


# What may go on in another process


def resumed(*before, **seen) -> World:
    """Return a world in which a hook begins in another process, after *before* had happened."""
    world = world_of(*before)
    world.operations["op"] = replace(TWO, **seen)
    log(world, 1, "op", *run(1, MAIN))
    return world


SPAN = [*run(0, BEGIN), *run(1, BEGIN), *run(1, FINISH), *run(0, FINISH)]


def test_a_protect_that_was_held_when_its_process_ended_does_not_go_on():
    assert broken(resumed(*SPAN)) == set()
    assert "decided" in broken(resumed(*SPAN[:-1]))
    assert "decided" not in broken(resumed(*SPAN[:-1], verb="restore"))
    assert "decided" not in broken(resumed(*SPAN[:-1], on_failure="isolate"))
    assert "decided" in broken(resumed(*SPAN[:-1], (1, MAIN, "begin"), span_ends=[1, 2]))


def test_a_protect_that_cannot_be_resumed_does_not_go_on():
    assert broken(resumed(*SPAN, resumable=bytes([1, 1]))) == set()
    assert broken(resumed(*SPAN, resumable=bytes([0, 1]))) == {"decided"}


def test_what_was_to_be_undone_does_not_go_on():
    assert "decided" in broken(resumed(*SPAN, *run(0, "on_abort")))
    assert broken(resumed(*SPAN, *run(0, "on_abort"), on_failure="isolate")) == set()
    assert "decided" in broken(resumed(*SPAN, *run(1, "on_abort"), on_failure="isolate"))


def test_what_was_cancelled_or_is_to_be_aborted_or_was_taken_up_too_often_does_not_go_on():
    world = resumed(*SPAN)
    assert broken(world, recover="abort") == {"decided"}
    world.decided["op"] = 1
    assert broken(world) == set(), "it was cancelled in the process in which it went on"
    world.decided["op"] = 0
    assert broken(world) == {"decided"}

    again = world_of(*SPAN)
    for process in range(1, 6):
        log(again, process, "op", (1, MAIN, "begin", process))
    assert broken(again) == set()
    log(again, 6, "op", (1, MAIN, "begin", 6))
    assert broken(again) == {"decided"}


def test_what_is_not_taken_up_before_it_goes_on_is_seen():
    class Given:
        idempotency_key, state = "b", {BEGIN: 1}

    def enter(world: World) -> set[str]:
        world.process = 1
        world.enter("op", "parent", FINISH, Given(), {}, HOOKS[:2], has_resume=True)
        return broken(world)

    assert enter(world_of(*run(0, BEGIN))) == {"kept"}
    world = world_of(*run(0, BEGIN))
    world.process = 1
    world.take_up("op", "parent")
    assert enter(world) == set()


# Graphs


def test_a_protect_that_runs_over_an_old_graph_is_seen():
    seen = replace(TWO, keys=["a", "b"])
    old, new = {"a": ["b"]}, {"a": []}
    history = History(old)
    history.ask("op", ["a"])
    history.change(new)
    assert history.why_stale("op", seen) == "", "it may have looked before the change"

    history = History(old)
    history.change(new)
    history.ask("op", ["a"])
    assert history.why_stale("op", seen)
    assert history.why_stale("op", replace(seen, keys=["a"], children=[[]])) == ""


def test_a_protect_that_waited_and_runs_over_a_graph_of_before_is_seen():
    seen = replace(TWO, keys=["a", "b"])
    for is_queued in (True, False):
        history = History({"a": ["b"]})
        history.ask("op", ["a"])
        if is_queued:
            history.queue("op")
        history.change({"a": []})
        history.release(replace(seen, keys=["b"]))
        if not is_queued:
            history.queue("op")
        assert bool(history.why_stale("op", seen)) is is_queued


# Ends


def test_an_end_that_is_told_before_it_is_recorded_is_seen():
    good, bad = OperationStatus.SUCCEEDED, OperationStatus.FAILED
    recorded = record_of("succeeded")
    assert not list(check_told("it", good, recorded, must_be=True))
    for record in (None, record_of("running"), record_of("failed")):
        assert [v.invariant for v in check_told("it", good, record, must_be=False)] == ["told"]
    assert not list(check_told("it", bad, record_of("running"), must_be=False)), "a full bank"
    assert [v.invariant for v in check_told("it", bad, None, must_be=True)] == ["told"]


def test_a_failure_without_a_cause_is_seen():
    assert [v.invariant for v in check_reasons("it", record_of("failed"))] == ["told"]
    assert not list(check_reasons("it", record_of("failed", error_info=[{"message": "why"}])))
    assert not list(check_reasons("it", record_of("cancelled")))


@pytest.mark.parametrize(
    ("status", "recorded", "is_good"),
    [
        ("available", "succeeded", True),
        ("available", "partial", False),
        ("available", "failed", False),
        ("available", "running", False),
        ("partial", "partial", True),
        ("partial", "succeeded", False),
        ("partial", "running", False),
        ("error", "failed", True),
        ("error", "cancelled", True),
        ("error", "succeeded", False),
        ("protecting", "running", True),
        ("protecting", "succeeded", False),
        ("deleting", "succeeded", True),
    ],
)
def test_a_checkpoint_that_is_not_as_what_made_it_is_seen(tmp_path, status, recorded, is_good):
    plan = Plan("plan", "local", [Resource("T", "parent")])
    with Bank.open(tmp_path / "bank", objects=SimulatedStore()) as bank:
        made = bank.create_checkpoint(
            plan=plan.to_dict(),
            provider="local",
            graph=build_graph(plan.resources, lambda _: []),
            status=CheckpointStatus(status),
        )
        for record in (
            record_of(recorded, checkpoint_id=made.id),
            record_of(recorded, verb="copy", extra={"copy": made.id}),
        ):
            found = {v.invariant for v in check_made({"op": record}, [bank])}
            assert found == (set() if is_good else {"marked"})
        deleted = record_of("succeeded", verb="delete", checkpoint_id=made.id)
        assert [v.invariant for v in check_made({"op": deleted}, [bank])] == ["marked"]
        gone = record_of("succeeded", checkpoint_id="gone")
        assert [v.invariant for v in check_made({"op": gone}, [bank])] == ["marked"]
        assert not list(check_made({"op": gone, "d": replace(deleted, checkpoint_id="gone")}, []))


def test_a_store_tells_of_each_manifest_before_it_is_there():
    store, told = SimulatedStore(), []
    store.on_manifest = lambda made: told.append((made, store.has_manifest(made)))
    for name in ("checkpoints/ab/c/00000001", "checkpoints/ab/c/head", "checkpoints/ab/c/head"):
        store.put(name, b"")

    assert told == [("c", False)]
    assert store.has_manifest("c")


def test_what_could_go_on_and_is_given_up_is_seen():
    def given_up(*before, process: int = 1, followed: Any = (0, 1), **seen) -> World:
        world = world_of(*before)
        world.operations["op"] = replace(TWO, **seen)
        log(world, 0, "op", *((resource, MAIN, "begin") for resource in followed))
        log(world, process, "op", *run(0, "on_abort"))
        world.recovered.add((process, "op"))
        world.failures.add((process, "op"))
        return world

    assert broken(given_up(*SPAN)) == {"decided"}
    assert broken(given_up(*SPAN), recover="abort") == set()
    assert broken(given_up(*SPAN, resumable=bytes([0, 1]))) == set()
    assert "decided" not in broken(given_up(*SPAN[:-1])), "it was held"
    assert "decided" not in broken(given_up(*run(0, BEGIN), *run(0, FINISH), followed=[0]))
    assert broken(given_up(*SPAN, process=0)) == set(), "it is the process that began it"
    assert broken(given_up(*SPAN, followed=())) == set(), "all that is durable may be that"
    whole = [line for kind in HOOKS[2:] for number in (1, 0) for line in run(number, kind)]
    assert "decided" not in broken(given_up(*SPAN, *whole)), "its end failed"
    for unclear in ("disturbed", "stalled", "closed", "hung"):
        for process in range(3):  # in one of them it began nothing, but may have been decided
            world = given_up(*SPAN, process=2)
            getattr(world, unclear).add(process)
            assert broken(world) == set()


def test_an_operation_that_is_refused_instead_of_waiting_is_seen():
    world = two_operations(verb="delete", checkpoint="c")
    log(world, 0, "other", *run(0, MAIN))
    world.process, world.turns, refused = 0, {(0, "other"): 1}, ("verify", "c")
    assert not list(check_refusal(world, "new", refused, ["other"])), "it looked before it asked"
    world.queue("new")
    assert [v.invariant for v in check_refusal(world, "new", refused, ["other"])] == ["exclusive"]
    assert not list(check_refusal(world, "new", refused, []))
    assert not list(check_refusal(world, "new", ("verify", "another"), ["other"]))
