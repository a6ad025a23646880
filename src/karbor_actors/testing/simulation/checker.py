"""What must hold after whatever happened: one checker over the log, the journal and the bank."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from karbor_actors.errors import KarborError, describe_cause
from karbor_actors.model import (
    HOOKS,
    CheckpointStatus,
    HookName,
    OperationStatus,
    OperationType,
    ResourceStatus,
)
from karbor_actors.testing.simulation.abort_order import (
    check_abort_order,
    check_aborts_once,
    descendants,
)
from karbor_actors.testing.simulation.attempts import (
    check_abort_retries,
    check_given_up,
    check_numbers,
    check_retries,
)
from karbor_actors.testing.simulation.bounds import check_bounds
from karbor_actors.testing.simulation.locks import check_conflicts, check_pending_first, check_turns
from karbor_actors.testing.simulation.resumption import check_resumption, check_taken_up
from karbor_actors.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from karbor_actors.bank.bank import Bank
    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.bank.journal.journal import OperationRecord
    from karbor_actors.limits import Caps
    from karbor_actors.testing.simulation.attempts import Policies
    from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

_PER = len(HOOKS)
_ABORT = "on_abort"
_UNENDED = (CheckpointStatus.PROTECTING, CheckpointStatus.COPYING, CheckpointStatus.DELETING)

INVARIANTS: Mapping[str, str] = {
    "order": "no hook begins before all that it waits for are done, over all processes",
    "once": "no hook runs again once one that waited for it has begun, no abort once it is recorded",
    "attempts": "a hook that runs again has the same idempotency key and a higher number",
    "kept": "hooks find the state, new resources and artifacts of before; on_abort is told the truth",
    "upwards": "an on_abort begins after its own hooks and after the on_aborts of all below",
    "undone": "what began and did not succeed was undone, after its last hook",
    "thawed": "nothing stays frozen, but visibly as abort_pending",
    "ended": "every operation ends in a terminal status, its handle too, in bounded time",
    "bounded": "what takes too long is given up, a span that is too long ends, a cancel is heeded",
    "true": "what was reported done is done, and stays so over crashes",
    "whole": "an available checkpoint has every record and block, and their content",
    "accounted": "no snapshot, record or block is unaccounted for",
    "exclusive": "operations that conflict run in turn, the recovered ones first, and undo first what is pending",
    "capped": "no more hooks of a type, name or group run at once than its cap allows",
    "opens": "the bank opens after each crash and power cut, and its check finds nothing",
    "retried": "nothing is tried more often, or sooner, than its policy says; an on_abort neither",
    "told": "an end is told only once it is durable, as it is recorded, and a failure with its cause",
    "marked": "a checkpoint is available if, and only if, what made it succeeded; its manifest first",
    "decided": "what is to be undone, was held, or cannot be resumed does not go on; the rest does",
    "fresh": "operations run over the graph of when they got what they waited for, and keep to it",
    "alone": "what is undone waits for no other operation's hooks, and no place is kept for nothing",
}
"""What is checked, by name."""


def check_log(
    world: World, caps: Caps, retry: Policies | None = None, recover: str = "resume"
) -> Iterator[Violation]:
    """Yield what the log of hooks says went wrong.

    Args:
        world: What was logged.
        caps: How many hooks of a kind may run at once.
        retry: How often they may be tried; None if that is not to be looked at.
        recover: What is done with what an earlier process left: as a provider takes it.
    """
    yield from _check_caps(world, caps)
    yield from check_conflicts(world)
    yield from check_turns(world)
    yield from check_pending_first(world)
    by_operation: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
    for place, entry in enumerate(world.entries):
        by_operation[entry.operation].append((place, entry))
    for operation, entries in by_operation.items():
        seen = world.operations[operation]
        yield from _check_edges(seen, entries)
        yield from check_aborts_once(world, seen, entries)
        own = [entry for _, entry in entries]
        yield from check_numbers(seen, own)
        if retry is not None:
            yield from check_retries(seen, own, retry)
            yield from check_given_up(world, operation, entries, retry)
        yield from check_abort_retries(world, operation, seen, own)
        yield from check_resumption(world, operation, own, recover)
        yield from check_taken_up(world, operation, own, recover)
        yield from check_bounds(world, operation, own)
        yield from check_abort_order(world, seen, own)
    for invariant, sentence in world.faults:
        yield Violation(invariant, sentence)


def _check_caps(world: World, caps: Caps) -> Iterator[Violation]:
    """Count what runs at once; not what was given up, which nobody waits for."""
    ends = {_body(e) for e in world.entries if e.what in ("done", "failed")}
    inside: dict[tuple[str, str, str], int] = defaultdict(int)
    process = -1
    for entry in world.entries:
        if entry.process != process:
            process = entry.process
            inside.clear()
        if entry.hook == _ABORT or _body(entry) not in ends:
            continue
        change = {"begin": 1, "done": -1, "failed": -1}.get(entry.what, 0)
        for key, cap in _capped(world.operations[entry.operation], entry, caps):
            inside[key] += change
            if inside[key] > cap and change > 0:
                yield Violation("capped", f"{inside[key]} hooks of {' '.join(key)}, cap {cap}")


def _body(entry: Entry) -> tuple[int, str, int, str, int]:
    return entry.process, entry.operation, entry.resource, entry.hook, entry.attempt


def _capped(
    seen: OperationSeen, entry: Entry, caps: Caps
) -> Iterator[tuple[tuple[str, str, str], int]]:
    phase = "prepare" if entry.hook.startswith("on_prepare") else "main"
    kind = seen.types[entry.resource]
    if kind in caps.types:
        yield ("type", kind, phase), caps.types[kind]
    if entry.hook in caps.hooks:
        yield ("hook", entry.hook, ""), caps.hooks[entry.hook]
    for group in seen.groups[entry.resource]:
        if group in caps.groups:
            yield ("group", group, phase), caps.groups[group]


def _check_edges(seen: OperationSeen, entries: list[tuple[int, Entry]]) -> Iterator[Violation]:
    begins: dict[int, list[int]] = defaultdict(list)
    dones: dict[int, list[int]] = defaultdict(list)
    for place, entry in entries:
        if entry.hook == _ABORT:
            continue
        hook = entry.resource * _PER + HOOKS.index(entry.hook)
        if entry.what == "begin":
            begins[hook].append(place)
        elif entry.what == "done":
            dones[hook].append(place)
    for hook, upstream in upstream_hooks(seen).items():
        for before in upstream if begins[hook] else ():
            first = begins[hook][0]
            if not any(done < first for done in dones[before]):
                what = f"{_name(seen, hook)} began before {_name(seen, before)} was done"
                yield Violation("order", what)
            if begins[before] and begins[before][-1] > first:
                what = f"{_name(seen, before)} ran again after {_name(seen, hook)} had begun"
                yield Violation("once", what)


def upstream_hooks(seen: OperationSeen) -> dict[int, set[int]]:
    """Return the implemented hooks that each implemented hook waits for, by the six edges.

    Written down once more, apart from the schedule's, which it is to check.
    """
    edges: dict[int, set[int]] = defaultdict(set)
    for parent, children in enumerate(seen.children):
        p = parent * _PER
        edges[p + 1].add(p)
        edges[p + 2].add(p + 1)
        edges[p + 3].add(p + 2)
        for child in children:
            c = child * _PER
            edges[c].add(p)
            edges[p + 1].add(c + 1)
            edges[p + 3].add(c + 3)
    found: dict[int, set[int]] = {}
    for hook in range(len(seen.keys) * _PER):
        if not seen.hook_kinds[hook]:
            continue
        waits: set[int] = set()
        todo, known = list(edges[hook]), set(edges[hook])
        while todo:
            before = todo.pop()
            if seen.hook_kinds[before]:
                waits.add(before)
                continue  # what is before that one is its own business
            fresh = edges[before] - known
            known |= fresh
            todo += fresh
        found[hook] = waits
    return found


def check_undone(
    world: World, records: Mapping[str, OperationRecord], *, is_last: bool
) -> Iterator[Violation]:
    """Yield what stays frozen or was not undone, with no record that says so.

    Args:
        world: What the hooks left.
        records: The operations, by id.
        is_last: Whether nothing went wrong in the last process, so that nothing may be left.
    """
    for resource, operation in world.frozen:
        record = records.get(operation)
        goes_on = record is not None and not record.status.is_terminal
        if record is not None and record.status is OperationStatus.SUSPENDED:
            goes_on = False  # who is asked may take his time
        if is_last or record is None or not (record.abort_pending or goes_on):
            yield Violation("thawed", f"{resource} stays frozen by {_label(world, operation)}")
    if not is_last:
        return
    for operation, seen in world.operations.items():
        record = records.get(operation)
        if record is None:
            continue
        if not record.status.is_terminal:
            yield Violation("ended", f"{seen.label} is {record.status} in the journal")
        if record.abort_pending:
            yield Violation("undone", f"{seen.label} has {record.abort_pending} pending aborts")
        yield from _check_aborts(world, operation, seen, record)


def check_pending(world: World, records: Mapping[str, OperationRecord]) -> Iterator[Violation]:
    """Yield what is pending although nothing of this process is in its way: no operation runs."""
    for operation, record in records.items():
        if not record.abort_pending or operation not in world.operations:
            continue
        inside: Counter[tuple[int, str]] = Counter()
        aborts: dict[int, str] = {}
        for entry in world.entries:
            if entry.operation == operation and entry.process == world.process:
                change = {"begin": 1, "done": -1, "failed": -1, "late": -1}.get(entry.what, 0)
                inside[entry.resource, entry.hook] += change
                if entry.hook == _ABORT:
                    aborts[entry.resource] = entry.what
        if not any(inside.values()) and all(what == "done" for what in aborts.values()):
            label = world.operations[operation].label
            yield Violation("thawed", f"{label} stays abort_pending, and nobody undoes it")


def _check_aborts(
    world: World, operation: str, seen: OperationSeen, record: OperationRecord
) -> Iterator[Violation]:
    own = [entry for entry in world.entries if entry.operation == operation]
    done = {(e.resource, e.hook) for e in own if e.what == "done"}
    implemented = [
        (hook // _PER, str(HOOKS[hook % _PER])) for hook, kind in enumerate(seen.hook_kinds) if kind
    ]
    if all(hook in done for hook in implemented):
        return  # it failed in its end, if it did: all that was begun is whole
    is_all = record.status in (OperationStatus.FAILED, OperationStatus.CANCELLED)
    is_all = is_all and seen.on_failure == "abort"
    for resource in sorted({entry.resource for entry in own if entry.hook != _ABORT}):
        is_whole = all(hook in done for hook in implemented if hook[0] == resource)
        if not seen.abort_kinds[resource] or (is_whole and not is_all):
            continue
        last = max(
            n
            for n, e in enumerate(own)
            if e.resource == resource and e.what == "begin" and e.hook != _ABORT
        )
        if not any(
            e.resource == resource and e.hook == _ABORT and e.what == "done" for e in own[last:]
        ):
            yield Violation("undone", f"{seen.label} {seen.keys[resource]} was not undone")


def check_banks(world: World, banks: Iterable[Bank]) -> Iterator[Violation]:
    """Yield what is wrong with the records, the blocks and the snapshots that belong to them."""
    protects: dict[str, str] = {}
    named: set[str] = set()
    for bank in banks:
        for finding in bank.check(deep=True):
            yield Violation("opens", f"the bank's check says: {finding}")
        for record in bank.journal.operations():
            if record.type is OperationType.PROTECT:
                protects[record.checkpoint_id] = record.id
        for checkpoint in bank.checkpoints():
            operation = protects.get(checkpoint.copied_from or checkpoint.id, "")
            yield from _check_checkpoint(world, checkpoint, operation, named)
    for name, operation in world.snapshots.items():
        if name not in named:
            whose = f"{_label(world, operation)} of {name.rpartition('/')[2]}"
            yield Violation("accounted", f"the snapshot by {whose} belongs to no checkpoint")


def _check_checkpoint(
    world: World, checkpoint: Checkpoint, operation: str, named: set[str]
) -> Iterator[Violation]:
    """Check one checkpoint; add the snapshots that it names to *named*."""
    if checkpoint.status in _UNENDED:
        yield Violation("ended", f"a checkpoint stays {checkpoint.status}")
    for resource in checkpoint.resource_graph.nodes:
        section = checkpoint.get_resource_bank_section(resource)
        if "snapshot" in section.list_objects():
            named.add(section.get_object("snapshot"))
    if checkpoint.status in (CheckpointStatus.AVAILABLE, CheckpointStatus.PARTIAL):
        yield from _check_content(world, checkpoint, operation)


def _check_content(world: World, checkpoint: Checkpoint, operation: str) -> Iterator[Violation]:
    seen = world.operations.get(operation)
    undone = set() if seen is None else {h // _PER for h in _undone_hooks(world, operation, seen)}
    for number, (resource, status) in enumerate(checkpoint.resource_statuses().items()):
        if status not in (ResourceStatus.AVAILABLE, ResourceStatus.EMPTY):
            continue
        name = resource[1]
        if seen is not None and (lost := undone & {number, *descendants(seen, number)}):
            missing = ", ".join(seen.keys[resource] for resource in sorted(lost))
            yield Violation("true", f"{seen.label} {name} is available, but not all of {missing}")
        what = f"{name} in the checkpoint of {_label(world, operation)}"
        section = checkpoint.get_resource_bank_section(resource)
        try:
            snapshot = "snapshot" in section.list_objects() and section.get_object("snapshot")
            if snapshot and not checkpoint.copied_from and snapshot not in world.snapshots:
                yield Violation("true", f"{what}: its snapshot is gone")
            expected = world.written.get((operation, name))
            if expected is None:
                continue
            if section.get_object("size") != len(expected):
                yield Violation("whole", f"{what}: another size is recorded")
            for info in section.list_streams():
                nth = int(info.key.rpartition("/")[2])
                with section.open_stream(info.key) as stream:
                    if stream.read() != expected * (1 + 40 * nth):
                        yield Violation("whole", f"{what}: {info.key} has other content")
        except KarborError as error:
            yield Violation("whole", f"{what}: {describe_cause(error)}")


def check_success(world: World, operation: str) -> Iterator[Violation]:
    """Yield the hooks that did not come to their end in an operation that was said to succeed."""
    seen = world.operations.get(operation)
    if seen is None:
        return
    for hook in _undone_hooks(world, operation, seen):
        yield Violation("true", f"it succeeded, but {_name(seen, hook)} is not done")


def _undone_hooks(world: World, operation: str, seen: OperationSeen) -> list[int]:
    """Return the implemented hooks that were never reported as done."""
    done = {
        entry.resource * _PER + HOOKS.index(HookName(entry.hook))
        for entry in world.entries
        if entry.operation == operation and entry.what == "done" and entry.hook != _ABORT
    }
    return [h for h, kind in enumerate(seen.hook_kinds) if kind and h not in done]


def _label(world: World, operation: str) -> str:
    seen = world.operations.get(operation)
    return seen.label if seen is not None else "an operation that nobody saw"


def _name(seen: OperationSeen, hook: int) -> str:
    return f"{seen.label} {seen.keys[hook // _PER]}.{HOOKS[hook % _PER]}"
