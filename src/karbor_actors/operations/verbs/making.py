"""From what a caller gives to the verb that an operation runs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from karbor_actors.arguments import argument_error, check_flags
from karbor_actors.errors import Fault, PlanError, describe_value
from karbor_actors.model import OperationType, Plan
from karbor_actors.operations.verbs.copy import Copy
from karbor_actors.operations.verbs.copy_target import CopyTarget
from karbor_actors.operations.verbs.delete import Delete
from karbor_actors.operations.verbs.protect import Protect
from karbor_actors.operations.verbs.restore import Restore
from karbor_actors.operations.verbs.verify import Verify

if TYPE_CHECKING:
    from karbor_actors.operations.engine import Engine
    from karbor_actors.operations.verbs.checkpoint_verb import CheckpointVerb
    from karbor_actors.operations.verbs.options import CallOptions
    from karbor_actors.operations.verbs.verb import Verb
    from karbor_actors.provider import ProviderRegistry


class VerbMaker:
    """Makes the verbs of a service, and refuses what can be refused at the call. Any thread.

    Args:
        engine: Where they will run.
        registry: The providers.
    """

    def __init__(self, engine: Engine, registry: ProviderRegistry) -> None:
        self._pin, self._registry = engine.pin, registry

    def protect(self, plan: Plan | str, options: CallOptions) -> Protect:
        """Return the protect of *plan*.

        Raises:
            PlanError: It is no Plan.
            ProviderNotFoundError: Its provider was not added.
        """
        if not isinstance(plan, Plan):
            raise PlanError([Fault("plan", f"is {describe_value(plan)}, not a Plan")])
        return Protect(_new_id(), self._registry.get(plan.provider), options, plan, self._pin)

    def restore(
        self,
        checkpoint_id: str,
        provider: str | None,
        options: CallOptions,
        *,
        allow_partial: bool = False,
    ) -> CheckpointVerb:
        """Return the restore of a checkpoint.

        Raises:
            ArgumentError: A flag is neither True nor False.
            CheckpointNotFoundError: No provider's bank has it.
            AmbiguousCheckpointError: Several checkpoints begin so.
        """
        check_flags(allow_partial=allow_partial)
        found, checkpoint = self._registry.find_checkpoint(checkpoint_id, provider)
        return Restore(_new_id(), found, options, checkpoint.id, allow_partial=allow_partial)

    def verify(
        self, checkpoint_id: str, provider: str | None, options: CallOptions
    ) -> CheckpointVerb:
        """Return the verify of a checkpoint; raises as :meth:`restore`."""
        found, checkpoint = self._registry.find_checkpoint(checkpoint_id, provider)
        return Verify(_new_id(), found, options, checkpoint.id)

    def copy(
        self,
        checkpoint_id: str,
        provider: str | None,
        options: CallOptions,
        *,
        to: str,
        again: bool = False,
        allow_partial: bool = False,
    ) -> CheckpointVerb:
        """Return the copy of a checkpoint into the bank of provider *to*; raises as the others."""
        check_flags(again=again, allow_partial=allow_partial)
        target = CopyTarget(self._registry.get(to).name, self._registry.all)
        found, checkpoint = self._registry.find_checkpoint(checkpoint_id, provider)
        return Copy(
            _new_id(),
            found,
            options,
            checkpoint.id,
            target,
            again=again,
            allow_partial=allow_partial,
        )

    def delete(
        self,
        checkpoint_id: str,
        provider: str | None,
        options: CallOptions,
        *,
        force: bool = False,
    ) -> CheckpointVerb:
        """Return the delete of a checkpoint; raises as :meth:`restore`."""
        check_flags(force=force)
        found, checkpoint = self._registry.find_checkpoint(checkpoint_id, provider)
        providers = self._registry.all
        return Delete(_new_id(), found, options, checkpoint.id, force=force, providers=providers)

    def of_type(
        self,
        operation_type: OperationType,
        subject: Plan | str,
        provider: str | None,
        options: CallOptions,
        to: str,
        *,
        again: bool = False,
        allow_partial: bool = False,
    ) -> Verb:
        """Return the verb of that type on *subject*: a plan, or a checkpoint's id."""
        if operation_type is OperationType.PROTECT:
            return self.protect(subject, options)
        if not isinstance(subject, str):
            raise argument_error("subject", "a checkpoint's id", subject)
        if operation_type is OperationType.COPY:
            return self.copy(
                subject, provider, options, to=to, again=again, allow_partial=allow_partial
            )
        if operation_type is OperationType.RESTORE:
            return self.restore(subject, provider, options, allow_partial=allow_partial)
        make = self.verify if operation_type is OperationType.VERIFY else self.delete
        return make(subject, provider, options)

    @staticmethod
    def checked(verb: CheckpointVerb) -> CheckpointVerb:
        """Return *verb* if its checkpoint's status allows it.

        Raises:
            CheckpointStateError: It does not.
        """
        verb.check_status(verb.bank.checkpoint(verb.checkpoint_id or ""))
        return verb


def _new_id() -> str:
    return str(uuid.uuid4())
