"""A gate that many readers pass at once, and one thread has alone now and then."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING
from weakref import ref

from karbor_actors.actors.waiting import Bell

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK = 0.05
"""Seconds after which who waits looks whether somebody was interrupted who should have told it."""


class Pass:
    """That a thread reads, or is alone: until it is given back, or nobody has it any more.

    A signal whose handler raises may come before who asked for it has it, or can give it back.
    """

    __slots__ = ("__weakref__", "_gate", "thread")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.thread = get_ident()

    def give_back(self) -> None:
        """End what :meth:`Gate.enter` began; any thread. Idempotent."""
        self._gate.leave(self)


class Gate:
    """Keeps the memory map in place while anyone reads from it. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = Bell()
        self._inside: dict[int, list[ref[Pass]]] = {}
        """What each thread reads with, which may be dead; by the thread."""
        self._alone: ref[Pass] | None = None

    @property
    def is_inside(self) -> bool:
        """Whether the calling thread is reading."""
        passes = self._inside.get(get_ident())
        return passes is not None and _is_any_alive(passes)

    def enter(self) -> Pass:
        """Begin to read; wait while a thread has the gate alone. A thread may nest its reads."""
        reading = Pass(self)
        try:
            if not self._let_in(reading):
                self._left.wait(lambda: self._let_in(reading), look=_LOOK)
        except BaseException:
            self.leave(reading)
            raise
        return reading

    def leave(self, reading: Pass) -> None:
        """See :meth:`Pass.give_back`."""
        with self._lock:
            passes = self._inside.get(reading.thread, [])
            passes[:] = [other for other in passes if other() not in (None, reading)]
            if not passes:
                self._inside.pop(reading.thread, None)
        if self._alone is not None:
            self._left.ring()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep new readers out, and wait until those inside have left.

        Raises:
            RuntimeError: The calling thread is reading, and would wait for itself.
        """
        if self.is_inside:
            raise RuntimeError("a thread that reads from the bank cannot wait for all readers")
        mine = Pass(self)
        try:
            self._left.wait(lambda: self._shut(mine), look=_LOOK)
            self._left.wait(self._is_empty, look=_LOOK)
            yield
        finally:
            with self._lock:
                if self._alone is not None and self._alone() is mine:
                    self._alone = None
            self._left.ring()

    def _let_in(self, reading: Pass) -> bool:
        """Note that *reading* goes on, unless it has to wait."""
        with self._lock:
            passes = self._inside.get(reading.thread)
            if passes is None or not _is_any_alive(passes):
                # One that is inside already must not wait for who waits for it to leave.
                if self._is_shut():
                    return False
                passes = self._inside[reading.thread] = []
            passes.append(ref(reading))
        return True

    def _shut(self, mine: Pass) -> bool:
        """Have nobody enter any more while there is *mine*, unless another thread has the gate."""
        with self._lock:
            if is_free := not self._is_shut():
                self._alone = ref(mine)
        return is_free

    def _is_shut(self) -> bool:
        return self._alone is not None and self._alone() is not None

    def _is_empty(self) -> bool:
        with self._lock:
            return not any(map(_is_any_alive, self._inside.values()))


def _is_any_alive(passes: list[ref[Pass]]) -> bool:
    return any(reading() is not None for reading in passes)
