"""What a process does that lost its bank to a later owner: stopped for long, say, and thought dead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from helpers import DEADLINE, Gate
from karbor_actors import Bank, CheckpointStatus, OperationStatus, ProtectionService
from karbor_actors.bank import lease
from kit import Journal, RecordingProtection, plan, provider, store_something

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource


def opened(path: Path, plugin: Any) -> ProtectionService:
    service = ProtectionService(workers=4)
    service.add_provider(provider(path / "bank", plugin))
    return service


def lose(bank: Bank) -> None:
    """Drop the lock but not the bank, as a file system does that does not share locks."""
    for held in list(lease._held):
        if os.path.dirname(os.readlink(f"/proc/self/fd/{held._fd}")) == str(bank.directory):
            held.release()


def test_a_process_that_lost_its_bank_undoes_what_it_holds_and_nothing_that_goes_on(tmp_path):
    """The later owner's checkpoint has what the first one's hooks made: a snapshot, say."""
    saving, freezing = Gate(), Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "saved"):
            saving.pass_through()
        if (hook, resource.id) == ("on_prepare_begin", "frozen"):
            freezing.pass_through()

    stale, later = Journal(), Journal()
    with opened(tmp_path, RecordingProtection(stale, behave)) as first:
        handles = [first.protect(plan("saved")), first.protect(plan("frozen"))]
        saving.wait_entered()
        freezing.wait_entered()
        lose(first.provider("local").bank)
        with opened(tmp_path, RecordingProtection(later, store_something)) as second:
            assert [handle.wait(DEADLINE) for handle in second.recovered] == [True, True]
            assert later.aborted() == ["frozen"]
            (good,) = second.provider("local").bank.checkpoints(status="available")
            saving.open()
            freezing.open()  # and what it freezes only now is thawed again
            assert [handle.wait(DEADLINE) for handle in handles] == [True, True]
            assert {handle.status for handle in handles} == {OperationStatus.FAILED}
            assert all("later owner" in str(handle.exception(0)) for handle in handles)
            assert stale.aborted() == ["frozen"]
            assert second.provider("local").bank.checkpoint(good.id).status is (
                CheckpointStatus.AVAILABLE
            )
