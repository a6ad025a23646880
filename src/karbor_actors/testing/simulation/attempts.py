"""Whether hooks and aborts are tried as often as their policies say, one try after the other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from karbor_actors.limits import ABORT_RETRY
from karbor_actors.model import RetryPolicy
from karbor_actors.testing.simulation.bounds import LIMITS
from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

    Policies = Mapping[str | tuple[str, str], RetryPolicy]
    """As a provider takes them: by type and hook, by type, by hook, or ``"*"``."""

_ABORT = "on_abort"
_ROUNDING = 1e-6


def check_numbers(seen: OperationSeen, entries: Sequence[Entry]) -> Iterator[Violation]:
    """Yield the attempts whose number is not higher than the one before."""
    last: dict[tuple[int, str], Entry] = {}
    for entry in entries:
        if entry.what != "begin" or entry.hook == _ABORT:
            continue
        before = last.get((entry.resource, entry.hook))
        last[entry.resource, entry.hook] = entry
        if before is None:
            continue
        # Without an on_abort no intent is recorded, so a new process cannot know of the old ones.
        is_known = seen.abort_kinds[entry.resource] or before.process == entry.process
        if is_known and before.attempt >= entry.attempt:
            what = f"{_name(seen, entry)}: attempt {entry.attempt} came after {before.attempt}"
            yield Violation("attempts", what)


def check_retries(
    seen: OperationSeen, entries: Sequence[Entry], policies: Policies
) -> Iterator[Violation]:
    """Yield the hooks that a process tried too often, too soon, or before the last try had failed."""
    tries: Counter[tuple[int, int, str]] = Counter()
    last: dict[tuple[int, int, str], Entry] = {}
    for entry in entries:
        if entry.hook == _ABORT:
            continue
        place = entry.process, entry.resource, entry.hook
        before = last.get(place)
        if entry.what == "begin":
            tries[place] += 1
            policy = policy_of(seen, entry, policies)
            what = f"{_name(seen, entry)}, attempt {entry.attempt},"
            if tries[place] > policy.attempts:
                allowed = f"is tried {tries[place]} times in one process, {policy.attempts} allowed"
                yield Violation("retried", f"{what} {allowed}")
            if before is not None:
                yield from _check_next(before, entry, policy.delay(tries[place] - 1), what)
        last[place] = entry


def _check_next(before: Entry, entry: Entry, delay: float, what: str) -> Iterator[Violation]:
    """Look at one attempt, and at the last that was seen of the one before it."""
    if before.what != "failed":
        yield Violation("retried", f"{what} began although the one before had not failed")
    elif entry.time - before.time < delay - _ROUNDING:
        yield Violation("retried", f"{what} began before its {delay} seconds were over")
    if entry.attempt != before.attempt + 1:
        yield Violation("retried", f"{what} came after attempt {before.attempt}")


def policy_of(seen: OperationSeen, entry: Entry, policies: Policies) -> RetryPolicy:
    """Return the policy of *entry*'s hook: the one that says most of it."""
    kind = seen.types[entry.resource]
    for key in ((kind, entry.hook), kind, entry.hook, "*"):
        if key in policies:
            return policies[key]
    return RetryPolicy()


def check_abort_retries(
    world: World, operation: str, seen: OperationSeen, entries: Sequence[Entry]
) -> Iterator[Violation]:
    """Yield the aborts that a process tried too often.

    A round of tries belongs to each time that the operation was begun, or taken up again, and
    to each body that returned late: what it did is undone once more.
    """
    rounds: Counter[tuple[int, int]] = Counter()
    lates: Counter[tuple[int, int]] = Counter()
    for entry in entries:
        place = entry.process, entry.resource
        lates[place] += entry.what == "late"
        if entry.hook != _ABORT or entry.what != "begin":
            continue
        what = f"{seen.label} {seen.keys[entry.resource]}.on_abort"
        if entry.attempt > ABORT_RETRY.attempts:
            yield Violation("retried", f"{what} is tried {entry.attempt} times")
        rounds[place] += entry.attempt == 1
        allowed = world.starts[entry.process, operation] + lates[place]
        is_clear = entry.process not in world.disturbed  # else a message may have been lost
        if entry.attempt == 1 and is_clear and rounds[place] > allowed > 0:
            yield Violation("retried", f"{what} begins anew, and there is no reason to")


def check_given_up(
    world: World, operation: str, entries: Sequence[tuple[int, Entry]], policies: Policies
) -> Iterator[Violation]:
    """Yield what was given up before it had been tried as often as it may be, for no other reason.

    Only in processes in which the operation came to its end; *entries* have their places in the log.
    """
    ends = {process: place for process, place, ended in world.releases if ended == operation}
    for process, end in ends.items():
        if process not in world.disturbed | world.stalled:
            own = [entry for place, entry in entries if place < end and entry.process == process]
            yield from _check_failed(world, operation, own, policies)


def _check_failed(
    world: World, operation: str, own: Sequence[Entry], policies: Policies
) -> Iterator[Violation]:
    """Look at what failed in one process, in which the operation ended; *own* are its entries."""
    seen = world.operations[operation]
    tries = Counter((e.resource, e.hook) for e in own if e.what == "begin")
    last = {(entry.resource, entry.hook): entry for entry in own}
    failed = [entry for entry in last.values() if entry.what == "failed"]
    for entry in failed:
        if entry.hook == _ABORT and entry.attempt < ABORT_RETRY.attempts:
            yield Violation("retried", f"{_name(seen, entry)} failed, and is not tried again")
    is_late = any(entry.what == "late" for entry in own)
    is_long = bool(own) and own[-1].time - own[0].time >= (LIMITS.max_quiesce or 0)
    is_stopped = operation in world.cancels or operation in world.timed
    hooks = [entry for entry in failed if entry.hook != _ABORT]
    left = [
        entry
        for entry in hooks
        if tries[entry.resource, entry.hook] < policy_of(seen, entry, policies).attempts
        and (entry.process, operation, entry.resource) not in world.resumed  # or that refused
    ]
    is_for_nothing = left and len(left) == len(hooks) and left[0].process not in world.closed
    if is_for_nothing and not (is_late or is_long or is_stopped):
        yield Violation("retried", f"{_name(seen, left[0])} failed, and is not tried again")


def _name(seen: OperationSeen, entry: Entry) -> str:
    return f"{seen.label} {seen.keys[entry.resource]}.{entry.hook}"
