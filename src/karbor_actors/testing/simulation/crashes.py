"""Every crash: a process that is killed at each point that it passes, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from karbor_actors.model import HOOKS, HookName
from karbor_actors.testing.fault_rules import Action, Point, Rule
from karbor_actors.testing.simulation.plugins import Traits
from karbor_actors.testing.simulation.scenario import Process, Request, Scenario
from karbor_actors.testing.simulation.simulate import run_scenario

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from karbor_actors.testing.simulation.simulate import SimulationResult

_WHOLE = Traits(
    protect=frozenset(HOOKS),
    restore=frozenset(HOOKS),
    verify=frozenset({HookName.ON_MAIN}),
    delete=frozenset({HookName.ON_MAIN, HookName.ON_COMPLETE}),
    has_abort=True,
    is_async=False,
    is_resumable=True,
    has_resume=True,
    loses_everything=False,
    held_until=HookName.ON_PREPARE_FINISH,
    snapshot="keep",
    streams=1,
    flushes=False,
)
GRAPHS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "one": {"r0": ()},
    "chain": {"r0": ("r1",), "r1": ("r2",), "r2": ()},
    "diamond": {"r0": ("r1", "r2"), "r1": ("r3",), "r2": ("r3",), "r3": ()},
    "shared": {"r0": ("r2",), "r1": ("r2",), "r2": ()},
}
"""The graphs, by name: the children of each resource."""
VERBS = ("protect", "restore", "verify", "copy", "delete")


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Where the process is killed."""

    graph: str
    verb: str
    point: Point
    nth: int
    action: Action = Action.KILL

    def __str__(self) -> str:
        return f"{self.verb} of {self.graph}: {self.action} at {self.point} {self.nth}"


def whole_scenario(graph: str, verb: str) -> Scenario:
    """Return the scenario of *verb* over one of :data:`GRAPHS`, in which nothing goes wrong.

    Every verb but protect comes after a protect.
    """
    children = GRAPHS[graph]
    nested = {child for own in children.values() for child in own}
    batches = [[Request("protect")]]
    if verb != "protect":
        batches.append([Request(verb)])
    return Scenario(
        seed=0,
        children=children,
        traits=dict.fromkeys(children, _WHOLE),
        plans=[[name for name in children if name not in nested]],
        batches=batches,
        processes=(),
    )


def crash_points(
    graph: str, verb: str, points: Iterable[Point] = tuple(Point)
) -> Iterator[CrashPoint]:
    """Yield every place at which a process that runs *verb* may be killed.

    Those that it passes in the protect before it are the protect's own.
    """
    passed = run_scenario(whole_scenario(graph, verb)).passed
    before = run_scenario(whole_scenario(graph, "protect")).passed if verb != "protect" else {}
    for point in points:
        for nth in range(before.get(point, 0) + 1, passed[point] + 1):
            yield CrashPoint(graph, verb, point, nth)
            if point is Point.COMMIT_BEFORE:
                yield CrashPoint(graph, verb, point, nth, Action.POWER_CUT)


def crash(place: CrashPoint) -> SimulationResult:
    """Kill a process at *place*, let another recover what it left, and check everything."""
    killed = Process(crash=Rule(place.point, place.action, nth=place.nth))
    return run_scenario(replace(whole_scenario(place.graph, place.verb), processes=[killed]))
