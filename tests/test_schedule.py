"""The schedules against brute force over random graphs."""

from __future__ import annotations

from array import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.abort_schedule import AbortSchedule
from karbor_actors.model import HOOKS, HookName
from karbor_actors.schedule import (
    BEGUN,
    DONE,
    DROPPED,
    FAILED,
    HOOKS_PER_RESOURCE,
    HookSchedule,
    HookState,
    hook_name,
    hook_number,
)

Edges = list[tuple[int, int]]


def arrays(size: int, edges: Edges) -> tuple[array[int], array[int], array[int], array[int]]:
    """Return child offsets and targets, parent offsets and targets."""
    result: list[array[int]] = []
    for here, there in ((0, 1), (1, 0)):
        offsets, targets = array("I", [0]), array("I")
        for resource in range(size):
            targets.extend(edge[there] for edge in edges if edge[here] == resource)
            offsets.append(len(targets))
        result += [offsets, targets]
    return result[0], result[1], result[2], result[3]


def schedule(
    size: int, edges: Edges, implemented: bytes | None = None, *, isolate: bool = False
) -> HookSchedule:
    return HookSchedule(*arrays(size, edges), implemented or b"\1" * (4 * size), isolate=isolate)


def all_edges(size: int, edges: Edges) -> set[tuple[int, int]]:
    """Return the six kinds of edges, written down straight from the table in the guide."""
    result = set()
    for resource in range(size):
        own = [hook_number(resource, hook) for hook in HOOKS]
        result |= set(pairwise(own))
    for parent, child in edges:
        begin, finish, complete = (
            HookName.ON_PREPARE_BEGIN,
            HookName.ON_PREPARE_FINISH,
            HookName.ON_COMPLETE,
        )
        result.add((hook_number(parent, begin), hook_number(child, begin)))
        result.add((hook_number(child, finish), hook_number(parent, finish)))
        result.add((hook_number(child, complete), hook_number(parent, complete)))
    return result


def closure(edges: set[tuple[int, int]], start: int) -> set[int]:
    """Return everything downstream of *start*."""
    found: set[int] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        for upstream, downstream in edges:
            if upstream == here and downstream not in found:
                found.add(downstream)
                todo.append(downstream)
    return found


@st.composite
def dags(draw: st.DrawFn) -> tuple[int, Edges]:
    size = draw(st.integers(1, 7))
    pairs = [(parent, child) for parent in range(size) for child in range(parent + 1, size)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    names = draw(st.permutations(range(size)))
    return size, [(names[parent], names[child]) for parent, child in edges]


def run_all(hooks: HookSchedule, random: object, fail: frozenset[int] = frozenset()) -> list[int]:
    """Run every hook that may run in a random order; return them in order of their ends."""
    running: list[int] = []
    ended = []
    ready = hooks.start()
    while ready or running:
        for hook in ready:
            if hooks.begin(hook):
                running.append(hook)
            else:
                hooks.withdraw(hook)
        ready = []
        if not running:
            break
        hook = running.pop(random.randrange(len(running)))  # type: ignore[attr-defined]
        ended.append(hook)
        if hook in fail:
            hooks.fail(hook)
        else:
            ready = hooks.complete(hook)
    return ended


@given(dags(), st.randoms(use_true_random=False))
def test_every_hook_runs_once_and_no_edge_is_broken(dag, random):
    size, edges = dag
    hooks = schedule(size, edges)
    ended = run_all(hooks, random)

    assert sorted(ended) == list(range(4 * size))
    assert hooks.is_over
    place = {hook: number for number, hook in enumerate(ended)}
    assert all(place[before] < place[after] for before, after in all_edges(size, edges))


@given(dags(), st.randoms(use_true_random=False))
def test_nothing_but_the_six_edges_is_waited_for(dag, random):
    """Every hook is handed out by the very completion of the last hook that it waits for."""
    size, edges = dag
    wanted = all_edges(size, edges)
    hooks = schedule(size, edges)
    ready = hooks.start()
    done: set[int] = set()
    out = set(ready)
    while ready:
        expected = {
            hook
            for hook in range(4 * size)
            if all(before in done for before, after in wanted if after == hook)
        }
        assert out == expected
        hook = ready.pop(random.randrange(len(ready)))
        hooks.begin(hook)
        done.add(hook)
        fresh = hooks.complete(hook)
        out |= set(fresh)
        ready += fresh
    assert len(done) == 4 * size


@given(dags(), st.data())
def test_edges_listed_for_a_hook_are_those_of_the_guide(dag, data):
    size, edges = dag
    hooks = schedule(size, edges)
    hook = data.draw(st.integers(0, 4 * size - 1))
    wanted = all_edges(size, edges)

    assert set(hooks.downstream(hook)) == {after for before, after in wanted if before == hook}
    assert set(hooks.upstream(hook)) == {before for before, after in wanted if after == hook}


@given(dags(), st.data(), st.randoms(use_true_random=False))
def test_order_holds_through_hooks_that_are_passed_over(dag, data, random):
    size, edges = dag
    implemented = bytes(
        data.draw(st.lists(st.integers(0, 1), min_size=4 * size, max_size=4 * size))
    )
    hooks = schedule(size, edges, implemented)
    ended = run_all(hooks, random)

    assert sorted(ended) == [hook for hook in range(4 * size) if implemented[hook]]
    assert hooks.passed_over == implemented.count(0)
    wanted = all_edges(size, edges)
    place = {hook: number for number, hook in enumerate(ended)}
    for hook in ended:
        after = closure(wanted, hook)
        assert all(place[hook] < place[later] for later in after if later in place)
    assert hooks.is_over
    assert all(hooks.is_complete(resource) for resource in range(size))


@given(dags(), st.data(), st.randoms(use_true_random=False))
def test_isolate_stops_what_depends_on_a_failure_and_nothing_else(dag, data, random):
    size, edges = dag
    failing = data.draw(st.frozensets(st.integers(0, 4 * size - 1), min_size=1, max_size=3))
    hooks = schedule(size, edges, isolate=True)
    ended = run_all(hooks, random, failing)

    wanted = all_edges(size, edges)
    lost: set[int] = set()
    for hook in failing:
        lost |= closure(wanted, hook)
    assert set(ended) == set(range(4 * size)) - lost
    assert hooks.is_over
    for hook in range(4 * size):
        expected = DROPPED if hook in lost else FAILED if hook in failing else DONE
        assert hooks.state(hook) == expected


@given(dags(), st.data(), st.randoms(use_true_random=False))
def test_abort_starts_nothing_after_a_failure(dag, data, random):
    size, edges = dag
    failing = data.draw(st.integers(0, 4 * size - 1))
    hooks = schedule(size, edges)
    ended = run_all(hooks, random, frozenset({failing}))

    assert hooks.is_closed
    assert failing in ended
    assert not hooks.begin(failing)
    later = closure(all_edges(size, edges), failing)
    assert not later & set(ended)


def test_a_second_completion_of_a_hook_changes_nothing():
    hooks = schedule(2, [(0, 1)])
    (first,) = hooks.start()
    hooks.begin(first)
    ready = hooks.complete(first)

    assert ready == [4]
    assert hooks.complete(first) == []
    assert hooks.unfinished == 7


def test_hook_numbers_name_their_hooks():
    assert [hook_name(number) for number in range(4)] == list(HOOKS)
    assert hook_number(3, HookName.ON_MAIN) == 3 * HOOKS_PER_RESOURCE + 2
    assert HookState(BEGUN) is HookState.BEGUN


@given(dags(), st.data(), st.randoms(use_true_random=False))
def test_aborts_go_children_first_and_wait_for_no_unrelated_hook(dag, data, random):
    """After a random prefix of the hooks, everything begun is aborted, in the right order."""
    size, edges = dag
    hooks = schedule(size, edges)
    running = set()
    ready = hooks.start()
    for _ in range(data.draw(st.integers(0, 4 * size))):
        while ready:
            hook = ready.pop(random.randrange(len(ready)))
            hooks.begin(hook)
            running.add(hook)
        if not running:
            break
        hook = random.choice(sorted(running))
        running.discard(hook)
        ready += hooks.complete(hook)
    hooks.close()
    needed = {resource for resource in range(size) if hooks.has_begun(resource)}
    below = {r: closure(set(edges), r) for r in range(size)}
    aborts = AbortSchedule(hooks)
    out = list(aborts.add(sorted(needed)))
    handed = set(out)
    while aborts.unfinished:
        blocked = needed - handed
        for resource in blocked:
            own = any(hook // 4 == resource for hook in running)
            preparing = any(hook // 4 in below[resource] and hook % 4 < 2 for hook in running)
            pending = below[resource] & needed & (blocked | set(out))
            assert own or preparing or pending, "an abort that nothing holds up was not handed out"
        if running and (not out or random.random() < 0.5):
            hook = random.choice(sorted(running))
            running.discard(hook)
            hooks.complete(hook)
            fresh = aborts.hooks_changed([hook // 4])
        else:
            fresh = aborts.aborted(out.pop(random.randrange(len(out))))
        for resource in fresh:
            assert not any(hook // 4 == resource for hook in running)
            assert not any(hook // 4 in below[resource] and hook % 4 < 2 for hook in running)
            assert not below[resource] & needed - handed
            assert not below[resource] & set(out)
        handed |= set(fresh)
        out += fresh
    assert handed == needed


@given(dags(), st.data(), st.randoms(use_true_random=False))
def test_aborts_beside_an_isolated_operation_all_come_and_children_first(dag, data, random):
    size, edges = dag
    failing = data.draw(st.frozensets(st.integers(0, 4 * size - 1), min_size=1, max_size=3))
    hooks = schedule(size, edges, isolate=True)
    aborts = AbortSchedule(hooks)
    below = {r: closure(set(edges), r) for r in range(size)}
    ready, running, out = hooks.start(), [], []
    doomed: set[int] = set()
    asked: set[int] = set()
    handed: set[int] = set()
    while ready or running or out:
        for hook in ready:
            hooks.begin(hook)
            running.append(hook)
        ready = []
        if running and (not out or random.random() < 0.5):
            hook = running.pop(random.randrange(len(running)))
            if hook in failing:
                touched = hooks.fail(hook)
                doomed |= set(touched)
                fresh = aborts.hooks_changed(touched)
            else:
                ready = hooks.complete(hook)
                fresh = aborts.hooks_changed([hook // 4])
            more = sorted(doomed - asked)
            asked |= set(more)
            fresh += aborts.add(more)
        else:
            fresh = aborts.aborted(out.pop(random.randrange(len(out))))
        for resource in fresh:
            assert not hooks.is_active(resource)
            assert not any(hooks.is_preparing(child) for child in below[resource])
            assert not below[resource] & set(out)
        handed |= set(fresh)
        out += fresh
    assert handed == asked
    assert asked == doomed
    assert aborts.unfinished == 0


def test_a_released_abort_waits_for_its_own_hook_only():
    hooks = schedule(2, [(0, 1)])
    (parent_begin,) = hooks.start()
    hooks.begin(parent_begin)
    ready = hooks.complete(parent_begin)
    child_begin = hook_number(1, HookName.ON_PREPARE_BEGIN)
    assert child_begin in ready
    hooks.begin(child_begin)
    hooks.close()
    aborts = AbortSchedule(hooks)

    assert aborts.add([0, 1]) == []
    assert aborts.release() == [0]
    hooks.complete(child_begin)
    assert aborts.hooks_changed([1]) == [1]


def test_active_hooks_are_those_that_were_handed_out_and_have_not_ended():
    hooks = schedule(2, [(0, 1)])
    (first,) = hooks.start()
    assert hooks.active_hooks() == [first]

    ready = hooks.complete(first)
    assert hooks.begin(ready[0])
    assert hooks.active_hooks() == sorted(ready)

    for hook in hooks.active_hooks():
        hooks.withdraw(hook)
    hooks.close()
    assert hooks.active_hooks() == []
    assert hooks.is_over
