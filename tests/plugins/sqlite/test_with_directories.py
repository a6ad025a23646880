from __future__ import annotations

import math
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
from karbor_actors.errors import ParametersError
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


def plan_of(directory):
    return Plan("nightly", "local", [Resource("FileSystem::Directory", str(directory))])


def protect(service, directory, **parameters):
    given = {"FileSystem::Directory": parameters}
    return service.protect(plan_of(directory), parameters=given).result(DEADLINE)


def restored_files(service, checkpoint, target):
    parameters = {"FileSystem::Directory": {"target": str(target)}}
    service.restore(checkpoint.id, parameters=parameters).result(DEADLINE)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


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


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({"exclude": ["cache"]}, ["app.db", "notes.txt", "src/app.db"]),
        ({"exclude": ["*.db"]}, ["notes.txt"]),
        ({"exclude": ["/app.db"]}, ["cache/app.db", "notes.txt", "src/app.db"]),
        ({"include": ["src"]}, ["src/app.db"]),
        ({"include": ["app.db"], "exclude": ["src/"]}, ["app.db", "cache/app.db"]),
    ],
)
def test_patterns_are_about_databases_and_what_is_beside_them_too(
    service, data, tmp_path, parameters, kept
):
    writers = []
    for folder in (data, data / "src", data / "cache"):
        folder.mkdir(exist_ok=True)
        writers.append(open_writer(make_database(folder / "app.db", journal_mode="wal")))
        move_money(writers[-1], 1)
        assert (folder / "app.db-wal").stat().st_size
    (data / "notes.txt").write_text("notes")

    checkpoint = protect(service, data, **parameters)
    for writer in writers:
        writer.close()

    assert restored_files(service, checkpoint, tmp_path / "restored") == kept


def test_a_database_is_restored_to_any_path_that_there_can_be(service, data, tmp_path):
    path = make_database(data / "a\n\udcff.db")
    plan = Plan("nightly", "local", [Resource("SQLite::Database", path)])
    checkpoint = service.protect(plan).result(DEADLINE)
    target = str(tmp_path / "b\n\udcff.db")

    service.restore(checkpoint.id, parameters={"SQLite::Database": {"target": target}}).result(
        DEADLINE
    )
    assert content_of(target) == content_of(path)


@pytest.mark.parametrize(
    ("resource_type", "verb", "fields"),
    [
        ("FileSystem::Directory", "protect", {"exclude": ["a/../b"]}),
        ("FileSystem::Directory", "protect", {"include": [""]}),
        ("FileSystem::Directory", "restore", {"target": "relative"}),
        ("FileSystem::Directory", "restore", {"target": ""}),
        ("FileSystem::Directory", "restore", {"target": "/nul\0byte"}),
        ("SQLite::Database", "protect", {"scratch": "relative"}),
        ("SQLite::Database", "protect", {"busy_timeout": math.nan}),
        ("SQLite::Database", "verify", {"scratch": ""}),
        ("SQLite::Database", "restore", {"target": "relative"}),
        ("SQLite::Database", "restore", {"target": "/tmp/"}),
    ],
)
def test_a_parameter_that_cannot_work_is_refused_before_anything_runs(
    service, data, resource_type, verb, fields
):
    make_database(data / "app.db")
    checkpoint = protect(service, data)
    what = plan_of(data) if verb == "protect" else checkpoint.id
    handle = getattr(service, verb)(what, parameters={resource_type: fields})

    with pytest.raises(ParametersError) as error:
        handle.result(DEADLINE)
    assert next(iter(fields)) in str(error.value)
    assert len(list(service.provider("local").bank.checkpoints())) == 1
