"""What was suspended, and is undone after all: each hook that leaves is looked at again at once.

The grace is an hour here: what waits for its end does not end before the deadline.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    Caps,
    HookName,
    Operation,
    OperationStatus,
    ProtectionService,
    RetryPolicy,
)
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.operations.limits import alarms
from kit import TYPE, RecordingProtection, plan, provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from karbor_actors import Resource

TREE = {"server": ["disk"]}
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _nobody_looks_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "LOOK_EVERY", HOUR)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., ProtectionService]]:
    services = []

    def open_one(
        plugin: Any, children: Any = None, workers: int = 8, caps: Any = None, **more: Any
    ) -> ProtectionService:
        service = ProtectionService(workers=workers, caps=caps, abort_grace=HOUR)
        services.append(service)
        service.add_provider(provider(tmp_path / "bank", plugin, children or TREE, **more))
        return service

    yield open_one
    for service in services:  # what hangs, since it failed, is not waited for
        closer = threading.Thread(target=service.close, daemon=True)
        closer.start()
        closer.join(DEADLINE)


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def wait_until_told(handle: Any) -> None:
    """Wait until the operation has been told to stop."""
    wait_until(lambda: handle.is_suspended)
    handle.progress()  # answered after what it was told before


class Scene:
    """Hooks that stop at gates, then leave if they are told to, or fail.

    Args:
        journal: Where hooks are recorded.
        fails: The (hook, resource id) that fails behind its gate.
    """

    def __init__(self, journal: Any, *fails: tuple[str, str]) -> None:
        self.journal, self.fails = journal, fails
        self.gates: dict[tuple[str, str], Gate] = {}

    def stop(self, *where: tuple[str, str]) -> None:
        """Have these hooks stop."""
        self.gates.update((place, Gate()) for place in where)

    def enter(self) -> None:
        """Wait until all of them stand at their gates."""
        for gate in self.gates.values():
            gate.wait_entered()

    def open(self, *where: tuple[str, str]) -> None:
        """Let these go on, or all."""
        for place in where or self.gates:
            self.gates[place].open()

    def behave(self, verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
        """Do what the hooks do."""

        def go() -> None:
            gate.pass_through()
            if (hook, resource.id) in self.fails:
                raise ValueError("as asked")
            call["context"].check_cancelled()

        gate = self.gates.get((hook, resource.id))
        if gate is None:
            return None
        is_on_loop = threading.current_thread().name == "karbor-loop"
        return asyncio.to_thread(go) if is_on_loop else go()

    def has_undone(self, name: str) -> bool:
        return name in self.journal.aborted()


def undo(end: str, service: ProtectionService, handle: Any, scene: Scene) -> None:
    """Suspend the operation, then have it undone, before its mains have left."""
    if end == "close":
        threading.Thread(target=service.close, kwargs={"timeout": 0.05}).start()
    else:
        handle.suspend()
    wait_until_told(handle)
    if end == "cancel":
        handle.cancel()
    elif end == "failure":
        scene.open(("on_prepare_finish", "bad"))
    wait_until(lambda: handle.is_decided)


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("end", ["cancel", "timeout", "close", "failure"])
def test_what_is_undone_after_all_is_undone_once_its_mains_have_left(
    journal, opened, end, is_async, attempts
):
    scene = Scene(journal, ("on_prepare_finish", "bad"))
    mains = [("on_main", "server"), ("on_main", "disk")]
    scene.stop(*mains, ("on_prepare_finish", "bad"))
    plugin = RecordingProtection(journal, scene.behave, is_async=is_async)
    retry = {"on_main": RetryPolicy(attempts=attempts)}
    service = opened(plugin, retry=retry)
    handle = service.protect(plan("server", "bad"), timeout=2.0 if end == "timeout" else None)
    scene.enter()
    undo(end, service, handle, scene)
    assert not scene.has_undone("server")
    scene.open()

    assert handle.wait(DEADLINE)
    assert handle.status is OperationStatus(
        "failed" if end in ("failure", "timeout") else "cancelled"
    )
    aborted = journal.aborted()
    assert sorted(aborted) == ["bad", "disk", "server"]
    assert aborted.index("disk") < aborted.index("server")


@pytest.mark.parametrize("is_cancelled_first", [False, True])
def test_what_is_frozen_thaws_once_its_mains_have_left(journal, opened, is_cancelled_first):
    """A server is frozen: one disk copies already, another one still prepares."""
    scene = Scene(journal)
    scene.stop(("on_main", "disk"), ("on_prepare_finish", "slow"))
    service = opened(RecordingProtection(journal, scene.behave), {"server": ["disk", "slow"]})
    handle = service.protect(plan("server"))
    scene.enter()
    if is_cancelled_first:
        handle.cancel()
        handle.suspend()
    else:
        handle.suspend()
        handle.cancel()
    wait_until_told(handle)
    scene.open()

    assert handle.wait(DEADLINE)
    assert handle.status is OperationStatus.CANCELLED
    assert journal.aborted()[-1] == "server"
    assert ("on_prepare_finish", "server") not in journal.hooks()


@pytest.mark.parametrize("is_suspended_first", [True, False])
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_part_that_is_undone_is_so_once_its_main_has_left_whatever_else_is_held(
    journal, opened, attempts, is_suspended_first
):
    """It does not wait for what another resource's thaw takes."""
    scene = Scene(journal, ("on_complete", "disk"))
    places = [("on_main", "server"), ("on_complete", "disk"), ("on_prepare_finish", "held")]
    scene.stop(*places)
    retry = {"on_main": RetryPolicy(attempts=attempts)}
    service = opened(RecordingProtection(journal, scene.behave), retry=retry)
    handle = service.protect(plan("server", "held"), on_failure="isolate")
    scene.enter()
    if is_suspended_first:
        handle.suspend()
        wait_until_told(handle)
        scene.open(("on_complete", "disk"))
        wait_until(lambda: scene.has_undone("disk"))
    else:
        scene.open(("on_complete", "disk"))
        wait_until(lambda: scene.has_undone("disk"))
        handle.suspend()
        wait_until_told(handle)
    scene.open(("on_main", "server"))
    wait_until(lambda: scene.has_undone("server"))
    assert ("on_complete", "held") not in journal.hooks()
    scene.open()

    assert handle.wait(DEADLINE)
    assert handle.status is OperationStatus.SUSPENDED
    assert not scene.has_undone("held")


class Uneven(RecordingProtection):
    """Leaves hooks of some resources out, and counts some resources against a group."""

    def __init__(self, *args: Any, without: Any = None, counted: Any = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.without, self.counted = without or {}, counted

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        made = super().operation(verb, resource)
        for hook in self.without.get(resource.id, ()):
            delattr(type(made), hook)
        if resource.id in self.counted:
            type(made).cap_groups = ("few",)
        return made


@pytest.mark.parametrize("end", ["suspend", "cancel"])
def test_a_part_whose_main_stands_in_line_is_undone_when_that_does_not_start_any_more(
    journal, opened, end
):
    """Another operation has the only place; and another part is held meanwhile."""
    scene = Scene(journal, ("on_complete", "disk"))
    scene.stop(("on_main", "other"))
    plugin = Uneven(journal, scene.behave, without={"disk": ["on_main"]})
    service = opened(plugin, caps=Caps(hooks={"on_main": 1}))
    other = service.protect(plan("other"))
    scene.enter()
    scene.stop(("on_complete", "disk"), ("on_prepare_finish", "held"))
    handle = service.protect(plan("server", "held"), on_failure="isolate")
    events = handle.events()
    scene.enter()
    wait_until(lambda: handle.progress().hooks_done == 5)  # the server's two are recorded
    scene.open(("on_complete", "disk"))
    assert any((event.kind, event.resource) == ("aborted", (TYPE, "disk")) for event in events)
    handle.progress()
    assert not scene.has_undone("server")
    getattr(handle, end)()
    wait_until(lambda: scene.has_undone("server"))
    assert ("on_main", "server") not in journal.hooks()
    scene.open(("on_prepare_finish", "held"))

    assert handle.wait(DEADLINE)
    assert scene.has_undone("held") is (end == "cancel"), "it waited for as long as that was held"
    assert not other.wait(0)
    scene.open()
    other.result(DEADLINE)


def test_a_part_is_undone_although_what_it_waited_for_never_begins(journal, opened):
    """The server's own hooks come after a disk's that stands in line when all is suspended."""
    scene = Scene(journal, ("on_complete", "disk"))
    scene.stop(("on_prepare_begin", "other"), ("on_complete", "disk"))
    without = {"server": ["on_prepare_finish", "on_main"], "late": ["on_main"]}
    counted = ["other", "late"]
    plugin = Uneven(journal, scene.behave, without=without, counted=counted)
    service = opened(plugin, {"server": ["disk", "late"]}, caps=Caps(groups={"few": 1}))
    other = service.protect(plan("other"))
    scene.gates["on_prepare_begin", "other"].wait_entered()
    handle = service.protect(plan("server"), on_failure="isolate")
    scene.enter()
    events = handle.events()
    scene.open(("on_complete", "disk"))
    assert any((event.kind, event.resource) == ("aborted", (TYPE, "disk")) for event in events)
    handle.progress()
    assert not scene.has_undone("server")
    handle.suspend()

    assert handle.wait(DEADLINE)
    assert journal.aborted() == ["disk", "server"]
    assert not other.wait(0)
    scene.open()
    other.result(DEADLINE)


def test_a_part_is_undone_although_what_is_below_it_never_begins(journal, opened):
    """A disk of the server's would have come after another server's, which stands in line."""
    scene = Scene(journal, ("on_prepare_begin", "bad"))
    scene.stop(("on_prepare_begin", "other"))
    children = {"server": ["bad", "shared"], "second": ["shared"]}
    plugin = Uneven(journal, scene.behave, counted=["other", "second"])
    service = opened(plugin, children, caps=Caps(groups={"few": 1}))
    other = service.protect(plan("other"))
    scene.enter()
    scene.stop(("on_prepare_begin", "bad"))
    handle = service.protect(plan("server", "second"), on_failure="isolate")
    events = handle.events()
    scene.open(("on_prepare_begin", "bad"))
    assert any((event.kind, event.resource) == ("aborted", (TYPE, "bad")) for event in events)
    handle.progress()
    assert not scene.has_undone("server")
    handle.cancel()

    assert handle.wait(DEADLINE)
    assert journal.aborted() == ["bad", "server"]
    assert not other.wait(0)
    scene.open()
    other.result(DEADLINE)


class HeldToBegin(RecordingProtection):
    """Begins on the event loop, holds nothing afterwards, and goes on on a worker, without a place."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        made = super().operation(verb, resource)
        type(made).held_until = HookName.ON_PREPARE_BEGIN
        return made

    def _hook(self, verb: str, name: str) -> Any:
        self.is_async = name == "on_prepare_begin"
        return super()._hook(verb, name)


def test_what_is_suspended_does_not_wait_for_a_worker_that_others_keep(journal, opened):
    scene = Scene(journal)
    scene.stop(("on_prepare_finish", "long"))
    service = opened(HeldToBegin(journal, scene.behave), workers=1)
    other = service.protect(plan("long"))
    scene.enter()
    handle = service.protect(plan("one"))
    lane = service._own_engine.runners._lanes[Lane.PREPARE]
    wait_until(lambda: lane.queue)
    handle.suspend()

    assert handle.wait(DEADLINE)
    assert handle.status is OperationStatus.SUSPENDED
    assert not other.wait(0)
    scene.open()
    other.result(DEADLINE)
