"""Taking up what an earlier process left of its operations."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from karbor_actors.bank import abort_marks
from karbor_actors.bank.journal_records import replay
from karbor_actors.errors import (
    BankFullError,
    CheckpointNotFoundError,
    KarborError,
    OperationNotFoundError,
    PluginError,
    describe_cause,
)
from karbor_actors.model import OperationStatus, OperationType, Plan
from karbor_actors.operations.outcome import error_data
from karbor_actors.operations.recovery import DEADLINE, TIMEOUT, Recovered, call_parameters
from karbor_actors.operations.verbs.copy import Copy, copy_target
from karbor_actors.operations.verbs.delete import Delete, is_forced
from karbor_actors.operations.verbs.options import CallOptions
from karbor_actors.operations.verbs.protect import Protect
from karbor_actors.operations.verbs.restore import Restore
from karbor_actors.operations.verbs.verify import Verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from karbor_actors.bank.journal import OperationRecord
    from karbor_actors.operations.engine import Engine
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.verbs.verb import Verb
    from karbor_actors.provider import Provider

_LOG = logging.getLogger("karbor_actors.operations")


class Recovery:
    """Starts again what the owners before this one did not end.

    Args:
        engine: Where operations run.
        providers: Returns the providers by name.
    """

    def __init__(self, engine: Engine, providers: Callable[[], dict[str, Provider]]) -> None:
        self._engine, self._providers = engine, providers
        engine.undo_again = self._undo_again
        self._waiting: list[tuple[Provider, OperationRecord]] = []
        """Copies whose target has not been added yet."""

    def recover(self, provider: Provider) -> list[OperationHandle]:
        """Take up what is unfinished in *provider*'s bank, and copies that waited for it.

        The locks are had before this returns, so that new operations come after.
        """
        if not provider.bank.is_writable:
            return []
        try:
            provider.bank.journal.drop_finished()
            provider.bank.journal.trim()
        except BankFullError as error:  # tidied another time: what is open is undone first
            _LOG.warning("the history is not trimmed: %s", error)
        left = [
            record
            for record in provider.bank.journal.operations()
            if not record.status.is_terminal or record.abort_pending
        ]
        records = _in_order(record for record in left if record.provider == provider.name)
        self._warn_of_others(provider, left)
        waiting, self._waiting = self._waiting, []
        undone = _undone_from_memory(provider, [record.id for record in records])
        verbs = [self._read(owner, record) for owner, record in waiting]
        for record in records:
            abort = True if record.id in undone else None
            verbs.append(self._read(provider, record, abort=abort))
        # All are known and have their locks before the first one runs, and takes the time.
        return [self._engine.start(v.operation_id, v) for v in verbs if v is not None]

    def take_up(
        self, operation_id: str, *, abort: bool, only_pending: bool = False
    ) -> OperationHandle | None:
        """Go on with an operation that stands still, or undo it; blocks on the bank.

        Args:
            operation_id: The operation's id.
            abort: Whether to undo it, or what of it is pending if it has ended.
            only_pending: Whether to undo no more of one that is suspended either.

        Returns:
            Its handle; None if no provider's bank knows it, or if it has ended for good.
        """
        for handle in self._engine.handles():
            if handle.id == operation_id:
                return handle
        for provider in self._providers().values():
            try:
                record = provider.bank.journal.get(operation_id)
            except OperationNotFoundError:
                continue
            is_wanted = record.abort_pending and abort if record.status.is_terminal else True
            if is_wanted and record.provider == provider.name and provider.bank.is_writable:
                stays = only_pending and record.status is OperationStatus.SUSPENDED
                verb = self._read(provider, record, abort=abort and not stays, ask=stays)
                return None if verb is None else self._engine.start(operation_id, verb)
        return None

    def _warn_of_others(self, provider: Provider, left: Iterable[OperationRecord]) -> None:
        """Say what stays as it is, frozen maybe, because its provider is called otherwise now."""
        for record in left:
            if record.provider not in self._providers():
                _LOG.warning(
                    "%s %s in %s was left unfinished by the provider %r; add one of that name, "
                    "which takes it up",
                    record.type,
                    record.id,
                    provider.bank.directory,
                    record.provider,
                )

    def _undo_again(self, operation_id: str) -> OperationHandle | None:
        """Undo what is pending of an operation; the rest of a suspended one stands still."""
        return self.take_up(operation_id, abort=True, only_pending=True)

    def _read(
        self,
        provider: Provider,
        record: OperationRecord,
        *,
        abort: bool | None = None,
        ask: bool | None = None,
    ) -> Verb | None:
        """Return the verb that goes on with *record*'s operation, its locks asked for."""
        try:
            graph = provider.bank.checkpoint(record.checkpoint_id).resource_graph
            verb = self._verb_of(provider, record)
            journal = replay(provider.bank.journal.read(record.number))
        except CheckpointNotFoundError:
            self._end_without_checkpoint(provider, record)
            return None
        except KarborError as error:  # damaged: left as it is for whoever mends the bank
            _LOG.error("operation %s cannot be recovered: %s", record.id, describe_cause(error))
            return None
        if verb is None:
            self._waiting.append((provider, record))
            return None
        verb.recovered = Recovered(
            record,
            journal,
            must_abort=provider.recover == "abort" if abort is None else abort,
            must_ask=provider.recover == "ask" if ask is None else ask,
        )
        verb.checkpoint_id, verb.graph = record.checkpoint_id, graph
        self._engine.reserve(record.id, verb.locks(graph))
        _LOG.info("%s %s is taken up again", record.type, record.id)
        return verb

    def _verb_of(self, provider: Provider, record: OperationRecord) -> Verb | None:
        """Return the verb as it was called; None if its target is not there yet."""
        options = CallOptions(
            parameters=call_parameters(record),
            context=_context_of(provider, record),
            on_failure=record.on_failure,
            timeout=_seconds(record.extra.get(TIMEOUT)),
            deadline=_seconds(record.extra.get(DEADLINE)),
        )
        checkpoint_id = record.checkpoint_id
        if record.type is OperationType.PROTECT:
            plan = Plan.from_dict(provider.bank.checkpoint(checkpoint_id).plan)
            return Protect(record.id, provider, options, plan, partial(self._engine.pin, record.id))
        if record.type is OperationType.COPY:
            target = self._providers().get(copy_target(record) or "")
            if target is None:
                return None
            return Copy(record.id, provider, options, checkpoint_id, target, again=True)
        if record.type is OperationType.DELETE:
            return Delete(record.id, provider, options, checkpoint_id, force=is_forced(record))
        verb = Restore if record.type is OperationType.RESTORE else Verify
        return verb(record.id, provider, options, checkpoint_id)

    @staticmethod
    def _end_without_checkpoint(provider: Provider, record: OperationRecord) -> None:
        """End an operation whose checkpoint is gone: a delete had all but finished, or was forced."""
        is_deleted = record.type is OperationType.DELETE
        end: dict[str, Any] = {"abort_pending": 0}
        if not record.status.is_terminal:
            end["status"] = OperationStatus.SUCCEEDED if is_deleted else OperationStatus.FAILED
            end["ended_at"] = record.created_at
        if record.abort_pending or not is_deleted:
            gone = CheckpointNotFoundError(record.checkpoint_id)
            end["error_info"] = [*record.error_info, error_data(gone)]
            _LOG.warning(
                "%s %s: what it began can be undone no more: its checkpoint was deleted by force",
                record.type,
                record.id,
            )
        journal = provider.bank.journal
        provider.bank.writer.write(
            lambda transaction: journal.update(transaction, record.number, **end)
        )


def _in_order(newest_first: Iterable[OperationRecord]) -> list[OperationRecord]:
    """Return the operations in the order in which they get their locks.

    Two that want the same are left only where one stood still while the other ran: suspended,
    with its abort pending, or with an end that the bank could not take. The one that ran last
    may hold what they want, and comes first.
    """
    return sorted(newest_first, key=lambda record: record.status is OperationStatus.SUSPENDED)


def _undone_from_memory(provider: Provider, unfinished: list[str]) -> frozenset[str]:
    """Return the operations of *unfinished* that were undone while the bank could not write."""
    try:
        return abort_marks.prepare(provider.bank.directory, unfinished)
    except OSError as error:
        _LOG.warning("what a full disk undoes will not be remembered: %s", error)
        return frozenset()


class _FailedContext:
    """Stands for the context that the host could not give: only hooks that want it fail."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        raise PluginError(f"no {name!r}: {self._why}")


def _context_of(provider: Provider, record: OperationRecord) -> Any:
    """Return the caller's own values for *record*'s operation, as the host supplies them now."""
    context: Any = provider.recovery_context
    if not callable(context):
        return context
    try:
        return context(record.id)
    except Exception as error:  # the host's code: told to each hook that asks for a value
        why = f"the recovery_context of {provider.name!r} failed: {describe_cause(error)}"
        _LOG.error("%s %s: %s", record.type, record.id, why)
        return _FailedContext(why)


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
