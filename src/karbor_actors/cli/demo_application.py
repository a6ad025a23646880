"""The demo's application: files of many kinds, and a database that a process keeps writing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from karbor_actors.cli import demo_writer

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "data/ledger.db"
"""The database's path in the application's directory."""
_WORDS = b"alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi".split()
_DIRECTORIES, _FILES_EACH = 20, 15
_BIG, _TEXT, _SPARSE = 3 << 20, 2 << 20, 16 << 20
_YEAR_NS = 365 * 86_400 * 10**9
_LONG_AGO_NS = 946_684_800_123_456_789
_ODD_NAMES = (
    b"with space",
    b"-dash",
    b"new\nline",
    b"tab\tand \x1b[31mescape",
    b"[red]markup[/red]",
    "ümläut-\N{SNOWMAN}".encode(),
    b"not-\xff\xfe-utf8",
    b"percent%20",
    b"x" * 255,
)


@dataclass(frozen=True, slots=True)
class Made:
    """What :func:`make` made."""

    files: int
    bytes: int


def make(root: Path) -> Made:
    """Make the application in the new directory *root*; the same one each time."""
    rng = random.Random(20)  # noqa: S311 - variety, not secrecy
    root.mkdir(mode=0o750)
    count = size = 0
    for path, content in _contents(root, rng):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        count, size = count + 1, size + len(content)
    _special(root)
    (root / "data").mkdir()
    demo_writer.create(str(root / DATABASE))
    _dress(root, rng)
    return Made(count, size)


def _contents(root: Path, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    """Yield files' paths and contents."""
    yield root / "empty", b""
    yield root / "big.bin", rng.randbytes(_BIG)
    yield root / "text" / "log.txt", b" ".join(rng.choices(_WORDS, k=_TEXT // 6))
    for number in range(_DIRECTORIES):
        folder = root / "tree" / f"d{number % 5}" / f"e{number}"
        for file in range(_FILES_EACH):
            yield folder / f"file{file}", rng.randbytes(rng.choice([1, 100, 4096, 4097, 20_000]))
    deep = root / "deep"
    for number in range(40):
        deep /= f"level{number}"
    yield deep / "bottom", b"down here"
    for name in _ODD_NAMES:
        yield root / "odd" / os.fsdecode(name), name * 3
    yield root / "copies" / "one", b"the same" * 5000
    yield root / "copies" / "two", b"the same" * 5000


def _special(root: Path) -> None:
    """Add what is no plain file: links, holes, a pipe, attributes, modes."""
    (root / "nothing" / "in" / "here").mkdir(parents=True)
    (root / "link").symlink_to("tree/d0")
    (root / "dangling").symlink_to("/nowhere/to/be/found")
    (root / "odd" / "link").symlink_to(os.fsdecode(b"not-\xff\xfe-utf8"))
    (root / "hard").hardlink_to(root / "big.bin")
    (root / "copies" / "hard").hardlink_to(root / "copies" / "one")
    os.mkfifo(root / "pipe")
    with (root / "sparse.img").open("wb") as file:
        file.truncate(_SPARSE)
        file.seek(_SPARSE // 2)
        file.write(b"an island in a hole")
    with suppress(OSError):  # not every file system has attributes
        os.setxattr(root / "empty", "user.colour", b"\x00blue")
    (root / "locked").mkdir()
    (root / "locked" / "readonly").write_bytes(b"do not touch")
    (root / "run.sh").write_bytes(b"#!/bin/sh\necho hello\n")


def _dress(root: Path, rng: random.Random) -> None:
    """Give everything its own times, and some a mode of their own."""
    (root / "run.sh").chmod(0o755)
    (root / "text" / "log.txt").chmod(0o600)
    (root / "locked" / "readonly").chmod(0o444)
    (root / "nothing").chmod(0o1777)
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            moment = _LONG_AGO_NS + rng.randrange(20 * _YEAR_NS)
            os.utime(os.path.join(folder, name), ns=(moment, moment), follow_symlinks=False)
    (root / "locked").chmod(0o555)


def damage(root: Path) -> int:
    """Damage the application as a bad day would; return how many files were hurt."""
    rng = random.Random(21)  # noqa: S311 - variety, not secrecy
    hurt = 0
    for number, path in enumerate(sorted(root.glob("tree/*/*/*"), key=os.fsencode)):
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1:
            path.write_bytes(rng.randbytes(100))
        hurt += number % 3 != 2  # noqa: PLR2004 - two of three
    with (root / "big.bin").open("r+b") as file:
        file.seek(_BIG // 2)
        file.write(b"\0" * 65_536)
    (root / "text" / "log.txt").rename(root / "text" / "log.txt.encrypted")
    database = root / DATABASE
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)
        file.seek(0)
        file.write(rng.randbytes(8192))
    return hurt + 3


class Writer:
    """The process that writes the database."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def transfers(self) -> int:
        """Return how many transfers are committed now.

        Raises:
            RuntimeError: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise RuntimeError("the demo's writer ended too early") from error

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def running_writer(root: Path) -> Iterator[Writer]:
    """Keep a process writing the application's database for as long as this lasts."""
    command = [sys.executable, "-I", demo_writer.__file__, str(root / DATABASE)]
    process = subprocess.Popen(  # noqa: S603 - our own script
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    writer = Writer(process)
    try:
        writer.transfers()  # from now on, SQLite's files beside the database are there
        yield writer
    finally:
        writer.close()
