"""Scenarios in which operations that have nothing in common wait for the same few workers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from karbor_actors.testing.fault_rules import Action, Point, Rule
from karbor_actors.testing.simulation.faults import draw_crash
from karbor_actors.testing.simulation.scenario import Closing, Process, Request

if TYPE_CHECKING:
    import random

    from karbor_actors.testing.simulation.scenario import Scenario

_PAIRS = 5
"""Plans, each of one resource with at most one child, that share nothing."""
_SLOW = (2.0, 15.0, 25.0, 90.0)

_LONG = Rule(
    Point.HOOK_BEFORE,
    Action.SLOW,
    where={"hook": "on_main"},
    probability=0.8,
    times=None,
    seconds=50.0,
)
"""What makes others wait in line for longer than they may hold what they froze."""
_COPYING = replace(_LONG, probability=0.6, seconds=20.0)
"""What has mains run while their service closes, and leave before they are given up."""


def with_crowd(scenario: Scenario, rng: random.Random) -> Scenario:
    """Return *scenario* with many short operations, slow hooks, and often an end before the end.

    In half of them many hooks leave when they are told to, and the processes are closed.
    """
    children: dict[str, list[str]] = {}
    for number in range(0, 2 * _PAIRS, 2):
        has_child = rng.random() < 0.6  # noqa: PLR2004
        children[f"r{number}"] = [f"r{number + 1}"] if has_child else []
        children[f"r{number + 1}"] = []
    traits = list(scenario.traits.values())
    made = replace(
        scenario,
        children=children,
        traits={name: rng.choice(traits) for name in children},
        plans=[[f"r{number}"] for number in range(0, 2 * _PAIRS, 2)],
        batches=[
            [_draw_request(rng, "protect", choice) for choice in range(_PAIRS)],
            [
                _draw_request(rng, rng.choice(("protect", "restore", "verify")), choice)
                for choice in range(_PAIRS)
            ],
        ],
        processes=[_draw_process(rng) for _ in range(rng.choice((1, 1, 2)))],
        workers=rng.choice((1, 1, 2)),
    )
    return _with_closings(made, rng) if rng.random() < 0.5 else made  # noqa: PLR2004


def _with_closings(scenario: Scenario, rng: random.Random) -> Scenario:
    return replace(
        scenario,
        traits={
            name: replace(own, leaves=rng.random() < 0.8)  # noqa: PLR2004
            for name, own in scenario.traits.items()
        },
        processes=[_with_closing(process, rng) for process in scenario.processes],
    )


def _with_closing(process: Process, rng: random.Random) -> Process:
    """Return *process*, closed while mains run: what is suspended then may be undone soon after."""
    closing = Closing(after=30 * rng.random(), timeout=rng.choice((None, 2.0, 4.0, 15.0)))
    return replace(process, rules=[_COPYING, *process.rules], closing=closing)


def _draw_request(rng: random.Random, verb: str, choice: int) -> Request:
    is_cancelled, is_timed = rng.random() < 0.3, rng.random() < 0.2  # noqa: PLR2004
    return Request(
        verb,
        choice=choice,
        on_failure=rng.choice(("abort", "isolate")),
        cancel_after=rng.random() * 60 if is_cancelled else None,
        timeout=1 + rng.random() * 60 if is_timed else None,
    )


def _draw_process(rng: random.Random) -> Process:
    rules = [
        Rule(Point.HOOK_BEFORE, Action.SLOW, probability=0.2, times=None, seconds=seconds)
        for seconds in rng.sample(_SLOW, 2)
    ]
    if rng.random() < 0.5:  # noqa: PLR2004
        rules.insert(0, _LONG)
    rules.append(Rule(Point.HOOK_BEFORE, Action.HANG, probability=0.04, times=None))
    rules.append(Rule(Point.HOOK_AFTER, Action.RAISE, probability=0.06, times=None))
    is_killed = rng.random() < 0.3  # noqa: PLR2004
    return Process(rules, draw_crash(rng, haste=1) if is_killed else None)
