"""What a caller holds of an operation."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast

import pykka

from karbor_actors.actors.blocking import check_may_block, may_block
from karbor_actors.actors.dispatcher import current_dispatcher
from karbor_actors.actors.waiting import Bell
from karbor_actors.arguments import argument_error, checked_wait
from karbor_actors.model import AbortKind, AbortReason, OperationStatus
from karbor_actors.operations.messages import Cancel, GetProgress, Suspend
from karbor_actors.operations.process import check_process
from karbor_actors.operations.results import Event, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from pykka import ActorRef

    from karbor_actors.actors.mailbox import Mailbox
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.model import HookName, OperationType

_LOG = logging.getLogger("karbor_actors.operations")
_ASK_TIMEOUT = _DECISION_TIMEOUT = 10.0
_QUEUED_EVENTS = 10_000


class EventStream:
    """A bounded queue of events for one listener; says what it had to drop."""

    def __init__(self, limit: int = _QUEUED_EVENTS) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._limit = limit
        self._dropped = 0
        self._is_over = False

    def put(self, event: Event) -> None:
        """Add *event*, or count it as dropped when the listener is too slow."""
        if self._queue.qsize() >= self._limit:
            self._dropped += 1
            return
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            self._queue.put(Event("dropped", time.time(), detail={"count": lost}))
        self._queue.put(event)

    def close(self, last: Event | None = None) -> None:
        """End the listener's iteration, with *last*, which is never dropped."""
        if self._dropped:
            self._queue.put(Event("dropped", time.time(), detail={"count": self._dropped}))
        if last is not None:
            self._queue.put(last)
        self._is_over = True
        self._queue.put(None)  # for who waits; one whom a signal makes lose it sees that it is over

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._queue.empty() and not self._is_over:
            check_may_block("to wait for an event", "the handle")
        event = None if self._is_over and self._queue.empty() else self._queue.get()
        if event is None:
            raise StopIteration
        return event


class OperationHandle:
    """An operation, to wait for, look at and cancel. Safe from any thread.

    ``await handle`` gives the result in any event loop; cancelling the waiter does not
    cancel the operation.
    """

    def __init__(
        self,
        operation_id: str,
        operation_type: OperationType,
        defer: Callable[..., None],
        uninterrupted: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._id, self._type = operation_id, operation_type
        self._defer = defer
        """Calls a function on the engine's event thread."""
        self._uninterrupted = uninterrupted
        """Tells the supervisor something, on a thread that waits for nobody if this is the main one."""
        # The end itself: a future would be eleven objects, of each operation that somebody keeps.
        self._is_settled = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._bell = Bell()
        """Rung when it is decided, and at its end."""
        # With its lock held nothing is called: a signal's handler that came then, and asked another
        # thread for something, would wait for who needs the lock.
        self._callbacks: tuple[Callable[[OperationHandle], object], ...] = ()
        self._futures: dict[asyncio.Future[Any], None] = {}
        """Of those who await the end, in whatever loop."""
        self._status = OperationStatus.QUEUED
        self._checkpoint_id: str | None = None
        self._supervisor: Mailbox[Any] | None = None
        self._progress: Progress | None = None
        self._lock = threading.RLock()  # a signal's handler may cancel what its thread waits for
        self._streams: Sequence[EventStream] = ()
        self.has_listeners = False
        """Whether events are wanted."""
        self.cancel_reason: AbortReason | None = None
        """Why it was asked to stop, if it was: the message itself may be lost."""
        self.is_suspended = False
        """Whether it was asked to stop where it stands."""
        self._is_decided = False
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<OperationHandle {self._type} {self._id} {self._status}>"

    @property
    def id(self) -> str:
        """The operation's id."""
        return self._id

    @property
    def type(self) -> OperationType:
        """The verb."""
        return self._type

    @property
    def status(self) -> OperationStatus:
        """Where the operation stands."""
        return self._status

    @property
    def checkpoint_id(self) -> str | None:
        """The checkpoint that is made or used; None until it is known."""
        return self._checkpoint_id

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most *timeout* seconds; return whether the operation has ended."""
        check_process(self._pid)
        return self._wait(checked_wait("timeout", timeout))

    def result(self, timeout: float | None = None) -> Any:
        """Wait at most *timeout* seconds for the result and return it.

        Raises:
            OperationError: The operation did not succeed; see its kinds.
            KarborError: It was refused before anything ran (graph, cycle, parameters).
            TimeoutError: It goes on.
        """
        error = self.exception(timeout)
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback has this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as :meth:`result` does; return what it would raise, or None."""
        check_process(self._pid)
        if not self._wait(checked_wait("timeout", timeout)):
            msg = f"the {self._type} {self._id} is still {self._status} after {timeout} seconds"
            raise TimeoutError(msg)
        return self._error

    def cancel(self) -> bool:
        """Have the operation stop and undo what it began; return whether it was still going.

        False also where it is suspended meanwhile, which is recorded first: then
        ``ProtectionService.abort()`` undoes it.

        It closes admission at once, and returns when it is durable that the operation can only
        be undone from now on; after ten seconds even if the bank does not answer, and at once on
        an event loop of the engine's and in a done callback. :meth:`wait` for its end.
        """
        is_told = self.cancel_for(AbortReason(AbortKind.CANCEL))
        if is_told and current_dispatcher() is None and may_block():
            self._bell.wait(lambda: self._is_decided, _DECISION_TIMEOUT)
        return is_told and self._status is not OperationStatus.SUSPENDED

    def cancel_for(self, reason: AbortReason) -> bool:
        """Do what :meth:`cancel` does, with a *reason* that ``on_abort`` is told."""
        check_process(self._pid)
        supervisor = self._supervisor
        if self._is_settled or supervisor is None:
            return False
        self.cancel_reason = self.cancel_reason or reason
        try:
            self._uninterrupted(partial(supervisor.tell, Cancel(reason)))
        except pykka.ActorDeadError:
            return False
        return True

    def suspend(self) -> None:
        """End what is frozen or open, then stop; the next start of the service goes on."""
        check_process(self._pid)
        self.is_suspended = True
        self._uninterrupted(partial(self.tell, Suspend()))

    def progress(self) -> Progress:
        """Return how far the operation is."""
        check_process(self._pid)
        supervisor = self._supervisor
        if supervisor is not None and not self._is_settled:
            with suppress(pykka.ActorDeadError, pykka.Timeout):
                asked = self._uninterrupted(partial(supervisor.ask, GetProgress(), block=False))
                return cast("Progress", asked.get(timeout=_ASK_TIMEOUT))
        return self._progress or Progress(OperationStatus.QUEUED)

    def events(self) -> EventStream:
        """Return an iterator over what happens from now on; it ends with the operation."""
        check_process(self._pid)
        stream = EventStream()
        with self._lock:
            if not self._is_settled:
                self._streams = (*self._streams, stream)
                self.has_listeners = True
                return stream
        stream.close()
        return stream

    def add_done_callback(self, fn: Callable[[OperationHandle], object]) -> None:
        """Call *fn* with this handle, on the engine's event thread, once the operation ends.

        After the service was closed there is no such thread: *fn* is called at once, here.
        """
        check_process(self._pid)
        if not callable(fn) or iscoroutinefunction(fn):
            raise argument_error("fn", "a function that takes the handle", fn)
        with self._lock:
            if not self._is_settled:
                self._callbacks = (*self._callbacks, fn)
                return
        self._defer(fn, self)

    def __await__(self) -> Generator[Any, None, Any]:
        check_process(self._pid)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._lock:
            if is_going := not self._is_settled:
                self._futures[future] = None
        if not is_going:
            self._fulfil(future)
        try:
            return (yield from future)
        finally:
            self._futures.pop(future, None)  # else who awaits it again and again leaves many

    @property
    def is_decided(self) -> bool:
        """Whether it has ended, or was cancelled, and it is durable that it can only be undone."""
        return self._is_decided

    # -- for the supervisor

    def decided(self) -> None:
        """Say that nothing can make the operation go on any more."""
        self._is_decided = True
        self._bell.ring()

    def attach(self, supervisor: ActorRef[Any]) -> None:
        """Say which actor runs the operation."""
        self._supervisor = cast("Mailbox[Any]", supervisor)

    def tell(self, message: object) -> bool:
        """Tell the actor that runs the operation now; return False once it has ended."""
        supervisor = self._supervisor
        if supervisor is None or self._is_settled:
            return False
        try:
            supervisor.tell(message)
        except pykka.ActorDeadError:
            if not self._is_settled:
                raise
            return False
        return True

    def emit(self, event: Event) -> None:
        """Give *event* to every listener."""
        for stream in tuple(self._streams):
            stream.put(event)

    def set_status(self, status: OperationStatus) -> None:
        """Note where the operation stands."""
        if status is not self._status:
            self._status = status
            if self._streams:
                self.emit(Event("status", time.time(), detail={"status": status}))

    def set_checkpoint_id(self, checkpoint_id: str | None) -> None:
        """Note which checkpoint is made or used."""
        self._checkpoint_id = checkpoint_id

    def settle(
        self,
        status: OperationStatus,
        progress: Progress,
        result: Any = None,
        error: BaseException | None = None,
    ) -> None:
        """End the operation for every waiter and listener. Only the first call counts."""
        with self._lock:
            if self._is_settled:
                return
            self._status, self._progress = status, progress
            self._result, self._error = result, error
            self._is_settled = True
            self._supervisor = None  # who keeps the handle does not keep what has ended
            streams, self._streams = self._streams, ()
            callbacks, self._callbacks = self._callbacks, ()
            futures, self._futures = self._futures, {}
        self.decided()
        for future in tuple(futures):
            with suppress(RuntimeError):  # its loop was closed: nobody awaits it
                future.get_loop().call_soon_threadsafe(self._fulfil, future)
        for fn in callbacks:
            try:
                self._defer(fn, self)
            except Exception:  # no thread is to be had for it: it has ended all the same
                _LOG.exception("a done callback of %s was not called", self._id)
        detail = {"status": status} if error is None else {"status": status, "error": str(error)}
        for stream in streams:
            stream.close(Event("ended", time.time(), detail=detail))

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the end; return whether it has come."""
        if timeout != 0 and not self._is_settled:
            check_may_block("to wait for an operation", "the handle")
        return self._bell.wait(lambda: self._is_settled, timeout)

    def _fulfil(self, future: asyncio.Future[Any]) -> None:
        """Tell who awaits the end of it; in its loop."""
        if future.done():
            return  # whoever awaited it was cancelled
        if self._error is None:
            future.set_result(self._result)
        else:
            future.set_exception(self._error)
            future.exception()  # who awaited it may be gone, and others have it too


class HookEvents:
    """What happens to an operation's hooks, for the listeners of its handle.

    Args:
        handle: The operation's.
        graph: Its resources.
    """

    __slots__ = ("_graph", "handle")

    def __init__(self, handle: OperationHandle, graph: ResourceGraph) -> None:
        self.handle, self._graph = handle, graph

    def emit(self, kind: str, resource: int, hook: HookName, **detail: Any) -> None:
        """Give a hook's event to every listener."""
        if self.handle.has_listeners:
            key = self._graph.nodes[resource].key
            self.handle.emit(Event(kind, time.time(), key, hook, detail))
