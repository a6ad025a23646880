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
    world: World, operation: str, entries: Sequence[Entry], recover: str
) -> Iterator[Violation]:
    """Yield an operation that a process took up again and undid, though nothing was in its way.

    As far as the log can tell: where anything else went wrong, nobody knows what was decided.
    """
    seen = world.operations[operation]
    unclear = world.disturbed | world.stalled | world.closed | world.hung
    for process in sorted({p for p, o in world.failures if o == operation}):
        own = [entry for entry in entries if entry.process <= process]
        before = _surely_known([entry for entry in own if entry.process < process])
        took = max((entry.time for entry in own), default=0.0)
        is_clear = recover == "resume" and (process, operation) in world.recovered
        is_clear = is_clear and unclear.isdisjoint(range(entries[0].process, process + 1))
        is_clear = is_clear and took < (LIMITS.max_quiesce or 0)
        recoveries = sum(o == operation and p < process for p, o in world.recovered)
        is_stopped = operation in world.cancels or operation in world.timed
        is_stopped = is_stopped or recoveries >= _MOST_RECOVERIES or _is_whole(seen, own)
        has_failed = any(e.what in ("failed", "late") for e in own)
        is_undone = any(entry.hook == _ABORT for entry in before)
        if not is_clear or is_stopped or has_failed or is_undone or not before:
            continue
        why = _decided(world, operation, before, recover) or _may_be_lost(seen, before)
        if not why:
            yield Violation("decided", f"{seen.label} is given up, and nothing was in its way")


def _surely_known(before: Sequence[Entry]) -> list[Entry]:
    """Return what a later process cannot but know of *before*.

    A hook is known to be done once another one of its resource has begun; what has begun may be
    known at any time.
    """
    known, later = [], set()
    for entry in reversed(before):
        if entry.what == "begin":
            later.add((entry.resource, entry.hook))
        is_followed = any(r == entry.resource and hook != entry.hook for r, hook in later)
        if entry.what != "done" or is_followed:
            known.append(entry)
    return known[::-1]


def _is_whole(seen: OperationSeen, own: Sequence[Entry]) -> bool:
    """Return whether all hooks were done: what failed then is the operation's end."""
    done = {(e.resource, e.hook) for e in own if e.what == "done"}
    places = ((n // len(HOOKS), n % len(HOOKS)) for n, kind in enumerate(seen.hook_kinds) if kind)
    return all((resource, str(HOOKS[kind])) in done for resource, kind in places)


def _decided(world: World, operation: str, before: Sequence[Entry], recover: str) -> str:
    """Return why the whole operation, of which *before* is known, may not go on; nothing if it may."""
    if operation in world.decided and world.decided[operation] <= before[-1].process:
        return "its cancel() was recorded in an earlier process"
    if recover == "abort":
        return "its process had ended, and such operations are aborted"
    if len({entry.process for entry in before}) > _MOST_RECOVERIES and not world.closed:
        return "it had been taken up too often"
    return ""


def _may_be_lost(seen: OperationSeen, before: Sequence[Entry]) -> bool:
    """Return whether a protect of which *before* is known may be held, or unable to go on.

    Of a resource no hook of which has begun the intent may be recorded already.
    """
    if seen.verb != "protect":
        return False
    begun = {entry.resource for entry in before}
    is_one_intended = any(
        resource not in begun and kind and (seen.span_ends[resource] is not None or not can_go_on)
        for resource, (kind, can_go_on) in enumerate(
            zip(seen.abort_kinds, seen.resumable or b"\1" * len(seen.keys), strict=True)
        )
    )
    return is_one_intended or bool([*_lost(seen, before, is_known=True)])


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
