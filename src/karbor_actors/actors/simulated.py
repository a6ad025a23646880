"""A dispatcher for tests: one thread, virtual time, and an order that a seed decides."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

from pykka import Timeout

from karbor_actors.actors.dispatcher import (
    Dispatcher,
    current_dispatcher,
    set_current_dispatcher,
)
from karbor_actors.actors.timers import TimerQueue
from karbor_actors.arguments import argument_error, check_instance, is_number
from karbor_actors.errors import DispatcherClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.actors.dispatcher import Reply, Runnable
    from karbor_actors.actors.timers import Timer


class SimulatedCrash(BaseException):
    """Unwinds what a simulated process was doing when it was killed."""


class SimulatedDispatcher(Dispatcher):
    """Runs actors on the thread that calls it, one message at a time, as *seed* decides.

    Nothing runs but inside `step`, `run_until_idle`, `close` and the waits for a reply: an ask
    runs the others until it is answered, and its timeout is in virtual time. The clock stands
    still while anything can run and jumps to the next timer when nothing can. Equal seeds and
    equal programs give equal runs.

    All of it must be used on the thread that made it.
    """

    throughput = 1

    def __init__(self, seed: int, *, start: float = 0.0) -> None:
        check_instance("seed", seed, int, "a whole number")
        if not is_number(start):
            raise argument_error("start", "a number of seconds", start)
        super().__init__()
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - must replay, need not be secret
        """The source of its choices; what is simulated besides may draw from it too."""
        self.steps = 0
        """How many turns and timers have run."""
        self._now = start
        self._ready: list[Runnable] = []
        self._timers = TimerQueue()
        self._closed = False
        self.is_halted = False
        """Whether the simulated process was killed: nothing runs any more."""
        self._thread = threading.get_ident()

    def __repr__(self) -> str:
        return f"<SimulatedDispatcher seed={self.seed} steps={self.steps} now={self._now}>"

    def schedule(self, runnable: Runnable) -> None:
        """See `Dispatcher.schedule`."""
        if not self._closed:
            self._ready.append(runnable)
        self._check_thread()  # last: the message is in the mailbox, its actor must not be stuck

    def run_all(self, runnables: Sequence[Runnable]) -> None:
        """See `Dispatcher.run_all`: as the seed decides."""
        if current_dispatcher() is self and self.rng.randrange(2):
            for runnable in runnables:
                self.steps += 1
                runnable.run()
        else:
            self.schedule_all(runnables)

    def call_later(self, delay: float, fn: Callable[[], object]) -> Timer:
        """See `Dispatcher.call_later`; *delay* is in virtual seconds."""
        self._check_thread()
        if self._closed:
            raise DispatcherClosedError
        return self._timers.add(self._now + (delay if delay > 0 else 0.0), fn)[0]

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def step(self, *, until: float | None = None) -> bool:
        """Run one turn or timer; return False when nothing is left.

        Args:
            until: a virtual time; timers due later count as nothing left.
        """
        self._check_thread()
        if self.is_halted or (not self._ready and not self._jump(until)):
            return False
        chosen = self.rng.randrange(len(self._ready))
        # Swap and pop: the order of the list means nothing.
        self._ready[chosen], self._ready[-1] = self._ready[-1], self._ready[chosen]
        runnable = self._ready.pop()
        self.steps += 1
        outer = current_dispatcher()
        set_current_dispatcher(self)
        try:
            runnable.run()
        finally:
            set_current_dispatcher(outer)
        return True

    def run_until_idle(self, *, until: float | None = None, max_steps: int | None = None) -> int:
        """Run until nothing is left to do; return the number of steps.

        Args:
            until: stop before the virtual clock would pass this time, and set it to that.
            max_steps: how many steps are too many.

        Raises:
            RuntimeError: after *max_steps*, when there is still something to do.
        """
        first = self.steps
        while self.step(until=until):
            if max_steps is not None and self.steps - first >= max_steps:
                msg = f"{self} is still busy after {max_steps} steps"
                raise RuntimeError(msg)
        if until is not None:
            self._now = max(self._now, until)
        return self.steps - first

    def stall(self, seconds: float) -> None:
        """Let *seconds* pass in which nothing runs, as on a machine that stands still."""
        self._now += seconds

    def halt(self) -> None:
        """Run nothing more, ever: the simulated process is killed.

        Whoever waits for a reply, now or later, gets SimulatedCrash.
        """
        self.is_halted = True

    def close(self, *, timeout: float | None = None) -> None:
        """See `Dispatcher.close`; *timeout* is in virtual seconds."""
        self._check_thread()
        if current_dispatcher() is self:
            msg = "close() waits for the actor or timer that calls it; call it from outside"
            raise RuntimeError(msg)
        until = None if timeout is None else self._now + timeout
        self._begin_closing()
        while not self._all_stopped.is_set():
            if not self.step(until=until):
                break
        left = self._abandon_all()
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        if left:
            msg = f"{self} gave up {len(left)} actors that cannot stop: {', '.join(map(str, left))}"
            raise TimeoutError(msg)

    def await_reply(self, future: Reply, timeout: float | None) -> Any:
        """Run others until *future* is set.

        Raises:
            SimulatedCrash: after `halt`.
            pykka.Timeout: when the virtual clock would pass the timeout.
            RuntimeError: when nothing is left that could set it.
        """
        until = None if timeout is None else self._now + timeout
        while self.is_halted or not future.is_set():
            if self.step(until=until):
                continue
            if self.is_halted:
                raise SimulatedCrash
            if until is None:
                msg = f"deadlock: {self} has nothing left to run, and a reply is missing"
                raise RuntimeError(msg)
            self._now = max(self._now, until)
            msg = f"{timeout} seconds"
            raise Timeout(msg)
        return future.wait_result(0)

    def _jump(self, until: float | None) -> bool:
        """Move the clock to the next timer and make all that are due ready."""
        due = self._timers.next_due()
        if due is None or (until is not None and due > until):
            return False
        self._now = max(self._now, due)
        while (timer := self._timers.pop_due(self._now)) is not None:
            self._ready.append(timer)
        return True

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            msg = "a simulation has one thread; make what runs beside it part of the simulation"
            raise RuntimeError(msg)
