"""What is outside of a simulated process: it outlives crashes, and remembers what it saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from karbor_actors.actors.simulated import SimulatedCrash

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.operations.attempt import Attempt
    from karbor_actors.operations.planning import PlannedOperation


class Entry(NamedTuple):
    """Something that happened to one attempt of a hook."""

    process: int
    """Which process, from 0."""
    operation: str
    resource: int
    hook: str
    what: str
    """``begin``: the engine let it begin. ``start``: its body began. ``end``: the body returned.
    ``done``, ``failed``: it was reported, and the engine had not given it up. ``late``: had."""
    attempt: int
    key: str
    """The idempotency key."""
    time: float


@dataclass(slots=True)
class OperationSeen:
    """What is known of one operation from its first attempt on."""

    verb: str
    on_failure: str
    keys: list[str]
    """The ids of its resources, by number."""
    children: list[list[int]]
    hook_kinds: bytes
    abort_kinds: bytes
    label: str
    types: list[str]
    groups: list[tuple[str, ...]]
    """By resource number: what its hooks count against."""
    held: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, planned: PlannedOperation, label: str) -> OperationSeen:
        """Return what *planned* says."""
        graph = planned.graph
        offsets, targets = graph.child_offsets, graph.child_targets
        return cls(
            str(planned.type),
            str(planned.on_failure),
            [node.id for node in graph.nodes],
            [
                list(targets[offsets[number] : offsets[number + 1]])
                for number in range(len(graph.nodes))
            ],
            bytes(planned.hook_kinds),
            bytes(planned.abort_kinds),
            label,
            [node.type for node in graph.nodes],
            [tuple(getattr(operation, "cap_groups", ())) for operation in planned.operations],
        )


class World:
    """Frozen things, snapshots, and the log. One thread.

    What a dead process still tries is refused.
    """

    def __init__(self) -> None:
        self.process = -1
        self.frozen: dict[tuple[str, str], bool] = {}
        """By resource id and operation: whether it froze when the engine had given it up."""
        self.is_late = False
        """Whether the body that runs now has been given up."""
        self.snapshots: dict[str, str] = {}
        """By name: the operation that made it."""
        self.written: dict[tuple[str, str], bytes] = {}
        """By operation and resource id: what its checkpoint must hold."""
        self.entries: list[Entry] = []
        self.operations: dict[str, OperationSeen] = {}
        self.faults: list[tuple[str, str]] = []
        """(invariant, sentence): what the world itself saw go wrong."""
        self.trace: list[str] = []
        self.is_dead: Callable[[], bool] = lambda: False
        self.is_pending: Callable[[str], bool] = lambda _: False
        """Whether the journal says that an operation ended, and could not undo everything."""
        self.now: Callable[[], float] = lambda: 0.0
        self._labels: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def digest(self) -> str:
        """Return a digest of the trace."""
        whole = hashlib.blake2b(digest_size=8)
        for line in self.trace:
            whole.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return whole.hexdigest()

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.process} {self.now():9.3f} {line}")

    def label(self, operation: str, verb: str) -> str:
        """Return a name for an operation that is the same in each run of a seed."""
        if operation not in self._labels:
            self._counts[verb] = self._counts.get(verb, 0) + 1
            self._labels[operation] = f"{verb}-{self._counts[verb]}"
        return self._labels[operation]

    def log(self, attempt: Attempt, what: str) -> None:
        """Remember that *what* happened to *attempt*."""
        run = attempt.run
        seen = self.operations.get(run.id)
        if seen is None:
            label = self.label(run.id, str(run.type))
            seen = self.operations[run.id] = OperationSeen.of(run.planned, label)
        key = f"{run.id}-{attempt.resource}-{attempt.hook}"
        self.entries.append(
            Entry(
                self.process,
                run.id,
                attempt.resource,
                str(attempt.hook),
                what,
                attempt.number,
                key,
                self.now(),
            )
        )
        name = seen.keys[attempt.resource]
        self.note(f"{what:6} {seen.label} {name}.{attempt.hook} attempt {attempt.number}")

    def blame(self, invariant: str, sentence: str) -> None:
        """Remember that something is wrong."""
        self.faults.append((invariant, sentence))
        self.note(f"WRONG  {invariant}: {sentence}")

    # -- what hooks do

    def freeze(self, resource: str, operation: str) -> None:
        """Freeze *resource* for *operation*; twice is once."""
        self._act(f"freeze {resource}")
        for (name, holder), is_late in self.frozen.items():
            if name != resource or holder == operation or is_late or self.is_late:
                continue
            if not self.is_pending(holder):
                both = f"{self._labels.get(holder)} and {self._labels.get(operation)}"
                self.blame("exclusive", f"{both} hold {resource} at the same time")
        self.frozen[resource, operation] = self.is_late

    def thaw(self, resource: str, operation: str) -> None:
        """Thaw *resource*, if *operation* froze it."""
        self._act(f"thaw {resource}")
        self.frozen.pop((resource, operation), None)

    def make_snapshot(self, name: str, operation: str) -> None:
        """Make a snapshot; twice is once."""
        self._act("snapshot")
        self.snapshots[name] = operation

    def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot, if it is there."""
        self._act("delete snapshot")
        self.snapshots.pop(name, None)

    def _act(self, what: str) -> None:
        if self.is_dead():
            raise SimulatedCrash
        self.note(f"       {what}")
