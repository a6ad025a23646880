"""Items from any thread to one actor: many items, one wake-up."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ItemT = TypeVar("ItemT")


class Outbox(Generic[ItemT]):
    """A queue whose reader is told once that there is something, however much it is.

    Args:
        wake: Tells the reader; returns whether there is one. Called on the writer's thread,
            must not block.
    """

    __slots__ = ("_items", "_told", "_wake")

    def __init__(self, wake: Callable[[], bool]) -> None:
        self._items: deque[ItemT] = deque()
        self._wake = wake
        self._told = False

    def put(self, item: ItemT) -> None:
        """Add *item*; any thread."""
        self._items.append(item)
        if not self._told:
            self._told = True
            if not self._wake():
                self._told = False

    def abandon(self) -> None:
        """Say that nobody reads any more what was told of: each item that comes wakes."""
        self._told = False

    def take(self) -> list[ItemT]:
        """Return all items there are, oldest first; the reader's thread only."""
        self._told = False  # before the items are taken: what comes later wakes again
        items = self._items
        return [items.popleft() for _ in range(len(items))]
