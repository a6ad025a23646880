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
    from collections.abc import Container, Iterator, Sequence

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


_KIND: Final = {hook: kind for kind, hook in enumerate(HOOKS)}


def hook_number(resource: int, hook: HookName) -> int:
    """Return the number of *hook* of the resource numbered *resource*."""
    return resource * HOOKS_PER_RESOURCE + _KIND[hook]


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
        "_begun_before",
        "_child_offsets",
        "_child_targets",
        "_implemented",
        "_isolate",
        "_parent_offsets",
        "_parent_targets",
        "_state",
        "active",
        "is_closed",
        "missing",
        "passed_over",
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
        self._begun_before: Container[int] = ()
        resources = len(child_offsets) - 1
        self._state = bytearray(resources * HOOKS_PER_RESOURCE)
        self.missing = _upstream_counts(child_offsets, parent_offsets)
        """By hook: how many of the hooks that it waits for have not ended well."""
        self.active = 0
        """Hooks that are READY or BEGUN."""
        self.unfinished = len(self._state)
        """Hooks that are neither DONE nor FAILED nor DROPPED."""
        self.passed_over = 0
        """Hooks that nobody implements and that are not unfinished any more."""
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

    def start(self) -> list[int]:
        """Return the hooks that may run at once, in the order of their resources."""
        ready: list[int] = []
        roots = [  # all at once: passing hooks over brings more counts to zero
            hook
            for hook in range(0, len(self._state), HOOKS_PER_RESOURCE)
            if self.missing[hook] == 0
        ]
        for hook in roots:
            if self._implemented[hook]:
                self._state[hook] = READY
                ready.append(hook)
            else:
                self._settle(hook, DONE)
                self._propagate(hook, ready)
        self.active += len(ready)
        return ready

    def resume(self, completed: Container[int], begun: Container[int] = ()) -> list[int]:
        """Start where hooks have *completed* already; return those that may run now.

        Args:
            completed: The hooks that ended well before.
            begun: Those that had begun: given up before they run again, they count as failed.
        """
        self._begun_before = begun
        ready = []
        todo = self.start()
        while todo:
            hook = todo.pop()
            if hook in completed:
                todo += self.complete(hook)
            else:
                ready.append(hook)
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
        if not READY <= self._state[hook] <= BEGUN:
            return []
        self._state[hook] = DONE  # it was handed out, so it is implemented
        self.unfinished -= 1
        ready: list[int] = []
        self._propagate(hook, ready)
        self.active += len(ready) - 1
        return ready

    def fail(self, hook: int) -> list[int]:
        """Record that *hook* failed: closes the schedule, or drops what depends on the hook.

        Returns the resources that have lost a hook by it, this one's own first.
        """
        if self._state[hook] not in (READY, BEGUN):
            return []
        self.active -= 1
        self.unfinished -= 1
        self._state[hook] = FAILED
        if not self._isolate:
            self.is_closed = True
            return [hook // HOOKS_PER_RESOURCE]
        return self._drop_downstream(hook)

    def drop(self, hook: int) -> list[int]:
        """Give up a hook that has not begun, and what depends on it.

        Returns the resources that have lost a hook by it, this one's own first.
        """
        if self._state[hook] == READY:
            self.withdraw(hook)
        elif self._state[hook] == WAITING:
            self._settle(hook, DROPPED)
        else:
            return []
        return self._drop_downstream(hook)

    def withdraw(self, hook: int, *, has_run: bool = False) -> None:
        """Take back a READY or BEGUN hook that is not to run (any more); *has_run*: its body has."""
        if self._state[hook] in (READY, BEGUN):
            self.active -= 1
            self.unfinished -= 1
            self._state[hook] = FAILED if has_run or hook in self._begun_before else DROPPED

    def close(self) -> None:
        """Start nothing new from now on."""
        self.is_closed = True

    def hook_counts(self) -> dict[HookState, int]:
        """Return how many hooks stand where."""
        return {state: self._state.count(bytes((state,))) for state in HookState}

    def is_complete(self, resource: int) -> bool:
        """Return whether *resource* came to its end, and so did all that it depends on.

        A resource whose child failed is not complete, whether or not it has a hook that
        would have waited for the child.
        """
        return self._state[resource * HOOKS_PER_RESOURCE + COMPLETE] == DONE

    def ended_well(self, resource: int) -> bool:
        """Return whether every implemented hook of *resource* ended well, whatever of others."""
        first = resource * HOOKS_PER_RESOURCE
        return all(
            self._state[hook] == DONE or not self._implemented[hook]
            for hook in range(first, first + HOOKS_PER_RESOURCE)
        )

    def active_hooks(self) -> list[int]:
        """Return the hooks that are READY or BEGUN."""
        return [hook for hook, state in enumerate(self._state) if state in (READY, BEGUN)]

    def completed(self) -> Iterator[int]:
        """Yield the implemented hooks that ended well."""
        for hook, state in enumerate(self._state):
            if state == DONE and self._implemented[hook]:
                yield hook

    def is_active(self, resource: int) -> bool:
        """Return whether a hook of *resource* runs, or still will."""
        return self._is_active(resource * HOOKS_PER_RESOURCE, HOOKS_PER_RESOURCE)

    def has_begun(self, resource: int) -> bool:
        """Return whether the body of any hook of *resource* has begun, now or before."""
        first = resource * HOOKS_PER_RESOURCE
        return any(map(self.began, range(first, first + HOOKS_PER_RESOURCE)))

    def began(self, hook: int) -> bool:
        """Return whether the body of *hook* has begun, now or before the schedule was resumed."""
        has = bool(self._implemented[hook]) and self._state[hook] in (BEGUN, DONE, FAILED)
        return has or hook in self._begun_before

    def is_preparing(self, resource: int) -> bool:
        """Return whether a prepare hook of *resource* runs, or still will."""
        return self._is_active(resource * HOOKS_PER_RESOURCE, MAIN)

    def children(self, resource: int) -> Sequence[int]:
        """Return the numbers of *resource*'s children."""
        return self._child_targets[
            self._child_offsets[resource] : self._child_offsets[resource + 1]
        ]

    def parents(self, resource: int) -> Sequence[int]:
        """Return the numbers of *resource*'s parents."""
        return self._parent_targets[
            self._parent_offsets[resource] : self._parent_offsets[resource + 1]
        ]

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

    def _is_active(self, first: int, count: int) -> bool:
        states = self._state[first : first + count]
        return BEGUN in states or (not self.is_closed and (WAITING in states or READY in states))

    def _settle(self, hook: int, state: int) -> None:
        self._state[hook] = state
        self.unfinished -= 1
        if not self._implemented[hook]:
            self.passed_over += 1

    def _propagate(self, hook: int, ready: list[int]) -> None:
        """Count *hook*'s end down in what waits for it, through hooks that are passed over.

        The hot loop of the engine: the edges are written out rather than taken from
        :meth:`downstream`, which costs twice as much.
        """
        state, missing, implemented = self._state, self.missing, self._implemented
        ended: list[int] = []
        while True:
            kind = hook & 3
            if kind != COMPLETE:
                following = hook + 1
                left = missing[following] = missing[following] - 1
                if not left and state[following] == WAITING:
                    if implemented[following]:
                        state[following] = READY
                        ready.append(following)
                    else:
                        self._settle(following, DONE)
                        ended.append(following)
            if kind != MAIN:
                if kind == PREPARE_BEGIN:
                    offsets, targets = self._child_offsets, self._child_targets
                else:
                    offsets, targets = self._parent_offsets, self._parent_targets
                resource = hook >> 2
                index, end = offsets[resource], offsets[resource + 1]
                while index < end:  # a range costs as much as all the rest of this
                    following = targets[index] * 4 + kind
                    index += 1
                    left = missing[following] = missing[following] - 1
                    if not left and state[following] == WAITING:
                        if implemented[following]:
                            state[following] = READY
                            ready.append(following)
                        else:
                            self._settle(following, DONE)
                            ended.append(following)
            if not ended:
                return
            hook = ended.pop()

    def _drop_downstream(self, hook: int) -> list[int]:
        """Drop every hook that depends on *hook*; return the resources that are touched."""
        touched = {hook // HOOKS_PER_RESOURCE: None}
        lost = [hook]
        while lost:
            for following in self.downstream(lost.pop()):
                if self._state[following] == WAITING:
                    self._settle(following, DROPPED)
                    touched[following // HOOKS_PER_RESOURCE] = None
                    lost.append(following)
        return list(touched)


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
