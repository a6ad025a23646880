"""Manifests, and banks whose records are made again from them."""

from __future__ import annotations

import io
import os
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banks import SERVER, SHARED, VOLUME, make_graph
from karbor_actors.bank.bank import Bank
from karbor_actors.bank.checkpoints.resource_rows import (
    Consistency,
    ConsistencyLevel,
    Ending,
    KeptArtifact,
)
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.manifests import manifest
from karbor_actors.bank.manifests import records as manifest_records
from karbor_actors.bank.manifests.listing import find_listed
from karbor_actors.errors import (
    BankError,
    BankFormatError,
    BankPathError,
    CheckpointStateError,
    StoreError,
)
from karbor_actors.model import CheckpointStatus
from karbor_actors.store import MemoryStore

PLAN = {"name": "nightly", "provider": "local", "odd": "\udcff", "list": [1, 2.5, None, b"x"]}
RESOURCES = (SERVER, VOLUME, SHARED)
MIB = 1 << 20


class Store(MemoryStore):
    """A store in memory that can lose its power at any call, and have it back."""

    def __init__(self):
        super().__init__()
        self.calls, self.left = 0, None

    def _use(self):
        self.calls += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise StoreError("the power was cut")

    def put(self, name, data):
        self._use()
        super().put(name, data)

    def get(self, name, start=0, length=None):
        self._use()
        return super().get(name, start, length)

    def size(self, name):
        self._use()
        return super().size(name)

    def delete(self, name):
        self._use()
        super().delete(name)

    def list(self, folder=""):
        self._use()
        return super().list(folder)

    def names(self, folder):
        return sorted(name for name, _ in MemoryStore.list(self, folder))


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bank"


def protect(bank, contents, status="available", **ending):
    """Make a checkpoint of *contents*: by resource, (objects, streams)."""
    checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
    for resource, (objects, streams) in contents.items():
        section = checkpoint.get_resource_bank_section(resource)
        section.update_objects(objects)
        with section.stream_writer() as writer:
            for key, data in streams.items():
                writer.add(key, io.BytesIO(data))
    checkpoint.finish(status, Ending(**ending))
    return checkpoint


def picture(bank):
    """Return all that can be seen of a bank's checkpoints, but those that were being made."""
    found = {}
    for checkpoint in bank.checkpoints():
        sections = {}
        for resource in checkpoint.resource_graph.nodes:
            section = checkpoint.get_resource_bank_section(resource)
            objects = {key: section.get_object(key) for key in section.list_objects()}
            streams = {}
            for info in section.list_streams():
                with section.open_stream(info.key) as stream:
                    streams[info.key] = info.stored_at, info.new_bytes, stream.read()
            beside = checkpoint.consistency(resource), checkpoint.artifacts(resource)
            sections[resource.key] = objects, streams, *beside
        facts = checkpoint.to_dict(), checkpoint.resource_statuses(), checkpoint.error_info
        found[checkpoint.id] = *facts, checkpoint.resource_graph.pack(), sections
    return found


def lose(path):
    shutil.rmtree(path / "bank.lmdb")


def some_contents(seed=0):
    blob = os.urandom(3000)
    return {
        SERVER: ({"a": 1, "deep/er": [b"x", "\udcff"]}, {"s1": blob, "sub/s2": b"x" * 5000}),
        VOLUME: ({}, {"disk": bytes(MIB) + blob + bytes([seed]) * MIB, "empty": b""}),
    }


def test_all_that_a_bank_held_is_there_again(path, store):
    with Bank.open(path, objects=store) as bank:
        protect(
            bank,
            some_contents(),
            empty=[2],
            artifacts={1: [KeptArtifact("snapshot", "of one", {"id": b"\xff"})]},
            consistency={0: Consistency(ConsistencyLevel.FILESYSTEM, "frozen")},
            point_in_time=bank.create_checkpoint(PLAN, "local", make_graph()).created_at,
        )
        protect(bank, some_contents(1), "partial", error_info=[{"message": "half"}])
        made = {c.id for c in bank.checkpoints(status={"available", "partial"})}
        before = {key: value for key, value in picture(bank).items() if key in made}
    lose(path)

    report = Bank.rebuild(path, objects=store)

    assert (report.checkpoints, report.damaged, report.moved_to) == (2, {}, None)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before
        assert bank.check(deep=True) == []
        assert len(bank.checkpoints(plan="nightly")) == 2
        again = protect(bank, some_contents(2))
        assert bank.check(deep=True) == []
        for checkpoint in bank.checkpoints():
            checkpoint.begin_delete()
            checkpoint.purge()
        assert again.refresh is not None
        assert bank.check(deep=True) == []
    assert store.names("packs") == []
    assert store.names("checkpoints") == []


def test_a_manifest_of_many_objects_is_read_back(path, store, monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK", 700)
    with Bank.open(path, objects=store) as bank:
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
        section = checkpoint.get_resource_bank_section(SERVER)
        section.update_objects({f"o{n}": "x" * n for n in range(100)})
        with section.stream_writer() as writer:
            for n in range(200):
                writer.add(f"s{n}", io.BytesIO(os.urandom(10)))
            writer.add("big", io.BytesIO(bytes(range(256)) * 4096 * 70))
        checkpoint.finish("available")
        before = picture(bank)
        assert len(store.names("checkpoints")) > 10
        assert bank.check(deep=True) == []
    lose(path)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before
        assert bank.check(deep=True) == []
        bank.checkpoint(checkpoint.id).begin_delete()
        bank.checkpoint(checkpoint.id).purge()
    assert store.names("") == []


def test_holds_and_the_beginning_of_a_delete_are_in_the_manifest(path, store):
    with Bank.open(path, objects=store) as bank:
        held = protect(bank, some_contents())
        held.hold("legal")
        held.hold("audit")
        held.release_hold("audit")
        leaving = protect(bank, some_contents())
        leaving.begin_delete()
        assert bank.check(deep=True) == []
    lose(path)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        with pytest.raises(CheckpointStateError, match="legal"):
            bank.checkpoint(held.id).begin_delete()
        found = bank.checkpoint(leaving.id)
        assert found.status is CheckpointStatus.ERROR_DELETING
        found.begin_delete()
        found.purge()
        assert bank.check(deep=True) == []


def test_an_odd_id_names_a_manifest_too(path, store):
    odd = "A/../\udcff ä" * 9
    with Bank.open(path, objects=store) as bank:
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph(), checkpoint_id=odd)
        checkpoint.finish("available")
        assert bank.check(deep=True) == []
    lose(path)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert [found.id for found in bank.checkpoints()] == [odd]
        assert bank.check(deep=True) == []


def test_what_was_being_made_is_gone_and_its_blocks_are_freed(path, store):
    with Bank.open(path, objects=store) as bank:
        unfinished = bank.create_checkpoint(PLAN, "local", make_graph())
        section = unfinished.get_resource_bank_section(SERVER)
        section.write_stream("s", io.BytesIO(os.urandom(5000)))
        protect(bank, some_contents())
        packs = len(store.names("packs"))
    lose(path)
    report = Bank.rebuild(path, objects=store)

    assert report.packs_freed == 1
    assert len(store.names("packs")) == packs - 1
    with Bank.open(path, objects=store) as bank:
        assert bank.check(deep=True) == []
        assert len(bank.checkpoints()) == 1


# What is missing


def lost_and_rebuilt(path, store, checkpoint_id):
    lose(path)
    report = Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        found = bank.checkpoint(checkpoint_id)
        assert found.status is CheckpointStatus.ERROR
        assert report.damaged[found.id] in found.error_info[-1]["message"]
        return report, found.error_info[-1]["message"], picture(bank)


def test_a_missing_pack_makes_its_checkpoints_errors_until_it_is_found(path, store):
    with Bank.open(path, objects=store) as bank:
        good = protect(bank, {SERVER: ({}, {"s": b"kept"})})
        bad = protect(bank, {SERVER: ({"o": 1}, {"s": b"kept", "t": b"lost"}), VOLUME: ({}, {})})
        before = picture(bank)
    pack = store.names("packs")[-1]
    data = store.get(pack)
    store.delete(pack)

    report, message, after = lost_and_rebuilt(path, store, bad.id)

    assert report.checkpoints == 1
    assert "stream 't' of OS::Nova::Server#s1 lacks 1 of 1 blocks" in message
    assert after[good.id] == before[good.id]
    assert after[bad.id][4][SERVER.key][0] == {"o": 1}
    assert list(after[bad.id][4][SERVER.key][1]) == ["s"]
    with Bank.open(path, objects=store) as bank:
        assert bank.check(deep=True) == []
    store.put(pack, data)
    lose(path)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before


def test_nothing_is_freed_while_a_manifest_is_damaged(path, store):
    with Bank.open(path, objects=store) as bank:
        checkpoint = protect(bank, some_contents())
        before, packs = picture(bank), store.names("packs")
    [head] = store.names("checkpoints")
    data = store.get(head)
    store.put(head, data[:-60] + bytes(60))

    _, message, _ = lost_and_rebuilt(path, store, checkpoint.id)

    assert "its manifest is lost" in message
    assert store.names("packs") == packs
    store.put(head, data)
    lose(path)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before
        assert bank.check(deep=True) == []


def test_what_a_damaged_manifest_left_can_be_deleted_and_freed(path, store):
    with Bank.open(path, objects=store) as bank:
        checkpoint = protect(bank, some_contents())
    [head] = store.names("checkpoints")
    store.put(head, b"")
    lost_and_rebuilt(path, store, checkpoint.id)
    with Bank.open(path, objects=store) as bank:
        assert bank.check() != []
        bank.compact()
        assert bank.check(deep=True) == []
        found = bank.checkpoint(checkpoint.id)
        found.begin_delete()
        found.purge()
        assert bank.check(deep=True) == []
    assert store.names("") == []


def test_any_lost_or_damaged_object_of_a_manifest_is_noticed(path, store, monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK", 100)
    with Bank.open(path, objects=store) as bank:
        checkpoint = protect(bank, some_contents())
    names = store.names("checkpoints")
    assert len(names) > 3
    for name in names:
        data = store.get(name)
        for bad in (None, data[:-1], data[:50], bytes([data[0] ^ 1]) + data[1:], data + b"x"):
            if bad is None:
                store.delete(name)
            else:
                store.put(name, bad)
            _, message, _ = lost_and_rebuilt(path, store, checkpoint.id)
            assert name.rpartition("/")[2] in message
            store.put(name, data)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(1, 255)), max_size=4), st.data())
def test_forged_manifests_break_nothing(tmp_path_factory, flips, data):
    """What an attacker seals himself has fitting digests."""
    path, store = tmp_path_factory.mktemp("forged") / "bank", Store()
    with Bank.open(path, objects=store) as bank:
        checkpoint = protect(bank, some_contents())
    [name] = store.names("checkpoints")
    raw = bytearray(manifest.unseal(store.get(name), name))
    for at, change in flips:
        raw[at % len(raw)] ^= change
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]
    store.put(name, manifest.seal(bytes(raw))[0])
    lose(path)
    report = Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert len(bank.checkpoints()) == 1
        if not report.damaged:
            assert not [line for line in bank.check() if "manifest" not in line]
            picture(bank)
        else:
            assert bank.checkpoint(next(iter(report.damaged))).status == "error"
    assert checkpoint.id


# Refusals


def test_whole_records_are_not_replaced(path, store):
    with Bank.open(path, objects=store) as bank:
        protect(bank, some_contents())
        with pytest.raises(BankError, match="in use"):
            Bank.rebuild(path, objects=store)
        before = picture(bank)
    with pytest.raises(BankPathError, match="are whole"):
        Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before


@pytest.mark.parametrize("damage", ["junk", "cut", "empty", "page"])
def test_damaged_records_are_moved_aside(path, store, damage):
    with Bank.open(path, objects=store) as bank:
        protect(bank, some_contents())
        before = picture(bank)
    file = path / "bank.lmdb" / "data.mdb"
    whole = file.read_bytes()
    at = whole.rindex(PLAN["name"].encode())
    bad = {
        "junk": b"junk" * 5000,
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "page": whole[: at - 100] + bytes(4096) + whole[at + 3996 :],
    }[damage]
    file.write_bytes(bad)

    report = Bank.rebuild(path, objects=store)

    with open(os.path.join(report.moved_to, "data.mdb"), "rb") as kept:
        assert kept.read()[: len(bad)] == bad
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before
        assert bank.check(deep=True) == []


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_damaged_in_the_records_they_are_whole_or_made_again(path, store, seed):
    with Bank.open(path, objects=store) as bank:
        protect(bank, some_contents())
        before = picture(bank)
    file, rng = path / "bank.lmdb" / "data.mdb", random.Random(seed)
    damaged = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 5, 50])):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    file.write_bytes(damaged)

    try:
        Bank.rebuild(path, objects=store)
    except BankPathError as error:
        assert "are whole" in str(error)  # noqa: PT017 - or it is rebuilt
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before
        assert bank.check(deep=True) == []


def test_records_that_claim_more_pages_than_can_be_are_made_again(path, store):
    with Bank.open(path, objects=store) as bank:
        protect(bank, some_contents())
        before = picture(bank)
    file = path / "bank.lmdb" / "data.mdb"
    damaged, page = bytearray(file.read_bytes()), 4096
    for meta in range(2):  # the last page's number, in both of the heads
        at = meta * page + 16 + 24 + 2 * 48
        damaged[at : at + 8] = (1 << 40).to_bytes(8, "little")
    file.write_bytes(damaged)

    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before


def test_of_several_banks_in_a_store_one_must_be_named(tmp_path, store):
    ids = []
    for name in "ab":
        with Bank.open(tmp_path / name, objects=store) as bank:
            ids.append(protect(bank, some_contents()).id)
    lose(tmp_path / "a")
    with pytest.raises(BankPathError, match=r"several banks: .*say which with --bank-id") as caught:
        Bank.rebuild(tmp_path / "a", objects=store)
    for bank_id in str(caught.value).split(": ")[1].split("; ")[0].split(", "):
        shutil.rmtree(tmp_path / "a")
        assert Bank.rebuild(tmp_path / "a", objects=store, bank_id=bank_id).checkpoints == 1
        with Bank.open(tmp_path / "a", objects=store) as bank:
            ids.remove(bank.checkpoints()[0].id)
    assert ids == []
    with pytest.raises(BankPathError, match="nothing"):
        Bank.rebuild(tmp_path / "c", objects=MemoryStore())


def test_an_unreadable_head_of_a_newer_format_is_refused(path, store):
    with Bank.open(path, objects=store) as bank:
        protect(bank, {})
    [head] = store.names("checkpoints")
    data = store.get(head)
    with pytest.raises(BankFormatError, match="format 9"):
        manifest.unseal(data[:-1] + b"\x09", head)


# Killed at any point


def test_a_rebuild_that_is_killed_is_done_again(path, store):
    with Bank.open(path, objects=store) as bank:
        section = bank.create_checkpoint(PLAN, "local", make_graph())
        section.get_resource_bank_section(SERVER).write_stream("s", io.BytesIO(b"unfinished"))
        protect(bank, some_contents())
        protect(bank, some_contents(1), "partial")
        before = {c.id for c in bank.checkpoints() if c.status != "protecting"}
        picture_before = {k: v for k, v in picture(bank).items() if k in before}
    objects = dict(store._objects)
    cut = 0
    while True:
        store._objects, store.calls, store.left = dict(objects), 0, cut
        shutil.rmtree(path)
        try:
            Bank.rebuild(path, objects=store)
            is_done = store.calls <= cut
        except StoreError:
            is_done = False
            assert not (path / "bank.lmdb").exists()
            store.left = None
            Bank.rebuild(path, objects=store)
        store.left = None
        with Bank.open(path, objects=store) as bank:
            assert picture(bank) == picture_before
            assert bank.check(deep=True) == []
        if is_done:
            break
        cut += 1
    assert cut > 10


@pytest.mark.parametrize("step", ["rename of the old", "rename of the new"])
def test_killed_between_the_renames_nothing_is_lost(path, store, monkeypatch, step):
    with Bank.open(path, objects=store) as bank:
        protect(bank, some_contents())
        before = picture(bank)
    file = path / "bank.lmdb" / "data.mdb"
    file.write_bytes(file.read_bytes()[:5000])
    real, done = os.rename, []

    def rename(old, new, **kwargs):
        if "bank.lmdb" in str(new) and str(old).count(".new-") < 2 and not kwargs:
            done.append(new)
            if len(done) == ["rename of the old", "rename of the new"].index(step) + 1:
                raise KeyboardInterrupt
        real(old, new, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            Bank.rebuild(path, objects=store)
    with pytest.raises(BankFormatError):
        Bank.open(path, objects=store)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert picture(bank) == before


def killed_at_each_call(path, store, act, settle=None):
    """Yield after each way in which the power can go while *act* runs on a bank with a checkpoint.

    Yields whether *act* had ended well.
    """
    cut = 0
    while True:
        shutil.rmtree(path, ignore_errors=True)
        store._objects, store.left = {}, None
        with Bank.open(path, objects=store) as bank:
            store.calls = 0
            act_on = settle(bank) if settle else None
            store.calls, store.left = 0, cut
            try:
                act(bank, act_on)
                ended = True
            except StoreError:
                ended = False
            is_over = store.calls <= cut
        store.left = None
        yield ended
        if is_over:
            return
        cut += 1


@pytest.mark.parametrize("chunk", [100, manifest.CHUNK], ids=["many objects", "a head alone"])
def test_a_protect_killed_at_any_call_leaves_no_manifest_unaccounted_for(
    path, store, monkeypatch, chunk
):
    monkeypatch.setattr(manifest, "CHUNK", chunk)
    contents = some_contents()

    def begin(bank):
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
        for resource, (objects, streams) in contents.items():
            section = checkpoint.get_resource_bank_section(resource)
            section.update_objects(objects)
            for key, data in streams.items():
                section.write_stream(key, io.BytesIO(data))
        return checkpoint

    outcomes = set()
    for ended in killed_at_each_call(
        path, store, lambda _, checkpoint: checkpoint.finish("available"), begin
    ):
        outcomes.add(ended)
        objects = dict(store._objects)
        with Bank.open(path, objects=store) as bank:
            [checkpoint] = bank.checkpoints()
            assert checkpoint.status == ("available" if ended else "protecting")
            assert bank.check(deep=True) == []
            assert bool(store.names("checkpoints")) == ended
            if not ended:
                checkpoint.view(is_writable=True).finish("available")
                assert bank.check(deep=True) == []
        store._objects = objects
        lose(path)
        Bank.rebuild(path, objects=store)
        with Bank.open(path, objects=store) as bank:
            found = [checkpoint.status for checkpoint in bank.checkpoints()]
            assert found == ["available"] if ended else found in ([], ["error"])
    assert outcomes == {True, False}


def test_a_protect_that_ends_badly_removes_what_was_written(path, store):
    with Bank.open(path, objects=store) as bank:
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
        expected = {CheckpointStatus.PROTECTING}
        checkpoint.finish_change(CheckpointStatus.AVAILABLE, expected=expected)
        assert store.names("checkpoints") != []
        bank.compact()
        assert store.names("checkpoints") != [], "its protect may still commit"
        checkpoint.finish("error")
        assert store.names("checkpoints") == []
        assert bank.check(deep=True) == []


def count_commits(monkeypatch):
    """Return a list that grows by one for each transaction that is committed."""
    commits = []
    commit_group = Environment.commit_group

    def counting(self, changes):
        commits.append(len(changes))
        return commit_group(self, changes)

    monkeypatch.setattr(Environment, "commit_group", counting)
    return commits


def test_a_checkpoint_costs_two_transactions_and_its_manifest_one_object(path, store, monkeypatch):
    with Bank.open(path, objects=store) as bank:
        commits = count_commits(monkeypatch)
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
        checkpoint.finish("available")
        assert commits == [1, 1]
        assert len(store.names("checkpoints")) == 1
        failed = bank.create_checkpoint(PLAN, "local", make_graph())
        failed.finish("error")
        assert commits == [1, 1, 1, 1]


def test_opening_a_bank_commits_nothing_for_checkpoints_that_are_being_made(
    path, store, monkeypatch
):
    with Bank.open(path, objects=store):
        pass
    commits = count_commits(monkeypatch)
    with Bank.open(path, objects=store) as bank:
        none = len(commits)
        unfinished = [bank.create_checkpoint(PLAN, "local", make_graph()).id for _ in range(3)]
    commits.clear()
    with Bank.open(path, objects=store) as bank:
        assert len(commits) == none
        for checkpoint_id in unfinished:
            bank.checkpoint(checkpoint_id).view(is_writable=True).finish("available")
        assert bank.check(deep=True) == []


def test_an_object_beside_the_head_is_announced_durably_before_it_is_put(path, store, monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK", 100)
    with Bank.open(path, objects=store) as bank:
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
        seen, put = [], store.put

        def looking(name, data):
            with bank._environment.snapshot() as snapshot:
                seen.append(find_listed(snapshot, checkpoint.number).has_chunks)
            put(name, data)

        monkeypatch.setattr(store, "put", looking)
        checkpoint.finish("available")

    assert len(seen) > 1
    assert all(seen)


def test_a_hold_that_comes_while_a_protect_ends_is_kept(path, store):
    with Bank.open(path, objects=store) as bank:
        checkpoint = bank.create_checkpoint(PLAN, "local", make_graph())
        expected = {CheckpointStatus.PROTECTING}
        change = checkpoint.finish_change(CheckpointStatus.AVAILABLE, expected=expected)
        checkpoint.hold("legal")
        bank.writer.write(change)
    with Bank.open(path, objects=store) as bank:
        assert bank.check(deep=True) == []
    lose(path)
    Bank.rebuild(path, objects=store)
    with Bank.open(path, objects=store) as bank:
        assert bank.checkpoint(checkpoint.id).holds == ("legal",)


def test_a_delete_killed_at_any_call_is_never_taken_for_a_good_checkpoint(path, store, monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK", 100)

    def delete(_, checkpoint):
        checkpoint.begin_delete()
        checkpoint.purge()

    for ended in killed_at_each_call(
        path, store, delete, lambda bank: protect(bank, some_contents())
    ):
        objects = dict(store._objects)
        with Bank.open(path, objects=store) as bank:
            assert bank.check(deep=True) == []
            for checkpoint in bank.checkpoints():
                assert checkpoint.status == "deleting"
                checkpoint.purge()
            assert bank.check(deep=True) == []
            assert store.names("") == []
        if ended:
            continue
        store._objects = objects
        lose(path)
        try:
            Bank.rebuild(path, objects=store)
        except BankPathError:
            continue  # nothing is left at all
        with Bank.open(path, objects=store) as bank:
            for checkpoint in bank.checkpoints():
                # Before the first call that changes anything, the manifest says what it was.
                assert checkpoint.status in ("error_deleting", "error", "available")


def test_compact_writes_what_is_missing_or_does_not_fit(path, store):
    with Bank.open(path, objects=store) as bank:
        ids = [protect(bank, some_contents(n)).id for n in range(3)]
        heads = store.names("checkpoints")
        store.delete(heads[0])
        store.put(heads[1], store.get(heads[2]))
        stray = f"{heads[0].rsplit('/', 2)[0]}/stray/head"
        store.put(stray, b"?")

        assert len(bank.check()) == 2
        assert len(bank.check(deep=True)) == 3

        bank.compact()
        assert bank.check(deep=True) == [f"object {stray} belongs to no checkpoint"]
        assert len(ids) == 3


# Any bank

KEYS = st.sampled_from(["a", "b", "sub/a", "\udcff", "long/" + "x" * 600])
DATA = st.sampled_from(
    [b"", b"a", b"b" * 3000, bytes(MIB + 5), b"c" * (MIB + 1), b"a" + bytes(MIB)]
)
SECTION = st.tuples(
    st.dictionaries(KEYS, st.integers(-(2**63), 2**64 - 1) | st.text("ab")),
    st.dictionaries(KEYS, DATA),
)
CHECKPOINT = st.tuples(
    st.dictionaries(st.sampled_from(RESOURCES), SECTION),
    st.sampled_from(["available", "partial", "error", "protecting"]),
    st.sampled_from(["keep", "delete", "delete half", "hold", "reuse"]),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
@given(
    made=st.lists(CHECKPOINT, max_size=5),
    chunk=st.sampled_from([100, 1000, 4 << 20]),
    rows_at_once=st.sampled_from([1, 3, 1000]),
    loss=st.sampled_from(["all", "cut"]),
    compacts=st.booleans(),
)
def test_any_bank_comes_back_as_it_was(tmp_path_factory, made, chunk, rows_at_once, loss, compacts):
    path, store = tmp_path_factory.mktemp("any") / "bank", Store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "CHUNK", chunk)
        patch.setattr(manifest_records, "_BATCH_ROWS", rows_at_once)
        with Bank.open(path, objects=store) as bank:
            for contents, status, then in made:
                make(bank, contents, status, then)
            if compacts:
                bank.compact()
            assert bank.check(deep=True) == []
            before = picture(bank)
    if loss == "all":
        lose(path)
    else:
        file = path / "bank.lmdb" / "data.mdb"
        file.write_bytes(file.read_bytes()[:9000])
    if not store.names(""):
        with pytest.raises(BankPathError):
            Bank.rebuild(path, objects=store)
        return
    report = Bank.rebuild(path, objects=store)
    gone = {"protecting", "error"}
    expected = {key: value for key, value in before.items() if value[0]["status"] not in gone}
    for value in expected.values():
        if value[0]["status"] == "deleting":
            value[0]["status"] = "error_deleting"
    assert report.damaged == {}
    with Bank.open(path, objects=store) as bank:
        assert bank.check(deep=True) == []
        assert picture(bank) == expected
    assert report.checkpoints == len(expected)


def make(bank, contents, status, then):
    if status == "protecting":
        bank.create_checkpoint(PLAN, "local", make_graph())
        return
    checkpoint = protect(bank, contents, status)
    if status == "error":
        return  # it has no manifest, and does not come back whatever becomes of it
    if then == "hold":
        checkpoint.hold("why")
    elif then == "reuse":
        again = bank.create_checkpoint(PLAN, "local", make_graph())
        for resource in contents:
            source = checkpoint.get_resource_bank_section(resource)
            source.copy_to(again.get_resource_bank_section(resource))
        again.finish("available")
    elif then.startswith("delete"):
        checkpoint.begin_delete()
        if then == "delete":
            checkpoint.purge()
