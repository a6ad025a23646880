"""What is outside of a simulated process: it outlives crashes, and remembers what it saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from karbor_actors.actors.simulated import SimulatedCrash
from karbor_actors.model import HOOKS, HookName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    span_ends: list[int | None]
    """By resource number: which of its hooks ends its critical span."""

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
            [_span_end(planned, number) for number in range(len(graph.nodes))],
        )


def _span_end(planned: PlannedOperation, resource: int) -> int | None:
    """Return which hook ends a critical span: ``held_until``, or the last one before it."""
    operation = planned.operations[resource]
    end = HOOKS.index(getattr(operation, "held_until", HookName.ON_PREPARE_FINISH))
    first = resource * len(HOOKS)
    return next((kind for kind in range(end, -1, -1) if planned.hook_kinds[first + kind]), None)


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
        self.commits: list[tuple[int, int]] = []
        """By durable commit of the first bank: the process, and how much had been logged."""
        self.disturbed: set[int] = set()
        """The processes in which messages or writes went wrong."""
        self.struck_aborts: set[int] = set()
        """The processes in which the actor of an abort was struck, so that the abort failed."""
        self.stalled: set[int] = set()
        """The processes whose machine stood still for a while."""
        self.cancels: dict[str, tuple[int, float]] = {}
        """By operation: in which process and when it was cancelled."""
        self.faults: list[tuple[str, str]] = []
        """(invariant, sentence): what the world itself saw go wrong."""
        self.trace: list[str] = []
        self.is_dead: Callable[[], bool] = lambda: False
        self.is_pending: Callable[[str], bool] = lambda _: False
        """Whether the journal says that an operation ended, and could not undo everything."""
        self.now: Callable[[], float] = lambda: 0.0
        self._keys: dict[str, tuple[str, str, str]] = {}
        self._key_of: dict[tuple[str, str, str], str] = {}
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
        self.entries.append(
            Entry(
                self.process,
                run.id,
                attempt.resource,
                str(attempt.hook),
                what,
                attempt.number,
                self.now(),
            )
        )
        name = seen.keys[attempt.resource]
        self.note(f"{what:6} {seen.label} {name}.{attempt.hook} attempt {attempt.number}")

    def blame(self, invariant: str, sentence: str) -> None:
        """Remember that something is wrong."""
        self.faults.append((invariant, sentence))
        self.note(f"WRONG  {invariant}: {sentence}")

    # -- what hooks see

    def enter(
        self,
        operation: str,
        resource: str,
        hook: str,
        context: Any,
        arguments: Mapping[str, Any],
        own: Sequence[str],
    ) -> None:
        """Look at what *hook*, one of its Operation's *own*, is given by the engine."""
        what = f"{self._labels.get(operation)} {resource}.{hook}"
        self._check_key(operation, resource, hook, context, what)
        seen = self.operations[operation]
        first = seen.keys.index(resource) * len(HOOKS)
        for earlier in own[: own.index(hook)]:
            if not seen.hook_kinds[first + HOOKS.index(HookName(earlier))]:
                continue  # an earlier delete had completed it
            if str(earlier) not in context.state:
                self.blame("kept", f"{what}: the state that {earlier} set is gone")
            is_mapped = seen.verb == "restore" and earlier == HookName.ON_MAIN
            if is_mapped and resource not in arguments["new_resources"]:
                self.blame("kept", f"{what}: the new resource that {earlier} set is gone")

    def enter_abort(
        self,
        operation: str,
        resource: str,
        context: Any,
        arguments: Mapping[str, Any],
        *,
        has_artifact: bool,
    ) -> None:
        """Look at what an ``on_abort`` is given by the engine."""
        what = f"{self._labels.get(operation)} {resource}.on_abort"
        self._check_key(operation, resource, "on_abort", context, what)
        seen = self.operations[operation]
        number = seen.keys.index(resource)
        own = [e for e in self.entries if (e.operation, e.resource) == (operation, number)]
        began = {e.hook for e in own if e.what == "start"} - {"on_abort"}
        done = {e.hook for e in own if e.what in ("end", "done")}
        if missing := began - set(map(str, arguments["began"])):
            self.blame("kept", f"{what} is not told that {min(missing)} began")
        if strange := set(map(str, arguments["completed"])) - done:
            self.blame("kept", f"{what} is told that {min(strange)} completed")
        name = f"{operation}/{resource}"
        told = {artifact.name for artifact in arguments["artifacts"]}
        if has_artifact and name in self.snapshots and name not in told:
            self.blame("kept", f"{what} is not told of its snapshot")

    def _check_key(self, operation: str, resource: str, hook: str, context: Any, what: str) -> None:
        key, place = context.idempotency_key, (operation, resource, hook)
        if self._keys.setdefault(key, place) != place or self._key_of.setdefault(place, key) != key:
            self.blame("attempts", f"{what} has another idempotency key than before, or another's")

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
