"""What a seed means: which scenario it is."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from karbor_actors.limits import Caps
from karbor_actors.model import HOOKS, HookName, RetryPolicy
from karbor_actors.testing.simulation.crowds import with_crowd
from karbor_actors.testing.simulation.faults import draw_crash, draw_rules
from karbor_actors.testing.simulation.plugins import GROUPS, TYPES, Traits
from karbor_actors.testing.simulation.rivals import with_rivals
from karbor_actors.testing.simulation.runner import LATEST
from karbor_actors.testing.simulation.scenario import Closing, Process, Request, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_RESOURCES = 7
_MOST_CRASHES = 4
_SEEDS_WITH_MORE = (3, 5)
"""By their rest when divided by eight."""
SEEDS_WITH_RIVALS = (4, 14, 18, 20, 21, 28)
"""By their rest when divided by 32: none of these had ever shown a bug."""

SEEDS_WITH_CROWDS = (6, 30, 42)
"""By their rest when divided by 64: of none of those either."""


def draw(seed: int) -> Scenario:
    """Return the scenario of *seed*: the same in every process."""
    rng = random.Random(f"scenario {seed}")  # noqa: S311 - must replay, need not be secret
    names = [f"r{number}" for number in range(rng.randint(1, _MOST_RESOURCES))]
    density = rng.choice((0.0, 0.2, 0.5, 0.9))
    children: dict[str, list[str]] = {name: [] for name in names}
    for number, name in enumerate(names):
        for parent in names[:number]:
            if rng.random() < density:
                children[parent].append(name)
    nested = {child for listed in children.values() for child in listed}
    plans = [[name for name in names if name not in nested]]
    plans.append(rng.sample(names, rng.randint(1, len(names))))
    simple = rng.random()
    return _with_more(
        Scenario(
            seed=seed,
            children=children,
            traits={name: _draw_traits(rng, simple) for name in names},
            plans=plans,
            batches=_draw_batches(rng),
            processes=_draw_processes(rng),
            workers=rng.randint(1, 4),
            recover="abort" if rng.random() < 0.1 else "resume",  # noqa: PLR2004
            retry=RetryPolicy(
                attempts=rng.choice((1, 1, 2, 4)), backoff=rng.choice((0.0, 0.5, 20.0))
            ),
            caps=_draw_caps(rng),
        )
    )


def _with_more(scenario: Scenario) -> Scenario:
    """Return *scenario* with what was added later, for some of the seeds.

    The seeds of before mean what they meant, so that those that showed bugs are tests still.
    """
    if scenario.seed % 32 in SEEDS_WITH_RIVALS:
        rng = random.Random(f"rivals of {scenario.seed}")  # noqa: S311 - must replay
        scenario = with_rivals(scenario, rng)
    elif scenario.seed % 64 in SEEDS_WITH_CROWDS:
        rng = random.Random(f"crowd of {scenario.seed}")  # noqa: S311 - must replay
        scenario = with_crowd(scenario, rng)
    return _with_closings(scenario)


def _with_closings(scenario: Scenario) -> Scenario:
    """Return *scenario* with copy hooks, closings and ``recover="ask"``, for a quarter of the seeds."""
    if scenario.seed % 8 not in _SEEDS_WITH_MORE:
        return scenario
    rng = random.Random(f"more of {scenario.seed}")  # noqa: S311 - must replay
    traits = {}
    for name, own in scenario.traits.items():
        others = frozenset(hook for hook in HOOKS if rng.random() < 0.4)  # noqa: PLR2004
        has_copy = rng.random() < 0.5  # noqa: PLR2004
        copy = others | {HookName.ON_MAIN} if has_copy else frozenset()
        traits[name] = replace(own, copy=copy)
    processes = []
    for process in scenario.processes:
        closing = Closing(
            after=30 * rng.random() ** 2,
            drain=rng.random() < 0.7,  # noqa: PLR2004
            timeout=rng.choice((None, None, 3.0)),
        )
        is_closed = rng.random() < 0.6  # noqa: PLR2004
        processes.append(replace(process, closing=closing if is_closed else None))
    latest = rng.choice((LATEST, 10.0))
    recover = "ask" if rng.random() < 0.2 else scenario.recover  # noqa: PLR2004
    return replace(scenario, traits=traits, processes=processes, latest=latest, recover=recover)


def _draw_caps(rng: random.Random) -> Caps:
    def some(names: Iterable[str]) -> dict[str, int]:
        return {name: rng.randint(1, 3) for name in names if rng.random() < 0.3}  # noqa: PLR2004

    return Caps(types=some(TYPES), hooks=some(map(str, HOOKS)), groups=some(GROUPS))


def _draw_traits(rng: random.Random, simple: float) -> Traits:
    def hooks(chance: float) -> frozenset[HookName]:
        return frozenset(hook for hook in HOOKS if rng.random() < chance)

    is_plain = rng.random() < simple
    return Traits(
        protect=frozenset(HOOKS) if is_plain else hooks(0.7),
        restore=frozenset(HOOKS) if is_plain else hooks(0.5),
        verify=hooks(0.3),
        delete=frozenset({HookName.ON_MAIN}) | hooks(0.3),
        has_abort=rng.random() < 0.8,  # noqa: PLR2004
        is_async=rng.random() < 0.2,  # noqa: PLR2004
        is_resumable=rng.random() < 0.9,  # noqa: PLR2004
        has_resume=rng.random() < 0.3,  # noqa: PLR2004
        loses_everything=rng.random() < 0.1,  # noqa: PLR2004
        held_until=rng.choice((HookName.ON_PREPARE_FINISH, *HOOKS)),
        snapshot=rng.choice(("", "release", "keep")),
        streams=rng.choice((0, 1, 2)),
        flushes=rng.random() < 0.3,  # noqa: PLR2004
        groups=tuple(name for name in GROUPS if rng.random() < 0.3),  # noqa: PLR2004
    )


def _draw_batches(rng: random.Random) -> list[list[Request]]:
    batches = [[_draw_request(rng, "protect")]]
    if rng.random() < 0.3:  # noqa: PLR2004
        batches[0].append(_draw_request(rng, "protect"))
    verbs = ("protect", "restore", "verify", "delete", "copy", "restore", "delete")
    batches.extend(
        [_draw_request(rng, rng.choice(verbs)) for _ in range(rng.choice((1, 1, 2)))]
        for _ in range(rng.choice((0, 1, 1, 2)))
    )
    return batches


def _draw_request(rng: random.Random, verb: str) -> Request:
    is_cancelled, is_timed = rng.random() < 0.1, rng.random() < 0.1  # noqa: PLR2004
    return Request(
        verb,
        choice=rng.choice((0, 0, 1, 2)),
        on_failure=rng.choice(("abort", "abort", "isolate")),
        cancel_after=rng.random() * 10 if is_cancelled else None,
        timeout=1 + rng.random() * 20 if is_timed else None,
    )


def _draw_processes(rng: random.Random) -> list[Process]:
    count = rng.choice((0, 1, 1, 1, 2, 2, 3, _MOST_CRASHES))
    is_faulty = rng.random() < 0.6  # noqa: PLR2004
    return [_draw_process(rng, is_faulty=is_faulty) for _ in range(count)]


def _draw_process(rng: random.Random, *, is_faulty: bool) -> Process:
    rules = draw_rules(rng) if is_faulty else ()
    is_killed = rng.random() < 0.9  # noqa: PLR2004
    crash = draw_crash(rng) if is_killed else None
    if not is_killed:
        rng.random()  # as many draws as for a crash: a seed means what it has meant
    return Process(rules, crash)
