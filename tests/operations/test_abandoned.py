"""Checkpoints of operations that end before their hooks run: none says for ever that it is being made."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from crashes import copy_records
from helpers import DEADLINE, Gate
from karbor_actors import CheckpointStatus, OperationStatus, ProtectionService
from karbor_actors.errors import CheckpointStateError, OperationCancelledError, OperationError
from kit import Journal, RecordingProtection, plan, provider, store_something

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from karbor_actors import Resource

PLAIN = ("on_prepare_begin", "on_main", "on_complete")
"""Hooks that leave nothing to undo: nothing of them is recorded before they have completed."""
MARKS = {
    "protect": ("local", CheckpointStatus.ERROR),
    "copy": ("offsite", CheckpointStatus.ERROR),
    "delete": ("local", CheckpointStatus.ERROR_DELETING),
}


class Planned(RecordingProtection):
    """Calls *do* when it is asked for operations of *verb*."""

    def __init__(self, verb: str, do: Callable[[], object], **kwargs: Any) -> None:
        super().__init__(Journal(), store_something, PLAIN, **kwargs)
        self._verb, self._do = verb, do

    def operation(self, verb: str, resource: Resource) -> Any:
        if verb == self._verb:
            self._do()
        return super().operation(verb, resource)


def opened(path: Path, plugin: Any) -> ProtectionService:
    service = ProtectionService(workers=2)
    service.add_provider(provider(path / "offsite", plugin, name="offsite"))
    service.add_provider(provider(path / "local", plugin))
    return service


def killed_as_it_began(path: Path, verb: str) -> Path:
    """Return a directory whose banks are as a kill in the first hook of *verb* leaves them."""
    gate = Gate()

    def behave(found: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(found, hook, resource, call)
        if (found, hook) == (verb, "on_prepare_begin"):
            gate.pass_through()

    with opened(path, RecordingProtection(Journal(), behave, PLAIN)) as service:
        handle = service.protect(plan("one"))
        if verb != "protect":
            made = handle.result(DEADLINE)
            more = {"to": "offsite"} if verb == "copy" else {}
            handle = getattr(service, verb)(made.id, provider="local", **more)
        gate.wait_entered()
        left = path / "left"
        left.mkdir()
        for name in ("local", "offsite"):
            copy_records(service.provider(name).bank, left / name)
        gate.open()
        handle.wait(DEADLINE)
    return left


@pytest.mark.parametrize("verb", MARKS)
def test_a_recovered_operation_that_is_cancelled_before_it_runs_ends_its_checkpoint(tmp_path, verb):
    gate = Gate()
    left = killed_as_it_began(tmp_path, verb)
    with opened(left, Planned(verb, gate.pass_through)) as service:
        (handle,) = service.recovered
        gate.wait_entered()
        canceller = threading.Thread(target=handle.cancel)
        canceller.start()
        while handle.cancel_reason is None:
            canceller.join(0.001)
        handle.progress()  # answered after what it was told before
        gate.open()
        with pytest.raises(OperationCancelledError):
            handle.result(DEADLINE)
        canceller.join(DEADLINE)
        name, status = MARKS[verb]
        bank = service.provider(name).bank
        (checkpoint,) = bank.checkpoints()
        assert checkpoint.status is status
        if verb == "delete":
            service.delete(checkpoint.id).result(DEADLINE)
            assert bank.checkpoints() == []


def test_a_delete_that_waited_for_one_that_failed_runs_only_what_that_had_not_completed(tmp_path):
    """It was planned before the other had done anything."""
    gate, journal, breaks = Gate(), Journal(), [1]

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("delete", "on_main"):
            gate.pass_through()
            if breaks:
                breaks.pop()
                raise OSError("it does not answer")

    with opened(tmp_path, RecordingProtection(journal, behave, PLAIN)) as service:
        made = service.protect(plan("one")).result(DEADLINE)
        first = service.delete(made.id)
        gate.wait_entered()
        second = service.delete(made.id)
        second.progress()  # answered after it has begun to plan
        while not any(asked == ("delete", "one") for asked in journal_of(service)[2:]):
            threading.Event().wait(0.001)
        gate.open()
        with pytest.raises(OperationError, match="does not answer"):
            first.result(DEADLINE)
        second.result(DEADLINE)

    hooks = [hook for hook, _ in journal.hooks("delete")]
    assert hooks == ["on_prepare_begin", "on_main", "on_main", "on_complete"]
    assert second.status is OperationStatus.SUCCEEDED


def journal_of(service: ProtectionService) -> list[tuple[str, str]]:
    """Return what the plugin was asked for, (verb, resource id)."""
    (plugin,) = set(service.provider("local").protection_plugins.values())
    return list(plugin.asked)


def test_what_no_operation_copies_any_more_is_deleted_by_force_only(tmp_path):
    """The bank that it was copied from, which has the copy's operation, is gone."""
    left = killed_as_it_began(tmp_path, "copy")
    plugin = RecordingProtection(Journal(), store_something, PLAIN)
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(left / "offsite", plugin, name="offsite"))
        offsite = service.provider("offsite")
        (checkpoint,) = offsite.bank.checkpoints()
        assert checkpoint.status is CheckpointStatus.COPYING
        with pytest.raises(CheckpointStateError, match=r"no operation .* makes it.* with force"):
            service.delete(checkpoint.id)
        service.delete(checkpoint.id, force=True).result(DEADLINE)
        assert offsite.bank.checkpoints() == []
        assert offsite.bank.check(deep=True) == []


def test_what_is_copied_is_not_deleted_by_force_either_while_its_operation_stands_still(tmp_path):
    left = killed_as_it_began(tmp_path, "copy")
    plugin = RecordingProtection(Journal(), store_something, PLAIN)
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(left / "offsite", plugin, name="offsite"))
        service.add_provider(provider(left / "local", plugin, recover="ask"))
        (handle,) = service.recovered
        handle.wait(DEADLINE)
        assert handle.status is OperationStatus.SUSPENDED
        bank = service.provider("offsite").bank
        (checkpoint,) = bank.checkpoints()
        for force in (False, True):
            with pytest.raises(CheckpointStateError, match=f"copy {handle.id}"):
                service.delete(checkpoint.id, force=force)
        service.resume(handle.id).result(DEADLINE)
        assert bank.checkpoint(checkpoint.id).status is CheckpointStatus.AVAILABLE
        service.delete(checkpoint.id).result(DEADLINE)
        assert bank.checkpoints() == []


def test_what_is_being_protected_is_deleted_by_force_only_where_nothing_protects_it(tmp_path):
    """Checkpoints may be made without the engine, by a program that dies of it."""
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("protect", "on_main"):
            gate.pass_through()

    with opened(tmp_path, RecordingProtection(Journal(), behave, PLAIN)) as service:
        bank = service.provider("local").bank
        handle = service.protect(plan("one"))
        gate.wait_entered()
        (alive,) = bank.checkpoints()
        orphan = bank.create_checkpoint(alive.plan, "local", alive.resource_graph)
        with pytest.raises(CheckpointStateError, match=f"protect {handle.id}"):
            service.delete(alive.id, force=True)
        with pytest.raises(CheckpointStateError, match="with force"):
            service.delete(orphan.id)
        service.delete(orphan.id, force=True).result(DEADLINE)
        gate.open()
        assert handle.result(DEADLINE) == alive
        assert bank.checkpoints() == [alive]
