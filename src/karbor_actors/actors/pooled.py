"""Actors that own no thread: a dispatcher runs them when their mailbox has something."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pykka
from pykka import ActorRegistry

from karbor_actors.actors.future import PooledFuture
from karbor_actors.actors.mailbox import Mailbox
from karbor_actors.actors.threads import ThreadDispatcher
from karbor_actors.errors import DispatcherClosedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from karbor_actors.actors.dispatcher import Dispatcher

# What Pykka logs goes to Pykka's logger, whatever runs the actor.
logger = logging.getLogger("pykka")

_DEFAULT_THREADS = 4
_DEFAULT_SPARE = 1000
_default: Dispatcher | None = None
_default_lock = threading.Lock()


def default_dispatcher() -> Dispatcher:
    """Return the process-wide dispatcher that `PooledActor.start` uses; made at first use.

    Its threads are daemons, and spare ones stand in for those that are blocked in an ask. It
    is never closed. A forked child gets its own.
    """
    global _default  # noqa: PLW0603 - it is process-wide, like Pykka's registry
    with _default_lock:
        if _default is None:
            _default = ThreadDispatcher(
                threads=_DEFAULT_THREADS, name="karbor-default", spare=_DEFAULT_SPARE
            )
        return _default


def set_default_dispatcher(dispatcher: Dispatcher | None) -> Dispatcher | None:
    """Have `PooledActor.start` use *dispatcher* from now on (None: a new one); return the old.

    Whoever replaces a dispatcher closes it, or lets its actors live on.
    """
    global _default
    with _default_lock:
        old, _default = _default, dispatcher
        return old


class PooledActor(pykka.Actor):
    """A `pykka.Actor` that owns no thread.

    What Pykka's documentation says of an actor holds, with these additions:

    - It lives on a dispatcher, which holds it while it runs. At most one worker runs it at a
      time, not always the same.
    - An ask is always answered: one that loses the race with a stop gets
      `pykka.ActorDeadError`, one whose handler raises a BaseException gets that.
    - `stop()` returns once the actor is gone and its mailbox is empty.
    - A blocking ask inside a handler occupies a worker; see `ThreadDispatcher`.
    """

    __slots__ = ("actor_inbox",)

    registered: ClassVar[bool] = True
    """Whether instances are in Pykka's registry.

    One that is not starts and stops at a cost that does not grow with their number. Nor does
    it stop all registered actors by raising a BaseException: that is its own failure, and
    reaches an asker as the cause of a `pykka.ActorDeadError`.
    """

    resident: ClassVar[bool] = True
    """Whether the dispatcher holds instances until they end, and stops them when it closes.

    Whoever starts one that is not keeps its ref: nothing else does.
    """

    watcher: Callable[[PooledActor, BaseException], None] | None = None
    """Called on the worker, after a failure has ended the actor, with the actor and the error.

    Set it on the instance, in ``__init__``. It hears of every death but an orderly stop: of
    what ``on_start`` or the handler of a told message raised, and of each BaseException.
    """

    actor_inbox: Mailbox[Any]

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Start an actor on the default dispatcher; the arguments go to the constructor."""
        return cls.start_on(default_dispatcher(), *args, **kwargs)

    @classmethod
    def start_on(cls, dispatcher: Dispatcher, /, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Start an actor on *dispatcher*; the other arguments go to the constructor.

        Any thread may call this. ``on_start`` runs on the dispatcher.

        Raises:
            DispatcherClosedError: when the dispatcher is closed.
            RuntimeError: when the system refuses the dispatcher its first thread.
            TypeError: when the class's ``__init__`` does not call its superclass's.
        """
        if dispatcher.is_closing:
            raise DispatcherClosedError
        actor = cls(*args, **kwargs)
        try:
            mailbox = actor.actor_inbox
        except AttributeError:
            msg = f"{cls.__name__}.__init__() must call super().__init__()"
            raise TypeError(msg) from None
        mailbox.dispatcher = dispatcher
        try:
            if cls.resident:
                dispatcher.adopt(mailbox)
            if cls.registered:
                ActorRegistry.register(actor._actor_ref)
                logger.debug("Starting %s", actor)
            actor._start_actor_loop()
        except BaseException:
            actor._leave()
            mailbox.abandon()
            mailbox.actor = None
            dispatcher.forget(mailbox)
            raise
        return actor._actor_ref

    def _create_actor_inbox(self) -> Mailbox[Any]:  # type: ignore[override]
        return Mailbox(self)

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return PooledFuture()

    def _start_actor_loop(self) -> None:
        mailbox = self.actor_inbox
        assert mailbox.dispatcher is not None
        mailbox.dispatcher.schedule(mailbox)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """See `pykka.Actor.__init__`."""
        # Not Pykka's own: a URN, an event and a queue for each of a million actors.
        self.actor_inbox = self._create_actor_inbox()

    @property
    def _actor_ref(self) -> Mailbox[Any]:  # type: ignore[override]
        return self.actor_inbox

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        """See `pykka.Actor.actor_urn`."""
        return self.actor_inbox.actor_urn

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        """See `pykka.Actor.actor_stopped`."""
        return self.actor_inbox.actor_stopped

    def _stop(self) -> None:
        if self.registered:
            self._leave()
            logger.debug("Stopped %s", self)
        else:
            self.actor_inbox.mark_stopped()
        try:
            self.on_stop()
        except Exception:  # the actor's code; logged, as Pykka does
            self._handle_failure(*sys.exc_info())

    def _handle_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        exc_info = (exception_type, exception_value, traceback)
        logger.error("Unhandled exception in %s:", self, exc_info=exc_info)  # type: ignore[arg-type]
        self._leave()

    def _leave(self) -> None:
        """Leave the registry and take no more messages."""
        if self.registered:
            ActorRegistry.unregister(self._actor_ref)
        self.actor_inbox.mark_stopped()

    def _log_returned(self, error: Exception) -> None:
        logger.info("Exception returned from %s to caller:", self, exc_info=error)

    def _log_crash(self, error: BaseException) -> None:
        logger.debug("%r in %s. Stopping all actors.", error, self)


class LightActor(PooledActor):
    """A pooled actor to be made by the million: unknown to Pykka's registry.

    Give subclasses ``__slots__`` and set few attributes; whoever starts one must keep its ref,
    or tell it all that it needs, because nothing else can find it.
    """

    __slots__ = ()

    registered = False


def _after_fork_in_child() -> None:
    # The lock may have been held by a thread that does not exist here.
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
