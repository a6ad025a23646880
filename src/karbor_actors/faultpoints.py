"""Where faults can be injected: a few points that cost one look while nobody injects any.

The engine asks :data:`injector` at each point, if there is one; ``karbor_actors.testing`` has
one, the ``FaultPlan``. The points are where things go wrong outside of a test: around a hook's
body, at an actor's turn, around a bank's commit and around an object store's put.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

NOTHING: Final = object()
"""What an injector gives for a message that the actor does not get now."""


class Injector(Protocol):
    """What is asked at the points. Any thread; *when* is ``"before"`` or ``"after"``.

    Each method returns, possibly late, or raises what the point is to meet, or does not come
    back at all: it may end the process.
    """

    def on_hook(self, attempt: Any, when: str) -> None:
        """Take part in one attempt of a hook, on its worker, around the body."""

    def on_message(self, actor: Any, message: Any) -> Any:
        """Return the told *message* that *actor* is to handle now, or NOTHING."""

    def on_commit(self, path: str, when: str) -> None:
        """Take part in a commit of the records in *path*; what is raised before it is LMDB's."""

    def on_put(self, name: str, when: str) -> None:
        """Take part in a put of the object *name*; what is raised is an OSError."""


injector: Injector | None = None
"""The process's injector: None but in a test."""


def install(new: Injector) -> None:
    """Have *new* asked from now on.

    Raises:
        RuntimeError: Another one is installed.
    """
    global injector  # noqa: PLW0603 - the points are the process's
    if injector is not None:
        msg = f"faults are injected already, by {injector!r}; remove that first"
        raise RuntimeError(msg)
    injector = new


def remove(old: Injector) -> None:
    """Ask *old* no more; does nothing if it is not installed."""
    global injector  # noqa: PLW0603
    if injector is old:
        injector = None
