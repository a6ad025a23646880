"""Who sees that a call is slow which was thought to be quick, while others wait behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from karbor_actors.errors import DispatcherClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

_SOON = 0.005
"""Seconds after which it is seen."""


class _Lane(Protocol):
    def look(self) -> None:
        """See ThreadRunner."""


class Lookout:
    """Looks at lanes some milliseconds after calls were left waiting there, as long as some are.

    Any thread may call it.

    Args:
        call_later: Has a function called, so many seconds later.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later
        self._lanes: list[_Lane] = []
        self._is_asked = self._is_set = False

    def add(self, lane: _Lane) -> None:
        """Look at *lane*, too."""
        self._lanes.append(lane)

    def ask(self) -> bool:
        """Have the lanes looked at soon; return False if nobody will."""
        self._is_asked = True  # first: who has just looked looks whether it is
        return self._is_set or self._set()

    def _set(self) -> bool:
        self._is_set = True
        try:
            self._call_later(_SOON, self._look)
        except DispatcherClosedError:
            self._is_set = False
        return self._is_set

    def _look(self) -> None:
        was_asked, self._is_asked, self._is_set = self._is_asked, False, False
        for lane in self._lanes:
            lane.look()
        if (was_asked or self._is_asked) and not self._is_set:
            self._set()  # it may be asked again, and to set a timer from here wakes nobody
