"""Taking up what an earlier process left of its operations."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.journal import abort_marks
from karbor_actors.bank.journal.records import replay
from karbor_actors.errors import (
    BankFullError,
    CheckpointNotFoundError,
    KarborError,
    OperationNotFoundError,
    PluginError,
    ServiceClosedError,
    describe_cause,
)
from karbor_actors.model import OperationStatus, OperationType, Plan
from karbor_actors.operations.outcome import error_data
from karbor_actors.operations.recovery.recovery import DEADLINE, TIMEOUT, Recovered, call_parameters
from karbor_actors.operations.verbs.copy import Copy, copy_target
from karbor_actors.operations.verbs.copy_target import CopyTarget
from karbor_actors.operations.verbs.delete import Delete, is_forced
from karbor_actors.operations.verbs.options import CallOptions
from karbor_actors.operations.verbs.protect import Protect
from karbor_actors.operations.verbs.restore import Restore
from karbor_actors.operations.verbs.verify import Verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from karbor_actors.bank.journal.journal import OperationRecord
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
        self._waiting: dict[str, dict[str, Provider]] = {}
        """By the name of a target that has not been added: the copies into it, and whose they are."""
        self._taking_up = threading.RLock()
        """Held from reading that an operation stands still until it runs: it is taken up once."""

    def recover(self, providers: Iterable[Provider]) -> list[OperationHandle]:
        """Take up what is unfinished in the banks of *providers*, and copies that waited for them.

        The locks are had before this returns, so that new operations come after.
        """
        waiting = {name: dict(copies) for name, copies in list(self._waiting.items())}
        try:
            verbs = [verb for provider in providers for verb in self._read_all(provider)]
            return self._start(verbs)
        except BaseException:  # the host's own too: nothing of it has happened
            self._waiting = waiting
            raise

    def _start(self, verbs: list[Verb], *, is_late: bool = False) -> list[OperationHandle]:
        """Start *verbs*, all or none: each has its locks before the first one runs."""
        handles: list[OperationHandle] = []
        try:
            for verb in verbs:
                if verb.graph is not None:
                    self._engine.reserve(verb.operation_id, verb.locks(verb.graph))
            for verb in verbs:
                handles.append(self._engine.start(verb.operation_id, verb, is_late=is_late))
                _LOG.info("%s %s is taken up again", verb.type, verb.operation_id)
        except BaseException:
            for verb in verbs[len(handles) :]:
                self._engine.release(verb.operation_id)
            for handle in handles:
                handle.suspend()
                handle.wait()
            raise
        return handles

    def _read_all(self, provider: Provider) -> Iterator[Verb]:
        """Yield what goes on with the copies into *provider*'s bank, and with what is unfinished in it."""
        for owner, record in self._copies_into(provider):
            yield from self._read(owner, record)
        if not provider.bank.is_writable:
            return
        try:
            provider.bank.journal.drop_finished()
            provider.bank.journal.trim()
        except BankFullError as error:  # tidied another time: what is open is undone first
            _LOG.warning("the history is not trimmed: %s", error)
        left = list(filter(_is_left, provider.bank.journal.operations()))
        records = _in_order(record for record in left if record.provider == provider.name)
        self._warn_of_others(provider, left)
        undone = _undone_from_memory(provider, [record.id for record in left])
        for record in records:
            yield from self._read(provider, record, abort=True if record.id in undone else None)

    def _copies_into(self, target: Provider) -> list[tuple[Provider, OperationRecord]]:
        """Return the copies that waited for *target*; one that is being undone is for later."""
        running = {handle.id: handle for handle in self._engine.handles()}
        found = []
        for operation_id, owner in self._waiting.pop(target.name, {}).items():
            if operation_id in running:
                later = partial(self._go_on, owner, operation_id)
                running[operation_id].add_done_callback(later)
            elif (record := self._record_of(owner, operation_id)) is not None:
                found.append((owner, record))
        return found

    def _go_on(self, owner: Provider, operation_id: str, _: OperationHandle) -> None:
        """Go on with a copy whose target came while what it held was being undone."""
        record = self._record_of(owner, operation_id)
        if record is not None:
            with suppress(ServiceClosedError):  # the next start does it
                self._start(list(self._read(owner, record)))

    @staticmethod
    def _record_of(owner: Provider, operation_id: str) -> OperationRecord | None:
        """Return the record of an operation that has not ended, or not been undone, as it is now."""
        try:
            record = owner.bank.journal.get(operation_id)
        except OperationNotFoundError:
            return None
        return record if _is_left(record) else None

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
        with self._taking_up:
            for handle in self._engine.handles():
                if handle.id == operation_id:
                    return handle
            return self._take_up(operation_id, abort, only_pending)

    def _take_up(
        self, operation_id: str, abort: bool, only_pending: bool
    ) -> OperationHandle | None:
        for provider in self._providers().values():
            try:
                record = provider.bank.journal.get(operation_id)
            except OperationNotFoundError:
                continue
            is_wanted = record.abort_pending and abort if record.status.is_terminal else True
            if is_wanted and record.provider == provider.name and provider.bank.is_writable:
                stays = only_pending and record.status is OperationStatus.SUSPENDED
                is_told = abort and not stays
                final = is_told and not only_pending
                verbs = self._read(provider, record, abort=is_told, ask=stays, is_final=final)
                return next(iter(self._start(list(verbs), is_late=only_pending)), None)
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
        is_final: bool = False,
    ) -> Iterator[Verb]:
        """Yield the verb that goes on with *record*'s operation, if any can.

        A copy whose target is not there only undoes what it held, and stands still; unless it is
        to end for good.
        """
        try:
            graph = provider.bank.checkpoint(record.checkpoint_id).resource_graph
            verb = self._verb_of(provider, record)
            journal = replay(provider.bank.journal.read(record.number))
        except CheckpointNotFoundError:
            self._end_without_checkpoint(provider, record)
            return
        except KarborError as error:  # damaged: left as it is for whoever mends the bank
            _LOG.error("operation %s cannot be recovered: %s", record.id, describe_cause(error))
            return
        waits = bool(verb.waits_for)
        if waits:
            self._waiting.setdefault(copy_target(record), {})[record.id] = provider
        must_ask = provider.recover == "ask" if ask is None else ask
        verb.recovered = Recovered(
            record,
            journal,
            must_abort=provider.recover == "abort" if abort is None else abort,
            must_ask=must_ask or (waits and not is_final),
            is_final=is_final,
        )
        verb.checkpoint_id, verb.graph = record.checkpoint_id, graph
        yield verb

    def _verb_of(self, provider: Provider, record: OperationRecord) -> Verb:
        """Return the verb as it was called."""
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
            target = CopyTarget(copy_target(record), self._providers)
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


def _is_left(record: OperationRecord) -> bool:
    """Return whether an operation has not ended, or left something to be undone."""
    return not record.status.is_terminal or record.abort_pending > 0


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
