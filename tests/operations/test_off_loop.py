"""What hooks on the event loop run in threads: it keeps no thaw waiting, and none of it is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    Operation,
    OperationStatus,
    Plan,
    ProtectablePlugin,
    ProtectionPlugin,
    ProtectionService,
    Provider,
    Resource,
    TimeLimits,
)
from karbor_actors.operations.hooks import event_loop, off_loop
from karbor_actors.operations.limits import alarms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = TimeLimits(prepare=0.2, main=0.2)
"""Limits of the types whose hooks hang."""
WORKERS = 2
PLACES = max(WORKERS, min(32, (os.cpu_count() or 1) + 4))
"""Calls off the loop that run at once, of each kind of hook."""


class Plugin(ProtectionPlugin):
    """Protects resources of the types of *operations*, with what is given there."""

    def __init__(self, **operations: Operation) -> None:
        self._operations = operations

    def get_supported_resources_types(self) -> list[str]:
        return [*self._operations]

    def get_protect_operation(self, resource: Resource) -> Operation:
        return self._operations[resource.type]


class Children(ProtectablePlugin):
    """Finds so many volumes of each server."""

    def __init__(self, count: int) -> None:
        self._count = count

    def get_resource_type(self) -> str:
        return "Volume"

    def get_parent_resource_types(self) -> list[str]:
        return ["Server"]

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        return [Resource("Volume", str(number)) for number in range(self._count)]


class Held:
    """Resources that are frozen, and how often each was thawed."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.thaws: list[str] = []
        self._changed = threading.Condition()

    def freeze(self, resource: Resource) -> None:
        with self._changed:
            self.frozen.add(resource.id)
            self._changed.notify_all()

    def thaw(self, resource: Resource) -> None:
        with self._changed:
            self.frozen.discard(resource.id)
            self.thaws.append(resource.id)
            self._changed.notify_all()

    def wait_for(self, is_so: Callable[[], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(is_so, DEADLINE)


class Freezing(Operation):
    """Freezes at once, and thaws off the loop."""

    def __init__(self, held: Held) -> None:
        self.held = held

    async def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
        self.held.freeze(resource)

    async def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        await asyncio.to_thread(self.held.thaw, resource)

    async def on_abort(self, checkpoint, resource, context, parameters, **kwargs):
        await asyncio.to_thread(self.held.thaw, resource)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ProtectionService]]:
    services = []

    def serve(children: int = 0, *, hanging: str = "", **operations: Operation):
        service = ProtectionService(workers=WORKERS)
        services.append(service)
        service.add_provider(
            Provider(
                "local",
                bank=Bank.open(tmp_path / "bank"),
                protection_plugins=[Plugin(**operations)],
                protectables=[Children(children)] if children else [],
                time_limits={hanging: SOON},
            )
        )
        return service

    yield serve
    for service in services:
        service.close()


def closes(service: ProtectionService) -> bool:
    """Return whether *service* closes before the deadline."""
    closing = threading.Thread(target=service.close)
    closing.start()
    closing.join(DEADLINE)
    return not closing.is_alive()


def plan_of(kind: str, count: int = 1) -> Plan:
    return Plan("plan", "local", [Resource(kind, f"{kind}-{number}") for number in range(count)])


def test_a_server_is_thawed_although_all_its_volumes_hang_off_the_loop(serve, held, gate):
    class Hanging(Operation):
        async def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.to_thread(gate.pass_through)

    service = serve(PLACES, hanging="Volume", Server=Freezing(held), Volume=Hanging())
    handle = service.protect(plan_of("Server"))

    assert handle.wait(DEADLINE)
    assert handle.status is OperationStatus.FAILED
    assert held.frozen == set()
    assert service.abandoned_threads == PLACES


@pytest.mark.parametrize("twin", [False, True], ids=["to_thread", "the bank's twins"])
def test_hooks_that_hang_off_the_loop_keep_no_later_one_waiting(serve, gate, twin):
    class Hanging(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.to_thread(gate.pass_through)

    class Writing(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            section = checkpoint.get_resource_bank_section(resource)
            if twin:
                await section.aupdate_object("key", 1)
            else:
                await asyncio.to_thread(section.update_object, "key", 1)

    service = serve(hanging="Hanging", Hanging=Hanging(), Writing=Writing())
    hung = service.protect(plan_of("Hanging", PLACES))
    assert hung.wait(DEADLINE)

    assert service.protect(plan_of("Writing")).result(DEADLINE).status == "available"


def test_no_copy_off_the_loop_keeps_a_server_frozen(serve, held, gate):
    class Copying(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.to_thread(gate.pass_through)

    service = serve(Copying=Copying(), Server=Freezing(held))
    copies = service.protect(plan_of("Copying", 2 * PLACES))
    gate.wait_entered()
    service.protect(plan_of("Server")).result(DEADLINE)

    assert held.frozen == set()
    gate.open()
    copies.result(DEADLINE)


def test_what_a_given_up_hook_freezes_late_off_the_loop_is_undone_once_more(serve, held, gate):
    class Late(Freezing):
        async def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.to_thread(self._freeze, resource)

        def _freeze(self, resource: Resource) -> None:
            gate.pass_through()
            self.held.freeze(resource)

    service = serve(hanging="Server", Server=Late(held))
    handle = service.protect(plan_of("Server"))
    assert handle.wait(DEADLINE)
    assert held.thaws == ["Server-0"]
    gate.open()

    assert held.wait_for(lambda: len(held.thaws) > 1)
    assert held.frozen == set()
    assert service.wait(DEADLINE)


def test_a_hook_that_fails_has_ended_when_all_that_it_began_off_the_loop_has(serve, held, gate):
    """A task group leaves what runs in a thread when another of its tasks fails."""
    failed = threading.Event()

    class Twice(Freezing):
        async def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(self._freeze, resource))
                await asyncio.to_thread(gate.wait_entered)
                failed.set()
                raise OSError("one of the two is not there")

        def _freeze(self, resource: Resource) -> None:
            gate.pass_through()
            self.held.freeze(resource)

    handle = serve(Server=Twice(held)).protect(plan_of("Server"))
    assert failed.wait(DEADLINE)
    assert not handle.wait(0.05)
    assert held.thaws == []
    gate.open()

    assert handle.wait(DEADLINE)
    assert held.frozen == set()
    assert held.thaws == ["Server-0"]


def test_what_a_given_up_hook_left_in_the_queue_never_runs(serve, gate, monkeypatch):
    monkeypatch.setattr(off_loop, "_LEAST", 1)
    ran = []

    class Queueing(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            blocking = [asyncio.to_thread(gate.pass_through) for _ in range(WORKERS)]
            await asyncio.gather(*blocking, asyncio.to_thread(ran.append, resource.id))

    service = serve(hanging="Queueing", Queueing=Queueing())
    assert service.protect(plan_of("Queueing")).wait(DEADLINE)
    gate.open()
    service.close()

    assert ran == []


def test_close_waits_for_no_thread_of_a_hook_that_was_given_up(serve, gate):
    class Hanging(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.to_thread(gate.pass_through)

    service = serve(hanging="Hanging", Hanging=Hanging())
    assert service.protect(plan_of("Hanging")).wait(DEADLINE)

    assert closes(service)


def test_close_waits_for_no_thread_that_a_hook_has_left_and_gone_on_without(serve, gate):
    class Impatient(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(gate.pass_through), 0.01)

    service = serve(Impatient=Impatient())
    service.protect(plan_of("Impatient")).result(DEADLINE)

    assert closes(service)


def test_close_waits_for_no_generator_that_does_not_close(serve, monkeypatch):
    monkeypatch.setattr(event_loop, "LAST", 0.1)
    left = []

    async def rows():
        try:
            yield 1
        finally:
            await asyncio.Event().wait()

    class Leaving(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            left.append(rows())
            await anext(left[0])

    service = serve(Leaving=Leaving())
    service.protect(plan_of("Leaving")).result(DEADLINE)

    assert closes(service)


def test_bodies_that_come_back_together_are_seen_to_together(serve, monkeypatch):
    """One worker for each of thousands would keep all others from opening and closing."""
    looked = []

    class Sleeping(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.Event().wait()

    service = serve(hanging="Sleeping", Sleeping=Sleeping())
    engine = service._engine
    undo_again = engine.undo_again

    def count(operation_id: str):
        looked.append(operation_id)
        return undo_again(operation_id)

    monkeypatch.setattr(engine, "undo_again", count)
    handle = service.protect(plan_of("Sleeping", 300))
    assert handle.wait(DEADLINE)
    assert service.wait(DEADLINE)

    assert service.provider("local").abort_pending == 0
    assert len(looked) < 30


def test_what_runs_off_the_loop_may_not_close_the_service(serve):
    refused = []

    class Closing(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            with pytest.raises(RuntimeError, match="a hook"):
                await asyncio.to_thread(service.close)
            refused.append(resource.id)

    service = serve(Closing=Closing())
    service.protect(plan_of("Closing")).result(DEADLINE)

    assert refused == ["Closing-0"]


def test_what_hooks_begin_after_they_were_given_up_keeps_no_place_and_no_close(
    serve, held, gate, monkeypatch
):
    monkeypatch.setattr(alarms, "LOOK_EVERY", 0.05)

    class Cleaning(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.to_thread(gate.pass_through)

    class Writing(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            await checkpoint.get_resource_bank_section(resource).aupdate_object("key", 1)

    service = serve(hanging="Cleaning", Cleaning=Cleaning(), Writing=Writing())
    assert service.protect(plan_of("Cleaning", PLACES)).wait(DEADLINE)
    gate.wait_entered()
    assert service.protect(plan_of("Writing")).result(DEADLINE).status == "available"
    assert service.protect(plan_of("Cleaning")).wait(DEADLINE)

    assert closes(service)


def test_a_hook_that_fails_does_not_wait_for_the_turn_of_what_was_cancelled(
    serve, gate, monkeypatch
):
    monkeypatch.setattr(off_loop, "_LEAST", 1)

    class Copying(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            await asyncio.to_thread(gate.pass_through)

    class Failing(Operation):
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(gate.pass_through))
                await asyncio.sleep(0.01)
                raise OSError("the other of the two is not there")

    service = serve(Copying=Copying(), Failing=Failing())
    copies = service.protect(plan_of("Copying", WORKERS))
    gate.wait_entered()
    failing = service.protect(plan_of("Failing"))

    assert failing.wait(DEADLINE)
    assert failing.status is OperationStatus.FAILED
    gate.open()
    copies.result(DEADLINE)
