"""Who wants to know that bulk data moves: the hook whose body the calling thread or task runs.

Streams say so for each block that they read or write; a hook that copies for hours is alive
without a word from its plugin. Context-local: ``asyncio.to_thread`` hands it on, a plugin's own
threads do not have it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Who wants to know."""

    def note_alive(self) -> None:
        """Note that data has moved; on the thread that moved it."""


listener: ContextVar[Listener | None] = ContextVar("karbor_actors_liveness", default=None)
"""Told when data has moved."""


def data_moved() -> None:
    """Say that a block was read or written; costs nothing where nobody listens."""
    wants = listener.get()
    if wants is not None:
        wants.note_alive()
