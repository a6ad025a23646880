"""Actors by the million, all on one thread: what they need less than others, and what that saves.

Whoever tells such an actor does so on the thread that runs it. So its mailbox has no lock, the
message that it is told while it has none needs no queue, and many are started, or told the
same, in one call. It has no ``on_start`` and no ``on_stop`` either. What is left are two objects
that the collector knows of instead of six: those that live while it looks are looked at again,
all of them, by each full collection, and these were most of what it found.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from pykka._envelope import Envelope

from karbor_actors import faultpoints
from karbor_actors.actors.dispatcher import current_dispatcher
from karbor_actors.actors.mailbox import PYKKA_MESSAGES, Mailbox
from karbor_actors.actors.pooled import LightActor
from karbor_actors.errors import DispatcherClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from karbor_actors.actors.dispatcher import Dispatcher
    from karbor_actors.actors.pooled import PooledActor

A = TypeVar("A", bound=LightActor)
_UNUSUAL = PYKKA_MESSAGES | {Envelope}
"""The types of what is not simply given to ``on_receive``."""


class ConfinedMailbox(Mailbox[A]):
    """A mailbox without a lock. Its dispatcher's one thread only, but for what only looks."""

    __slots__ = ("_message", "_queue", "is_claimed")

    def __init__(self, actor: A) -> None:
        self.is_claimed = False
        """Whether it is scheduled, or runs."""
        self._message: Any = None
        """The next one, while it is scheduled."""
        self._queue: deque[Any] | None = None
        # What Mailbox has: written out, as what is called for each hook is.
        self.stopped = self.dead = False
        self.actor = actor
        self.actor_class = type(actor)
        self.dispatcher = self._urn = self._event = None

    @property
    def items(self) -> deque[Any]:  # type: ignore[override]
        """What waits behind the message that it is scheduled for."""
        if self._queue is None:
            self._queue = deque()
        return self._queue

    def empty(self) -> bool:
        """Return whether nothing is queued."""
        return not self._queue

    def _add(self, item: Any) -> None:
        """Queue *item*, and see to it that it is handled, or answered."""
        _check_thread(self.dispatcher)
        if self.stopped or self.is_claimed:
            self.items.append(item)
            if self.dead:
                self.drain()
        else:
            self.is_claimed = True
            self._message = item
            self.dispatcher.schedule(self)  # type: ignore[union-attr]

    def run(self) -> None:
        """Handle one message; called by the worker."""
        actor: PooledActor | None = self.actor
        if actor is None:
            return
        message, self._message = self._message, None
        if faultpoints.injector is not None or type(message) in _UNUSUAL:
            self._handle(actor, message)
        else:  # the same in short
            try:
                actor.on_receive(message)
            except BaseException as error:  # to on_failure and the watcher
                self._fail(actor, error)
        if self.stopped:
            self._bury()
        elif self._queue:
            self._message = self._queue.popleft()
            self.dispatcher.schedule(self)  # type: ignore[union-attr]
        else:
            self.is_claimed = False

    def _bury(self) -> None:
        """Let nothing more in, answer what is queued, and let go of the actor."""
        self.stopped = self.dead = True
        self.actor = None
        if self._event is not None:
            self._event.set()
        if self._queue:
            self.drain()


class ConfinedActor(LightActor):
    """A light actor that is started, told, asked and stopped on its dispatcher's one thread.

    Nothing else holds it than its ref. There is no ``on_start`` and no ``on_stop``.
    """

    __slots__ = ()

    resident = False
    actor_inbox: ConfinedMailbox[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what would never be called."""
        super().__init_subclass__(**kwargs)
        if cls.on_start is not LightActor.on_start or cls.on_stop is not LightActor.on_stop:
            raise TypeError(f"{cls.__name__}: a confined actor has no on_start() and on_stop()")

    def __init__(self) -> None:
        self.actor_inbox = ConfinedMailbox(self)  # all that a superclass would do

    def _start_actor_loop(self) -> None:
        _check_thread(self.actor_inbox.dispatcher)

    def _stop(self) -> None:
        self.actor_inbox.stopped = True  # whoever waits for that hears of it after the turn


def start_all(
    dispatcher: Dispatcher, actors: Iterable[ConfinedActor]
) -> list[ConfinedMailbox[Any]]:
    """Start *actors*, which were made and not started; return their refs.

    Raises:
        DispatcherClosedError: when the dispatcher is closed.
        RuntimeError: when the calling thread is not the dispatcher's, or not its only one.
    """
    if dispatcher.is_closing:
        raise DispatcherClosedError
    _check_thread(dispatcher)
    mailboxes = []
    for actor in actors:
        mailbox = actor.actor_inbox
        mailbox.dispatcher = dispatcher
        mailboxes.append(mailbox)
    return mailboxes


def tell_all(mailboxes: Sequence[ConfinedMailbox[Any]], message: object) -> None:
    """Tell *message* to the actors of *mailboxes*, all of one dispatcher; to the dead it is lost.

    They may handle it before this returns; see `Dispatcher.run_all`.

    Raises:
        RuntimeError: when the calling thread is not the dispatcher's.
    """
    if not mailboxes:
        return
    dispatcher = mailboxes[0].dispatcher
    _check_thread(dispatcher)
    woken = []
    for mailbox in mailboxes:
        if mailbox.is_claimed:  # or dead: a claim outlives its actor
            mailbox._add(message)  # noqa: SLF001
        else:
            mailbox.is_claimed = True
            mailbox._message = message  # noqa: SLF001
            woken.append(mailbox)
    dispatcher.run_all(woken)  # type: ignore[union-attr]


def _check_thread(dispatcher: Dispatcher | None) -> None:
    """Refuse what only the one thread of *dispatcher* may do."""
    if dispatcher is None or current_dispatcher() is not dispatcher:
        raise RuntimeError(
            f"only the thread of {dispatcher} may start and tell its confined actors"
        )
    if not dispatcher.has_one_thread:
        raise RuntimeError(f"{dispatcher} has several threads: confined actors need one")
