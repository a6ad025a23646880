"""What a hook is given as its ``context``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from karbor_actors.actors.blocking import check_may_block
from karbor_actors.arguments import argument_error, check_instance, checked_choice, is_number
from karbor_actors.bank.checkpoints.resource_rows import ConsistencyLevel
from karbor_actors.bank.database.records import pack_record
from karbor_actors.errors import HookCancelledError, PluginError, describe_value
from karbor_actors.operations.hooks.artifacts import Artifact
from karbor_actors.operations.hooks.memory import (
    CONSISTENCY_KEY,
    FrozenState,
    HookState,
    NewResources,
)
from karbor_actors.plain import text_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.errors import ResourceKey
    from karbor_actors.operations.hooks.artifacts import ArtifactRecord
    from karbor_actors.operations.hooks.attempt import Attempt

_LOG = logging.getLogger("karbor_actors.hooks")


class HookContext:
    """What a hook knows of its operation, beside the caller's own values.

    Attributes that are not named here come from what the caller gave as ``context=``, an
    object or a mapping. One hook's context belongs to that hook's thread (or task); only
    :attr:`cancelled` may be read from anywhere.
    """

    __slots__ = ("_attempt", "_state")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._state: HookState | None = None

    def __getattr__(self, name: str) -> Any:
        return caller_value(self._attempt.run.caller_context, name)

    @property
    def state(self) -> HookState:
        """This resource's state in this operation: a mapping of plain values.

        Durable with the hook's completion, or at once with ``flush()``.
        """
        if self._state is None:
            attempt = self._attempt
            self._state = HookState(
                attempt.run.memory, attempt.resource, attempt.changes, attempt.flush, attempt.check
            )
        return self._state

    def state_of(self, key: ResourceKey) -> Mapping[str, Any]:
        """Return another resource's durable state, for reading; *key* is (type, id).

        Raises:
            LookupError: The graph has no such resource.
        """
        run = self._attempt.run
        return FrozenState(run.memory, run.planned.graph.number(key))

    def artifact(self, kind: str, name: str) -> Artifact:
        """Record an external thing before it is made; durable on return. Blocks.

        Args:
            kind: What it is, such as ``"snapshot"``.
            name: A name that finds it again, chosen before it exists.
        """
        check_may_block("context.artifact()")
        attempt = self._attempt
        attempt.check()
        if text_fault(kind) or text_fault(name):
            msg = (
                f"an artifact has a kind and a name, not {describe_value(kind)} and "
                f"{describe_value(name)}"
            )
            raise PluginError(msg)
        record = attempt.run.memory.add_artifact(attempt.resource, kind, name)

        def save(changed: ArtifactRecord) -> None:
            attempt.check()
            attempt.run.save_artifact(changed, waits=attempt.waits)

        save(record)
        return Artifact(record, save)

    async def aartifact(self, kind: str, name: str) -> Artifact:
        """Do :meth:`artifact` without blocking the event loop."""
        return await asyncio.to_thread(self.artifact, kind, name)

    def report_consistency(self, level: str, cause: str = "") -> None:
        """Say how well the parts of this resource's data fit together.

        Args:
            level: ``"application"`` (it was brought to rest), ``"filesystem"`` (frozen),
                ``"crash"`` (as after a power cut, all of one moment) or ``"none"``.
            cause: What made it so, in a few words.
        """
        attempt = self._attempt
        attempt.check()
        check_instance("cause", cause, str, "a string")
        kept = [checked_choice("level", level, ConsistencyLevel).value, cause]
        attempt.changes.state[CONSISTENCY_KEY] = pack_record(kept, "the consistency")

    @property
    def previous(self) -> Checkpoint | None:
        """The newest available checkpoint that holds something of this resource, or None.

        It is not deleted before this operation ends. Blocks on the bank.
        """
        check_may_block("context.previous")
        attempt = self._attempt
        return attempt.run.previous(attempt.resource)

    async def aprevious(self) -> Checkpoint | None:
        """Return :attr:`previous` without blocking the event loop."""
        return await asyncio.to_thread(lambda: self.previous)

    def progress(self, done: float, total: float | None = None, unit: str = "") -> None:
        """Say how far this hook is, in *unit*s; also tells the engine that it is alive."""
        if not is_number(done) or not (total is None or is_number(total)):
            given = (done, total)
            raise argument_error("progress", "a number done, of a total number or None", given)
        check_instance("unit", unit, str, "a string")
        self._attempt.report_progress(done, total, unit)

    @property
    def cancelled(self) -> bool:
        """Whether the hook should stop early; may be read from any thread."""
        attempt = self._attempt
        return attempt.is_fenced or attempt.is_unwanted

    def check_cancelled(self) -> None:
        """Leave the hook if it should stop early.

        Raises:
            HookCancelledError: The operation is being cancelled; let it pass.
        """
        if self.cancelled:
            raise HookCancelledError

    @property
    def attempt(self) -> int:
        """1, or more when the hook runs again; may skip numbers."""
        return self._attempt.number

    @property
    def idempotency_key(self) -> str:
        """A key that is the same on each attempt of this hook of this resource."""
        attempt = self._attempt
        return f"{attempt.run.id}-{attempt.resource}-{attempt.hook}"

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that knows the operation, the resource and the hook."""
        attempt = self._attempt
        key = attempt.run.planned.graph.nodes[attempt.resource].key
        extra = {"operation": attempt.run.id, "resource": key, "hook": str(attempt.hook)}
        return _Adapter(_LOG, extra)


def new_resources_of(attempt: Attempt) -> NewResources:
    """Return the mapping that restore and verify hooks get as ``new_resources``."""
    key = attempt.run.planned.graph.nodes[attempt.resource].key
    return NewResources(attempt.run.memory, key, attempt.changes, attempt.flush, attempt.check)


class CallerContext:
    """What look-ups get: a mapping that the caller gave as ``context=``, its values attributes too.

    Args:
        given: The mapping.
        check_cancelled: Raises OperationCancelledError once the operation is cancelled: for
            listings that take long.
    """

    def __init__(self, given: Mapping[str, Any], check_cancelled: Callable[[], None]) -> None:
        self._given, self.check_cancelled = given, check_cancelled

    def __getattr__(self, name: str) -> Any:
        return caller_value(self._given, name)

    def __getitem__(self, name: str) -> Any:
        return self._given[name]


def caller_value(given: Any, name: str) -> Any:
    """Return the value *name* of what the caller gave as ``context=``.

    Raises:
        AttributeError: There is none.
    """
    if isinstance(given, Mapping):
        if name in given:
            return given[name]
    elif given is not None:
        return getattr(given, name)
    msg = f"the context has no {name!r}; pass it with context=... to the verb"
    raise AttributeError(msg)


class _Adapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
