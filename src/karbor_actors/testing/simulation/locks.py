"""Whether operations that conflict ever run hooks at the same time, in any process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

_LIVE = ("protect", "restore")
"""The verbs that have their resources for themselves."""


def check_conflicts(world: World) -> Iterator[Violation]:
    """Yield the operations that began a hook before one that they conflict with had ended.

    One has ended when it gives its locks back; or with its process, and then whichever begins
    first in the next one has what both want.
    """
    process, running = -1, dict[str, None]()
    releases = iter([*world.releases, (len(world.entries), len(world.entries), "")])
    released = next(releases)
    for place, entry in enumerate(world.entries):
        while released[1] <= place and released[2]:
            running.pop(released[2], None)
            released = next(releases)
        if entry.process != process:
            process, running = entry.process, {}
        if entry.what != "begin" or entry.operation in running:
            continue
        seen = world.operations[entry.operation]
        for other in running:
            if both_want := conflict(seen, world.operations[other]):
                labels = f"{world.operations[other].label} and {seen.label}"
                yield Violation("exclusive", f"{labels} run at once, and both want {both_want}")
        running[entry.operation] = None


def check_pending_first(world: World) -> Iterator[Violation]:
    """Yield the operations that touched what another one could not undo, and nobody tried again."""
    ends: dict[tuple[int, str], list[int]] = {}
    aborts: dict[tuple[int, str], list[tuple[int, Entry]]] = {}
    first: dict[tuple[int, str], int] = {}
    for process, place, operation in world.releases:
        ends.setdefault((process, operation), []).append(place)
    for place, entry in enumerate(world.entries):
        if entry.what == "begin":
            first.setdefault((entry.process, entry.operation), place)
        if entry.hook == "on_abort":
            aborts.setdefault((entry.process, entry.operation), []).append((place, entry))
    for (process, operation), began in first.items():
        seen = world.operations[operation]
        is_unclear = process in world.disturbed | world.stalled | world.closed
        if seen.verb not in _LIVE or is_unclear or (process, operation) in world.recovered:
            continue  # a start tries again what is pending before anything that it recovers
        for (where, other), own in aborts.items():
            ended = min((n for n in ends.get((where, other), ()) if n <= began), default=None)
            if where != process or other == operation or ended is None:
                continue
            before = {e.resource: e for n, e in own if n < ended}
            again = {e.resource for n, e in own if ended <= n < began}
            left = world.operations[other]
            for resource, last in before.items():
                key = left.keys[resource]
                if last.what == "failed" and resource not in again and key in seen.keys:
                    what = f"{seen.label} began, and {left.label} {key}.on_abort, which had failed,"
                    yield Violation("exclusive", f"{what} was not tried again before")


def check_turns(world: World) -> Iterator[Violation]:
    """Yield the operations that began before one whose turn it was, and that they conflict with.

    What a process recovers comes first, then who asked first.
    """
    begins: dict[tuple[int, str], int] = {}
    for place, entry in enumerate(world.entries):
        if entry.what == "begin":
            begins.setdefault((entry.process, entry.operation), place)
    ends: dict[tuple[int, str], int] = {}
    for process, place, operation in world.releases:
        ends.setdefault((process, operation), place)
    for (process, operation), began in begins.items():
        if (process, operation) in world.recovered:
            continue
        seen, turn = world.operations[operation], world.turns.get((process, operation), 0)
        others = {o for p, o in (*begins, *world.recovered) if p == process and o != operation}
        for other in sorted(others & world.operations.keys()):
            before = world.operations[other]
            # Copies whose target is added later stand still until then.
            is_first = (process, other) in world.recovered and before.verb != "copy"
            is_first = is_first or world.turns.get((process, other), turn) < turn
            ended = ends.get((process, other), len(world.entries) + 1)
            if is_first and began < ended and (both_want := conflict(before, seen)):
                what = f"{seen.label} began before {before.label}, whose turn it was, had ended"
                yield Violation("exclusive", f"{what}: both want {both_want}")


def check_refusal(
    world: World, operation: str, refused: tuple[str, str], running: Iterable[str]
) -> Iterator[Violation]:
    """Yield an operation that is refused for its checkpoint's status before its turn has come.

    Not because of the protect that made that one: a delete may be told to abort what it left first.

    Args:
        world: What is known.
        operation: Which one.
        refused: Its verb, and the checkpoint's id.
        running: The operations that have not ended.
    """
    if operation in world.operations or (world.process, operation) not in world.queued:
        return  # it ran, or looked before it asked for anything
    verb, checkpoint = refused
    for other in running:
        seen = world.operations.get(other)
        if seen is not None and seen.verb != "protect" and (world.process, other) in world.turns:
            verbs = {verb, seen.verb}
            if seen.checkpoint == checkpoint and ("delete" in verbs or verbs == {"copy"}):
                yield Violation("exclusive", f"a {verb} did not wait for {seen.label} to end")


def conflict(one: OperationSeen, other: OperationSeen) -> str:
    """Return what two operations may not have at the same time; nothing if they may run so.

    Written down once more, apart from the engine's locks, which it is to check.
    """
    if one.verb in _LIVE and other.verb in _LIVE and (both := {*one.keys} & {*other.keys}):
        return min(both)
    if one.checkpoint != other.checkpoint:
        return ""
    verbs = {one.verb, other.verb}
    return "the checkpoint" if "delete" in verbs or verbs == {"copy"} else ""
