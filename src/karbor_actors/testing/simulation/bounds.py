"""Whether the engine keeps to its times: hooks given up, spans ended, cancels heeded."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from karbor_actors.limits import TimeLimits
from karbor_actors.model import HOOKS, HookName
from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

LIMITS = TimeLimits(prepare=30, main=60, complete=60, abort=20, max_quiesce=120)
"""The time limits of a simulation."""
_SLACK = 11.0
"""Seconds after which the engine sees even what a lost message was to tell it."""


def check_bounds(world: World, operation: str, entries: Sequence[Entry]) -> Iterator[Violation]:
    """Yield what went on for too long in *operation*, whose *entries* are in order."""
    seen = world.operations[operation]
    for process, group in groupby(entries, key=lambda entry: entry.process):
        if process in world.stalled:
            continue  # nothing was on time on a machine that stood still
        own = list(group)
        yield from _check_hooks(seen, own)
        yield from _check_spans(seen, own)
        cancelled = world.cancels.get(operation)
        if cancelled is not None and cancelled[0] == process:
            yield from _check_cancel(seen, own, cancelled[1])


def _check_hooks(seen: OperationSeen, own: Sequence[Entry]) -> Iterator[Violation]:
    began: dict[tuple[int, str, int], float] = {}
    for entry in own:
        place = (entry.resource, entry.hook, entry.attempt)
        if entry.what == "begin":
            began[place] = entry.time
        elif entry.what in ("done", "failed"):
            took = entry.time - began.get(place, entry.time)
            limit = LIMITS.of(HookName(entry.hook)) or 0
            if took > limit + _SLACK:
                what = f"{seen.label} {seen.keys[entry.resource]}.{entry.hook}"
                yield Violation("bounded", f"{what} took {took:.0f} s, and was not given up")


def _check_spans(seen: OperationSeen, own: Sequence[Entry]) -> Iterator[Violation]:
    """A resource that is held for too long is undone: none of its hooks begins any more."""
    began: dict[int, float] = {}
    for entry in own:
        resource = entry.resource
        if entry.what != "begin" or entry.hook == "on_abort" or not seen.abort_kinds[resource]:
            continue
        kind = HOOKS.index(HookName(entry.hook))
        end = seen.span_ends[resource]
        if kind <= HOOKS.index(HookName.ON_PREPARE_FINISH):
            began.setdefault(resource, entry.time)
        held = entry.time - began.get(resource, entry.time)
        if end is not None and kind <= end and held > (LIMITS.max_quiesce or 0) + _SLACK:
            what = f"{seen.label} {seen.keys[resource]}.{entry.hook}"
            yield Violation("bounded", f"{what} began although it was held for {held:.0f} s")


def _check_cancel(
    seen: OperationSeen, own: Sequence[Entry], cancelled_at: float
) -> Iterator[Violation]:
    for entry in own:
        late = entry.time - cancelled_at
        if entry.what == "begin" and entry.hook != "on_abort" and late > _SLACK:
            what = f"{seen.label} {seen.keys[entry.resource]}.{entry.hook}"
            yield Violation("bounded", f"{what} began {late:.0f} s after the operation's cancel()")
