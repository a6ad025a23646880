"""Every operation ends: cancelled, past its deadline, or with a plugin that hangs while it plans."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from crashes import crash_image
from helpers import DEADLINE, Gate
from karbor_actors import Bank, OperationStatus, ProtectionService, Provider
from karbor_actors.bank.journal.records import replay
from karbor_actors.errors import OperationCancelledError, OperationError
from karbor_actors.operations import supervisor
from karbor_actors.operations.limits import alarms
from kit import Journal, RecordingProtection, Things, plan, provider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from karbor_actors import Resource

SHORT = 0.05


class HangingThings(Things):
    """Hangs while it looks for the children of what is named so."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        if parent_resource.id.startswith("hung"):
            self._gate.pass_through()
        return []


def planning(path: Path, gate: Gate, abort_grace: float = SHORT) -> ProtectionService:
    service = ProtectionService(workers=2, abort_grace=abort_grace)
    service.add_provider(
        Provider(
            "local",
            bank=Bank.open(path / "bank"),
            protection_plugins=[RecordingProtection(Journal())],
            protectables=[HangingThings(gate)],
        )
    )
    return service


def join_planners() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("karbor-plan"):
            thread.join(DEADLINE)


def hung_plan_ends(
    path: Path,
    end: Callable[[ProtectionService, Any], object],
    *,
    abort_grace: float = SHORT,
    **options: Any,
) -> Any:
    """Return the handle of an operation whose plan hangs, once *end* has ended it."""
    gate = Gate()
    service = planning(path, gate, abort_grace)
    try:
        handle = service.protect(plan("hung"), **options)
        gate.wait_entered()
        end(service, handle)
        assert handle.wait(DEADLINE / 2), "it waits for a plugin that hangs"
        assert service.protect(plan("well")).wait(DEADLINE) if end is not close else True
        return handle
    finally:
        gate.open()
        service.close()
        join_planners()


def close(service: ProtectionService, _: Any) -> None:
    closer = threading.Thread(target=service.close)
    closer.start()
    closer.join(DEADLINE / 2)
    assert not closer.is_alive()


def test_an_operation_whose_plan_hangs_can_be_cancelled(tmp_path):
    handle = hung_plan_ends(tmp_path, lambda _, handle: handle.cancel())
    with pytest.raises(OperationCancelledError):
        handle.result(0)


def test_a_plan_that_hangs_keeps_nobody_waiting_as_long_as_hooks_may(tmp_path):
    handle = hung_plan_ends(tmp_path, lambda _, handle: handle.cancel(), abort_grace=2 * DEADLINE)
    with pytest.raises(OperationCancelledError):
        handle.result(0)


def test_a_timeout_is_for_the_plan_too(tmp_path):
    handle = hung_plan_ends(tmp_path, lambda *_: None, timeout=SHORT)
    with pytest.raises(OperationError, match=f"took longer than {SHORT} s"):
        handle.result(0)


class LongListing(Things):
    """Lists one resource's children for ever, but asks whether that is still wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.is_listing, self.was_told, self.seen = threading.Event(), threading.Event(), ""

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        self.seen = getattr(context, "color", "none")
        self.is_listing.set()
        while not self.was_told.wait(SHORT):
            try:
                context.check_cancelled()
            except OperationCancelledError:
                self.was_told.set()
                raise
        return []


@pytest.mark.parametrize(("context", "seen"), [(None, "none"), ({"color": "red"}, "red")])
def test_a_long_listing_can_ask_whether_it_is_still_wanted(tmp_path, context, seen):
    things = LongListing()
    service = ProtectionService(workers=2)
    service.add_provider(
        Provider(
            "local",
            bank=Bank.open(tmp_path / "bank"),
            protection_plugins=[RecordingProtection(Journal())],
            protectables=[things],
        )
    )
    with service:
        handle = service.protect(plan("long"), context=context)
        assert things.is_listing.wait(DEADLINE)
        assert handle.progress().looked_up == 1
        handle.cancel()
        assert things.was_told.wait(DEADLINE)
        with pytest.raises(OperationCancelledError):
            handle.result(DEADLINE)

        assert handle.progress().looked_up is None
    assert things.seen == seen


def test_a_service_with_a_plan_that_hangs_can_be_closed(tmp_path):
    assert hung_plan_ends(tmp_path, close).status is OperationStatus.CANCELLED


def test_a_plan_that_does_not_get_on_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(alarms, "LOOK_EVERY", SHORT)
    monkeypatch.setattr(supervisor, "PLAN_LIMIT", 4 * SHORT)
    handle = hung_plan_ends(tmp_path, lambda *_: None)
    with pytest.raises(OperationError, match="a plugin hangs"):
        handle.result(0)


def test_plans_that_hang_hold_up_neither_other_plans_nor_the_end_of_operations(tmp_path):
    gate = Gate()
    service = planning(tmp_path, gate)
    try:
        hung = [service.protect(plan(f"hung{number}")) for number in range(8)]
        gate.wait_entered()
        assert service.protect(plan("well")).result(DEADLINE / 2).status == "available"
        assert not any(handle.wait(0) for handle in hung)
    finally:
        gate.open()
        service.close()


def test_a_deadline_passes_for_what_waits_for_its_turn_too(tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, *_: Any) -> None:
        if hook == "on_main":
            gate.pass_through()

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        first = service.protect(plan("one"))
        gate.wait_entered()
        waiting = service.protect(plan("one"), deadline=time.time() + 2 * SHORT)
        with pytest.raises(OperationError, match="deadline has passed"):
            waiting.result(DEADLINE)
        assert waiting.status is OperationStatus.FAILED
        assert not first.wait(0)
        gate.open()
        first.result(DEADLINE)


def test_a_deadline_passes_although_the_clock_was_set_meanwhile(tmp_path, journal, monkeypatch):
    """It is a moment, not a time to wait: a machine that slept wakes up after it, too."""
    monkeypatch.setattr(alarms, "LOOK_EVERY", SHORT)
    tomorrow = time.time() + 24 * 3600

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        while hook == "on_main":
            monkeypatch.setattr(time, "time", lambda: tomorrow)
            call["context"].check_cancelled()
            threading.Event().wait(0.001)

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        late = service.protect(plan("one"), deadline=tomorrow - 3600)
        with pytest.raises(OperationError, match="deadline has passed"):
            late.result(DEADLINE)
        assert journal.aborted() == ["one"]


def test_a_timeout_is_said_to_be_one_although_a_hook_had_to_be_given_up_for_it(tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, *_: Any) -> None:
        if hook == "on_main":
            gate.pass_through()

    with ProtectionService(workers=2, abort_grace=SHORT) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handle = service.protect(plan("one"), timeout=SHORT)
        with pytest.raises(OperationError, match=f"it took longer than {SHORT} s") as caught:
            handle.result(DEADLINE)
        assert isinstance(caught.value.causes[0], TimeoutError)
        gate.open()


@pytest.mark.parametrize("hook", ["on_prepare_begin", "on_main", "on_complete"])
def test_a_cancel_is_durable_when_it_returns(tmp_path, journal, hook):
    """A process that is killed right after it is undone at the next start, never resumed."""
    gate = Gate()

    def behave(verb: str, found: str, *_: Any) -> None:
        if found == hook:
            gate.pass_through()

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handle = service.protect(plan("one"))
        gate.wait_entered()
        assert handle.cancel()
        left = crash_image(service, tmp_path / "left")
        bank = service.provider("local").bank
        assert replay(bank.journal.read(bank.journal.get(handle.id).number)).decisions
        gate.open()
        assert handle.wait(DEADLINE)
        assert not handle.cancel()
    again = Journal()
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(left / "bank", RecordingProtection(again)))
        (recovered,) = service.recovered
        assert recovered.wait(DEADLINE)
        assert recovered.status is OperationStatus.CANCELLED, "as it was asked for"
        assert isinstance(recovered.exception(0), OperationCancelledError)
        assert [name for name, _ in again.hooks()] == ["on_abort"]


@pytest.mark.parametrize("where", ["hook", "async hook", "done callback"])
def test_an_operation_may_be_cancelled_from_anywhere(tmp_path, where):
    """Not every thread can wait for the decision; none is blocked for long."""
    gate, handles, told = Gate(), [], threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "one"):
            gate.pass_through()
            if where != "done callback":
                handles[0].cancel()
                told.set()

    plugin = RecordingProtection(Journal(), behave, is_async=where == "async hook")
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", plugin))
        if where == "done callback":
            first = service.protect(plan("quick"))
            assert first.wait(DEADLINE)
        handles.append(service.protect(plan("one")))
        gate.wait_entered()
        if where == "done callback":
            first.add_done_callback(lambda _: (handles[0].cancel(), told.set()))
            assert told.wait(DEADLINE)
        gate.open()
        assert told.wait(DEADLINE / 4)
        assert handles[0].wait(DEADLINE)
        assert handles[0].status is OperationStatus.CANCELLED


def test_what_never_began_is_not_called_pending_when_it_is_given_up(tmp_path, journal):
    """It waits behind hooks that hang when the operation is cancelled."""
    gate = Gate()

    def behave(verb: str, hook: str, *_: Any) -> None:
        if hook == "on_main":
            gate.pass_through()

    names = [f"r{number}" for number in range(12)]
    service = ProtectionService(workers=2, abort_grace=SHORT)
    try:
        plugin = RecordingProtection(journal, behave, hooks=("on_main", "on_abort"))
        service.add_provider(provider(tmp_path / "bank", plugin))
        handle = service.protect(plan(*names))
        gate.wait_entered()
        handle.cancel()
        assert handle.wait(DEADLINE)
        begun = {name for hook, name in journal.hooks() if hook == "on_main"}
        assert 0 < len(begun) <= 2
        assert set(journal.aborted()) == begun, "nothing else has anything to undo"
        assert service.operation_history("local")[0].abort_pending == len(begun)
    finally:
        gate.open()
        assert service.wait(DEADLINE)
        service.close()
        for thread in threading.enumerate():
            if thread.name.startswith("karbor-main"):
                thread.join(DEADLINE)
