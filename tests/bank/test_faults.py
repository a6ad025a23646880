"""What fails around a bank: the disk is full or read-only, calls fail, the process is killed."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banks import SERVER, VOLUME, make_graph
from helpers import fill, mounted
from karbor_actors.bank.bank import Bank
from karbor_actors.bank.checkpoints.resource_rows import Ending
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.database.mapping import MappedFile
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.journal.journal import OperationRecord
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import (
    BankBrokenError,
    BankClosedError,
    BankError,
    BankFullError,
    BankPathError,
    BankReadonlyError,
    CheckpointNotFoundError,
    KarborError,
    ObjectNotFoundError,
    OperationNotFoundError,
)
from karbor_actors.model import OperationStatus, OperationType


def run_script(script, *args, **kwargs):
    """Start *script* in a fresh Python; it can import what the tests can."""
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB of its own."""
    with mounted(tmp_path / "disk", "4m"):
        yield tmp_path / "disk"


def write_until_full(section, written):
    """Write objects until there is no space; *written* takes those that were acknowledged."""
    while True:
        key = f"object {len(written)}"
        section.update_object(key, os.urandom(20_000))
        written.append(key)


def test_on_a_full_disk_nothing_that_was_acknowledged_is_lost(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    written = []
    with Bank.open(small_disk / "bank") as bank:
        section = bank.create_checkpoint({}, "p", make_graph()).get_resource_bank_section(SERVER)
        with pytest.raises(BankFullError, match="space"):
            write_until_full(section, written)
        with pytest.raises(BankFullError):
            section.write_stream("disk", io.BytesIO(os.urandom(2 << 20)))
        assert sorted(section.list_objects()) == sorted(written)
        assert bank.check() == []

        ballast.unlink()
        section.update_object("after", 1)
        section.write_stream("disk", io.BytesIO(os.urandom(1000)))
        assert bank.check(deep=True) == []
    with Bank.open(small_disk / "bank") as bank:
        section = bank.checkpoints()[0].get_resource_bank_section(SERVER)
        assert sorted(section.list_objects()) == sorted(["after", *written])
        assert all(len(section.get_object(key)) == 20_000 for key in written)
        assert bank.check(deep=True) == []
    assert len(written) > 10


def test_a_bank_cannot_be_made_on_a_full_disk_and_nothing_is_left_of_it(small_disk):
    fill(small_disk / "ballast")
    with pytest.raises(BankFullError):
        Bank.open(small_disk / "bank")
    (small_disk / "ballast").unlink()

    with Bank.open(small_disk / "bank") as bank:
        assert bank.check() == []


def test_compacting_without_space_for_a_copy_changes_nothing(small_disk):
    with Bank.open(small_disk / "bank") as bank:
        section = bank.create_checkpoint({}, "p", make_graph()).get_resource_bank_section(SERVER)
        section.update_objects({str(number): bytes(100_000) for number in range(17)})
        with pytest.raises(BankFullError):
            bank.compact()
        section.update_object("after", 1)

        assert len(section.list_objects()) == 18
        assert bank.check() == []
        assert sorted(os.listdir(bank.directory)) == ["bank.lmdb", "lease", "objects", "reserve"]


def test_a_backup_that_failed_leaves_nothing_and_can_be_tried_again(small_disk, tmp_path):
    with Bank.open(tmp_path / "bank") as bank:
        section = bank.create_checkpoint({}, "p", make_graph()).get_resource_bank_section(SERVER)
        section.update_objects({str(number): bytes(100_000) for number in range(17)})
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(3 << 20))
        with pytest.raises(BankFullError):
            bank.backup(small_disk / "backup")
        assert os.listdir(small_disk) == ["ballast"]
        ballast.unlink()
        bank.backup(small_disk / "backup")

    objects = str(tmp_path / "bank" / "objects")
    with Bank.open(small_disk / "backup", objects=objects, readonly=True) as backup:
        found = backup.checkpoints()[0].get_resource_bank_section(SERVER)
        assert len(found.list_objects()) == 17


def test_a_backup_that_failed_takes_away_only_what_it_made(tmp_path):
    with Bank.open(tmp_path / "bank") as bank:
        (tmp_path / "mine").mkdir()
        with pytest.raises(BankPathError, match="exists"):
            bank.backup(tmp_path / "mine")
    with pytest.raises(BankClosedError):
        bank.backup(tmp_path / "backup")

    assert sorted(os.listdir(tmp_path)) == ["bank", "mine"]


def test_a_read_only_file_system_can_be_read_and_says_that_it_cannot_be_written(small_disk):
    with Bank.open(small_disk / "bank") as bank:
        section = bank.create_checkpoint({}, "p", make_graph()).get_resource_bank_section(SERVER)
        section.update_object("key", 1)
        section.write_stream("disk", io.BytesIO(b"data"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with pytest.raises(BankReadonlyError):
        Bank.open(small_disk / "bank")
    with pytest.raises(BankReadonlyError):
        Bank.open(small_disk / "new")
    with Bank.open(small_disk / "bank", readonly=True) as bank:
        section = bank.checkpoints()[0].get_resource_bank_section(SERVER)
        assert section.get_object("key") == 1
        assert section.open_stream("disk").read() == b"data"
        assert bank.check(deep=True) == []


LIMITED = """
import resource, sys
from banks import SERVER, make_graph
from karbor_actors.bank.bank import Bank
from karbor_actors.errors import BankFullError
with Bank.open(sys.argv[1]) as bank:
    section = bank.create_checkpoint({}, "p", make_graph()).get_resource_bank_section(SERVER)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    written = 0
    try:
        while True:
            section.update_object(f"key {written}", bytes(5000))
            written += 1
    except BankFullError as error:
        print(written, error, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    section.update_object("after", 1)
    print(bank.check(), flush=True)
"""


def test_a_limit_on_the_size_of_files_is_a_full_bank(tmp_path):
    with run_script(LIMITED, tmp_path) as process:
        said = process.stdout.read().splitlines()
    written = int(said[0].split()[0])

    assert "no space is left" in said[0]
    assert said[1] == "[]"
    with Bank.open(tmp_path) as bank:
        section = bank.checkpoints()[0].get_resource_bank_section(SERVER)
        assert len(section.list_objects()) == written + 1 > 10


UNPRIVILEGED = """
import os, sys
from karbor_actors.bank.bank import Bank
from karbor_actors.errors import BankError
os.setuid(65534)
for readonly in (False, True):
    try:
        Bank.open(sys.argv[1], readonly=readonly)
    except BankError as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_files_of_another_user_are_refused_by_name(tmp_path):
    with Bank.open(tmp_path / "bank"):
        pass
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    with run_script(UNPRIVILEGED, tmp_path / "bank") as process:
        said = process.stdout.read().splitlines()

    assert len(said) == 2
    assert all(line.startswith(("BankReadonlyError", "BankPathError")) for line in said)
    assert all("Permission denied" in line for line in said)


def test_everything_is_synced_and_nothing_written_through_the_map(tmp_path):
    with Environment(str(tmp_path / "bank.lmdb")) as environment:
        flags = environment._file._raw.flags()

    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]


# A call fails, whichever it is


class Faults:
    """Fails the *n*-th call of the database, once."""

    def __init__(self):
        self.calls = 0
        self.failing = 0

    def call(self):
        self.calls += 1
        if self.calls == self.failing:
            raise lmdb.Error("injected")


class FailingTransaction:
    """A write transaction of LMDB whose calls may fail."""

    def __init__(self, raw, faults):
        self.raw, self.faults = raw, faults

    def __getattr__(self, name):
        if name != "abort":
            self.faults.call()
        return getattr(self.raw, name)


@pytest.fixture
def faults(monkeypatch):
    faults = Faults()
    begin, begin_within, snapshot = MappedFile.begin, MappedFile.begin_within, MappedFile.snapshot

    def failing_begin(self):
        faults.call()
        return FailingTransaction(begin(self), faults)

    def failing_begin_within(self, parent):
        faults.call()
        return FailingTransaction(begin_within(self, parent.raw), faults)

    def failing_snapshot(self):
        try:
            faults.call()
        except lmdb.Error as error:
            raise BankBrokenError("injected") from error
        return snapshot(self)

    monkeypatch.setattr(MappedFile, "begin", failing_begin)
    monkeypatch.setattr(MappedFile, "begin_within", failing_begin_within)
    monkeypatch.setattr(MappedFile, "snapshot", failing_snapshot)
    return faults


def work(directory, done):
    """Use a bank in many ways; *done* takes the names of the steps that succeeded."""

    @contextlib.contextmanager
    def step(name):
        try:
            yield
        except KarborError:
            return
        done.add(name)

    with contextlib.suppress(BankError), Bank.open(directory) as bank:
        for name in ("one", "two"):
            with step(name):
                bank.create_checkpoint({"name": "p"}, "local", make_graph(), checkpoint_id=name)
        if "one" in done:
            with step("use of one"):
                _use_one(bank, step)
        if "two" in done:
            with step("two's end"):
                two = bank.checkpoint("two")
                two.get_resource_bank_section(SERVER)
                two.finish("error", Ending(error_info=[{"why": "boom"}]))
            with step("two's purge"):
                two = bank.checkpoint("two")
                two.begin_delete()
                two.purge()
        record = OperationRecord(
            id="op", type=OperationType.PROTECT, status=OperationStatus.RUNNING, provider="local"
        )
        with step("operation"):
            number = bank.writer.write(lambda t: bank.journal.create(t, record))
        if "operation" in done:
            with step("journal"):
                entry = JournalRecord.of_hooks([1], [2])
                bank.writer.write(lambda t: bank.journal.append(t, number, entry))


def _use_one(bank, step):
    one = bank.checkpoint("one").view(is_writable=True)
    section = one.get_resource_bank_section(SERVER)
    with step("object"):
        section.update_objects({"a": 1, "b": 1})
    with step("update"):
        section.update_objects({"a": 2, "b": 2})
    with step("stream"):
        section.write_stream("disk", io.BytesIO(b"data"))
    with step("same stream"):
        other = one.get_resource_bank_section(VOLUME)
        other.write_stream("disk", io.BytesIO(b"data"))
    with step("deletion"):
        section.delete_stream("disk")
    with step("finish"):
        one.finish("available", Ending(statuses={1: "error"}))


def look(directory, done):
    """Compare what a bank holds with the steps that succeeded."""
    with Bank.open(directory) as bank:
        assert bank.check(deep=True) == []
        ids = {checkpoint.id for checkpoint in bank.checkpoints()}
        assert ("one" in ids) == ("one" in done)
        if "one" in done:
            _look_at_one(bank, done)
        if "two's purge" in done:
            assert "two" not in ids
        elif "two" in ids:
            _finish_deleting(bank)
        if "operation" in done:
            entries = list(bank.journal.read(bank.journal.get("op").number))
            assert len(entries) == ("journal" in done)
        else:
            with pytest.raises(OperationNotFoundError):
                bank.journal.get("op")
        assert bank.check(deep=True) == []


def _look_at_one(bank, done):
    one = bank.checkpoint("one")
    assert one.status == ("available" if "finish" in done else "protecting")
    section = one.get_resource_bank_section(SERVER)
    value = 2 if "update" in done else 1 if "object" in done else None
    for key in ("a", "b"):
        if value is None:
            with pytest.raises(ObjectNotFoundError):
                section.get_object(key)
        else:
            assert section.get_object(key) == value
    if "stream" in done and "deletion" not in done:
        # A deletion that failed in the sweep after it has happened all the same.
        with contextlib.suppress(ObjectNotFoundError):
            assert section.open_stream("disk").read() == b"data"
    if "same stream" in done:
        other = one.get_resource_bank_section(VOLUME)
        assert other.open_stream("disk").read() == b"data"


def _finish_deleting(bank):
    two = bank.checkpoint("two")
    if two.status == "protecting":
        two.finish("error")
    if two.status != "deleting":
        two.begin_delete()
    two.purge()
    with pytest.raises(CheckpointNotFoundError):
        bank.checkpoint("two")


def test_whichever_call_fails_what_was_acknowledged_is_there_and_nothing_half_done(
    tmp_path, faults
):
    everything = set()
    work(tmp_path / "sound", everything)
    calls, faults.failing = faults.calls, 0
    look(tmp_path / "sound", everything)
    assert len(everything) == 13
    assert calls > 100

    for failing in range(1, calls + 1):
        done = set()
        faults.calls, faults.failing = 0, failing
        work(tmp_path / str(failing), done)
        assert faults.calls >= failing
        faults.failing = 0
        look(tmp_path / str(failing), done)


# The process is killed


WRITER = """
import io, sys
from banks import SERVER, make_graph
from karbor_actors.bank.bank import Bank
with Bank.open(sys.argv[1]) as bank:
    while True:
        made = bank.create_checkpoint({"name": "p"}, "local", make_graph())
        section = made.get_resource_bank_section(SERVER)
        for number in range(5):
            section.update_object(f"key {number}", bytes(3000))
            print(made.id, "object", f"key {number}", flush=True)
        section.write_stream("disk", io.BytesIO(made.id.encode() * 1000))
        print(made.id, "stream", "disk", flush=True)
        made.finish("available")
        print(made.id, "finish", "", flush=True)
        for old in bank.checkpoints(status="available")[3:]:
            old.begin_delete()
            print(old.id, "delete", "", flush=True)
            old.purge()
"""


def test_a_killed_process_has_lost_nothing_that_it_was_told(tmp_path):
    said = []
    for lines in (3, 20, 44, 61):
        with run_script(WRITER, tmp_path) as process:
            said += [process.stdout.readline().rstrip("\n") for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines()[:-1]  # the last may be cut
        with Bank.open(tmp_path) as bank:
            assert bank.check(deep=True) == []
            _compare(bank, said)


def _compare(bank, said):
    facts = [line.split(" ", 2) for line in said if line.count(" ") >= 2]
    deleted = {checkpoint_id for checkpoint_id, kind, _ in facts if kind == "delete"}
    for checkpoint_id, kind, key in facts:
        if checkpoint_id in deleted:
            continue
        with contextlib.suppress(CheckpointNotFoundError):
            if bank.checkpoint(checkpoint_id).status == "deleting":
                continue  # killed before it could say so
        checkpoint = bank.checkpoint(checkpoint_id)
        section = checkpoint.get_resource_bank_section(SERVER)
        if kind == "object":
            assert section.get_object(key) == bytes(3000)
        elif kind == "stream":
            assert section.open_stream(key).read() == checkpoint_id.encode() * 1000
        else:
            assert checkpoint.status == "available"


# Rows are damaged


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.crash_expected
def test_damaged_rows_never_raise_anything_but_the_banks_errors(tmp_path_factory, seed):
    rng = random.Random(seed)
    directory = tmp_path_factory.mktemp("damaged")
    work(directory, set())
    with Environment(str(directory / "bank.lmdb")) as environment:
        environment.commit(lambda transaction: _damage(transaction, rng))
    with contextlib.suppress(BankError), Bank.open(directory) as bank:
        _use_all(bank)


def _damage(transaction, rng):
    rows = [
        (table, key, value)
        for table in Table
        for key, value in transaction.scan(table)
        if key != b"format"
    ]
    for table, key, value in rng.sample(rows, min(3, len(rows))):
        damaged = bytearray(value or b"x")
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        if rng.random() < 0.3:
            transaction.delete(table, key)
            place = rng.randrange(len(key))
            key = key[:place] + bytes([rng.randrange(256)]) + key[place + 1 :]  # noqa: PLW2901
        transaction.put(table, key, bytes(damaged))


def _use_all(bank):
    """Call everything that reads, and some that writes; each may fail, as the bank's error."""

    def use(call):
        with contextlib.suppress(KarborError):
            return call()

    use(bank.check)
    use(lambda: bank.check(deep=True))
    use(bank.info)
    use(lambda: [list(bank.journal.read(found.number)) for found in bank.journal.operations()])
    use(lambda: bank.journal.get("op"))
    for name in ("one", "two"):
        checkpoint = use(lambda name=name: bank.checkpoint(name))
        if checkpoint is not None:
            use(checkpoint.to_dict)
            use(checkpoint.resource_statuses)
            use(lambda c=checkpoint: c.error_info)
            for resource in (SERVER, VOLUME):
                _use_section(checkpoint, resource, use)
            use(lambda c=checkpoint: c.set_status("error", expected=set(_STATUSES)))
            use(checkpoint.begin_delete)
            use(checkpoint.purge)
    for checkpoint in use(bank.checkpoints) or ():
        use(checkpoint.to_dict)
    use(lambda: bank.create_checkpoint({}, "local", make_graph()))


_STATUSES = ("available", "protecting", "error", "partial")


def _use_section(checkpoint, resource, use):
    section = use(lambda: checkpoint.get_resource_bank_section(resource))
    if section is None:
        return
    for key in use(section.list_objects) or ():
        use(lambda key=key: section.get_object(key))
    for info in use(section.list_streams) or ():
        use(lambda info=info: section.open_stream(info.key).read())


# What is no bank


@pytest.mark.parametrize("kind", ["file", "fifo", "link to nothing"])
def test_what_is_no_directory_is_refused(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("x")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "nowhere")

    with pytest.raises(BankPathError):
        Bank.open(place)
    with pytest.raises(BankPathError):
        Bank.open(place, readonly=True)
