"""A gate that many readers pass at once, and one thread has alone now and then."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from operator import call
from threading import get_ident
from typing import TYPE_CHECKING
from weakref import ref

from karbor_actors.actors.waiting import Bell, forget_interrupted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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
    """Keeps the memory map in place while anyone reads from it. Any thread may call it.

    It has no lock: the collector, or a signal's handler, may begin and end a read on a thread that is
    in here. Who reads says so, *then* looks whether somebody wants the gate alone; who does says that,
    *then* looks whether anybody reads. Whatever the interleaving, one of them sees the other.
    """

    def __init__(self) -> None:
        self._left = Bell()
        self._inside: dict[int, ref[Pass]] = {}
        """What is read with, by its id; one that is dead stays until another has its id."""
        self._claims: list[ref[Pass]] = []
        """Of those who want it alone; the first that is alive has it."""

    @property
    def is_inside(self) -> bool:
        """Whether the calling thread is reading; not with what it was interrupted at, and handles now."""
        if not self._inside or not self._own():
            return False
        forget_interrupted()
        return bool(self._own())

    def enter(self) -> Pass:
        """Begin to read; wait while a thread has the gate alone. A thread may nest its reads."""
        reading = Pass(self)
        try:
            if not self._let_in(reading):
                forget_interrupted()  # it may have been alone itself
                self._left.wait(lambda: self._let_in(reading), look=_LOOK)
        except BaseException:
            self.leave(reading)
            raise
        return reading

    def leave(self, reading: Pass) -> None:
        """See :meth:`Pass.give_back`."""
        self._inside.pop(id(reading), None)
        if self._claims:
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
            self._claims.append(ref(mine))
            self._left.wait(lambda: self._is_first(mine) and self._is_empty(), look=_LOOK)
            yield
        finally:
            for one in tuple(self._claims):
                if one() in (None, mine):
                    with suppress(ValueError):  # another thread removes the dead, too
                        self._claims.remove(one)
            self._left.ring()

    def _let_in(self, reading: Pass) -> bool:
        """Note that *reading* goes on, unless it has to wait."""
        if self._claims and self._is_shut(0):
            return False
        self._inside[id(reading)] = ref(reading)
        if not self._claims or not self._is_shut(1):
            return True
        self.leave(reading)
        return False

    def _is_shut(self, own: int) -> bool:
        """Return whether the calling thread, which has *own* passes for what it asks for, has to wait."""
        # One that is inside already must not wait for who waits for it to leave.
        return bool(_alive(self._claims)) and len(self._own()) <= own

    def _own(self) -> list[Pass]:
        """Return what the calling thread reads with."""
        thread = get_ident()
        return [reading for reading in _alive(self._inside.values()) if reading.thread == thread]

    def _is_first(self, mine: Pass) -> bool:
        return _alive(self._claims)[0] is mine

    def _is_empty(self) -> bool:
        return not _alive(self._inside.values())


def _alive(passes: Collection[ref[Pass]]) -> list[Pass]:
    """Return those that somebody has, in order."""
    # Copied first, in one call: others add and remove some meanwhile.
    return [one for one in map(call, list(passes)) if one is not None] if passes else []
