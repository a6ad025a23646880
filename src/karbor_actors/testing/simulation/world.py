"""What is outside of a simulated process: it outlives crashes, and remembers what it saw."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from karbor_actors.actors.simulated import SimulatedCrash
from karbor_actors.model import HOOKS, HookName
from karbor_actors.testing.simulation.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from karbor_actors.operations.hooks.attempt import Attempt
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
    ``done``, ``failed``: it was reported, and the engine had not given it up. ``late``: had.
    ``killed``: its process died under it."""
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
    resumable: bytes = b""
    """By resource number: whether a protect of it can go on in another process."""
    checkpoint: str = ""
    """The id of the checkpoint that it makes or uses."""

    @classmethod
    def of(cls, planned: PlannedOperation, label: str, checkpoint: str) -> OperationSeen:
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
            bytes(getattr(operation, "resumable", True) for operation in planned.operations),
            checkpoint,
        )

    def edges(self) -> dict[str, frozenset[str]]:
        """Return the graph by ids: the children of each resource."""
        return {
            key: frozenset(self.keys[child] for child in children)
            for key, children in zip(self.keys, self.children, strict=True)
        }


def _span_end(planned: PlannedOperation, resource: int) -> int | None:
    """Return which hook ends a critical span: ``held_until``, or the last one before it."""
    operation = planned.operations[resource]
    end = HOOKS.index(getattr(operation, "held_until", HookName.ON_PREPARE_FINISH))
    first = resource * len(HOOKS)
    return next((kind for kind in range(end, -1, -1) if planned.hook_kinds[first + kind]), None)


@dataclass
class World:
    """Frozen things, snapshots, and the log. One thread.

    What a dead process still tries is refused.
    """

    process: int = -1
    frozen: dict[tuple[str, str], bool] = field(default_factory=dict)
    """By resource id and operation: whether it froze when the engine had given it up."""
    is_late: bool = False
    """Whether the body that runs now has been given up."""
    snapshots: dict[str, str] = field(default_factory=dict)
    """By name: the operation that made it."""
    written: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By operation and resource id: what its checkpoint must hold."""
    entries: list[Entry] = field(default_factory=list)
    operations: dict[str, OperationSeen] = field(default_factory=dict)
    commits: list[tuple[int, int]] = field(default_factory=list)
    """By durable commit of the first bank: the process, and how much had been logged."""
    disturbed: set[int] = field(default_factory=set)
    """The processes in which messages or writes went wrong."""
    struck_aborts: set[int] = field(default_factory=set)
    """The processes in which the actor of an abort was struck, so that the abort failed."""
    stalled: set[int] = field(default_factory=set)
    """The processes whose machine stood still for a while."""
    cancels: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By operation: in which process and when it was cancelled."""
    decided: dict[str, int] = field(default_factory=dict)
    """By operation that was cancelled: in which process the engine said that this is durable."""
    starts: Counter[tuple[int, str]] = field(default_factory=Counter)
    """By process and operation: how often it was begun, or taken up."""
    releases: list[tuple[int, int, str]] = field(default_factory=list)
    """As operations give their locks back: the process, how much had been logged, which one."""
    hung: set[int] = field(default_factory=set)
    """The processes in which a body stood still until it was given up, or for ever."""
    failures: set[tuple[int, str]] = field(default_factory=set)
    """By process: the operations that were said to have failed, or to be cancelled."""
    closed: set[int] = field(default_factory=set)
    """The processes whose service was closed in the middle of operations."""
    timed: set[str] = field(default_factory=set)
    """The operations that were given a time limit."""
    recovered: set[tuple[int, str]] = field(default_factory=set)
    """By process: the operations that it took up before anything else could begin."""
    queued: set[tuple[int, str]] = field(default_factory=set)
    """By process: the operations that have asked for their locks."""
    turns: dict[tuple[int, str], int] = field(default_factory=dict)
    """By process and operation, once it has begun a hook: when it had asked for its locks."""
    history: History = field(default_factory=History)
    """What there was to be protected, and when that changed."""
    resumed: set[tuple[int, str, int]] = field(default_factory=set)
    """The process, operation and resource number of each ``on_resume`` that was called."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(invariant, sentence): what the world itself saw go wrong."""
    trace: list[str] = field(default_factory=list)
    is_dead: Callable[[], bool] = field(default=lambda: False)
    is_pending: Callable[[str], bool] = field(default=lambda _: False)
    """Whether the journal says that an operation ended, and could not undo everything."""
    on_commit: Callable[[], None] = field(default=lambda: None)
    """Called as something is about to become durable."""
    is_undo_recorded: Callable[[str, int], bool] = field(default=lambda *_: True)
    """Whether it is durable that an operation's resource, by number, is to be undone."""
    now: Callable[[], float] = field(default=lambda: 0.0)
    _known: set[tuple[int, str]] = field(default_factory=set)
    _queued: dict[str, int] = field(default_factory=dict)
    _queue_length: int = 0
    _keys: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    _key_of: dict[tuple[str, str, str], str] = field(default_factory=dict)
    _labels: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

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
        if (self.process, run.id) not in self._known:
            self._known.add((self.process, run.id))
            self.turns[self.process, run.id] = self._queued.get(run.id, 0)
            label = self.label(run.id, str(run.type))
            now = OperationSeen.of(run.planned, label, run.checkpoint.id)
            if seen is None:
                seen = self.operations[run.id] = now
                is_new = (self.process, run.id) not in self.recovered  # else it has kept its own
                if is_new and (wrong := self.history.why_stale(run.id, now)):
                    self.blame("fresh", wrong)
            elif now.edges() != seen.edges() or now.keys != seen.keys:
                self.blame(
                    "fresh", f"{label} goes on over another graph than the one it began with"
                )
        assert seen is not None
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
        if (what, attempt.hook, attempt.number) == ("begin", HookName.ON_ABORT, 1):
            self._check_decision(seen, run.id, attempt.resource)
        name = seen.keys[attempt.resource]
        self.note(f"{what:6} {seen.label} {name}.{attempt.hook} attempt {attempt.number}")

    def _check_decision(self, seen: OperationSeen, operation: str, resource: int) -> None:
        """An abort begins once it is recorded that it will, unless the bank could not write."""
        if self.process not in self.stalled and not self.is_undo_recorded(operation, resource):
            what = f"{seen.label} {seen.keys[resource]}.on_abort"
            self.blame("decided", f"{what} began before it was recorded that it will")

    def queue(self, operation: str) -> None:
        """Remember that *operation* asks for its locks; again, it keeps its turn."""
        self.queued.add((self.process, operation))
        if operation not in self._queued:
            self._queue_length += 1
            self._queued[operation] = self._queue_length
            self.history.queue(operation)

    def leave_queue(self, operation: str) -> None:
        """Remember that *operation* has, and waits for, no locks any more."""
        self._queued.pop(operation, None)

    def release(self, operation: str) -> None:
        """Remember that *operation* ends, and gives its locks back."""
        self.releases.append((self.process, len(self.entries), operation))
        self.history.release(self.operations.get(operation))

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
        *,
        has_resume: bool = False,
    ) -> None:
        """Look at what *hook*, one of its Operation's *own*, is given by the engine."""
        what = f"{self._labels.get(operation)} {resource}.{hook}"
        self._check_key(operation, resource, hook, context, what)
        seen = self.operations[operation]
        if has_resume:
            self._check_resumed(operation, seen.keys.index(resource), what)
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

    def take_up(self, operation: str, resource: str) -> None:
        """Remember that an ``on_resume`` was called."""
        number = self.operations[operation].keys.index(resource)
        self.resumed.add((self.process, operation, number))

    def _check_resumed(self, operation: str, resource: int, what: str) -> None:
        """What began in an earlier process, and is known to have, is taken up before it goes on."""
        is_known = self.operations[operation].abort_kinds[resource]
        began = any(
            (e.operation, e.resource) == (operation, resource)
            and e.process < self.process
            and e.hook != "on_abort"
            for e in self.entries
        )
        if is_known and began and (self.process, operation, resource) not in self.resumed:
            self.blame("kept", f"{what} goes on although on_resume was not called")

    def _check_key(self, operation: str, resource: str, hook: str, context: Any, what: str) -> None:
        key, place = context.idempotency_key, (operation, resource, hook)
        if self._keys.setdefault(key, place) != place or self._key_of.setdefault(place, key) != key:
            self.blame("attempts", f"{what} has another idempotency key than before, or another's")

    # -- what hooks do

    @contextmanager
    def living(self, *, is_late: bool) -> Iterator[None]:
        """Within, a body runs; one that waits for the bank has others run within it.

        Args:
            is_late: Whether the engine had given it up when it began.
        """
        outer, self.is_late = self.is_late, is_late
        try:
            yield
        finally:
            self.is_late = outer

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

    def write(self, what: str) -> None:
        """Have written something to the bank, which a body that was given up must not."""
        if self.is_late:
            self.blame("bounded", f"a body that was given up wrote {what}")

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
