"""What runs actors that own no thread: the dispatcher's interface and what all of them share."""

from __future__ import annotations

import abc
import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from karbor_actors.actors.waiting import Flag
from karbor_actors.errors import DispatcherClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.actors.timers import Timer

T = TypeVar("T")

logger = logging.getLogger("karbor_actors.actors")
logger.addHandler(logging.NullHandler())


class _Thread(threading.local):
    # Of the class: looking for what a thread did not set would cost an exception.
    dispatcher: Dispatcher | None = None


_thread = _Thread()


class Runnable(Protocol):
    """Something that a dispatcher's worker runs once each time it was scheduled."""

    def run(self) -> None:
        """Do a bounded piece of work."""


class Resident(Runnable, Protocol):
    """A runnable that lives on one dispatcher from `Dispatcher.adopt` to `Dispatcher.forget`."""

    def request_stop(self) -> None:
        """Stop once what is queued has been handled, then call `Dispatcher.forget`."""

    def abandon(self) -> None:
        """Refuse all that is queued or comes later; it will not run again."""


class Reply(Protocol):
    """Something that a thread waits for."""

    def is_set(self) -> bool:
        """Return whether it is there."""

    def wait_result(self, timeout: float | None) -> Any:
        """Block until it is there, *timeout* seconds at most; return it, or raise what it is."""


def current_dispatcher() -> Dispatcher | None:
    """Return the dispatcher whose worker the calling thread is, or None."""
    return _thread.dispatcher


def set_current_dispatcher(dispatcher: Dispatcher | None) -> None:
    """Make the calling thread a worker of *dispatcher*; only dispatchers call this."""
    _thread.dispatcher = dispatcher


class Dispatcher(abc.ABC):
    """Runs actors that have something in their mailbox, and timers.

    It holds its actors (a Pykka ref holds its actor only weakly), and `close()` stops them in
    the reverse of the order in which they started. Any thread may call its methods, unless a
    subclass says otherwise.
    """

    throughput = 32
    """How many messages an actor may handle before the next actor has its turn."""
    has_one_thread = True
    """Whether one thread at a time runs its actors."""

    def __init__(self) -> None:
        # Re-entrant: the collector may run a __del__ that tells or cancels, anywhere.
        self._lock = threading.RLock()
        self._held: dict[Resident, None] = {}
        self._stop_order: list[Resident] | None = None
        self.is_closing = False
        """Whether `close()` was called: no actor can be started any more."""
        self._asked: Resident | None = None
        self._all_stopped = Flag()
        self._dead_letters = 0

    @abc.abstractmethod
    def schedule(self, runnable: Runnable) -> None:
        """Have a worker call ``runnable.run()`` once; after `close()` this does nothing."""

    def schedule_all(self, runnables: Sequence[Runnable]) -> None:
        """Do :meth:`schedule` for each of *runnables*, in order."""
        for runnable in runnables:
            self.schedule(runnable)

    def run_all(self, runnables: Sequence[Runnable]) -> None:
        """Do :meth:`schedule_all`; or, where that is the same, run them now, in the caller's turn.

        For the turns of a dispatcher that has one thread, which touch nothing after this that
        *runnables* touch too. None of those may raise.
        """
        self.schedule_all(runnables)

    @abc.abstractmethod
    def call_later(self, delay: float, fn: Callable[[], object]) -> Timer:
        """Call *fn* on a worker, *delay* seconds from now (at once when negative).

        *fn* must be quick; what it raises is logged.

        Raises:
            DispatcherClosedError: after `close()`, which drops the timers that are not due.
        """

    @abc.abstractmethod
    def now(self) -> float:
        """Return the time in seconds, on a clock that never goes back."""

    @abc.abstractmethod
    def close(self, *, timeout: float | None = None) -> None:
        """Stop the actors, last started first, then whatever runs them. Idempotent.

        Each actor handles what it was sent before its turn to stop; from the beginning no
        actor can be started. Later tells raise `pykka.ActorDeadError`.

        Args:
            timeout: total seconds to wait; None waits as long as it takes.

        Raises:
            TimeoutError: when the time is over. The actors left are given up: they handle
                nothing more, and whoever asked them something gets `pykka.ActorDeadError`.
            RuntimeError: when called by an actor or a timer of this dispatcher.
        """

    def uninterrupted(self, function: Callable[[], T]) -> T:
        """Return what *function* does, which no signal interrupts if the main thread calls this.

        It is quick, and waits for nobody: one of the dispatcher's threads may call it.
        """
        return function()

    def await_reply(self, future: Reply, timeout: float | None) -> Any:
        """Wait for *future* on a thread that belongs to this dispatcher, or asks its actors."""
        return future.wait_result(timeout)

    @property
    def actor_count(self) -> int:
        """How many actors it holds: those that have started and not ended."""
        return len(self._held)

    @property
    def dead_letters(self) -> int:
        """How many told messages found their actor dead (asks are answered with an error)."""
        return self._dead_letters

    def adopt(self, resident: Resident) -> None:
        """Hold *resident* until `forget`.

        Raises:
            DispatcherClosedError: once `close()` was called.
        """
        with self._lock:
            if self.is_closing:
                raise DispatcherClosedError
            self._held[resident] = None

    def forget(self, resident: Resident) -> None:
        """Let go of *resident*, which has ended; when closing, stop the next one."""
        with self._lock:
            self._held.pop(resident, None)
            closing = self._stop_order is not None
        if closing:
            self._stop_next()

    def count_dead_letters(self, count: int) -> None:
        """Add *count* to `dead_letters`."""
        with self._lock:
            self._dead_letters += count

    def _begin_closing(self) -> None:
        """Refuse new actors and ask the youngest to stop; `forget` goes on from there."""
        with self._lock:
            self.is_closing = True
            if self._stop_order is None:
                self._stop_order = list(self._held)
        self._stop_next()

    def _stop_next(self) -> None:
        with self._lock:
            order = self._stop_order
            while order and order[-1] not in self._held:
                order.pop()
            youngest = order[-1] if order else None
            asked_before = youngest is self._asked
            self._asked = youngest
        if youngest is None:
            self._all_stopped.set()
        elif not asked_before:
            youngest.request_stop()

    def _abandon_all(self) -> list[Resident]:
        """Give up every actor left; return them."""
        with self._lock:
            left = list(self._held)
            self._held.clear()
        for resident in left:
            resident.abandon()
        return left
