"""Threads that are lent to dispatchers: they run the actors that they have given something to do.

A change of thread costs more than most turns of an actor. So a worker that has told an actor
something, and has nothing else to do, does not wake the thread of the actor's dispatcher, but runs
the actor itself, unless another thread does just now.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.actors.threads import ThreadDispatcher

_thread = threading.local()


class Lender:
    """What the thread that made it owes to dispatchers: to run what it has scheduled on them.

    Args:
        may_owe: Returns whether the thread is about to call :meth:`pay`, so that nobody else
            need be woken.
        may_run: Returns whether it has nothing else to do than to run a dispatcher's actors.
        is_wanted: Returns whether it has something else to do by now, which does not wait for all turns.
        own: The dispatcher whose own thread it is, which looks for itself what is ready there.
    """

    __slots__ = ("_is_wanted", "_may_owe", "_may_run", "_own", "owed")

    def __init__(
        self,
        may_owe: Callable[[], bool],
        may_run: Callable[[ThreadDispatcher], bool],
        is_wanted: Callable[[], bool] = lambda: False,
        own: ThreadDispatcher | None = None,
    ) -> None:
        self._may_owe, self._may_run, self._own = may_owe, may_run, own
        self._is_wanted = is_wanted
        self.owed: deque[ThreadDispatcher] = deque()
        """Those on which something is ready that no thread was woken for."""
        _thread.lender = self

    @property
    def is_wanted(self) -> bool:
        """Whether the thread has something else to do than another turn of what it runs."""
        return bool(self.owed) or self._is_wanted()

    def owes(self, dispatcher: ThreadDispatcher) -> bool:
        """Take over to run what is ready on *dispatcher*; return whether that is so."""
        if not self._may_owe():
            return False
        if dispatcher not in self.owed:
            self.owed.append(dispatcher)
        return True

    def pay(self) -> None:
        """Run what is owed while the thread has nothing else to do; else have it run."""
        while self.owed:
            dispatcher = self.owed.popleft()
            if dispatcher is self._own:
                continue
            if self._may_run(dispatcher):
                dispatcher.run_here(self)
            else:
                dispatcher.rouse()

    def give_up(self) -> None:
        """Have all that is owed run where it lives: the thread ends, or is about to wait."""
        while self.owed:
            self.owed.popleft().rouse()


def current_lender() -> Lender | None:
    """Return the calling thread's, or None if it lends itself to nobody."""
    return getattr(_thread, "lender", None)


def give_up_owed() -> None:
    """Have run what the calling thread has scheduled: it is about to wait for something."""
    if (lender := current_lender()) is not None:
        lender.give_up()
