from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from databases import crash_in_transaction, make_database, open_writer
from helpers import DEADLINE
from karbor_actors import Resource
from karbor_actors.errors import OperationCancelledError
from karbor_sqlite import DatabaseProtectable, DatabaseUnreadableError, protectable
from karbor_sqlite.engine import copy_database


def find(directory):
    parent = Resource("FileSystem::Directory", os.fspath(directory))
    return DatabaseProtectable().get_dependent_resources(None, parent)


def test_databases_are_found_by_their_header_at_any_depth(data):
    deep = data / "b" / "c"
    deep.mkdir(parents=True)
    make_database(data / "z.db")
    make_database(deep / "no-extension")
    (data / "fake.db").write_text("SQLite is only mentioned here" * 100)
    (data / "empty.db").touch()
    (data / "short.db").write_bytes(b"SQLite format 3\x00")

    found = find(data)

    assert [resource.key for resource in found] == [
        ("SQLite::Database", str(deep / "no-extension")),
        ("SQLite::Database", str(data / "z.db")),
    ]
    assert [resource.name for resource in found] == ["b/c/no-extension", "z.db"]
    assert found[0].extra_info == {"directory": str(data), "path": "b/c/no-extension"}


@pytest.mark.parametrize("written", ["{}/", "{}/./", "{}/none/.."])
def test_a_database_has_one_id_however_its_directory_is_written(data, written):
    path = make_database(data / "app.db")
    (data / "none").mkdir()

    assert [resource.id for resource in find(written.format(data))] == [path]


class Cancelled:
    """A context of an operation that is cancelled when it has been asked some times."""

    def __init__(self, left):
        self.left = left

    def check_cancelled(self):
        self.left -= 1
        if self.left < 0:
            raise OperationCancelledError("cancelled")


def test_a_search_asks_in_each_directory_whether_it_is_still_wanted(data):
    for number in range(3):
        (data / str(number)).mkdir()
    parent = Resource("FileSystem::Directory", os.fspath(data))

    assert DatabaseProtectable().get_dependent_resources(Cancelled(4), parent) == []
    for asked in range(4):
        with pytest.raises(OperationCancelledError):
            DatabaseProtectable().get_dependent_resources(Cancelled(asked), parent)


def test_links_are_not_followed(data, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_database(elsewhere / "real.db")
    (data / "link.db").symlink_to(elsewhere / "real.db")
    (data / "linked").symlink_to(elsewhere)
    os.mkfifo(data / "pipe.db")

    assert find(data) == []


def test_the_directory_itself_may_not_be_a_link(data, tmp_path):
    make_database(data / "app.db")
    (tmp_path / "link").symlink_to(data)

    with pytest.raises(DatabaseUnreadableError, match=r"Not a directory|symbolic links"):
        find(tmp_path / "link")


def test_names_need_not_be_utf_8_nor_fit_a_line(data):
    odd = os.fsencode(data) + b"/caf\xe9\n?%.db"
    with closing(sqlite3.connect(odd)) as connection:
        connection.execute("CREATE TABLE t (a)")

    (found,) = find(data)

    assert os.fsencode(found.id) == odd
    assert DatabaseProtectable().show_resource(None, found.id) == found


def test_a_path_that_sqlite_cannot_open_stays_with_its_directory(data):
    make_database(data / "short.db")
    long = data / ("d" * 250) / ("e" * 250)
    long.mkdir(parents=True)
    (long / "far.db").write_bytes((data / "short.db").read_bytes())

    assert [resource.name for resource in find(data)] == ["short.db"]
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(long / "far.db")


def test_looking_for_databases_keeps_the_locks_of_the_hosts_own_connections(data):
    path = make_database(data / "app.db")
    locked = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    )
    with closing(open_writer(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        found = find(data)

        other = subprocess.run(
            [sys.executable, "-c", locked, path], capture_output=True, check=False, timeout=DEADLINE
        )
        writer.execute("ROLLBACK")
    assert [resource.id for resource in found] == [path]
    assert b"database is locked" in other.stderr


def test_an_open_file_that_is_no_database_is_none(data):
    path = data / "log.txt"
    path.write_text("line\n" * 1000)
    with path.open("a"):
        assert find(data) == []


def test_a_locked_database_that_the_host_has_open_is_found(data):
    path = make_database(data / "app.db")
    with closing(open_writer(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")

        assert [resource.id for resource in find(data)] == [path]


def test_looking_leaves_access_times_alone(data):
    path = make_database(data / "app.db")
    os.utime(path, ns=(10**18, 2 * 10**18))

    find(data)

    assert os.stat(path).st_atime_ns == 10**18


@pytest.mark.parametrize("name", ["missing.db", "link.db", "text.db", "folder", "none/app.db"])
def test_showing_what_is_no_database_gives_none(data, name):
    make_database(data / "app.db")
    (data / "link.db").symlink_to("app.db")
    (data / "text.db").write_text("text" * 1000)
    (data / "folder").mkdir()

    assert DatabaseProtectable().show_resource(None, str(data / name)) is None
    assert DatabaseProtectable().show_resource(None, "relative.db") is None


def as_nobody(call):
    """Run *call* in a thread that may not read everything, even where tests run as root."""
    caught = []

    def run():
        # The file-system user id belongs to a thread, and takes root's rights on files along.
        ctypes.CDLL(None).setfsuid(65534)
        try:
            call()
        except DatabaseUnreadableError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    return caught


@pytest.fixture
def public():
    """A directory that everybody may read, with a database in it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        make_database(directory / "app.db")
        yield directory


def test_a_directory_that_may_not_be_read_is_an_error_and_not_an_empty_listing(public):
    public.chmod(0o300)

    (error,) = as_nobody(lambda: find(public))
    assert str(error) == f"cannot read {public}: Permission denied"


def test_a_named_database_that_may_not_be_read_is_an_error(public):
    (public / "app.db").chmod(0)

    (error,) = as_nobody(lambda: DatabaseProtectable().show_resource(None, str(public / "app.db")))
    assert str(error) == f"cannot read {public / 'app.db'}: Permission denied"


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o444])
def test_what_may_not_be_read_within_is_left_to_the_directorys_own_protect(public, mode):
    (public / "folder").mkdir()
    make_database(public / "folder" / "inner.db")
    (public / "folder").chmod(mode)
    make_database(public / "secret.db")
    (public / "secret.db").chmod(0)
    found = []

    errors = as_nobody(lambda: found.extend(find(public)))
    assert not errors
    assert [one.name for one in found] == ["app.db"]


def test_what_the_disk_cannot_read_is_an_error_and_not_an_empty_listing(data, monkeypatch):
    make_database(data / "app.db")

    def pread(fd, size, offset):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(protectable.os, "pread", pread)
    with pytest.raises(DatabaseUnreadableError, match="Input/output error"):
        find(data)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_what_needs_a_right_to_write_to_be_read_says_so(public, tmp_path, journal_mode):
    path = make_database(public / "busy.db", journal_mode=journal_mode)
    if journal_mode == "delete":
        crash_in_transaction(path)
    public.chmod(0o555)

    (error,) = as_nobody(
        lambda: copy_database(path, str(tmp_path / "copy"), 1.0, lambda done, total: None)
    )
    assert str(error).startswith(f"cannot read {path}: SQLite says: ")
    assert "it must write in the directory" in str(error)
