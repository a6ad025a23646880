"""What to do with an operation that its process did not end: pure decisions.

Read from the operation's record and journal: what is open is aborted, the rest goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.journal.records import AbortDecision
from karbor_actors.errors import CannotResumeError, describe_cause
from karbor_actors.model import (
    HOOKS,
    AbortKind,
    AbortReason,
    HookName,
    OnFailure,
    OperationStatus,
    OperationType,
)
from karbor_actors.operations.recovery.suspension import is_resumable, span_end
from karbor_actors.plugins import is_raised_by_plugin
from karbor_actors.schedule import HOOKS_PER_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.bank.journal.records import JournalState
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.verbs.options import CallOptions

MAX_RECOVERIES = 5
"""How often an operation is taken up again before it is aborted."""
RECOVERIES, STARTS = "recoveries", "starts"
"""Where an operation's record counts how often a process died of it; and began or took it up."""
VERSIONS, GRAPH = "state versions", "graph"
"""Where it keeps each type's state_version; and the graph's digest."""
RAN, TIMEOUT, DEADLINE = "seconds run", "timeout", "deadline"
"""Where it keeps its times."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """An operation that an earlier process left unfinished."""

    record: OperationRecord
    journal: JournalState
    must_abort: bool = False
    """Whether it was said from outside that it is to be aborted."""
    must_ask: bool = False
    """Whether it is left suspended if it could go on."""
    is_final: bool = False
    """Whether it was said of this very operation that it is to end, whatever it waits for."""

    @property
    def count(self) -> int:
        """How often it has been taken up before, and its process died."""
        count = self.record.extra.get(RECOVERIES, 0)
        return count if isinstance(count, int) else 0

    @property
    def starts(self) -> int:
        """How many processes have had it."""
        starts = self.record.extra.get(STARTS)
        return starts if isinstance(starts, int) else self.count + 1

    @property
    def status_now(self) -> OperationStatus:
        """What the record is to say while it runs: one that had ended only undoes what is pending."""
        status = self.record.status
        return status if status.is_terminal else OperationStatus.RUNNING

    def counts_now(self) -> dict[str, int]:
        """Return what the record is to count, now that it is taken up again."""
        return {RECOVERIES: self.count + 1, STARTS: self.starts + 1}

    def begun_resources(self) -> set[int]:
        """Return the resources of which a hook has begun and no abort succeeded."""
        hooks = [*self.journal.attempts, *self.journal.completed]
        undone = {resource for resource, ok in self.journal.aborts.items() if ok}
        return {hook // HOOKS_PER_RESOURCE for hook in hooks} - undone

    def began(self, resource: int) -> frozenset[HookName]:
        """Return the hooks of *resource* that the journal says have begun."""
        return frozenset(
            name
            for name, hook in _own_hooks(resource)
            if hook in self.journal.attempts or hook in self.journal.completed
        )

    def completed(self, resource: int) -> frozenset[HookName]:
        """Return the hooks of *resource* that had completed."""
        return frozenset(n for n, hook in _own_hooks(resource) if hook in self.journal.completed)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a recovered operation."""

    reason: AbortReason | None = None
    """Why everything that began is undone; None if something may go on."""
    decided: tuple[AbortDecision, ...] = ()
    """What had been decided of some resources before, and stays so."""
    parts: tuple[AbortDecision, ...] = ()
    """What is decided now of some resources: parts of the graph that cannot go on."""
    is_over: bool = False
    """Whether the operation had ended: only aborts that were pending are left to do."""
    held: frozenset[int] = frozenset()
    """The resources that are held, and that nobody undoes: what holds them goes on."""

    @property
    def must_undo(self) -> bool:
        """Whether something is to be undone, whatever becomes of the rest."""
        return self.is_over or self.reason is not None or bool(self.decided or self.parts)

    @property
    def may_stand_still(self) -> bool:
        """Whether it can be left as it is: nothing is to be undone, and nothing is held."""
        return not self.must_undo and not self.held


def decide(planned: PlannedOperation, found: Recovered) -> Verdict:
    """Return what becomes of *found*.

    - What had been decided stays decided.
    - A protect with an open critical span has lost its point in time. Another verb goes on with
      one; but not where somebody is to be asked, who may take his time.
    - A protect whose Operation keeps state in its own attributes cannot go on; nor can an
      operation whose state its plugin cannot read any more.
    - What no plugin handles any more, or with parameters that do not fit any more, cannot either.
    - With ``on_failure="isolate"`` that concerns only the connected part of the graph.

    Args:
        planned: The operation, as its plugins plan it now.
        found: What it left.
    """
    decided = tuple(d for d in found.journal.decisions if d.resources is not None)
    whole = next((d.reason for d in found.journal.decisions if d.resources is None), None)
    if found.record.status.is_terminal:
        if whole is None and found.record.status is not OperationStatus.PARTIAL:
            # The bank could not record the decision, or it was made of parts that are all there is.
            whole = AbortReason(AbortKind.CRASH, "what it began could not be undone before")
        return Verdict(whole, decided, is_over=True)
    if whole is None and found.must_abort:
        whole = AbortReason(AbortKind.CRASH, "its process ended before it was undone")
    if whole is None and planned.why_stale:
        whole = AbortReason(AbortKind.CRASH, planned.why_stale)
    if whole is None and found.count >= MAX_RECOVERIES:
        whole = AbortReason(AbortKind.CRASH, f"it was taken up {found.count} times in vain")
    if whole is not None:
        return Verdict(whole, decided)
    lost = {resource for decision in decided for resource in decision.resources or ()}
    stuck = {
        resource: reason
        for resource in sorted((_touched(found) | planned.lost.keys()) - lost)
        if (reason := _why_stuck(planned, found, resource)) is not None
    }
    if not stuck:
        return Verdict(decided=decided, held=_held(planned, found, lost))
    if planned.on_failure is OnFailure.ABORT:
        return Verdict(next(iter(stuck.values())), decided)
    parts = tuple(_parts(planned.graph, stuck))
    lost |= {resource for part in parts for resource in part.resources or ()}
    return Verdict(decided=decided, parts=parts, held=_held(planned, found, lost))


def _touched(found: Recovered) -> set[int]:
    hooks = [*found.journal.attempts, *found.journal.completed]
    return {hook // HOOKS_PER_RESOURCE for hook in hooks}


def _why_stuck(planned: PlannedOperation, found: Recovered, resource: int) -> AbortReason | None:
    """Return why a begun *resource* cannot go on, or None if it can."""
    key = planned.graph.nodes[resource].key
    if resource in planned.lost:
        return AbortReason(AbortKind.CRASH, planned.lost[resource], key)
    if (unreadable := planned.unreadable.get(key[0])) is not None:
        return AbortReason(AbortKind.CRASH, unreadable, key)
    is_protect = found.record.type is OperationType.PROTECT
    loses_it = is_protect or (found.must_ask and planned.abort_kinds[resource])
    if loses_it and _is_open(planned, found, resource):
        why = "its process ended while this resource was held"
        return AbortReason(AbortKind.CRASH, why, key)
    if not is_protect:
        return None
    operation = planned.operations[resource]
    if operation is not None and not is_resumable(operation):
        why = "its process ended, and the plugin kept state in memory only"
        return AbortReason(AbortKind.CRASH, why, key)
    return None


def unreadable_states(
    found: Recovered, plugins: Mapping[str, Any], types: Iterable[str]
) -> dict[str, str]:
    """Return why the plugins of some *types* cannot go on with the state that they kept. A worker.

    Args:
        found: What was left.
        plugins: The protection plugin by resource type.
        types: Those of the resources.
    """
    versions, unreadable = found.record.extra.get(VERSIONS), {}
    if not isinstance(versions, dict):
        return {}
    for kind in types:
        version, plugin = versions.get(kind), plugins.get(kind)
        if version is None:
            continue
        try:
            if version != getattr(plugin, "state_version", 1) and not _can_resume(plugin, version):
                why = "its plugin cannot go on with the state that an older release of it kept"
                unreadable[kind] = why
        except BaseException as error:  # plugin code: what began is undone, with its sentence
            if not is_raised_by_plugin(error):
                raise
            unreadable[kind] = (
                f"its plugin cannot say whether it can go on: {describe_cause(error)}"
            )
    return unreadable


def _can_resume(plugin: Any, version: int) -> bool:
    can_resume = getattr(plugin, "can_resume", None)
    return can_resume is not None and bool(can_resume(version))


def _parts(graph: ResourceGraph, stuck: Mapping[int, AbortReason]) -> Iterator[AbortDecision]:
    """Yield a decision for each connected part of *graph* that has a stuck resource."""
    seen: set[int] = set()
    for resource, reason in stuck.items():
        if resource in seen:
            continue
        part = [resource]
        seen.add(resource)
        for member in part:  # grows while it is walked
            for near in (*graph.children(member), *graph.parents(member)):
                if near not in seen:
                    seen.add(near)
                    part.append(near)
        yield AbortDecision(reason, tuple(sorted(part)))


def _held(planned: PlannedOperation, found: Recovered, lost: set[int]) -> frozenset[int]:
    """Return the resources that something is to be undone of, in an open span; not the *lost*."""
    touched = (r for r in _touched(found) - lost if planned.abort_kinds[r])
    return frozenset(r for r in touched if _is_open(planned, found, r))


def _is_open(planned: PlannedOperation, found: Recovered, resource: int) -> bool:
    """Return whether *resource*'s critical span had begun and not ended."""
    end = span_end(planned, resource)
    if end is None or end in found.journal.completed:
        return False
    first = resource * HOOKS_PER_RESOURCE
    return any(
        hook in found.journal.attempts or hook in found.journal.completed
        for hook in range(first, end + 1)
    )


def _own_hooks(resource: int) -> Iterator[tuple[HookName, int]]:
    first = resource * HOOKS_PER_RESOURCE
    return zip(HOOKS, range(first, first + HOOKS_PER_RESOURCE), strict=True)


def conditions_of(
    planned: PlannedOperation, plugins: Mapping[str, Any], options: CallOptions
) -> dict[str, Any]:
    """Return what an operation's record keeps for a later process to go on."""
    types = {resource.type for resource in planned.graph.nodes}
    versions = {kind: getattr(plugins[kind], "state_version", 1) for kind in sorted(types)}
    times = {TIMEOUT: options.timeout, DEADLINE: options.deadline}
    kept = {VERSIONS: versions, RECOVERIES: 0, STARTS: 1}
    return kept | {name: t for name, t in times.items() if t is not None}


def call_parameters(record: OperationRecord) -> dict[str, dict[str, Any]]:
    """Return the parameters that the call gave; what is no table is left out."""
    return {k: v for k, v in record.parameters.items() if isinstance(v, dict)}


def check_graph(planned: PlannedOperation, found: Recovered) -> None:
    """Refuse to go on over another graph than the one that the journal's numbers are of."""
    began_with = found.record.extra.get(GRAPH)
    if began_with is not None and began_with != planned.graph.digest():
        msg = f"the graph of {found.record.type} {found.record.id} is not the one it began with"
        raise CannotResumeError(msg)
