from __future__ import annotations

import errno
import importlib.util
import os
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from karbor_actors.errors import BankFullError, BankPathError, ObjectNotFoundError, StoreError
from karbor_actors.store import LocalStore, MemoryStore, RemoteStore, open_store
from karbor_actors.store.objects import check_name

NAME = "packs/00000000000000aa-01"


@pytest.fixture(scope="session", autouse=True)
def _obstore_has_started():
    """obstore's runtime serves the whole process: let no single test answer for its files."""
    if importlib.util.find_spec("obstore"):
        obstore_of("memory", None).put("first", b"")


def obstore_of(kind, directory):
    module = pytest.importorskip("obstore.store")
    if kind == "memory":
        return RemoteStore(module.MemoryStore())
    return RemoteStore(module.LocalStore(directory, mkdir=True))


STORES = {
    "local": LocalStore,
    "memory": lambda directory: MemoryStore(),
    "obstore-local": lambda directory: obstore_of("local", directory),
    "obstore-memory": lambda directory: obstore_of("memory", directory),
}


@pytest.fixture(params=sorted(STORES))
def store(request, tmp_path):
    store = STORES[request.param](tmp_path / "objects")
    yield store
    store.close()


def test_what_was_put_is_got_in_whole_and_in_parts(store):
    store.put(NAME, b"0123456789")

    assert store.get(NAME) == b"0123456789"
    assert store.get(NAME, 3) == b"3456789"
    assert store.get(NAME, 3, 4) == b"3456"
    assert store.get(NAME, 3, 0) == b""
    assert store.size(NAME) == 10


def test_a_range_ends_where_the_object_ends(store):
    store.put(NAME, b"0123456789")

    assert store.get(NAME, 8, 100) == b"89"
    assert store.get(NAME, 10, 1) == b""
    assert store.get(NAME, 99, 1) == b""
    assert store.get(NAME, 99) == b""


def test_parts_are_stored_one_after_another(store):
    store.put(NAME, [b"ab", memoryview(b"cd"), bytearray(b"ef"), b""])

    assert store.get(NAME) == b"abcdef"


def test_an_empty_object_is_an_object(store):
    store.put(NAME, b"")

    assert store.get(NAME) == b""
    assert store.size(NAME) == 0
    assert list(store.list()) == [(NAME, 0)]


def test_put_replaces_what_was_there(store):
    store.put(NAME, b"a long first version")
    store.put(NAME, b"second")

    assert store.get(NAME) == b"second"
    assert list(store.list()) == [(NAME, 6)]


def test_an_absent_object_is_an_error_that_names_it(store):
    for use in (store.get, store.size, lambda name: store.get(name, 1, 2)):
        with pytest.raises(ObjectNotFoundError) as caught:
            use(NAME)
        assert caught.value.key == NAME


def test_deleting_an_absent_object_is_fine(store):
    store.put(NAME, b"x")

    store.delete(NAME)
    store.delete(NAME)

    assert list(store.list()) == []


def test_listing_finds_every_object_below_a_folder(store):
    names = [f"packs/{number:04x}" for number in range(40)] + ["packs-old", "manifests/a/b", "top"]
    for name in names:
        store.put(name, name.encode())

    assert sorted(store.list()) == sorted((name, len(name)) for name in names)
    assert len(list(store.list("packs"))) == 40
    assert list(store.list("manifests")) == [("manifests/a/b", 13)]
    assert list(store.list("nothing")) == []


@pytest.mark.parametrize(
    "name", ["", "/", "a//b", "/a", "a/", "..", "a/../b", "A", "a.b", "a b", "a\0", "é", "a" * 201]
)
def test_names_that_could_mean_anything_else_are_refused(store, name):
    uses = (store.get, store.size, store.delete, lambda name: store.put(name, b""))
    for use in uses:
        with pytest.raises(ValueError, match="cannot name an object"):
            use(name)


def test_a_negative_range_is_refused(store):
    store.put(NAME, b"x")

    for start, length in ((-1, None), (0, -1)):
        with pytest.raises(ValueError, match="no such range"):
            store.get(NAME, start, length)


def test_many_threads_may_put_get_and_delete_at_once(store):
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        for turn in range(20):
            mine, shared = f"own/{number}-{turn}", "shared"
            store.put(mine, mine.encode())
            store.put(shared, b"same")
            assert store.get(mine) == mine.encode()
            assert store.get(shared) == b"same"
            store.delete(mine)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(store.list()) == [("shared", 4)]


@pytest.mark.parametrize("kind", sorted(STORES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("pd"), st.sampled_from(["a", "b/c", "b/d"]), st.binary())
    )
)
def test_a_store_behaves_like_a_dict(kind, tmp_path_factory, steps):
    store = STORES[kind](tmp_path_factory.mktemp("objects"))
    model = {}
    for verb, name, data in steps:
        if verb == "p":
            store.put(name, data)
            model[name] = data
        else:
            store.delete(name)
            model.pop(name, None)

    assert dict(store.list()) == {name: len(data) for name, data in model.items()}
    assert {name: store.get(name) for name in model} == model
    store.close()


# The local store


@pytest.fixture
def local(tmp_path):
    store = LocalStore(tmp_path / "objects")
    yield store
    store.close()


def path_of(local, name):
    [path] = Path(local.directory).glob("??/" + name.replace("/", "."))
    return path


def test_objects_last_until_the_next_open(tmp_path):
    store = LocalStore(tmp_path / "objects")
    store.put(NAME, b"x")
    store.close()

    store = LocalStore(tmp_path / "objects", writable=False)
    assert store.get(NAME) == b"x"
    store.close()


def test_what_a_put_returned_for_has_a_durable_name_whoever_made_its_folder(tmp_path, monkeypatch):
    """A folder that another put has made, and not synced yet, goes with a power cut."""
    directory = tmp_path / "objects"
    local, durable = LocalStore(directory), set()
    synced = os.fsync

    def fsync(fd):
        synced(fd)
        if os.path.samestat(os.fstat(fd), os.stat(directory)):
            durable.update(os.listdir(fd))

    def put_whole(name):
        local.put(name, b"1")
        path = next(directory.glob(f"*/{name}"))
        return path.parent.name

    monkeypatch.setattr(os, "fsync", fsync)
    folders = set()
    for number in range(100):
        folder = put_whole(f"o{number}")
        assert folder in durable
        folders.add(folder)
    local._make_folders("0f")
    os.mkdir(directory / "later")
    for number in range(100, 200):
        if put_whole(f"o{number}").startswith("0"):
            assert "later" in durable  # synced again: somebody else had made the folder
            break
    local.close()

    assert len({folder[0] for folder in folders}) > 1


def test_what_a_killed_process_made_and_did_not_sync_has_a_durable_name_once_it_is_opened(
    tmp_path, monkeypatch
):
    directory, durable = tmp_path / "above" / "objects", set()
    synced = os.fsync

    def fsync(fd):
        synced(fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            folder = Path(os.readlink(f"/proc/self/fd/{fd}"))
            durable.update(folder / name for name in os.listdir(folder))

    monkeypatch.setattr(os, "fsync", fsync)
    local = LocalStore(directory)
    assert {directory, directory.parent} <= durable
    local._make_folders("0f")
    local.close()
    assert directory / "0f" not in durable
    LocalStore(directory).close()

    assert directory / "0f" in durable


def test_a_folder_may_be_made_in_one_that_may_be_written_and_not_read(tmp_path, monkeypatch):
    parent, opened = str(tmp_path / "drop"), os.open
    os.mkdir(parent, 0o300)

    def open_as_another_would(path, *args, **kwargs):
        if path == parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_as_another_would)
    local = LocalStore(f"{parent}/objects")
    local.put(NAME, b"x")

    assert local.get(NAME) == b"x"
    local.close()


def test_files_and_directories_are_for_their_owner_only(local):
    old = os.umask(0)
    try:
        local.put(NAME, b"x")
    finally:
        os.umask(old)

    for path in (Path(local.directory), *Path(local.directory).rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_half_written_files_are_removed_when_a_writer_opens_and_only_then(tmp_path):
    LocalStore(tmp_path / "objects").close()
    left = tmp_path / "objects" / "tmp" / "left-over"
    left.write_bytes(b"half")

    LocalStore(tmp_path / "objects", writable=False).close()
    assert left.exists()
    LocalStore(tmp_path / "objects").close()
    assert not left.exists()


def test_a_file_where_the_directory_should_be_is_refused(tmp_path):
    (tmp_path / "objects").write_bytes(b"")

    for writable in (True, False):
        with pytest.raises(BankPathError, match="cannot hold objects"):
            LocalStore(tmp_path / "objects", writable=writable)


def test_a_missing_directory_is_no_store_for_a_reader(tmp_path):
    with pytest.raises(BankPathError, match="No such file"):
        LocalStore(tmp_path / "objects", writable=False)
    assert not (tmp_path / "objects").exists()


def test_no_link_below_the_directory_is_followed(local, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    local.put(NAME, b"x")
    path = path_of(local, NAME)
    path.unlink()
    path.symlink_to(outside / "file")

    with pytest.raises(StoreError):
        local.get(NAME)
    assert list(local.list()) == []

    local.put(NAME, b"mine")  # replaces the link itself
    assert (outside / "file").read_bytes() == b"precious"
    assert local.get(NAME) == b"mine"

    fan = path.parent
    path.unlink()
    fan.rmdir()
    fan.symlink_to(outside)
    for use in (local.get, local.delete, lambda name: local.put(name, b"")):
        with pytest.raises(StoreError):
            use(NAME)
    assert [item.name for item in outside.iterdir()] == ["file"]


def test_a_fifo_under_an_objects_name_does_not_hang_the_reader(local):
    local.put(NAME, b"x")
    path = path_of(local, NAME)
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(StoreError, match="not a file"):
        local.get(NAME)


def test_files_that_are_no_objects_are_not_listed(local):
    local.put(NAME, b"x")
    fan = path_of(local, NAME).parent
    (fan / "NOTES.TXT").write_bytes(b"")
    (fan / "misplaced").write_bytes(b"")
    (Path(local.directory) / "lost+found").mkdir()
    (Path(local.directory) / "no").write_bytes(b"")

    assert [name for name, _ in local.list()] == [NAME]


def test_a_closed_store_says_so(tmp_path):
    store = LocalStore(tmp_path / "objects")
    store.close()
    store.close()

    with pytest.raises(StoreError):
        store.put(NAME, b"")
    with pytest.raises(StoreError):
        store.get(NAME)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = LocalStore(mount / "objects")
        store.put("before", b"x" * 1000)
        with pytest.raises(BankFullError, match="free some space"):
            store.put("large", b"x" * (2 << 20))

        assert [name for name, _ in store.list()] == ["before"]
        assert not any((mount / "objects" / "tmp").iterdir())
        store.put("after", b"y" * 1000)
        store.close()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


# URLs


def test_a_url_or_a_path_opens_its_store(tmp_path):
    for url in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.directory == str(tmp_path / "a b")
        store.close()
    assert isinstance(open_store("memory://"), MemoryStore)


def test_an_unknown_scheme_is_refused_with_those_that_are_known():
    with pytest.raises(BankPathError, match=r"no object store handles floppy://.*file.*memory.*s3"):
        open_store("floppy://a")


def test_a_file_url_of_another_host_is_refused():
    with pytest.raises(BankPathError, match="names no local directory"):
        open_store("file://elsewhere/objects")


def test_a_cloud_url_opens_obstore(monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_REGION", "us-east-1")

    store = open_store("s3://bucket/folder")
    assert isinstance(store, RemoteStore)
    store.close()


def test_without_obstore_a_cloud_url_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)

    with pytest.raises(StoreError, match=r"pip install karbor_actors\[objectstore\]"):
        open_store("s3://bucket/folder")


def test_other_distributions_add_schemes(tmp_path, monkeypatch):
    info = tmp_path / "stores-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: stores\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[karbor_actors.object_stores]\nplain=their_store:make\nbroken=their_store:nothing\n"
    )
    (tmp_path / "their_store.py").write_text("def make(url, *, writable): return (url, writable)")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert open_store("plain://x", writable=False) == ("plain://x", False)
    with pytest.raises(StoreError, match="cannot be loaded"):
        open_store("broken://x")


@given(st.text())
def test_a_name_is_accepted_or_refused_with_a_value_error(text):
    try:
        assert check_name(text) == text
    except ValueError:
        return
    assert not text.startswith("/")
    assert ".." not in text
