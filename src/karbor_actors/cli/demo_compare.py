"""Compares what was restored with what there was: every file, every row."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from karbor_actors.cli import demo_writer
from karbor_actors.cli.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from karbor_actors.cli.demo_writer import Row

_CHUNK = 1 << 20
_SUFFIXES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Described:
    """All that is compared of one entry of a tree."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    contents: str
    """A file's digest, or what a symbolic link holds."""
    linked_to: str
    """The first path of the same file, if it has several."""
    attributes: tuple[tuple[str, bytes], ...]


def describe_tree(root: Path, database: str) -> dict[str, Described]:
    """Return every entry below *root* by its path; the database's files are left out."""
    left_out = {database + suffix for suffix in _SUFFIXES}
    first_paths: dict[tuple[int, int], str] = {}
    tree = {}
    for path in _paths(root):
        relative = os.path.relpath(path, root)
        if relative not in left_out:
            tree[relative] = _describe(path, relative, first_paths)
    return tree


def _paths(root: Path) -> Iterator[str]:
    """Yield *root* and everything below it, in an order that names alone decide."""
    yield str(root)
    for folder, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(directories + files):
            yield os.path.join(folder, name)


def _describe(path: str, relative: str, first_paths: dict[tuple[int, int], str]) -> Described:
    status = os.lstat(path)
    contents, size, attributes, linked_to = "", 0, [], ""
    if stat.S_ISLNK(status.st_mode):
        contents = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        size = status.st_size
        with open(path, "rb") as file:
            contents = hashlib.file_digest(file, "sha256").hexdigest()
        if status.st_nlink > 1:
            linked_to = first_paths.setdefault((status.st_dev, status.st_ino), relative)
    if not stat.S_ISLNK(status.st_mode):
        with contextlib.suppress(OSError):  # not every file system has attributes
            attributes = [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
    return Described(
        mode=status.st_mode,
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        size=size,
        contents=contents,
        linked_to=linked_to,
        attributes=tuple(attributes),
    )


def compare_trees(expected: dict[str, Described], found: dict[str, Described]) -> list[str]:
    """Return each difference between two trees, a line each."""
    differences = [f"{shown(path)} is missing" for path in expected if path not in found]
    differences += [f"{shown(path)} is new" for path in found if path not in expected]
    for path, described in expected.items():
        other = found.get(path, described)
        names = [f.name for f in fields(Described)]
        differ = [name for name in names if getattr(described, name) != getattr(other, name)]
        if differ:
            differences.append(f"{shown(path)} differs in {', '.join(differ)}")
    return differences


def compare_databases(
    original: dict[int, Row], path: Path, *, least: int, most: int
) -> tuple[list[str], int]:
    """Compare a restored database with the rows that were there.

    It must be as the original was at one moment: whole transfers, from the first to some last
    one, and the balances that these make.

    Args:
        original: The original's ledger rows by id, also those that came later.
        path: The restored database.
        least: Transfers that were committed before the protect.
        most: Transfers that were committed when it had ended.

    Returns:
        Each difference, a line each, and how many rows were compared.
    """
    with contextlib.closing(demo_writer.connect(str(path))) as database:
        [[verdict]] = database.execute("PRAGMA integrity_check(1)")
        rows = read_ledger(path)
        balances = dict(database.execute("SELECT id, balance FROM accounts"))
    differences = [] if verdict == "ok" else [f"the database is damaged: {shown(verdict)}"]
    transfers = max((row[1] for row in rows.values()), default=-1) + 1
    if not least <= transfers <= most:
        differences.append(f"it has {transfers} transfers, not {least} to {most}")
    expected = {key: row for key, row in original.items() if row[1] < transfers}
    wrong = [key for key in expected.keys() | rows.keys() if expected.get(key) != rows.get(key)]
    differences += [f"row {key} of the ledger differs" for key in sorted(wrong)]
    replayed = dict.fromkeys(range(demo_writer.ACCOUNTS), demo_writer.OPENING_BALANCE)
    for _, _, account, amount, _ in expected.values():
        replayed[account] += amount
    differences += [
        f"account {number} has {balances.get(number)}, not {balance}"
        for number, balance in replayed.items()
        if balances.get(number) != balance
    ]
    differences += [f"account {number} is new" for number in balances.keys() - replayed.keys()]
    return differences, len(expected) + len(replayed)


def read_ledger(path: Path) -> dict[int, Row]:
    """Return a database's ledger rows by id."""
    with contextlib.closing(demo_writer.connect(str(path))) as database:
        query = "SELECT id, transfer, account, amount, note FROM ledger"
        return {row[0]: row for row in database.execute(query)}
