"""Databases of every kind, and what others do to them meanwhile: each row comes back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from databases import content_of, everything_in, make_database, open_writer
from helpers import DEADLINE
from karbor_actors import Resource
from karbor_sqlite import DatabaseMissingError


def there_and_back(driver, path, tmp_path, context=None):
    """Protect, verify and restore; return where the database is now."""
    resource = Resource("SQLite::Database", str(path))
    checkpoint = driver.protect(resource, context)
    driver.verify(checkpoint, resource)
    return driver.restore(checkpoint, resource, target=str(tmp_path / "restored.db"))


@pytest.mark.parametrize("journal_mode", ["wal", "persist"])
@pytest.mark.parametrize(
    ("page_size", "auto_vacuum", "encoding"),
    [(512, "full", "UTF-16be"), (4096, "none", "UTF-8"), (65536, "incremental", "UTF-16le")],
)
def test_a_database_of_any_kind_comes_back_row_by_row(
    driver, data, tmp_path, journal_mode, page_size, auto_vacuum, encoding
):
    path = data / "app.db"
    numbers = range(3000)
    with closing(sqlite3.connect(path)) as connection:
        for pragma in (
            f"page_size = {page_size}",
            f"auto_vacuum = {auto_vacuum}",
            f"encoding = '{encoding}'",
            f"journal_mode = {journal_mode}",
            "application_id = 0x4b617262",
            "user_version = -7",
        ):
            connection.execute(f"PRAGMA {pragma}")
        # The quick_check of SQLite 3.40 takes this one for damaged.
        connection.execute("CREATE TABLE w (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID")
        connection.execute(
            "CREATE TABLE s (a INTEGER PRIMARY KEY, b BLOB, c INT AS (a * 2) STORED)"
        )
        connection.execute("CREATE INDEX p ON s (c) WHERE a > 100")
        connection.execute("CREATE VIEW v AS SELECT a FROM s")
        connection.executemany("INSERT INTO w VALUES (?, ?)", ((f"é{n}", n % 7) for n in numbers))
        connection.executemany(
            "INSERT INTO s (a, b) VALUES (?, ?)", ((n, os.urandom(100)) for n in numbers)
        )
        connection.execute("DELETE FROM s WHERE a % 2")
        connection.commit()
    before = everything_in(path)

    assert everything_in(there_and_back(driver, path, tmp_path)) == before


def test_a_database_without_a_table_comes_back(driver, data, tmp_path):
    with closing(sqlite3.connect(data / "app.db")) as connection:
        connection.execute("PRAGMA user_version = 3")
    before = everything_in(data / "app.db")

    assert everything_in(there_and_back(driver, data / "app.db", tmp_path)) == before


def test_what_stands_behind_the_last_page_is_left_out(driver, data, tmp_path):
    """A file that was made larger than its header says, by gigabytes of a hole."""
    path = make_database(data / "app.db")
    before, size = everything_in(path), os.path.getsize(path)
    os.truncate(path, size + (4 << 30))

    restored = there_and_back(driver, path, tmp_path)
    assert everything_in(restored) == before
    assert os.path.getsize(restored) == size


@pytest.mark.parametrize("page_size", [512, 65536])
def test_a_database_that_is_vacuumed_to_another_page_size_meanwhile_comes_back(
    driver, data, tmp_path, make_context, page_size
):
    path = make_database(data / "app.db", rows=1000)

    def vacuum():
        if len(context.reports) == 3:  # about a MiB is copied
            with closing(open_writer(path)) as writer:
                writer.execute("DELETE FROM note WHERE id % 3 = 0")
                writer.execute(f"PRAGMA page_size = {page_size}")
                writer.execute("VACUUM")

    context = make_context(vacuum)
    restored = there_and_back(driver, path, tmp_path, context)

    after = everything_in(path)
    assert after[2]["page_size"] == (page_size,)
    assert everything_in(restored) == after


def test_a_table_that_is_made_meanwhile_counts_in_the_schema_version(
    driver, data, tmp_path, make_context
):
    path = make_database(data / "app.db", rows=1000)

    def make_table():
        if len(context.reports) == 3:
            with closing(open_writer(path)) as writer:
                writer.execute("CREATE TABLE late (a)")

    context = make_context(make_table)
    restored = there_and_back(driver, path, tmp_path, context)

    assert everything_in(restored) == everything_in(path)


def test_a_database_that_is_deleted_while_it_is_copied_is_gone(driver, data, make_context):
    path = make_database(data / "app.db", rows=1000)
    context = make_context(lambda: len(context.reports) == 3 and os.unlink(path))

    with pytest.raises(DatabaseMissingError, match="it is gone"):
        driver.protect(Resource("SQLite::Database", path), context)


def test_a_database_with_several_names_is_not_said_to_be_of_one_moment(
    driver, data, tmp_path, make_context, caplog
):
    """What a program commits by the other name stands in a log that is named after that."""
    path = make_database(data / "app.db", journal_mode="wal")
    os.link(path, data / "other.db")
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("INSERT INTO note (text) VALUES ('in the log')")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=DEADLINE)
    context = make_context()

    restored = there_and_back(driver, data / "other.db", tmp_path, context)

    assert len(content_of(restored)["note"]) == 200
    level, cause = context.consistency
    assert level == "none"
    assert "2 names" in cause
    assert cause in caplog.text
