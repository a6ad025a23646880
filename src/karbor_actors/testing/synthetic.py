"""Plugins over synthetic graphs, and one call that runs them and returns the figures.

>>> figures = run_synthetic(make_graph("tree", 1000), Work(sleep=0.001))
>>> figures.status
<OperationStatus.SUCCEEDED: 'succeeded'>
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource as process_limits
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from karbor_actors import (
    Bank,
    HookName,
    OnFailure,
    Operation,
    OperationStatus,
    Plan,
    ProtectablePlugin,
    ProtectionPlugin,
    ProtectionService,
    Provider,
    Resource,
)
from karbor_actors.arguments import (
    argument_error,
    check_flags,
    check_instance,
    checked_count,
    checked_limit,
    is_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.testing.graphs import SyntheticGraph

NODE_TYPE = "Synthetic::Node"
"""The type of the resources; their ids are the nodes' numbers."""
_PIECE = 1 << 20
_BODIES = (
    HookName.ON_PREPARE_BEGIN,
    HookName.ON_PREPARE_FINISH,
    HookName.ON_MAIN,
    HookName.ON_COMPLETE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every hook does: nothing, or what is set here, in this order."""

    cpu: float = 0.0
    """Seconds of the process's time to spend counting; the GIL is held."""
    sleep: float = 0.0
    """Seconds to sleep."""
    sleep_spread: float = 0.0
    """Up to this many seconds more, drawn for each hook; the same ones for the same seed."""
    io: int = 0
    """Bytes to write to a temporary file without a name, sync, and read back."""
    failure_rate: float = 0.0
    """The share of hooks that raise RuntimeError; the same ones for the same seed, each time."""
    seed: int = 0
    """For what is drawn: failures and spread."""
    is_async: bool = False
    """Whether hooks are ``async def``."""
    hooks: tuple[HookName, ...] = _BODIES
    """The hooks that there are."""
    has_abort: bool = False
    """Whether there is an ``on_abort`` (which does nothing): intents are recorded then."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ArgumentError: A field is none of what it says; ``on_abort`` is among *hooks*.
            ValueError: *io* with ``is_async``: it blocks, and would stop the event loop.
        """
        for name in ("cpu", "sleep", "sleep_spread"):
            checked_limit(name, getattr(self, name), positive=False, or_none=False)
        checked_count("io", self.io, least=0)
        if not is_number(self.failure_rate) or not 0 <= self.failure_rate <= 1:
            raise argument_error("failure_rate", "a number from 0 to 1", self.failure_rate)
        check_instance("seed", self.seed, int, "a whole number")
        check_flags(is_async=self.is_async, has_abort=self.has_abort)
        check_instance("hooks", self.hooks, tuple, "a tuple of hooks")
        for hook in self.hooks:
            if hook not in _BODIES:
                raise argument_error("each of hooks", f"one of {', '.join(_BODIES)}", hook)
        if self.io and self.is_async:
            msg = "io blocks, which a hook on the event loop must not do; leave io or is_async out"
            raise ValueError(msg)

    def fails(self, resource: Resource, hook: HookName) -> bool:
        """Return whether *hook* of *resource* raises."""
        return bool(self.failure_rate) and self._draw("", resource, hook) < self.failure_rate

    def sleep_of(self, resource: Resource, hook: HookName) -> float:
        """Return how many seconds *hook* of *resource* sleeps."""
        if not self.sleep_spread:
            return self.sleep
        return self.sleep + self.sleep_spread * self._draw("sleep ", resource, hook)

    def _draw(self, purpose: str, resource: Resource, hook: HookName) -> float:
        """Return a number from 0 to 1 that is the same in each process."""
        name = f"{purpose}{self.seed} {resource.id} {hook}".encode()
        # A generator of random numbers takes ten times as long to seed, within the hook's time.
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / (1 << 64)


class SyntheticProtectable(ProtectablePlugin):
    """Finds the nodes of a graph. Any thread may call it."""

    def __init__(self, graph: SyntheticGraph) -> None:
        self.graph = graph

    def get_resource_type(self) -> str:
        """Return :data:`NODE_TYPE`."""
        return NODE_TYPE

    def get_parent_resource_types(self) -> Sequence[str]:
        """Return the same: nodes depend on nodes."""
        return (NODE_TYPE,)

    def get_dependent_resources(
        self, context: Any, parent_resource: Resource
    ) -> Sequence[Resource]:
        """Return the children of a node."""
        return [_node(child) for child in self.graph.children(int(parent_resource.id))]


class SyntheticProtection(ProtectionPlugin):
    """Gives every node the same Operation, for every verb. Any thread may call it."""

    def __init__(self, work: Work | None = None) -> None:
        self.work = work or Work()
        self._operation = _operation(self.work)

    @classmethod
    def get_supported_resources_types(cls) -> Sequence[str]:
        """Return :data:`NODE_TYPE`."""
        return (NODE_TYPE,)

    def get_protect_operation(self, resource: Resource) -> Operation:
        """Return the operation."""
        return self._operation

    get_restore_operation = get_protect_operation
    get_verify_operation = get_protect_operation
    get_copy_operation = get_protect_operation
    get_delete_operation = get_protect_operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run took. Times are seconds of the wall clock."""

    resources: int
    hooks: int
    """How many hooks ended, well or not."""
    status: OperationStatus
    failures: int
    """How many failures the operation reports."""
    planning_seconds: float
    """From the call to the durable record of the operation: graph, plugins, parameters."""
    running_seconds: float
    """From there to the operation's durable end."""
    total_seconds: float
    """From the call to the result."""
    cpu_seconds: float
    """What the whole process used from the call to the result, in all threads."""
    peak_memory: int
    """The process's largest resident size so far, in bytes."""

    @property
    def hooks_per_second(self) -> float:
        """Hooks by :attr:`running_seconds`."""
        return self.hooks / self.running_seconds


def synthetic_plan(graph: SyntheticGraph, provider: str = "synthetic") -> Plan:
    """Return a plan of the graph's roots."""
    return Plan(f"a {graph.shape} of {graph.size}", provider, [_node(r) for r in graph.roots])


def synthetic_provider(
    graph: SyntheticGraph, work: Work | None = None, *, bank: Bank, name: str = "synthetic"
) -> Provider:
    """Return a provider of the graph's nodes, whose hooks do *work*."""
    return Provider(
        name,
        bank=bank,
        protection_plugins=[SyntheticProtection(work)],
        protectables=[SyntheticProtectable(graph)],
    )


def run_synthetic(
    graph: SyntheticGraph,
    work: Work | None = None,
    *,
    directory: str | Path | None = None,
    workers: int = 16,
    on_failure: str = OnFailure.ABORT,
    timeout: float | None = None,
) -> Figures:
    """Protect *graph* with a service and a bank of its own; blocks until all is closed.

    Args:
        graph: The resources.
        work: What the hooks do; nothing, if not given.
        directory: Where the bank is made, and left; a temporary one, removed, if not given.
        workers: As for :class:`karbor_actors.ProtectionService`.
        on_failure: As for protect.
        timeout: Seconds to wait; then the operation is cancelled.

    Raises:
        TimeoutError: *timeout* is over.
        BankError: The bank cannot be made in *directory*.
    """
    with ExitStack() as stack:
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="karbor-synthetic-")
            directory = stack.enter_context(temporary)
        service = stack.enter_context(ProtectionService(workers=workers))
        bank = Bank.open(Path(directory) / "bank")
        service.add_provider(synthetic_provider(graph, work, bank=bank))
        return _protect(service, bank, graph, on_failure, timeout)


def _protect(
    service: ProtectionService,
    bank: Bank,
    graph: SyntheticGraph,
    on_failure: str,
    timeout: float | None,
) -> Figures:
    plan = synthetic_plan(graph)
    cpu, began_at, began = time.process_time(), time.time(), time.perf_counter()
    handle = service.protect(plan, on_failure=on_failure)
    error = handle.exception(timeout)
    total, cpu = time.perf_counter() - began, time.process_time() - cpu
    record = bank.journal.get(handle.id)
    started_at = record.started_at or record.created_at
    return Figures(
        resources=graph.size,
        hooks=handle.progress().hooks_done,
        status=handle.status,
        failures=len(record.error_info) if error is not None else 0,
        planning_seconds=started_at - began_at,
        running_seconds=(record.ended_at or started_at) - started_at,
        total_seconds=total,
        cpu_seconds=cpu,
        peak_memory=process_limits.getrusage(process_limits.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _node(number: int) -> Resource:
    return Resource(NODE_TYPE, str(number))


def _nothing(*_arguments: Any, **_keywords: Any) -> None:
    """Be a hook that does nothing, with no call in between."""


async def _nothing_async(*_arguments: Any, **_keywords: Any) -> None:
    """Be the same on the event loop."""


def _operation(work: Work) -> Operation:
    """Return an Operation whose hooks do *work*."""
    idle = replace(work, hooks=_BODIES, seed=0, is_async=False, has_abort=False) == Work()
    nothing: Callable[..., Any] = _nothing_async if work.is_async else _nothing
    methods: dict[str, Any] = {
        str(hook): nothing if idle else _body(work, hook) for hook in work.hooks
    }
    if work.has_abort:
        methods[str(HookName.ON_ABORT)] = nothing
    operation: Operation = type("SyntheticOperation", (Operation,), methods)()
    return operation


def _body(work: Work, hook: HookName) -> Callable[..., Any]:
    """Return a hook that does *work*."""

    def begin(resource: Resource) -> None:
        if work.cpu:
            end = time.thread_time() + work.cpu
            while time.thread_time() < end:
                pass
        if work.io:
            _write_and_read(work.io)

    def end(resource: Resource) -> None:
        if work.fails(resource, hook):
            msg = f"a synthetic failure in {hook} of {resource}"
            raise RuntimeError(msg)

    def plain(
        operation: Any,
        checkpoint: Any,
        resource: Resource,
        context: Any,
        parameters: Any,
        **kwargs: Any,
    ) -> None:
        begin(resource)
        time.sleep(work.sleep_of(resource, hook))
        end(resource)

    async def on_loop(
        operation: Any,
        checkpoint: Any,
        resource: Resource,
        context: Any,
        parameters: Any,
        **kwargs: Any,
    ) -> None:
        begin(resource)
        await asyncio.sleep(work.sleep_of(resource, hook))
        end(resource)

    return on_loop if work.is_async else plain


def _write_and_read(size: int) -> None:
    """Write *size* bytes to a file without a name, sync them, and read them back."""
    with tempfile.TemporaryFile(buffering=0) as file:
        for left in range(size, 0, -_PIECE):
            file.write(bytes(min(left, _PIECE)))
        os.fsync(file.fileno())
        file.seek(0)
        while file.read(_PIECE):
            pass
