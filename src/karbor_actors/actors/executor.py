"""An executor whose threads keep no process from ending."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from karbor_actors.actors.uninterrupted import done_aside
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
        self._queue: SimpleQueue[_Work[Any] | None] = SimpleQueue()
        self._idle: deque[None] = deque()
        """As many as threads wait for work, less what is on its way to one."""
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()  # a signal's handler may come within
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
                for _ in self._threads:
                    self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def __del__(self) -> None:
        """Let the threads end."""
        for _ in self._threads:
            self._queue.put(None)

    def _grow(self) -> None:
        with suppress(IndexError):
            self._idle.pop()
            return
        if len(self._threads) == self._workers:
            return
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=_serve, args=(self._queue, self._idle), name=name)
        thread.daemon = True
        try:
            done_aside(thread.start)
        except RuntimeError:  # those that are there do it all
            if not self._threads:
                self._queue.get_nowait()
                raise
        finally:
            if thread.ident is not None:  # it was started, also where a signal came then
                self._threads.append(thread)

    def _cancel_queued(self) -> None:
        queue, ends = self._queue, 0
        try:
            while True:
                work = queue.get_nowait()
                if work is None:
                    ends += 1
                else:
                    work.cancel()
        except Empty:
            for _ in range(ends):
                queue.put(None)


class _Work(Future[T]):
    """One call and its result, which the main thread may wait for.

    It does nothing with the future's Condition until the call was made: a signal within it would
    leave its lock held, and the thread that makes the call waiting.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__()
        self._to_do = [call]
        self._has_ended = False
        self._bell = Bell()

    def run(self) -> None:
        """Call it, unless it was cancelled."""
        try:
            call = self._to_do.pop()
        except IndexError:
            return
        self.set_running_or_notify_cancel()
        try:
            result = call()
        except BaseException as error:  # for who asks the future
            self.set_exception(error)
        else:
            self.set_result(result)
        self._end()

    def cancel(self) -> bool:
        """See `concurrent.futures.Future.cancel`."""
        try:
            self._to_do.pop()
        except IndexError:
            return self._has_ended and self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()
        self._end()
        return True

    def done(self) -> bool:
        """See `concurrent.futures.Future.done`."""
        return self._has_ended

    def result(self, timeout: float | None = None) -> T:
        """See `concurrent.futures.Future.result`."""
        self._wait(timeout)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`."""
        self._wait(timeout)
        return super().exception()

    def _end(self) -> None:
        self._has_ended = True
        self._bell.ring()

    def _wait(self, timeout: float | None) -> None:
        if not self._bell.wait(self.done, timeout):
            raise TimeoutError


def _serve(queue: SimpleQueue[_Work[Any] | None], idle: deque[None]) -> None:
    """Run what is queued, until there is a None; knows no executor, which may be forgotten."""
    while True:
        try:
            work = queue.get_nowait()
        except Empty:
            idle.append(None)
            work = queue.get()
        if work is None:
            return
        work.run()
        del work  # what it holds must not live on while this waits
