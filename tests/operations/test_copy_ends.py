"""A copy is finished in its own bank before its operation's end is recorded in the other one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

import kit
from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    CheckpointStatus,
    OperationStatus,
    ProtectionService,
    Provider,
    faultpoints,
)
from karbor_actors.bank.journal import abort_marks
from karbor_actors.errors import BankFullError, OperationError
from karbor_actors.operations.verbs.copy import Copy
from kit import Journal, RecordingProtection, plan, provider, store_something

KEY = ("Test::Thing", "lone")


def copying(verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
    """Store, copy, and undo the copy, as a plugin's own copy operation does."""
    store_something(verb, hook, resource, call)
    if verb == "copy" and hook in ("on_main", "on_abort"):
        section = call["kwargs"]["checkpoint_copy"].get_resource_bank_section(resource)
        if hook == "on_main":
            section.update_object("copied", 1)
        else:
            section.delete_object("copied")


def opened(path: Path, journal: Journal, recover: str = "resume") -> ProtectionService:
    service = ProtectionService(workers=4)
    plugin = RecordingProtection(journal, copying, ("on_main", "on_abort"))
    service.add_provider(provider(path / "off", plugin, name="off"))
    service.add_provider(provider(path / "bank", plugin, recover=recover))
    return service


def what_is_copied(path: Path) -> list[tuple[str, list[str]]]:
    with Bank.open(path / "off", readonly=True) as bank:
        return [
            (str(c.status), sorted(c.get_resource_bank_section(KEY).list_objects()))
            for c in bank.checkpoints()
        ]


@pytest.mark.parametrize("times", [2, 9])  # a change that fails is tried alone once more
def test_a_finished_copy_is_not_undone_where_its_end_cannot_be_recorded(
    tmp_path, journal, monkeypatch, times
):
    """Nor is it said to have failed: it is there, and succeeded, or nothing is said of it yet."""
    with opened(tmp_path, journal) as service:
        checkpoint = service.protect(plan("lone")).result(DEADLINE)
        bank, left = service.provider("local").bank, [times]
        of_end = bank.journal.update_change

        def fails(*arguments: Any, **changes: Any) -> Any:
            end = of_end(*arguments, **changes)

            def change(transaction: Any) -> Any:
                if left[0]:
                    left[0] -= 1
                    raise BankFullError("the disk is full")
                return end(transaction)

            return change

        monkeypatch.setattr(bank.journal, "update_change", fails)
        handle = service.copy(checkpoint.id, to="off")
        if times > 2:
            with pytest.raises(OperationError, match="the disk is full"):
                handle.result(DEADLINE)
        else:
            assert handle.result(DEADLINE).status == "available"
        monkeypatch.undo()
        record = bank.journal.get(handle.id)
        assert record.status == ("running" if times > 2 else "succeeded")
        assert journal.aborted() == []
        assert service.copy(checkpoint.id, to="off").result(DEADLINE).status == "available"

    with opened(tmp_path, journal, "abort") as service:
        assert [h.result(DEADLINE).status for h in service.recovered] == ["available"] * (times > 2)
    assert journal.aborted() == []
    assert what_is_copied(tmp_path) == [("available", ["copied"])]


def _killed_at_its_end(path: Path) -> None:
    conclude = Copy.conclude

    def dies(self: Copy, *arguments: Any) -> None:
        conclude(self, *arguments)
        os._exit(9)

    Copy.conclude = dies  # type: ignore[method-assign]
    service = opened(path, Journal())
    checkpoint = service.protect(plan("lone")).result(DEADLINE)
    service.copy(checkpoint.id, to="off").result(DEADLINE)


@pytest.fixture
def finished(tmp_path) -> Path:
    """Two banks of which one has a finished copy, and the other an operation that did not end."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        check=False,
        timeout=DEADLINE,
        env={**os.environ, "PYTHONPATH": str(Path(kit.__file__).parent)},
    )
    assert done.returncode == 9
    return tmp_path


@pytest.mark.parametrize("recover", ["resume", "abort", "ask"])
def test_a_copy_that_was_finished_before_its_process_died_is_not_undone(
    finished, tmp_path, journal, recover
):
    with opened(tmp_path, journal, recover) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        if recover == "ask":
            assert handle.status is OperationStatus.SUSPENDED
            handle = service.resume(handle.id)
        assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE
    assert journal.hooks("copy") == []
    assert what_is_copied(tmp_path) == [("available", ["copied"])]


@pytest.mark.parametrize("recover", ["resume", "abort", "ask"])
def test_what_may_be_finished_is_not_undone_before_its_bank_is_there(finished, journal, recover):
    plugin = RecordingProtection(journal, copying, ("on_main", "on_abort"))
    with ProtectionService(workers=4) as service:
        service.add_provider(provider(finished / "bank", plugin, recover=recover))
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert handle.status is OperationStatus.SUSPENDED
        service.add_provider(provider(finished / "off", plugin, name="off", recover=recover))
        (handle,) = service.recovered
        if recover == "ask":
            assert handle.wait(DEADLINE)
            handle = service.resume(handle.id)
        assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE
    assert journal.hooks("copy") == []
    assert what_is_copied(finished) == [("available", ["copied"])]


def test_what_may_be_finished_is_never_undone_without_its_bank(finished, journal):
    """It is given up: the copy may be available, and whoever has it sees."""
    plugin = RecordingProtection(journal, copying, ("on_main", "on_abort"))
    with ProtectionService(workers=4) as service:
        service.add_provider(provider(finished / "bank", plugin))
        assert service.recovered[0].wait(DEADLINE)
        with pytest.raises(OperationError, match="is left as it is in the bank of provider 'off'"):
            service.abort(service.recovered[0].id).result(DEADLINE)
    assert journal.hooks("copy") == []
    assert what_is_copied(finished) == [("available", ["copied"])]


def test_a_copy_that_was_given_up_does_not_go_on_to_succeed_though_nobody_remembers(
    tmp_path, journal
):
    """The source's bank was full: its record says no more than that the copy runs."""
    disk = FullDisk(str(tmp_path / "bank"))
    with opened(tmp_path, journal) as service:
        checkpoint = service.protect(plan("lone")).result(DEADLINE)
        faultpoints.install(disk)  # type: ignore[arg-type]
        try:
            disk.fills_in = 2  # the copy's record and the hook's intent are there before
            handle = service.copy(checkpoint.id, to="off")
            with pytest.raises(OperationError, match="no space is left"):
                handle.result(DEADLINE)
        finally:
            faultpoints.remove(disk)  # type: ignore[arg-type]
    (tmp_path / "bank" / abort_marks.NAME).unlink()
    with opened(tmp_path, journal) as service:
        (handle,) = service.recovered
        with pytest.raises(OperationError, match="is error"):
            handle.result(DEADLINE)
    assert [status for status, _ in what_is_copied(tmp_path)] == ["error"]


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("is_asked", [True, False])
def test_a_copy_whose_bank_cannot_record_that_it_failed_is_ended_once_that_can(
    tmp_path, journal, fails, is_asked
):
    """Its operation does not end before: its record is in the other bank, and would be alone."""
    disk = FullDisk(str(tmp_path / "off"))

    def behave(verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("copy", "on_main"):
            disk.is_full = True
            if fails:
                raise OSError("the link is down")

    plugin = RecordingProtection(journal, behave, ("on_main", "on_abort"))

    def providers() -> list[Provider]:
        return [
            provider(tmp_path / "off", plugin, name="off"),
            provider(tmp_path / "bank", plugin),
        ]

    with ProtectionService(workers=4) as service:
        service.add_provider(*providers())
        checkpoint = service.protect(plan("lone")).result(DEADLINE)
        faultpoints.install(disk)  # type: ignore[arg-type]
        try:
            handle = service.copy(checkpoint.id, to="off", provider="local")
            with pytest.raises(OperationError, match="no space is left") as failed:
                handle.result(DEADLINE)
            assert ("the link is down" in str(failed.value)) is fails
            assert handle.status is OperationStatus.FAILED
            assert ("on_abort", "lone") in journal.hooks("copy")
            (record,) = service.operation_history("local", 1)
            assert not record.status.is_terminal
            assert [status for status, _ in what_is_copied(tmp_path)] == ["copying"]
        finally:
            faultpoints.remove(disk)  # type: ignore[arg-type]
        if is_asked:
            again = service.abort(handle.id)
            assert again.wait(DEADLINE)
            assert again.status is OperationStatus.FAILED
    if not is_asked:
        with ProtectionService(workers=4) as service:
            service.add_provider(*providers())
            (again,) = service.recovered
            assert again.wait(DEADLINE)
            assert again.status is OperationStatus.FAILED
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        record = bank.journal.get(handle.id)
    assert (record.status, record.abort_pending) == (OperationStatus.FAILED, 0)
    assert [status for status, _ in what_is_copied(tmp_path)] == ["error"]


class FullDisk:
    """A disk that is full for one bank."""

    def __init__(self, path: str) -> None:
        self.path, self.is_full, self.fills_in = path, False, -1

    def on_commit(self, path: str, when: str) -> None:
        if when != "before" or not path.startswith(self.path):
            return
        self.is_full |= self.fills_in == 0
        self.fills_in -= 1
        if self.is_full:
            raise lmdb.DiskError("mdb_txn_commit: No space left on device")

    def on_message(self, actor: object, message: object) -> object:
        return message

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


if __name__ == "__main__":
    _killed_at_its_end(Path(sys.argv[1]))


def test_of_several_copies_at_once_the_later_ones_find_the_first_ones(tmp_path, journal):
    with opened(tmp_path, journal) as service:
        checkpoint = service.protect(plan("lone")).result(DEADLINE)
        handles = [service.copy(checkpoint.id, to="off", provider="local") for _ in range(5)]
        (copy,) = {handle.result(DEADLINE) for handle in handles}
        again = [
            service.copy(checkpoint.id, to="off", provider="local", again=True) for _ in range(2)
        ]
        others = {handle.result(DEADLINE) for handle in again}
        assert len(others | {copy}) == 3
        assert len(service.provider("off").bank.checkpoints()) == 3
    assert len(journal.hooks("copy")) == 3  # one main hook each


def test_a_copy_that_failed_is_made_by_the_one_that_waited_for_it(tmp_path, journal):
    gate, breaks = Gate(), [1]

    def behave(verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("copy", "on_main"):
            gate.pass_through()
            if breaks:
                breaks.pop()
                raise OSError("it does not answer")

    plugin = RecordingProtection(journal, behave, ("on_main",))
    with ProtectionService(workers=4) as service:
        service.add_provider(provider(tmp_path / "off", plugin, name="off"))
        service.add_provider(provider(tmp_path / "bank", plugin))
        checkpoint = service.protect(plan("lone")).result(DEADLINE)
        first = service.copy(checkpoint.id, to="off", provider="local")
        gate.wait_entered()
        second = service.copy(checkpoint.id, to="off", provider="local")
        gate.open()
        with pytest.raises(OperationError, match="does not answer"):
            first.result(DEADLINE)
        assert second.result(DEADLINE).status is CheckpointStatus.AVAILABLE
