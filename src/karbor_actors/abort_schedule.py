"""Which resources may be aborted now, children first: pure, like the hook schedule beside it.

A resource that needs an abort is handed out once no hook of its own runs or will, and each of its
children is *settled*. A child is settled when it runs no prepare hook (and none will),
needs no abort or has had it, and its own children are settled. A child's failed abort
counts as had. Main and complete hooks of descendants hold nobody up: a thaw does not wait
for somebody's hour of copying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from karbor_actors.schedule import HookSchedule


class AbortSchedule:
    """The aborts of one operation. One thread owns it, the one that owns *hooks*."""

    __slots__ = (
        "_handed_out",
        "_hooks",
        "_impatient",
        "_pending",
        "_released",
        "_unsettled",
        "_waiting",
        "_watched",
    )

    def __init__(self, hooks: HookSchedule) -> None:
        self._hooks = hooks
        self._pending: set[int] = set()
        self._handed_out: set[int] = set()
        self._watched: set[int] = set()
        self._unsettled: set[int] = set()
        self._waiting: dict[int, int] = {}
        """For a resource above an unsettled one: how many of its children are unsettled."""
        self._released = False
        self._impatient: set[int] = set()
        """Resources whose grace is over."""

    @property
    def unfinished(self) -> int:
        """Resources whose abort has not been had."""
        return len(self._pending) + len(self._handed_out)

    def add(self, resources: Iterable[int]) -> list[int]:
        """Ask for the aborts of *resources*; return those that may begin at once."""
        fresh = [r for r in resources if r not in self._pending and r not in self._handed_out]
        self._pending.update(fresh)
        for resource in self._watch(fresh):
            if resource not in self._unsettled and not self._is_settled(resource):
                self._unsettle(resource)
        for resource in fresh:
            if resource not in self._unsettled:
                self._unsettle(resource)
        return self._hand_out(fresh)

    def hooks_changed(self, resources: Iterable[int] | None = None) -> list[int]:
        """Look again at *resources*, whose hooks ended or were dropped; return what may begin.

        Or at all of them: hooks that would have run will not, since nothing starts any more.
        """
        candidates = []
        for resource in sorted(self._unsettled) if resources is None else resources:
            candidates.append(resource)
            candidates += self._settle(resource)
        return self._hand_out(candidates)

    def aborted(self, resource: int) -> list[int]:
        """Record that *resource*'s abort ended, well or not; return what may begin now."""
        if resource not in self._handed_out:
            return []
        self._handed_out.discard(resource)
        return self._hand_out(self._settle(resource))

    def once_more(self, resource: int) -> list[int]:
        """Have *resource*, whose abort ended, aborted again, before any above it; return what may begin."""
        self._handed_out.discard(resource)
        self._pending.add(resource)
        return self._hand_out([resource])

    def release(self, resources: Iterable[int] | None = None) -> list[int]:
        """Wait no longer for descendants of *resources*, or of any; return what may begin now."""
        if resources is None:
            self._released = True
            return self._hand_out(sorted(self._pending))
        self._impatient.update(resources)
        return self._hand_out(sorted(self._pending.intersection(self._impatient)))

    def _watch(self, resources: list[int]) -> list[int]:
        """Return *resources* and their descendants, as far as not yet watched."""
        fresh = [resource for resource in resources if resource not in self._watched]
        self._watched.update(fresh)
        for resource in fresh:  # grows while it is walked
            for child in self._hooks.children(resource):
                if child not in self._watched:
                    self._watched.add(child)
                    fresh.append(child)
        return fresh

    def _is_settled(self, resource: int) -> bool:
        return (
            resource not in self._pending
            and resource not in self._handed_out
            and not self._waiting.get(resource)
            and not self._hooks.is_preparing(resource)
        )

    def _unsettle(self, resource: int) -> None:
        """Note for every ancestor that *resource* is not settled."""
        self._unsettled.add(resource)
        fresh = [resource]
        while fresh:
            for parent in self._hooks.parents(fresh.pop()):
                self._waiting[parent] = self._waiting.get(parent, 0) + 1
                if parent not in self._unsettled:
                    self._unsettled.add(parent)
                    fresh.append(parent)

    def _settle(self, resource: int) -> list[int]:
        """Settle *resource* if it is due, and its ancestors; return those to look at."""
        candidates = []
        due = [resource]
        while due:
            child = due.pop()
            if child not in self._unsettled or not self._is_settled(child):
                continue
            self._unsettled.discard(child)
            for parent in self._hooks.parents(child):
                self._waiting[parent] -= 1
                if not self._waiting[parent]:
                    candidates.append(parent)
                    due.append(parent)
        return candidates

    def _hand_out(self, candidates: Iterable[int]) -> list[int]:
        free = []
        for resource in candidates:
            if (
                resource in self._pending
                and not self._hooks.is_active(resource)
                and (
                    self._released or resource in self._impatient or not self._waiting.get(resource)
                )
            ):
                self._pending.discard(resource)
                self._handed_out.add(resource)
                free.append(resource)
        return free
