"""What a plugin must bear: each check raises AssertionError where it does not."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from karbor_actors import HookContext, OperationType, Resource, TimeLimits
from karbor_actors.errors import HookCancelledError, ParametersError, PluginError
from karbor_actors.graph import build_graph
from karbor_actors.schema import validate_parameters
from karbor_actors.testing.conformance.killed import run_killed
from karbor_actors.testing.conformance.trial import blames_a_hook, fresh, trial
from karbor_actors.testing.fault_rules import Action, Point, Rule
from karbor_actors.testing.faults import FaultPlan, hook_facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from karbor_actors import Provider
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.testing.conformance.subject import Subject
    from karbor_actors.testing.conformance.trial import HookPlace, Trial

_GIVEN_UP = 0.5
"""Seconds after which a hook that is made to hang is given up."""
_STRANGER = "a_field_that_no_schema_has"
_STRIDE = 7
"""Every so many commits of a protect a process is killed at one."""
_MOST_COMMITS = 200


def check_schemas(kind: type[Subject], directory: Path) -> None:
    """Check that each schema is one, and takes its own defaults, and what the subject gives."""
    subject = fresh(kind, directory)
    with trial(subject) as running:
        provider = running.service.provider("conformance")
        given = {resource.type for resource in subject.resources()}
        for resource_type, plugin in provider.protection_plugins.items():
            name = type(plugin).__name__
            for verb in OperationType:
                _check_schema(provider, verb, resource_type, name)
            provider.saved_info_schema(resource_type)
        assert given <= set(provider.protection_plugins), f"no plugin handles all of {given}"


def _check_schema(provider: Provider, verb: OperationType, resource_type: str, name: str) -> None:
    graph = build_graph([Resource(resource_type, "1")], lambda _: [])
    what = f"{name}'s schema of {resource_type} for {verb}"

    def taken(fields: dict[str, Any]) -> dict[str, Any]:
        given = {resource_type: fields} if fields else {}
        checked = validate_parameters(
            graph, given, lambda kind: provider.schema(verb, kind), what=str(verb)
        )
        return checked.for_resource(0)

    try:
        schema = provider.schema(verb, resource_type)
    except PluginError as error:
        raise AssertionError(f"{what} is none: {error}") from error
    required = [f for f, rules in (schema or {}).items() if rules.get("required")]
    if not required:
        try:
            defaults = taken({})
            again = taken(defaults)
        except ParametersError as error:
            raise AssertionError(f"{what} does not take its own defaults: {error}") from error
        assert again == defaults, f"{what} makes {again} of its own defaults {defaults}"
    if schema is not None:
        with contextlib.suppress(ParametersError):
            taken({_STRANGER: 1})
            raise AssertionError(f"{what} takes a field that it does not have")


def check_success(kind: type[Subject], directory: Path) -> None:
    """Check that each verb succeeds, twice, and that nothing is left in the end."""
    subject = fresh(kind, directory)
    before = sorted(subject.leftovers())
    with trial(subject) as running:
        for verb in (*subject.verbs, *subject.verbs):
            running.succeed(verb)
            running.check_quiet(verb)
        running.check_clean("every verb", before)


def _each_place(
    kind: type[Subject], directory: Path, verb: str
) -> Iterator[tuple[HookPlace, Path]]:
    """Yield each hook of *verb*, with a directory for what is tried with it."""
    if verb not in kind.verbs:
        return
    subject = fresh(kind, directory / "places")
    with trial(subject) as running:
        running.lead_up_to(verb)
        places = running.places(verb)
    for number, place in enumerate(places):
        yield place, directory / str(number)


def _recovers(running: Trial, what: str, before: list[str]) -> None:
    """Check that all is quiet and clean, and that the plugin goes on to work, and cleans up."""
    running.check_quiet(what)
    running.check_clean(what, before)
    for verb in ("protect", "restore"):
        if verb in running.subject.verbs:
            running.succeed(verb, f" after {what}")
    running.check_clean(what, before)


def check_failure(kind: type[Subject], directory: Path, verb: str) -> None:
    """Fail each hook before and after its body; check that what it began is undone."""
    for found, own in _each_place(kind, directory, verb):
        for point in (Point.HOOK_BEFORE, Point.HOOK_AFTER):
            for action in (Action.RAISE, Action.EXIT):
                subject = fresh(kind, own / f"{point}-{action}")
                place = found.moved(subject.directory)
                what = f"{place}, which {action}s {point.removeprefix('hook_')} its body"
                before = sorted(subject.leftovers())
                with trial(subject) as running:
                    running.lead_up_to(verb)
                    rule = Rule(point, action, where=place.facts, times=1)
                    with FaultPlan([rule]).installed() as plan:
                        error = running.run(verb)
                    assert plan.fired, f"{what}: the hook did not run"
                    assert error is not None, f"{what}: {verb} succeeds all the same"
                    _recovers(running, what, before)


def check_repeats(kind: type[Subject], directory: Path, verb: str) -> None:
    """Have each hook fail once after its body, and run again; check that all is well then."""
    for found, own in _each_place(kind, directory, verb):
        subject, place = fresh(kind, own), found.moved(own)
        before = sorted(subject.leftovers())
        with trial(subject, attempts=2) as running:
            running.lead_up_to(verb)
            rule = Rule(Point.HOOK_AFTER, Action.RAISE, where=place.facts, times=1)
            with FaultPlan([rule]).installed():
                running.succeed(verb, f" when {place} runs twice")
            _recovers(running, f"{place}, run twice", before)


def check_abort_twice(kind: type[Subject], directory: Path, verb: str) -> None:
    """Have each hook fail after its body, and each ``on_abort`` once after its own."""
    for found, own in _each_place(kind, directory, verb):
        subject, place = fresh(kind, own), found.moved(own)
        before = sorted(subject.leftovers())
        with trial(subject) as running:
            running.lead_up_to(verb)
            rules = [
                Rule(Point.HOOK_AFTER, Action.RAISE, where=place.facts, times=1),
                Rule(
                    Point.HOOK_AFTER,
                    Action.RAISE,
                    where={"hook": "on_abort", "operation": verb, "attempt": "1"},
                ),
            ]
            with FaultPlan(rules).installed():
                running.run(verb)
                running.check_quiet(f"on_abort that runs twice after {place}")
            _recovers(running, f"on_abort that ran twice after {place}", before)


def check_late(kind: type[Subject], directory: Path, verb: str) -> None:
    """Have each hook be given up before its body acts; check that this is undone too."""
    for found, own in _each_place(kind, directory, verb):
        subject, place = fresh(kind, own), found.moved(own)
        before = sorted(subject.leftovers())
        phase = "prepare" if place.hook.startswith("on_prepare") else place.hook[3:]
        limits = TimeLimits(**{phase: _GIVEN_UP})
        what = f"{place}, which acts once it was given up"
        with trial(subject, limits=limits) as running:
            running.lead_up_to(verb)
            rule = Rule(Point.HOOK_BEFORE, Action.HANG, where=place.facts, times=1)
            with FaultPlan([rule]).installed():
                running.run(verb)
                running.check_quiet(what)
        with trial(subject) as running:
            _recovers(running, what, before)


class _Cancelling(FaultPlan):
    """Cancels an operation when one hook is about to begin, and watches how that leaves."""

    def __init__(self, place: HookPlace, running: Trial) -> None:
        super().__init__()
        self._place, self._running = place, running
        self._rule = Rule(Point.HOOK_BEFORE, Action.SLOW, where=place.facts)
        self.told: set[Attempt] = set()
        """The attempts whose hooks were told to leave."""
        self.stayed = False
        """Whether the hook was told to leave and returned as if it had come to its end."""

    def on_hook(self, attempt: Any, when: str) -> None:
        """See Injector."""
        if not self._rule.matches(hook_facts(attempt)):
            return
        if when == "after":
            self.stayed = attempt in self.told
            return
        self._running.service.operation(attempt.run.id).cancel()
        pause = threading.Event()
        while not attempt.is_unwanted:
            pause.wait(0.001)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note who is told to leave, within."""
        asked = HookContext.check_cancelled
        told = self.told

        def check_cancelled(context: HookContext) -> None:
            try:
                asked(context)
            except HookCancelledError:
                told.add(context._attempt)  # noqa: SLF001 - whose context it is, is not public
                raise

        HookContext.check_cancelled = check_cancelled  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            HookContext.check_cancelled = asked  # type: ignore[method-assign]


def check_cancel(kind: type[Subject], directory: Path, verb: str) -> None:
    """Cancel *verb* as each hook begins; check that it leaves, and that all is undone."""
    for found, own in _each_place(kind, directory, verb):
        subject, place = fresh(kind, own), found.moved(own)
        before = sorted(subject.leftovers())
        what = f"{place}, cancelled as it begins"
        with trial(subject) as running:
            running.lead_up_to(verb)
            plan = _Cancelling(place, running)
            with plan.watching(), plan.installed():
                running.run(verb)
            assert not plan.stayed, f"{what}: it swallows HookCancelledError, and goes on"
            _recovers(running, what, before)


def check_kill(kind: type[Subject], directory: Path, verb: str) -> None:
    """Kill the process before and after each hook's body; check that the next one recovers."""
    for found, own in _each_place(kind, directory, verb):
        for point in (Point.HOOK_BEFORE, Point.HOOK_AFTER):
            place = found.moved(own / point)
            rule = {"point": str(point), "action": "kill", "where": place.facts}
            what = f"a process killed {point.removeprefix('hook_')} the body of {place}"
            assert _kill(kind, own / point, verb, rule, what), f"{what}: the hook did not run"


def check_kill_at_commits(kind: type[Subject], directory: Path) -> None:
    """Kill a process at some of a protect's commits; check that the next one recovers."""
    for nth in range(1, _MOST_COMMITS, _STRIDE):
        rule = {"point": "commit_after", "action": "kill", "nth": nth}
        what = f"a process killed at commit {nth} of a protect"
        if not _kill(kind, directory / str(nth), "protect", rule, what):
            return


def _kill(kind: type[Subject], directory: Path, verb: str, rule: dict[str, Any], what: str) -> bool:
    subject = fresh(kind, directory)
    before = sorted(subject.leftovers())
    verbs = ["protect"] if verb == "protect" else ["protect", verb]
    was_killed = run_killed(kind, directory, verbs, rule)
    held = sorted(kind(directory).frozen())
    with trial(kind(directory)) as running:  # a subject that remembers nothing
        for handle in running.service.recovered:
            error = running.end_of(handle)
            blamed = blames_a_hook(error)
            assert blamed is None, f"{what}: taken up again, {blamed}"
            is_resumed = error is None and handle.type == "protect"
            assert not (is_resumed and held), (
                f"{what}: {held} is held longer than the Operation's held_until says, so that a "
                "protect goes on that has lost its point in time"
            )
            if error is None and handle.type == "restore":
                running.subject.check_restored()
        _recovers(running, what, before)
    return was_killed
