"""What every operation keeps of itself, and what of it goes into its record while it runs."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.journal.journal import WAITS_FOR
from karbor_actors.errors import BankError
from karbor_actors.model import OperationStatus, ResourceStatus
from karbor_actors.operations.admission.conflicts import checkpoint_lock
from karbor_actors.operations.recovery.recovery import RAN, RECOVERIES

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from karbor_actors.bank.bank import Bank
    from karbor_actors.bank.journal.journal import PackedRecord
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.outcome import Outcome
    from karbor_actors.operations.recovery.recovery import Recovered
    from karbor_actors.operations.verbs.options import CallOptions, OperationLog
    from karbor_actors.provider import Provider

_LOG = logging.getLogger("karbor_actors.operations")
_NONE: frozenset[Hashable] = frozenset()
_TRIM_EVERY = 100
"""Operations between two looks at the history for what is too old."""


class RecordedOperation:
    """An operation as its record has it. Its methods run on a worker and may block.

    Args:
        operation_id: The operation's id.
        provider: Whose plugins run, and whose bank keeps the operation's record.
        options: What the caller asked for.
    """

    def __init__(self, operation_id: str, provider: Provider, options: CallOptions) -> None:
        self.operation_id, self.provider, self.options = operation_id, provider, options
        self.checkpoint_id: str | None = None
        self._log: OperationLog | None = None
        self._number = 0
        self._known: PackedRecord | None = None
        """Its record as this process made it; somebody may have changed it since."""
        self._has_end = False
        """Whether its end is recorded."""
        self._concluded: Any = None
        """What the change returned that was recorded with the end; None also where nobody knows."""
        self._is_done_with = False
        """Whether the end is recorded, and nothing pending: nobody needs what is left of it."""
        self.is_cancelled = False
        """Set by the supervisor: a plan that is being made is wanted no more."""
        self.is_final = False
        """Set by the supervisor: it is to end, whatever it waits for."""
        self.looked_up = 0
        """Resources that a plan has looked at: it gets on."""
        self.extra: dict[str, Any] = {}
        """What else the operation's record is to say."""
        self.graph: ResourceGraph | None = None
        """The graph that the journal's numbers are of, once it is known."""
        self.recovered: Recovered | None = None
        """What an earlier process left of the operation, if it began it."""
        self.pending_keys = _NONE
        """The lock keys of what could not be undone, once the operation has ended."""

    @property
    def bank(self) -> Bank:
        """Where the operation's record is."""
        return self.provider.bank

    @property
    def waits_for(self) -> str:
        """What must come before a recovered operation goes on or ends; ``""`` for nothing."""
        return ""

    @property
    def time_left(self) -> float | None:
        """Seconds that the hooks may still take of the timeout."""
        timeout = self.options.timeout
        return None if timeout is None else max(timeout - self._ran_before(), 0.0)

    @property
    def until_deadline(self) -> float | None:
        """Seconds until the moment at which the operation is given up."""
        deadline = self.options.deadline
        return None if deadline is None else max(deadline - time.time(), 0.0)

    def suspend(self, ran: float, outcome: Outcome) -> None:
        """Record that the operation stands still, for a later process to go on.

        Args:
            ran: Seconds that its hooks have run.
            outcome: What of it was to be undone, and is not.
        """
        journal, number = self.bank.journal, self._number
        self.extra |= {RECOVERIES: 0, RAN: self._ran_before() + ran}
        self.extra[WAITS_FOR] = self.waits_for
        now = {"status": outcome.status, "abort_pending": self._leave_pending(outcome)}
        if number:
            self.bank.writer.write(
                lambda transaction: journal.update(transaction, number, **now, extra=self.extra)
            )

    def stand_still(self) -> None:
        """Record of a recovered operation, left as it was found, that it stands still."""
        found, journal = self.recovered, self.bank.journal
        if found is None or found.record.status.is_terminal:
            return
        number = found.record.number
        extra = found.record.extra | {WAITS_FOR: self.waits_for}
        now = {"status": OperationStatus.SUSPENDED, "extra": extra}
        try:
            self.bank.writer.write(lambda transaction: journal.update(transaction, number, **now))
        except BankError as error:  # it is found as it was
            _LOG.warning("that %s stands still is not recorded: %s", self.operation_id, error)

    def note_ran(self, ran: float) -> None:
        """Have it recorded that the hooks have run for *ran* seconds, if that counts; never blocks."""
        if self.options.timeout is None or not self._number:
            return
        self.extra[RAN] = self._ran_before() + ran
        journal, number, extra = self.bank.journal, self._number, dict(self.extra)
        self.bank.writer.submit(
            lambda transaction: journal.update(transaction, number, extra=extra),
            lambda _, __: None,  # said again before long, or at the end
        )

    def _ran_before(self) -> float:
        ran = 0.0 if self.recovered is None else self.recovered.record.extra.get(RAN, 0.0)
        return ran if isinstance(ran, float) else 0.0

    @property
    def must_tidy(self) -> bool:
        """Whether :meth:`tidy` has anything to do."""
        return self._is_done_with or self._number % _TRIM_EVERY == 0

    def tidy(self) -> None:
        """Drop what nobody needs once the operation has ended."""
        if self._is_done_with:
            self.bank.journal.drop(self._number)
        if self._number % _TRIM_EVERY == 0:
            self.bank.journal.trim()

    def leave(self, resources: Iterable[int]) -> None:
        """Note that what was done to *resources* of the graph is not undone."""
        graph, left = self.graph, list(resources)
        if graph is None or not left:
            self.pending_keys = _NONE
            return
        keys = (("resource", graph.nodes[resource].key) for resource in left)
        self.pending_keys = frozenset({checkpoint_lock(self.bank, self.checkpoint_id), *keys})

    def _leave_pending(self, outcome: Outcome) -> int:
        """Do :meth:`leave` for what is ``abort_pending``; return how many resources are."""
        pending = ResourceStatus.ABORT_PENDING
        left = [number for number, status in outcome.resources.items() if status is pending]
        self.leave(left)
        return len(left)

    def leave_unended(self, resources: Iterable[int]) -> None:
        """Do :meth:`leave` for an operation that cannot record its end; never blocks.

        Its record says what is pending, if the bank can say so, and stays for a recovery.
        """
        left = list(resources)
        self.leave(left)
        number = self._number if self.recovered is None else self.recovered.record.number
        if left and number:
            journal = self.bank.journal
            self.bank.writer.submit(
                lambda transaction: journal.update(transaction, number, abort_pending=len(left)),
                lambda _, __: None,
            )
