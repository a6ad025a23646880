"""ProtectionService: what a program holds to protect, restore, verify, copy and delete."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.arguments import check_instance, checked_choice
from karbor_actors.errors import OperationNotFoundError, ServiceClosedError
from karbor_actors.model import OnFailure, OperationType, Plan
from karbor_actors.operations.engine import ABORT_GRACE, Engine
from karbor_actors.operations.process import check_process
from karbor_actors.operations.recovery.recovering import Recovery
from karbor_actors.operations.verbs.making import VerbMaker
from karbor_actors.operations.verbs.options import CallOptions
from karbor_actors.provider import Provider, ProviderRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.limits import Caps
    from karbor_actors.operations.handle import OperationHandle
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.verbs.checkpoint_verb import CheckpointVerb
    from karbor_actors.operations.verbs.verb import Verb


class ProtectionService:
    """Runs operations on the providers that were added. Safe from any thread.

    It holds no global state, starts threads when there is work, and closes all it was given.

    Args:
        workers: Hook bodies that run at once, in each of three lanes: prepare, main, abort.
        abort_grace: Seconds that a resource's abort waits for its descendants at most.
        caps: How many hooks of a type, name or group run at once, over all operations.
        engine: What runs the operations, for a simulation; closed with the service.
    """

    def __init__(
        self,
        *,
        workers: int = 16,
        abort_grace: float = ABORT_GRACE,
        caps: Caps | None = None,
        engine: Engine | None = None,
    ) -> None:
        check_instance("engine", engine, (Engine, type(None)), "an Engine, or None")
        self._own_engine = engine or Engine(workers, abort_grace=abort_grace, caps=caps)
        self._pid = os.getpid()
        self._registry = ProviderRegistry()
        self._verbs = VerbMaker(self._engine, self._registry)
        self._recovery = Recovery(self._engine, self._registry.all)
        self._recovered: dict[str, OperationHandle] = {}
        # Re-entrant: a recovery_context is called by add_provider, and may use the service.
        self._lock = threading.RLock()
        self._closed = False
        self._ending = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- providers

    def add_provider(self, provider: Provider, *others: Provider) -> None:
        """Make *provider* and *others* known by name; the service closes their banks.

        Operations that an earlier owner of a bank left unfinished are taken up again, or undone;
        :attr:`recovered` lists them. They have their locks when this returns. Add together what
        copies go from and to: a copy whose target is not there undoes what it held, and waits.
        If this raises, it has added none, and their banks stay the caller's; a signal's handler that
        raises leaves it done, or not begun: see :attr:`providers`.

        Raises:
            ValueError: A provider of that name is there already.
            BankLeaseError: Its bank is another service's; BankClosedError: it is closed.
            ServiceClosedError: The service was closed.
        """
        self._engine.aside(lambda: self._add(provider, *others))

    def _add(self, *providers: Provider) -> None:
        with self._lock:
            self._check_open()
            with self._registry.adding(*providers) as added:
                self._recovered |= {one.id: one for one in self._recovery.recover(added)}

    @property
    def recovered(self) -> list[OperationHandle]:
        """The operations that an earlier process left and :meth:`add_provider` took up again."""
        check_process(self._pid)
        return list(self._recovered.values())

    @property
    def providers(self) -> dict[str, Provider]:
        """A copy: the providers by name."""
        check_process(self._pid)
        return self._registry.all()

    def provider(self, name: str) -> Provider:
        """Return the provider of that name.

        Raises:
            ProviderNotFoundError: There is none.
        """
        self._check_open()
        return self._registry.get(name)

    @property
    def abandoned_threads(self) -> int:
        """How many threads run hooks that were given up and have not returned.

        They are bounded: with four times *workers* of them, a lane takes no more hooks.
        """
        return self._engine.runners.abandoned

    # -- verbs

    def protect(
        self,
        plan: Plan,
        *,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Any = None,
        on_failure: str = OnFailure.ABORT,
        timeout: float | None = None,
        deadline: datetime | float | None = None,
    ) -> OperationHandle:
        """Begin to make a checkpoint of *plan*; its result is the Checkpoint.

        Args:
            plan: What to protect.
            parameters: Laid over the plan's, per key.
            context: The caller's own values for the hooks: an object or a mapping.
            on_failure: ``"abort"``: the first failure undoes everything; ``"isolate"``: the
                resources that do not depend on it are finished, and the checkpoint is partial.
            timeout: Seconds that the plan and the hooks may take in all, restarts included.
            deadline: The moment at which the operation is given up: a datetime, or seconds
                since 1970.

        Raises:
            PlanError: *plan* is no Plan.
            ProviderNotFoundError: Its provider was not added.
            ServiceClosedError: The service was closed.
        """
        self._check_open()
        options = CallOptions.of(parameters, context, on_failure, timeout, deadline)
        return self._start(self._verbs.protect(plan, options))

    def restore(
        self,
        checkpoint_id: str,
        *,
        provider: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Any = None,
        on_failure: str = OnFailure.ABORT,
        timeout: float | None = None,
        deadline: datetime | float | None = None,
        allow_partial: bool = False,
    ) -> OperationHandle:
        """Begin to make a checkpoint's resources again; its result is a RestoreResult.

        Args:
            checkpoint_id: The checkpoint's id, or enough of its beginning.
            provider: Where it is; found among all providers if not given.
            parameters: By resource type, or by ``type#id``.
            context: As for :meth:`protect`, and so what follows.
            on_failure: See there.
            timeout: See there.
            deadline: See there.
            allow_partial: Whether a partial checkpoint will do.

        Raises:
            CheckpointNotFoundError: No provider's bank has it.
            AmbiguousCheckpointError: Several checkpoints begin so.
            CheckpointStateError: It is not available.
        """
        self._check_open()
        options = CallOptions.of(parameters, context, on_failure, timeout, deadline)
        verb = self._verbs.restore(checkpoint_id, provider, options, allow_partial=allow_partial)
        return self._start_checked(verb)

    def verify(
        self,
        checkpoint_id: str,
        *,
        provider: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Any = None,
        on_failure: str = OnFailure.ISOLATE,
        timeout: float | None = None,
        deadline: datetime | float | None = None,
    ) -> OperationHandle:
        """Begin to check a checkpoint's records and blocks; its result is a VerifyResult.

        The arguments are those of :meth:`restore`; but a fault in one resource does not keep
        the others from being checked, unless ``on_failure="abort"`` says so.
        """
        self._check_open()
        options = CallOptions.of(parameters, context, on_failure, timeout, deadline)
        return self._start_checked(self._verbs.verify(checkpoint_id, provider, options))

    def copy(
        self,
        checkpoint_id: str,
        *,
        to: str,
        provider: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Any = None,
        on_failure: str = OnFailure.ABORT,
        timeout: float | None = None,
        deadline: datetime | float | None = None,
        again: bool = False,
        allow_partial: bool = False,
    ) -> OperationHandle:
        """Begin to copy a checkpoint into another provider's bank; its result is the copy.

        Args:
            checkpoint_id: As for :meth:`restore`, and so the others.
            to: The provider whose bank gets the copy.
            provider: See :meth:`restore`.
            parameters: See there.
            context: See there.
            on_failure: See there.
            timeout: See there.
            deadline: See there.
            again: Whether to copy although a finished copy is there; else that one is the result.
            allow_partial: See there.
        """
        self._check_open()
        options = CallOptions.of(parameters, context, on_failure, timeout, deadline)
        verb = self._verbs.copy(
            checkpoint_id, provider, options, to=to, again=again, allow_partial=allow_partial
        )
        return self._start_checked(verb)

    def delete(
        self,
        checkpoint_id: str,
        *,
        provider: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Any = None,
        on_failure: str = OnFailure.ABORT,
        timeout: float | None = None,
        deadline: datetime | float | None = None,
        force: bool = False,
    ) -> OperationHandle:
        """Begin to delete a checkpoint, in the bank and outside of it; its result is None.

        The arguments are those of :meth:`restore`; *force* removes the checkpoint although
        delete hooks fail, which then ends as a PartialOperationError that names them, and one that
        is still ``copying`` or ``protecting`` while no operation of any provider added makes it.
        """
        self._check_open()
        options = CallOptions.of(parameters, context, on_failure, timeout, deadline)
        verb = self._verbs.delete(checkpoint_id, provider, options, force=force)
        return self._start_checked(verb)

    def plan_operation(
        self,
        operation_type: str,
        subject: Plan | str,
        *,
        provider: str | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        context: Any = None,
        on_failure: str | None = None,
        to: str = "",
        again: bool = False,
        allow_partial: bool = False,
    ) -> PlannedOperation:
        """Return what a verb would run, in what order, without running it. Blocks.

        Args:
            operation_type: The verb, such as ``"protect"``.
            subject: The Plan for protect; a checkpoint's id for the others.
            provider: As for the verb, and so all others.
            parameters: See there.
            context: See there.
            on_failure: See there.
            to: See :meth:`copy`.
            again: See :meth:`copy`.
            allow_partial: See :meth:`restore`.

        Raises what the handle's ``result()`` would: a GraphError, a ParametersError and so on.
        """
        self._check_open()
        kind = checked_choice("operation_type", operation_type, OperationType)
        if on_failure is None:
            on_failure = OnFailure.ISOLATE if kind is OperationType.VERIFY else OnFailure.ABORT
        options = CallOptions.of(parameters, context, on_failure, None)
        flags = {"again": again, "allow_partial": allow_partial}
        return self._verbs.of_type(kind, subject, provider, options, to, **flags).dry_run()

    # -- operations

    def operations(self) -> list[OperationHandle]:
        """Return the handles of the operations that have not ended, oldest first."""
        return self._engine.handles()

    def operation(self, operation_id: str) -> OperationHandle:
        """Return the handle of an operation that has not ended.

        Raises:
            OperationNotFoundError: There is none; :meth:`operation_history` has those that ended.
        """
        if (handle := self._engine.handle(operation_id)) is None:
            raise OperationNotFoundError(operation_id)
        return handle

    def abort(self, operation_id: str) -> OperationHandle:
        """Cancel an operation that runs, or undo one that is suspended, or what one left pending.

        Raises:
            OperationNotFoundError: It has ended, and nothing of it is pending.
        """
        self._check_open()
        if (handle := self._engine.handle(operation_id)) is not None:
            handle.cancel()
            return handle
        return self._taken_up(operation_id, abort=True)

    def resume(self, operation_id: str) -> OperationHandle:
        """Go on with an operation that is suspended; one that runs is left alone.

        Raises:
            OperationNotFoundError: It has ended, or there is none.
        """
        self._check_open()
        return self._taken_up(operation_id, abort=False)

    def operation_history(self, provider: str, limit: int | None = None) -> list[OperationRecord]:
        """Return the recorded operations of a provider's bank, newest first."""
        return list(self.provider(provider).bank.journal.operations(limit=limit))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most *timeout* seconds until no operation runs; return whether that is so."""
        return self._engine.wait_idle(timeout)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Suspend the running operations, then close everything. Idempotent.

        An operation in which nothing is frozen or open is suspended, and goes on at the next
        start; in another, first what is frozen or open comes to its end. Hooks that run are
        told to leave, and given up after ``abort_grace``. What cannot be resumed is undone. If
        it is interrupted, call it again. To wait for the operations instead, :meth:`wait` first.
        Called on several threads, each call returns when all is closed, and the strictest counts.

        Args:
            drain: False cancels the operations: what they began is undone.
            timeout: Seconds to wait for critical spans to end; then they are undone.

        Raises:
            RuntimeError: Called by a hook, a done callback or an actor, for whose thread it would
                wait; it goes on as if it had not been.
        """
        self._engine.check_may_close()
        with self._lock:
            self._closed = True
        self._engine.bring_to_end(drain=drain, timeout=timeout)
        self._engine.aside(self._end)

    # -- inside

    def _end(self) -> None:
        with self._ending:
            self._engine.close()
            self._registry.close_banks()

    @property
    def _engine(self) -> Engine:
        check_process(self._pid)
        return self._own_engine

    def _check_open(self) -> None:
        check_process(self._pid)
        if self._closed:
            raise ServiceClosedError

    def _start(self, verb: Verb) -> OperationHandle:
        self._check_open()
        return self._engine.start(verb.operation_id, verb, within=self._lock)

    def _taken_up(self, operation_id: str, *, abort: bool) -> OperationHandle:
        handle = self._recovery.take_up(operation_id, abort=abort)
        if handle is None:
            raise OperationNotFoundError(operation_id)
        return handle

    def _start_checked(self, verb: CheckpointVerb) -> OperationHandle:
        return self._start(self._verbs.checked(verb))
