"""Every exception of karbor_actors.

The tree (a leaf also inherits the builtin that a caller would catch)::

    KarborError
    +-- ArgumentError                   ValueError     an argument that cannot be one; TypeError too
    +-- PlanError                       ValueError     a malformed plan, all its faults at once
    +-- ParametersError                 ValueError     parameters against schemas, all faults at once
    +-- ConfigurationError              ValueError     a malformed file of providers
    +-- PluginError                     TypeError      an object that cannot serve as a plugin
    +-- ProviderNotFoundError           LookupError
    +-- GraphError
    |   +-- CycleError                  ValueError     the graph's resources in order
    |   +-- MissingPluginError          LookupError    every type without a protection plugin
    |   +-- ListingError                               a protectable plugin's look-up failed
    |   +-- ProtectableNotFoundError    LookupError    no protectable plugin finds that type
    |   +-- ResourceNotFoundError       LookupError    a resource that is not in the graph
    |   +-- ResourceMissingError        LookupError    a resource that does not exist
    +-- BankError
    |   +-- BankClosedError                            you closed it
    |   +-- BankBrokenError                            it broke: its writer died
    |   +-- BankPathError               OSError        the path cannot hold a bank
    |   +-- BankFormatError             ValueError     foreign, damaged or newer format
    |   +-- BankReadonlyError           PermissionError
    |   +-- BankFullError               OSError        the disk (or a quota) is full
    |   +-- BankLeaseError                             another process, or service, owns the bank
    |   |   +-- ForeignLeaseError                      another host's, which may be dead
    |   +-- BankKeyError                ValueError     a key that can name nothing
    |   +-- BankValueError              ValueError     a value that no record can hold
    |   +-- RecordTooLargeError         ValueError
    |   +-- ObjectNotFoundError         LookupError    no such key in a section
    |   +-- CheckpointNotFoundError     LookupError
    |   +-- AmbiguousCheckpointError    LookupError    a shortened id that several checkpoints share
    |   +-- BlockMissingError           LookupError
    |   +-- BlockCorruptError           ValueError
    |   +-- StoreError                  OSError        the object store failed
    +-- CheckpointStateError            ValueError     a verb that the checkpoint's status forbids
    +-- OperationNotFoundError          LookupError
    +-- AmbiguousOperationError         LookupError    a shortened id that several operations share
    +-- OperationStateError             ValueError     a verb that the operation's status forbids
    +-- OperationError                                 an operation that did not succeed
    |   +-- PartialOperationError
    |   +-- OperationCancelledError
    |   +-- OperationSuspendedError
    +-- HookFailedError                                a hook raised, or broke its contract
    +-- HookGivenUpError                TimeoutError   why a hook that took too long counts as failed
    +-- HookCancelledError                             raised inside a hook by check_cancelled()
    +-- FencedError                                    a write from a hook that the engine gave up on
    +-- CannotResumeError                              raised by a plugin's on_resume
    +-- BlockingCallError               RuntimeError   a blocking call on the engine's event loop
    +-- ServiceClosedError              RuntimeError
    +-- DispatcherClosedError           RuntimeError
    +-- ActorCrashedError                              an actor of this operation died
    +-- FaultPlanError                  ValueError     rules of faults that cannot be
    +-- InjectedFaultError              RuntimeError   raised on purpose, by a test's FaultPlan
"""

from karbor_actors.errors.banks import (
    AmbiguousCheckpointError,
    BankBrokenError,
    BankClosedError,
    BankError,
    BankFormatError,
    BankFullError,
    BankKeyError,
    BankLeaseError,
    BankPathError,
    BankReadonlyError,
    BankValueError,
    BlockCorruptError,
    BlockMissingError,
    CheckpointNotFoundError,
    ForeignLeaseError,
    ObjectNotFoundError,
    RecordTooLargeError,
    StoreError,
)
from karbor_actors.errors.base import (
    Fault,
    KarborError,
    ResourceKey,
    describe_cause,
    describe_key,
    describe_value,
)
from karbor_actors.errors.inputs import (
    ArgumentError,
    ConfigurationError,
    CycleError,
    GraphError,
    ListingError,
    MissingPluginError,
    ParametersError,
    PlanError,
    PluginError,
    ProtectableNotFoundError,
    ProviderNotFoundError,
    ResourceMissingError,
    ResourceNotFoundError,
)
from karbor_actors.errors.operations import (
    ActorCrashedError,
    AmbiguousOperationError,
    BlockingCallError,
    CannotResumeError,
    CheckpointStateError,
    DispatcherClosedError,
    FaultPlanError,
    FencedError,
    HookCancelledError,
    HookFailedError,
    HookGivenUpError,
    InjectedFaultError,
    OperationCancelledError,
    OperationError,
    OperationNotFoundError,
    OperationStateError,
    OperationSuspendedError,
    PartialOperationError,
    ServiceClosedError,
)

__all__ = [
    "ActorCrashedError",
    "AmbiguousCheckpointError",
    "AmbiguousOperationError",
    "ArgumentError",
    "BankBrokenError",
    "BankClosedError",
    "BankError",
    "BankFormatError",
    "BankFullError",
    "BankKeyError",
    "BankLeaseError",
    "BankPathError",
    "BankReadonlyError",
    "BankValueError",
    "BlockCorruptError",
    "BlockMissingError",
    "BlockingCallError",
    "CannotResumeError",
    "CheckpointNotFoundError",
    "CheckpointStateError",
    "ConfigurationError",
    "CycleError",
    "DispatcherClosedError",
    "Fault",
    "FaultPlanError",
    "FencedError",
    "ForeignLeaseError",
    "GraphError",
    "HookCancelledError",
    "HookFailedError",
    "HookGivenUpError",
    "InjectedFaultError",
    "KarborError",
    "ListingError",
    "MissingPluginError",
    "ObjectNotFoundError",
    "OperationCancelledError",
    "OperationError",
    "OperationNotFoundError",
    "OperationStateError",
    "OperationSuspendedError",
    "ParametersError",
    "PartialOperationError",
    "PlanError",
    "PluginError",
    "ProtectableNotFoundError",
    "ProviderNotFoundError",
    "RecordTooLargeError",
    "ResourceKey",
    "ResourceMissingError",
    "ResourceNotFoundError",
    "ServiceClosedError",
    "StoreError",
    "describe_cause",
    "describe_key",
    "describe_value",
]
