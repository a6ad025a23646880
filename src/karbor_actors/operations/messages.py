"""The messages that the actors of an operation exchange. All immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.model import AbortReason
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.steps import Step


@dataclass(frozen=True, slots=True)
class Begin:
    """To a supervisor: plan the operation, then run it."""


@dataclass(frozen=True, slots=True)
class LocksGranted:
    """To a supervisor that waited: what it touches is its own now; what was planned may be stale."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """To a supervisor: planning, opening or closing ended on its worker."""

    step: Step
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PlanTooLong:
    """To a supervisor from its timer: a plan that is still being made is to be given up."""


@dataclass(frozen=True, slots=True)
class LookAtOutbox:
    """To a supervisor: hook bodies ended, or something became durable."""


LOOK_AT_OUTBOX: Final = LookAtOutbox()


@dataclass(frozen=True, slots=True)
class Flush:
    """To a supervisor from itself: hand on what this turn has gathered."""


FLUSH: Final = Flush()


@dataclass(frozen=True, slots=True)
class Cancel:
    """To a supervisor: end the operation and undo what began."""

    reason: AbortReason


@dataclass(frozen=True, slots=True)
class Suspend:
    """To a supervisor: the service closes; end open critical spans, then stop."""


@dataclass(frozen=True, slots=True)
class LookAround:
    """To a supervisor from its timer: is anything under way, or was a message lost?"""


@dataclass(frozen=True, slots=True)
class LookAtClock:
    """To a supervisor from its timer: something may have taken too long."""


@dataclass(frozen=True, slots=True)
class ReleaseAborts:
    """To a supervisor: aborts have waited long enough for descendants."""

    resources: Sequence[int] | None = None
    """Whose; None: all. Empty: none, but bodies have had long enough to leave."""


@dataclass(frozen=True, slots=True)
class GetProgress:
    """Ask a supervisor how far the operation is; the reply is a Progress."""


@dataclass(frozen=True, slots=True)
class RunHook:
    """To a hook actor: every upstream hook actor has told its completion."""


RUN_HOOK: Final = RunHook()


@dataclass(frozen=True, slots=True)
class IntentDurable:
    """To a hook actor: its intent is recorded; the body may run."""


@dataclass(frozen=True, slots=True)
class BodyFailed:
    """To a hook or abort actor: its body raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class NotBegun:
    """To a hook actor: the operation was closed before its body could begin."""


@dataclass(frozen=True, slots=True)
class CompletionDurable:
    """To a hook actor: its completion is recorded; downstream may be told."""


COMPLETION_DURABLE: Final = CompletionDurable()


@dataclass(frozen=True, slots=True)
class RetryDue:
    """To a hook or abort actor from its timer: try again."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """To a hook actor: the operation starts nothing more."""


@dataclass(frozen=True, slots=True)
class RunAbort:
    """To an abort actor: undo what the resource's hooks began."""


@dataclass(frozen=True, slots=True)
class AbortSucceeded:
    """To an abort actor: its body returned."""


@dataclass(frozen=True, slots=True)
class JournalWritten:
    """What the bank's writer reports of one journal record."""

    intents: tuple[int, ...]
    completions: tuple[Attempt, ...]
    then: tuple[Callable[[], None], ...] = ()
    """What waited for the record, and goes on even if it could not be written."""
    error: BaseException | None = None
