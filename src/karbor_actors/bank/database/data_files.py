"""The folder with a bank's LMDB files: made whole or not at all, cleared of what a kill left."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import struct

import lmdb

from karbor_actors.bank.database.faults import open_error
from karbor_actors.bank.database.mapping import data_file
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import BankFormatError
from karbor_actors.folders import sync_folder

FORMAT_VERSION = 1
"""What this release writes; a bank of a higher one is refused."""
_NO_FORMAT = 1 << 16
"""A format's number is below this; another one is damage."""
NEW = ".new-"
"""What follows a folder's name, and a token, while it is made."""
OLD = ".old"
"""What follows the name of one that is being replaced."""
U64 = struct.Struct(">Q")
FORMAT_KEY = b"format"
MAGIC = b"karbor-actors bank\x00"


def tidy_folder(path: str) -> None:
    """Finish what an owner was killed in: creating or compacting *path*."""
    folder, name = os.path.split(path)
    old = f"{path}{OLD}"
    try:
        if not os.path.lexists(path) and os.path.isdir(old):
            os.rename(old, path)
        for left in os.listdir(folder) if os.path.isdir(folder) else ():
            if left == name + OLD or left.startswith(name + NEW):
                shutil.rmtree(os.path.join(folder, left))
    except OSError as error:
        raise open_error(error, path) from error


def make_folder(path: str, map_size: int) -> None:
    """Make a new environment beside *path* and give it its name when it is whole.

    So an empty or cut data file is never one that a power cut left in the making.
    """
    making = f"{path}{NEW}{secrets.token_hex(4)}"
    try:
        os.mkdir(making, 0o700)
    except OSError as error:
        raise open_error(error, os.path.dirname(path)) from error
    try:
        try:
            _initialize(making, map_size)
            os.unlink(os.path.join(making, "lock.mdb"))
            sync_folder(making)
            os.rename(making, path)
            sync_folder(os.path.dirname(path))
        except (lmdb.Error, OSError) as error:
            raise open_error(error, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed
            shutil.rmtree(making)


def _initialize(path: str, map_size: int) -> None:
    with lmdb.Environment(
        os.fsencode(path),
        map_size=map_size,
        max_dbs=len(Table),
        mode=0o600,
        lib_version=0,
    ) as raw:
        tables = {table: raw.open_db(table.value) for table in Table}
        with raw.begin(write=True) as transaction:
            value = MAGIC + U64.pack(FORMAT_VERSION)
            transaction.put(FORMAT_KEY, value, db=tables[Table.META])
    assert os.path.getsize(data_file(path)) > 0


def check_format(found: bytes | None, path: str) -> None:
    """Refuse records in *path* whose format, as the row with FORMAT_KEY has it, cannot be read.

    Raises:
        BankFormatError: They are no bank's, damaged, or of a newer release.
    """
    if found is None or not found.startswith(MAGIC):
        raise BankFormatError(f"{path} is an LMDB file but no bank; name another directory")
    version = number_in(found[len(MAGIC) :])
    if FORMAT_VERSION < version < _NO_FORMAT:
        error = BankFormatError(
            f"{path} has format {version}, and this release reads up to {FORMAT_VERSION}; open it "
            "with a newer karbor_actors"
        )
        error.is_newer = True
        raise error
    if version != FORMAT_VERSION:
        raise BankFormatError(f"{path} is damaged: its format number is {version}; rebuild it")


def number_in(value: bytes | None) -> int:
    """Return the number in a META row, 0 where it is missing."""
    if value is None:
        return 0
    if len(value) != U64.size:
        raise BankFormatError("the bank is damaged: a number in its head is not one")
    number: int = U64.unpack(value)[0]
    return number
