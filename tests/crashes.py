"""What a process leaves in its bank when it is killed, without killing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors import Bank

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import ProtectionService


def crash_image(service: ProtectionService, path: Path) -> Path:
    """Return a directory whose ``bank`` is as a kill would leave the service's bank just now."""
    path.mkdir()
    copy_records(service.provider("local").bank, path / "bank")
    return path


def copy_records(bank: Bank, directory: Path) -> None:
    """Make *directory* with the records of *bank* as a kill would leave them just now."""
    records = directory / "bank.lmdb"
    records.mkdir(parents=True)
    bank._environment.copy(str(records / "data.mdb"))


def record_of(path: Path, operation_id: str) -> object:
    """Return the operation's record in the bank below *path*."""
    with Bank.open(path / "bank", readonly=True) as bank:
        return bank.journal.get(operation_id)
