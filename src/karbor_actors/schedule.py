"""Which hooks may run now: a pure state machine over compact arrays.

Events go in (:meth:`HookSchedule.complete`, :meth:`~HookSchedule.fail`,
:meth:`~HookSchedule.close`), hook numbers come out. No thread, no clock, no plugin.
Hook *h* is hook ``h % 4`` of resource ``h // 4``, in the order of :data:`~karbor_actors.model.HOOKS`.

The six edges (P parent of C, R any resource; left ends well before right starts)::

    P.on_prepare_begin  -> C.on_prepare_begin      R.on_prepare_begin  -> R.on_prepare_finish
    C.on_prepare_finish -> P.on_prepare_finish     R.on_prepare_finish -> R.on_main
    C.on_complete       -> P.on_complete           R.on_main           -> R.on_complete

They are not stored: they follow from the graph's parent and child arrays. A hook costs
five bytes. Not safe for threads: one thread owns a schedule.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from karbor_actors.model import HOOKS, HookName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PREPARE_BEGIN: Final = 0
PREPARE_FINISH: Final = 1
MAIN: Final = 2
COMPLETE: Final = 3
HOOKS_PER_RESOURCE: Final = 4


class HookState(IntEnum):
    """Where one hook stands."""

    WAITING = 0
    """Not every upstream hook has ended well."""
    READY = 1
    """Handed out to run; its body has not begun."""
    BEGUN = 2
    """Its body has begun, or its intent is recorded."""
    DONE = 3
    """Ended well, or passed over because it is not implemented."""
    FAILED = 4
    DROPPED = 5
    """Will never run."""


WAITING, READY, BEGUN, DONE, FAILED, DROPPED = map(int, HookState)


def hook_number(resource: int, hook: HookName) -> int:
    """Return the number of *hook* of the resource numbered *resource*."""
    return resource * HOOKS_PER_RESOURCE + HOOKS.index(hook)


def hook_name(number: int) -> HookName:
    """Return which of the four hooks hook *number* is."""
    return HOOKS[number % HOOKS_PER_RESOURCE]


class HookSchedule:
    """The hooks of one operation: which are done, which may run.

    Args:
        child_offsets: Where each resource's children begin in *child_targets*; one more at the end.
        child_targets: The children's numbers.
        parent_offsets: The same for parents.
        parent_targets: The parents' numbers.
        implemented: One byte for each hook, 0 where the hook is to be passed over.
        isolate: Whether a failure stops only what depends on it, not everything.
    """

    __slots__ = (
        "_child_offsets",
        "_child_targets",
        "_implemented",
        "_isolate",
        "_missing",
        "_parent_offsets",
        "_parent_targets",
        "_state",
        "active",
        "is_closed",
        "unfinished",
    )

    def __init__(
        self,
        child_offsets: Sequence[int],
        child_targets: Sequence[int],
        parent_offsets: Sequence[int],
        parent_targets: Sequence[int],
        implemented: bytes | bytearray,
        *,
        isolate: bool = False,
    ) -> None:
        self._child_offsets, self._child_targets = child_offsets, child_targets
        self._parent_offsets, self._parent_targets = parent_offsets, parent_targets
        self._implemented = implemented
        self._isolate = isolate
        resources = len(child_offsets) - 1
        self._state = bytearray(resources * HOOKS_PER_RESOURCE)
        self._missing = _upstream_counts(child_offsets, parent_offsets)
        self.active = 0
        """Hooks that are READY or BEGUN."""
        self.unfinished = len(self._state)
        """Hooks that are neither DONE nor FAILED nor DROPPED."""
        self.is_closed = False
        """Whether nothing new starts any more."""

    def __len__(self) -> int:
        return len(self._state)

    def state(self, hook: int) -> HookState:
        """Return where *hook* stands."""
        return HookState(self._state[hook])

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing more will start."""
        return self.active == 0 and (self.is_closed or self.unfinished == 0)

    @property
    def is_stalled(self) -> bool:
        """Whether hooks wait although nothing runs: a lost message, or a bug."""
        return self.active == 0 and not self.is_closed and self.unfinished > 0

    def start(self) -> list[int]:
        """Return the hooks that may run at once, in the order of their resources."""
        ready: list[int] = []
        roots = [  # all at once: passing hooks over brings more counts to zero
            hook
            for hook in range(0, len(self._state), HOOKS_PER_RESOURCE)
            if self._missing[hook] == 0
        ]
        for hook in roots:
            if self._implemented[hook]:
                self._state[hook] = READY
                ready.append(hook)
            else:
                self._finish(hook)
                self._propagate(hook, ready)
        self.active += len(ready)
        return ready

    def begin(self, hook: int) -> bool:
        """Record that *hook* is about to run; False if it may not (any more)."""
        state = self._state[hook]
        if state == BEGUN:
            return True
        if state != READY or self.is_closed:
            return False
        self._state[hook] = BEGUN
        return True

    def complete(self, hook: int) -> list[int]:
        """Record that *hook* ended well; return the hooks that may now run.

        A second completion of a hook changes nothing.
        """
        if self._state[hook] not in (READY, BEGUN):
            return []
        self.active -= 1
        self._finish(hook)
        ready: list[int] = []
        self._propagate(hook, ready)
        self.active += len(ready)
        return ready

    def fail(self, hook: int) -> None:
        """Record that *hook* failed: closes the schedule, or drops what depends on the hook."""
        if self._state[hook] not in (READY, BEGUN):
            return
        self.active -= 1
        self.unfinished -= 1
        self._state[hook] = FAILED
        if self._isolate:
            self._drop_downstream(hook)
        else:
            self.is_closed = True

    def withdraw(self, hook: int) -> None:
        """Take back a READY hook whose body never began; it will never run."""
        if self._state[hook] in (READY, BEGUN):
            self.active -= 1
            self.unfinished -= 1
            self._state[hook] = DROPPED
            if self._isolate and not self.is_closed:
                self._drop_downstream(hook)

    def close(self) -> None:
        """Start nothing new from now on."""
        self.is_closed = True

    def hook_counts(self) -> dict[HookState, int]:
        """Return how many hooks stand where."""
        return {state: self._state.count(bytes((state,))) for state in HookState}

    def is_complete(self, resource: int) -> bool:
        """Return whether every hook of *resource* ended well."""
        return self._state[resource * HOOKS_PER_RESOURCE + COMPLETE] == DONE

    def incomplete(self) -> Iterator[int]:
        """Yield the resources whose last hook has not ended well."""
        for resource in range(len(self._state) // HOOKS_PER_RESOURCE):
            if self._state[resource * HOOKS_PER_RESOURCE + COMPLETE] != DONE:
                yield resource

    def downstream(self, hook: int) -> Iterator[int]:
        """Yield the hooks that wait for *hook*."""
        resource, kind = divmod(hook, HOOKS_PER_RESOURCE)
        if kind != COMPLETE:
            yield hook + 1
        if kind == PREPARE_BEGIN:
            offsets, targets = self._child_offsets, self._child_targets
        elif kind == MAIN:
            return
        else:
            offsets, targets = self._parent_offsets, self._parent_targets
        for index in range(offsets[resource], offsets[resource + 1]):
            yield targets[index] * HOOKS_PER_RESOURCE + kind

    def upstream(self, hook: int) -> Iterator[int]:
        """Yield the hooks that *hook* waits for."""
        resource, kind = divmod(hook, HOOKS_PER_RESOURCE)
        if kind != PREPARE_BEGIN:
            yield hook - 1
        if kind == PREPARE_BEGIN:
            offsets, targets = self._parent_offsets, self._parent_targets
        elif kind == MAIN:
            return
        else:
            offsets, targets = self._child_offsets, self._child_targets
        for index in range(offsets[resource], offsets[resource + 1]):
            yield targets[index] * HOOKS_PER_RESOURCE + kind

    def _finish(self, hook: int) -> None:
        self._state[hook] = DONE
        self.unfinished -= 1

    def _propagate(self, hook: int, ready: list[int]) -> None:
        """Count *hook*'s end down in what waits for it, through hooks that are passed over.

        The hot loop of the engine: the edges are written out rather than taken from
        :meth:`downstream`, which costs twice as much.
        """
        state, missing, implemented = self._state, self._missing, self._implemented
        ended = [hook]
        while ended:
            hook = ended.pop()
            kind = hook & 3
            if kind != COMPLETE:
                following = hook + 1
                missing[following] -= 1
                if missing[following] == 0 and state[following] == WAITING:
                    if implemented[following]:
                        state[following] = READY
                        ready.append(following)
                    else:
                        self._finish(following)
                        ended.append(following)
            if kind == MAIN:
                continue
            resource = hook >> 2
            if kind == PREPARE_BEGIN:
                offsets, targets = self._child_offsets, self._child_targets
            else:
                offsets, targets = self._parent_offsets, self._parent_targets
            for index in range(offsets[resource], offsets[resource + 1]):
                following = targets[index] * 4 + kind
                missing[following] -= 1
                if missing[following] == 0 and state[following] == WAITING:
                    if implemented[following]:
                        state[following] = READY
                        ready.append(following)
                    else:
                        self._finish(following)
                        ended.append(following)

    def _drop_downstream(self, hook: int) -> None:
        """Drop every hook that depends on *hook*, however far away."""
        lost = [hook]
        while lost:
            for following in self.downstream(lost.pop()):
                if self._state[following] == WAITING:
                    self._state[following] = DROPPED
                    self.unfinished -= 1
                    lost.append(following)


def _upstream_counts(child_offsets: Sequence[int], parent_offsets: Sequence[int]) -> array[int]:
    """Return how many hooks each hook waits for."""
    counts = array("I", bytes(4 * HOOKS_PER_RESOURCE * (len(child_offsets) - 1)))
    for resource in range(len(child_offsets) - 1):
        children = child_offsets[resource + 1] - child_offsets[resource]
        first = resource * HOOKS_PER_RESOURCE
        counts[first] = parent_offsets[resource + 1] - parent_offsets[resource]
        counts[first + PREPARE_FINISH] = 1 + children
        counts[first + MAIN] = 1
        counts[first + COMPLETE] = 1 + children
    return counts


class AbortSchedule:
    """Which resources may be aborted now, children first.

    A resource that needs an abort is handed out once its own hook has ended and each of
    its children is *settled*: has no prepare hook running, needs no abort or has had it,
    and its own children are settled. :meth:`release` lets the rest go without waiting
    longer for descendants. A child's failed abort counts as had.

    Args:
        child_offsets: As for :class:`HookSchedule`, and so the other three.
        needed: The resources to abort.
        running: The hooks that still run; prepare hooks hold their ancestors up, others
            only their own resource.
    """

    def __init__(
        self,
        child_offsets: Sequence[int],
        child_targets: Sequence[int],
        parent_offsets: Sequence[int],
        parent_targets: Sequence[int],
        needed: Iterable[int],
        running: Iterable[int],
    ) -> None:
        self._child_offsets, self._child_targets = child_offsets, child_targets
        self._parent_offsets, self._parent_targets = parent_offsets, parent_targets
        self._pending = set(needed)
        self._handed_out: set[int] = set()
        self._busy: dict[int, bool] = {}
        for hook in running:
            self._busy[hook // HOOKS_PER_RESOURCE] = hook % HOOKS_PER_RESOURCE < MAIN
        self._waiting: dict[int, int] = {}
        self._released = False
        self._count_waiting()

    @property
    def unfinished(self) -> int:
        """Resources whose abort has not been had."""
        return len(self._pending) + len(self._handed_out)

    def start(self) -> list[int]:
        """Return the resources that may be aborted at once."""
        return self._hand_out(sorted(self._pending))

    def hook_ended(self, hook: int) -> list[int]:
        """Record that a running hook has ended; return what may now be aborted."""
        resource = hook // HOOKS_PER_RESOURCE
        held_ancestors = self._busy.pop(resource, None)
        if held_ancestors is None:
            return []
        candidates = [resource]
        if self._is_settled(resource):
            candidates += self._settle(resource)
        return self._hand_out(candidates)

    def aborted(self, resource: int) -> list[int]:
        """Record that *resource*'s abort ended, well or not; return what may now be aborted."""
        if resource not in self._handed_out:
            return []
        self._handed_out.discard(resource)
        return self._hand_out(self._settle(resource)) if self._is_settled(resource) else []

    def release(self) -> list[int]:
        """Stop waiting for descendants; return what may now be aborted."""
        self._released = True
        return self._hand_out(sorted(self._pending))

    def _count_waiting(self) -> None:
        """Note, for every ancestor of an unsettled resource, how many children are unsettled."""
        unsettled = [
            *self._pending,
            *(r for r, holds in self._busy.items() if holds and r not in self._pending),
        ]
        seen = set(unsettled)
        while unsettled:
            for parent in self._parents(unsettled.pop()):
                self._waiting[parent] = self._waiting.get(parent, 0) + 1
                if parent not in seen:
                    seen.add(parent)
                    unsettled.append(parent)

    def _parents(self, resource: int) -> Sequence[int]:
        return self._parent_targets[
            self._parent_offsets[resource] : self._parent_offsets[resource + 1]
        ]

    def _is_settled(self, resource: int) -> bool:
        return (
            resource not in self._pending
            and resource not in self._handed_out
            and not self._busy.get(resource, False)
            and self._waiting.get(resource, 0) == 0
        )

    def _settle(self, resource: int) -> list[int]:
        """Tell the ancestors of a newly settled *resource*; return those to look at."""
        candidates = []
        settled = [resource]
        while settled:
            for parent in self._parents(settled.pop()):
                self._waiting[parent] -= 1
                if self._waiting[parent]:
                    continue
                if parent in self._pending:
                    candidates.append(parent)
                elif self._is_settled(parent):
                    settled.append(parent)
        return candidates

    def _hand_out(self, candidates: Iterable[int]) -> list[int]:
        free = [
            resource
            for resource in candidates
            if resource in self._pending
            and resource not in self._busy
            and (self._released or not self._waiting.get(resource, 0))
        ]
        self._pending.difference_update(free)
        self._handed_out.update(free)
        return free
