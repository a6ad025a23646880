"""An embeddable engine for application-aware data protection, built on actors."""

from karbor_actors.bank.bank import Bank
from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
from karbor_actors.bank.checkpoints.resource_rows import Consistency, ConsistencyLevel
from karbor_actors.bank.checkpoints.sections import BankSection
from karbor_actors.errors import KarborError, OperationError
from karbor_actors.limits import Caps, TimeLimits
from karbor_actors.model import (
    AbortKind,
    AbortReason,
    CheckpointStatus,
    HookName,
    OnFailure,
    OperationStatus,
    OperationType,
    Plan,
    Resource,
    ResourceStatus,
    RetryPolicy,
)
from karbor_actors.operations.handle import OperationHandle
from karbor_actors.operations.hooks.context import HookContext
from karbor_actors.operations.planning import PlannedOperation
from karbor_actors.operations.results import (
    Event,
    Evidence,
    Progress,
    ResourceProgress,
    RestoreResult,
    VerifyResult,
)
from karbor_actors.plugins import Operation, ProtectablePlugin, ProtectionPlugin
from karbor_actors.provider import Provider
from karbor_actors.service import ProtectionService

__all__ = [
    "AbortKind",
    "AbortReason",
    "Bank",
    "BankSection",
    "Caps",
    "Checkpoint",
    "CheckpointStatus",
    "Consistency",
    "ConsistencyLevel",
    "Event",
    "Evidence",
    "HookContext",
    "HookName",
    "KarborError",
    "OnFailure",
    "Operation",
    "OperationError",
    "OperationHandle",
    "OperationStatus",
    "OperationType",
    "Plan",
    "PlannedOperation",
    "Progress",
    "ProtectablePlugin",
    "ProtectionPlugin",
    "ProtectionService",
    "Provider",
    "Resource",
    "ResourceProgress",
    "ResourceStatus",
    "RestoreResult",
    "RetryPolicy",
    "TimeLimits",
    "VerifyResult",
]
