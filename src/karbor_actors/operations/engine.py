"""What all operations of a service share: threads, locks, policies."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError

from karbor_actors.actors import ThreadDispatcher, current_dispatcher
from karbor_actors.actors.blocking import check_may_block
from karbor_actors.actors.uninterrupted import done_aside, done_here
from karbor_actors.actors.waiting import Bell
from karbor_actors.arguments import (
    FOR_EVER,
    check_flags,
    check_instance,
    checked_count,
    checked_limit,
    checked_wait,
)
from karbor_actors.errors import DispatcherClosedError, KarborError, ServiceClosedError
from karbor_actors.limits import Caps
from karbor_actors.model import AbortKind, AbortReason, HookName
from karbor_actors.operations.aborts.pending import PendingAborts
from karbor_actors.operations.admission.conflicts import LockRequest, LockTable
from karbor_actors.operations.admission.intake import Intake, new_admission
from karbor_actors.operations.control import OperationControl
from karbor_actors.operations.handle import HookEvents, OperationHandle
from karbor_actors.operations.hooks.runner import Lane, Runners
from karbor_actors.operations.messages import LOOK_AT_OUTBOX, Begin, LocksGranted
from karbor_actors.operations.outbox import Outbox
from karbor_actors.operations.steps import Tidying
from karbor_actors.operations.supervisor import SupervisorActor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from contextlib import AbstractContextManager

    from pykka import ActorRef

    from karbor_actors.actors import Dispatcher
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.hooks.worker import Host
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.verb import Verb
    from karbor_actors.provider import Provider

_LOG = logging.getLogger("karbor_actors.operations")
_FREE = nullcontext()
ABORT_GRACE = 30.0
"""Seconds that an abort waits for its descendants at most."""


class _Late:
    """Undoes what a hook did that returned after its operation's end, as a call for a worker."""

    has_ended = False

    def __init__(self, engine: Engine, operation_id: str) -> None:
        self._engine, self._operation_id = engine, operation_id

    def execute(self) -> None:
        """Begin to undo it; what fails is tried again at the next start."""
        try:
            with self._engine.looks_after_one:
                self._engine.is_looked_after(self._operation_id)
                self._engine.undo_again(self._operation_id)
        except KarborError as error:
            _LOG.warning("%s stays abort_pending: %s", self._operation_id, error)
        finally:
            self._engine.hurry(-1)

    async def execute_async(self, host: Host) -> None:
        """It is never asynchronous."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Leave it to the next start: nobody is there to do it."""
        self._engine.is_looked_after(self._operation_id)
        _LOG.warning("%s stays abort_pending: %s", self._operation_id, why)
        self._engine.hurry(-1)


class _Wake:
    """Tells a supervisor that there are reports; or, once it has ended, that one came late."""

    __slots__ = ("_engine", "_handle", "late")

    def __init__(self, engine: Engine, handle: OperationHandle) -> None:
        self._engine, self._handle = engine, handle
        self.late: Collection[Attempt] = ()
        """The bodies that were given up and have not returned."""

    def __call__(self) -> bool:
        """Return whether somebody will look at them; any thread."""
        if self._handle.tell(LOOK_AT_OUTBOX):
            return True
        self._engine.came_late(self._handle.id, self.late)
        return False


class Engine:
    """Runs operations: one control thread, workers by lane, one event loop.

    Args:
        workers: Threads in each lane.
        abort_grace: Seconds that an abort waits for its descendants at most.
        caps: How many hooks of a kind run at once.
        dispatcher: Where the actors run; one control thread by default.
        runners: Where bodies run; threads by default.
        events: Where done callbacks run, and operations are started for the main thread; one thread
            for each by default.
    """

    def __init__(
        self,
        workers: int,
        *,
        abort_grace: float = ABORT_GRACE,
        caps: Caps | None = None,
        dispatcher: Dispatcher | None = None,
        runners: Runners | None = None,
        events: Dispatcher | None = None,
    ) -> None:
        self.workers = checked_count("workers", workers)
        grace = checked_limit("abort_grace", abort_grace, positive=False, or_none=False)
        self.abort_grace = FOR_EVER if grace is None else grace
        check_instance("caps", caps, (Caps, type(None)), "a Caps, or None")
        own = ThreadDispatcher(name="karbor-control", lends=True)
        self.dispatcher: Dispatcher = dispatcher or own
        self.runners = runners or Runners(workers, call_later=self.dispatcher.call_later)
        own.lent_by = self.runners.lend
        self._events: Dispatcher = events or ThreadDispatcher(name="karbor-events")
        self._starts: Dispatcher = events or ThreadDispatcher(name="karbor-start")
        """Does what the main thread asks for and waits for nobody, however long the control's turns."""
        self.uninterrupted = self._starts.uninterrupted
        self.aside = done_aside if events is None else done_here
        """Does, on another thread than the main one, what no signal is to interrupt half-way."""
        self._caps = caps or Caps()
        self._admission = new_admission(workers, self._caps)
        self._locks = LockTable()
        self._waiting: dict[str, ActorRef[Any]] = {}
        self._lock = threading.Lock()
        self._handles: dict[str, OperationHandle] = {}
        self._idle = Bell()
        self._for_handles = self._defer, self.uninterrupted
        self._is_closing = self._is_over = False
        self._going = 0
        """Operations that have not ended, and that may begin again at once: a body came back late."""
        self._looked_after: set[str] = set()
        """Those for which a worker is called, and has not begun: one for all bodies that came back."""
        self.looks_after_one = threading.Lock()
        """Held by that worker: others that wait for it would keep all from opening and closing."""
        self.pending = PendingAborts()
        """What ended operations could not undo."""
        self.undo_again: Callable[[str], OperationHandle | None] = lambda _: None
        """Begins to undo what an ended operation left; set by who can. Blocks on the bank."""

    def start(
        self,
        operation_id: str,
        verb: Verb,
        *,
        is_late: bool = False,
        within: AbstractContextManager[Any] = _FREE,
    ) -> OperationHandle:
        """Begin an operation; any thread.

        Args:
            operation_id: Its id.
            verb: What it does.
            is_late: Whether it undoes what an ended one left: closing waits for that.
            within: A lock to hold; not by the main thread, whose signal handlers would wait for it.

        Raises:
            ServiceClosedError: The engine is being closed.
            RuntimeError: The system refuses it its first thread.
        """
        return self.uninterrupted(partial(self._start, operation_id, verb, is_late, within))

    def _start(
        self, operation_id: str, verb: Verb, is_late: bool, within: AbstractContextManager[Any]
    ) -> OperationHandle:
        handle = OperationHandle(operation_id, verb.type, *self._for_handles)
        handle.set_checkpoint_id(verb.checkpoint_id)
        with within, self._lock:
            if self._is_closing and not is_late:
                raise ServiceClosedError
            if (running := self._handles.get(operation_id)) is not None:
                return running  # two asked for it at once
            self._handles[operation_id] = handle
            self._going += 1
        try:
            ref = SupervisorActor.start_on(self.dispatcher, self, verb, handle)
        except BaseException:
            self._forget(handle)
            raise
        handle.attach(ref)
        ref.tell(Begin())
        return handle

    def undo_first(self, request: LockRequest) -> list[OperationHandle]:
        """Begin to undo what is pending of what *request* wants for itself. Blocks on the bank."""
        begun = [self.undo_again(operation_id) for operation_id in self.pending.touched_by(request)]
        return [handle for handle in begun if handle is not None]

    def came_late(self, operation_id: str, given_up: Collection[Attempt]) -> None:
        """Undo once more: one of the bodies *given_up* returned after its operation's end.

        Closing waits for that, but not where an ``on_abort`` itself took too long: the next one
        may do so too, and so on.
        """
        if operation_id in self._looked_after or operation_id in self._handles:
            return  # who looks sees it, and so does one that undoes it just now, when it ends
        late = [attempt for attempt in tuple(given_up) if attempt.has_ended]
        is_held = any(attempt.hook is not HookName.ON_ABORT for attempt in late)
        with self._lock:
            if self._is_over or not late or (self._is_closing and not is_held):
                return  # the next start does it
            if operation_id in self._looked_after or operation_id in self._handles:
                return
            self._looked_after.add(operation_id)
            self._going += 1
        self.runners.submit(Lane.RECORD, [_Late(self, operation_id)])

    def is_looked_after(self, operation_id: str) -> None:
        """Note that what came back of an operation until now is seen to; what comes later is not."""
        with self._lock:
            self._looked_after.discard(operation_id)

    def hurry(self, change: int) -> None:
        """Count an operation that is on its way to begin again; the engine is not idle until then."""
        with self._lock:
            self._going += change
        self._tell_idle()

    def handles(self) -> list[OperationHandle]:
        """Return the operations that have not ended; any thread."""
        return list(self._handles.values())  # no lock: a signal's handler may come as it is held

    def handle(self, operation_id: str) -> OperationHandle | None:
        """Return the handle of an operation that has not ended; any thread."""
        return self._handles.get(operation_id) if isinstance(operation_id, str) else None

    def end(self, handle: OperationHandle, verb: Verb, control: OperationControl | None) -> None:
        """Give back what an operation had, and forget it but for what it left to be undone."""
        late = () if control is None else control.overtime.late
        if control is not None:
            control.intake.close(self.dispatcher.now())
        self.release(handle.id)
        self.pending.note(handle.id, verb.pending_keys, late)
        if verb.must_tidy:
            self.runners.submit(Lane.RECORD, [Tidying(verb)])
        self.hurry(1)  # until it is known whether a body came back meanwhile
        self._forget(handle)

    def _forget(self, handle: OperationHandle) -> None:
        with self._lock:
            if self._handles.pop(handle.id, None) is not None:
                self._going -= 1
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self.is_idle:
            self._idle.ring()

    @property
    def is_idle(self) -> bool:
        """Whether no operation is left, nor one about to begin again; any thread."""
        return not self._going

    def look_for_late(self, operation_id: str, control: OperationControl | None) -> None:
        """Undo once more what bodies did that returned while their operation ended; after :meth:`end`."""
        if control is not None:
            control.outbox.abandon()
            self.came_late(operation_id, control.overtime.late)
        self.hurry(-1)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no operation is left; return whether that is so."""
        if timeout != 0 and not self.is_idle:
            check_may_block("to wait for all operations", "the handles")
        return self._idle.wait(lambda: self.is_idle, checked_wait("timeout", timeout))

    def check_may_close(self) -> None:
        """Refuse to close on a thread that closing waits for."""
        is_callback = current_dispatcher() in (self._events, self.dispatcher)
        if is_callback or self.runners.runs_caller():
            caller = "a done callback" if is_callback else "a hook, or another call of a plugin"
            msg = f"close() waits for the thread that calls it: {caller}; use another one"
            raise RuntimeError(msg)

    def bring_to_end(self, *, drain: bool, timeout: float | None) -> None:
        """Start nothing new, and wait until every operation has ended.

        Args:
            drain: Whether to suspend them, which ends what is frozen; else they are undone.
            timeout: Seconds after which those that are not suspended yet are undone.
        """
        check_flags(drain=drain)
        timeout = checked_wait("timeout", timeout)
        with self._lock:
            self._is_closing = True
        if drain:
            for handle in self.handles():
                handle.suspend()
        if not (drain and self.wait_idle(timeout)):
            for handle in self.handles():
                handle.cancel_for(AbortReason(AbortKind.SHUTDOWN))
        while not self._is_over and self.wait_idle():
            with self._lock:  # what comes late from now on is for the next start
                self._is_over = not self._going
        for name in self.pending.still_late():
            _LOG.warning(
                "%s was given up and goes on: what it does is undone by the next start", name
            )

    def close(self) -> None:
        """End every thread; all operations have ended. Idempotent."""
        self._starts.close()
        self.runners.close()
        self.dispatcher.close()
        self._events.close()

    def control_of(
        self,
        run: OperationRun,
        handle: OperationHandle,
        provider: Provider,
        ask_flush: Callable[[], None],
    ) -> OperationControl:
        """Return the control of *run*, whose supervisor hears of it through *handle*."""
        wake = _Wake(self, handle)
        control = OperationControl(
            run,
            self.dispatcher,
            Intake(run.planned, self.runners, self._admission, self._caps, run.paths, ask_flush),
            Outbox(wake),
            ask_flush=ask_flush,
            events=HookEvents(handle, run.planned.graph),
            retry=provider.retry,
            limits=provider.limits_of,
        )
        wake.late = control.overtime.late
        control.overtime.late.update(self.pending.late(handle.id))
        return control

    # -- locks

    def acquire(self, operation_id: str, request: LockRequest, ref: ActorRef[Any]) -> bool:
        """Return whether *request* is granted; else *ref* is told :class:`LocksGranted` later."""
        with self._lock:
            granted = self._locks.request(operation_id, request)
            if not granted:
                self._waiting[operation_id] = ref
        return granted

    def covers(self, operation_id: str, request: LockRequest) -> bool:
        """Return whether the operation has been granted all of *request*."""
        with self._lock:
            return self._locks.covers(operation_id, request)

    def reserve(self, operation_id: str, request: LockRequest) -> None:
        """Ask for locks before the operation is started, so that none comes before it."""
        with self._lock:
            self._locks.request(operation_id, request)

    def pin(self, operation_id: str, key: Hashable) -> bool:
        """Let a running operation share *key* until it ends; False if somebody has it alone."""
        with self._lock:
            return self._locks.add_shared(operation_id, key)

    def release(self, operation_id: str) -> None:
        """Take an operation's locks back and tell those that waited for them."""
        with self._lock:
            self._waiting.pop(operation_id, None)
            granted = [self._waiting.pop(name, None) for name in self._locks.release(operation_id)]
        for ref in granted:
            if ref is not None:  # else it asks later, and has them
                with suppress(ActorDeadError):  # its successor ends it, and gives them back
                    ref.tell(LocksGranted())

    def _defer(self, fn: Callable[..., object], *args: Any) -> None:
        """Call *fn* on the event thread; what it raises is logged."""

        def call() -> None:
            try:
                fn(*args)
            except BaseException:  # the host's code: reported to its log, the engine goes on
                _LOG.exception("a done callback of the host failed")

        try:
            self.uninterrupted(partial(self._events.call_later, 0, call))
        except DispatcherClosedError:
            call()
