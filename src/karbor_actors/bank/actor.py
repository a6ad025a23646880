"""The bank actor: the only writer of a bank, which commits what it is told in groups."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from pykka import ActorDeadError

from karbor_actors.actors.blocking import check_may_block
from karbor_actors.actors.mailbox import PooledFuture
from karbor_actors.actors.pooled import PooledActor
from karbor_actors.actors.threads import ThreadDispatcher
from karbor_actors.errors import BankBrokenError, BankClosedError, BankError, describe_cause

if TYPE_CHECKING:
    from karbor_actors.actors.dispatcher import Dispatcher
    from karbor_actors.bank.environment import Environment
    from karbor_actors.bank.writer import Change, OnDone

T = TypeVar("T")

_LOG = logging.getLogger("karbor_actors.bank")
_GROUP = 1024
"""The most changes in one transaction, so that the first of a flood does not wait for the last."""


class Write:
    """Ask the bank actor to commit *change*, then call *on_done*."""

    __slots__ = ("change", "on_done")

    def __init__(self, change: Change[Any], on_done: OnDone[Any]) -> None:
        self.change, self.on_done = change, on_done


class BankActor(PooledActor):
    """Commits the changes of its `Write` messages: all that wait in its mailbox together.

    Only a `BankWriter` tells it. It is not in Pykka's registry: an actor of the host that
    takes all registered actors along leaves the bank alone.
    """

    registered = False

    def __init__(self, environment: Environment, writer: BankWriter) -> None:
        super().__init__()
        self._environment = environment
        self._writer = writer
        self._group: list[Write] = []
        self.watcher = lambda _, error: writer.broke(error)

    def on_receive(self, message: Any) -> None:
        """Collect *message*; commit once nothing more waits."""
        self._group.append(message)
        if len(self._group) >= _GROUP or self.actor_inbox.empty():
            self._commit()

    def on_stop(self) -> None:
        """Commit what was collected before the stop."""
        self._commit()

    def _commit(self) -> None:
        group, self._group = self._group, []
        if not group:
            return
        self._writer.thread = threading.get_ident()
        try:
            outcomes = self._environment.commit_group([write.change for write in group])
            for write, outcome in zip(group, outcomes, strict=True):
                self._writer.finish(write, outcome.value, outcome.error)
        finally:
            self._writer.thread = None


class BankWriter:
    """The Writer of a bank that is open for writing: a bank actor on a thread of its own.

    Any thread may call it. What was submitted before :meth:`close` is committed before that
    returns; if the actor dies, everyone who waits is told.

    Args:
        environment: What the changes are committed to; whoever opened it closes it, later.
        dispatcher: Where the actor runs, for a simulation; None makes one with one thread.
    """

    def __init__(self, environment: Environment, dispatcher: Dispatcher | None = None) -> None:
        self.thread: int | None = None
        """The thread that commits just now; set by the actor."""
        self._environment = environment
        self._waiting: dict[Write, None] = {}
        self._error: BankError | None = None
        self._is_closing = False
        self._own = ThreadDispatcher(name="karbor-bank") if dispatcher is None else None
        self._dispatcher = dispatcher or self._own
        assert self._dispatcher is not None
        self._ref = BankActor.start_on(self._dispatcher, environment, self)

    def write(self, change: Change[T]) -> T:
        """See Writer.

        Raises:
            BankError: Also when the calling thread could wait for itself: it is the one that
                commits, or it holds a snapshot, which the map's growth would wait for.
        """
        check_may_block("a write to the bank")
        if self.thread == threading.get_ident():
            raise BankError("the bank's own thread cannot wait for a write; use submit()")
        if self._environment.is_reading:
            raise BankError("close the snapshot before writing to the bank")
        future: PooledFuture[T] = PooledFuture()
        future.dispatcher = self._dispatcher

        def done(value: T | None, error: BaseException | None) -> None:
            if error is None:
                future.set(value)
            else:
                future.set_exception((type(error), error, error.__traceback__))

        self.submit(change, done)
        result: T = future.get()
        return result

    def submit(self, change: Change[T], on_done: OnDone[T]) -> None:
        """See Writer."""
        write = Write(change, on_done)
        self._waiting[write] = None
        if self._error is None:
            try:
                self._ref.tell(write)
            except ActorDeadError:
                self._error = self._ended()
        if self._error is not None:  # looked at after the tell: it may have been lost
            self.finish(write, None, self._error)

    def close(self) -> None:
        """Commit what was submitted, then end the actor and its thread. Idempotent.

        Raises:
            BankError: Called on the bank's own thread.
        """
        if self.thread == threading.get_ident():
            raise BankError("the bank's own thread cannot close the bank")
        self._is_closing = True
        self._ref.stop()
        self._error = self._ended()
        self._fail_waiting(self._error)
        if self._own is not None:
            self._own.close()

    def broke(self, error: BaseException) -> None:
        """Tell everyone who waits that the actor died of *error*; called by its dispatcher."""
        _LOG.error("the bank's writer died: %s", describe_cause(error), exc_info=error)
        broken = BankBrokenError(
            f"the bank's writer died ({describe_cause(error)}); close the bank and open it again"
        )
        broken.__cause__ = error
        self._error = broken
        self._fail_waiting(broken)

    def finish(self, write: Write, value: Any, error: BaseException | None) -> None:
        """Tell who asked for *write* how it ended; only the first call for it counts."""
        try:
            del self._waiting[write]
        except KeyError:
            return
        try:
            write.on_done(value, error)
        except BaseException:  # the caller's code: logged, since the others must hear too
            _LOG.exception("what waits for a write to the bank failed")

    def _ended(self) -> BankError:
        if self._error is not None:  # it broke meanwhile, and why says more
            return self._error
        if self._is_closing:
            return BankClosedError()
        return BankBrokenError("the bank's writer was stopped; close the bank and open it again")

    def _fail_waiting(self, error: BankError) -> None:
        for write in list(self._waiting):
            self.finish(write, None, error)


class ReadonlyWriter:
    """The Writer of a bank that was opened for reading: refuses everything."""

    def __init__(self, error: BankError) -> None:
        self._error = error

    def write(self, change: Change[T]) -> T:
        """See Writer; always raises."""
        raise self._error

    def submit(self, change: Change[T], on_done: OnDone[T]) -> None:
        """See Writer; *on_done* hears of the error at once."""
        on_done(None, self._error)

    def close(self) -> None:
        """Do nothing."""
