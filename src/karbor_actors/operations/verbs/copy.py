"""copy: a checkpoint again, in another provider's bank."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.bank.checkpoints.resource_rows import Ending
from karbor_actors.errors import CannotResumeError, CheckpointNotFoundError, PluginError
from karbor_actors.model import CheckpointStatus, OperationStatus, OperationType, ResourceStatus
from karbor_actors.operations.admission.conflicts import checkpoint_lock
from karbor_actors.operations.planning import StalePlan
from karbor_actors.operations.recovery.recovery import Verdict
from karbor_actors.operations.verbs.abandoning import abandoned
from karbor_actors.operations.verbs.checkpoint_verb import CheckpointVerb, left_out, want_whole
from karbor_actors.operations.verbs.copy_target import MissingCopy
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.admission.conflicts import LockRequest
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.outcome import Outcome
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.copy_target import CopyTarget
    from karbor_actors.operations.verbs.options import CallOptions
    from karbor_actors.provider import Provider

_COPY, _TARGET = "copy", "target"
_FINISHED = (CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL)


def makes(record: OperationRecord, copy_id: str) -> bool:
    """Return whether *record* is of the copy that makes the checkpoint *copy_id*."""
    return record.type is OperationType.COPY and record.extra.get(_COPY) == copy_id


def copy_target(record: OperationRecord) -> str:
    """Return the name of the provider that an unfinished copy went to; ``""`` if it does not say."""
    target = record.extra.get(_TARGET)
    return target if isinstance(target, str) else ""


class Copy(CheckpointVerb):
    """Copies each resource's section and blocks; a plugin with a copy operation does its own.

    One that an earlier process left, and whose target has not been added, stands still once what it
    held is undone; :attr:`waits_for` says so.

    Args:
        target: The provider into whose bank the copy goes.
        again: Whether to copy although a finished copy is there.
    """

    type: ClassVar[OperationType] = OperationType.COPY

    def __init__(
        self,
        operation_id: str,
        provider: Provider,
        options: CallOptions,
        checkpoint_id: str,
        target: CopyTarget,
        *,
        again: bool = False,
        allow_partial: bool = False,
    ) -> None:
        super().__init__(operation_id, provider, options, checkpoint_id)
        self._target, self._again, self._allow_partial = target, again, allow_partial
        self._copy_id = str(uuid.uuid4())
        self._copy: Checkpoint | None = None
        self._lacking: dict[int, ResourceStatus] = {}
        self._finished: Checkpoint | None = None
        """What was there already, or an earlier process made; nothing runs."""
        self._is_finished = False
        self._is_blind = False
        """Whether it was planned while its target had not been added."""

    @property
    def waits_for(self) -> str:
        """Return the provider that it waits for, unless it is to end without."""
        is_final = self.is_final or (self.recovered is not None and self.recovered.is_final)
        return "" if is_final or not self._target.is_missing else f"provider {self._target.name!r}"

    def check_status(self, checkpoint: Checkpoint) -> None:
        """Want an available checkpoint, or a partial one where that is allowed."""
        want_whole(checkpoint, "copy", allow_partial=self._allow_partial)

    def locks(self, graph: ResourceGraph) -> LockRequest:
        """Return a share in the checkpoint; for this operation alone, its copies there."""
        if self._target.is_missing:
            return super().locks(graph)
        target = self._target.bank
        made = self._kept().get(_COPY) or self._copy_id
        copies = (_COPY, str(target.directory), self.checkpoint_id or "")
        exclusive = frozenset({copies, checkpoint_lock(target, str(made))})
        return replace(super().locks(graph), exclusive=exclusive)

    def _kept(self) -> dict[str, Any]:
        """Return what an earlier process recorded."""
        return {} if self.recovered is None else self.recovered.record.extra

    def plan(self) -> PlannedOperation:
        """Return what would run: nothing where a finished copy is there."""
        planned = super().plan()
        self._is_blind = self._target.is_missing
        if self._is_blind:
            self._finished = None
        elif (own := self._kept().get(_COPY)) is not None:
            self._take_up_own(planned, str(own))
        elif self.recovered is not None or not self._again:
            self._finished = self._find_finished()
        if self._finished is not None:
            planned.hook_kinds = bytearray(len(planned.hook_kinds))
            planned.abort_kinds = bytearray(len(planned.abort_kinds))
        return planned

    def verdict(self, planned: PlannedOperation) -> Verdict | None:
        """Return what becomes of what an earlier process left: what is finished is not undone."""
        verdict = super().verdict(planned)
        if verdict is None or verdict.is_over:
            return verdict
        is_finished = self._finished is not None or self._may_be_finished(planned)
        return Verdict() if is_finished else verdict

    def _may_be_finished(self, planned: PlannedOperation) -> bool:
        """Return whether an earlier process may have finished the copy, in a bank not seen here."""
        found = self.recovered
        if found is None or not self._is_blind:
            return False
        lost: set[int] = set()
        for decision in found.journal.decisions:
            if decision.resources is None:
                return False
            lost.update(decision.resources)
        if any(planned.abort_kinds[resource] for resource in lost & found.begun_resources()):
            return False
        done = found.journal.completed
        return all(
            hook in done or hook // HOOKS_PER_RESOURCE in lost
            for hook, kind in enumerate(planned.hook_kinds)
            if kind
        )

    def _adjust(self, graph: ResourceGraph, operations: list[Any]) -> None:
        """Copy only what a partial checkpoint holds."""
        self._lacking = self._left_out()
        for number in self._lacking:
            operations[number] = None

    def _find_finished(self) -> Checkpoint | None:
        wanted = self.checkpoint_id
        status = CheckpointStatus.PARTIAL if self._lacking else CheckpointStatus.AVAILABLE
        for checkpoint in self._target.bank.checkpoints(status=status):
            if checkpoint.copied_from == wanted and self._lacks_the_same(checkpoint):
                return checkpoint
        return None

    def _take_up_own(self, planned: PlannedOperation, copy_id: str) -> None:
        """See what an earlier process made: finished, and it could not say so, or given up."""
        try:
            checkpoint = self._target.bank.checkpoint(copy_id)
        except CheckpointNotFoundError:
            return
        if checkpoint.status in _FINISHED:
            self._finished = checkpoint
        elif checkpoint.status is not CheckpointStatus.COPYING:
            planned.why_stale = f"its copy {copy_id} is {checkpoint.status}"

    def _lacks_the_same(self, copy: Checkpoint) -> bool:
        """Return whether *copy* lacks what is lacking here, beside what nobody copied."""
        lacking, left = self._lacking.items(), left_out(copy).items()
        return lacking <= left and all(s is ResourceStatus.SKIPPED for _, s in left - lacking)

    def open(self, planned: PlannedOperation) -> OperationRun:
        """Record the operation and make the copy's checkpoint, ``copying``.

        Raises StalePlan if another copy came to its end since it was planned, or the target came.
        """
        source = self._reread()
        if self._is_blind != self._target.is_missing:
            raise StalePlan
        is_new = self._finished is None and self.recovered is None and not self._again
        if is_new and self._find_finished() is not None:
            raise StalePlan
        self.extra[_TARGET] = self._target.name
        if self._finished is None:
            self.extra[_COPY] = self._kept().get(_COPY) or self._copy_id
        run = self._begin(planned, source)
        if self._finished is None and not self._is_blind:
            made = self._make_copy(source, str(self.extra[_COPY]))
            made.know_graph(planned.graph)
            self._copy = made.view(is_writable=True, guard=run)
        run.engine_main = self._copy_section
        return run

    def _make_copy(self, source: Checkpoint, copy_id: str) -> Checkpoint:
        """Return the copy's checkpoint; it may be there from before a restart."""
        try:
            return self._target.bank.checkpoint(copy_id)
        except CheckpointNotFoundError:
            if self.recovered is not None and self.recovered.journal.completed:
                msg = f"the copy {copy_id} was deleted before it was whole; copy again"
                raise CannotResumeError(msg) from None
            return self._target.bank.create_checkpoint(
                plan=source.plan,
                provider=self._target.name,
                graph=source.resource_graph,
                status=CheckpointStatus.COPYING,
                copied_from=source.id,
                checkpoint_id=copy_id,
            )

    def conclude(self, run: OperationRun, outcome: Outcome) -> None:
        """Make the copy available, partial or error, in its own bank."""
        if self._is_blind:
            self._conclude_blind(outcome)
        if self._copy is None or self._copy.status is not CheckpointStatus.COPYING:
            return
        statuses, empty = dict(self._lacking) | outcome.resources, []
        there, here, kept = run.checkpoint.saved(), self._copy.saved(), run.memory.kept()
        for number in kept:
            here[number] = 1
        skipped = []
        for number, operation in enumerate(run.planned.operations):
            if not there[number] and not here[number]:
                empty.append(number)
            elif operation is None and not here[number] and number not in statuses:
                skipped.append(number)  # what it has is outside of the bank
        if len({*skipped, *empty, *statuses}) == len(there):
            self._fail_empty(run, outcome, skipped)
        statuses.update(dict.fromkeys(skipped, ResourceStatus.SKIPPED))
        status = {
            OperationStatus.SUCCEEDED: CheckpointStatus.AVAILABLE,
            OperationStatus.PARTIAL: CheckpointStatus.PARTIAL,
        }.get(outcome.status, CheckpointStatus.ERROR)
        if status is CheckpointStatus.AVAILABLE:
            status = run.checkpoint.status  # a copy of a partial one is no better
        ending = Ending(
            statuses=statuses,
            empty=empty,
            error_info=outcome.error_info(),
            point_in_time=run.checkpoint.point_in_time if status in _FINISHED else None,
            consistency=run.checkpoint.consistencies(),
            artifacts=kept,
        )
        self._copy.finish(status, ending)
        self._is_finished = status in _FINISHED

    @staticmethod
    def _fail_empty(run: OperationRun, outcome: Outcome, skipped: list[int]) -> None:
        """Make *outcome* a failure: there were things to copy, the *skipped*, and nobody could."""
        if skipped and outcome.status in (OperationStatus.SUCCEEDED, OperationStatus.PARTIAL):
            types = ", ".join({run.planned.graph.nodes[number].type: None for number in skipped})
            why = f"what was saved is outside of the bank, and no plugin copies it: {types}"
            outcome.failures.append(PluginError(f"nothing was copied: {why}"))
            outcome.status = OperationStatus.FAILED

    def _conclude_blind(self, outcome: Outcome) -> None:
        """Give the copy up, in a bank that may not be here: then who has that is to delete it."""
        if outcome.status in (OperationStatus.SUCCEEDED, OperationStatus.PARTIAL):
            outcome.status = OperationStatus.FAILED  # whether it was finished nobody can say
        if self._target.is_missing:
            copy_id, name = self._kept().get(_COPY), self._target.name
            outcome.failures.append(
                CannotResumeError(
                    f"the copy {copy_id} is left as it is in the bank of provider {name!r}, which "
                    "has not been added: delete it there, with force if it is copying"
                )
            )
        self.abandon(outcome)

    @property
    def is_finished(self) -> bool:
        """Whether this process finished the copy."""
        return self._is_finished

    def must_undo(self, outcome: Outcome) -> bool:
        """Return whether hooks are to be undone: not those of a copy that is finished."""
        return not self._is_finished and super().must_undo(outcome)

    def give_up(self, run: OperationRun, outcome: Outcome) -> None:
        """Make the copy an error, so that it can be deleted.

        Where its bank refuses that too, the operation's end is not recorded: the next start ends it.
        """
        if self._copy is not None and self._copy.status is CheckpointStatus.COPYING:
            self._copy.finish(CheckpointStatus.ERROR, Ending(error_info=outcome.error_info()))

    def abandon(self, outcome: Outcome) -> None:
        """Make the copy an error, in its own bank; raises if that is waited for."""
        if self._target.is_missing and not self.waits_for:
            return
        kept = self._kept() or self.extra
        bank, now, end = self._target.bank, CheckpointStatus.COPYING, CheckpointStatus.ERROR
        change = abandoned(bank, str(kept.get(_COPY)), outcome, now=now, end=end)
        if change is not None:
            bank.writer.write(change)

    def result(self, run: OperationRun, outcome: Outcome) -> Checkpoint | None:
        """Return the copy as it is now, for reading; None where its bank was not there."""
        copy = self._copy or self._finished
        if self._is_blind:
            return None
        if copy is None:
            raise AssertionError
        return self._target.bank.checkpoint(copy.id)

    def _copy_section(self, attempt: Attempt) -> None:
        """Copy one resource's section, unless its plugin does."""
        run, number, copy = attempt.run, attempt.resource, self._copy
        if self._is_blind:
            raise AssertionError  # what goes on has its target
        if copy is None or number in self._lacking:
            return
        resource = run.planned.graph.nodes[number]
        if run.planned.operations[number] is None:
            section = run.checkpoint.get_resource_bank_section(resource)
            section.copy_to(copy.get_resource_bank_section(resource))

    def _hook_arguments(self, attempt: Attempt) -> dict[str, Any]:
        copy: Any = self._copy
        if self._is_blind:
            copy = MissingCopy(self._target)
        elif copy is not None:
            copy = copy.view(is_writable=True, guard=attempt)
        return {"checkpoint_copy": copy, "operation_log": self._log}
