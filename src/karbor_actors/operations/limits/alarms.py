"""The timers of one operation."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from karbor_actors.model import RetryPolicy
from karbor_actors.operations.messages import LookAround, LookAtClock, RetryDue
from karbor_actors.schedule import HOOKS_PER_RESOURCE, hook_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pykka import ActorRef

    from karbor_actors.actors import Dispatcher, Timer
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.planning import PlannedOperation

_ONCE = RetryPolicy()
LOOK_EVERY = 10.0
"""Seconds between two looks at whether anything is under way."""


class Alarms:
    """Tells an operation's supervisor things later. The control thread only.

    Args:
        dispatcher: Whose clock counts.
        handle: Knows the supervisor.
    """

    def __init__(self, dispatcher: Dispatcher, handle: OperationHandle) -> None:
        self._dispatcher, self._handle = dispatcher, handle
        self._timers: tuple[Timer, ...] = ()
        self._clock: Timer | None = None
        self._due = inf
        """When the clock is to be looked at; the timer's own time may be a little later."""
        self._looks: Timer | None = None

    def tell_later(self, delay: float, message: object) -> None:
        """Tell *message* in *delay* seconds."""
        handle = self._handle
        timer = self._dispatcher.call_later(delay, lambda: handle.tell(message))
        self._timers = (timer, *(t for t in self._timers if t.is_waiting))

    def look_around(self) -> None:
        """Have the supervisor look for lost messages from time to time, until the end."""
        self._looks = self._dispatcher.call_later(LOOK_EVERY, self._look)

    def set_clock(self, due: float) -> None:
        """See to it that the clock is looked at when it is *due*, or before."""
        clock = self._clock
        if due == inf or (clock is not None and clock.is_waiting and self._due <= due):
            return
        if clock is not None:
            clock.cancel()
        self._due = due
        delay = due - self._dispatcher.now()
        self._clock = self._dispatcher.call_later(delay, self._look_at_clock)

    def cancel(self) -> None:
        """Tell nothing any more."""
        for timer in (*self._timers, self._clock, self._looks):
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        self.look_around()
        self._handle.tell(LookAround())

    def _look_at_clock(self) -> None:
        self._handle.tell(LookAtClock())


class Teller:
    """Tells a supervisor *message* when its turn comes, after all that is ready by then.

    Args:
        handle: Knows the supervisor.
        message: What to tell it.
    """

    __slots__ = ("_handle", "_message")

    def __init__(self, handle: OperationHandle, message: object) -> None:
        self._handle, self._message = handle, message

    def run(self) -> None:
        """Tell it; called by a dispatcher."""
        self._handle.tell(self._message)


class Retries:
    """The actors that wait for their next attempt. The control thread only.

    Args:
        dispatcher: Whose clock counts.
        planned: The operation.
        policies: By type and hook, by type, by hook, or ``"*"`` for all.
    """

    def __init__(
        self, dispatcher: Dispatcher, planned: PlannedOperation, policies: Mapping[Any, RetryPolicy]
    ) -> None:
        self._dispatcher, self._planned, self._policies = dispatcher, planned, policies
        self._timers: dict[Timer, None] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no actor waits."""
        return not self._timers

    def policy(self, hook: int) -> RetryPolicy:
        """Return how often *hook* is tried."""
        resource_type = self._planned.graph.nodes[hook // HOOKS_PER_RESOURCE].type
        name = hook_name(hook)
        for key in ((resource_type, name), resource_type, name, "*"):
            if key in self._policies:
                return self._policies[key]
        return _ONCE

    def later(self, delay: float, ref: ActorRef[Any]) -> Timer:
        """Tell *ref* :class:`RetryDue` in *delay* seconds."""

        def due() -> None:
            self._timers.pop(timer, None)
            if ref.is_alive():
                ref.tell(RetryDue())

        timer = self._dispatcher.call_later(delay, due)
        self._timers[timer] = None
        return timer

    def cancel(self, timer: Timer) -> None:
        """Take back what :meth:`later` returned."""
        timer.cancel()
        self._timers.pop(timer, None)
