"""What every verb takes, and what its hooks are told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karbor_actors.arguments import FOR_EVER, checked_choice, checked_limit, checked_moment
from karbor_actors.model import AbortKind, AbortReason, OnFailure
from karbor_actors.plain import checked_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.errors import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What every verb takes beside its own arguments."""

    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    context: Any = None
    on_failure: OnFailure = OnFailure.ABORT
    timeout: float | None = None
    """Seconds that the plan and the hooks may take in all, restarts included."""
    deadline: float | None = None
    """The moment, in seconds since 1970, at which the operation is given up."""

    @property
    def too_long(self) -> AbortReason:
        """Why an operation is undone that has no time left."""
        return AbortReason(AbortKind.TIMEOUT, f"it took longer than {self.timeout} s")

    @property
    def past_deadline(self) -> AbortReason:
        """Why an operation is undone, or not even begun, after its deadline."""
        return AbortReason(AbortKind.TIMEOUT, "its deadline has passed")

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, Mapping[str, Any]] | None,
        context: Any,
        on_failure: str,
        timeout: float | None,
        deadline: float | datetime | None = None,
    ) -> CallOptions:
        """Return the options as a caller gives them; ArgumentError for what cannot be one.

        *parameters* are copied, so that the caller may go on with its own; but malformed ones,
        which end the operation, are left as they are.
        """
        failing = checked_choice("on_failure", on_failure, OnFailure)
        timeout = checked_limit("timeout", timeout)
        moment = checked_moment("deadline", deadline)
        faults: list[Fault] = []
        copied = checked_parameters(parameters, faults)
        return cls(
            parameters=parameters or {} if faults else copied,
            context=context,
            on_failure=failing,
            timeout=timeout,
            deadline=None if moment == FOR_EVER else moment,
        )


@dataclass(frozen=True, slots=True)
class OperationLog:
    """What a hook gets as ``operation_log``."""

    id: str
    operation_type: str
    checkpoint_id: str
    plan_id: str
    provider_id: str
    started_at: float
    """Seconds since the epoch."""

    @classmethod
    def of(cls, record: OperationRecord, checkpoint: Checkpoint) -> OperationLog:
        """Return the log of the operation that *record* is of."""
        return cls(
            record.id,
            str(record.type),
            checkpoint.id,
            checkpoint.plan_name,
            record.provider,
            record.created_at,
        )
