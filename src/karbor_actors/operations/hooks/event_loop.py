"""Where ``async def`` hooks run: one event loop, and another when a hook blocks that one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from karbor_actors.actors.blocking import forbid_blocking
from karbor_actors.actors.waiting import Bell
from karbor_actors.errors import DispatcherClosedError, describe_cause
from karbor_actors.operations.hooks.off_loop import OffLoop
from karbor_actors.operations.hooks.pool import Pool
from karbor_actors.operations.hooks.worker import report_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from karbor_actors.operations.hooks.worker import Call

_LOG = logging.getLogger("karbor_actors.operations")
STUCK = 10.0
"""Seconds without an answer after which a loop counts as blocked."""
URGENT = 1.0
"""The same, where what thaws waits for it, or a call of its was given up."""
LAST = 5.0
"""Seconds that generators which hooks have left open get to close, when the loop ends."""
_MADE_AT_ONCE = 256
"""Tasks that are made before those begin: what the first of thousands waits for passes meanwhile."""
MAX_RETIRED = 16
"""Loops that were blocked and live on, at most; then new calls wait for one, but not for long."""


def _died_of(task: asyncio.Task[None]) -> BaseException:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    return RuntimeError("it has not said that it ended") if error is None else error


class _Loop:
    """An event loop on a thread of its own; it ends once it is told to, and its tasks have."""

    def __init__(
        self,
        name: str,
        off_loop: OffLoop,
        begin: Callable[[_Loop, Call], bool],
        forget: Callable[[Call], None],
    ) -> None:
        self.waiting: dict[Call, bool] = {}
        """Calls that have not begun, in order, and whether they are urgent."""
        self._new: deque[Call] = deque()
        self.begun: dict[Call, None] = {}
        """Calls that run as tasks, and have not ended."""
        self._off_loop, self._begin = off_loop, begin
        self.asked_at: float | None = None
        """Since when it has owed an answer."""
        self.has_given_up = False
        """Whether a call of its was given up, which may keep its thread for ever."""
        self._forget = forget
        self._tasks: dict[Call, asyncio.Task[None]] = {}
        self._calls: dict[asyncio.Task[None], Call] = {}
        # Made once: thousands of tasks wait at once, and the collector looks at all that each holds.
        self._when_done, self._context = self._done, contextvars.Context()
        self._is_ending = self._has_ended = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(off_loop)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def add(self, calls: Mapping[Call, bool]) -> None:
        """Have tasks made for *calls*, which are urgent or not. Any thread, and so the others."""
        self.waiting.update(calls)
        self._new.extend(calls)
        self._loop.call_soon_threadsafe(self._start)

    def ask(self, now: float) -> None:
        """Have it answer, at *now* in seconds."""
        self.asked_at = now
        self._loop.call_soon_threadsafe(self._answer)

    def cancel(self, call: Call) -> None:
        """Cancel *call*, if it has it."""
        with contextlib.suppress(RuntimeError):  # it has ended, and with it all that it had
            self._loop.call_soon_threadsafe(self._cancel, call)

    def end(self) -> None:
        """End it after its tasks."""
        self._loop.call_soon_threadsafe(self._finish)

    def may_begin(self, call: Call) -> bool:
        """See Host."""
        return self._begin(self, call)

    def has_left(self, call: Call) -> None:
        """See Host: not only once its task is done, after which another one may block the loop."""
        if call in self.begun:
            self._off_loop.leave(call)
            self._forget(call)
            del self.begun[call]

    def outlives(self, call: Call, end: Callable[[], object]) -> bool:
        """See Host."""

        def ended() -> None:
            try:
                end()
            finally:
                self._forget(call)

        if not self._off_loop.outlives(call, ended):
            return False
        self.begun.pop(call, None)  # its task has nothing more to say
        return True

    def _start(self) -> None:
        for _ in range(min(len(self._new), _MADE_AT_ONCE)):
            call = self._new.popleft()
            running = call.execute_async(self)
            try:
                self._tasks[call] = task = self._loop.create_task(running)
            except BaseException as error:  # of a factory that a hook has set; or no memory is left
                self._ended(call, error)
                running.close()
                continue
            self._calls[task] = call
            task.add_done_callback(self._when_done, context=self._context)
        if self._new:
            self._loop.call_soon(self._start, context=self._context)

    def _done(self, task: asyncio.Task[None]) -> None:
        call = self._calls.pop(task)
        del self._tasks[call]
        if call in self.waiting or call in self.begun:
            self._ended(call, _died_of(task))
        if self._is_ending:
            self._finish()

    def _ended(self, call: Call, error: BaseException) -> None:
        """Have *call* report, if it has not, that what was to run it died of *error*."""
        if call in self.waiting and self._begin(self, call):  # a hook cancels all tasks there are
            call.refuse(f"its task ended before it began: {describe_cause(error)}")
        elif call in self.begun:  # a bug: it reports by itself what it meets
            lost = partial(report_lost, call, error)
            if self.outlives(call, lost):
                return
            lost()
        self.has_left(call)

    def _answer(self) -> None:
        self.asked_at = None

    def _cancel(self, call: Call) -> None:
        task = self._tasks.get(call)
        if task is not None:
            task.cancel()

    def _run(self) -> None:
        forbid_blocking()
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            while not self._has_ended:  # whatever a hook does to the loop: others run on it, too
                try:
                    loop.run_forever()
                except BaseException as error:  # of a callback, or set in this thread
                    report_lost(None, error)
            with contextlib.suppress(TimeoutError):
                loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), LAST))
        finally:
            loop.close()

    def _finish(self) -> None:
        self._is_ending = True
        self._new.clear()  # given up, or to begin on another
        if not self._tasks:
            self._has_ended = True
            self._loop.stop()


class LoopRunner:
    """Runs calls as tasks of one event loop on one thread, thousands at once. Any thread.

    A loop that does not answer is blocked by a hook that does not await: what has not begun on
    it goes to a new one, and what has begun stays.

    Args:
        name: What the names of its threads begin with.
        workers: Places of each kind for what hooks run off the loop, at least.
        pool: Whose threads those are.
        call_later: Has a function called, so many seconds later; without it nothing is urgent.
    """

    def __init__(
        self,
        name: str,
        workers: int = 1,
        pool: Pool | None = None,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._name, self._call_later = name, call_later
        self._off_loop = OffLoop(workers, name, pool or Pool())
        self._lock = threading.Lock()
        self._is_idle = Bell()
        self._current: _Loop | None = None
        self._retired: list[_Loop] = []
        self._wanted: set[Call] = set()
        """Calls that have not ended, and that nobody has given up."""
        self._is_pressed = False
        """Whether it is looked soon whether the loop answers."""

    @property
    def abandoned(self) -> int:
        """How many threads run loops that were blocked, or what given-up hooks began off a loop."""
        return sum(loop.thread.is_alive() for loop in self._retired) + self._off_loop.abandoned

    def runs_caller(self) -> bool:
        """Return whether a task of its is what calls this."""
        own = threading.current_thread()
        loops = (self._current, *self._retired)  # no lock: a signal's handler may ask as it is held
        is_loop = any(loop is not None and loop.thread is own for loop in loops)
        return is_loop or self._off_loop.runs_caller()

    def submit(self, calls: Sequence[Call], *, is_urgent: bool = False) -> None:
        """Start *calls* as tasks, in order; urgent ones wait for no loop that is blocked."""
        with self._lock:
            if self._current is None:
                self._current = _Loop(self._name, self._off_loop, self._begin, self._forget)
            self._wanted.update(calls)
            self._current.add(dict.fromkeys(calls, is_urgent))
            if is_urgent:
                self._press(self._current)

    def abandon(self, call: Call) -> None:
        """Give up *call*: its task is cancelled, and nobody waits for it."""
        with self._lock:
            if call not in self._wanted:
                return
            self._discard(call)
            for loop in (self._current, *self._retired):
                if loop is None or not loop.thread.is_alive():
                    continue
                if call in loop.waiting:
                    del loop.waiting[call]
                else:
                    loop.has_given_up = True
                    loop.cancel(call)
            if self._current is not None:
                self._press(self._current)
        self._off_loop.abandon(call)

    def look_around(self) -> None:
        """See whether the loop answers; replace one that has not for a while. Never blocks.

        And whether what hangs off the loop keeps a thaw waiting.
        """
        self._off_loop.look_around(time.monotonic())
        self._look(STUCK)
        with self._lock:
            loop = self._current
            if loop is not None and loop.asked_at is None:
                loop.ask(time.monotonic())

    def close(self) -> None:
        """Wait for the tasks, but not for those given up; then end the loop and its thread."""
        self._is_idle.wait(lambda: not self._wanted)
        with self._lock:
            loop, self._current = self._current, None
        if loop is not None:
            loop.end()
            if not loop.has_given_up:
                loop.thread.join(2 * LAST)  # what a generator does as it is closed may block
        self._off_loop.close()

    def _press(self, loop: _Loop) -> None:
        """See to it that *loop* is replaced soon if it does not answer. Held: the lock."""
        if self._call_later is None:
            return
        if loop.asked_at is None:
            loop.ask(time.monotonic())
        if not self._is_pressed:
            with contextlib.suppress(DispatcherClosedError):
                self._call_later(URGENT, self._look_urgently)
                self._is_pressed = True

    def _look_urgently(self) -> None:
        self._look(URGENT)
        with self._lock:
            self._is_pressed = False
            loop = self._current
            if loop is None:
                return
            asked_at = loop.asked_at
            # Long ago: there is no other one, and it is not looked at for ever.
            is_new = asked_at is not None and time.monotonic() - asked_at < URGENT
            if is_new or any(loop.waiting.values()):
                self._press(loop)

    def _look(self, most: float) -> None:
        """Replace the loop if it has owed an answer for *most* seconds."""
        with self._lock:
            self._retired = [loop for loop in self._retired if loop.thread.is_alive()]
            if (loop := self._current) is None or (asked_at := loop.asked_at) is None:
                return  # read once: it answers meanwhile
            if (owed := time.monotonic() - asked_at) < most:
                return
            other = self._another()
            if other is None and (owed < STUCK or not loop.waiting):
                return  # it may answer yet; or it was said, and refused, before
            where, refused = _place_of(loop.thread), self._replace(loop, other)
        what = "runs on another" if other is not None else "is refused"
        _LOG.warning("a hook blocks the event loop %s; what has not begun %s", where, what)
        for call in refused:
            call.refuse("event loops are blocked by hooks that do not await, and there is no other")

    def _another(self) -> _Loop | None:
        """Return another loop, unless there are too many, or the system has no thread for it."""
        if len(self._retired) >= MAX_RETIRED:
            return None
        try:
            return _Loop(self._name, self._off_loop, self._begin, self._forget)
        except (OSError, RuntimeError):  # no descriptors, say
            return None

    def _replace(self, loop: _Loop, other: _Loop | None) -> list[Call]:
        """Have *other* begin what waits at *loop*; return what is refused, if there is none."""
        waiting = dict(loop.waiting)
        loop.waiting.clear()
        if other is None:
            for call in waiting:
                self._discard(call)
            return list(waiting)
        loop.has_given_up = True
        loop.end()
        self._retired.append(loop)
        self._current = other
        other.add(waiting)
        return []

    def _begin(self, loop: _Loop, call: Call) -> bool:
        """Return whether *call* begins on *loop*: it may have been given up, or to another one."""
        with self._lock:
            if call not in loop.waiting:
                return False
            del loop.waiting[call]
            loop.begun[call] = None
            return True

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._discard(call)

    def _discard(self, call: Call) -> None:
        self._wanted.discard(call)
        if not self._wanted:
            self._is_idle.ring()


def _place_of(thread: threading.Thread) -> str:
    """Return what *thread* runs just now, for the log."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - there is no other way
    if frame is None:
        return "that has ended"
    return f"in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
