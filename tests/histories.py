"""Histories made up for the tests of the simulation's checker, and what it says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor_actors.bank.journal.journal import OperationRecord
from karbor_actors.limits import Caps
from karbor_actors.model import OnFailure, OperationStatus, OperationType
from karbor_actors.testing.simulation.checker import check_log
from karbor_actors.testing.simulation.world import Entry, OperationSeen, World

if TYPE_CHECKING:
    from karbor_actors.testing.simulation.attempts import Policies

TWO = OperationSeen(
    verb="protect",
    on_failure="abort",
    keys=["parent", "child"],
    children=[[1], []],
    hook_kinds=bytes([1] * 8),
    abort_kinds=bytes([1, 1]),
    label="protect-1",
    types=["T", "T"],
    groups=[(), ("array",)],
    span_ends=[1, 1],
)
HOOKS = ("on_prepare_begin", "on_prepare_finish", "on_main", "on_complete")


def world_of(*lines: tuple[object, ...]) -> World:
    """Return a world whose log says: resource, hook, what; attempt and time if not 1 and 0."""
    world = World()
    world.operations["op"] = TWO
    log(world, 0, "op", *lines)
    return world


def log(world: World, process: int, operation: str, *lines: tuple[object, ...]) -> None:
    """Have *lines* happen to an operation in a process, after all that *world* has logged."""
    for line in lines:
        resource, hook, what, attempt, time = (*line, *(1, 0.0)[len(line) - 3 :])
        entry = Entry(process, operation, resource, hook, what, attempt, time)  # type: ignore[arg-type]
        world.entries.append(entry)


def run(resource: int, hook: str, attempt: int = 1) -> list[tuple[object, ...]]:
    return [(resource, hook, what, attempt) for what in ("begin", "start", "end", "done")]


IN_ORDER = [
    *run(0, HOOKS[0]),
    *run(1, HOOKS[0]),
    *run(1, HOOKS[1]),
    *run(0, HOOKS[1]),
    *run(1, HOOKS[2]),
    *run(0, HOOKS[2]),
    *run(1, HOOKS[3]),
    *run(0, HOOKS[3]),
]


def broken(
    world: World, caps: Caps | None = None, retry: Policies | None = None, recover: str = "resume"
) -> set[str]:
    found = check_log(world, caps or Caps(), retry, recover)
    return {violation.invariant for violation in found}


def record_of(status: str, pending: int = 0, verb: str = "protect", **more: Any) -> OperationRecord:
    fields: dict[str, Any] = {
        "id": "op",
        "provider": "local",
        "plan_name": "plan",
        "checkpoint_id": "c",
        "on_failure": OnFailure.ABORT,
        "parameters": {},
        "created_at": 0.0,
        "started_at": 0.0,
    }
    kind, now = OperationType(verb), OperationStatus(status)
    return OperationRecord(**(fields | more), type=kind, status=now, abort_pending=pending)
