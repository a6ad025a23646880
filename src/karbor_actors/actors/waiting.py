"""How a thread waits for what others do, without a lock that a signal could leave held.

The handler of a signal may raise between any two steps of the main thread (that of Ctrl-C does). Within
a `threading.Condition`, and so within an `Event` or a `Queue`, which are made of it, it may do so when the
condition's lock is held and nobody will give it back: then whoever has something to tell waits for ever.
Locks themselves, and what is in C, are safe.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from traceback import clear_frames
from typing import TYPE_CHECKING

from karbor_actors.actors.uninterrupted import is_main_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_release = type(threading.Lock()).release


def forget_interrupted() -> None:
    """Drop what the main thread had in hand at the error that it handles, if it handles one.

    The traceback of what a signal's handler raised keeps it alive until that is handled.
    """
    error = sys.exception() if is_main_thread() else None
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        clear_frames(error.__traceback__)
        error = error.__context__


class Bell:
    """What wakes all who wait for something; they see for themselves whether it is so. Any thread."""

    __slots__ = ("_sleepers",)

    def __init__(self) -> None:
        self._sleepers: list[threading.Lock] = []

    def ring(self) -> None:
        """Wake all; after what they wait for has become so."""
        if self._sleepers:
            # Each in one call, and not of Python's: a signal that came in between would lose him.
            with suppress(IndexError):
                for _ in map(_release, iter(self._sleepers.pop, None)):
                    pass

    def wait(
        self, is_so: Callable[[], bool], timeout: float | None = None, look: float | None = None
    ) -> bool:
        """Wait until *is_so* says so; return what it said last.

        Args:
            is_so: Whether it is so; quick.
            timeout: Seconds after which it is waited for no more; None for never.
            look: Seconds after which it is looked at although nobody has rung; None for never.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not is_so():
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            waits = [most for most in (left, look) if most is not None]
            sleeper = threading.Lock()
            sleeper.acquire()
            self._sleepers.append(sleeper)
            if not is_so():  # now that it can be woken: who rings looks the other way round
                sleeper.acquire(timeout=min([*waits, threading.TIMEOUT_MAX]) if waits else -1)
            with suppress(ValueError):  # it was woken
                self._sleepers.remove(sleeper)
            if left == 0.0:
                return is_so()
        return True


class Flag(threading.Event):
    """An event that no signal breaks."""

    def __init__(self) -> None:
        self._is_up, self._bell = False, Bell()

    def __repr__(self) -> str:
        return f"<Flag {'set' if self._is_up else 'unset'}>"

    def is_set(self) -> bool:
        """See `threading.Event.is_set`."""
        return self._is_up

    def set(self) -> None:
        """See `threading.Event.set`."""
        self._is_up = True
        self._bell.ring()

    def clear(self) -> None:
        """See `threading.Event.clear`."""
        self._is_up = False

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Event.wait`."""
        return self._bell.wait(self.is_set, timeout)
