"""A copy that a dead process left, and whose target is not there, or comes later."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from crashes import copy_records
from helpers import DEADLINE, Gate
from karbor_actors import CheckpointStatus, OperationStatus, ProtectionService, ResourceStatus
from karbor_actors.errors import OperationError, OperationSuspendedError
from karbor_actors.operations.verbs.copy import Copy
from kit import Journal, RecordingProtection, plan, provider, thing

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import OperationHandle, Resource


class Freezing:
    """What copy hooks freeze, thaw, and write into the copy; one of them stands at a gate.

    Args:
        hook: The hook of a copy that waits at the gate, with what it freezes frozen.
    """

    def __init__(self, hook: str = "") -> None:
        self.hook, self.gate = hook, Gate()
        self.frozen: set[str] = set()
        self.wants_copy = False
        """Whether undoing needs the copy itself."""

    def __call__(self, verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if verb != "copy":
            return
        if hook == "on_prepare_begin":
            self.frozen.add(resource.id)
        elif hook in ("on_prepare_finish", "on_abort"):
            self.frozen.discard(resource.id)
        copy = call["kwargs"]["checkpoint_copy"]
        if hook == "on_main" or (hook == "on_abort" and self.wants_copy):
            copy.get_resource_bank_section(resource).update_object("done by", hook)
        if hook == self.hook:
            self.gate.pass_through()


def left_by_a_crash(path: Path, hook: str, **options: Any) -> str:
    """Leave the banks of a copy whose process died in *hook*; return the operation's id."""
    freezing, left = Freezing(hook), path / "left"
    plugin = RecordingProtection(Journal(), freezing)
    with ProtectionService(workers=4) as service:
        service.add_provider(
            provider(path / "bank", plugin), provider(path / "off", plugin, name="off")
        )
        checkpoint = service.protect(plan("one", "two")).result(DEADLINE)
        handle = service.copy(checkpoint.id, to="off", **options)
        freezing.gate.wait_entered()
        for name, place in (("local", "bank"), ("off", "off")):
            copy_records(service.provider(name).bank, left / place)
        freezing.gate.open()
        handle.result(DEADLINE)
    return handle.id


class Host:
    """The process after the one that died; its providers come when a test says so."""

    def __init__(self, path: Path, freezing: Freezing, recover: str = "resume") -> None:
        self.path, self.freezing, self.journal = path / "left", freezing, Journal()
        freezing.frozen |= {"one", "two"}  # by the process that died
        self.plugin = RecordingProtection(self.journal, freezing)
        self.service = ProtectionService(workers=4)
        self.source = provider(self.path / "bank", self.plugin, recover=recover)
        self.target = provider(self.path / "off", self.plugin, name="off", recover=recover)

    def recovered(self) -> OperationHandle:
        """Return the handle of the only operation that was left."""
        (handle,) = self.service.recovered
        return handle

    def copies(self) -> list[str]:
        """Return the statuses of what is in the target's bank."""
        return [str(checkpoint.status) for checkpoint in self.target.bank.checkpoints()]

    def undone(self) -> set[str]:
        """Return the ids of the resources that this process has undone."""
        return {name for hook, name in self.journal.hooks("copy") if hook == "on_abort"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()
        self.target.bank.close()  # where it was never added


@pytest.mark.parametrize("recover", ["resume", "abort", "ask"])
def test_what_is_held_is_undone_although_the_target_has_not_been_added(tmp_path, recover):
    operation_id = left_by_a_crash(tmp_path, "on_prepare_begin")

    with Host(tmp_path, Freezing(), recover) as host:
        host.service.add_provider(host.source)
        handle = host.recovered()
        with pytest.raises(OperationSuspendedError, match="it waits for provider 'off'"):
            handle.result(DEADLINE)
        assert host.freezing.frozen == set()
        record = host.source.bank.journal.get(operation_id)
        assert (record.status, record.waits_for) == ("suspended", "provider 'off'")
        assert record.abort_pending == 0

        host.service.add_provider(host.target)
        with pytest.raises(OperationError, match="its process ended"):
            host.recovered().result(DEADLINE)
        assert host.copies() == ["error"]
        record = host.source.bank.journal.get(operation_id)
        assert (record.status, record.waits_for) == ("failed", "")


def test_what_is_held_is_not_undone_where_both_ends_are_added_together(tmp_path):
    left_by_a_crash(tmp_path, "on_prepare_begin")

    with Host(tmp_path, Freezing()) as host:
        host.service.add_provider(host.source, host.target)
        assert host.recovered().result(DEADLINE).status is CheckpointStatus.AVAILABLE
        assert host.undone() == set()


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_copy_that_holds_nothing_waits_for_its_target_and_goes_on(tmp_path, restarts):
    operation_id = left_by_a_crash(tmp_path, "on_main")
    for _ in range(restarts):
        with Host(tmp_path, Freezing()) as host:
            host.service.add_provider(host.source)
            assert host.recovered().wait(DEADLINE)

    with Host(tmp_path, Freezing()) as host:
        host.service.add_provider(host.source)
        assert host.recovered().wait(DEADLINE)
        assert host.recovered().status is OperationStatus.SUSPENDED
        with pytest.raises(OperationSuspendedError, match="it waits for provider 'off'"):
            host.service.resume(operation_id).result(DEADLINE)
        assert host.journal.hooks("copy") == []

        host.service.add_provider(host.target)
        assert host.recovered().result(DEADLINE).status is CheckpointStatus.AVAILABLE
        assert host.copies() == ["available"]
        ran = host.journal.hooks("copy")
        assert ("on_main", "one") in ran
        assert ("on_prepare_begin", "one") not in ran
        assert host.source.bank.journal.get(operation_id).waits_for == ""


def test_a_host_that_wants_to_be_asked_is_asked_once_the_target_is_there(tmp_path):
    left_by_a_crash(tmp_path, "on_main")

    with Host(tmp_path, Freezing(), "ask") as host:
        host.service.add_provider(host.source)
        assert host.recovered().wait(DEADLINE)
        host.service.add_provider(host.target)
        handle = host.recovered()
        with pytest.raises(OperationSuspendedError, match="at the next start"):
            handle.result(DEADLINE)
        resumed = host.service.resume(handle.id)
        assert resumed.result(DEADLINE).status is CheckpointStatus.AVAILABLE


@pytest.mark.parametrize("hook", ["on_prepare_begin", "on_main"])
def test_a_copy_is_aborted_although_its_target_never_comes(tmp_path, hook):
    operation_id = left_by_a_crash(tmp_path, hook)

    with Host(tmp_path, Freezing()) as host:
        host.service.add_provider(host.source)
        assert host.recovered().wait(DEADLINE)
        with pytest.raises(
            OperationError, match="bank of provider 'off', which has not been added"
        ):
            host.service.abort(operation_id).result(DEADLINE)
        assert host.undone() == {"one", "two"}
        record = host.source.bank.journal.get(operation_id)
        assert (record.status, record.abort_pending) == ("failed", 0)

        host.service.add_provider(host.target)
        assert len(host.service.recovered) == 1  # it has ended
        assert host.copies() == ["copying"]
        (copy,) = host.target.bank.checkpoints()
        host.service.delete(copy.id, force=True).result(DEADLINE)
        assert host.copies() == []


def test_a_target_that_comes_while_what_was_held_is_undone_is_not_missed(tmp_path):
    left_by_a_crash(tmp_path, "on_prepare_begin")

    with Host(tmp_path, Freezing("on_abort")) as host:
        host.service.add_provider(host.source)
        host.freezing.gate.wait_entered()
        host.service.add_provider(host.target)
        host.freezing.gate.open()
        with pytest.raises(OperationError, match="was held"):
            host.recovered().result(DEADLINE)
        assert host.service.wait(DEADLINE)
        assert host.copies() == ["error"]


@pytest.mark.parametrize("drain", [True, False])
def test_closing_while_what_was_held_is_undone_leaves_it_to_the_target(tmp_path, drain):
    operation_id = left_by_a_crash(tmp_path, "on_prepare_begin")

    with Host(tmp_path, Freezing("on_abort")) as host:
        host.service.add_provider(host.source)
        host.freezing.gate.wait_entered()
        closer = threading.Thread(target=host.service.close, kwargs={"drain": drain})
        closer.start()
        handle = host.recovered()
        while not (handle.is_suspended or handle.cancel_reason):
            threading.Event().wait(0.001)
        host.freezing.gate.open()
        closer.join(DEADLINE)
        assert handle.status is OperationStatus.SUSPENDED
        assert host.freezing.frozen == set()
    with Host(tmp_path, Freezing()) as host:
        record = host.source.bank.journal.get(operation_id)
        assert (record.status, record.waits_for) == ("suspended", "provider 'off'")
        host.service.add_provider(host.source, host.target)
        with pytest.raises(OperationError, match="was held"):
            host.recovered().result(DEADLINE)
        assert host.copies() == ["error"]


def test_a_part_that_holds_nothing_goes_on_when_the_target_comes(tmp_path):
    """Of an isolated copy only the part that was held is undone."""
    freezing, left = Freezing(), tmp_path / "left"
    gate, both = Gate(), Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        freezing(verb, hook, resource, call)
        if (verb, hook, resource.id) == ("copy", "on_prepare_begin", "one"):
            gate.pass_through()
        if (verb, hook, resource.id) == ("copy", "on_main", "two"):
            both.pass_through()

    plugin = RecordingProtection(Journal(), behave)
    with ProtectionService(workers=4) as service:
        service.add_provider(
            provider(tmp_path / "bank", plugin), provider(tmp_path / "off", plugin, name="off")
        )
        checkpoint = service.protect(plan("one", "two")).result(DEADLINE)
        handle = service.copy(checkpoint.id, to="off", on_failure="isolate")
        gate.wait_entered()
        both.wait_entered()
        for name, place in (("local", "bank"), ("off", "off")):
            copy_records(service.provider(name).bank, left / place)
        gate.open()
        both.open()
        handle.result(DEADLINE)

    with Host(tmp_path, Freezing()) as host:
        host.service.add_provider(host.source)
        assert host.recovered().wait(DEADLINE)
        assert host.recovered().status is OperationStatus.SUSPENDED
        assert host.undone() == {"one"}
        host.service.add_provider(host.target)
        with pytest.raises(OperationError, match="was held"):
            host.recovered().result(DEADLINE)
        assert host.undone() == {"one"}
        assert ("on_main", "two") in host.journal.hooks("copy")
        (copy,) = host.target.bank.checkpoints()
        assert copy.status is CheckpointStatus.PARTIAL
        assert copy.resource_status(thing("two")) is ResourceStatus.AVAILABLE


def test_what_can_only_be_undone_in_the_copy_is_pending_until_its_bank_is_there(tmp_path):
    operation_id = left_by_a_crash(tmp_path, "on_prepare_begin")

    freezing = Freezing()
    freezing.wants_copy = True
    with Host(tmp_path, freezing) as host:
        host.service.add_provider(host.source)
        with pytest.raises(OperationSuspendedError, match="bank of provider 'off', which has not"):
            host.recovered().result(DEADLINE)
        assert host.source.bank.journal.get(operation_id).abort_pending == 2
        host.service.add_provider(host.target)
        with pytest.raises(OperationError, match="was held"):
            host.recovered().result(DEADLINE)
        assert host.source.bank.journal.get(operation_id).abort_pending == 0


def test_a_cancel_that_comes_while_it_is_recorded_that_a_copy_stands_still_says_so(
    tmp_path, monkeypatch
):
    """It goes on once its target is there: who was told that it is cancelled would be wrong."""
    left_by_a_crash(tmp_path, "on_main")
    gate, told, stand_still = Gate(), [], Copy.stand_still

    def held(verb: Copy) -> Any:
        gate.pass_through()
        return stand_still(verb)

    with Host(tmp_path, Freezing()) as host:
        monkeypatch.setattr(Copy, "stand_still", held)
        host.service.add_provider(host.source)
        handle = host.recovered()
        gate.wait_entered()
        canceller = threading.Thread(target=lambda: told.append(handle.cancel()))
        canceller.start()
        while handle.cancel_reason is None:
            canceller.join(0.001)
        handle.progress()  # answered after what it was told before
        gate.open()
        canceller.join(DEADLINE)

        assert told == [False]
        assert handle.status is OperationStatus.SUSPENDED
        assert host.service.abort(handle.id).wait(DEADLINE)
