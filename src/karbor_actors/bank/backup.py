"""A copy of a bank's records, as a bank of its own: made whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from karbor_actors.arguments import checked_path
from karbor_actors.bank.data_files import sync_folder
from karbor_actors.bank.faults import open_error
from karbor_actors.bank.mapping import data_file
from karbor_actors.errors import BankPathError

if TYPE_CHECKING:
    from karbor_actors.bank.environment import Environment


def back_up(environment: Environment, path: str | os.PathLike[str]) -> None:
    """Write *environment*'s records to the new directory *path*, durable when it returns.

    What it made is taken away again if it fails, so that it can be tried again.

    Raises:
        BankPathError: *path* exists, or cannot be written.
        BankFullError: There is no space for it.
    """
    target = checked_path("path", path)
    records = os.path.join(target, "bank.lmdb")
    with contextlib.ExitStack() as undoing:
        for folder in (target, records):
            try:
                os.mkdir(folder, 0o700)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    raise BankPathError(f"{target} exists; name a new directory") from error
                raise open_error(error, target) from error
            undoing.callback(_remove_empty, folder)
        copied = data_file(records)
        environment.copy(copied)
        undoing.callback(os.unlink, copied)
        try:
            for folder in (records, target, os.path.dirname(target)):
                sync_folder(folder)
        except OSError as error:
            raise open_error(error, target) from error
        undoing.pop_all()


def _remove_empty(folder: str) -> None:
    """Remove *folder*, unless somebody else has put something there."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)
