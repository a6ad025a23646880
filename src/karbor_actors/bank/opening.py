"""What opening a bank and rebuilding one begin with."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from karbor_actors.actors.dispatcher import Dispatcher
from karbor_actors.arguments import argument_error, check_flags, check_instance
from karbor_actors.bank.actor import BankWriter, ReadonlyWriter
from karbor_actors.bank.backup import refuse_backup
from karbor_actors.bank.blocks.blocks import BlockStore
from karbor_actors.bank.database.data_files import OLD
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.database.faults import open_error
from karbor_actors.bank.database.mapping import data_file
from karbor_actors.bank.journal import abort_marks
from karbor_actors.bank.lease import Lease
from karbor_actors.bank.manifests.manifests import Manifests
from karbor_actors.bank.manifests.rebuild import RebuildReport, rebuild_records
from karbor_actors.bank.parts import BankParts
from karbor_actors.bank.reserve import NAME as RESERVE
from karbor_actors.bank.reserve import Reserve
from karbor_actors.errors import BankFullError, BankPathError, BankReadonlyError
from karbor_actors.folders import make_path
from karbor_actors.store.local import LocalStore
from karbor_actors.store.objects import open_store

if TYPE_CHECKING:
    from karbor_actors.store.objects import ObjectStore

_OWN = frozenset({"aborts", "bank.lmdb", "lease", "lost+found", "objects", "reserve"})
"""What may stand in a directory that is to hold a bank."""


_RECORDS = "bank.lmdb"
_OBJECTS = "objects"
_FAN = 2
"""How long the names of the folders are in which a LocalStore has its objects."""


def check_ways(dispatcher: object, **flags: object) -> None:
    """Refuse a *dispatcher* that runs no actors and is not None, and flags that are none."""
    check_instance("dispatcher", dispatcher, (Dispatcher, type(None)), "a Dispatcher, or None")
    check_flags(**flags)


def make_directory(path: str, *, create: bool) -> None:
    """Make the directory of a bank, or see that it is there.

    Raises:
        BankPathError: It is missing, a file, or may not be used.
        BankReadonlyError: It may not be made.
    """
    try:
        if create:
            make_path(path)
            found = set(os.listdir(path))
            # A rebuild that was killed may have left a bank's records under a side name only.
            if found - _OWN and not any(name.startswith(_RECORDS) for name in found):
                raise BankPathError(
                    f"{path} is not empty and holds no bank; name a new or an empty directory"
                )
        elif not os.path.isdir(path):
            raise BankPathError(f"there is no bank in {path}")
    except OSError as error:
        if isinstance(error, BankPathError):
            raise
        raise open_error(error, path) from error


def refuse_lost_records(path: str) -> None:
    """Refuse a bank's directory without its records: new ones would disown all that it holds.

    The records are what is made first, after the lease: who is killed then leaves no object yet.

    Raises:
        BankPathError: Its records are missing.
    """
    try:
        # Before the records are looked for: somebody may be making the bank just now.
        marks = (RESERVE, abort_marks.NAME)
        is_used = any(os.path.lexists(os.path.join(path, name)) for name in marks) or any(
            # As a bank's objects are kept: the rest, tmp/, may be empty.
            len(name) == _FAN
            for name in os.listdir(os.path.join(path, _OBJECTS))
        )
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise open_error(error, path) from error
    records = os.path.join(path, _RECORDS)
    is_file = os.path.lexists(records) and not os.path.isdir(records)  # said where it is opened
    is_there = is_file or any(map(os.path.lexists, (data_file(records), f"{records}{OLD}")))
    if is_used and not is_there:
        raise BankPathError(
            f"{path} held a bank, but its records, {_RECORDS}, are missing; make them again with "
            "karbor-actors bank rebuild (Bank.rebuild), or name another directory"
        )


def open_objects(path: str, objects: ObjectStore | str | None, *, writable: bool) -> ObjectStore:
    """Return the object store of the bank in *path*: *objects*, opened where it is a URL."""
    if objects is None:
        folder = os.path.join(path, _OBJECTS)
        return LocalStore(folder, writable=writable, may_be_missing=not writable)
    if isinstance(objects, str) and "\x00" not in objects:
        return open_store(objects, writable=writable)
    if isinstance(objects, (str, type)) or not callable(getattr(objects, "put", None)):
        raise argument_error("objects", "an ObjectStore, a URL without NUL, or None", objects)
    return objects


def open_for_bank(
    path: str,
    objects: ObjectStore | str | None,
    readonly: bool,
    create: bool,
    dispatcher: Dispatcher | None,
) -> tuple[BankParts, contextlib.ExitStack]:
    """Return what works on the bank in *path*, and what closes it; see `Bank.open`."""
    with contextlib.ExitStack() as closing:
        if not readonly:
            make_directory(path, create=create)
            closing.callback(Lease(path).release)
        environment = Environment(os.path.join(path, _RECORDS), readonly=readonly, create=create)
        closing.callback(environment.close)
        if not readonly:
            refuse_backup(environment)
        store = open_objects(path, objects, writable=not readonly)
        closing.callback(store.close)
        parts = open_parts(environment, path, store, closing, dispatcher)
        return parts, closing.pop_all()


def rebuild_bank(
    path: str, objects: ObjectStore | str | None, bank_id: str | None
) -> RebuildReport:
    """See `Bank.rebuild`."""
    make_directory(path, create=True)
    with contextlib.ExitStack() as closing:
        closing.callback(Lease(path).release)
        store = open_objects(path, objects, writable=True)
        closing.callback(store.close)
        return rebuild_records(path, store, bank_id)


def open_parts(
    environment: Environment,
    path: str,
    objects: ObjectStore,
    closing: contextlib.ExitStack,
    dispatcher: Dispatcher | None,
) -> BankParts:
    """Return what works on the records of the bank in *path*, to be closed by *closing*.

    Who opens them for writing holds the bank's lease. On a full disk the records get the space that
    the bank has kept for that.
    """
    # A simulated disk has no use for it. Registered first: it is taken back when nobody writes.
    reserve = Reserve(path, environment, is_kept=not environment.readonly and dispatcher is None)
    closing.callback(reserve.close)
    try:
        parts = _open_parts(environment, path, objects, closing, dispatcher, reserve)
    except BankFullError:
        if not reserve.give_up():
            raise
        return _open_parts(environment, path, objects, closing, dispatcher, reserve)
    reserve.keep()
    return parts


def _open_parts(
    environment: Environment,
    path: str,
    objects: ObjectStore,
    closing: contextlib.ExitStack,
    dispatcher: Dispatcher | None,
    reserve: Reserve,
) -> BankParts:
    writer: BankWriter | None = None
    with contextlib.ExitStack() as parts:
        if not environment.readonly:
            environment.next_epoch()
            writer = BankWriter(environment, dispatcher)
            parts.callback(writer.close)
        blocks = BlockStore(environment, objects, writer, inline=dispatcher is not None)
        parts.callback(blocks.close)
        refusal = BankReadonlyError(f"the bank {path} was opened for reading only")
        who_writes = writer or ReadonlyWriter(refusal)
        manifests = Manifests(environment, who_writes, blocks)
        if writer is not None:
            manifests.settle_all()
        closing.enter_context(parts.pop_all())
    return BankParts(environment, who_writes, blocks, manifests, reserve)
