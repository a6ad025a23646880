"""Making a bank's records again from its manifests and the indices of its packs.

The records are made beside the bank and take their place when they are whole: killed at any
point, it begins anew. What no manifest names is freed at the end, unless one is damaged.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmdb import verify as lmdb_verify

from karbor_actors.bank.actor import BankWriter
from karbor_actors.bank.backup import original_of
from karbor_actors.bank.blocks.blocks import FOLDER as PACKS
from karbor_actors.bank.blocks.blocks import BlockStore, stored_bank_id
from karbor_actors.bank.blocks.check import check_block_records
from karbor_actors.bank.blocks.rebuild import free_unneeded, record_packs
from karbor_actors.bank.checking import check_records
from karbor_actors.bank.database.data_files import NEW
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.database.faults import open_error
from karbor_actors.bank.database.mapping import data_file
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.manifests.manifest import FOLDER as CHECKPOINTS
from karbor_actors.bank.manifests.manifest import bank_folder
from karbor_actors.bank.manifests.rebuild_checkpoint import CheckpointRebuilder
from karbor_actors.errors import BankBrokenError, BankError, BankFormatError, BankPathError
from karbor_actors.folders import sync_folder

if TYPE_CHECKING:
    from karbor_actors.store.objects import ObjectStore

_BANK_ID = re.compile(r"[0-9a-f]{16}")
_OLD = ".old"


@dataclass(slots=True, kw_only=True)
class RebuildReport:
    """What :meth:`Bank.rebuild` found and made."""

    bank_id: str
    checkpoints: int = 0
    """How many came back whole."""
    damaged: dict[str, str] = field(default_factory=dict)
    """By id: what is missing of a checkpoint that is an error now."""
    blocks: int = 0
    packs: int = 0
    packs_freed: int = 0
    """How many packs held nothing that a checkpoint names. None while one is damaged: what it
    named may be found yet. ``Bank.compact()`` frees them then."""
    unreadable: list[str] = field(default_factory=list)
    """What is wrong with packs that are damaged; they are left alone."""
    moved_to: str | None = None
    """Where the damaged records are now."""


def rebuild_records(directory: str, store: ObjectStore, bank_id: str | None) -> RebuildReport:
    """Make ``bank.lmdb`` in *directory*, whose lease the caller has. See :meth:`Bank.rebuild`."""
    path = os.path.join(directory, "bank.lmdb")
    known = _backed_up(path)
    if known is None and _is_whole(path):
        raise BankPathError(
            f"the records in {path} are whole; to have them made again, move them away first"
        )
    report = RebuildReport(bank_id=bank_id or known or _find_bank(store))
    if not _BANK_ID.fullmatch(report.bank_id):
        raise BankPathError(f"{bank_id!r} is no bank's id, which has 16 hexadecimal digits")
    folders = (bank_folder(bytes.fromhex(report.bank_id)), f"{PACKS}/{report.bank_id}")
    if not any(next(iter(store.list(folder)), None) for folder in folders):
        raise BankPathError(
            f"the object store holds nothing of the bank {report.bank_id}; name the one that does"
        )
    making = f"{path}{NEW}{secrets.token_hex(4)}"
    try:
        with ExitStack() as closing:
            environment = closing.enter_context(Environment(making))
            _fill(environment, store, report, closing)
        report.moved_to = _install(making, path)
    except OSError as error:
        raise (error if isinstance(error, BankError) else open_error(error, path)) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)  # gone, unless it failed
    return report


def _backed_up(path: str) -> str | None:
    """Return the id of the bank that the records are a backup of, None if they are something else.

    Raises:
        BankPathError: The bank's own records are where they were.
    """
    try:
        with Environment(path, readonly=True) as environment, environment.snapshot() as snapshot:
            original = original_of(snapshot)
            bank_id = stored_bank_id(snapshot).hex()
    except BankError:
        return None  # missing or damaged, say
    if original is None:
        return None
    records = os.path.join(original, "bank.lmdb")
    if os.path.lexists(records) and not _is_same(records, path):
        raise BankPathError(
            f"{path} is a backup of the bank {original}, whose records are there: open that one; "
            "rebuild it there, if they are damaged"
        )
    return bank_id


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _is_whole(path: str) -> bool:
    """Return whether there are records that can be used; finish what an owner was killed in.

    Raises:
        BankPathError: Something else is in their place.
        BankFormatError: They are of a newer release.
    """
    try:
        with Environment(path, create=False) as environment, environment.snapshot() as snapshot:
            if _is_damaged(path):
                return False
            return not check_records(snapshot) and not check_block_records(snapshot)
    except BankPathError:
        if os.path.lexists(data_file(path)) or (os.path.lexists(path) and not os.path.isdir(path)):
            raise
        return False
    except BankFormatError as error:
        if error.is_newer:
            raise
        return False
    except BankBrokenError:
        if not _is_damaged(path):
            raise  # there was no memory for it, say
        return False


def _is_damaged(path: str) -> bool:
    """Return whether the pages in *path* are; without a map, since what they point at may be anywhere."""
    try:
        return bool(lmdb_verify.verify(path))  # type: ignore[no-untyped-call]
    except lmdb_verify.VerifyError:
        return True


def _find_bank(store: ObjectStore) -> str:
    """Return the id of the one bank that has manifests, or at least packs, in *store*."""
    for folder in (CHECKPOINTS, PACKS):
        parts = {name.split("/")[1] for name, _ in store.list(folder)}
        found = sorted(filter(_BANK_ID.fullmatch, parts))
        if len(found) == 1:
            return found[0]
        if found:
            banks = ", ".join(found)
            raise BankPathError(
                f"the object store holds several banks: {banks}; say which with --bank-id (bank_id)"
            )
    raise BankPathError("the object store holds nothing that a bank could be rebuilt from")


def _fill(
    environment: Environment, store: ObjectStore, report: RebuildReport, closing: ExitStack
) -> None:
    """Fill new, empty records."""
    writer = BankWriter(environment)
    closing.callback(writer.close)
    blocks = BlockStore(environment, store, writer, bank_id=bytes.fromhex(report.bank_id))
    closing.callback(blocks.close)
    report.unreadable = record_packs(blocks)
    recorded = _count(environment, Table.PACKS)
    folder = bank_folder(blocks.bank_id)
    names = (name.removeprefix(f"{folder}/") for name, _ in store.list(folder))
    rebuilder = CheckpointRebuilder(blocks)
    for part in sorted({name.partition("/")[0] for name in names}):
        checkpoint_id, wrong = rebuilder.rebuild(f"{folder}/{part}")
        if wrong:
            report.damaged[checkpoint_id] = wrong
        else:
            report.checkpoints += 1
    if not report.damaged:
        free_unneeded(blocks)
    report.blocks = _count(environment, Table.BLOCKS)
    report.packs = _count(environment, Table.PACKS)
    report.packs_freed = recorded - report.packs


def _count(environment: Environment, table: Table) -> int:
    with environment.snapshot() as snapshot:
        return snapshot.count(table)


def _install(making: str, path: str) -> str | None:
    """Put the new records in their place; return where the old ones are, if there were any.

    The old data file has a second name first, so that it is never lost; and the old folder is
    where the next opening finds it again, if this is killed between the two renames.
    """
    side = None
    if os.path.lexists(path):
        side = f"{path}.damaged-{secrets.token_hex(4)}"
        os.mkdir(side, 0o700)
        for name in os.listdir(path):
            if name != "lock.mdb":
                os.link(os.path.join(path, name), os.path.join(side, name), follow_symlinks=False)
        sync_folder(side)
        os.rename(path, f"{path}{_OLD}")
    os.rename(making, path)
    sync_folder(os.path.dirname(path))
    return side
