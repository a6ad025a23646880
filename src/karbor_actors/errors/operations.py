"""Errors of operations, their hooks, and the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.errors.base import KarborError, describe_cause, describe_key, describe_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.errors.base import ResourceKey


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
        return f"no operation {describe_value(self.operation_id)}"


class AmbiguousOperationError(KarborError, LookupError):
    """A shortened id fits several operations; give more of it."""

    def __init__(self, prefix: str, matches: Sequence[str], count: int) -> None:
        super().__init__(prefix, tuple(matches), count)
        self.prefix, self.matches, self.count = prefix, tuple(matches), count
        """What was given, the first ids that begin so, and how many there are."""

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.matches) else ""
        return f"{self.prefix!r} fits {self.count} operations: {', '.join(self.matches)}{more}"


class OperationStateError(KarborError, ValueError):
    """An operation's status forbids what was asked of it."""

    def __init__(self, operation_id: str, status: str, wanted: str) -> None:
        super().__init__(operation_id, status, wanted)
        self.operation_id, self.status, self.wanted = operation_id, status, wanted

    def __str__(self) -> str:
        return f"operation {self.operation_id} is {self.status}; {self.wanted}"


class OperationError(KarborError):
    """An operation did not succeed; its text holds its causes' sentences."""

    def __init__(self, what: str, causes: Sequence[BaseException] = ()) -> None:
        super().__init__(what, tuple(causes))
        self.what, self.causes = what, tuple(causes)
        self.result: object = None
        """What the operation found or made all the same, such as a VerifyResult."""

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


class HookGivenUpError(KarborError, TimeoutError):
    """A hook took longer than it may, or there was no worker for it; it is not tried again."""


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


class InjectedFaultError(KarborError, RuntimeError):
    """What a ``FaultPlan`` raises in a hook or an actor, to see what becomes of it."""


class FaultPlanError(KarborError, ValueError):
    """Rules of faults that cannot be."""
