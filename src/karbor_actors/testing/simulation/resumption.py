"""Whether only that goes on in another process which can, and has not been decided against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.model import HOOKS, HookName
from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

_ABORT = "on_abort"
_MOST_RECOVERIES = 5


def check_resumption(
    world: World, operation: str, entries: Sequence[Entry], recover: str
) -> Iterator[Violation]:
    """Yield the hooks of one operation that began although it was to be undone.

    Args:
        world: What is known beside the log.
        operation: Which one.
        entries: Its own, in order.
        recover: What the provider does with what an earlier process left.
    """
    seen = world.operations[operation]
    is_whole = seen.on_failure == "abort"
    gone: dict[int, str] = {}
    """By resource: why none of its hooks may begin any more."""
    process = entries[0].process if entries else -1
    for place, entry in enumerate(entries):
        if entry.process != process:
            process = entry.process
            before = entries[:place]
            if why := _decided(world, operation, before, recover):
                gone |= dict.fromkeys(range(len(seen.keys)), why)
            gone |= dict(_lost(seen, before))
        if entry.what != "begin":
            continue
        if entry.hook == _ABORT:
            gone.setdefault(entry.resource, "it was undone")
            continue
        whose = gone.values() if is_whole else [gone.get(entry.resource, "")]
        if why := next(filter(None, whose), ""):
            name = f"{seen.label} {seen.keys[entry.resource]}.{entry.hook}"
            yield Violation("decided", f"{name} began although {why}")
            return


def _decided(world: World, operation: str, before: Sequence[Entry], recover: str) -> str:
    """Return why the whole operation, of which *before* is known, may not go on; nothing if it may."""
    if operation in world.decided and world.decided[operation] <= before[-1].process:
        return "its cancel() was recorded in an earlier process"
    if recover == "abort":
        return "its process had ended, and such operations are aborted"
    if len({entry.process for entry in before}) > _MOST_RECOVERIES and not world.closed:
        return "it had been taken up too often"
    return ""


def _lost(seen: OperationSeen, before: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    """Yield the resources of a protect that cannot go on after *before*, and why not."""
    if seen.verb != "protect":
        return
    begun = {(e.resource, e.hook) for e in before if e.what == "begin" and e.hook != _ABORT}
    done = {(e.resource, e.hook) for e in before if e.what == "done"}
    for resource, hook in sorted(begun):
        if not seen.abort_kinds[resource]:
            continue  # no intent is recorded, so that a new process cannot know of it
        end = seen.span_ends[resource]
        if seen.resumable and not seen.resumable[resource]:
            yield resource, f"{seen.keys[resource]} cannot be resumed"
        elif (
            end is not None
            and HOOKS.index(HookName(hook)) <= end
            and (resource, str(HOOKS[end])) not in done
        ):
            yield resource, f"{seen.keys[resource]} was held when an earlier process ended"
