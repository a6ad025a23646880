"""The blocking steps of a supervisor, as calls for workers: planning, opening, closing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Self

from karbor_actors.errors import (
    KarborError,
    OperationCancelledError,
    OperationError,
    OperationSuspendedError,
    PartialOperationError,
)
from karbor_actors.model import OperationStatus
from karbor_actors.operations.messages import StepDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.hooks.worker import Host
    from karbor_actors.operations.verbs.verb import Verb

PLAN: Final = "plan"
"""The step that asks the plugins, which may hang."""
OPEN: Final = "open"
"""The step that records the operation, and marks what it is about."""
UNDO_FIRST: Final = "undo first"
"""The step that undoes what earlier operations left on what this one wants."""
_LOG = logging.getLogger("karbor_actors.operations")


class Step:
    """One step; tells the supervisor how it ended, and remembers it: a message may be lost.

    Args:
        handle: The operation's, which knows its supervisor.
        name: Which step it is.
        body: What to run; may block.
    """

    def __init__(self, handle: OperationHandle, name: str, body: Callable[[], Any]) -> None:
        self.name = name
        self.done: StepDone | None = None
        """How it ended, once it has."""
        self.handle, self._body = handle, body

    @classmethod
    def waiting(cls, handle: OperationHandle, others: list[OperationHandle]) -> Self | None:
        """Return a step that ends when one of *others* does, with the rest; None if all have."""
        left = [other for other in others if not other.wait(0)]
        if not left:
            return None
        step = cls(handle, UNDO_FIRST, lambda: left[1:])
        left[0].add_done_callback(lambda _: step.execute())
        return step

    @property
    def has_ended(self) -> bool:
        """Whether it has only to tell how it ended."""
        return self.done is not None

    def execute(self) -> None:
        """Run the step and tell the supervisor how it ended."""
        try:
            self.done = StepDone(self, self._body())
        except BaseException as error:
            self.done = StepDone(self, error=error)
        self.handle.tell(self.done)

    async def execute_async(self, host: Host) -> None:
        """Steps are never asynchronous."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Tell the supervisor that nobody is there to run it."""
        self.done = StepDone(self, error=TimeoutError(why))
        self.handle.tell(self.done)


class Tidying:
    """Drops what an ended operation leaves, as a call for a worker."""

    has_ended = False

    def __init__(self, verb: Verb) -> None:
        self._verb = verb

    def execute(self) -> None:
        """Tidy up; a failure costs space only, and is logged."""
        try:
            self._verb.tidy()
        except KarborError as error:
            _LOG.warning("the journal of %s stays: %s", self._verb.operation_id, error)

    async def execute_async(self, host: Host) -> None:
        """Steps are never asynchronous."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Leave it, since it costs space only: nobody is there to do it."""
        _LOG.warning("the journal of %s stays: %s", self._verb.operation_id, why)


def failure(
    what: str,
    status: OperationStatus,
    causes: list[BaseException],
    result: Any = None,
    *,
    waits_for: str = "",
) -> OperationError:
    """Return what the handle raises of an operation that ended otherwise than well.

    Args:
        what: The verb and the operation's id.
        status: How it ended.
        causes: Why, first failure first.
        result: What it made all the same.
        waits_for: What must come before it goes on, if it is suspended.
    """
    error: OperationError
    if status is OperationStatus.PARTIAL:
        error = PartialOperationError(f"{what} succeeded in part", causes, result)
    elif status is OperationStatus.CANCELLED:
        error = OperationCancelledError(f"{what} was cancelled", causes)
    elif status is OperationStatus.SUSPENDED:
        when = "it goes on at the next start"
        if waits_for:
            when = f"it waits for {waits_for}: add that, or abort the operation"
        error = OperationSuspendedError(f"{what} is suspended; {when}", causes)
    else:
        error = OperationError(f"{what} failed", causes)
    error.result = result
    if causes:
        error.__cause__ = causes[0]
    return error
