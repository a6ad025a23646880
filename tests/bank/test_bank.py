"""The bank as its users see it: opening, listing, looking up, checking, backing up."""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from banks import SERVER, make_graph
from helpers import DEADLINE, open_files
from karbor_actors.bank.bank import Bank
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import (
    AmbiguousCheckpointError,
    BankClosedError,
    BankFormatError,
    BankLeaseError,
    BankPathError,
    BankReadonlyError,
    CheckpointNotFoundError,
)
from karbor_actors.model import CheckpointStatus
from karbor_actors.store import MemoryStore

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def create(bank, plan="nightly", provider="local", hours=0, **kwargs):
    created_at = NOON + timedelta(hours=hours)
    return bank.create_checkpoint(
        {"name": plan}, provider, make_graph(), created_at=created_at, **kwargs
    )


# Opening and closing


def test_a_bank_is_made_where_there_is_none(tmp_path):
    with Bank.open(tmp_path / "some" / "where") as bank:
        assert bank.directory == str(tmp_path / "some" / "where")
        assert bank.is_writable
        assert bank.is_open
    assert not bank.is_open


def test_without_create_a_missing_bank_is_refused_and_nothing_made(tmp_path):
    for directory in (tmp_path / "none", tmp_path):
        with pytest.raises(BankPathError, match="no bank"):
            Bank.open(directory, create=False)
        with pytest.raises(BankPathError, match="no bank"):
            Bank.open(directory, readonly=True)
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "bank.lmdb").exists()


def test_a_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")

    for directory in (tmp_path / "file", tmp_path / "file" / "bank"):
        with pytest.raises(BankPathError):
            Bank.open(directory)


def test_opening_fails_with_nothing_left_open(tmp_path):
    with Bank.open(tmp_path):
        pass
    (tmp_path / "bank.lmdb" / "data.mdb").write_bytes(b"rubbish" * 3000)
    files, threads = open_files(), set(threading.enumerate())
    with pytest.raises(BankFormatError):
        Bank.open(tmp_path)
    with pytest.raises(BankPathError):
        Bank.open(tmp_path / "other", objects="nosuchscheme://place")

    assert open_files() == files
    assert set(threading.enumerate()) == threads


def test_closing_is_idempotent_and_what_comes_later_is_told(tmp_path):
    bank = Bank.open(tmp_path)
    checkpoint = create(bank)
    bank.close()
    bank.close()

    for call in (
        bank.checkpoints,
        bank.info,
        bank.check,
        bank.compact,
        lambda: bank.checkpoint(checkpoint.id),
        lambda: create(bank),
        lambda: checkpoint.hold("x"),
        lambda: checkpoint.resource_graph,
    ):
        with pytest.raises(BankClosedError):
            call()


def test_a_reader_refuses_every_write(bank, checkpoint, tmp_path):
    with Bank.open(bank.directory, readonly=True) as reader:
        found = reader.checkpoint(checkpoint.id)
        for call in (
            lambda: create(reader),
            lambda: found.hold("x"),
            lambda: found.set_status("error", expected={"protecting"}),
            lambda: (
                found.view(is_writable=True).get_resource_bank_section(SERVER).update_object("a", 1)
            ),
            reader.compact,
        ):
            with pytest.raises(BankReadonlyError):
                call()
        assert not reader.is_writable


def test_a_reader_sees_what_the_owner_writes(bank):
    with Bank.open(bank.directory, readonly=True) as reader:
        assert reader.checkpoints() == []
        made = create(bank)
        section = made.get_resource_bank_section(SERVER)
        section.write_stream("disk", io.BytesIO(b"data"))

        found = reader.checkpoint(made.id).get_resource_bank_section(SERVER)
        assert found.open_stream("disk").read() == b"data"
        assert reader.check(deep=True) == []


def test_bulk_data_goes_where_it_is_told(tmp_path):
    store = MemoryStore()
    with Bank.open(tmp_path, objects=store) as bank:
        section = create(bank).get_resource_bank_section(SERVER)
        section.write_stream("disk", io.BytesIO(b"data"))
        assert list(store.list())
        assert section.open_stream("disk").read() == b"data"
    assert not (tmp_path / "objects").exists()

    place = (tmp_path / "elsewhere").as_uri()
    with Bank.open(tmp_path / "second", objects=place) as bank:
        create(bank).get_resource_bank_section(SERVER).write_stream("disk", io.BytesIO(b"data"))
    assert any((tmp_path / "elsewhere").iterdir())


def test_the_directories_are_for_their_owner_only(bank, tmp_path):
    assert (tmp_path / "bank").stat().st_mode & 0o777 == 0o700


# Listing and looking up


def test_checkpoints_are_listed_newest_first(bank):
    made = [create(bank, hours=hours) for hours in (3, 1, 2, 1)]

    listed = bank.checkpoints()
    assert [checkpoint.id for checkpoint in listed] == [
        made[number].id
        for number in (0, 2, 3, 1)  # of one moment, the later made comes first
    ]
    assert bank.checkpoints(limit=2) == listed[:2]
    assert bank.checkpoints(limit=0) == []


def test_checkpoints_are_found_by_plan_provider_and_status(bank):
    nightly, weekly = create(bank), create(bank, "weekly", "offsite", 1)
    nightly.finish("available")

    assert bank.checkpoints(plan="nightly") == [nightly]
    assert bank.checkpoints(provider="offsite") == [weekly]
    assert bank.checkpoints(plan="weekly", provider="local") == []
    assert bank.checkpoints(status="available") == [nightly]
    assert bank.checkpoints(status={"available", "protecting"}) == [weekly, nightly]
    assert bank.checkpoints(plan="night") == []


def test_checkpoints_are_found_by_date(bank):
    made = [create(bank, hours=hours) for hours in range(5)]
    one, three = NOON + timedelta(hours=1), NOON + timedelta(hours=3)

    assert bank.checkpoints(since=one, until=three) == [made[2], made[1]]
    assert bank.checkpoints(until=one) == [made[0]]
    assert bank.checkpoints(since=three.timestamp()) == [made[4], made[3]]
    assert bank.checkpoints(plan="nightly", since=three.replace(tzinfo=None), limit=1) == [made[4]]
    assert bank.checkpoints(since=three, until=one) == []


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "night\0ly", "\udcff\udc80", "é" * 4000, "p" + "\x00" * 16]
)
def test_plans_and_providers_may_have_any_name(bank, name):
    ordinary, odd = create(bank), create(bank, name, name, hours=1)

    assert bank.checkpoints(plan=name) == [odd]
    assert bank.checkpoints(provider=name) == [odd]
    assert bank.checkpoints(plan="nightly") == [ordinary]
    assert bank.check() == []


def test_a_checkpoint_is_found_by_the_beginning_of_its_id(bank):
    made = create(bank, checkpoint_id="abcd-1")
    create(bank, checkpoint_id="abcd-12")
    create(bank, checkpoint_id="abxx")

    assert bank.checkpoint("abcd-1") == made  # a whole id, though another begins so
    assert bank.checkpoint("abx").id == "abxx"
    with pytest.raises(AmbiguousCheckpointError, match="3 checkpoints"):
        bank.checkpoint("ab")


@pytest.mark.parametrize("wrong", ["", "zz", "\0", "\ud800", "x" * 5000])
def test_an_id_that_is_not_there_is_an_error(bank, checkpoint, wrong):
    with pytest.raises(CheckpointNotFoundError):
        bank.checkpoint(wrong)


@pytest.mark.crash_expected
def test_a_damaged_row_does_not_hide_the_others_from_a_listing(bank):
    made, other = create(bank), create(bank)
    key = made.number.to_bytes(8, "big") + b"\0"
    bank.writer.write(lambda transaction: transaction.put(Table.CHECKPOINTS, key, b"\xc1"))

    damaged = []
    assert bank.checkpoints(damaged=damaged) == [other]
    assert len(damaged) == 1


# Checking, compacting, backing up


def test_check_finds_indices_that_do_not_agree(bank):
    made = create(bank)
    with bank._environment.snapshot() as snapshot:
        entries = list(snapshot.scan(Table.INDICES))
    for key, value in entries:
        bank.writer.write(lambda transaction, k=key: transaction.delete(Table.INDICES, k))
        assert any("index" in finding for finding in bank.check()), key
        bank.writer.write(lambda transaction, k=key, v=value: transaction.put(Table.INDICES, k, v))
    assert bank.check() == []

    stray = b"d" + bytes(8) + (99).to_bytes(8, "big")
    bank.writer.write(lambda transaction: transaction.put(Table.INDICES, stray, b""))
    assert any("99" in finding for finding in bank.check())
    assert bank.checkpoints() == [made]


def test_check_finds_what_belongs_to_nothing(bank, checkpoint):
    bank.writer.write(lambda t: t.put(Table.OBJECTS, bytes(12) + b"stray", b"\xc0"))
    bank.writer.write(lambda t: t.put(Table.JOURNAL, bytes(16), b"\x80"))
    findings = "\n".join(bank.check())

    assert "stray" in findings
    assert "journal" in findings


def test_check_does_not_list_a_million_findings(bank):
    rows = [(n.to_bytes(8, "big") + bytes(4) + b"key", b"\xc0") for n in range(1200)]
    bank.writer.write(lambda transaction: transaction.put_many(Table.OBJECTS, rows))
    findings = bank.check()

    assert len(findings) == 1001
    assert "more" in findings[-1]


def test_check_finds_a_missing_and_a_changed_block(bank, section, tmp_path):
    section.write_stream("disk", io.BytesIO(b"data" * 100))
    (pack,) = [path for path in (tmp_path / "bank" / "objects").rglob("packs*") if path.is_file()]
    kept = pack.read_bytes()
    pack.write_bytes(b"X" + kept[1:])
    changed = bank.check(deep=True)
    pack.unlink()
    missing = bank.check()
    pack.write_bytes(kept)

    assert changed
    assert missing
    assert bank.check(deep=True) == []


def test_compacting_keeps_everything(bank, section):
    section.update_objects({str(number): bytes(1000) for number in range(1000)})
    section.write_stream("disk", io.BytesIO(b"data"))
    for key in section.list_objects()[:990]:
        section._parts.writer.submit(
            lambda transaction, key=key: transaction.delete(Table.OBJECTS, section._row(key)[0]),
            lambda value, error: None,
        )
    before = bank.info()["file_bytes"]
    bank.compact()

    assert bank.info()["file_bytes"] < before
    assert len(section.list_objects()) == 10
    assert section.open_stream("disk").read() == b"data"
    section.update_object("after", 1)
    assert bank.check(deep=True) == []


def test_a_backup_is_a_bank_of_the_same_objects(bank, section, tmp_path):
    section.update_object("key", "then")
    section.write_stream("disk", io.BytesIO(b"data"))
    bank.backup(tmp_path / "backup")
    section.update_object("key", "now")

    objects = str(tmp_path / "bank" / "objects")
    with Bank.open(tmp_path / "backup", objects=objects, readonly=True) as backup:
        found = backup.checkpoints()[0].get_resource_bank_section(SERVER)
        assert found.get_object("key") == "then"
        assert found.open_stream("disk").read() == b"data"
        assert backup.check(deep=True) == []
    with pytest.raises(BankPathError):
        bank.backup(tmp_path / "backup")


def test_info_says_what_is_there(bank, checkpoint, section):
    section.update_object("a", 1)
    info = bank.info()

    assert info["path"] == bank.directory
    assert (info["format"], info["epoch"], info["checkpoints"]) == (1, 1, 1)
    assert info["rows"]["objects"] == 1
    assert 0 < info["used_bytes"] <= info["map_size"]


# Many at once


def test_sixty_four_threads_use_one_bank_at_once(bank):
    start = threading.Barrier(64)

    def work(number):
        start.wait(DEADLINE)
        made = create(bank, plan=f"plan {number % 4}", hours=number)
        section = made.get_resource_bank_section(SERVER)
        for turn in range(4):
            section.update_object(f"key {turn}", number)
        section.write_stream("disk", io.BytesIO(b"%d" % number))
        made.finish("available")
        assert section.open_stream("disk").read() == b"%d" % number
        assert bank.checkpoint(made.id).status == "available"
        return made.id

    with ThreadPoolExecutor(64) as pool:
        made = [pool.submit(work, number) for number in range(64)]
        ids = [future.result(2 * DEADLINE) for future in made]

    assert [checkpoint.id for checkpoint in bank.checkpoints()] == ids[::-1]
    assert len(bank.checkpoints(plan="plan 3", status="available")) == 16
    assert bank.check(deep=True) == []


class BankMachine(RuleBasedStateMachine):
    """Whatever becomes of checkpoints, listings agree with a list of them."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.bank = Bank.open(self.folder)
        self.model = []
        """(created, number, id, plan, status), in the order they were made."""

    @rule(plan=st.sampled_from("pq"), hours=st.integers(0, 3))
    def create(self, plan, hours):
        made = create(self.bank, plan, hours=hours)
        self.model.append([hours, made.number, made.id, plan, "protecting"])

    @rule(data=st.data(), status=st.sampled_from(["available", "error"]))
    def finish(self, data, status):
        being_made = [entry for entry in self.model if entry[4] == "protecting"]
        if being_made:
            entry = data.draw(st.sampled_from(being_made))
            self.bank.checkpoint(entry[2]).finish(status)
            entry[4] = status

    @rule(data=st.data())
    def delete(self, data):
        finished = [entry for entry in self.model if entry[4] != "protecting"]
        if finished:
            entry = data.draw(st.sampled_from(finished))
            checkpoint = self.bank.checkpoint(entry[2])
            checkpoint.begin_delete()
            checkpoint.purge()
            self.model.remove(entry)

    @rule()
    def open_again(self):
        self.bank.close()
        self.bank = Bank.open(self.folder)

    @rule(
        plan=st.sampled_from([None, "p", "q", "r"]),
        status=st.sampled_from([None, "available", "error"]),
        since=st.none() | st.integers(0, 4),
        until=st.none() | st.integers(0, 4),
        limit=st.none() | st.integers(0, 3),
    )
    def list_them(self, plan, status, since, until, limit):
        expected = [
            entry[2]
            for entry in sorted(self.model, reverse=True)
            if plan in (None, entry[3])
            and status in (None, entry[4])
            and (since is None or entry[0] >= since)
            and (until is None or entry[0] < until)
        ]
        moments = [None if h is None else NOON + timedelta(hours=h) for h in (since, until)]

        found = self.bank.checkpoints(plan, status, *moments, limit)
        assert [checkpoint.id for checkpoint in found] == expected[:limit]

    @invariant()
    def is_sound(self):
        assert self.bank.check() == []

    def teardown(self):
        self.bank.close()
        shutil.rmtree(self.folder)


TestBankMachine = BankMachine.TestCase
TestBankMachine.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)


def test_a_directory_with_other_peoples_files_becomes_no_bank(tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(BankPathError, match="not empty and holds no bank"):
        Bank.open(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


LOST = {
    "all of them": lambda path: shutil.rmtree(path / "bank.lmdb"),
    "the data file": lambda path: (path / "bank.lmdb" / "data.mdb").unlink(),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
@pytest.mark.parametrize("beside", ["objects", "reserve"])
@pytest.mark.parametrize("how", [{}, {"create": False}, {"readonly": True}])
def test_no_new_bank_is_begun_over_one_whose_records_are_lost(tmp_path, lose, beside, how):
    path = tmp_path / "bank"
    with Bank.open(path) as bank:
        checkpoint = create(bank)
        checkpoint.get_resource_bank_section(SERVER).write_stream("s", io.BytesIO(b"x"))
        checkpoint.finish(CheckpointStatus.AVAILABLE)
    lose(path)
    if beside == "objects":
        (path / "reserve").unlink()
    else:
        shutil.rmtree(path / "objects")
    before = sorted(path.rglob("*"))

    with pytest.raises(BankPathError, match=r"missing; make them again with .* bank rebuild"):
        Bank.open(path, **how)

    assert sorted(path.rglob("*")) == before
    if beside == "objects":
        Bank.rebuild(path)
        with Bank.open(path) as bank:
            assert bank.checkpoint(checkpoint.id).status is CheckpointStatus.AVAILABLE


@pytest.mark.parametrize("left", [[], ["objects"], ["objects/tmp"], ["bank.lmdb.new-0123abcd"]])
def test_a_bank_that_was_killed_while_it_was_made_is_made_again(tmp_path, left):
    path = tmp_path / "bank"
    path.mkdir()
    (path / "lease").touch()
    for name in left:
        (path / name).mkdir(parents=True)

    with Bank.open(path) as bank:
        assert bank.check() == []


def test_a_bank_may_lie_at_any_path_that_there_can_be(tmp_path):
    directory = f"{tmp_path}/\udcff\n"
    with Bank.open(directory) as bank:
        made = create(bank)
        made.finish(CheckpointStatus.AVAILABLE)
        bank.compact()
        bank.backup(f"{directory}-backup")
        with pytest.raises(BankLeaseError, match=r"\udcff"):
            Bank.open(directory)
    shutil.copytree(f"{directory}/objects", f"{directory}-rebuilt/objects")
    Bank.rebuild(f"{directory}-rebuilt")

    for place in (directory, f"{directory}-backup", f"{directory}-rebuilt"):
        with Bank.open(place, objects=f"{directory}/objects", readonly=True) as bank:
            assert [found.id for found in bank.checkpoints()] == [made.id]
            assert not bank.check()
