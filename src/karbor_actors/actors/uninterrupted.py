"""What no signal interrupts: the main thread has another thread do it.

The handler of a signal may raise (that of Ctrl-C does) between any two steps of the main thread. What is
half done there stays so for ever: an actor that was claimed and not scheduled, an operation that is known
and has no supervisor. So the main thread hands over what must not stop half-way, and waits for it; who
interrupts it interrupts the waiting.
"""

from __future__ import annotations

import sys
import threading
from _thread import start_new_thread
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_LOOK = 1.0
"""Seconds after which who waits looks whether anybody will come."""


class Errand(Generic[T]):
    """A call that one thread makes for another one, once.

    Args:
        function: What is called.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._to_do = [function]
        self._ended = threading.Lock()
        self._ended.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call, unless somebody has; any thread. Never raises."""
        try:
            function = self._to_do.pop()
        except IndexError:
            return
        try:
            self._result = function()
        except BaseException as error:  # raised where it is waited for
            self._error = error
        self._ended.release()

    def withdraw(self) -> bool:
        """Have nobody make the call any more; return whether nobody has begun to."""
        with suppress(IndexError):
            self._to_do.pop()
            return True
        return False

    def wait_ended(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds until the call was made; return whether it was."""
        if is_over := self._ended.acquire(timeout=timeout):
            self._ended.release()  # for who waits for it again
        return is_over

    def wait(self, is_over: Callable[[], bool]) -> T:
        """Return what it returns, or raise what it raises; make the call here once nobody else will.

        If the waiting is interrupted, the call is made all the same.

        Args:
            is_over: Returns whether no other thread is there to make it.
        """
        while not self.wait_ended(_LOOK):
            if is_over():
                self.run()
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result


def hand_over(
    function: Callable[[], T],
    schedule: Callable[[Errand[T]], object],
    is_over: Callable[[], bool],
) -> T:
    """Return what *function* returns, or raise what it raises; who was given it by *schedule* calls it.

    Args:
        function: What is called.
        schedule: Has another thread run an errand.
        is_over: Returns whether no other thread is there to run it.
    """
    errand = Errand(function)
    try:
        schedule(errand)
        return errand.wait(is_over)
    except RuntimeError:  # there is no thread for it, unless this is its own
        if errand.withdraw():
            raise
        return errand.wait(is_over)


def done_aside(function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Return what *function* returns, or raise what it raises; for the main thread, another one calls it.

    It may take its time. If the main thread is interrupted meanwhile, it is done to its end all the same,
    or not at all; unless the process ends. It has the caller's context, but not its thread-locals.

    Args:
        function: What is called.
        undo: Is called with what that returned if the main thread was interrupted.
    """
    if not is_main_thread() or _is_importing():
        return function()
    made: list[T] = []
    is_left: list[bool] = []

    def call() -> T:
        made.append(result := function())
        undo_if_left()
        return result

    def undo_if_left() -> None:
        if not is_left or undo is None:
            return
        try:
            result = made.pop()
        except IndexError:  # nothing was made; or the other one undoes it
            return
        undo(result)

    errand = Errand(partial(copy_context().run, call))
    thread = threading.Thread(target=errand.run, name="karbor-aside", daemon=True)
    try:
        _start_or_run(thread, errand)
        return errand.wait(lambda: not thread.is_alive())
    except BaseException:
        is_left.append(True)
        if not errand.withdraw():
            errand.wait_ended(_LOOK)
        undo_if_left()  # or who makes the call does it, when it is made
        raise


def _is_importing() -> bool:
    """Return whether the calling thread imports a module, which another one would wait for."""
    frame = sys._getframe()  # noqa: SLF001 - there is no other way to know
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
    return False


def _start_or_run(thread: threading.Thread, errand: Errand[Any]) -> None:
    """Start *thread*, which runs *errand*; run it, if the system gives no more threads.

    Another thread starts it: who is interrupted while he waits for it to begin leaves it waiting.
    """

    def start() -> None:
        try:
            thread.start()
        except RuntimeError:
            errand.run()

    try:
        start_new_thread(start, ())
    except RuntimeError:
        errand.run()


def done_here(function: Callable[[], T], _undo: Callable[[T], object] | None = None) -> T:
    """Return what *function* returns: as :func:`done_aside`, where nothing is to be interrupted."""
    return function()


def is_main_thread() -> bool:
    """Return whether the calling thread is the one that signals interrupt."""
    return threading.get_ident() == threading.main_thread().ident
