"""Whether only that goes on in another process which can, and has not been decided against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.model import HOOKS, HookName
from karbor_actors.testing.simulation.bounds import LIMITS
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


def check_taken_up(
    world: World, operation: str, entries: Sequence[tuple[int, Entry]], recover: str
) -> Iterator[Violation]:
    """Yield an operation that a process took up again and undid, though nothing was in its way.

    As far as the log can tell: where anything else went wrong, nobody knows what was decided.
    *entries* have their places in it.
    """
    seen = world.operations[operation]
    unclear = world.disturbed | world.stalled | world.closed | world.hung
    for process in sorted({p for p, o in world.failures if o == operation}):
        own = [(place, entry) for place, entry in entries if entry.process <= process]
        before = [entry for place, entry in own if _is_durable(world, place, entry, process)]
        took = max((entry.time for _, entry in own), default=0.0)
        is_clear = recover == "resume" and (process, operation) in world.recovered
        is_clear = is_clear and not unclear & {process, *(entry.process for _, entry in own)}
        is_clear = is_clear and took < (LIMITS.max_quiesce or 0)
        is_stopped = operation in world.cancels or operation in world.timed
        has_failed = any(e.what in ("failed", "late") for _, e in own)
        is_undone = any(entry.hook == _ABORT for entry in before)
        if not is_clear or is_stopped or has_failed or is_undone or not before:
            continue
        why = _decided(world, operation, before, recover)
        if not why and not [*_lost(seen, before, is_known=True)]:
            yield Violation("decided", f"{seen.label} is given up, and nothing was in its way")


def _is_durable(world: World, place: int, entry: Entry, process: int) -> bool:
    """Return whether *entry* is of a process before *process*, which cannot but know of it.

    What is done is known two commits later; what has begun may be known at any time.
    """
    if entry.process >= process:
        return False
    after = [n for p, n in world.commits if p == entry.process and n > place]
    return entry.what != "done" or len(after) > 1


def _decided(world: World, operation: str, before: Sequence[Entry], recover: str) -> str:
    """Return why the whole operation, of which *before* is known, may not go on; nothing if it may."""
    if operation in world.decided and world.decided[operation] <= before[-1].process:
        return "its cancel() was recorded in an earlier process"
    if recover == "abort":
        return "its process had ended, and such operations are aborted"
    if len({entry.process for entry in before}) > _MOST_RECOVERIES and not world.closed:
        return "it had been taken up too often"
    return ""


def _lost(
    seen: OperationSeen, before: Sequence[Entry], *, is_known: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield the resources of a protect that cannot go on after *before*, and why not.

    Args:
        seen: The protect.
        before: What earlier processes did.
        is_known: Whether a new process may know what began without an ``on_abort`` too.
    """
    if seen.verb != "protect":
        return
    begun = {(e.resource, e.hook) for e in before if e.what == "begin" and e.hook != _ABORT}
    done = {(e.resource, e.hook) for e in before if e.what == "done"}
    for resource, hook in sorted(begun):
        if not seen.abort_kinds[resource] and not is_known:
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
