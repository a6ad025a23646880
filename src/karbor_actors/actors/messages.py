"""Messages that state their reply, and a typed ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pykka import ActorRef

ReplyT_co = TypeVar("ReplyT_co", covariant=True)


class Message(Generic[ReplyT_co]):
    """The base of messages whose handler replies with a ``ReplyT_co``; immutable by custom.

    Example::

        @dataclass(frozen=True, slots=True)
        class GetFinished(Message[tuple[str, ...]]):
            "Ask which names have finished."
    """

    __slots__ = ()


def ask(ref: ActorRef[Any], message: Message[ReplyT_co], *, timeout: float) -> ReplyT_co:
    """Send *message* and wait at most *timeout* seconds for its reply.

    Any thread may call this; a handler may ask only actors below its own in the tree.

    Raises:
        pykka.Timeout: when there is no reply in time.
        pykka.ActorDeadError: when the actor is dead, or dies before it handles the message.
        Exception: what the actor's handler raised.
    """
    reply: ReplyT_co = ref.ask(message, block=True, timeout=timeout)
    return reply
