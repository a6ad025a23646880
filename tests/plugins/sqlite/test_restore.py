from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from databases import (
    content_of,
    crash_in_transaction,
    damage,
    make_database,
    move_money,
    open_writer,
    siblings_of,
)
from karbor_actors import Resource
from karbor_actors.errors import HookCancelledError
from karbor_sqlite import (
    DatabaseWrongError,
    RestorePlaceError,
    TargetExistsError,
    TargetInUseError,
)


@pytest.fixture
def path(data):
    """A database two directories below the protected one."""
    (data / "sub").mkdir()
    return make_database(data / "sub" / "app.db", journal_mode="wal")


@pytest.fixture
def resource(driver, data, path):
    (found,) = driver.find(data)
    return found


@pytest.fixture
def content(path):
    return content_of(path)


@pytest.fixture
def checkpoint(driver, resource, content):
    return driver.protect(resource)


def test_it_goes_to_the_place_of_its_restored_directory(
    driver, data, tmp_path, resource, checkpoint, content
):
    new = tmp_path / "new"
    new.mkdir()
    new_resources = {("FileSystem::Directory", str(data)): str(new)}

    path = driver.restore(checkpoint, resource, new_resources=new_resources)

    assert path == str(new / "sub" / "app.db")
    assert content_of(path) == content
    assert os.listdir(new / "sub") == ["app.db"]


def test_it_goes_back_to_where_it_was_when_only_it_is_restored(
    driver, data, resource, checkpoint, content
):
    os.unlink(resource.id)

    assert driver.restore(checkpoint, resource) == resource.id
    assert content_of(resource.id) == content


def test_a_database_that_was_named_by_hand_goes_back_to_its_path(driver, data, tmp_path):
    path = make_database(data / "app.db")
    resource = Resource("SQLite::Database", path)
    checkpoint = driver.protect(resource)
    os.unlink(path)

    assert driver.restore(checkpoint, resource) == path
    assert driver.restore(checkpoint, resource, target=str(tmp_path / "two.db"))
    assert content_of(tmp_path / "two.db") == content_of(path)


def test_mode_owner_time_and_journal_mode_are_kept(driver, tmp_path, path, resource, content):
    os.chmod(path, 0o640)
    owner = (1234, 2345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    os.utime(path, ns=(10**18, 10**18 + 123456789))
    checkpoint = driver.protect(resource)

    restored = driver.restore(checkpoint, resource, target=str(tmp_path / "restored.db"))
    status = os.stat(restored)

    assert status.st_mode & 0o7777 == 0o640
    assert (status.st_uid, status.st_gid) == owner
    assert status.st_mtime_ns == 10**18 + 123456789
    with closing(sqlite3.connect(restored)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


ACL = bytes.fromhex(
    "02000000" "01000600ffffffff" "0200060039300000" "04000400ffffffff" "10000600ffffffff"
    "20000000ffffffff"
)  # fmt: skip
"""User 12345 may read and write."""


@pytest.mark.parametrize("has_list", [True, False])
def test_the_access_list_is_that_of_the_database_and_not_of_the_target(
    driver, tmp_path, path, resource, has_list
):
    os.chmod(path, 0o640)
    os.setxattr(path, b"user.\xff", b"the application's")
    if has_list:
        os.setxattr(path, "system.posix_acl_access", ACL)
    before = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    checkpoint = driver.protect(resource)
    (tmp_path / "elsewhere").mkdir()
    os.setxattr(tmp_path / "elsewhere", "system.posix_acl_default", ACL)

    restored = driver.restore(checkpoint, resource, target=str(tmp_path / "elsewhere" / "app.db"))

    assert {name: os.getxattr(restored, name) for name in os.listxattr(restored)} == before
    assert os.stat(restored).st_mode == os.stat(path).st_mode
    assert len(before) == 1 + has_list


def test_names_need_not_be_utf_8(driver, data, tmp_path):
    odd = os.fsencode(data) + b"/caf\xe9 %41\n?.db"
    path = make_database(odd)
    (resource,) = driver.find(data)
    checkpoint = driver.protect(resource)
    new = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(new)
    new_resources = {("FileSystem::Directory", str(data)): os.fsdecode(new)}

    restored = driver.restore(checkpoint, resource, new_resources=new_resources)

    assert os.fsencode(restored) == new + b"/caf\xe9 %41\n?.db"
    assert content_of(os.fsencode(restored)) == content_of(path)


@pytest.mark.parametrize("standing", ["app.db", "app.db-wal", "app.db-journal"])
def test_nothing_is_overwritten_unless_told(driver, data, resource, checkpoint, content, standing):
    os.unlink(resource.id)
    in_the_way = data / "sub" / standing
    in_the_way.write_text("precious")

    with pytest.raises(TargetExistsError, match=f"{standing} exists; restore elsewhere, or set"):
        driver.restore(checkpoint, resource)
    assert in_the_way.read_text() == "precious"
    assert os.listdir(data / "sub") == [standing]

    driver.restore(checkpoint, resource, overwrite=True)
    assert content_of(resource.id) == content


def test_a_database_with_a_log_is_overwritten_without_the_log(
    driver, data, path, resource, checkpoint, content
):
    crash_in_transaction(path)
    assert siblings_of(path) == {"-wal", "-shm"}

    driver.restore(checkpoint, resource, overwrite=True)

    assert siblings_of(path) == set()
    assert content_of(path) == content


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_database_in_use_is_not_overwritten(driver, data, tmp_path, journal_mode):
    path = make_database(data / "app.db", journal_mode=journal_mode)
    (resource,) = driver.find(data)
    checkpoint = driver.protect(resource)
    with closing(open_writer(path)) as writer:
        move_money(writer, 1)
        newer = content_of(path)
        writer.execute("BEGIN IMMEDIATE")

        with pytest.raises(TargetInUseError, match=r"app\.db is in use; stop what uses it"):
            driver.restore(checkpoint, resource, overwrite=True)

        writer.execute("ROLLBACK")
    assert content_of(path) == newer
    assert os.listdir(data) == ["app.db"]


def test_a_damaged_database_is_overwritten(driver, path, resource, checkpoint, content):
    with open(path, "r+b") as file:
        file.write(b"\x00" * 4096)
    with open(f"{path}-wal", "wb") as file:
        file.write(b"stale" * 1000)

    driver.restore(checkpoint, resource, overwrite=True)

    assert siblings_of(path) == set()
    assert content_of(path) == content


def test_a_link_in_the_targets_place_is_not_followed(
    driver, tmp_path, resource, checkpoint, content
):
    outside = make_database(tmp_path / "outside.db", version=9)
    before = Path(outside).read_bytes()
    os.unlink(resource.id)
    os.symlink(outside, resource.id)

    with pytest.raises(TargetExistsError):
        driver.restore(checkpoint, resource)
    with pytest.raises(RestorePlaceError, match="is no regular file; remove it"):
        driver.restore(checkpoint, resource, overwrite=True)

    assert Path(outside).read_bytes() == before


def test_a_link_on_the_way_below_the_directory_is_not_followed(
    driver, data, tmp_path, resource, checkpoint
):
    new, outside = tmp_path / "new", tmp_path / "outside"
    new.mkdir()
    outside.mkdir()
    (new / "sub").symlink_to(outside)
    new_resources = {("FileSystem::Directory", str(data)): str(new)}

    with pytest.raises(RestorePlaceError, match=r"Not a directory|symbolic links"):
        driver.restore(checkpoint, resource, new_resources=new_resources)

    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    "recorded", ["../out.db", "a/../../out.db", "/etc/out.db", "a//out.db", ""]
)
def test_a_recorded_path_that_leads_out_of_the_directory_is_refused(
    driver, data, resource, checkpoint, recorded
):
    extra_info = {"directory": str(data), "path": recorded}
    forged = Resource(resource.type, resource.id, "", extra_info)

    with pytest.raises(RestorePlaceError, match="leads out of its directory"):
        driver.restore(checkpoint, forged)


def test_a_missing_directory_is_a_clear_error(driver, tmp_path, resource, checkpoint):
    target = tmp_path / "none" / "app.db"

    with pytest.raises(RestorePlaceError, match=r"none/app\.db: No such file or directory"):
        driver.restore(checkpoint, resource, target=str(target))


def test_a_path_that_sqlite_could_not_open_is_refused(driver, tmp_path, resource, checkpoint):
    with pytest.raises(RestorePlaceError, match="no path over 503 bytes"):
        driver.restore(checkpoint, resource, target=f"{tmp_path}/{'d/' * 300}app.db")


def test_a_damaged_copy_is_not_put_into_place(driver, tmp_path, path, resource, checkpoint):
    other = make_database(tmp_path / "other.db")
    damage(other)
    with open(other, "rb") as file:
        checkpoint.get_resource_bank_section(resource).write_stream("database", file)
    before = Path(path).read_bytes()

    with pytest.raises(DatabaseWrongError):
        driver.restore(checkpoint, resource, overwrite=True)

    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == ["app.db"]


def test_a_cancel_leaves_the_old_database_and_nothing_else(
    driver, path, resource, checkpoint, make_context
):
    before = Path(path).read_bytes()
    context = make_context()
    context.cancelled = True

    with pytest.raises(HookCancelledError):
        driver.restore(checkpoint, resource, context, overwrite=True)

    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == ["app.db"]


def test_a_restore_that_is_run_again_finds_its_own_result(
    driver, tmp_path, resource, checkpoint, content, make_context
):
    context = make_context()
    target = str(tmp_path / "restored.db")
    driver.restore(checkpoint, resource, context, target=target)
    context.state.crash()

    assert driver.restore(checkpoint, resource, context, target=target) == target
    assert content_of(target) == content


def test_a_restore_that_is_run_again_removes_what_the_crash_left(
    driver, tmp_path, resource, checkpoint, content, make_context
):
    context = make_context()
    target = tmp_path / "restored" / "app.db"
    target.parent.mkdir()
    driver.restore(checkpoint, resource, context, target=str(target))
    target.unlink()
    (target.parent / context.state["temporary"]).write_text("half of a database")

    driver.restore(checkpoint, resource, context, target=str(target))

    assert os.listdir(target.parent) == ["app.db"]
    assert content_of(target) == content


def test_abort_removes_what_the_restore_made(driver, tmp_path, resource, checkpoint, make_context):
    context = make_context()
    target = tmp_path / "restored" / "app.db"
    target.parent.mkdir()
    driver.restore(checkpoint, resource, context, target=str(target))
    context.state.crash()
    (target.parent / context.state["temporary"]).write_text("half of a database")

    driver.abort("restore", checkpoint, resource, context)
    driver.abort("restore", checkpoint, resource, context)

    assert os.listdir(target.parent) == []


def test_abort_keeps_what_replaced_an_older_database(
    driver, path, resource, checkpoint, content, make_context
):
    context = make_context()
    driver.restore(checkpoint, resource, context, overwrite=True)
    context.state.crash()

    driver.abort("restore", checkpoint, resource, context)

    assert content_of(path) == content


def test_abort_keeps_what_somebody_else_put_there_since(
    driver, tmp_path, resource, checkpoint, make_context
):
    context = make_context()
    target = tmp_path / "restored.db"
    driver.restore(checkpoint, resource, context, target=str(target))
    os.replace(make_database(tmp_path / "new.db"), target)

    driver.abort("restore", checkpoint, resource, context)

    assert target.exists()


def test_abort_of_a_restore_that_began_nothing_does_nothing(
    driver, resource, checkpoint, content, make_context
):
    driver.abort("restore", checkpoint, resource, make_context())

    assert content_of(resource.id) == content
