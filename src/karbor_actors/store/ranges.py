"""Reads of small ranges that follow on each other, done as few large ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from karbor_actors.store.objects import ObjectStore

_FIRST = 64 << 10
_LARGEST = 4 << 20
_GROWTH = 4
_LARGE = 256 << 10
"""Ranges from this size on are read as they are."""
_KEPT = 4


class RangeReader:
    """Reads from an ObjectStore and keeps the last few ranges (16 MiB at most).

    A small range is read with what follows it: little at first, ever more while reads go on in
    order. So small blocks that are read as they were packed cost few requests, and a single one
    costs little more than itself. Any thread may call it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ranges: OrderedDict[str, tuple[int, memoryview]] = OrderedDict()

    def get(self, name: str, start: int, length: int) -> bytes | memoryview:
        """Return *length* bytes from *start* of the object, fewer where it ends.

        Raises:
            ObjectNotFoundError: there is no such object. It may be noticed late.
        """
        if length >= _LARGE:
            return self._store.get(name, start, length)
        ahead = _FIRST
        with self._lock:
            kept = self._ranges.get(name)
            if kept is not None:
                first, data = kept
                end = first + len(data)
                if first <= start and start + length <= end:
                    self._ranges.move_to_end(name)
                    return data[start - first : start - first + length]
                if first <= start <= end + _FIRST:
                    ahead = min(_LARGEST, max(_FIRST, _GROWTH * len(data)))
        data = memoryview(self._store.get(name, start, max(length, ahead)))
        with self._lock:
            self._ranges[name] = start, data
            self._ranges.move_to_end(name)
            while len(self._ranges) > _KEPT:
                self._ranges.popitem(last=False)
        return data[:length]

    def forget(self, name: str) -> None:
        """Drop what is kept of the object."""
        with self._lock:
            self._ranges.pop(name, None)
