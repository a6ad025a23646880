"""What a dead process left held, and what stood still meanwhile: who goes first, and what may not wait."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from crashes import crash_image
from helpers import DEADLINE, Gate
from karbor_actors import Bank, OperationStatus, ProtectionService, TimeLimits
from karbor_actors.errors import CheckpointStateError, OperationError, OperationSuspendedError
from karbor_actors.operations.recovery.recovery import MAX_RECOVERIES
from kit import HOOK_METHODS, Journal, RecordingProtection, plan, provider, store_something

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from karbor_actors import Resource

TREE = {"server": ["disk"]}
POLL = threading.Event()


class House:
    """What restores freeze: the first hook of a resource does, its second one thaws it."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()

    def plugin(
        self,
        journal: Journal,
        do: Callable[[str, str, str], object] = lambda *_: None,
        make: Callable[..., RecordingProtection] = RecordingProtection,
    ) -> RecordingProtection:
        """Return a plugin whose hooks then do *do* with their verb, name and resource id."""

        def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
            store_something(verb, hook, resource, call)
            if verb != "restore":
                return
            if hook == "on_prepare_begin":
                self.frozen.add(resource.id)
            do(verb, hook, resource.id)
            if hook in ("on_prepare_finish", "on_abort"):
                self.frozen.discard(resource.id)

        return make(journal, behave)


def opened(path: Path, plugin: Any, **kwargs: Any) -> ProtectionService:
    service = ProtectionService(workers=4)
    service.add_provider(provider(path / "bank", plugin, TREE, **kwargs))
    return service


def stand_in(gate: Gate, hook: str, name: str) -> Callable[[str, str, str], None]:
    def do(verb: str, found: str, resource: str) -> None:
        if (found, resource) == (hook, name):
            gate.pass_through()

    return do


def killed_restore(
    path: Path,
    house: House,
    hook: str,
    name: str,
    make: Callable[..., RecordingProtection] = RecordingProtection,
) -> Path:
    """Return a directory whose bank is as a kill in that hook of a restore leaves it."""
    gate = Gate()
    plugin = house.plugin(Journal(), stand_in(gate, hook, name), make)
    with opened(path, plugin) as service:
        checkpoint = service.protect(plan("server")).result(DEADLINE)
        service.restore(checkpoint.id)
        gate.wait_entered()
        left, held = crash_image(service, path / "left"), set(house.frozen)
        gate.open()
        assert service.wait(DEADLINE)
    house.frozen |= held
    return left


@pytest.mark.parametrize("on_failure", ["abort", "isolate"])
def test_a_restore_that_holds_something_is_undone_before_anybody_is_asked(tmp_path, on_failure):
    house, gate = House(), Gate()
    plugin = house.plugin(Journal(), stand_in(gate, "on_prepare_begin", "disk"))
    with opened(tmp_path, plugin) as service:
        checkpoint = service.protect(plan("server")).result(DEADLINE)
        service.restore(checkpoint.id, on_failure=on_failure)
        gate.wait_entered()
        left = crash_image(service, tmp_path / "left")
        gate.open()
    house.frozen |= {"server", "disk"}

    again = Journal()
    with opened(left, house.plugin(again), recover="ask") as service:
        (handle,) = service.recovered
        assert isinstance(handle.exception(DEADLINE), OperationError)
        assert handle.status is OperationStatus.FAILED  # nothing is left to be asked about
        assert house.frozen == set()
    assert again.hooks("restore") == [("on_abort", "disk"), ("on_abort", "server")]


def test_a_restore_that_holds_nothing_waits_for_the_answer(tmp_path):
    house = House()
    left = killed_restore(tmp_path, house, "on_main", "server")
    assert house.frozen == set()

    again = Journal()
    with opened(left, house.plugin(again), recover="ask") as service:
        (handle,) = service.recovered
        assert isinstance(handle.exception(DEADLINE), OperationSuspendedError)
        assert again.hooks("restore") == []
        service.resume(handle.id).result(DEADLINE)
    assert again.aborted() == []


def test_a_restore_taken_up_held_ends_its_spans_although_the_service_closes_at_once(tmp_path):
    """It is told while it is planned anew: nothing of it has run in this process."""
    house, gate = House(), Gate()
    left = killed_restore(tmp_path, house, "on_prepare_begin", "disk")
    assert house.frozen == {"server", "disk"}

    again = Journal()
    plugin = house.plugin(again)
    plan_one = plugin.get_restore_operation
    plugin.get_restore_operation = lambda resource: (gate.pass_through(), plan_one(resource))[1]  # type: ignore[method-assign]
    service = opened(left, plugin)
    (handle,) = service.recovered
    gate.wait_entered()
    closer = threading.Thread(target=service.close)
    closer.start()
    while not handle.is_suspended:
        POLL.wait(0.001)
    handle.progress()  # answered after what it was told before
    gate.open()
    closer.join(DEADLINE)

    assert house.frozen == set()
    assert handle.status is OperationStatus.SUSPENDED
    held = [(hook, name) for hook, name in again.hooks("restore") if "prepare" in hook]
    assert again.hooks("restore") == held
    assert ("on_prepare_finish", "server") in held


class OnlyServers(RecordingProtection):
    """Only a server has something to undo."""

    def operation(self, verb: str, resource: Resource) -> Any:
        self.hooks = HOOK_METHODS if resource.id == "server" else HOOK_METHODS[:-1]
        return super().operation(verb, resource)


def test_what_is_taken_up_held_is_held_no_longer_than_it_may(tmp_path):
    """Its own hook had completed: what it waits for is a child's, which takes its time."""
    house, gate = House(), Gate()
    left = killed_restore(tmp_path, house, "on_prepare_begin", "disk", OnlyServers)
    thawed = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_prepare_begin", "disk"):
            gate.pass_through()
        elif (hook, resource.id) == ("on_abort", "server"):
            thawed.set()

    limits = TimeLimits(prepare=None, max_quiesce=0.2)
    with opened(left, OnlyServers(Journal(), behave), time_limits=limits) as service:
        (handle,) = service.recovered
        gate.wait_entered()
        assert thawed.wait(DEADLINE / 2), "it stays frozen"
        gate.open()
        assert handle.wait(DEADLINE)
        assert "max_quiesce" in str(handle.exception(0))


def run_while_asked(path: Path, house: House) -> tuple[Path, str]:
    """Kill a restore that holds something, while an older one stands still for an answer."""
    asked = killed_restore(path, house, "on_main", "server")
    gate = Gate()
    plugin = house.plugin(Journal(), stand_in(gate, "on_prepare_begin", "disk"))
    with opened(asked, plugin, recover="ask") as service:
        (older,) = service.recovered
        assert older.wait(DEADLINE)
        (checkpoint,) = service.provider("local").bank.checkpoints()
        service.restore(checkpoint.id)
        gate.wait_entered()
        left = crash_image(service, asked / "left")
        gate.open()
    house.frozen |= {"server", "disk"}
    return left, older.id


def test_what_was_left_held_goes_on_before_what_stood_still(tmp_path):
    """They want the same resources: the one that was killed holds them, although it is newer."""
    house, again = House(), Journal()
    left, older = run_while_asked(tmp_path, house)
    with opened(left, house.plugin(again)) as service:
        for handle in service.recovered:
            handle.result(DEADLINE)
    whose = [call["kwargs"]["operation_log"].id == older for call in again.calls]

    assert set(whose) == {False, True}
    assert whose == sorted(whose), again.hooks("restore")


def test_an_operation_that_was_suspended_is_recorded_as_running_once_it_runs(tmp_path):
    """Else whoever takes it up after a crash would think that it stood still."""
    house, gate = House(), Gate()
    left = killed_restore(tmp_path, house, "on_main", "server")
    with opened(left, house.plugin(Journal()), recover="ask") as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
    plugin = house.plugin(Journal(), stand_in(gate, "on_main", "server"))
    with opened(left, plugin) as service:
        gate.wait_entered()
        record = service.provider("local").bank.journal.get(handle.id)
        gate.open()
        assert record.status is OperationStatus.RUNNING


@pytest.mark.parametrize("answer", ["resume", "abort"])
def test_a_checkpoint_that_a_suspended_restore_needs_is_not_deleted(tmp_path, answer):
    house = House()
    left = killed_restore(tmp_path, house, "on_main", "server")
    again = Journal()
    with opened(left, house.plugin(again), recover="ask") as service:
        (asked,) = service.recovered
        assert asked.wait(DEADLINE)
        bank = service.provider("local").bank
        (checkpoint,) = bank.checkpoints()
        with pytest.raises(CheckpointStateError, match=f"restore {asked.id}.*resume or abort"):
            service.delete(checkpoint.id).result(DEADLINE)
        assert again.entries == []
        assert bank.checkpoint(checkpoint.id).status == "available"

        getattr(service, answer)(asked.id).wait(DEADLINE)
        service.delete(checkpoint.id).result(DEADLINE)
        assert bank.checkpoints() == []


def test_a_restore_whose_checkpoint_was_deleted_by_force_says_so(tmp_path):
    house = House()
    left = killed_restore(tmp_path, house, "on_main", "server")
    with opened(left, house.plugin(Journal()), recover="ask") as service:
        (asked,) = service.recovered
        assert asked.wait(DEADLINE)
        (checkpoint,) = service.provider("local").bank.checkpoints()
        service.delete(checkpoint.id, force=True).result(DEADLINE)
    with opened(left, house.plugin(Journal())) as service:
        assert service.recovered == []
    with Bank.open(left / "bank", readonly=True) as bank:
        record = bank.journal.get(asked.id)
        assert record.status is OperationStatus.FAILED
        assert record.error_info[-1]["type"] == "CheckpointNotFoundError"


def killed_protect(path: Path, plugin: Callable[[Any], RecordingProtection]) -> Path:
    """Return a directory whose bank is as a kill in a main hook of a protect leaves it."""
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (hook, resource.id) == ("on_main", "server"):
            gate.pass_through()

    with opened(path, plugin(behave)) as service:
        if not service.recovered:
            service.protect(plan("server"))
        gate.wait_entered()
        left = crash_image(service, path / "left")
        gate.open()
        assert service.wait(DEADLINE)
    return left


class KeepsItInMemory(RecordingProtection):
    def operation(self, verb: str, resource: Resource) -> Any:
        made = super().operation(verb, resource)
        if made is not None:
            made.resumable = False  # type: ignore[misc]
        return made


def test_a_protect_whose_plugin_kept_its_state_in_memory_is_undone_though_nothing_is_held(tmp_path):
    left = killed_protect(tmp_path, lambda behave: KeepsItInMemory(Journal(), behave))
    again = Journal()
    with opened(left, KeepsItInMemory(again, store_something)) as service:
        (handle,) = service.recovered
        assert "in memory only" in str(handle.exception(DEADLINE))
    assert again.hooks() == [("on_abort", "disk"), ("on_abort", "server")]


def test_what_its_process_dies_of_time_and_again_is_undone_in_the_end(tmp_path):
    path = tmp_path
    for _ in range(MAX_RECOVERIES + 1):
        path = killed_protect(path, lambda behave: RecordingProtection(Journal(), behave))
    again = Journal()
    with opened(path, RecordingProtection(again, store_something)) as service:
        (handle,) = service.recovered
        assert f"{MAX_RECOVERIES} times in vain" in str(handle.exception(DEADLINE))
    assert again.aborted() == ["disk", "server"]


def test_a_new_operation_waits_behind_a_recovered_one_that_is_still_being_planned(tmp_path):
    """It has its locks before add_provider() returns, however long its plugin takes."""
    house, gate, again = House(), Gate(), Journal()
    left = killed_restore(tmp_path, house, "on_prepare_begin", "disk")
    plugin = house.plugin(again)
    plan_one = plugin.get_restore_operation
    plugin.get_restore_operation = lambda resource: (gate.pass_through(), plan_one(resource))[1]  # type: ignore[method-assign]
    with opened(left, plugin) as service:
        gate.wait_entered()
        fresh = service.protect(plan("server"))
        while ("protect", "disk") not in plugin.asked:
            POLL.wait(0.001)
        fresh.progress()  # answered after what it was told before
        gate.open()
        fresh.result(DEADLINE)
    verbs = [verb for verb, _, _ in again.entries]

    assert verbs == sorted(verbs, reverse=True), again.entries
