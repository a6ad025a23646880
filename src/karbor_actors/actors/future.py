"""The reply to an ask, which any thread may wait for: the main one too, although signals interrupt it."""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pykka
from pykka import Timeout

from karbor_actors.actors.dispatcher import current_dispatcher
from karbor_actors.actors.waiting import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.actors.dispatcher import Dispatcher

T = TypeVar("T")


class PooledFuture(pykka.Future[T]):
    """As `pykka.ThreadingFuture`; while it waits, the dispatcher may put the thread to use."""

    dispatcher: Dispatcher | None = None
    """Where the asked actor lives, once it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # a get hook may look at its own future
        self._bell = Bell()
        self._result: tuple[Any, Any] | None = None
        """The value, and what `sys.exc_info` returned if there is none."""

    def get(self, *, timeout: float | None = None) -> Any:
        """See `pykka.Future.get`."""
        if self._result is None and self._get_hook is None:
            dispatcher = current_dispatcher() or self.dispatcher
            if dispatcher is not None:
                return dispatcher.await_reply(self, timeout)
        return self.wait_result(timeout)

    def is_set(self) -> bool:
        """Return whether there is a reply."""
        return self._result is not None

    def wait_result(self, timeout: float | None) -> Any:
        """Block until there is a reply, and return or raise it."""
        if self._result is None and self._get_hook is not None:
            with self._lock:
                return super().get(timeout=timeout)
        if not self._bell.wait(self.is_set, timeout):
            raise Timeout(f"{timeout} seconds")
        assert self._result is not None
        value, exc_info = self._result
        if exc_info is None:
            return value
        error_type, error, traceback = exc_info
        error = error_type() if error is None else error
        raise error if error.__traceback__ is traceback else error.with_traceback(traceback)

    def set(self, value: Any = None) -> None:
        """See `pykka.Future.set`."""
        self._settle(value, None)

    def set_exception(self, exc_info: Any = None) -> None:
        """See `pykka.Future.set_exception`."""
        assert exc_info is None or len(exc_info) == 3  # noqa: PLR2004
        self._settle(None, sys.exc_info() if exc_info is None else exc_info)

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        """See `pykka.Future.set_get_hook`."""
        with self._lock:
            if self._result is not None:
                raise queue.Full
            super().set_get_hook(func)

    def _settle(self, value: Any, exc_info: Any) -> None:
        with self._lock:
            if self._result is not None or self._get_hook is not None:
                raise queue.Full
            self._result = value, exc_info
        self._bell.ring()
