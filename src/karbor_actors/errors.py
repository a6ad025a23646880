"""Every exception of karbor_actors.

The tree (a leaf also inherits the builtin that a caller would catch)::

    KarborError
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
    |   +-- BankLeaseError                             another process owns the bank
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
    +-- OperationError                                 an operation that did not succeed
    |   +-- PartialOperationError
    |   +-- OperationCancelledError
    |   +-- OperationSuspendedError
    +-- HookFailedError                                a hook raised, or broke its contract
    +-- HookCancelledError                             raised inside a hook by check_cancelled()
    +-- FencedError                                    a write from a hook that the engine gave up on
    +-- CannotResumeError                              raised by a plugin's on_resume
    +-- BlockingCallError               RuntimeError   a blocking call on the engine's event loop
    +-- ServiceClosedError              RuntimeError
    +-- DispatcherClosedError           RuntimeError
    +-- ActorCrashedError                              an actor of this operation died
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ResourceKey = tuple[str, str]
"""A resource's identity: (type, id)."""


def describe_key(key: ResourceKey) -> str:
    """Return *key* as people read it: ``type#id``, with odd characters escaped."""
    text = f"{key[0]}#{key[1]}"
    return text if text.isprintable() else ascii(text)[1:-1]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def describe_value(value: object) -> str:
    """Return *value* as errors show it: in one line, and only its ends if it is long."""
    return " ".join(_SHORT.repr(value).split())


def describe_cause(error: BaseException) -> str:
    """Return *error* in one line: its class and its sentence."""
    sentence = " ".join(str(error).split())
    if isinstance(error, KarborError):
        return sentence
    name = type(error).__name__
    return f"{name}: {sentence}" if sentence else name


class KarborError(Exception):
    """The root of every exception that karbor_actors raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a plan or with parameters."""

    where: str
    """What it is about, for example ``FileSystem::Directory.exclude[0]``."""
    message: str
    """What is wrong with it, in one sentence without a full stop."""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class _FaultsError(KarborError, ValueError):
    """Shared by the errors that list every fault at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)
        """Every fault found, in the order of the input."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults))


class PlanError(_FaultsError):
    """A plan is malformed; nothing ran."""

    def __str__(self) -> str:
        return f"the plan is not valid: {super().__str__()}"


class ParametersError(_FaultsError):
    """Parameters do not fit their schemas; nothing ran."""

    def __str__(self) -> str:
        return f"the parameters are not valid: {super().__str__()}"


class ConfigurationError(_FaultsError):
    """A file that describes providers is malformed; nothing ran."""

    def __str__(self) -> str:
        return f"the configuration is not valid: {super().__str__()}"


class PluginError(KarborError, TypeError):
    """An object cannot serve as a plugin, or answered with rubbish."""


class ProviderNotFoundError(KarborError, LookupError):
    """No provider of that name was added to the service."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(name, tuple(known))
        self.name, self.known = name, tuple(known)

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"no provider named {self.name!r} (known: {known})"


class GraphError(KarborError):
    """The resource graph cannot be built."""


class CycleError(GraphError, ValueError):
    """Resources depend on each other in a circle."""

    def __init__(self, cycle: Sequence[ResourceKey]) -> None:
        super().__init__(tuple(cycle))
        self.cycle = tuple(cycle)
        """The cycle's resources in order, each once."""

    def __str__(self) -> str:
        names = [describe_key(key) for key in (*self.cycle, *self.cycle[:1])]
        if len(names) > 12:  # noqa: PLR2004 - a line for a person; the data is in .cycle
            names[6:-5] = [f"... {len(names) - 11} more ..."]
        return f"the resources form a cycle: {' -> '.join(names)}"


class MissingPluginError(GraphError, LookupError):
    """Resource types that no protection plugin of the provider handles."""

    def __init__(self, types: Sequence[str], provider: str = "") -> None:
        super().__init__(tuple(types), provider)
        self.types, self.provider = tuple(types), provider

    def __str__(self) -> str:
        where = f" of provider {self.provider!r}" if self.provider else ""
        return f"no protection plugin{where} handles {', '.join(self.types)}"


class ListingError(GraphError):
    """A protectable plugin's look-up failed; ``__cause__`` says why.

    Attributes:
        resource: Whose dependents were asked for, or None if it was any other look-up.
    """

    def __init__(self, resource: ResourceKey | None, plugin: str, reason: str = "") -> None:
        super().__init__(resource, plugin, reason)
        self.resource, self.plugin, self.reason = resource, plugin, reason

    def __str__(self) -> str:
        what = "resources"
        if self.resource is not None:
            what = f"the dependents of {describe_key(self.resource)}"
        text = f"{self.plugin} could not list {what}"
        return f"{text}: {self.reason}" if self.reason else text


class ProtectableNotFoundError(GraphError, LookupError):
    """No protectable plugin finds resources of a type."""

    def __init__(self, resource_type: str, known: Sequence[str] = ()) -> None:
        super().__init__(resource_type, tuple(known))
        self.resource_type, self.known = resource_type, tuple(known)

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"no protectable plugin finds the type {self.resource_type!r} (known: {known})"


class ResourceNotFoundError(GraphError, LookupError):
    """A resource is not in the graph."""

    def __init__(self, resource: ResourceKey) -> None:
        super().__init__(resource)
        self.resource = resource

    def __str__(self) -> str:
        return f"{describe_key(self.resource)} is not in the resource graph"


class ResourceMissingError(GraphError, LookupError):
    """Resources that a plan names, and that their protectable plugins cannot find."""

    def __init__(self, resources: Sequence[ResourceKey], advice: str = "") -> None:
        super().__init__(tuple(resources), advice)
        self.resources, self.advice = tuple(resources), advice

    def __str__(self) -> str:
        names = ", ".join(map(describe_key, self.resources[:5]))
        more = f" and {len(self.resources) - 5} more" if len(self.resources) > 5 else ""  # noqa: PLR2004
        verb = "does not exist" if len(self.resources) == 1 else "do not exist"
        text = f"{names}{more} {verb}"
        return f"{text}: {self.advice}" if self.advice else text


class BankError(KarborError):
    """The bank cannot do what was asked."""


class BankClosedError(BankError):
    """The bank was closed; open it again."""

    def __str__(self) -> str:
        return super().__str__() or "the bank is closed"


class BankBrokenError(BankError):
    """The bank's writer died; nothing more can be written until it is opened again."""


class BankPathError(BankError, OSError):
    """A path cannot hold a bank: it is a file, is missing, or may not be used."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "the path cannot hold a bank"


class BankFormatError(BankError, ValueError):
    """The files are no bank, are damaged, or were written by a newer release."""


class BankReadonlyError(BankError, PermissionError):
    """A write to a bank or a section that was opened for reading only."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "the bank is read-only"


class BankFullError(BankError, OSError):
    """There is no space left for the bank; what was acknowledged is still there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "no space is left for the bank"


class BankLeaseError(BankError):
    """Another process owns the bank."""

    def __init__(self, directory: str, owner: str) -> None:
        super().__init__(directory, owner)
        self.directory, self.owner = directory, owner

    def __str__(self) -> str:
        return (
            f"the bank {self.directory} is in use by {self.owner}; "
            "stop it first, or open the bank with readonly=True"
        )


class BankKeyError(BankError, ValueError):
    """A key that can name no object, stream or sub-section."""


class BankValueError(BankError, ValueError):
    """A value that no record can hold; records hold plain values."""


class RecordTooLargeError(BankError, ValueError):
    """A value is too large for a record; write it as a stream."""


class ObjectNotFoundError(BankError, LookupError):
    """A section holds no object or stream under a key."""

    def __init__(self, key: str, section: str = "") -> None:
        super().__init__(key, section)
        self.key, self.section = key, section

    def __str__(self) -> str:
        where = f" in section {self.section}" if self.section else ""
        return f"no object {self.key!r}{where}"


class CheckpointNotFoundError(BankError, LookupError):
    """The bank has no checkpoint of that id."""

    def __init__(self, checkpoint_id: str) -> None:
        super().__init__(checkpoint_id)
        self.checkpoint_id = checkpoint_id

    def __str__(self) -> str:
        return f"no checkpoint {self.checkpoint_id!r} in the bank"


class AmbiguousCheckpointError(BankError, LookupError):
    """A shortened id fits several checkpoints; give more of it."""

    def __init__(self, prefix: str, matches: Sequence[str]) -> None:
        super().__init__(prefix, tuple(matches))
        self.prefix, self.matches = prefix, tuple(matches)

    def __str__(self) -> str:
        return f"{self.prefix!r} fits {len(self.matches)} checkpoints: {', '.join(self.matches)}"


class BlockMissingError(BankError, LookupError):
    """A block that a stream names is not in the object store."""

    def __init__(self, digest: str, where: str) -> None:
        super().__init__(digest, where)
        self.digest, self.where = digest, where

    def __str__(self) -> str:
        return f"block {self.digest[:16]} of {self.where} is missing"


class BlockCorruptError(BankError, ValueError):
    """A block's bytes are not those that were stored."""

    def __init__(self, digest: str, where: str, reason: str = "its digest differs") -> None:
        super().__init__(digest, where, reason)
        self.digest, self.where, self.reason = digest, where, reason

    def __str__(self) -> str:
        return f"block {self.digest[:16]} of {self.where} is corrupted: {self.reason}"


class StoreError(BankError, OSError):
    """The object store failed; ``__cause__`` says why."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "the object store failed"


class CheckpointStateError(KarborError, ValueError):
    """A checkpoint's status forbids what was asked of it."""

    def __init__(self, checkpoint_id: str, status: str, wanted: str) -> None:
        super().__init__(checkpoint_id, status, wanted)
        self.checkpoint_id, self.status, self.wanted = checkpoint_id, status, wanted

    def __str__(self) -> str:
        return f"checkpoint {self.checkpoint_id} is {self.status}; {self.wanted}"


class OperationNotFoundError(KarborError, LookupError):
    """No operation of that id is known."""

    def __init__(self, operation_id: str) -> None:
        super().__init__(operation_id)
        self.operation_id = operation_id

    def __str__(self) -> str:
        return f"no operation {self.operation_id!r}"


class OperationError(KarborError):
    """An operation did not succeed; its text holds its causes' sentences."""

    def __init__(self, what: str, causes: Sequence[BaseException] = ()) -> None:
        super().__init__(what, tuple(causes))
        self.what, self.causes = what, tuple(causes)

    def __str__(self) -> str:
        shown = [describe_cause(cause) for cause in self.causes[:5]]
        if len(self.causes) > len(shown):
            shown.append(f"and {len(self.causes) - len(shown)} more")
        return f"{self.what}: {'; '.join(shown)}" if shown else self.what


class PartialOperationError(OperationError):
    """Some resources failed and ``on_failure="isolate"`` let the others finish."""

    def __init__(
        self, what: str, causes: Sequence[BaseException] = (), result: object = None
    ) -> None:
        super().__init__(what, causes)
        self.args = (what, tuple(causes), result)
        self.result = result
        """What the operation made all the same: a Checkpoint, a RestoreResult, a VerifyResult."""

    @property
    def checkpoint(self) -> object:
        """The partial checkpoint of a protect or a copy."""
        return self.result


class OperationCancelledError(OperationError):
    """The operation was cancelled."""


class OperationSuspendedError(OperationError):
    """The service was closed; the operation goes on at the next start."""


class HookFailedError(KarborError):
    """A plugin's hook failed; ``__cause__`` is what it raised."""

    def __init__(self, resource: ResourceKey, hook: str, attempt: int, reason: str) -> None:
        super().__init__(resource, hook, attempt, reason)
        self.resource, self.hook, self.attempt, self.reason = resource, hook, attempt, reason
        self.trace = ""
        """The traceback of what the hook raised, as text; it goes to the operation's log."""

    def __str__(self) -> str:
        attempt = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"{self.hook} of {describe_key(self.resource)} failed{attempt}: {self.reason}"


class HookCancelledError(KarborError):
    """The operation is being cancelled; a hook lets this pass to stop early."""

    def __str__(self) -> str:
        return super().__str__() or "the operation was cancelled"


class FencedError(KarborError):
    """The engine gave this hook up; what it still writes is refused."""

    def __str__(self) -> str:
        return super().__str__() or "this hook was given up; its writes are refused"


class CannotResumeError(KarborError):
    """Raised by ``Operation.on_resume`` when what the process held is gone."""


class BlockingCallError(KarborError, RuntimeError):
    """A blocking call on the engine's event loop; await its ``a...`` twin."""


class ServiceClosedError(KarborError, RuntimeError):
    """The service was closed."""

    def __str__(self) -> str:
        return super().__str__() or "the service is closed"


class DispatcherClosedError(KarborError, RuntimeError):
    """The dispatcher was closed (or stayed behind in a parent process); make another."""

    def __str__(self) -> str:
        return super().__str__() or "the dispatcher is closed; start actors on another one"


class ActorCrashedError(KarborError):
    """An actor of the engine died; the operation it served failed cleanly."""
