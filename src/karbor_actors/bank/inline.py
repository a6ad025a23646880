"""What works beside a bank's callers: threads, or nothing at all in a simulation."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from karbor_actors.actors import DaemonExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs what is submitted at once, on the thread that submits it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the result of *fn*, or what it raised, as a future that is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # to who asks the future
            future.set_exception(error)
        return future


def make_executor(workers: int, name: str, *, inline: bool) -> Executor:
    """Return an executor with up to *workers* threads called *name*, or without any."""
    return InlineExecutor() if inline else DaemonExecutor(workers, name)
