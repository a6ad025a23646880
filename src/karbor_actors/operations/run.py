"""One operation as its parts share it: who it is, what it keeps, how it reports.

The control thread owns the schedule and the supervisor; what is here is safe from the
workers' threads too.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.journal import abort_marks
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import BankLeaseError, FencedError, HookFailedError
from karbor_actors.model import HookName
from karbor_actors.operations.hooks.memory import Memory
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.bank.bank import Bank
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.errors import ResourceKey
    from karbor_actors.model import AbortReason, OperationType
    from karbor_actors.operations.admission.paths import PathsAhead
    from karbor_actors.operations.hooks.artifacts import ArtifactRecord
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.hooks.memory import Changes
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.recovery.recovery import Recovered, Verdict
    from karbor_actors.operations.results import ResourceProgress


_LOG = logging.getLogger("karbor_actors.operations")


@dataclass
class OperationRun:
    """One operation while it runs."""

    id: str
    type: OperationType
    bank: Bank
    """Where the operation's record and journal are."""
    planned: PlannedOperation
    checkpoint: Checkpoint
    """What the hooks get as ``checkpoint``."""
    journal_number: int
    """The operation's number in the journal."""
    caller_context: Any = None
    hook_arguments: Callable[[Attempt], dict[str, Any]] = field(default=lambda _: {})
    """The verb's own keyword arguments for an attempt's hook."""
    engine_main: Callable[[Attempt], None] | None = None
    """What the engine itself does in each resource's main hook, before the plugin."""
    paths: PathsAhead | None = None
    """How long the way ahead of each resource is; None where nothing depends on anything."""
    find_previous: Callable[[ResourceKey], Checkpoint | None] = field(default=lambda _: None)
    recovered: Recovered | None = None
    """What an earlier process had done of it."""
    is_writable: bool = False
    """Whether hooks may write to the checkpoint's sections."""
    clock: Callable[[], float] = time.monotonic
    """The engine's clock, in seconds."""
    on_decided: Callable[[], None] = field(default=lambda: None)
    """Called once it is recorded that everything is undone, or cannot be."""
    verdict: Verdict | None = None
    """What becomes of what an earlier process left."""
    is_cancelled: bool = False
    """Set once, by the supervisor; read by hooks."""
    needed: set[int] | None = None
    """Set once, when the operation is suspended: the hooks that still run."""
    is_over: bool = False
    """Set once, before the end is recorded: nothing is written any more."""

    def __post_init__(self) -> None:
        self.memory = Memory(self.planned.graph)
        self.running: dict[int, Attempt] = {}
        """By resource; written by workers, read by anyone."""
        self.prepared_at: float | None = None
        """When the last prepare hook ended, in seconds since 1970; written by workers."""
        self._to_resume: set[int] | None = None
        self.is_marked = False
        """Whether it was noted beside the bank that all is undone, or that cannot be."""
        if self.recovered is not None:
            self._to_resume = self.recovered.begun_resources()
            self.memory.restore(self.recovered.journal)
            self.prepared_at = self.memory.prepared_at()

    def check(self) -> None:
        """Refuse what a hook's own threads still write when the operation has ended."""
        if self.is_over:
            msg = "the operation has ended; what is written to its sections now is refused"
            raise FencedError(msg)

    def mark_aborted(self, error: BaseException) -> None:
        """Note beside the bank, which could not write for *error*, that all is undone; once.

        Blocks on the disk; a worker.
        """
        if isinstance(error, BankLeaseError):  # a later owner has the bank
            return
        if self.is_marked:
            return
        try:
            abort_marks.add(self.bank.directory, self.id)
        except OSError as failure:
            _LOG.warning("%s: that it is undone is not remembered: %s", self.id, failure)
        self.is_marked = True

    def is_settled(self, reason: AbortReason | None = None) -> bool:
        """Return whether it had ended before, and only undoes what was pending, for that *reason*.

        Then nothing that is asked of it now may undo what is good.
        """
        verdict = self.verdict
        return (
            verdict is not None
            and verdict.is_over
            and (reason is None or reason is not verdict.reason)
        )

    def flush(self, resource: int, changes: Changes, *, waits: bool = True) -> None:
        """Make *changes* durable and visible. Blocks; any worker.

        Args:
            resource: Whose they are.
            changes: What its hook wrote.
            waits: Whether to block until they are durable: no abort waits for the bank.
        """
        record = JournalRecord.of_changes(resource, changes.state, changes.new_resources)
        self._write(record, waits=waits)
        self.memory.apply(resource, changes)

    def save_artifact(self, artifact: ArtifactRecord, *, waits: bool = True) -> None:
        """Make *artifact* as it is now durable; blocks unless it need not wait. Any worker."""
        record = JournalRecord.of_artifact(
            artifact.resource,
            artifact.id,
            artifact.kind,
            artifact.name,
            artifact.status,
            artifact.data,
        )
        self._write(record, waits=waits)

    def left_behind(self, attempt: Attempt) -> HookFailedError | None:
        """Return an error if *attempt* left an artifact, and was of its resource's last hook.

        Or of its ``on_abort``: nobody else would ever know of the thing.
        """
        hook, resource = attempt.hook_number, attempt.resource
        following = range(hook + 1, (resource + 1) * HOOKS_PER_RESOURCE)
        is_last = attempt.hook is HookName.ON_ABORT or not any(
            self.planned.hook_kinds[later] for later in following
        )
        if not is_last:
            return None
        left = self.memory.outstanding(resource)
        if not left:
            return None
        names = ", ".join(f"{artifact.kind} {artifact.name!r}" for artifact in left)
        key = self.planned.graph.nodes[resource].key
        why = f"it left {names} outstanding: release() what is gone, keep() what is for delete"
        return HookFailedError(key, str(attempt.hook), attempt.number, why)

    def progress_of_running(self) -> tuple[ResourceProgress, ...]:
        """Return how far each running hook is."""
        return tuple(attempt.progress() for attempt in list(self.running.values()))

    def to_take_up(self, resource: int) -> Recovered | None:
        """Return what *resource*'s hooks had done before the restart, until it is taken up."""
        is_to_be = self._to_resume is not None and resource in self._to_resume
        return self.recovered if is_to_be else None

    def took_up(self, resource: int) -> None:
        """Note that *resource*'s Operation has taken up again what the process held."""
        if self._to_resume is not None:
            self._to_resume.discard(resource)

    def point_in_time(self) -> datetime | None:
        """Return the moment at which the last prepare hook ended, if one ran."""
        moment = self.prepared_at
        return None if moment is None else datetime.fromtimestamp(moment, UTC)

    def previous(self, resource: int) -> Checkpoint | None:
        """Return the newest available checkpoint that holds *resource*. Blocks."""
        return self.find_previous(self.planned.graph.nodes[resource].key)

    def _write(self, record: JournalRecord, *, waits: bool) -> None:
        if not self.bank.is_writable:
            return
        journal, number, writer = self.bank.journal, self.journal_number, self.bank.writer
        if waits:
            writer.write(lambda transaction: journal.append(transaction, number, record))
        else:  # before the abort's end, which is recorded after it, or not at all
            writer.submit(lambda txn: journal.append(txn, number, record), lambda _, __: None)
