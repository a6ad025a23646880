"""A pooled actor's mailbox: how messages get in and are run.

The mailbox is the actor's ref as well, so that what a hook actor is made of is two objects.

The claim. An actor is run by one thread at a time: by whoever holds its mailbox's claim, a
lock that is only ever tried, never waited for. Mostly that is a worker of its dispatcher;
`handle_here` lends it another thread for one message. A sender appends its message, *then* tries
the claim and schedules the mailbox if it got it. A worker that finds the mailbox empty gives
the claim back, *then* looks again. So no message is left behind, and no actor runs twice.

Death. The worker sets `stopped` (no more tells), runs the actor's last code, sets `dead` and
empties the mailbox. A sender that finds `stopped` set after it appended either comes before
that (the worker sees its message) or finds `dead` and empties the mailbox itself. The claim
of a dead mailbox is never given back.
"""

from __future__ import annotations

import sys
import threading
import uuid
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pykka
from pykka import ActorDeadError, ActorRef, ActorRegistry
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from karbor_actors import faultpoints
from karbor_actors.actors.dispatcher import logger
from karbor_actors.actors.future import PooledFuture
from karbor_actors.actors.waiting import Flag

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.actors.dispatcher import Dispatcher
    from karbor_actors.actors.pooled import PooledActor

A = TypeVar("A", bound=pykka.Actor)
T = TypeVar("T")

PYKKA_MESSAGES = frozenset({_ActorStop, ProxyCall, ProxyGetAttr, ProxySetAttr})
_making = threading.RLock()  # guards what is made lazily, by all mailboxes: it is rare and quick


class Mailbox(ActorRef[A]):
    """The messages of one actor, where it stands, and its `pykka.ActorRef`.

    What Pykka's ref has, anybody may call; the rest is for this package. Any thread may call
    all of it but `run`, unless a subclass says otherwise.
    """

    __slots__ = (
        "_event",
        "_urn",
        "actor",
        "actor_class",
        "claim",
        "dead",
        "dispatcher",
        "is_running",
        "items",
        "stopped",
    )

    items: deque[Any]
    """Told messages as they are, others in envelopes."""
    claim: threading.Lock

    def __init__(self, actor: A) -> None:
        self.items = deque()
        self.claim = threading.Lock()
        self.claim.acquire()  # given back by the first turn: an actor runs once it was started
        self.stopped = False
        self.dead = False
        self.is_running = False
        self.actor: Any = actor  # until its death: what keeps it alive
        self.actor_class = type(actor)
        self.dispatcher: Dispatcher | None = None
        self._urn: str | None = None
        self._event: threading.Event | None = None

    # -- what a ref has beside ask(), stop() and proxy()

    @property
    def actor_inbox(self) -> Self:  # type: ignore[override]
        """See `pykka.ActorRef.actor_inbox`."""
        return self

    @property
    def _actor_weakref(self) -> Callable[[], Any]:  # type: ignore[override]
        """What Pykka's proxies find the actor by; made when it is asked for."""
        actor = self.actor
        return (lambda: None) if actor is None else weakref.ref(actor)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]
        """See `pykka.Actor.actor_urn`; made when it is first asked for."""
        urn = self._urn
        if urn is None:
            with _making:
                urn = self._urn = self._urn or uuid.uuid4().urn
        return urn

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]
        """See `pykka.Actor.actor_stopped`; made when it is first asked for."""
        event = self._event
        if event is None:
            with _making:
                event = self._event = self._event or Flag()
            if self.stopped:  # only after it can be seen: mark_stopped() looks the other way round
                event.set()
        return event

    def is_alive(self) -> bool:
        """See `pykka.ActorRef.is_alive`."""
        return not self.stopped

    def tell(self, message: Any) -> None:
        """See `pykka.ActorRef.tell`; never blocks."""
        if self.stopped:
            msg = f"{self} not found"
            raise ActorDeadError(msg)
        self._add(message if type(message) is not Envelope else Envelope(message))

    def handle_here(self, message: Any) -> bool:
        """Have the actor handle *message* on the calling thread, if it has nothing else to do.

        For who would wait for it anyway: it spares two changes of thread. What comes meanwhile is
        handled where the actor lives. Returns False, having done nothing, if it runs, has not
        begun to, has something queued, or has ended. Never raises.
        """
        actor = self.actor
        if actor is None or not self.is_running or self.items or not self.claim.acquire(False):
            return False
        if self.stopped:
            return False  # given up meanwhile: a claim outlives its actor
        is_next = not self.items
        if is_next:
            self._handle(actor, message)
        if not self.stopped:
            self.claim.release()
            if self.items and self.claim.acquire(False):
                self.dispatcher.schedule(self)  # type: ignore[union-attr]
        return is_next

    # -- what an inbox has, and more

    def mark_stopped(self) -> None:
        """Take no more messages; what is queued is refused once `dead` is set."""
        self.stopped = True
        if self._event is not None:
            self._event.set()

    def put(self, envelope: Envelope[Any]) -> None:
        """Queue *envelope*; see `pykka.ActorRef.tell` and ``ask``."""
        reply_to = envelope.reply_to
        if isinstance(reply_to, PooledFuture):
            reply_to.dispatcher = self.dispatcher
        self._add(envelope)

    def _add(self, item: Any) -> None:
        """Queue *item*, and see to it that it is handled, or answered."""
        self.items.append(item)
        if self.stopped:
            if self.dead:
                self.drain()
        elif self.claim.acquire(False):
            self.dispatcher.schedule(self)  # type: ignore[union-attr]

    def get(self) -> Envelope[Any]:
        """Take out the next envelope; never blocks.

        Raises:
            IndexError: when there is none.
        """
        item = self.items.popleft()
        return item if type(item) is Envelope else Envelope(item)

    def empty(self) -> bool:
        """Return whether nothing is queued."""
        return not self.items

    def request_stop(self) -> None:
        """Stop the actor after what is queued."""
        self.put(Envelope(_ActorStop()))

    def abandon(self) -> None:
        """Refuse all messages from now on, without a word to the actor."""
        self.mark_stopped()
        self.dead = True
        self.drain()

    def drain(self) -> None:
        """Answer all that is queued for a dead actor: stops with None, asks with an error."""
        unread = 0
        while self.items:
            try:
                envelope = self.get()
            except IndexError:
                break  # another thread drains it too
            is_stop = type(envelope.message) is _ActorStop
            if envelope.reply_to is None:
                unread += not is_stop
            elif is_stop:
                _reply(envelope.reply_to, None)
            else:
                error = ActorDeadError(f"{self} stopped before handling the message")
                _reply_error(envelope.reply_to, error)
        if unread and self.dispatcher is not None:
            self.dispatcher.count_dead_letters(unread)

    def run(self) -> None:
        """Handle some messages; called by a worker that was handed the claim."""
        actor, dispatcher = self.actor, self.dispatcher
        if actor is None or dispatcher is None or self.dead:
            return
        if not self.is_running and not self._set_up(actor):
            return
        items, claim = self.items, self.claim
        turns = dispatcher.throughput
        while True:
            if not items:
                claim.release()
                if not items or not claim.acquire(False):
                    return
            if not turns:
                dispatcher.schedule(self)
                return
            turns -= 1
            try:
                item = items.popleft()
            except IndexError:
                return  # the actor was given up meanwhile: only then do others take from it
            self._handle(actor, item)
            if self.stopped:
                return

    def _handle(self, actor: PooledActor, item: Any) -> None:
        """Have *actor* handle what was told or asked, whatever comes of it; never raises."""
        message, reply_to = item, None
        if type(item) is Envelope:
            message, reply_to = item.message, item.reply_to
        try:
            if faultpoints.injector is not None and _may_fail(message, reply_to):
                message = faultpoints.injector.on_message(actor, message)
                if message is faultpoints.NOTHING:
                    return
            if type(message) in PYKKA_MESSAGES:
                response = actor._handle_receive(message)  # noqa: SLF001
            else:
                response = actor.on_receive(message)
        except Exception as error:  # to the asker, or to on_failure and the watcher
            if reply_to is None:
                self._fail(actor, error)
            else:
                actor._log_returned(error)  # noqa: SLF001
                _reply_error(reply_to, error)
        except BaseException as error:  # the same, and the worker must live on
            self._crash(actor, error, reply_to)
        else:
            if self.stopped:
                self._bury()
            if reply_to is not None:
                _reply(reply_to, response)

    def _set_up(self, actor: PooledActor) -> bool:
        """Run ``on_start``; return whether the actor lives on."""
        self.is_running = True
        try:
            actor.on_start()
        except Exception as error:  # logged, and told to the watcher
            actor._handle_failure(*sys.exc_info())  # noqa: SLF001
            self._bury()
            _tell_watcher(actor, error)
        except BaseException as error:  # the same, and the worker must live on
            self._crash(actor, error, None)
        return not self.stopped

    def _fail(self, actor: PooledActor, error: BaseException) -> None:
        """End *actor*, whose handler of a told message raised."""
        exc_info = (type(error), error, error.__traceback__)
        actor._handle_failure(*exc_info)  # noqa: SLF001
        try:
            actor.on_failure(*exc_info)
        except BaseException:  # logged; the actor is dying of something else
            actor._handle_failure(*sys.exc_info())  # noqa: SLF001
        self._bury()
        _tell_watcher(actor, error)

    def _crash(
        self, actor: PooledActor, error: BaseException, reply_to: pykka.Future[Any] | None
    ) -> None:
        """End *actor*, which raised a BaseException; a registered one takes all others along."""
        if not actor.registered:
            self._fail(actor, error)
            if reply_to is not None:
                # The error itself would crash an actor that asked, and so on up.
                dead = ActorDeadError(f"{self} died of {error!r}")
                dead.__cause__ = error
                _reply_error(reply_to, dead)
            return
        actor._log_crash(error)  # noqa: SLF001
        if not self.stopped:
            try:
                actor._stop()  # noqa: SLF001
            except BaseException:  # logged; the actor is dying of something else
                actor._handle_failure(*sys.exc_info())  # noqa: SLF001
        self._bury()
        if reply_to is not None:
            _reply_error(reply_to, error)
        _tell_watcher(actor, error)
        # Not blocking: those to be stopped may need the very worker that runs this.
        ActorRegistry.stop_all(block=False)

    def _bury(self) -> None:
        """Let nothing more in, answer what is queued, and let go of the actor."""
        if not self.stopped:
            self.mark_stopped()
        self.dead = True
        if self.items:
            self.drain()
        actor, self.actor = self.actor, None  # they hold each other: break the cycle
        if self.dispatcher is not None and actor is not None and actor.resident:
            self.dispatcher.forget(self)


def _may_fail(message: Any, reply_to: object) -> bool:
    """Return whether faults may be injected: in what was told, and is the actor's own."""
    return reply_to is None and type(message) not in PYKKA_MESSAGES


def _tell_watcher(actor: PooledActor, error: BaseException) -> None:
    if actor.watcher is None:
        return
    try:
        actor.watcher(actor, error)
    except BaseException:  # foreign code; the worker must live on
        logger.exception("The watcher of %s failed", actor)


def _reply(future: pykka.Future[Any], value: Any) -> None:
    try:
        future.set(value)
    except Exception:  # the asker set it itself: its business, not the actor's
        logger.warning("A reply came too late: its future is set already", exc_info=True)


def _reply_error(future: pykka.Future[Any], error: BaseException) -> None:
    try:
        future.set_exception((type(error), error, error.__traceback__))
    except Exception:  # as in _reply
        logger.warning("A reply came too late: its future is set already", exc_info=True)
