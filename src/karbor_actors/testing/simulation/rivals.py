"""Scenarios in which operations want the same things at once, and those change meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from karbor_actors.model import HOOKS, HookName, RetryPolicy
from karbor_actors.testing.fault_rules import Action, Point, Rule
from karbor_actors.testing.simulation.faults import draw_crash, draw_rules
from karbor_actors.testing.simulation.plugins import TYPES
from karbor_actors.testing.simulation.scenario import Change, Process, Request

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from karbor_actors.testing.simulation.scenario import Scenario

_VERBS = ("protect", "protect", "restore", "restore", "verify", "delete", "copy", "copy")
_MANY = 8
"""Processes that die, one after the other, of the same operation."""
_ENDURING: Mapping[str, Any] = {
    "protect": frozenset({HookName.ON_MAIN, HookName.ON_COMPLETE}),
    "has_abort": False,
    "is_resumable": True,
    "loses_everything": False,
    "held_until": HookName.ON_PREPARE_FINISH,
}
"""What a protect is like that goes on however often its process dies."""
_FEW = 3
"""Plans of one or two resources: one who waits for much is easily overtaken by who wants little."""
_STUBBORN = Rule(
    Point.HOOK_BEFORE, Action.RAISE, where={"hook": "on_abort"}, probability=0.7, times=None
)
"""What makes most aborts fail, often until no attempt is left."""


def with_rivals(scenario: Scenario, rng: random.Random) -> Scenario:
    """Return *scenario* with other requests, crashes and policies, and with resources that change."""
    processes, names = _draw_processes(rng), list(scenario.children)
    few = [rng.sample(names, rng.randint(1, min(2, len(names)))) for _ in range(_FEW)]
    batches, traits = _draw_batches(rng), scenario.traits
    if len(processes) == _MANY:
        batches = [[Request("protect")], batches[-1]]
        traits = {name: replace(own, **_ENDURING) for name, own in traits.items()}
    return replace(
        scenario,
        plans=[scenario.plans[0], *few],
        batches=batches,
        processes=processes,
        changes=_draw_changes(scenario, rng, len(processes) + 1),
        retries=_draw_retries(rng),
        traits={name: replace(own, streams=own.streams % 2) for name, own in traits.items()},
    )


def _draw_batches(rng: random.Random) -> list[list[Request]]:
    """Return a protect or some, then many requests at once, which conflict more often than not."""
    first = [_draw_request(rng, "protect") for _ in range(rng.choice((1, 1, 2, 3)))]
    return [first] + [
        [_draw_request(rng, rng.choice(_VERBS)) for _ in range(rng.randint(3, 5))]
        for _ in range(rng.randint(1, 2))
    ]


def _draw_request(rng: random.Random, verb: str) -> Request:
    is_cancelled = rng.random() < 0.15  # noqa: PLR2004
    is_elsewhere = verb in ("verify", "restore") and rng.random() < 0.2  # noqa: PLR2004
    return Request(
        verb,
        choice=rng.choice((0, 0, 0, 1, 2, 3)),
        on_failure=rng.choice(("abort", "isolate")),
        cancel_after=rng.random() * 20 if is_cancelled else None,
        at="offsite" if is_elsewhere else "local",
        again=verb == "copy" and rng.random() < 0.5,  # noqa: PLR2004
    )


def _draw_processes(rng: random.Random) -> list[Process]:
    count = rng.choice((0, 1, 1, 2, 2, 3, _MANY))
    if count == _MANY:
        return [_draw_short_life(rng) for _ in range(count)]
    is_faulty, is_stubborn = rng.random() < 0.4, rng.random() < 0.3  # noqa: PLR2004
    return [
        Process(
            [
                *([_STUBBORN] if is_stubborn else []),
                *(draw_rules(rng) if is_faulty else []),
            ],
            draw_crash(rng, haste=rng.choice((1, 2, 4))),
            is_hasty=rng.random() < 0.5,  # noqa: PLR2004
        )
        for _ in range(count)
    ]


def _draw_short_life(rng: random.Random) -> Process:
    """Return a process that dies of one of its first hooks: one operation after many such is given up."""
    point = rng.choice((Point.HOOK_BEFORE, Point.HOOK_AFTER))
    return Process(crash=Rule(point, Action.KILL, nth=rng.randint(1, 3)))


def _draw_changes(scenario: Scenario, rng: random.Random, processes: int) -> list[Change]:
    """Return new children of some resources, at some moments; still without a cycle."""
    changes = []
    for process in range(processes):
        for _ in range(rng.choice((0, 1, 2))):
            after = 12 * rng.random() ** 2
            changes.append(Change(process, after, _draw_children(scenario.children, rng)))
    return changes


def _draw_children(
    children: Mapping[str, Sequence[str]], rng: random.Random
) -> dict[str, list[str]]:
    names = list(children)
    return {
        name: [
            child
            for child in names[number + 1 :]
            if (child in children[name]) != (rng.random() < 0.25)  # noqa: PLR2004
        ]
        for number, name in enumerate(names)
    }


def _draw_retries(rng: random.Random) -> dict[str | tuple[str, str], RetryPolicy]:
    """Return policies for some types, some hooks, and some hooks of a type."""
    hooks = list(map(str, HOOKS))
    keys: list[str | tuple[str, str]] = [*TYPES, *hooks]
    keys += [(kind, hook) for kind in TYPES for hook in hooks]
    return {
        key: RetryPolicy(attempts=rng.choice((1, 2, 3)), backoff=rng.choice((0.0, 0.5, 4.0)))
        for key in keys
        if rng.random() < 0.3  # noqa: PLR2004
    }
