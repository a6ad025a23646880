from __future__ import annotations

import os
import threading
from contextlib import closing

import pytest

from databases import balance_of, content_of, make_database, move_money, open_writer
from helpers import DEADLINE
from karbor_actors import (
    Bank,
    OperationError,
    Plan,
    ProtectionService,
    Provider,
    Resource,
    ResourceStatus,
)
from karbor_filesystem import DirectoryProtectable, DirectoryProtection
from karbor_sqlite import DatabaseProtectable, DatabaseProtection


@pytest.fixture
def service(tmp_path):
    with ProtectionService(workers=4) as opened:
        opened.add_provider(
            Provider(
                "local",
                bank=Bank.open(tmp_path / "bank"),
                protection_plugins=[DirectoryProtection(), DatabaseProtection()],
                protectables=[DirectoryProtectable(), DatabaseProtectable()],
            )
        )
        yield opened


def protect(service, directory):
    plan = Plan("nightly", "local", [Resource("FileSystem::Directory", str(directory))])
    return service.protect(plan).result(DEADLINE)


def test_a_directory_is_restored_elsewhere_together_with_its_busy_database(service, data, tmp_path):
    (data / "deep" / "er").mkdir(parents=True)
    path = make_database(data / "deep" / "er" / "app.db", journal_mode="wal")
    os.chmod(data / "deep" / "er", 0o711)
    (data / "notes.txt").write_text("notes")
    stop, moved = threading.Event(), threading.Semaphore(0)

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
        checkpoint = protect(service, data)
    finally:
        stop.set()
        thread.join(DEADLINE)
    verified = service.verify(checkpoint.id).result(DEADLINE)
    target = str(tmp_path / "restored")
    parameters = {"FileSystem::Directory": {"target": target}}
    restored = service.restore(checkpoint.id, parameters=parameters).result(DEADLINE)

    copy = os.path.join(target, "deep", "er", "app.db")
    assert set(verified.resources.values()) == {ResourceStatus.VERIFIED}
    assert restored.new_resources["SQLite::Database", path] == copy
    assert balance_of(content_of(copy)) == 0
    assert os.listdir(os.path.dirname(copy)) == ["app.db"]
    assert os.stat(os.path.dirname(copy)).st_mode & 0o777 == 0o711
    with open(os.path.join(target, "notes.txt")) as file:
        assert file.read() == "notes"


def test_a_directory_and_its_database_are_restored_in_place(service, data):
    path = make_database(data / "app.db")
    before = content_of(path)
    checkpoint = protect(service, data)
    with closing(open_writer(path)) as writer:
        writer.execute("DELETE FROM note")

    parameters = {
        "FileSystem::Directory": {"overwrite": True},
        "SQLite::Database": {"overwrite": True},
    }
    service.restore(checkpoint.id, parameters=parameters).result(DEADLINE)

    assert content_of(path) == before


def test_the_directory_does_not_keep_the_database_too(service, data):
    make_database(data / "app.db", journal_mode="wal", rows=2000)
    (data / "notes.txt").write_text("notes")

    checkpoint = protect(service, data)

    section = checkpoint.get_resource_bank_section(("FileSystem::Directory", str(data)))
    assert sum(stream.size for stream in section.list_streams()) < 100_000


def test_a_restore_that_the_database_refuses_has_changed_no_file(service, data):
    """Overwriting was allowed for the directory only: the refusal comes before any change."""
    make_database(data / "app.db")
    (data / "notes.txt").write_text("saved")
    checkpoint = protect(service, data)
    (data / "notes.txt").write_text("changed since")
    parameters = {"FileSystem::Directory": {"overwrite": True}}

    with pytest.raises(OperationError, match="overwrite"):
        service.restore(checkpoint.id, parameters=parameters).result(DEADLINE)
    assert (data / "notes.txt").read_text() == "changed since"
