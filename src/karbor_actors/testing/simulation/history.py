"""What there was to be protected and when it changed, and over which graphs operations may run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.testing.simulation.world import OperationSeen

    Table = Mapping[str, Sequence[str]]

_LIVE = ("protect", "restore")
"""The verbs that have their resources for themselves."""


class History:
    """The children of each resource, as they change; who asked when, and who held what. One thread."""

    def __init__(self, children: Table | None = None) -> None:
        self._tables: list[tuple[int, Table]] = [(0, children or {})]
        """With the moment from which on each was so."""
        self._now = 0
        self._asked: dict[str, tuple[int, Sequence[str]]] = {}
        self._queued: dict[str, int] = {}
        self._released: list[tuple[int, frozenset[str]]] = []

    @property
    def children(self) -> Table:
        """What there is now."""
        return self._tables[-1][1]

    def change(self, children: Table) -> None:
        """Have other children from now on."""
        self._now += 1
        self._tables.append((self._now, children))

    def ask(self, operation: str, names: Sequence[str]) -> None:
        """Remember that a protect of *names* is asked for now."""
        self._now += 1
        self._asked[operation] = self._now, names

    def queue(self, operation: str) -> None:
        """Remember that an operation waits from now on, or has what it wants at once."""
        self._now += 1
        self._queued[operation] = self._now

    def release(self, seen: OperationSeen | None) -> None:
        """Remember that an operation gives back what it had for itself."""
        if seen is not None and seen.verb in _LIVE:
            self._now += 1
            self._released.append((self._now, frozenset(seen.keys)))

    def why_stale(self, operation: str, seen: OperationSeen) -> str:
        """Return what is wrong with the graph of a protect whose first hook begins; else nothing.

        It is of a moment after it was asked for, and after the last one that it waited for.
        """
        if operation not in self._asked:
            return ""
        since, names = self._asked[operation]
        waited_from = self._queued.get(operation, since)
        for when, keys in self._released:
            if when > waited_from and not keys.isdisjoint(seen.keys):
                since = max(since, when)
        ends = [when for when, _ in self._tables[1:]] + [self._now + 1]
        graphs = [
            reachable(table, names)
            for (_, table), end in zip(self._tables, ends, strict=True)
            if end > since
        ]
        if seen.edges() in graphs:
            return ""
        return f"{seen.label} runs over a graph of before it had what it waited for"


def reachable(children: Table, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return *names* and all that depends on them, each with its children."""
    found: dict[str, frozenset[str]] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = frozenset(children.get(name, ()))
            todo += found[name]
    return found
