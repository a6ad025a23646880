"""What hooks keep while an operation runs: state, new_resources, artifacts.

A hook's changes are visible to its own attempt at once, to others when they are durable:
with the hook's completion, or earlier by ``flush()``. A failed attempt's unflushed changes
are dropped. Values are kept packed, so that nobody shares a mutable value.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.checkpoints.resource_rows import KeptArtifact
from karbor_actors.bank.database.records import pack_record, unpack_record
from karbor_actors.errors import PluginError, describe_key, describe_value
from karbor_actors.operations.hooks.artifacts import ArtifactRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.bank.journal.records import JournalState
    from karbor_actors.errors import ResourceKey
    from karbor_actors.graph import ResourceGraph

_ABSENT = object()
ENGINE_KEY = "\0"
"""What the engine's own keys in a resource's state begin with; no plugin sees them."""
CONSISTENCY_KEY = ENGINE_KEY + "consistency"
PREPARED_KEY = ENGINE_KEY + "prepared"
"""Where the first resource's state keeps when the last prepare hook ended."""


def _value(packed: bytes) -> Any:
    """Return a fresh copy of a value that was kept."""
    return unpack_record(packed, "what a hook kept")


@dataclass(slots=True)
class Changes:
    """What one attempt of a hook wrote and has not made durable yet."""

    state: dict[str, bytes | None] = field(default_factory=dict)
    """State by key; None where the key was deleted."""
    new_resources: dict[ResourceKey, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.state or self.new_resources)


class Memory:
    """The durable part of all hooks' state of one operation. Safe from any thread."""

    def __init__(self, graph: ResourceGraph) -> None:
        self._graph = graph
        self._lock = threading.Lock()
        self._states: dict[int, dict[str, bytes]] = {}
        self._new_resources: dict[ResourceKey, bytes] = {}
        self.artifacts: dict[int, list[ArtifactRecord]] = {}
        """By resource."""
        self._last_artifact = 0

    def restore(self, journal: JournalState) -> None:
        """Take in what an earlier process made durable."""
        with self._lock:
            self._states = {n: dict(state) for n, state in journal.state.items()}
            self._new_resources = dict(journal.new_resources)
            for entry in journal.artifacts.values():
                record = ArtifactRecord(entry.id, entry.resource, entry.kind, entry.name)
                record.status, record.data = entry.status, entry.data
                self.artifacts.setdefault(entry.resource, []).append(record)
                self._last_artifact = max(self._last_artifact, entry.id)

    def apply(self, resource: int, changes: Changes) -> None:
        """Make *changes* of *resource*'s hook visible to all; they are durable."""
        with self._lock:
            if changes.state:
                state = self._states.setdefault(resource, {})
                for key, value in changes.state.items():
                    if value is None:
                        state.pop(key, None)
                    else:
                        state[key] = value
            self._new_resources.update(changes.new_resources)

    def state_value(self, resource: int, key: str) -> bytes | None:
        """Return the packed value, or None."""
        with self._lock:
            return self._states.get(resource, {}).get(key)

    def state_keys(self, resource: int) -> list[str]:
        """Return the plugin's keys of *resource*'s durable state."""
        with self._lock:
            return [key for key in self._states.get(resource, ()) if not key.startswith(ENGINE_KEY)]

    def consistencies(self) -> dict[int, tuple[str, str]]:
        """Return (level, cause) of each resource whose hooks said how consistent its data is."""
        with self._lock:
            kept = {n: state.get(CONSISTENCY_KEY) for n, state in self._states.items()}
        return {n: tuple(_value(packed)) for n, packed in kept.items() if packed is not None}

    def prepared_at(self) -> float | None:
        """Return when an earlier process's last prepare hook ended, as it is recorded."""
        packed = self.state_value(0, PREPARED_KEY)
        return None if packed is None else float(_value(packed))

    def new_resource(self, key: ResourceKey) -> bytes | None:
        """Return the packed new id, or None."""
        with self._lock:
            return self._new_resources.get(key)

    def new_resource_keys(self) -> list[ResourceKey]:
        """Return the keys for which a new resource is known."""
        with self._lock:
            return list(self._new_resources)

    def new_resources(self) -> dict[ResourceKey, Any]:
        """Return a copy: the new id by the original resource's key."""
        with self._lock:
            return {key: _value(value) for key, value in self._new_resources.items()}

    def add_artifact(self, resource: int, kind: str, name: str) -> ArtifactRecord:
        """Return *resource*'s artifact of that kind and name, a new one if there is none any more.

        A hook that runs again names the same thing again: it is one thing all the same, also if
        an earlier attempt had come as far as to keep it.
        """
        with self._lock:
            known = self.artifacts.setdefault(resource, [])
            for record in known:
                if (record.kind, record.name) == (kind, name) and record.status != "released":
                    return record
            self._last_artifact += 1
            record = ArtifactRecord(self._last_artifact, resource, kind, name)
            known.append(record)
            return record

    def outstanding(self, resource: int) -> list[ArtifactRecord]:
        """Return *resource*'s artifacts that are neither released nor kept."""
        with self._lock:
            known = self.artifacts.get(resource, ())
            return [record for record in known if record.status == "outstanding"]

    def kept(self) -> dict[int, list[KeptArtifact]]:
        """Return the artifacts that belong to the checkpoint, by resource."""
        with self._lock:
            kept = {
                resource: [
                    KeptArtifact(record.kind, record.name, record.unpacked())
                    for record in known
                    if record.status == "kept"
                ]
                for resource, known in self.artifacts.items()
            }
        return {resource: artifacts for resource, artifacts in kept.items() if artifacts}

    def find_key(self, key: object, own: ResourceKey, *, sets: bool = False) -> ResourceKey:
        """Return the (type, id) that *key*, a pair or a bare id, means to *own*'s hook.

        A bare id that no resource has is something within *own*'s: Karbor's network plugin
        files each network, subnet and port of its one resource by name.

        Args:
            key: A pair or a bare id.
            own: The resource whose hook asks.
            sets: Whether a shared id may mean that of *own*'s type.

        Raises:
            PluginError: Several types share the id.
        """
        if isinstance(key, tuple) and len(key) == 2:  # noqa: PLR2004 - (type, id)
            return (str(key[0]), str(key[1]))
        found = self._graph.keys_by_id(str(key))
        if not found:
            return (own[0], str(key))
        if len(found) == 1:
            return found[0]
        if sets:
            for candidate in found:
                if candidate[0] == own[0]:
                    return candidate
        shared = ", ".join(map(describe_key, found))
        msg = f"new_resources: the id {key!r} is shared by {shared}; use (type, id)"
        raise PluginError(msg)


class HookState(MutableMapping[str, Any]):
    """``context.state``: one resource's state, as one attempt of a hook sees and writes it.

    Values are what msgpack can hold; reading gives a copy. Only that hook's thread (or task)
    may use it.
    """

    __slots__ = ("_changes", "_check", "_flush", "_memory", "_resource")

    def __init__(
        self,
        memory: Memory,
        resource: int,
        changes: Changes,
        flush: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        self._memory, self._resource, self._changes = memory, resource, changes
        self._flush, self._check = flush, check

    def __getitem__(self, key: str) -> Any:
        value = self._changes.state.get(key, _ABSENT)
        if value is _ABSENT:
            value = self._memory.state_value(self._resource, key)
        if not isinstance(value, bytes):
            raise KeyError(key)
        return _value(value)

    def __setitem__(self, key: str, value: Any) -> None:
        self._check()
        if not isinstance(key, str) or key.startswith(ENGINE_KEY):
            expected = "a string that does not begin with NUL"
            raise PluginError(f"a key of context.state is {expected}, not {describe_value(key)}")
        self._changes.state[key] = pack_record(value, f"context.state[{describe_value(key)}]")

    def __delitem__(self, key: str) -> None:
        self._check()
        if key not in self:
            raise KeyError(key)
        self._changes.state[key] = None

    def __contains__(self, key: object) -> bool:
        if key in self._changes.state:
            return self._changes.state[str(key)] is not None
        return isinstance(key, str) and self._memory.state_value(self._resource, key) is not None

    def __iter__(self) -> Iterator[str]:
        changed = self._changes.state
        yield from [k for k in self._memory.state_keys(self._resource) if k not in changed]
        yield from [
            key
            for key, value in list(changed.items())
            if value is not None and not key.startswith(ENGINE_KEY)
        ]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def flush(self) -> None:
        """Make what was set so far durable now; blocks until it is.

        Raises:
            FencedError: The engine gave this hook up.
            BankError: The bank cannot write.
        """
        self._check()
        self._flush()

    async def aflush(self) -> None:
        """Do :meth:`flush` without blocking the event loop."""
        await asyncio.to_thread(self.flush)


class FrozenState(Mapping[str, Any]):
    """``context.state_of(key)``: another resource's durable state, for reading."""

    __slots__ = ("_memory", "_resource")

    def __init__(self, memory: Memory, resource: int) -> None:
        self._memory, self._resource = memory, resource

    def __getitem__(self, key: str) -> Any:
        value = self._memory.state_value(self._resource, key)
        if value is None:
            raise KeyError(key)
        return _value(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._memory.state_keys(self._resource))

    def __len__(self) -> int:
        return len(self._memory.state_keys(self._resource))


class NewResources(MutableMapping[Any, Any]):
    """``new_resources``: the original resource -> what restore made of it.

    ``m[id]`` and ``m[(type, id)]`` both do; a bare id that several types share means the
    writer's own type when set, and is refused when read; one that no resource has is filed
    under the writer's own type. Nothing can be deleted.
    """

    __slots__ = ("_changes", "_check", "_flush", "_memory", "_own")

    def __init__(
        self,
        memory: Memory,
        own: ResourceKey,
        changes: Changes,
        flush: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        self._memory, self._own, self._changes = memory, own, changes
        self._flush, self._check = flush, check

    def __getitem__(self, key: Any) -> Any:
        found = self._memory.find_key(key, self._own)
        value = self._changes.new_resources.get(found) or self._memory.new_resource(found)
        if value is None:
            raise KeyError(key)
        return _value(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check()
        found = self._memory.find_key(key, self._own, sets=True)
        self._changes.new_resources[found] = pack_record(value, f"new_resources[{key!r}]")

    def __delitem__(self, key: Any) -> None:
        msg = f"new_resources[{key!r}] cannot be deleted: what a restore made stays known"
        raise PluginError(msg)

    def __iter__(self) -> Iterator[ResourceKey]:
        own = list(self._changes.new_resources)  # the hook's other threads may set some
        yield from own
        yield from [key for key in self._memory.new_resource_keys() if key not in own]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def flush(self) -> None:
        """Make what was set so far durable now; as ``context.state.flush()``."""
        self._check()
        self._flush()

    async def aflush(self) -> None:
        """Do :meth:`flush` without blocking the event loop."""
        await asyncio.to_thread(self.flush)
