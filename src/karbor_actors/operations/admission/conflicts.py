"""Which operations may touch what at the same time: a pure table of locks.

An operation asks for all its keys at once and waits until it has them all; first come,
first served: a later request never overtakes an earlier one that it conflicts with. So
there is no deadlock and no starvation. Not safe for threads: the control thread owns it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from karbor_actors.bank.bank import Bank
    from karbor_actors.errors import ResourceKey
    from karbor_actors.graph import ResourceGraph


@dataclass(frozen=True, slots=True)
class LockRequest:
    """What one operation wants to touch."""

    exclusive: frozenset[Hashable] = frozenset()
    shared: frozenset[Hashable] = frozenset()

    def conflicts_with(self, other: LockRequest) -> bool:
        """Return whether both cannot be granted at once."""
        return not (
            self.exclusive.isdisjoint(other.exclusive)
            and self.exclusive.isdisjoint(other.shared)
            and self.shared.isdisjoint(other.exclusive)
        )


def checkpoint_lock(bank: Bank, checkpoint_id: str | None) -> tuple[str, str, str]:
    """Return the lock key of a checkpoint."""
    return ("checkpoint", str(bank.directory), checkpoint_id or "")


def resource_locks(graph: ResourceGraph) -> frozenset[tuple[str, ResourceKey]]:
    """Return the lock keys of the live resources."""
    return frozenset(("resource", resource.key) for resource in graph.nodes)


class LockTable:
    """Who has, and who waits for, which keys."""

    def __init__(self) -> None:
        self._granted: dict[str, LockRequest] = {}
        # Of all that is granted, so that a request is not held against each of a thousand others.
        self._exclusive: set[Hashable] = set()
        self._shared: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[str, LockRequest] = OrderedDict()

    def request(self, owner: str, request: LockRequest) -> bool:
        """Ask for *request* in the name of *owner*; return whether it is granted at once.

        An owner that asks again has, or waits for, what it asked for first.
        """
        if owner in self._granted:
            return True
        if owner in self._waiting:
            return False
        if self._is_free(request, self._waiting.values()):
            self._grant(owner, request)
            return True
        self._waiting[owner] = request
        return False

    def covers(self, owner: str, request: LockRequest) -> bool:
        """Return whether *owner* has been granted all of *request*."""
        has = self._granted.get(owner, LockRequest())
        is_shared = request.shared <= has.shared | has.exclusive
        return owner in self._granted and request.exclusive <= has.exclusive and is_shared

    def release(self, owner: str) -> list[str]:
        """Take back what *owner* has or waits for; return who is granted something by it."""
        had = self._granted.pop(owner, LockRequest())
        self._exclusive -= had.exclusive
        for key in had.shared:
            self._shared[key] -= 1
            if not self._shared[key]:
                del self._shared[key]
        self._waiting.pop(owner, None)
        granted = []
        ahead: list[LockRequest] = []
        for name, request in list(self._waiting.items()):
            if self._is_free(request, ahead):
                self._grant(name, self._waiting.pop(name))
                granted.append(name)
            else:
                ahead.append(request)
        return granted

    def add_shared(self, owner: str, key: Hashable) -> bool:
        """Let *owner*, which has been granted something, share *key* too, if nobody minds."""
        has = self._granted.get(owner, LockRequest())
        if key in self._exclusive and key not in has.exclusive:
            return False
        if key not in has.shared:
            self._granted[owner] = LockRequest(has.exclusive, has.shared | {key})
            self._shared[key] += 1
        return True

    def _grant(self, owner: str, request: LockRequest) -> None:
        self._granted[owner] = request
        self._exclusive |= request.exclusive
        self._shared.update(request.shared)

    def _is_free(self, request: LockRequest, ahead: Iterable[LockRequest]) -> bool:
        return (
            self._exclusive.isdisjoint(request.exclusive)
            and self._exclusive.isdisjoint(request.shared)
            and self._shared.keys().isdisjoint(request.exclusive)
            and not any(request.conflicts_with(other) for other in ahead)
        )
