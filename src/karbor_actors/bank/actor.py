"""The bank actor: the only writer of a bank, which commits what it is told in groups."""

from __future__ import annotations

import logging
from collections import deque
from operator import itemgetter
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from pykka import ActorDeadError, Timeout

from karbor_actors.actors.blocking import check_may_block
from karbor_actors.actors.dispatcher import current_dispatcher
from karbor_actors.actors.lending import give_up_owed
from karbor_actors.actors.pooled import PooledActor
from karbor_actors.actors.threads import ThreadDispatcher
from karbor_actors.actors.uninterrupted import is_main_thread
from karbor_actors.errors import BankBrokenError, BankClosedError, BankError, describe_cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.actors.dispatcher import Dispatcher
    from karbor_actors.actors.mailbox import Mailbox
    from karbor_actors.bank.database.environment import Environment, Outcome
    from karbor_actors.bank.writer import Change, OnDone

    _Write = tuple[Change[Any], OnDone[Any]]

T = TypeVar("T")

_LOG = logging.getLogger("karbor_actors.bank")
_GROUP = 1024
"""The most changes in one transaction, so that the first of a flood does not wait for the last."""
_FEW = 256
"""The most changes that are run before who waits for those before them is told: milliseconds."""
_LOOK = 1.0
"""Seconds after which who waits for a write looks again, in case it was not woken."""
_CHANGE: Final = itemgetter(0)
_FAILED: Final = "what waits for a write to the bank failed"


class CommitWhatWaits:
    """Tell the bank actor that changes wait in its writer's queue."""


_COMMIT: Final = CommitWhatWaits()


class BankActor(PooledActor):
    """Commits what waits in its writer's queue, together. Only a `BankWriter` tells it.

    It is told once for all that is submitted until it looks: a message for each change would
    cost more than the change. A thread that waits for a change is lent to it, if it has nothing else
    to do: that spares the changes of thread. It is not in Pykka's registry: an actor of the host that takes all
    registered actors along leaves the bank alone.
    """

    registered = False

    def __init__(self, environment: Environment, writer: BankWriter) -> None:
        super().__init__()
        self._environment = environment
        self._writer = writer
        self._group: Sequence[_Write] = ()
        """What is being committed, and nobody knows the end of."""
        self._ended: tuple[Sequence[_Write], Sequence[Outcome]] | None = None
        """What was committed, and nobody was told of."""
        environment.before_sync = self._before_sync
        self.watcher = self._died

    def on_receive(self, message: Any) -> Any:
        """Commit a group; come again for what does not fit, or came meanwhile."""
        lent = message if type(message) is _Lent else None
        if lent is None and message is not _COMMIT:
            return super().on_receive(message)
        self._writer.is_told = False  # before the queue is read: what comes later tells again
        self._commit(lent)
        self._writer.tell_of_waiting()
        return None

    def _died(self, _: object, error: BaseException) -> None:
        self._tell_ended()
        self._writer.broke(error, self._group)

    def on_stop(self) -> None:
        """Commit what was submitted before the stop."""
        while self._commit(None):
            pass

    def _commit(self, lent: _Lent | None) -> bool:
        """Commit a group of what waits, and *lent*; return whether there was anything."""
        writer = self._writer
        group = self._group = writer.take(_GROUP)
        if lent is not None:
            group.append((lent.change, lent))
        writer.thread = get_ident()
        try:
            if group:
                outcomes = self._environment.commit_group(list(map(_CHANGE, group)))
                if self._ended:  # nothing came as far as to wait for the disk
                    self._tell_ended()
                if lent is not None:  # its thread is awake, and goes on now
                    group.pop()
                    lent(*outcomes.pop())
                self._group, self._ended = (), (group, outcomes) if group else None
            if self._ended and not (0 < writer.waiting <= _FEW and _has_answers(self._ended[0])):
                self._tell_ended()
        finally:
            writer.thread = None
        return bool(group)

    def _before_sync(self) -> None:
        self._tell_ended()
        give_up_owed()  # what they do next is not to wait for the disk

    def _tell_ended(self) -> None:
        """Tell who waits for what is durable.

        If there is more to commit, just before that waits for the disk: what they do next, they
        do then. Told earlier, they would keep the interpreter from this thread, and the disk idle.
        """
        if self._ended is None:
            return
        (group, outcomes), self._ended = self._ended, None
        answers: list[_Answer[Any]] = []
        for (_, on_done), (value, error) in zip(group, outcomes, strict=True):
            if type(on_done) is _Answer:
                on_done.value, on_done.error = value, error
                answers.append(on_done)
                continue
            try:  # as in _finish(), without the call
                on_done(value, error)
            except BaseException:  # the caller's code: logged, since the others must hear too
                _LOG.exception(_FAILED)
        if answers:
            _wake_in_turn(answers)


def _has_answers(group: Sequence[_Write]) -> bool:
    """Return whether threads wait for some of *group*."""
    return any(type(on_done) is _Answer for _, on_done in group)


class BankWriter:
    """The Writer of a bank that is open for writing: a bank actor, which has a thread of its own.

    Any thread may call it. What was submitted before :meth:`close` is committed before that
    returns; if the actor dies, everyone who waits is told.

    Args:
        environment: What the changes are committed to; whoever opened it closes it, later.
        dispatcher: Where the actor runs, for a simulation; None makes one with one thread.
    """

    def __init__(self, environment: Environment, dispatcher: Dispatcher | None = None) -> None:
        self.thread: int | None = None
        """The thread that commits just now; set by the actor."""
        self.is_told = False
        """Whether the actor will look at the queue; never while nothing is taken any more."""
        self._environment = environment
        self._queue: deque[_Write] = deque()
        self._error: BankError | None = None
        self._is_closing = False
        self._own: ThreadDispatcher | None = None
        if dispatcher is None:
            self._own = ThreadDispatcher(name="karbor-bank", lends=True, blocks=True)
        self._dispatcher: Dispatcher = dispatcher or cast("Dispatcher", self._own)
        self._ref = cast("Mailbox[Any]", BankActor.start_on(self._dispatcher, environment, self))

    def write(self, change: Change[T]) -> T:
        """See Writer.

        Raises:
            BankError: Also in a forked child, and when the calling thread could wait for itself:
                it is the one that commits, or it holds a snapshot, which the map's growth would
                wait for.
        """
        check_may_block("a write to the bank")
        if self.thread == get_ident():
            raise BankError("the bank's own thread cannot wait for a write; use submit()")
        self._environment.check_may_wait()
        if not self.is_told and self._own is not None and not is_main_thread():
            # Who would wait anyway commits itself, if nobody does; not the main thread, which
            # signals interrupt: the actor would die of a Ctrl-C.
            lent = _Lent(change)
            if self._ref.handle_here(lent) and lent.is_there:
                if lent.error is not None:
                    raise lent.error
                value: T = lent.value
                return value
        answer: _Answer[T] = _Answer()
        self._queue.append((change, answer))
        if not self.is_told:
            self._dispatcher.uninterrupted(self.tell_of_waiting)
        dispatcher = current_dispatcher() or self._dispatcher
        result: T = dispatcher.await_reply(answer, None)
        return result

    def submit(self, change: Change[T], on_done: OnDone[T], *, can_wait: bool = False) -> None:
        """See Writer."""
        self._queue.append((change, on_done))
        if not (can_wait or self.is_told):
            self.tell_of_waiting()

    @property
    def waiting(self) -> int:
        """How many changes wait to be committed."""
        return len(self._queue)

    def take(self, limit: int) -> list[_Write]:
        """Return what waits, at most *limit*, oldest first; called by the actor."""
        queue = self._queue
        if not queue:
            return []
        return [queue.popleft() for _ in range(min(len(queue), limit))]

    def tell_of_waiting(self) -> None:
        """Tell the actor, unless it knows, that something waits; refuse that if it is dead."""
        if not self._queue or self.is_told:
            return
        if self._error is None:
            self.is_told = True
            try:
                self._ref.tell(_COMMIT)
            except ActorDeadError:
                self._error = self._ended()
        if self._error is not None:  # looked at after the tell: it may have been lost
            self._fail_waiting(self._error)

    def close(self) -> None:
        """Commit what was submitted, then end the actor and its thread. Idempotent.

        Raises:
            BankError: Called on the bank's own thread.
        """
        if self.thread == get_ident():
            raise BankError("the bank's own thread cannot close the bank")
        self._is_closing = True
        self._ref.stop()
        self._error = self._ended()
        self._fail_waiting(self._error)
        if self._own is not None:
            self._own.close()

    def broke(self, error: BaseException, group: Sequence[_Write]) -> None:
        """Tell everyone who waits that the actor died of *error*; called by its dispatcher.

        Args:
            error: What it died of.
            group: What it was committing.
        """
        _LOG.error("the bank's writer died: %s", describe_cause(error), exc_info=error)
        broken = BankBrokenError(
            f"the bank's writer died ({describe_cause(error)}); close the bank and open it again"
        )
        broken.__cause__ = error
        self._error = broken
        for _, on_done in group:
            _finish(on_done, None, broken)
        self._fail_waiting(broken)

    def _ended(self) -> BankError:
        if self._error is not None:  # it broke meanwhile, and why says more
            return self._error
        if self._is_closing:
            return BankClosedError()
        return BankBrokenError("the bank's writer was stopped; close the bank and open it again")

    def _fail_waiting(self, error: BankError) -> None:
        self.is_told = False  # first: who finds it so comes here with what is added later
        while self._queue:
            try:
                _, on_done = self._queue.popleft()
            except IndexError:
                return  # another thread tells them
            _finish(on_done, None, error)


class _Lent:
    """Has the actor commit a change on the thread that asks for it, which needs no lock for that."""

    __slots__ = ("change", "error", "is_there", "value")

    def __init__(self, change: Change[Any]) -> None:
        self.change = change
        self.is_there = False
        self.value: Any
        self.error: BaseException | None

    def __call__(self, value: Any, error: BaseException | None) -> None:
        """Hear of the end."""
        self.value, self.error = value, error
        self.is_there = True


class _Answer(Generic[T]):
    """Where one waits for a write: a lock, held until it is done. A tenth of a future's cost.

    Who waits for writes of one group wake each other in turn: all at once, they would keep the
    interpreter from the thread that has the next group to commit.
    """

    __slots__ = ("_following", "_is_there", "_lock", "error", "value")

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self._is_there = False
        self.value: T | None
        self.error: BaseException | None
        self._following: _Answer[Any] | None = None
        """Whom the waiting thread wakes once it is awake."""

    def __call__(self, value: T | None, error: BaseException | None) -> None:
        """Hear of the end."""
        self.value, self.error = value, error
        self.pass_on(None)
        self.wake()

    def pass_on(self, following: _Answer[Any] | None) -> None:
        """Be done, and have who waits wake *following* then. It is to be woken itself."""
        self._following = following
        self._is_there = True

    def wake(self) -> None:
        """Wake who waits; once."""
        self._lock.release()

    def is_set(self) -> bool:
        """Return whether the write is done."""
        return self._is_there

    def wait_result(self, timeout: float | None) -> Any:
        """Wait for the end, and return the result or raise the error."""
        # Looked at every second: who was to pass a wake-up on may have been interrupted.
        longest = _LOOK if timeout is None else timeout
        while not self._is_there and not self._lock.acquire(timeout=longest):
            if timeout is not None and not self._is_there:
                raise Timeout(f"{timeout} seconds")
        if self._following is not None:
            self._following.wake()
        if self.error is not None:
            raise self.error
        return self.value


def _wake_in_turn(answers: list[_Answer[Any]]) -> None:
    """Wake the first of those who wait for *answers*, who wakes the second, and so on."""
    following = None
    for answer in reversed(answers):
        answer.pass_on(following)
        following = answer
    answers[0].wake()


def _finish(on_done: OnDone[Any], value: Any, error: BaseException | None) -> None:
    """Tell who asked for a write how it ended."""
    try:
        on_done(value, error)
    except BaseException:  # the caller's code: logged, since the others must hear too
        _LOG.exception(_FAILED)


class ReadonlyWriter:
    """The Writer of a bank that was opened for reading: refuses everything."""

    def __init__(self, error: BankError) -> None:
        self._error = error

    def write(self, change: Change[T]) -> T:
        """See Writer; always raises."""
        raise self._error

    def submit(self, change: Change[T], on_done: OnDone[T], *, can_wait: bool = False) -> None:
        """See Writer; *on_done* hears of the error at once."""
        on_done(None, self._error)

    def close(self) -> None:
        """Do nothing."""
