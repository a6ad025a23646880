"""Which hooks run next once the completions that are being written are durable.

Their intents go into the same journal record as the completions that let them through, so that
a chain of hooks takes one commit a hook, not two. Nothing else comes of it: a hook runs when the
schedule says so. A hook that does not run after all has its intent taken back.

Where none runs next, the operation's end does: the last completions are written in its transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.model import OperationType
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.ledger import Ledger

_MANY = 64
"""Completions that share a commit, after which looking ahead costs more than the commit it spares."""


class Foresight:
    """Counts what the schedule will count once it is durable. The control thread only."""

    def __init__(self, control: OperationControl) -> None:
        self._control, self._implemented = control, control.run.planned.hook_kinds
        self.is_on = any(control.run.planned.abort_kinds)
        """Whether there are intents at all."""
        self._absent = self._implemented.count(0)
        self._ended: dict[int, list[int]] = {}
        """By hook whose completion is being written: the hooks that will wait for one less."""
        self._ahead: dict[int, int] = {}
        """By hook: how many of those that it waits for are being written."""
        self._intents: dict[int, None] = {}
        """Hooks that have not begun, and whose intents are written or being written."""

    def ended(self, hook: int) -> list[int]:
        """Note that *hook*'s completion is being written; return whose intents go with it.

        All of them while few are being written, else none.
        """
        if len(self._ended) >= _MANY:
            return []
        missing, ahead = self._control.schedule.missing, self._ahead
        counted = self._ended[hook] = []
        ready = []
        passed = [hook]
        while passed:
            for following in self._control.schedule.downstream(passed.pop()):
                counted.append(following)
                ahead[following] = ahead.get(following, 0) + 1
                if ahead[following] < missing[following]:
                    continue
                if not self._implemented[following]:
                    passed.append(following)
                elif self._runs_at_once(following):
                    self._intents[following] = None
                    ready.append(following)
        return ready

    def settled(self, hook: int) -> None:
        """Note that the schedule has counted *hook*, or never will."""
        for following in self._ended.pop(hook, ()):
            if self._ahead[following] > 1:
                self._ahead[following] -= 1
            else:
                del self._ahead[following]

    def take(self, hook: int) -> bool:
        """Return whether *hook*'s intent is there already, and forget it, since the hook begins."""
        if hook not in self._intents:
            return False
        del self._intents[hook]
        return True

    def leave_out(self, hook: int) -> None:
        """Withdraw *hook*, which has no actor, and the intent that went before it."""
        self._control.schedule.withdraw(hook)
        self._control.undo.hooks_changed([hook // HOOKS_PER_RESOURCE])
        if self.take(hook):
            self._control.record(JournalRecord.of_withdrawn([hook]))

    def only_end_follows(self, ledger: Ledger) -> bool:
        """Return whether *ledger* has but the last completions of a protect, all of them good.

        Then they are written in one transaction with the end: what that prepares, the manifest,
        counts for nothing without it, which is not so with other verbs. Nor where somebody
        listens: what is told to have completed is durable.
        """
        control = self._control
        if not ledger.has_completions_only or control.run.type is not OperationType.PROTECT:
            return False
        schedule = control.schedule
        absent = self._absent - schedule.passed_over
        if schedule.unfinished - absent > len(ledger.completions):
            return False
        is_good = control.reason is None and not control.failures and not control.undo.is_active
        return is_good and control.run.needed is None and not control.events.handle.has_listeners

    def _runs_at_once(self, hook: int) -> bool:
        """Return whether *hook* has an intent to write, and nothing else to wait for."""
        control = self._control
        if hook in self._intents or control.schedule.is_closed or control.run.needed is not None:
            return False
        return control.needs_intent(hook) and control.intake.room(hook) > len(self._intents)
