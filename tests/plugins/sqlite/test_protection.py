from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from contextlib import closing

import cerberus
import pytest

from databases import (
    balance_of,
    content_of,
    crash_in_transaction,
    damage,
    make_database,
    move_money,
    open_writer,
    siblings_of,
    try_to_move_money,
)
from helpers import DEADLINE
from karbor_actors import Resource
from karbor_actors.errors import HookCancelledError
from karbor_sqlite import (
    CopyWrongError,
    DatabaseBusyError,
    DatabaseMissingError,
    DatabaseProtection,
    DatabaseReplacedError,
    DatabaseUnsupportedError,
    DatabaseWrongError,
    ScratchError,
)

MANY_ROWS = 2000
"""So many that the copy takes several steps."""


def protected_content(driver, checkpoint, resource, tmp_path):
    path = driver.restore(checkpoint, resource, target=str(tmp_path / "restored.db"))
    return content_of(path)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_copy_made_beside_a_busy_writer_holds_whole_transactions(
    driver, data, tmp_path, make_context, journal_mode
):
    path = make_database(data / "app.db", journal_mode=journal_mode, rows=MANY_ROWS)
    (resource,) = driver.find(data)
    moved = threading.Semaphore(0)
    stop = threading.Event()

    def write():
        with closing(open_writer(path)) as writer:
            step = 0
            while not stop.is_set():
                move_money(writer, step)
                moved.release()
                step += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert moved.acquire(timeout=DEADLINE)
        checkpoint = driver.protect(resource, make_context())
        assert moved.acquire(timeout=DEADLINE)
    finally:
        stop.set()
        thread.join(DEADLINE)
    copied = protected_content(driver, checkpoint, resource, tmp_path)

    assert balance_of(copied) == 0
    assert MANY_ROWS < len(copied["note"]) <= len(content_of(path)["note"])
    moves = copied["note"][MANY_ROWS:]
    assert [text.split()[1] for _, text in moves] == [str(step) for step in range(len(moves))]
    driver.verify(checkpoint, resource)


def test_in_wal_mode_commits_go_on_and_the_copy_is_of_one_moment(
    driver, data, tmp_path, make_context
):
    path = make_database(data / "app.db", journal_mode="wal", rows=MANY_ROWS)
    before = content_of(path)
    (resource,) = driver.find(data)
    with closing(open_writer(path, timeout=0)) as writer:
        moves = []
        context = make_context(lambda: moves.append(try_to_move_money(writer, len(moves))))
        # The first reports come while the snapshot is being taken.
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("COMMIT")
        checkpoint = driver.protect(resource, context)
    copied = protected_content(driver, checkpoint, resource, tmp_path)

    assert all(moves)
    assert len(moves) > 5
    assert balance_of(copied) == 0
    assert len(before["note"]) <= len(copied["note"]) < len(before["note"]) + len(moves)


def test_a_writer_that_commits_between_all_steps_cannot_starve_the_copy(
    driver, data, tmp_path, make_context
):
    path = make_database(data / "app.db", rows=MANY_ROWS)
    (resource,) = driver.find(data)
    with closing(open_writer(path, timeout=0)) as writer:
        moves = []
        context = make_context(lambda: moves.append(try_to_move_money(writer, len(moves))))
        checkpoint = driver.protect(resource, context)
    copied = protected_content(driver, checkpoint, resource, tmp_path)

    # It went on committing until it was held off, for the length of one copy.
    assert moves.count(True) > 3
    assert moves.count(False) > 3
    assert balance_of(copied) == 0


def test_the_copy_waits_for_a_lock_to_be_released(driver, data, make_context):
    path = make_database(data / "app.db")
    (resource,) = driver.find(data)
    with closing(open_writer(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        waited = []

        class Releasing(make_context):
            def check_cancelled(self):
                waited.append(writer.in_transaction)
                if len(waited) == 3:
                    # A limit on the time without progress must be able to end the wait.
                    assert len(self.reports) == 1
                    writer.execute("ROLLBACK")

        driver.protect(resource, Releasing())

    assert waited[:4] == [True, True, True, False]


def test_a_lock_that_stays_is_an_error_that_says_so(driver, data):
    path = make_database(data / "app.db")
    (resource,) = driver.find(data)
    with closing(open_writer(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")

        with pytest.raises(DatabaseBusyError, match=r"app\.db stayed locked for 0 s; end what"):
            driver.protect(resource, busy_timeout=0)


def test_a_cancel_ends_the_copy_and_leaves_nothing(driver, data, make_context):
    make_database(data / "app.db", rows=MANY_ROWS)
    (resource,) = driver.find(data)
    context = make_context(lambda: setattr(context, "cancelled", len(context.reports) > 5))

    with pytest.raises(HookCancelledError):
        driver.protect(resource, context)

    assert context.reports[-1][2] == "pages"
    assert not list(driver.scratch.iterdir())


def test_progress_is_told_for_copying_and_for_storing(driver, data, make_context):
    path = make_database(data / "app.db", rows=MANY_ROWS)
    (resource,) = driver.find(data)
    context = make_context()

    driver.protect(resource, context)

    size = os.path.getsize(path)
    assert (size // 4096, size // 4096, "pages") in context.reports
    assert context.reports[-1] == (size, size, "bytes")


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_what_a_crash_left_half_done_is_not_in_the_copy(driver, data, tmp_path, journal_mode):
    path = make_database(data / "app.db", journal_mode=journal_mode)
    crash_in_transaction(path)
    assert siblings_of(path) == ({"-wal", "-shm"} if journal_mode == "wal" else {"-journal"})
    (resource,) = driver.find(data)

    checkpoint = driver.protect(resource)
    copied = protected_content(driver, checkpoint, resource, tmp_path)

    assert balance_of(copied) == 0
    assert (3, 5) in copied["account"]
    assert not any("lost" in text for _, text in copied["note"])


def test_an_existing_log_is_read_and_left_alone(driver, data):
    path = make_database(data / "app.db", journal_mode="wal")
    crash_in_transaction(path)
    (resource,) = driver.find(data)
    before = {name: (data / name).read_bytes() for name in ("app.db", "app.db-wal")}

    driver.protect(resource)

    assert {name: (data / name).read_bytes() for name in before} == before


def test_a_closed_wal_database_gets_no_files_beside_it(driver, data):
    make_database(data / "app.db", journal_mode="wal")
    (resource,) = driver.find(data)

    driver.protect(resource)

    assert os.listdir(data) == ["app.db"]


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_the_saved_info_is_what_the_database_says(driver, data, journal_mode):
    path = make_database(data / "app.db", journal_mode=journal_mode, version=42)
    (resource,) = driver.find(data)

    checkpoint = driver.protect(resource)
    info = DatabaseProtection.get_saved_info(
        checkpoint.get_resource_bank_section(resource), resource
    )

    schema = DatabaseProtection.get_saved_info_schema(resource.type)
    assert cerberus.Validator(schema, require_all=True).validate(info)
    assert info["journal_mode"] == journal_mode
    assert info["size"] == os.path.getsize(path) == info["page_count"] * info["page_size"]
    with closing(sqlite3.connect(path)) as connection:
        for name in ("schema_version", "user_version", "page_count", "encoding"):
            assert info[name] == connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("options", {"check": "full", "busy_timeout": 5, "scratch": "/tmp"}),
        ("restore", {"target": "/tmp/x.db", "overwrite": True}),
        ("verify", {"foreign_keys": True}),
    ],
)
def test_the_schemas_fill_in_defaults_and_take_what_is_documented(verb, given):
    schema = getattr(DatabaseProtection, f"get_{verb}_schema")("SQLite::Database")
    validator = cerberus.Validator(schema)

    assert validator.validate(given), validator.errors
    assert validator.validate({}), validator.errors
    assert set(validator.normalized({})) == set(schema)
    assert not validator.validate({"busy_timeout": -1, "target": "relative", "scratch": "x"})


def test_a_damaged_database_is_not_protected(driver, data):
    path = make_database(data / "app.db")
    damage(path)
    (resource,) = driver.find(data)

    with pytest.raises(DatabaseWrongError, match=r"app\.db is damaged"):
        driver.protect(resource)


@pytest.mark.parametrize("journal", [b"", b"SQLite format 3\x00"])
def test_a_file_that_is_encrypted_or_foreign_is_a_clear_error(driver, data, journal):
    path = data / "app.db"
    path.write_bytes(journal + b"\xa7" * 8192)
    resource = Resource("SQLite::Database", str(path))

    with pytest.raises(
        DatabaseWrongError,
        match=r"damaged, encrypted or no SQLite database: .*; repair it, or leave it out$",
    ):
        driver.protect(resource)


def test_a_database_that_is_a_link_is_refused(driver, data, tmp_path):
    make_database(tmp_path / "real.db")
    (data / "link.db").symlink_to(tmp_path / "real.db")

    with pytest.raises(DatabaseMissingError, match="is a link or no file"):
        driver.protect(Resource("SQLite::Database", str(data / "link.db")))


def test_a_database_that_is_gone_is_a_clear_error(driver, data):
    with pytest.raises(DatabaseMissingError, match=r"no database at .*/gone\.db"):
        driver.protect(Resource("SQLite::Database", str(data / "gone.db")))


def test_a_database_that_is_replaced_while_it_is_copied_is_noticed(driver, data, make_context):
    path = make_database(data / "app.db")
    new = make_database(data / "new.db")
    resource = Resource("SQLite::Database", path)

    def replace():
        if os.path.exists(new):
            os.replace(new, path)

    with pytest.raises(DatabaseReplacedError, match="was replaced while"):
        driver.protect(resource, make_context(replace))


def test_a_database_that_needs_an_extension_is_protected_unchecked(driver, data):
    path = make_database(data / "app.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("odd", lambda a, b: (a > b) - (a < b))
        connection.execute("CREATE TABLE t (a TEXT COLLATE odd)")
        connection.execute("CREATE INDEX i ON t (a)")
        connection.execute("INSERT INTO t VALUES ('1'), ('2')")
        connection.commit()
    (resource,) = driver.find(data)

    checkpoint = driver.protect(resource)

    with pytest.raises(DatabaseUnsupportedError, match="no such collation sequence: odd"):
        driver.verify(checkpoint, resource)


def test_a_scratch_directory_that_is_missing_is_named_in_the_error(driver, data):
    make_database(data / "app.db")
    (resource,) = driver.find(data)

    with pytest.raises(ScratchError, match=r"written to /no/such: No such file.*\"scratch\""):
        driver.protect(resource, scratch="/no/such")


def test_no_room_for_the_copy_is_a_clear_error_and_leaves_nothing(driver, data):
    make_database(data / "app.db", rows=MANY_ROWS)
    (resource,) = driver.find(data)
    small = driver.scratch.parent / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount the small file system that this fills")
    try:
        with pytest.raises(ScratchError, match="disk is full; name a directory with room"):
            driver.protect(resource, scratch=str(small))
        left = list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)

    assert not left


def test_a_temporary_copy_that_a_crash_left_is_removed_by_abort_and_by_the_next_attempt(
    driver, data, make_context
):
    make_database(data / "app.db", rows=MANY_ROWS)
    (resource,) = driver.find(data)
    left = driver.scratch / "karbor-sqlite-0123456789abcdef"

    for again in (False, True):
        context = make_context()
        left.mkdir()
        (left / "database").touch()
        context.state["scratch"] = str(left)
        if again:
            driver.protect(resource, context)
        else:
            driver.abort("protect", driver.new_checkpoint(resource), resource, context)

        assert not left.exists()


def test_the_temporary_copy_is_known_before_it_is_made_and_private(driver, data, make_context):
    make_database(data / "app.db", rows=MANY_ROWS)
    (resource,) = driver.find(data)
    modes = set()

    def look():
        context.state.crash()
        directory = context.state["scratch"]
        modes.add(
            (os.stat(directory).st_mode & 0o777, os.stat(f"{directory}/database").st_mode & 0o777)
        )

    context = make_context(look)
    driver.protect(resource, context)

    assert modes == {(0o700, 0o600)}


def keep_stream(checkpoint, resource, path):
    """Put the file at *path* in the place of a checkpoint's copy."""
    with open(path, "rb") as file:
        checkpoint.get_resource_bank_section(resource).write_stream("database", file)


def test_verify_finds_a_copy_with_damaged_pages(driver, data, tmp_path):
    path = make_database(data / "app.db")
    (resource,) = driver.find(data)
    checkpoint = driver.protect(resource)
    damage(path)
    keep_stream(checkpoint, resource, path)

    with pytest.raises(
        CopyWrongError, match=r"checkpoint's copy of .*app\.db is damaged"
    ) as caught:
        driver.verify(checkpoint, resource)

    assert caught.value.findings


def test_verify_finds_a_copy_that_is_not_what_was_saved(driver, data, tmp_path):
    make_database(data / "app.db")
    (resource,) = driver.find(data)
    checkpoint = driver.protect(resource)
    keep_stream(checkpoint, resource, make_database(tmp_path / "other.db", version=7))

    with pytest.raises(CopyWrongError, match="user_version is 7, not 1"):
        driver.verify(checkpoint, resource)


def test_verify_looks_at_foreign_keys_only_when_told(driver, data):
    path = make_database(data / "app.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE up (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE down (up REFERENCES up (id))")
        connection.execute("INSERT INTO down VALUES (12)")
        connection.commit()
    (resource,) = driver.find(data)
    checkpoint = driver.protect(resource)

    driver.verify(checkpoint, resource)
    with pytest.raises(CopyWrongError, match="row 1 of down lacks its parent in up"):
        driver.verify(checkpoint, resource, foreign_keys=True)
