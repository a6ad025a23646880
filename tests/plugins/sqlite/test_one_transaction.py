"""Databases that one transaction writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from databases import content_of, everything_in, make_database, open_writer, siblings_of
from helpers import DEADLINE
from karbor_actors import Bank, Plan, ProtectionService, Provider, Resource
from karbor_sqlite import DatabaseProtectable, DatabaseProtection

MAGIC = bytes.fromhex("d9d505f920a163d7")
"""How a rollback journal begins, and how the name of a super-journal ends in it."""


@pytest.fixture
def service(tmp_path):
    with ProtectionService(workers=8) as opened:
        opened.add_provider(
            Provider(
                "local",
                bank=Bank.open(tmp_path / "bank"),
                protection_plugins=[DatabaseProtection()],
                protectables=[DatabaseProtectable()],
            )
        )
        yield opened


def restored_elsewhere(service, checkpoint, paths, tmp_path):
    """Restore both of *paths* elsewhere; return their new places."""
    targets = {path: str(tmp_path / f"restored-{os.path.basename(path)}") for path in paths}
    service.restore(
        checkpoint.id,
        parameters={
            f"SQLite::Database#{path}": {"target": target} for path, target in targets.items()
        },
    ).result(DEADLINE)
    return list(targets.values())


def protect_all(service, paths):
    resources = [Resource("SQLite::Database", path) for path in paths]
    return service.protect(Plan("nightly", "local", resources)).result(DEADLINE)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_databases_that_one_transaction_writes_come_back_whole_each(
    service, data, tmp_path, journal_mode
):
    paths = [make_database(data / name, journal_mode=journal_mode) for name in ("a.db", "b.db")]
    stop, written = threading.Event(), threading.Semaphore(0)

    def write():
        with closing(open_writer(paths[0])) as writer:
            writer.execute("ATTACH ? AS other", (paths[1],))
            step = 0
            while not stop.is_set():
                writer.execute("BEGIN IMMEDIATE")
                for schema in ("main", "other"):
                    for part in ("first", "second"):
                        writer.execute(
                            f"INSERT INTO {schema}.note (text) VALUES (?)", (f"{step} {part}",)
                        )
                writer.execute("COMMIT")
                written.release()
                step += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert written.acquire(timeout=DEADLINE)
        checkpoint = protect_all(service, paths)
    finally:
        stop.set()
        thread.join(DEADLINE)
    service.verify(checkpoint.id).result(DEADLINE)

    for path in restored_elsewhere(service, checkpoint, paths, tmp_path):
        everything_in(path)
        steps = [text for _, text in content_of(path)["note"][200:]]
        assert len(steps) >= 2
        assert steps == [f"{n // 2} {('first', 'second')[n % 2]}" for n in range(len(steps))]


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_transaction_over_many_databases_that_a_crash_cut_off_is_whole_or_not_there(
    service, data, tmp_path, is_committed
):
    """The super-journal's end is the commit: with it all are undone, without it none is.

    Undoing them at once, SQLite finds the journals of the others, which go away meanwhile.
    """
    paths = [make_database(data / f"{name}.db") for name in "abcde"]
    before = content_of(paths[0])
    crash_in_transaction_over(paths)
    super_journal = str(data / "a.db-mj0123456789")
    name = os.fsencode(super_journal)
    for path in paths:
        assert siblings_of(path) == {"-journal"}
        lock_page = (0x40000000 // 4096 + 1).to_bytes(4, "big")
        lengths = len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big")
        with open(f"{path}-journal", "ab") as journal:
            journal.write(lock_page + name + lengths + MAGIC)
    if not is_committed:
        with open(super_journal, "wb") as file:
            file.write(b"".join(os.fsencode(path) + b"-journal\0" for path in paths))

    checkpoint = protect_all(service, paths)
    service.verify(checkpoint.id).result(DEADLINE)

    for path in restored_elsewhere(service, checkpoint, paths, tmp_path):
        everything_in(path)
        assert (content_of(path) == before) is not is_committed
    assert not os.path.exists(super_journal)


def crash_in_transaction_over(paths):
    """Write all of *paths* in one transaction, in a process that dies before it commits."""
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
schemas = [f"other{number}" for number in range(len(sys.argv) - 2)]
for schema, path in zip(schemas, sys.argv[2:]):
    connection.execute(f"ATTACH ? AS {schema}", (path,))
connection.execute("BEGIN")
for schema in ("main", *schemas):
    connection.execute(f"PRAGMA {schema}.cache_size = 1")
    connection.execute(f"UPDATE {schema}.note SET text = text || 'new'")
    connection.execute(f"UPDATE {schema}.account SET balance = 7")
    connection.execute(f"SELECT sum(length(text)) FROM {schema}.note").fetchone()
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", script, *paths], check=False, timeout=DEADLINE)
    assert done.returncode == 9
