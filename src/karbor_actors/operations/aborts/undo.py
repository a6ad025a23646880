"""The aborts of one operation: which run, how they ended, and what they are told."""

from __future__ import annotations

from collections import deque
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from karbor_actors.abort_schedule import AbortSchedule
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import BankLeaseError, describe_cause
from karbor_actors.model import HookName
from karbor_actors.operations.aborts.abort import AbortActor
from karbor_actors.operations.admission.intake import ABORT, ABORT_ON_LOOP
from karbor_actors.operations.hooks.artifacts import Artifact
from karbor_actors.operations.hooks.attempt import Attempt, abort_number
from karbor_actors.operations.hooks.calls import ASYNC
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.operations.messages import AbortSucceeded, BodyFailed, RunAbort
from karbor_actors.schedule import (
    BEGUN,
    DONE,
    FAILED,
    HOOKS_PER_RESOURCE,
    hook_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pykka import ActorRef

    from karbor_actors.model import AbortReason
    from karbor_actors.operations.control import OperationControl


_NONE: frozenset[int] = frozenset()


class Undo:
    """Starts abort actors in the order that the abort schedule gives. The control thread only."""

    def __init__(self, control: OperationControl) -> None:
        self._control = control
        self._refs: dict[int, ActorRef[AbortActor]] = {}
        self._reasons: dict[int, AbortReason] = {}
        self._again = _NONE
        self.is_active = False
        """Whether anything has ever been to be undone."""
        self._expected: dict[int, AbortReason] = {}
        """Resources whose abort was decided, and waits for that to be recorded."""
        self._is_for_all = False
        self._only: frozenset[int] | None = None
        """The resources that are this process's to undo; None: all of them."""
        self.aborted: set[int] = set()
        """Resources whose ``on_abort`` ended well."""
        self.failures: dict[int, BaseException] = {}
        """Why other resources are ``abort_pending``."""

    @cached_property
    def _schedule(self) -> AbortSchedule:
        """Which aborts may begin; most operations have none."""
        return AbortSchedule(self._control.schedule)

    @property
    def unfinished(self) -> int:
        """Resources whose abort is still to be had."""
        return self._schedule.unfinished if self.is_active else 0

    def add(self, resources: Iterable[int], reason: AbortReason) -> None:
        """Abort *resources* because of *reason*, as soon as the order allows."""
        listed = list(resources)
        self.is_active = True
        for resource in listed:
            self._expected.pop(resource, None)
            self._reasons.setdefault(resource, reason)
        self._start(self._schedule.add(listed))

    def concerns(self, resource: int) -> bool:
        """Return whether *resource* was ever to be undone, or will be once that is recorded."""
        return resource in self._reasons or resource in self._expected

    def expect(self, resources: Iterable[int], reason: AbortReason) -> None:
        """Note that :meth:`add` will come, once what was decided is recorded."""
        self._expected.update(dict.fromkeys(resources, reason))

    def forget(self, resources: Iterable[int]) -> None:
        """Leave out *resources*, whose aborts an earlier process has had."""
        self.aborted.update(resources)

    def journal_failed(self, error: BaseException) -> None:
        """Leave to a later owner of the bank, if *error* tells of one, what it goes on with.

        What is not held may belong to a checkpoint by now. What is held is thawed all the same: a
        hook that runs here may have frozen it after the later owner had thawed it.
        """
        if isinstance(error, BankLeaseError) and self._only is None:
            self._only = frozenset(self._control.watch.held)

    def begun(self) -> list[int]:
        """Return the resources whose hooks began, and that no abort has had."""
        kinds = self._control.run.planned.abort_kinds
        return [r for r in range(len(kinds)) if kinds[r] and self._needs(r)]

    def add_begun(self, reason: AbortReason) -> None:
        """Abort every resource whose hooks began, now that nothing more starts; once."""
        if not self._is_for_all:
            self._is_for_all = True
            self._control.run.on_decided()
            self.add(self.begun(), reason)
            self.hooks_changed()  # some were to be undone before, when hooks could still start

    def hooks_changed(self, resources: Iterable[int] | None = None) -> None:
        """Look again at resources whose hooks ended or were dropped; or at all, if none starts now."""
        if self.unfinished:
            self._start(self._schedule.hooks_changed(resources))

    def release(self, resources: Iterable[int] | None = None) -> None:
        """Let *resources*, or all, wait no longer for descendants."""
        self._start(self._schedule.release(resources))

    def end_grace(self, resources: Iterable[int] | None = None) -> None:
        """Let *resources*, or all, wait no longer: for descendants, or for a bank that hangs."""
        if resources is None and self._control.reason is not None:
            self.add_begun(self._control.reason)
        for resource in tuple(self._expected if resources is None else resources):
            if (reason := self._expected.get(resource)) is not None:
                self.add([resource], reason)
        self.release(resources)

    def body_ended(self, attempt: Attempt, error: BaseException | None) -> None:
        """Tell the abort's actor that its body ended, or was given up, with *error*."""
        ref = self._refs.get(attempt.resource)
        if error is None and self._control.run.memory.artifacts:
            error = self._control.run.left_behind(attempt)
        if error is None and (changes := attempt.written):
            self._control.run.memory.apply(attempt.resource, changes)  # no abort waits for the bank
            self._control.record(
                JournalRecord.of_changes(attempt.resource, changes.state, changes.new_resources)
            )
        if ref is not None:
            ref.tell(AbortSucceeded() if error is None else BodyFailed(error))

    def dispatch(self, resource: int, number: int) -> None:
        """Have attempt *number* of *resource*'s ``on_abort`` run."""
        is_async = self._control.run.planned.abort_kinds[resource] == ASYNC
        way = ABORT_ON_LOOP if is_async else ABORT
        control, arguments = self._control, self.arguments(resource)
        hook, name = abort_number(resource), HookName.ON_ABORT
        control.run_attempt(
            Attempt(
                control.run, hook, resource, name, number, Lane.ABORT, control.report, arguments
            ),
            way,
        )

    def finish(self, resource: int, error: BaseException | None) -> None:
        """Deal with the end of *resource*'s abort, well or not."""
        control = self._control
        # A body that was given up may still freeze something, or has: then it is undone once more.
        is_last = not control.overtime.late.of(resource) and resource not in self._again
        if not self._ended(resource, error):
            return
        control.watch.released(resource)
        control.record(JournalRecord.of_abort(resource, ok=error is None and is_last))
        detail = {} if error is None else {"error": describe_cause(error)}
        kind = "abort_failed" if error else "aborted"
        control.events.emit(kind, resource, HookName.ON_ABORT, **detail)

    def end_stall(self, error: BaseException) -> None:
        """Leave pending what no abort actor works at any more: a message was lost."""
        for resource, ref in list(self._refs.items()):
            ref.stop(block=False)
            self.finish(resource, error)

    def _ended(self, resource: int, error: BaseException | None) -> bool:
        """Note the end of an abort; False if it had ended before."""
        if self._refs.pop(resource, None) is None:
            return False
        if error is None:
            self.aborted.add(resource)
            self.failures.pop(resource, None)  # of an earlier round
        else:
            self.failures[resource] = error
        if resource in self._again:
            self._again -= {resource}
            self._clear(resource)
            self._start(self._schedule.once_more(resource))
        else:
            self._start(self._schedule.aborted(resource))
        return True

    def again(self, resource: int) -> None:
        """Abort *resource* once more: a body of its that was given up has returned."""
        self._clear(resource)
        if resource in self._refs:
            self._again |= {resource}
        elif resource in self._reasons:
            self._start(self._schedule.add([resource]))

    def _clear(self, resource: int) -> None:
        self.aborted.discard(resource)
        self.failures.pop(resource, None)

    def arguments(self, resource: int) -> dict[str, Any]:
        """Return what ``on_abort`` gets beside the verb's own keyword arguments."""
        hooks, run = self._control.schedule, self._control.run
        first = resource * HOOKS_PER_RESOURCE
        states = {
            hook_name(hook): hooks.state(hook)
            for hook in range(first, first + HOOKS_PER_RESOURCE)
            if run.planned.hook_kinds[hook]
        }
        return {
            "reason": self._reasons[resource],
            "began": frozenset(n for n, state in states.items() if state in (BEGUN, DONE, FAILED)),
            "completed": frozenset(name for name, state in states.items() if state == DONE),
            "artifacts": tuple(
                Artifact(record, partial(run.save_artifact, waits=False))
                for record in run.memory.outstanding(resource)
            ),
        }

    def _needs(self, resource: int) -> bool:
        is_own = self._only is None or resource in self._only
        return (
            self._control.schedule.has_begun(resource) and resource not in self.aborted and is_own
        )

    def _start(self, resources: Iterable[int]) -> None:
        """Start the aborts of *resources*; those that began nothing have had theirs."""
        kinds = self._control.run.planned.abort_kinds
        todo = deque(resources)
        while todo:
            resource = todo.popleft()
            if kinds[resource] and self._needs(resource):
                ref = AbortActor.start_on(self._control.dispatcher, self._control, resource)
                self._refs[resource] = ref
                ref.tell(RunAbort())
            else:
                todo.extend(self._schedule.aborted(resource))
