"""Deleting on a disk that the bank, or somebody else, has filled: it makes space, and needs some."""

from __future__ import annotations

import io
import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import killed_process
from helpers import DEADLINE, Gate, fill, mounted
from karbor_actors import (
    Bank,
    CheckpointStatus,
    OperationStatus,
    Plan,
    ProtectionService,
    Provider,
    Resource,
)
from karbor_actors.errors import KarborError, OperationError
from karbor_actors.testing import FaultPlan, Rule
from kit import Journal, RecordingProtection, Things, thing
from recovering import recover, run_until_killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from karbor_actors import Checkpoint

PLAN = Plan("plan", "local", [thing("one")])
HELD = 1 << 20
"""Bytes that a bank keeps."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    with mounted(tmp_path / "disk", "8m"):
        yield tmp_path / "disk"


class Saving(RecordingProtection):
    """Saves so many bytes, as a stream or as objects among the records.

    Args:
        size: How many bytes.
        how: What of: ``"stream"``, ``"streams"`` of 8 bytes each, ``"objects"``.
        on_delete: Called in the main hook of a delete.
    """

    def __init__(
        self, size: int, how: str = "stream", on_delete: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(Journal(), self._save)
        self.size, self._how, self.on_delete = size, how, on_delete

    def _save(self, verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main" and verb == "delete":
            self.on_delete()
        if hook != "on_main" or verb != "protect":
            return
        section = call["checkpoint"].get_resource_bank_section(resource)
        if self._how == "stream":
            section.write_stream("data", io.BytesIO(os.urandom(self.size)))
        elif self._how == "streams":
            with section.stream_writer() as writer:
                for number in range(self.size // 8):
                    writer.add(str(number), io.BytesIO(os.urandom(8)))
        else:
            for at in range(0, self.size, 20_000):
                section.update_object(str(at), os.urandom(min(20_000, self.size - at)))


def provider(path: Path, plugin: Saving, **bank: Any) -> Provider:
    return Provider(
        "local",
        bank=Bank.open(path / "bank", **bank),
        protection_plugins=[plugin],
        protectables=[Things()],
    )


def serve(path: Path, plugin: Saving, **bank: Any) -> ProtectionService:
    """Return a service with the bank in *path*."""
    service = ProtectionService(workers=2)
    service.add_provider(provider(path, plugin, **bank))
    return service


def protect(service: ProtectionService) -> Checkpoint:
    checkpoint = service.protect(PLAN).result(DEADLINE)
    assert checkpoint.status is CheckpointStatus.AVAILABLE
    return checkpoint


def protect_until_full(service: ProtectionService) -> int:
    """Make checkpoints until there is no space for one more; return how many there are."""
    made = 0
    while True:
        try:
            protect(service)
        except KarborError:
            return made
        made += 1


def delete_all(service: ProtectionService) -> None:
    """Delete one checkpoint after another."""
    for checkpoint in service.provider("local").bank.checkpoints():
        service.delete(checkpoint.id).result(DEADLINE)


def check_whole(path: Path, **bank: Any) -> None:
    """Nothing is damaged, nothing is left, and the bank has its space again."""
    with Bank.open(path / "bank", **bank) as bank_:
        assert bank_.checkpoints() == []
        assert bank_.check(deep=True) == []
        assert bank_.info()["rows"]["garbage"] == 0
        assert all(record.status.is_terminal for record in bank_.journal.operations())
    assert (path / "bank" / "reserve").stat().st_size > HELD // 2


@pytest.mark.parametrize(
    ("size", "how"), [(2_000_000, "stream"), (60_000, "stream"), (60_000, "objects")]
)
def test_a_bank_that_filled_its_disk_can_be_emptied_and_filled_again(disk, size, how):
    for _ in range(2):
        with serve(disk, Saving(size, how)) as service:
            assert protect_until_full(service) >= 2
            fill(disk / "ballast")
            delete_all(service)
            assert service.provider("local").bank.checkpoints() == []
        (disk / "ballast").unlink()
        check_whole(disk)


@pytest.mark.parametrize("count", [1, 6])
def test_so_can_one_whose_checkpoints_are_tiny_and_whose_disk_others_have_filled(disk, count):
    with serve(disk, Saving(300)) as service:
        for _ in range(count):
            protect(service)
        fill(disk / "ballast")
        delete_all(service)
    with serve(disk, Saving(300)) as service:
        assert service.provider("local").bank.checkpoints() == []
        (disk / "ballast").write_bytes(b"")
        delete_all(service)
        protect(service)
        delete_all(service)
    check_whole(disk)


def test_each_delete_may_be_a_process_of_its_own(disk):
    with serve(disk, Saving(300)) as service:
        for _ in range(5):
            protect(service)
        fill(disk / "ballast")
    for turn in range(8):  # each of which takes what there is for a new one
        with serve(disk, Saving(300)) as service:
            bank = service.provider("local").bank
            (*others, oldest) = bank.checkpoints()
            service.delete(oldest.id).result(DEADLINE)
            assert bank.checkpoints() == others
            with suppress(KarborError):
                service.protect(PLAN).result(DEADLINE)
            fill(disk / f"more {turn}")
        assert (disk / "bank" / "reserve").stat().st_size > HELD // 2, "for the next time"
    with serve(disk, Saving(300)) as service:
        delete_all(service)
    check_whole(disk)


def test_a_bank_that_keeps_nothing_any_more_keeps_what_its_deletes_free(disk):
    with serve(disk, Saving(300)) as service:
        for _ in range(5):
            protect(service)
    (disk / "bank" / "reserve").unlink()
    fill(disk / "ballast")
    sizes = []
    with serve(disk, Saving(300)) as service:
        for checkpoint in service.provider("local").bank.checkpoints():
            service.delete(checkpoint.id).result(DEADLINE)
            sizes.append((disk / "bank" / "reserve").stat().st_size)
    assert sizes[-1] > sizes[0] > 0, "more and more"
    (disk / "ballast").unlink()
    check_whole(disk)


def test_several_deletes_at_once_have_it_until_the_last_one_has_ended(disk):
    gate = Gate()
    plugin = Saving(300)
    with serve(disk, plugin) as service:
        first, *others = [protect(service) for _ in range(6)]
        fill(disk / "ballast")
        plugin.on_delete = gate.pass_through
        slow = service.delete(first.id)
        gate.wait_entered()
        plugin.on_delete = lambda: None
        handles = [service.delete(checkpoint.id) for checkpoint in others]
        for handle in handles:
            handle.result(DEADLINE)
        kept = (disk / "bank" / "reserve").stat().st_size
        assert kept < HELD // 2, "the first one needs it still"
        gate.open()
        slow.result(DEADLINE)
    check_whole(disk)


def test_a_delete_that_fails_gives_it_back_and_can_be_repeated(disk):
    def fail() -> None:
        raise RuntimeError("not yet")

    plugin = Saving(300, on_delete=fail)
    with serve(disk, plugin) as service:
        checkpoint = protect(service)
        fill(disk / "ballast")
        bank = service.provider("local").bank
        for _ in range(3):
            with pytest.raises(OperationError, match="not yet"):
                service.delete(checkpoint.id).result(DEADLINE)
            (left,) = bank.checkpoints()
            assert left.status is CheckpointStatus.ERROR_DELETING
    assert (disk / "bank" / "reserve").stat().st_size > HELD // 2
    records = disk / "bank" / "bank.lmdb"
    with Bank.open(disk / "bank", readonly=True) as bank:
        assert bank.info()["file_bytes"] == bank.info()["used_bytes"]
        assert bank.check(deep=True) == []
    (disk / "ballast").unlink()
    shutil.rmtree(records)
    assert Bank.rebuild(disk / "bank").damaged == {}
    with serve(disk, Saving(300)) as service:
        (left,) = service.provider("local").bank.checkpoints()
        assert left.status is CheckpointStatus.ERROR_DELETING, "its manifest said so"
        delete_all(service)
    check_whole(disk)


def test_what_a_delete_wants_done_and_cannot_write_down_looks_whole_to_no_rebuild(disk, tmp_path):
    """The objects are elsewhere, and there is not a byte left for a head that says ``deleting``."""

    def fail() -> None:
        raise RuntimeError("not yet")

    plugin, elsewhere = Saving(300, on_delete=fail), tmp_path / "near"
    elsewhere.mkdir()
    with serve(elsewhere, plugin, objects=str(disk / "objects")) as service:
        checkpoint = protect(service)
        fill(disk / "ballast")
        with pytest.raises(OperationError, match="not yet"):
            service.delete(checkpoint.id).result(DEADLINE)
    (disk / "ballast").unlink()
    with Bank.open(elsewhere / "bank", objects=str(disk / "objects")) as bank:
        assert bank.checkpoints()[0].status is CheckpointStatus.ERROR_DELETING
        assert bank.check(deep=True) == []
    shutil.copytree(elsewhere / "bank", tmp_path / "lost")
    shutil.copytree(disk / "objects", tmp_path / "lost" / "objects")
    shutil.rmtree(tmp_path / "lost" / "bank.lmdb")
    report = Bank.rebuild(tmp_path / "lost")
    assert (report.checkpoints, report.damaged) == (0, {})

    with serve(elsewhere, Saving(300), objects=str(disk / "objects")) as service:
        delete_all(service)
    check_whole(elsewhere, objects=str(disk / "objects"))


def test_a_quota_that_nobody_can_see_is_a_full_disk_too(tmp_path):
    """Where the first write fails although the file system says that there is space."""
    rule = Rule("commit_before", "disk_full", times=1)
    with serve(tmp_path, Saving(300)) as service:
        checkpoint = protect(service)
        with FaultPlan([rule]).installed() as faults:
            service.delete(checkpoint.id).result(DEADLINE)
        assert len(faults.fired) == 1
    check_whole(tmp_path)


def test_thousands_of_blocks_are_freed_in_steps_that_fit(tmp_path):
    """Each row that goes may cost a page until it has gone; after compact() there is none to spare."""
    with mounted(tmp_path / "disk", "24m"):
        disk = tmp_path / "disk"
        with serve(disk, Saving(16_000 * 8, "streams")) as service:
            protect(service)
            service.provider("local").bank.compact()
            fill(disk / "ballast")
            delete_all(service)
            assert service.provider("local").bank.info()["rows"]["blocks"] == 0
        check_whole(disk)


HOOK_POINTS = [("on_prepare_begin", "disk1", "before"), ("on_main", "image", "after")]


def protected(path: Path) -> str:
    """Protect with the killed process' plugins; return the checkpoint's id."""
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(path))
        plan = Plan("plan", "local", [Resource(killed_process.TYPE, "server")])
        return service.protect(plan).result(DEADLINE).id


def frozen_disk(path: Path, checkpoints: int) -> list[str]:
    """Protect with the killed process' plugins; fill the disk; return the checkpoints' ids."""
    plan = Plan("plan", "local", [Resource(killed_process.TYPE, "server")])
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(path))
        made = [service.protect(plan).result(DEADLINE).id for _ in range(checkpoints)]
    fill(path / "bank" / "ballast")
    (path / "log").unlink()  # whose order is looked at is the next process
    return made


@pytest.mark.parametrize("place", HOOK_POINTS)
def test_a_delete_killed_in_a_hook_ends_although_the_disk_is_still_full(tmp_path, place):
    with mounted(tmp_path / "bank", "8m"):
        (checkpoint,) = frozen_disk(tmp_path, 1)
        assert run_until_killed(tmp_path, "delete", checkpoint, *place)

        assert recover(tmp_path) == ["succeeded"]
        with Bank.open(tmp_path / "bank", readonly=True) as bank:
            assert bank.checkpoints() == []
        assert (tmp_path / "bank" / "reserve").stat().st_size > HELD // 2


def test_a_delete_killed_at_any_commit_ends_although_the_disk_is_still_full(tmp_path, monkeypatch):
    with mounted(tmp_path / "bank", "8m"):
        made = frozen_disk(tmp_path, 24)
        for point in ("put_before", "put_after"):  # of the manifest's head
            rule = {"point": point, "action": "kill"}
            monkeypatch.setenv("KARBOR_ACTORS_FAULTS", json.dumps({"rules": [rule]}))
            assert run_until_killed(tmp_path, "delete", made.pop())
            monkeypatch.delenv("KARBOR_ACTORS_FAULTS")
            assert recover(tmp_path) == ["succeeded"]
        for nth in range(4, 64, 3):  # the first ones open the bank
            rule = {"point": "commit_before", "action": "kill", "nth": nth}
            monkeypatch.setenv("KARBOR_ACTORS_FAULTS", json.dumps({"rules": [rule]}))
            was_killed = run_until_killed(tmp_path, "delete", made.pop())
            monkeypatch.delenv("KARBOR_ACTORS_FAULTS")
            assert recover(tmp_path) in ([], ["succeeded"])
            fill(tmp_path / "bank" / "more")
            if not was_killed:
                break
        assert nth > 12, "it was killed in the middle, too"
        assert not was_killed, "and at the end"
        with ProtectionService(workers=4) as service:
            service.add_provider(killed_process.provider(tmp_path))
            for checkpoint in service.provider("local").bank.checkpoints():
                assert checkpoint.status is CheckpointStatus.AVAILABLE
                handle = service.delete(checkpoint.id)
                handle.result(DEADLINE)
                assert handle.status is OperationStatus.SUCCEEDED
        assert recover(tmp_path) == []


@pytest.mark.parametrize("nth", range(1, 7))
@pytest.mark.parametrize("verb", ["protect", "restore"])
@pytest.mark.parametrize("place", [*HOOK_POINTS, ("on_prepare_finish", "server", "after")])
def test_what_was_killed_is_not_given_up_for_want_of_space_at_one_commit(
    tmp_path, verb, place, nth
):
    """It is undone if it must be, or goes on; if that cannot be recorded, it stands still."""
    checkpoint = protected(tmp_path) if verb == "restore" else "-"
    assert run_until_killed(tmp_path, verb, checkpoint, *place)
    full = FaultPlan([Rule("commit_before", "disk_full", nth=nth)], seed=1)
    with full.installed(), ProtectionService(workers=4) as service:
        with suppress(KarborError):
            service.add_provider(killed_process.provider(tmp_path))
        for handle in service.recovered:
            assert handle.wait(DEADLINE)
    assert full.fired

    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert next(record.abort_pending for record in bank.journal.operations()) == 0
    recover(tmp_path)
