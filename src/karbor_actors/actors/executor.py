"""An executor whose threads keep no process from ending."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from karbor_actors.actors.waiting import Bell

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(Executor):
    """Runs what is submitted on up to *workers* threads, which start with the work. Any thread.

    The interpreter waits at its exit for the threads of a ``ThreadPoolExecutor``, and so for ever
    for one that hangs: in a plugin, or on a disk that does not answer. Nothing waits for these but
    :meth:`shutdown`.

    Args:
        workers: Threads at most.
        name: What their names begin with.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._workers, self._name = workers, name
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle: deque[None] = deque()
        """As many as threads wait for work, less what is on its way to one."""
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have *fn* called; return the future of its result.

        Raises:
            RuntimeError: It was shut down, or the system refuses it its first thread.
        """
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the executor was shut down")
            work = _Work(partial(fn, *args, **kwargs))
            self._queue.put(work)  # before there is one more thread, which takes it for idle else
            self._grow()
            return work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; wait for what runs, and for what is queued unless that is cancelled."""
        with self._lock:
            if cancel_futures:
                self._cancel_queued()
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        if wait:
            for thread in filter(threading.Thread.is_alive, self._threads):
                thread.join()

    def __del__(self) -> None:
        """Let the threads end."""
        self._queue.put(None)

    def _grow(self) -> None:
        with suppress(IndexError):
            self._idle.pop()
            return
        # One whose start was interrupted may have come to nothing.
        self._threads = list(filter(threading.Thread.is_alive, self._threads))
        if len(self._threads) == self._workers:
            return
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=_serve, args=(self._queue, self._idle), name=name)
        thread.daemon = True
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:  # those that are there do it all
            self._threads.remove(thread)
            if not self._threads:
                self._queue.get_nowait()
                raise

    def _cancel_queued(self) -> None:
        queue, is_ending = self._queue, False
        try:
            while True:
                work = queue.get_nowait()
                if work is None:
                    is_ending = True
                else:
                    work.cancel()
        except Empty:
            if is_ending:
                queue.put(None)


class _Work(Future[Any]):
    """One call and its result, for one who waits for it; no signal breaks it, as it would a Future."""

    def __init__(self, call: Callable[[], Any]) -> None:
        # Not Future's own: all of it is made of a condition.
        self._to_do = [call]
        self._is_cancelled = self._is_over = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._ended = Bell()

    def run(self) -> None:
        """Make the call, unless it was cancelled."""
        try:
            call = self._to_do.pop()
        except IndexError:
            return
        try:
            self._value = call()
        except BaseException as error:  # for who asks
            self._error = error
        self._end()

    def cancel(self) -> bool:
        """See `Future.cancel`."""
        try:
            self._to_do.pop()
        except IndexError:
            return self._is_cancelled
        self._is_cancelled = True
        self._end()
        return True

    def cancelled(self) -> bool:
        """See `Future.cancelled`."""
        return self._is_cancelled

    def running(self) -> bool:
        """See `Future.running`."""
        return not self._to_do and not self._is_over

    def done(self) -> bool:
        """See `Future.done`."""
        return self._is_over

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `Future.exception`."""
        if not self._ended.wait(self.done, timeout):
            raise TimeoutError
        if self._is_cancelled:
            raise CancelledError
        return self._error

    def result(self, timeout: float | None = None) -> Any:
        """See `Future.result`."""
        error = self.exception(timeout)
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del self, error  # its traceback has this frame

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Refuse it: who waits is told."""
        raise NotImplementedError

    def _end(self) -> None:
        self._is_over = True
        self._ended.ring()


def _serve(queue: SimpleQueue[_Work | None], idle: deque[None]) -> None:
    """Run what is queued, until there is a None; knows no executor, which may be forgotten."""
    while True:
        try:
            work = queue.get_nowait()
        except Empty:
            idle.append(None)
            work = queue.get()
        if work is None:
            queue.put(None)  # for the others
            return
        work.run()
        del work  # what it holds must not live on while this waits
