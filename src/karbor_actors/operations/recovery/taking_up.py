"""How a recovered operation goes on: which hooks still run, and what is undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import CannotResumeError
from karbor_actors.operations.outcome import CANCELS
from karbor_actors.schedule import HOOKS_PER_RESOURCE, READY

if TYPE_CHECKING:
    from karbor_actors.bank.journal.records import AbortDecision
    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.recovery.recovery import Recovered, Verdict


def take_up(control: OperationControl, found: Recovered, verdict: Verdict) -> dict[int, int]:
    """Go on where an earlier process stopped, or undo what it began. The control thread only.

    Returns:
        The number of the next attempt of each hook that may have begun before.
    """
    schedule, journal = control.schedule, found.journal
    ready = schedule.resume(journal.completed, journal.attempts)
    control.undo.forget(resource for resource, ok in journal.aborts.items() if ok)
    if verdict.reason is not None:
        if verdict.reason.kind not in CANCELS:
            control.failures.append(CannotResumeError(verdict.reason.describe()))
        _give_up(control, ready)
        control.abort(verdict.reason)
        return {}
    touched = {d: _drop(control, d) for d in (*verdict.decided, *verdict.parts)}
    for decision in verdict.decided:
        control.failures.append(CannotResumeError(decision.reason.describe()))
        lost = {*touched[decision], *(decision.resources or ())}
        control.doom(sorted(lost), decision.reason)
    for decision in verdict.parts:
        control.failures.append(CannotResumeError(decision.reason.describe()))
        resources = list(decision.resources or ())
        record = JournalRecord.of_abort_decision(decision.reason, resources)
        control.doom(resources, decision.reason, record)
    if verdict.is_over:
        _give_up(control, [h for h in ready if schedule.state(h) == READY])
        schedule.close()
        return {}
    control.watch.hold(verdict.held, control.dispatcher.now())
    going_on = [hook for hook in ready if schedule.state(hook) == READY]
    control.admit(going_on)
    return {hook: _next_attempt(control, found, hook) for hook in going_on}


def _give_up(control: OperationControl, ready: list[int]) -> None:
    """Start none of *ready*."""
    for hook in ready:
        control.schedule.withdraw(hook)


def _drop(control: OperationControl, decision: AbortDecision) -> list[int]:
    """Drop what the resources of *decision* have left to run; return the resources that lose a hook.

    They are undone, some of them before the crash: no hook of theirs may run after that.
    """
    touched: list[int] = []
    for resource in decision.resources or ():
        first = resource * HOOKS_PER_RESOURCE
        for hook in range(first, first + HOOKS_PER_RESOURCE):
            touched += control.schedule.drop(hook)
    return touched


def _next_attempt(control: OperationControl, found: Recovered, hook: int) -> int:
    """Return a number that no earlier attempt of *hook* had.

    Without an ``on_abort`` there are no intents that would say how many there were.
    """
    if control.needs_intent(hook):
        return found.journal.attempts.get(hook, 0) + 1
    return found.starts * control.retries.policy(hook).attempts + 1
