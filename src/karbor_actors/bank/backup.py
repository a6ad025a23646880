"""A copy of a bank's records, for reading: made whole or not at all.

It says of itself that it is a backup, and is never opened for writing. Both it and the bank go by the
same objects: what one of them makes later has the names that the other gives to what it makes, and is
to the other what a dead owner left. Nor may operations go on that were running when it was made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from karbor_actors.arguments import checked_path
from karbor_actors.bank.database.data_files import NEW
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.database.faults import open_error
from karbor_actors.bank.database.mapping import data_file
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import BankPathError, BankReadonlyError
from karbor_actors.folders import sync_folder

if TYPE_CHECKING:
    from karbor_actors.bank.database.transactions import Reader

_KEY = b"backup"


def back_up(environment: Environment, path: str | os.PathLike[str]) -> None:
    """Write *environment*'s records to the new directory *path*, durable when it returns.

    What it made is taken away again if it fails, so that it can be tried again.

    Raises:
        BankPathError: *path* exists, or cannot be written.
        BankFullError: There is no space for it.
    """
    target = checked_path("path", path)
    records = os.path.join(target, "bank.lmdb")
    making = f"{records}{NEW}{secrets.token_hex(4)}"
    with contextlib.ExitStack() as undoing:
        for folder in (target, making):
            try:
                os.mkdir(folder, 0o700)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    raise BankPathError(f"{target} exists; name a new directory") from error
                raise open_error(error, target) from error
            undoing.callback(_remove_empty, folder)
        copied = data_file(making)
        environment.copy(copied)
        undoing.callback(os.unlink, copied)
        _mark(making, environment)
        try:
            sync_folder(making)
            os.rename(making, records)  # it has the mark since before it has the name
            undoing.callback(os.rename, records, making)
            for folder in (target, os.path.dirname(target)):
                sync_folder(folder)
        except OSError as error:
            raise open_error(error, target) from error
        undoing.pop_all()


def _mark(folder: str, environment: Environment) -> None:
    """Have the copy in *folder* say of which bank it is a backup."""
    with environment.snapshot() as snapshot:
        original = original_of(snapshot) or os.path.dirname(environment.path)
    try:
        with Environment(folder, create=False) as copy:
            copy.commit(
                lambda transaction: transaction.put(Table.META, _KEY, os.fsencode(original))
            )
    finally:
        with contextlib.suppress(OSError):  # there is none, if it could not be opened
            os.unlink(os.path.join(folder, "lock.mdb"))


def original_of(reader: Reader) -> str | None:
    """Return the directory of the bank that the records are a backup of, None if of none."""
    value = reader.get(Table.META, _KEY)
    return None if value is None else os.fsdecode(value)


def refuse_backup(environment: Environment) -> None:
    """Raise BankReadonlyError if *environment*, which is to be written, is a backup."""
    with environment.snapshot() as snapshot:
        original = original_of(snapshot)
    if original is not None:
        raise BankReadonlyError(
            f"{environment.path} is a backup of the bank {original}, and is only read: open it with "
            "readonly=True. To have the bank itself again, if its records are lost, rebuild it from "
            "its objects (Bank.rebuild(), or karbor-actors bank rebuild)"
        )


def _remove_empty(folder: str) -> None:
    """Remove *folder*, unless somebody else has put something there."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)
