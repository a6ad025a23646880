"""A gate that many readers pass at once, and one thread has alone now and then."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Mine(threading.local):
    depth = 0  # of the class: to look for what a thread has not set costs an exception


class Gate:
    """Keeps the memory map in place while anyone reads from it. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._is_alone = False
        self._mine = _Mine()

    @property
    def is_inside(self) -> bool:
        """Whether the calling thread is reading."""
        return self._mine.depth > 0

    def enter(self) -> None:
        """Begin to read; wait while a thread has the gate alone. A thread may nest its reads."""
        depth = self._mine.depth
        if depth == 0:  # one that is inside already must not wait for who waits for it to leave
            with self._lock:  # the condition's own, without its methods
                while self._is_alone:
                    self._changed.wait()
                self._inside += 1
        self._mine.depth = depth + 1

    def leave(self) -> None:
        """End what :meth:`enter` began, on the same thread."""
        self._mine.depth -= 1
        if self._mine.depth == 0:
            with self._lock:
                self._inside -= 1
                if self._is_alone and not self._inside:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep new readers out, and wait until those inside have left.

        Raises:
            RuntimeError: The calling thread is reading, and would wait for itself.
        """
        if self.is_inside:
            raise RuntimeError("a thread that reads from the bank cannot wait for all readers")
        with self._changed:
            while self._is_alone:
                self._changed.wait()
            self._is_alone = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
