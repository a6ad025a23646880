"""Whether aborts go upwards: a resource's after its own hooks and after those of all below it."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from karbor_actors.operations.engine import ABORT_GRACE
from karbor_actors.testing.simulation.bounds import LIMITS
from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

_ABORT = "on_abort"
_ENDS = ("done", "failed", "late")


def check_abort_order(
    world: World, seen: OperationSeen, entries: Sequence[Entry]
) -> Iterator[Violation]:
    """Yield the aborts of one operation that began too early, process by process.

    One that is late itself waits for nobody; nor does one whose grace may be over. And nobody
    waits for one that had failed before its body began, as where its actor was struck; nor for
    one of a resource of which no hook's body ever began: an intent may be all there is to undo.
    """
    begun: set[int] = set()
    for process, group in groupby(entries, key=lambda entry: entry.process):
        own = list(group)
        begun |= {e.resource for e in own if e.what == "begin" and e.hook != _ABORT}
        for resource in {entry.resource: None for entry in own if entry.hook == _ABORT}:
            yield from _check_own_hook(seen, own, resource)
            if seen.on_failure == "abort":
                below = descendants(seen, resource) & begun
                may_have_failed = process in world.struck_aborts
                yield from _check_below(seen, own, resource, below, may_have_failed=may_have_failed)


def check_aborts_once(
    world: World, seen: OperationSeen, entries: Sequence[tuple[int, Entry]]
) -> Iterator[Violation]:
    """Yield the aborts that ran again although their end had become durable.

    That is so two commits later, where nothing is late and no message or write went wrong.
    """
    done: dict[int, tuple[int, int]] = {}
    inside: Counter[tuple[int, int]] = Counter()
    unclear = set()
    for _, entry in entries:
        body = entry.process, entry.resource
        inside[body] += {"begin": 1, "done": -1, "failed": -1, "late": -1}.get(entry.what, 0)
        if entry.what in ("late", "failed"):
            unclear.add(body)
    unclear |= {body for body, count in inside.items() if count}
    for place, entry in entries:
        if entry.hook != _ABORT:
            continue
        resource = entry.resource
        if entry.what == "done":
            done[resource] = entry.process, place
        elif entry.what == "begin" and resource in done:
            process, ended = done[resource]
            after = [n for p, n in world.commits if p == process and n > ended]
            is_clear = process not in world.disturbed and (process, resource) not in unclear
            if process != entry.process and is_clear and len(after) > 1:
                name = f"{seen.label} {seen.keys[resource]}.on_abort"
                yield Violation("once", f"{name} ran again in another process")


def descendants(seen: OperationSeen, resource: int) -> set[int]:
    """Return all resources below *resource*."""
    found: set[int] = set()
    todo = list(seen.children[resource])
    while todo:
        child = todo.pop()
        if child not in found:
            found.add(child)
            todo += seen.children[child]
    return found


def _first(own: Sequence[Entry], resource: int) -> int | None:
    """Return where the first abort of *resource* begins."""
    places = (
        n
        for n, e in enumerate(own)
        if e.resource == resource and e.hook == _ABORT and e.what == "begin"
    )
    return next(places, None)


def _check_own_hook(
    seen: OperationSeen, own: Sequence[Entry], resource: int
) -> Iterator[Violation]:
    first = _first(own, resource)
    if first is None:
        return
    begun: set[tuple[str, int]] = set()
    for entry in own[:first]:
        if entry.resource != resource or entry.hook == _ABORT:
            continue
        if entry.what == "begin":
            begun.add((entry.hook, entry.attempt))
        elif entry.what in _ENDS:
            begun.discard((entry.hook, entry.attempt))
    for hook, attempt in begun:
        rest = (
            e for e in own[first:] if (e.resource, e.hook, e.attempt) == (resource, hook, attempt)
        )
        if any(entry.what in ("done", "failed") for entry in rest):
            name = f"{seen.label} {seen.keys[resource]}"
            yield Violation("upwards", f"{name}.on_abort began while {hook} was running")


def _check_below(
    seen: OperationSeen,
    own: Sequence[Entry],
    resource: int,
    all_below: Iterable[int],
    *,
    may_have_failed: bool,
) -> Iterator[Violation]:
    first = _first(own, resource)
    if first is None or _may_be_impatient(own, first, resource):
        return
    for below in all_below:
        begins = _first(own, below)
        if begins is None or (begins > first and may_have_failed):
            continue
        rounds = [
            n for n, e in enumerate(own) if e.resource == below and e.hook == _ABORT and n < first
        ]
        last = [own[n] for n in rounds if own[n].what == "begin"]
        given_up = bool(last) and own[first].time - last[-1].time >= (LIMITS.abort or 0)
        if begins > first or (own[rounds[-1]].what not in _ENDS and not given_up):
            names = f"{seen.keys[resource]}.on_abort", f"{seen.keys[below]}.on_abort"
            yield Violation("upwards", f"{seen.label} {names[0]} did not wait for {names[1]}")


def _may_be_impatient(own: Sequence[Entry], first: int, resource: int) -> bool:
    """Return whether the abort at *first* need not wait any more.

    The grace begins when nothing new does.
    """
    now = own[first].time
    begins = [e.time for e in own[:first] if e.what == "begin" and e.hook != _ABORT]
    held = [
        e.time for e in own[:first] if e.resource == resource and e.hook.startswith("on_prepare")
    ]
    is_over = now - max(begins, default=0.0) >= ABORT_GRACE
    return is_over or (bool(held) and now - held[0] >= (LIMITS.max_quiesce or 0) - ABORT_GRACE)
