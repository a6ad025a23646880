"""What SQLite does for the plugin: the online backup, checks and facts about a database."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from karbor_sqlite.errors import (
    DatabaseBusyError,
    DatabaseReplacedError,
    DatabaseUnreadableError,
    DatabaseUnsupportedError,
    DatabaseWrongError,
    ScratchError,
)
from karbor_sqlite.places import identity

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP_BYTES = 1 << 20
_MAX_RESTARTS = 3
"""How often a writer may make the copy begin anew before it is held off for one copy."""
_LOCK_WAIT = 1.0
"""Seconds in SQLite's own wait for a lock, in which a cancel is not seen."""
_RETRY_DELAY = 0.05
_OPCODES_PER_LOOK = 200_000
"""How many of SQLite's instructions (some milliseconds) run between looks at a cancel."""
_WAL_FORMAT = 2
_UNDOING = threading.Lock()
"""Held where SQLite may undo what a crash cut off: of a transaction over several databases it opens
the journals of all, and fails on one that is removed meanwhile because its own is undone too."""

_WRONG = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}

Look = Callable[[], None]
"""Called often; raises when the hook should stop."""
Report = Callable[[int, int], None]
"""Told pages done and pages in all; raises when the hook should stop."""


@contextmanager
def connect(path: str, *, mode: str, **query: int) -> Iterator[sqlite3.Connection]:
    """Open the database at *path* for a ``with`` block, in autocommit.

    Args:
        path: Any path; bytes that are not UTF-8 as surrogates.
        mode: ``ro`` or ``rw``; nothing is created.
        query: Further URI parameters, such as ``immutable=1``.
    """
    options = "&".join(f"{key}={value}" for key, value in {"mode": mode, **query}.items())
    uri = f"file:{quote(os.fsencode(path))}?{options}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_LOCK_WAIT)
    try:
        # What a database's schema calls is not to be trusted more than its rows.
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection
    finally:
        connection.close()


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of *error*; 0 if it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether *error* says that somebody holds a lock."""
    return primary_code(error) in _BUSY


def is_wrong(error: sqlite3.Error) -> bool:
    """Return whether *error* says that the file is no database, or a damaged one."""
    return primary_code(error) in _WRONG


def copy_database(source: str, target: str, busy_timeout: float, report: Report) -> None:
    """Write the database at *source*, as it is at one moment, to the empty file *target*.

    Others may write meanwhile. In WAL mode the copy is of one snapshot and disturbs nobody. With
    a rollback journal, each foreign commit makes SQLite begin the copy anew; after a few times
    the copy is made under one read lock, and writers wait for it.

    Args:
        busy_timeout: Seconds to wait at most while somebody else keeps the database locked.
        report: Called about each MiB.

    Raises:
        DatabaseBusyError: It stayed locked.
        DatabaseReplacedError: Another file took its place.
        DatabaseUnreadableError: It cannot be opened or read.
        DatabaseWrongError: It is foreign, encrypted or damaged.
        ScratchError: *target* cannot be written.
    """
    before = identity(os.stat(source, follow_symlinks=False))
    # A reader leaves an existing log alone; without one, read-write lets SQLite undo a
    # transaction that a crash left in the journal, and remove what it makes itself.
    mode = "ro" if os.path.lexists(f"{source}-wal") else "rw"
    waiting = _Waiting(source, busy_timeout)
    try:
        with connect(source, mode=mode) as origin, _open_scratch(target) as copy:
            is_wal = waiting.retry(lambda: _first_look(origin, source, report), report) == "wal"
            if is_wal or not _copied_between_commits(origin, copy, report, waiting):
                waiting.retry(lambda: _hold_snapshot(origin), report)
                _backup(origin, copy, waiting.watch(report))
    except sqlite3.Error as error:
        raise _explain(error, source, target) from error
    if identity(os.stat(source, follow_symlinks=False)) != before:
        raise DatabaseReplacedError(source)


def _first_look(origin: sqlite3.Connection, path: str, report: Report) -> Any:
    """Return the journal mode of *origin*, which undoes what a journal beside *path* holds."""
    if not os.path.lexists(f"{path}-journal"):
        return _pragma(origin, "journal_mode")
    while not _UNDOING.acquire(timeout=_RETRY_DELAY):
        report(0, 0)
    try:
        return _pragma(origin, "journal_mode")
    finally:
        _UNDOING.release()


@contextmanager
def _open_scratch(path: str) -> Iterator[sqlite3.Connection]:
    """Open the file of a copy, which need not last: a half-made one is thrown away."""
    with connect(path, mode="rw") as connection:
        connection.execute("PRAGMA journal_mode = MEMORY")  # OFF could not begin a copy anew
        connection.execute("PRAGMA synchronous = OFF")
        yield connection


class _RestartedError(Exception):
    """Writers made the copy begin anew too often."""


def _copied_between_commits(
    origin: sqlite3.Connection, copy: sqlite3.Connection, report: Report, waiting: _Waiting
) -> bool:
    """Copy while others may commit between steps; False if they commit too often."""
    watch = waiting.watch(report)
    last_done, restarts = 0, 0

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal last_done, restarts
        watch(status, remaining, total)
        if status in _BUSY:
            return
        done = total - remaining
        restarts += done <= last_done
        last_done = done
        if restarts > _MAX_RESTARTS:
            raise _RestartedError

    try:
        version = waiting.retry(lambda: _backup(origin, copy, progress), report)
    except _RestartedError:
        return False
    # A VACUUM or a new table meanwhile is in the copy, but the schema version is of before.
    return bool(waiting.retry(lambda: _pragma(origin, "schema_version"), report) == version)


def _backup(
    origin: sqlite3.Connection, copy: sqlite3.Connection, progress: Callable[[int, int, int], None]
) -> int:
    """Copy *origin*; return the schema version that the copy has, that of the beginning."""
    page_size = int(_pragma(origin, "page_size"))
    version = int(_pragma(origin, "schema_version"))
    # The backup counts the copy's schema version up by one, from where it stood before.
    copy.execute(f"PRAGMA page_size = {page_size}")
    copy.execute(f"PRAGMA schema_version = {version - 1}")
    pages = max(1, _STEP_BYTES // page_size)
    origin.backup(copy, pages=pages, progress=progress, sleep=_RETRY_DELAY)
    return version


def _hold_snapshot(origin: sqlite3.Connection) -> None:
    """Begin a read transaction that lasts until the connection is closed."""
    if not origin.in_transaction:
        origin.execute("BEGIN")
    origin.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


class _Waiting:
    """Waits for others' locks, for so many seconds in a row."""

    def __init__(self, path: str, limit: float) -> None:
        self._path, self._limit = path, limit
        self._since: float | None = None

    def _wait(self) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= self._limit:
            raise DatabaseBusyError(self._path, f"{self._limit:g}")

    def watch(self, report: Report) -> Callable[[int, int, int], None]:
        """Return a progress callback for ``Connection.backup`` that also limits the wait."""

        def progress(status: int, remaining: int, total: int) -> None:
            report(total - remaining, total)
            if status in _BUSY:
                self._wait()
            else:
                self._since = None

        return progress

    def retry(self, read: Callable[[], Any], report: Report) -> Any:
        """Return what *read* returns, trying again while the database is locked."""
        while True:
            report(0, 0)
            try:
                result = read()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                self._wait()
                time.sleep(_RETRY_DELAY)
            else:
                self._since = None
                return result


def _explain(error: sqlite3.Error, source: str, target: str) -> Exception:
    """Return SQLite's *error* in copying as one of ours."""
    if is_wrong(error):
        return DatabaseWrongError(source, [str(error)])
    if primary_code(error) == sqlite3.SQLITE_FULL:
        return ScratchError(os.path.dirname(target), str(error))
    reason = f"SQLite says: {error}"
    if primary_code(error) in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
        reason += (
            "; to read a database with a write-ahead log, or one that a crash left in the middle "
            "of a transaction, it must write in the directory"
        )
    return DatabaseUnreadableError(source, reason)


def check_integrity(path: str, pragma: str, label: str, look: Look) -> None:
    """Check the database file at *path*, which nobody may be writing.

    Args:
        pragma: ``quick_check``, ``integrity_check`` or ``foreign_key_check``.
        label: The path to name in errors.
        look: Called every few milliseconds; what it raises ends the check.

    Raises:
        DatabaseWrongError: With what SQLite found.
        DatabaseUnsupportedError: It needs an extension that is not here.
    """
    stopped: list[BaseException] = []

    def stop() -> bool:
        try:
            look()
        except BaseException as error:
            stopped.append(error)
        return bool(stopped)

    try:
        with connect(path, mode="ro", immutable=1) as connection:
            connection.set_progress_handler(stop, _OPCODES_PER_LOOK)
            rows = connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error as error:
        if stopped:
            raise stopped[0] from None
        if is_wrong(error):
            raise DatabaseWrongError(label, [str(error)]) from error
        raise DatabaseUnsupportedError(label, str(error)) from error
    if pragma == "foreign_key_check":
        findings = [f"row {row} of {table} lacks its parent in {up}" for table, row, up, _ in rows]
    else:
        findings = [str(row[0]) for row in rows if row[0] != "ok"]
    if findings and pragma == "quick_check":
        # That of SQLite 3.40 finds NULLs that are none in tables without a rowid.
        check_integrity(path, "integrity_check", label, look)
    elif findings:
        raise DatabaseWrongError(label, findings)


def describe(path: str, label: str) -> dict[str, Any]:
    """Return facts about the database file at *path*, which nobody may be writing.

    Args:
        label: The path to name in errors.

    Raises:
        DatabaseWrongError: The file is no database, or a damaged one.
    """
    names = ("page_count", "page_size", "schema_version", "user_version", "application_id")
    try:
        with connect(path, mode="ro", immutable=1) as connection:
            facts = {name: _pragma(connection, name) for name in (*names, "encoding")}
    except sqlite3.Error as error:
        raise DatabaseWrongError(label, [str(error)]) from error
    with open(path, "rb") as file:
        header = file.read(20)
    facts["size"] = os.path.getsize(path)
    # Only WAL is a database's own; the other modes are each connection's.
    facts["journal_mode"] = "wal" if header[18] == _WAL_FORMAT else "delete"
    return facts
