"""Who wants to know that bulk data moves: the hook whose body the calling thread or task runs.

Streams say so for each block that they read or write; a hook that copies for hours is alive
without a word from its plugin. Context-local: ``asyncio.to_thread`` hands it on, a plugin's own
threads do not have it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

listener: ContextVar[Callable[[], None] | None] = ContextVar("karbor_actors_liveness", default=None)
"""Called when data has moved."""


def data_moved() -> None:
    """Say that a block was read or written; costs nothing where nobody listens."""
    wants = listener.get()
    if wants is not None:
        wants()
