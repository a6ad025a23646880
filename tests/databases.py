"""SQLite databases for tests: made, read, written to and crashed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress

from helpers import DEADLINE

ACCOUNTS = 100
_SETTINGS = (
    "page_size",
    "page_count",
    "freelist_count",
    "auto_vacuum",
    "encoding",
    "journal_mode",
    "application_id",
    "user_version",
    "schema_version",
)


def make_database(path, *, journal_mode="delete", rows=200, version=1) -> str:
    """Make a database of *rows* rows of about 1 kB and of accounts that balance."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)")
        connection.execute("CREATE INDEX by_text ON note (text)")
        notes = ((f"{number:06} " + "x" * 1000,) for number in range(rows))
        connection.executemany("INSERT INTO note (text) VALUES (?)", notes)
        connection.executemany("INSERT INTO account VALUES (?, 0)", ((i,) for i in range(ACCOUNTS)))
        connection.commit()
    return os.fspath(path)


def open_writer(path, *, timeout=DEADLINE) -> sqlite3.Connection:
    """Return a connection in autocommit that any thread may use."""
    return sqlite3.connect(path, isolation_level=None, timeout=timeout, check_same_thread=False)


def move_money(connection, step) -> None:
    """Commit one transaction after which the accounts balance again, and not before."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "UPDATE account SET balance = balance - 1 WHERE id = ?", (step * 7 % ACCOUNTS,)
    )
    connection.execute("INSERT INTO note (text) VALUES (?)", (f"moved {step} " + "y" * 1000,))
    connection.execute(
        "UPDATE account SET balance = balance + 1 WHERE id = ?", (step * 11 % ACCOUNTS,)
    )
    connection.execute("COMMIT")


def try_to_move_money(connection, step) -> bool:
    """Do :func:`move_money`; False if somebody holds writers off."""
    try:
        move_money(connection, step)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        with suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        return False
    return True


def content_of(path) -> dict[str, list[tuple]]:
    """Return every row of every table."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall()
            for (name,) in tables
        }


def everything_in(path):
    """Return every row, the schema and the settings of a database that is sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        schema = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        rows = {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)
            for kind, name, _ in schema
            if kind == "table"
        }
        return rows, schema, {p: connection.execute(f"PRAGMA {p}").fetchone() for p in _SETTINGS}


def balance_of(content) -> int:
    return sum(balance for _, balance in content["account"])


def damage(path) -> None:
    """Overwrite pages in the middle of a database, as a failing disk would."""
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * 8192)


def crash_in_transaction(path) -> None:
    """Write to a database in a process that dies in the middle of a transaction."""
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(os.fsencode(sys.argv[1]), isolation_level=None)
connection.execute("PRAGMA cache_size = 5")
connection.execute("UPDATE account SET balance = 5 WHERE id = 3")
connection.execute("UPDATE account SET balance = -5 WHERE id = 4")
connection.execute("BEGIN")
connection.execute("UPDATE account SET balance = 1000")
connection.execute("UPDATE note SET text = text || 'lost'")
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", script, path], check=False, timeout=DEADLINE)
    assert done.returncode == 9


def siblings_of(path) -> set[str]:
    """Return the suffixes of what SQLite keeps beside a database now."""
    suffixes = ("-wal", "-shm", "-journal")
    return {suffix for suffix in suffixes if os.path.lexists(f"{path}{suffix}")}
