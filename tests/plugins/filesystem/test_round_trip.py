"""What is restored is what was protected."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from karbor_actors import Resource
from karbor_filesystem.source import is_same
from plugins.hooks import Context
from plugins.trees import BLOCK, describe, make_tree, trees

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners")


def round_trip(case, **parameters):
    """Protect the source, restore it to the target, and return the checkpoint."""
    checkpoint = case.driver.protect(case.resource)
    case.driver.verify(checkpoint, case.resource)
    case.driver.restore(checkpoint, case.resource, target=str(case.target), **parameters)
    return checkpoint


def info(case, checkpoint):
    section = checkpoint.get_resource_bank_section(case.resource)
    return case.driver.plugin.get_saved_info(section, case.resource)


@needs_root
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees())
def test_any_tree_comes_back(driver, tree):
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "source", Path(directory) / "target"
        source.mkdir()
        make_tree(os.fsencode(source), tree)
        resource = Resource("FileSystem::Directory", str(source))
        before = describe(source)

        checkpoint = driver.protect(resource)
        driver.verify(checkpoint, resource)
        where = driver.restore(checkpoint, resource, target=str(target))

        assert where == str(target)
        assert describe(target) == before
        assert describe(source) == before


def remove(path):
    """Remove a file or a tree."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


@needs_root
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees(), trees(), st.data())
def test_a_tree_that_changed_since_the_last_protect_comes_back(driver, first, second, data):
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "source", Path(directory) / "target"
        source.mkdir()
        make_tree(os.fsencode(source), first)
        resource = Resource("FileSystem::Directory", str(source))
        previous = driver.protect(resource)
        for path in sorted(describe(source), reverse=True)[:-1]:
            full = os.fsencode(source) + b"/" + path
            if data.draw(st.integers(0, 3)) == 0 and os.path.lexists(full):
                remove(full)
        kept = set(os.listdir(os.fsencode(source)))
        added = {name: node for name, node in second.items() if name not in kept}
        make_tree(os.fsencode(source), added)
        before = describe(source)

        checkpoint = driver.protect(resource, previous=previous)
        driver.verify(checkpoint, resource)
        driver.restore(checkpoint, resource, target=str(target))

        assert describe(target) == before


def test_an_empty_directory_comes_back(case):
    before = describe(case.source)

    round_trip(case)

    assert describe(case.target) == before


@pytest.mark.parametrize(
    "name",
    [b"\xff\xfe", b"new\nline", b"-rf", b"x" * 255, b" ", b"\x01", "é".encode(), b"~", b"a\\b"],
)
def test_a_file_with_an_odd_name_comes_back(case, name):
    path = os.fsencode(case.source) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(b"content")
    before = describe(case.source)

    round_trip(case)

    assert describe(case.target) == before


def test_a_path_longer_than_the_system_takes_at_once_comes_back(case):
    fd = os.open(case.source, os.O_RDONLY)
    for number in range(70):
        name = f"{number:03}" + "x" * 200
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    for name in ("z", "a"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    (case.source / "zz").write_text("after the deep one")
    before = describe(case.source)

    round_trip(case)

    assert len(before) == 74
    assert describe(case.target) == before


def test_a_file_larger_than_a_block_comes_back(case):
    (case.source / "large").write_bytes(os.urandom(5_000_001))
    before = describe(case.source)

    round_trip(case)

    assert describe(case.target) == before


def test_progress_counts_what_is_read_of_files_with_holes(case):
    size = 4 << 20
    with (case.source / "sparse").open("wb") as file:
        file.write(os.urandom(size))
        file.truncate(1 << 40)
    checkpoint = case.driver.protect(case.resource)
    context = Context()
    case.driver.restore(checkpoint, case.resource, context=context, target=str(case.target))

    done, total, unit = context.reports[-1]
    assert (done, total, unit) == (size, size, "bytes")
    case.driver.verify(checkpoint, case.resource)


def test_holes_come_back_as_holes_and_are_not_read(case):
    path = case.source / "sparse"
    with path.open("wb") as file:
        file.seek(1 << 40)
        file.write(b"in the middle")
        file.truncate((1 << 40) + (1 << 30))
    (case.source / "nothing but a hole").touch()
    os.truncate(case.source / "nothing but a hole", 10 * BLOCK)

    checkpoint = round_trip(case)

    restored = case.target / "sparse"
    assert restored.stat().st_size == (1 << 40) + (1 << 30)
    assert restored.stat().st_blocks == path.stat().st_blocks
    with restored.open("rb") as file:
        file.seek(1 << 40)
        assert file.read(20) == b"in the middle" + bytes(7)
    assert (case.target / "nothing but a hole").stat().st_blocks == 0
    assert info(case, checkpoint)["bytes_read"] < BLOCK


def test_names_of_one_file_stay_names_of_one_file(case):
    (case.source / "b").mkdir()
    (case.source / "a").write_text("one")
    os.link(case.source / "a", case.source / "b" / "x")
    os.link(case.source / "a", case.source / "c")
    os.symlink("somewhere", case.source / "l")
    os.link(case.source / "l", case.source / "m", follow_symlinks=False)
    before = describe(case.source)

    checkpoint = round_trip(case)

    assert describe(case.target) == before
    assert (case.target / "a").stat().st_nlink == 3
    assert info(case, checkpoint)["links"] == 3
    assert info(case, checkpoint)["files"] == 1


@needs_root
def test_devices_fifos_and_set_id_bits_come_back(case):
    os.mknod(case.source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(case.source / "loop", stat.S_IFBLK | 0o640, os.makedev(7, 300))
    os.mkfifo(case.source / "fifo", 0o604)
    (case.source / "su").write_text("x")
    os.chown(case.source / "su", 1234, 4321)
    os.chmod(case.source / "su", 0o6755)
    os.chmod(case.source, 0o3775)
    before = describe(case.source)

    round_trip(case)

    assert describe(case.target) == before


ACL = bytes.fromhex(
    "02000000" "01000600ffffffff" "0200060039300000" "04000400ffffffff" "10000600ffffffff"
    "20000000ffffffff"
)  # fmt: skip
"""User 12345 may read and write."""


@needs_root
def test_acls_and_capabilities_come_back(case):
    path = case.source / "file"
    path.write_text("x")
    os.setxattr(path, "system.posix_acl_access", ACL)
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
    os.setxattr(path, "trusted.note", b"only root sees it")
    os.setxattr(case.source, "system.posix_acl_default", ACL)
    before = describe(case.source)

    round_trip(case)

    assert len(before[b"./file"]["xattrs"]) == 3
    assert describe(case.target) == before


@needs_root
def test_what_a_target_lends_to_all_that_is_made_in_it_is_not_kept(case):
    """Or a file that one group may read would come back readable for a user of the target's."""
    (case.source / "folder").mkdir()
    (case.source / "folder" / "secret").write_text("for one group")
    (case.source / "folder" / "secret").chmod(0o640)
    os.mkfifo(case.source / "fifo", 0o660)
    before = describe(case.source)
    case.target.mkdir()
    os.chown(case.target, 1234, 1234)
    os.chmod(case.target, 0o2777)
    os.setxattr(case.target, "system.posix_acl_default", ACL)

    round_trip(case)

    assert describe(case.target) == before


def test_devices_are_left_out_if_told(case, caplog):
    if os.geteuid() == 0:
        os.mknod(case.source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.link(case.source / "null", case.source / "zero")
    (case.source / "file").write_text("x")

    round_trip(case, restore_devices=False)

    assert [path.name for path in case.target.iterdir()] == ["file"]
    assert "devices are not restored" in caplog.text


@needs_root
def test_without_owners_nothing_lends_another_owners_rights(case):
    for name, mode in (("su", 0o4755), ("sg", 0o2755)):
        (case.source / name).write_text("x")
        os.chown(case.source / name, 1234, 4321)
        os.chmod(case.source / name, mode)

    round_trip(case, restore_owner=False)

    for name in ("su", "sg"):
        status = (case.target / name).stat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert stat.S_IMODE(status.st_mode) == 0o755


def test_a_socket_is_skipped_and_reported(case, caplog):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(case.source / "socket"))

        checkpoint = round_trip(case)

    assert not list(case.target.iterdir())
    saved = info(case, checkpoint)
    assert saved["skipped"] == 1
    assert saved["reports"][0]["path"] == str(case.source / "socket")
    assert "a socket has no contents" in caplog.text


def test_access_times_come_back_if_asked_for(case):
    path = case.source / "file"
    path.write_text("x")
    os.utime(path, ns=(123_456_789, 987_654_321))
    checkpoint = case.driver.protect(case.resource, atime=True)

    case.driver.restore(checkpoint, case.resource, target=str(case.target))

    assert path.stat().st_atime_ns == 123_456_789
    assert (case.target / "file").stat().st_atime_ns == 123_456_789
    assert (case.target / "file").stat().st_mtime_ns == 987_654_321


def test_a_restore_into_the_same_place_gives_back_what_was_lost(case):
    (case.source / "sub").mkdir()
    (case.source / "sub" / "file").write_text("content")
    before = describe(case.source)
    checkpoint = case.driver.protect(case.resource)
    (case.source / "sub" / "file").unlink()
    (case.source / "sub").rmdir()
    case.source.rmdir()

    assert case.driver.restore(checkpoint, case.resource) == str(case.source)
    assert describe(case.source) == before


def test_a_link_within_the_tree_is_kept_and_never_followed(case, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    os.symlink(outside, case.source / "link")
    before = describe(case.source)

    checkpoint = round_trip(case)

    assert describe(case.target) == before
    assert info(case, checkpoint)["files"] == 0


def test_include_takes_what_it_names_and_the_way_to_it(case):
    for name in ("a/b/x.py", "a/c/y.txt", "d/all/z.txt", "e/w.py", "f/g.txt"):
        (case.source / name).parent.mkdir(parents=True, exist_ok=True)
        (case.source / name).write_text(name)
    checkpoint = case.driver.protect(case.resource, include=["*.py", "/d/all"], exclude=["e/"])

    case.driver.restore(checkpoint, case.resource, target=str(case.target))

    found = sorted(str(p.relative_to(case.target)) for p in case.target.rglob("*"))
    assert found == ["a", "a/b", "a/b/x.py", "d", "d/all", "d/all/z.txt"]


def test_exclude_leaves_out_what_it_names_and_all_below(case):
    for name in ("keep", "cache/x", "sub/cache/y", "sub/a.tmp"):
        (case.source / name).parent.mkdir(parents=True, exist_ok=True)
        (case.source / name).write_text(name)
    checkpoint = case.driver.protect(case.resource, exclude=["/cache", "*.tmp"])

    case.driver.restore(checkpoint, case.resource, target=str(case.target))

    found = sorted(str(p.relative_to(case.target)) for p in case.target.rglob("*"))
    assert found == ["keep", "sub", "sub/cache", "sub/cache/y"]


def test_the_source_is_left_as_it_was_to_the_last_access_time(case):
    path = case.source / "file"
    path.write_text("x")
    os.utime(path, ns=(1, 2))
    os.utime(case.source, ns=(3, 4))
    before = path.stat()

    case.driver.protect(case.resource)

    assert is_same(before, path.stat())
    assert (path.stat().st_atime_ns, case.source.stat().st_atime_ns) == (1, 3)
