"""What one commit of an operation's journal says, and what all of them together mean.

A record is a msgpack map with the keys below; one that is missing says nothing. Hook numbers are
little-endian ``array('I')`` bytes, since a million of them pass through here.

====  =======================================================================================
key   value
====  =======================================================================================
i     the hooks that are about to run (their intents), once for each attempt
c     the hooks that completed
f     failed attempts: [hook, attempt, error] each
s     changes of state: [resource, key, packed value or nil where it was deleted] each
n     new resources: [type, id, packed value] each
x     artifacts as they are now: [id, resource, kind, name, status, packed data] each
d     the decision to abort: [kind, error, type, id, hook, resources or nil for all]
a     ended aborts: [resource, whether it succeeded] each
w     the hooks that did not run after all: each takes one intent back
====  =======================================================================================
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgpack

from karbor_actors.bank.database.records import unpack_record
from karbor_actors.errors import BankFormatError
from karbor_actors.model import AbortKind, AbortReason, HookName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from karbor_actors.errors import ResourceKey

_WHAT = "a journal record"


class StateChange(NamedTuple):
    """One key of a resource's state; *value* is packed, or None where it was deleted."""

    resource: int
    key: str
    value: bytes | None


class NewResource(NamedTuple):
    """What restore made of a resource; *value* is packed."""

    type: str
    id: str
    value: bytes


class ArtifactEntry(NamedTuple):
    """An external thing that a hook made, as it is now; *data* is packed."""

    id: int
    resource: int
    kind: str
    name: str
    status: str
    data: bytes


class AbortEnded(NamedTuple):
    """A resource's ``on_abort`` ended; if not *ok*, it is abort_pending."""

    resource: int
    ok: bool


@dataclass(frozen=True, slots=True)
class AbortDecision:
    """From now on, *resources* (None: all) can only be aborted."""

    reason: AbortReason
    resources: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """What one commit adds to an operation's journal."""

    intents: Sequence[int] = ()
    completions: Sequence[int] = ()
    state: Sequence[StateChange] = ()
    new_resources: Sequence[NewResource] = ()
    artifacts: Sequence[ArtifactEntry] = ()
    decisions: Sequence[AbortDecision] = ()
    aborts: Sequence[AbortEnded] = ()
    withdrawn: Sequence[int] = ()

    @classmethod
    def of_hooks(cls, intents: Sequence[int], completions: Sequence[int]) -> Self:
        """Return a record of hooks that are about to run, and of some that completed."""
        return cls(intents=intents, completions=completions)

    @classmethod
    def of_withdrawn(cls, hooks: Sequence[int]) -> Self:
        """Return a record of hooks whose intents were written, and that did not run after all."""
        return cls(withdrawn=hooks)

    @classmethod
    def of_changes(
        cls,
        resource: int,
        state: Mapping[str, bytes | None],
        new_resources: Mapping[ResourceKey, bytes],
    ) -> Self:
        """Return a record of what a hook wrote; the values are packed."""
        return cls(
            state=[StateChange(resource, key, value) for key, value in state.items()],
            new_resources=[NewResource(*key, value) for key, value in new_resources.items()],
        )

    @classmethod
    def of_artifact(
        cls,
        resource: int,
        artifact_id: int,
        kind: str,
        name: str,
        status: str,
        data: bytes,
    ) -> Self:
        """Return a record of an artifact as it is now; *data* is packed."""
        return cls(artifacts=(ArtifactEntry(artifact_id, resource, kind, name, status, data),))

    @classmethod
    def of_abort_decision(cls, reason: AbortReason, resources: Iterable[int] | None = None) -> Self:
        """Return a record of the decision to abort *resources*, or all."""
        chosen = None if resources is None else tuple(resources)
        return cls(decisions=(AbortDecision(reason, chosen),))

    @classmethod
    def of_abort(cls, resource: int, *, ok: bool) -> Self:
        """Return a record of a resource's abort that ended."""
        return cls(aborts=(AbortEnded(resource, ok),))

    @classmethod
    def joined(cls, records: Sequence[Self]) -> Self:
        """Return one record that says what *records* say, in their order."""
        if len(records) == 1:
            return records[0]
        parts: dict[str, list[Any]] = {name: [] for name in cls.__slots__}
        for record in records:
            for name, collected in parts.items():
                collected.extend(getattr(record, name))
        return cls(**parts)

    def pack(self) -> bytes:
        """Return the record as bytes."""
        said: dict[str, Any] = {}
        if self.intents:
            said["i"] = _pack_numbers(self.intents)
        if self.completions:
            said["c"] = _pack_numbers(self.completions)
        if self.state:
            said["s"] = self.state
        if self.new_resources:
            said["n"] = self.new_resources
        if self.artifacts:
            said["x"] = self.artifacts
        if self.decisions:
            said["d"] = [_pack_decision(decision) for decision in self.decisions]
        if self.aborts:
            said["a"] = self.aborts
        if self.withdrawn:
            said["w"] = _pack_numbers(self.withdrawn)
        packed: bytes = msgpack.packb(said, unicode_errors="surrogateescape")
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return the record that :meth:`pack` packed.

        Raises:
            BankFormatError: It is damaged.
        """
        record = unpack_record(packed, _WHAT)
        if not isinstance(record, dict):
            raise BankFormatError(f"{_WHAT} is damaged: it is no map")
        return cls(
            intents=_unpack_numbers(record.get("i", b"")),
            completions=_unpack_numbers(record.get("c", b"")),
            state=_tuples(record, "s", StateChange, (int, str, (bytes, type(None)))),
            new_resources=_tuples(record, "n", NewResource, (str, str, bytes)),
            artifacts=_tuples(record, "x", ArtifactEntry, (int, int, str, str, str, bytes)),
            decisions=[_unpack_decision(item) for item in _list(record.get("d", []))],
            aborts=_tuples(record, "a", AbortEnded, (int, bool)),
            withdrawn=_unpack_numbers(record.get("w", b"")),
        )


@dataclass(slots=True)
class JournalState:
    """What an operation had done when its journal ended."""

    attempts: dict[int, int] = field(default_factory=dict)
    """By hook that has begun: how often."""
    completed: set[int] = field(default_factory=set)
    """The hooks that completed."""
    state: dict[int, dict[str, bytes]] = field(default_factory=dict)
    """By resource: its packed state."""
    new_resources: dict[ResourceKey, bytes] = field(default_factory=dict)
    """By the original resource's key: packed."""
    artifacts: dict[int, ArtifactEntry] = field(default_factory=dict)
    """By id, as each is now."""
    decisions: list[AbortDecision] = field(default_factory=list)
    """The decisions to abort, in order."""
    aborts: dict[int, bool] = field(default_factory=dict)
    """By resource whose abort ended: whether it succeeded."""

    def add(self, record: JournalRecord) -> None:
        """Take the next record in."""
        for hook in record.intents:
            self._count(hook, 1)
        for hook in record.withdrawn:
            self._count(hook, -1)
        self.completed.update(record.completions)
        for resource, key, value in record.state:
            kept = self.state.setdefault(resource, {})
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        self.new_resources.update(((n.type, n.id), n.value) for n in record.new_resources)
        self.artifacts.update((artifact.id, artifact) for artifact in record.artifacts)
        self.decisions.extend(record.decisions)
        self.aborts.update(record.aborts)

    def _count(self, hook: int, attempts: int) -> None:
        count = self.attempts.get(hook, 0) + attempts
        if count:
            self.attempts[hook] = count
        else:
            del self.attempts[hook]


def replay(records: Iterable[JournalRecord]) -> JournalState:
    """Return what *records*, all of one operation in their order, amount to. Pure."""
    state = JournalState()
    for record in records:
        state.add(record)
    return state


def _pack_numbers(numbers: Sequence[int]) -> bytes:
    packed = array("I", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack_numbers(packed: object) -> Sequence[int]:
    if not isinstance(packed, bytes) or len(packed) % 4:
        raise BankFormatError(f"{_WHAT} is damaged: its hooks are no numbers")
    numbers = array("I", packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise BankFormatError(f"{_WHAT} is damaged: a list is missing")
    return value


def _tuples(record: dict[Any, Any], key: str, kind: Any, types: tuple[Any, ...]) -> list[Any]:
    """Return the items of a list in *record* as *kind*, each field of its type."""
    found = []
    for item in _list(record.get(key, [])):
        if len(_list(item)) != len(types) or not all(map(isinstance, item, types)):
            raise BankFormatError(f"{_WHAT} is damaged: an item of {key!r} has another shape")
        found.append(kind(*item))
    return found


def _pack_decision(decision: AbortDecision) -> list[Any]:
    reason = decision.reason
    resource_type, resource_id = reason.resource or (None, None)
    return [
        reason.kind.value,
        reason.error,
        resource_type,
        resource_id,
        None if reason.hook is None else reason.hook.value,
        None if decision.resources is None else _pack_numbers(decision.resources),
    ]


def _unpack_decision(item: object) -> AbortDecision:
    fields = _list(item)
    try:
        kind, error, resource_type, resource_id, hook, resources = fields
        reason = AbortReason(
            AbortKind(kind),
            str(error),
            None if resource_type is None else (str(resource_type), str(resource_id)),
            None if hook is None else HookName(hook),
        )
    except ValueError as error:
        raise BankFormatError(f"{_WHAT} is damaged: {error}") from error
    chosen = None if resources is None else tuple(_unpack_numbers(resources))
    return AbortDecision(reason, chosen)
