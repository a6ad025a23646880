"""Which threads must not block: those that run an event loop for many."""

from __future__ import annotations

import threading

from karbor_actors.errors import BlockingCallError


class _Thread(threading.local):
    forbids = False  # of the class: looking for what a thread did not set would cost an exception


_thread = _Thread()


def forbid_blocking() -> None:
    """Mark the calling thread as one that :func:`check_may_block` refuses."""
    _thread.forbids = True


def may_block() -> bool:
    """Return whether the calling thread may wait: it runs no event loop for many."""
    return not _thread.forbids


def check_may_block(what: str, twin: str = "its twin, whose name begins with an a") -> None:
    """Refuse a blocking call on a marked thread.

    Args:
        what: The call, for the error.
        twin: What is to be awaited instead.

    Raises:
        BlockingCallError: Everything else on this event loop would wait for it.
    """
    if _thread.forbids:
        msg = f"{what} would block the engine's event loop; await {twin}, or asyncio.to_thread(...)"
        raise BlockingCallError(msg)
