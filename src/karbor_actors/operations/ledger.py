"""What one operation is about to write to its journal: what turns gather until the bank takes it."""

from __future__ import annotations

import os
import threading
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.database.records import pack_plain
from karbor_actors.bank.journal.records import JournalRecord, NewResource, StateChange
from karbor_actors.model import OperationType
from karbor_actors.operations.hooks.memory import PREPARED_KEY
from karbor_actors.operations.messages import JournalWritten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.operations.admission.intake import Intake
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.hooks.worker import Host
    from karbor_actors.operations.outbox import Outbox
    from karbor_actors.operations.run import OperationRun

    _Report = tuple[tuple[int, ...], tuple[Attempt, ...], tuple[Callable[[], None], ...]]
    """Intents, completions, and what waits for them."""
    _Gathered = tuple[JournalRecord, _Report]


class _Mark:
    """Notes that an operation is undone, whose bank could not write, as a call for a worker.

    Args:
        run: The operation.
        error: Why the bank could not write.
        report: Called once that is noted, or cannot be.
    """

    has_ended = False

    def __init__(self, run: OperationRun, error: BaseException, report: Callable[[], None]) -> None:
        self._run, self._error, self._report = run, error, report

    def execute(self) -> None:
        """Note it; blocks on the disk."""
        try:
            self._run.mark_aborted(self._error)
        finally:
            self._report()

    async def execute_async(self, host: Host) -> None:
        """It is never asynchronous."""
        raise NotImplementedError

    def refuse(self, why: str) -> None:
        """Go on without."""
        self._report()


_joining = threading.Lock()
"""Held while a turn joins what it gathered to a record, or the bank takes that: of all operations,
since it is short, and one for each would be one more object."""
os.register_at_fork(  # a child that begins anew must not find it held for ever
    before=_joining.acquire, after_in_parent=_joining.release, after_in_child=_joining.release
)


class _Writing:
    """A journal record on its way to the bank. Until that takes it, turns add to it.

    While one commit waits for the disk, several turns may end: they are one record of the next,
    which costs as much as one of a single turn.

    Args:
        run: The operation.
        gathered: The first turn's.
        report: Takes what it said, durable or not, as one report.
    """

    __slots__ = ("_gathered", "_is_taken", "_report", "_run")

    def __init__(
        self, run: OperationRun, gathered: _Gathered, report: Callable[[JournalWritten], None]
    ) -> None:
        self._run, self._gathered, self._report = run, [gathered], report
        self._is_taken = False

    def add(self, gathered: _Gathered) -> bool:
        """Have it say *gathered* too; False if the bank has it already. The control thread."""
        with _joining:
            if not self._is_taken:
                self._gathered.append(gathered)
            return not self._is_taken

    def __call__(self, transaction: Transaction) -> None:
        """Append it to the journal; a change, which may run again."""
        self._take()
        record = JournalRecord.joined([record for record, _ in self._gathered])
        self._run.bank.journal.append(transaction, self._run.journal_number, record)

    def ended(self, _: None, error: BaseException | None) -> None:
        """Hear whether it is durable."""
        self._take()
        reports = [report for _, report in self._gathered]
        intents, completions, then = map(_in_a_row, zip(*reports, strict=True))
        self._report(JournalWritten(intents, completions, then, error))

    def _take(self) -> None:
        with _joining:
            self._is_taken = True


class Ledger:
    """Gathers intents, completions and other records; the control thread only.

    Args:
        run: The operation.
        outbox: Takes a :class:`JournalWritten` for each record, durable or not.
        intake: Has a worker run a call.
    """

    def __init__(
        self,
        run: OperationRun,
        outbox: Outbox[Attempt | JournalWritten],
        intake: Intake,
    ) -> None:
        self._run, self._outbox, self._intake = run, outbox, intake
        # Most are empty at any time: made when there is something, for the collector's sake.
        self._intents: list[int] | None = None
        self.completions: list[Attempt] = []
        """Those of hooks that completed; added to from outside."""
        self._records: list[JournalRecord] | None = None
        self._then: list[Callable[[], None]] | None = None
        self._writing = 0
        self._open: _Writing | None = None
        """The last one, which the bank may not have taken yet."""
        self._prepared_at = run.prepared_at

    @property
    def has_completions_only(self) -> bool:
        """Whether completions were gathered, and nothing else."""
        return bool(self.completions) and not (self._intents or self._records)

    @property
    def is_clear(self) -> bool:
        """Whether everything gathered was written, well or not."""
        return not (self._writing or self._intents or self.completions or self._records)

    def add_intents(self, hooks: Iterable[int]) -> None:
        """Gather the intents of *hooks*."""
        self._intents = self._intents or []
        self._intents.extend(hooks)

    def add_record(self, record: JournalRecord, then: Callable[[], None] | None = None) -> None:
        """Gather something else; *then* is called once it is written, well or not."""
        self._records = self._records or []
        self._records.append(record)
        if then is not None:
            self._then = self._then or []
            self._then.append(then)

    def flush(self, *, is_last: bool = False) -> None:
        """Hand what was gathered to the bank's writer, or add it to what that has not taken yet.

        With *is_last* it counts as written at once: all that follows is the operation's end, which
        says more, and is written in the same transaction, or not at all.
        """
        if not (self._intents or self.completions or self._records):
            return
        intents, completions = tuple(self._intents or ()), tuple(self.completions)
        record, is_of_hooks = self._record_of_hooks(intents, completions), not self._records
        if self._records:
            record = JournalRecord.joined([record, *self._records])
        gathered = record, (intents, completions, tuple(self._then or ()))
        self._intents, self.completions, self._records, self._then = None, [], None, None
        # What says more than how hooks went stays behind what workers have written meanwhile.
        if is_of_hooks and not is_last and self._open is not None and self._open.add(gathered):
            return
        self._writing += 1
        writing = self._open = _Writing(self._run, gathered, self._outbox.put)
        if self._run.bank.is_writable:  # else a restore from somebody else's bank: not recorded
            heard = _not_told if is_last else writing.ended
            self._run.bank.writer.submit(writing, heard, can_wait=is_last)
        if is_last or not self._run.bank.is_writable:
            writing.ended(None, None)

    def _record_of_hooks(
        self, intents: tuple[int, ...], completions: tuple[Attempt, ...]
    ) -> JournalRecord:
        """Return what is to be written of hooks, and when the last prepare hook ended."""
        state: list[StateChange] = []
        new_resources: list[NewResource] = []
        for attempt in completions:
            if changes := attempt.written:
                resource = attempt.resource
                state += [StateChange(resource, *item) for item in changes.state.items()]
                new_resources += [
                    NewResource(*key, value) for key, value in changes.new_resources.items()
                ]
        if (moment := self._run.prepared_at) != self._prepared_at:
            self._prepared_at = moment
            if self._run.type is OperationType.PROTECT:
                state.append(StateChange(0, PREPARED_KEY, pack_plain(moment, "a moment")))
        hooks = [attempt.hook_number for attempt in completions]
        return JournalRecord(intents, hooks, state, new_resources)

    def written(self, report: JournalWritten) -> None:
        """Note that one record's fate is known, and go on with what waited for it.

        Where it failed, that everything is undone is noted beside the bank first.
        """
        if report.error is not None and not self._run.is_marked:
            again = JournalWritten((), (), report.then, None)
            self._intake.run_apart(_Mark(self._run, report.error, partial(self._outbox.put, again)))
            return
        self._writing -= 1
        for then in report.then:
            then()


def _in_a_row(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(parts))


def _not_told(_: Any, __: BaseException | None) -> None:
    """Hear of a record that nobody waits for."""
