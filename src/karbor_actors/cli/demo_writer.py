"""The demo's database: transfers between accounts, written without a pause by a process.

Started as a script, it needs nothing but the standard library. It makes transfer after transfer
until its input ends, and answers each line of input with the number of committed transfers.

A transfer is one transaction: its rows in ``ledger``, whose amounts add up to nothing, and the
accounts' new balances. Which rows they are follows from the transfer's number alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import signal
import sqlite3
import sys

ACCOUNTS = 50
OPENING_BALANCE = 1000
FIRST_TRANSFERS = 1000
"""Transfers that a new database begins with."""
_ROWS = 3
"""Ledger rows of one transfer."""
_PAUSE = 0.001
_SCHEMA = """
CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY, transfer INTEGER NOT NULL, account INTEGER NOT NULL,
    amount INTEGER NOT NULL, note BLOB NOT NULL
);
CREATE INDEX ledger_by_account ON ledger (account);
"""

Row = tuple[int, int, int, int, bytes]
"""A ledger row: id, transfer, account, amount, note."""


def transfer_rows(transfer: int) -> list[Row]:
    """Return the ledger rows of the transfer with that number (0, 1, ...)."""
    seed = hashlib.blake2b(b"transfer %d" % transfer, digest_size=32).digest()
    amounts = [seed[0] - 128, seed[1] - 128]
    amounts.append(-sum(amounts))
    return [
        (
            transfer * _ROWS + row,
            transfer,
            seed[2 + row] % ACCOUNTS,
            amounts[row],
            seed * (seed[8 + row] % 16),
        )
        for row in range(_ROWS)
    ]


def connect(path: str) -> sqlite3.Connection:
    """Open the database at *path*, without Python's own transactions."""
    return sqlite3.connect(path, isolation_level=None, timeout=60)


def create(path: str) -> None:
    """Make the database with its first transfers."""
    with contextlib.closing(connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_SCHEMA)
        database.execute("BEGIN")
        accounts = ((number, OPENING_BALANCE) for number in range(ACCOUNTS))
        database.executemany("INSERT INTO accounts VALUES (?, ?)", accounts)
        for transfer in range(FIRST_TRANSFERS):
            _apply(database, transfer)
        database.execute("COMMIT")


def write(path: str) -> None:
    """Make transfers until the standard input ends."""
    with contextlib.closing(connect(path)) as database:
        database.execute("PRAGMA synchronous = NORMAL")
        [[transfer]] = database.execute("SELECT max(transfer) + 1 FROM ledger")
        while True:
            if select.select([sys.stdin], [], [], _PAUSE)[0]:
                if not sys.stdin.readline():
                    return
                sys.stdout.write(f"{transfer}\n")
                sys.stdout.flush()
            database.execute("BEGIN IMMEDIATE")
            _apply(database, transfer)
            database.execute("COMMIT")
            transfer += 1


def _apply(database: sqlite3.Connection, transfer: int) -> None:
    rows = transfer_rows(transfer)
    database.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", rows)
    changes = [(row[3], row[2]) for row in rows]
    database.executemany("UPDATE accounts SET balance = balance + ? WHERE id = ?", changes)


if __name__ == "__main__":
    # Ctrl-C is for the demo, which then ends this process's input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    write(sys.argv[1])
