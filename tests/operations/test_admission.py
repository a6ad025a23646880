"""Admission: caps are kept, everybody gets in, lines take turns; the pure table and the engine."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import DEADLINE, Gate
from karbor_actors import (
    Caps,
    OnFailure,
    OperationError,
    OperationType,
    ProtectionService,
    RetryPolicy,
    TimeLimits,
)
from karbor_actors.graph import ResourceGraph, build_graph
from karbor_actors.operations.admission.admission import Admission, Line
from karbor_actors.operations.admission.intake import WINDOW, Intake, new_admission
from karbor_actors.operations.admission.paths import paths_ahead
from karbor_actors.operations.hooks.calls import ASYNC
from karbor_actors.operations.limits import alarms
from karbor_actors.operations.planning import PlannedOperation
from karbor_actors.schedule import HOOKS_PER_RESOURCE, HookSchedule
from kit import RecordingProtection, plan, provider, thing

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource

KEYS = "abc"


def nobody() -> None:
    pass


@given(
    caps=st.fixed_dictionaries({key: st.integers(1, 3) for key in KEYS}),
    lines=st.lists(
        st.tuples(st.sets(st.sampled_from(KEYS)), st.integers(1, 8), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    order=st.randoms(use_true_random=False),
)
def test_no_cap_is_exceeded_and_every_hook_gets_in(caps, lines, order):
    admission = Admission()
    for key, cap in caps.items():
        admission.set_cap(key, cap)
    made = [Line(tuple(sorted(keys)), nobody, is_urgent=urgent) for keys, _, urgent in lines]
    for line, (_, count, _) in zip(made, lines, strict=True):
        for hook in range(count):
            admission.add(line, [hook])
    left = sum(count for _, count, _ in lines)
    running: list[Line] = []
    while left:
        admission.pump(0.0)
        for line in made:
            running += [line] * len(line.granted)
            line.granted = []
        used = Counter(key for line in running for key in line.keys)
        assert all(used[key] <= caps[key] for key in KEYS)
        assert running, "hooks wait although nothing is in"
        line = running.pop(order.randrange(len(running)))
        admission.leave(line)
        left -= 1
    assert not any(line.waiting for line in made)


def test_lines_take_turns():
    admission = Admission()
    admission.set_cap("key", 1)
    lines = [Line(("key",), nobody) for _ in range(3)]
    for line in lines:
        for hook in range(4):
            admission.add(line, [hook])
    order = []
    for _ in range(12):
        admission.pump(0.0)
        (line,) = [line for line in lines if line.granted]
        order.append(lines.index(line))
        line.granted = []
        admission.leave(line)

    assert order == [0, 1, 2] * 4


def test_a_line_that_needs_two_keys_is_not_starved_by_those_that_need_one():
    admission = Admission()
    admission.set_cap("a", 1)
    admission.set_cap("b", 1)
    both = Line(("a", "b"), nobody)
    singles = [Line(("a",), nobody), Line(("b",), nobody)]
    running: list[Line] = []

    def pump() -> None:
        for line in singles:  # those who want one never stop
            admission.add(line, [0])
        admission.pump(0.0)
        for line in (both, *singles):
            running.extend([line] * len(line.granted))
            line.granted = []

    pump()
    admission.add(both, [0])
    for _ in range(200):
        # Never are both free at once, as long as others are let in.
        admission.leave(running.pop(0))
        pump()
        if both in running:
            break
    assert both in running


def test_a_thaw_does_not_wait_for_a_line_that_places_are_kept_for():
    admission = Admission()
    admission.set_cap("lane", 1)
    admission.set_cap("type", 1)
    inside = {key: Line((key,), nobody) for key in ("lane", "type")}
    for line in inside.values():
        admission.add(line, [0])
    admission.pump(0.0)
    both = Line(("lane", "type"), nobody)
    admission.add(both, [0])
    for _ in range(100):  # until places are kept for it
        for key, line in list(inside.items()):
            other = Line((key,), nobody)
            admission.add(other, [0])
            admission.pump(0.0)
            admission.leave(line)
            admission.pump(0.0)
            if other.granted:
                inside[key] = other
    thaw = Line(("type",), nobody, is_urgent=True)
    admission.add(thaw, [0])
    admission.pump(0.0)
    if not thaw.granted:
        admission.leave(inside["type"])
        admission.pump(0.0)

    assert thaw.granted == [0]


def test_what_was_in_of_an_ended_operation_makes_room_for_others():
    admission = Admission()
    admission.set_cap("key", 2)
    woken: list[str] = []
    first = Line(("key",), lambda: woken.append("first"))
    other = Line(("key",), lambda: woken.append("other"))
    for hook in range(3):
        admission.add(first, [hook])
    admission.pump(0.0)
    first.granted = [1]  # one was taken
    admission.add(other, [7])
    admission.pump(0.0)
    assert woken == ["first"]

    admission.remove(first)
    admission.pump(0.0)
    assert woken == ["first", "other"]
    assert other.granted == [7]


def test_a_window_fits_itself_to_how_long_hooks_take_and_not_to_how_seldom_they_leave():
    admission = Admission()
    admission.set_window("lane", 4, 64)
    line = Line(("lane",), nobody)
    for hook in range(10_000):
        admission.add(line, [hook])

    def inside_after(took: float, left: int = 4, seconds: float = 0.1) -> int:
        nonlocal now
        for _ in range(left):
            line.ended, line.spent = 1, took
            admission.leave(line)
            admission.pump(now)  # too soon to learn anything
        now += seconds
        admission.leave(line)
        admission.pump(now)
        return line.inside

    now = 0.0
    admission.pump(now)
    assert line.inside == 4
    for _ in range(5):
        inside_after(0.1)
    assert line.inside == 4, "a tenth of a second each: none is queued"
    assert inside_after(0.002) == 14, "two thousandths each: some are"
    inside_after(0.0)
    few = inside_after(1e-5, left=60, seconds=10.0)
    assert 64 - 64 // 8 <= few <= 64, "few a second, but each is short; and not over the ceiling"
    inside_after(1.0, left=60)
    assert inside_after(1.0, left=60) == 4, "nor fewer than there are workers"


def test_a_window_is_fitted_at_once_when_a_few_hooks_for_each_worker_have_ended():
    """Not after some time only, in which short hooks went out by as few as there are workers."""
    admission = Admission()
    admission.set_window("lane", 4, 64)
    line = Line(("lane",), nobody)
    admission.add(line, list(range(1000)))
    admission.pump(0.0)
    admitted = [line.inside]
    for _ in range(4):
        line.ended, line.spent = 4, 4e-5
        admission.leave(line, 4)
        admission.pump(0.0)
        admitted.append(line.inside)

    assert admitted == [4, 4, 4, 4, 64]


def _full_window() -> tuple[Admission, Line, Line]:
    """Return a table whose one window is full, the line that fills it, and one that waits."""
    admission = Admission()
    admission.set_window("lane", 2, 64)
    busy, waiting = Line(("lane",), nobody), Line(("lane",), nobody)
    _fill(admission, busy)
    admission.add(waiting, [0, 1, 2, 3, 4])
    return admission, busy, waiting


def test_places_that_are_given_back_by_ones_go_out_by_turns():
    """Else many operations that share a full window get on by ones and twos, each a turn's cost."""
    admission, busy, waiting = _full_window()
    got = []
    for _ in range(10):
        admission.leave(busy)
        admission.pump(0.0)
        got.append(len(waiting.granted))

    assert got == [0] * 4 + [5] * 6


def test_a_line_that_waits_for_a_turns_places_is_not_starved_by_those_that_take_fewer():
    admission, busy, waiting = _full_window()
    for _ in range(60):
        admission.leave(busy)
        admission.add(Line(("lane",), nobody), [0])
        admission.pump(0.0)
        if waiting.granted:
            return
    pytest.fail("it waits although hooks leave, and others get in")


def _fill(admission: Admission, line: Line) -> None:
    """Have the hooks of *line* fill a window that has learned that they are short."""
    admission.add(line, list(range(66)))
    admission.pump(0.0)
    line.ended = 8
    admission.leave(line, 2)
    admission.pump(0.0)
    assert line.inside == 64
    line.granted = []


def graph(children: dict[str, list[str]]) -> ResourceGraph:
    names = dict.fromkeys([*children, *(name for found in children.values() for name in found)])
    resources = {name: thing(name) for name in names}
    return build_graph(
        [resources[name] for name in children],
        lambda resource: [resources[name] for name in children.get(resource.id, [])],
    )


def test_the_longest_way_ahead_is_counted_in_resources():
    built = graph({"root": ["short", "long"], "long": ["leaf"]})
    found = paths_ahead(built)
    assert found is not None
    ahead = {r.id: (found.from_begin[n], found.from_finish[n]) for n, r in enumerate(built.nodes)}

    assert ahead == {"root": (5, 1), "short": (2, 2), "long": (4, 2), "leaf": (3, 3)}
    assert paths_ahead(graph({"alone": [], "too": []})) is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"types": {"T": 0}}, "whole number, at least 1"),
        ({"groups": {"array": 1.5}}, "whole number, at least 1"),
        ({"hooks": {"on_main": True}}, "whole number, at least 1"),
        ({"hooks": {"on_abort": 1}}, "no hook 'on_abort'"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Caps(**wrong)


class Counting:
    """A behaviour that notes how many hooks run at once."""

    def __init__(self, hook: str) -> None:
        self.hook, self.most, self._now = hook, 0, 0
        self._lock = threading.Lock()

    def __call__(self, verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook != self.hook:
            return
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.005)
        with self._lock:
            self._now -= 1


class Grouped(RecordingProtection):
    def operation(self, verb: str, resource: Resource) -> Any:
        operation = super().operation(verb, resource)
        if operation is not None:
            operation.cap_groups = ("array",)
        return operation


class Waves:
    """An operation of nothing but async hooks, of resources that depend on nothing."""

    def __init__(self, count: int) -> None:
        nothing: Any = None
        self.planned = PlannedOperation(
            OperationType.PROTECT,
            "nowhere",
            build_graph([thing(f"r{n}") for n in range(count)], lambda _: []),
            [None] * count,
            bytearray([ASYNC]) * (HOOKS_PER_RESOURCE * count),
            bytearray(count),
            nothing,
            OnFailure.ABORT,
        )
        self.schedule, caps = self.planned.schedule(), Caps()
        admission = new_admission(1, caps)
        self.intake = Intake(self.planned, nothing, admission, caps, None, nobody)
        self.intake.arrived.extend(self.schedule.start())

    def begin(self) -> list[int]:
        admitted = self.intake.admit(0.0)
        return [hook for hook in admitted if self.schedule.begin(hook)]

    def end(self, hook: int) -> list[int]:
        self.intake.leave(hook)
        following = self.schedule.complete(hook)
        self.intake.arrived.extend(following)
        return following


def test_async_hooks_begin_by_portions_and_what_thaws_before_what_waits():
    waves = Waves(3 * WINDOW)
    first = waves.begin()
    assert len(first) == WINDOW
    assert waves.intake.has_more

    thaws = waves.end(first[0])
    second = waves.begin()
    assert set(thaws) < set(second)
    assert len(second) == WINDOW + len(thaws)

    third = waves.begin()
    assert not waves.intake.has_more
    assert waves.begin() == []
    begun = [*first, *second, *third]
    assert sorted(begun) == sorted({*range(0, 12 * WINDOW, 4), *thaws})


def test_each_of_many_async_hooks_begins_once():
    waves = Waves(2 * WINDOW + 1)
    ran, running = Counter(), deque(waves.begin())
    while running or waves.intake.has_more:
        for _ in range(WINDOW // 3):  # fewer end than begin
            if running:
                hook = running.popleft()
                ran[hook] += 1
                waves.end(hook)
        running.extend(waves.begin())

    assert waves.schedule.is_over
    assert waves.intake.is_empty
    assert set(ran.values()) == {1}
    assert len(ran) == len(waves.planned.hook_kinds)


def test_async_hooks_that_have_not_begun_are_turned_away():
    waves = Waves(2 * WINDOW)
    begun = waves.begin()
    turned_away = waves.intake.clear()

    assert sorted([*begun, *turned_away]) == list(range(0, 8 * WINDOW, 4))
    assert waves.begin() == []
    assert waves.intake.places == len(begun)


@pytest.mark.parametrize(
    "caps",
    [
        Caps(types={"Test::Thing": 2}),
        Caps(hooks={"on_main": 2}),
        Caps(groups={"array": 2, "unused": 1}),
        Caps(types={"Test::Thing": 3}, hooks={"on_main": 2}, groups={"array": 4}),
    ],
)
def test_a_cap_holds_over_all_operations(tmp_path: Path, journal, caps):
    behave = Counting("on_main")
    with ProtectionService(workers=8, caps=caps) as service:
        for name in ("one", "two"):
            plugin = Grouped(journal, behave)
            service.add_provider(provider(tmp_path / name, plugin, name=name))
        handles = [
            service.protect(plan(*(f"{name}{n}" for n in range(12)), provider=name))
            for name in ("one", "two")
        ]
        for handle in handles:
            handle.result(DEADLINE)

    assert behave.most == 2
    assert len([1 for hook, _ in journal.hooks() if hook == "on_main"]) == 24


def test_a_small_operation_does_not_wait_for_a_large_one(tmp_path: Path, journal):
    release = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if resource.id.startswith("large") and hook == "on_main":
            release.wait(0.02)

    with ProtectionService(workers=2) as service:
        plugin = RecordingProtection(journal, behave, hooks=("on_main",))
        service.add_provider(provider(tmp_path / "bank", plugin))
        large = service.protect(plan(*(f"large{n}" for n in range(500))))
        small = service.protect(plan("small"))
        small.result(DEADLINE)
        assert not large.wait(0)
        release.set()
        large.result(DEADLINE)


def test_a_thaw_goes_before_what_others_begin(tmp_path: Path, journal):
    gate, begun = threading.Event(), threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_begin" and resource.id == "r0":
            begun.set()
            assert gate.wait(DEADLINE)

    with ProtectionService(workers=1) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handle = service.protect(plan(*(f"r{n}" for n in range(8))))
        assert begun.wait(DEADLINE)
        gate.set()
        handle.result(DEADLINE)

    prepares = [entry for entry in journal.hooks() if entry[0].startswith("on_prepare")]
    waited = prepares.index(("on_prepare_finish", "r0"))
    assert waited <= 3, f"r0 stayed frozen while {waited - 1} others began: {prepares}"


def test_with_too_many_hung_hooks_others_fail_instead_of_waiting(tmp_path: Path, journal):
    hang = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if resource.id.startswith("hung"):
            hang.wait(DEADLINE)

    limits = TimeLimits(main=0.05)
    hung = [f"hung{n}" for n in range(6)]
    with ProtectionService(workers=1) as service:
        plugin = RecordingProtection(journal, behave, hooks=("on_main",))
        bank = provider(
            tmp_path / "bank", plugin, time_limits=limits, retry={"*": RetryPolicy(attempts=3)}
        )
        service.add_provider(bank)
        with pytest.raises(OperationError) as failed:
            service.protect(plan(*hung), on_failure="isolate").result(DEADLINE)
        assert any("no worker is left: 4 hooks" in str(cause) for cause in failed.value.causes)
        assert service.abandoned_threads == 4
        with pytest.raises(OperationError, match="no worker is left"):
            service.protect(plan("well")).result(DEADLINE)
        hang.set()
        for _ in range(1000):
            if service.abandoned_threads == 0:
                break
            threading.Event().wait(0.01)
        service.protect(plan("well")).result(DEADLINE)


@pytest.mark.parametrize("caps", [None, Caps(hooks={"on_main": 1})], ids=["workers", "cap"])
@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_what_is_undone_waits_for_no_place_of_another_operation(
    tmp_path: Path, journal, monkeypatch, caps, end
):
    """Hooks that would run next, if it went on, are ready only after it was decided to undo it."""
    monkeypatch.setattr(alarms, "LOOK_EVERY", 3600.0)
    long, thaw = Gate(), Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "long"):
            long.pass_through()
        elif (hook, resource.id) == ("on_prepare_finish", "good"):
            thaw.pass_through()
        elif (hook, resource.id) == ("on_prepare_finish", "bad") and end == "fail":
            raise ValueError("as asked")

    with ProtectionService(workers=1 if caps is None else 4, caps=caps) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        other = service.protect(plan("long"))
        long.wait_entered()
        undone = service.protect(plan("good", "bad"))
        thaw.wait_entered()
        if end == "cancel":
            undone.cancel()
        thaw.open()
        assert undone.wait(DEADLINE)
        assert undone.status == ("cancelled" if end == "cancel" else "failed")
        assert not other.wait(0)
        long.open()
        other.result(DEADLINE)


def test_a_place_that_a_hook_no_longer_wants_goes_to_the_next(tmp_path: Path, journal, monkeypatch):
    monkeypatch.setattr(alarms, "LOOK_EVERY", 3600.0)
    gate, begin, turned_away = Gate(), HookSchedule.begin, []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "first"):
            gate.pass_through()

    def begin_others(schedule: HookSchedule, hook: int) -> bool:
        if hook % 4 == 2 and len(journal.hooks()) >= 6 and not turned_away:
            turned_away.append(hook)
            return False
        return begin(schedule, hook)

    with ProtectionService(workers=1) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handles = [service.protect(plan("first"))]
        gate.wait_entered()
        handles += [service.protect(plan(name)) for name in ("second", "third")]
        while len(journal.hooks()) < 7:  # both wait for the place of the first
            threading.Event().wait(0.01)
        monkeypatch.setattr(HookSchedule, "begin", begin_others)
        gate.open()
        handles[0].result(DEADLINE)
        ended = threading.Semaphore(0)
        for handle in handles[1:]:
            handle.add_done_callback(lambda _: ended.release())
        assert ended.acquire(timeout=DEADLINE), "nobody got the place"
        for handle in handles[1:]:
            handle.cancel()  # the one that was turned away stands still
            assert handle.wait(DEADLINE)
    assert sorted(handle.status for handle in handles[1:]) == ["cancelled", "succeeded"]
    assert turned_away
