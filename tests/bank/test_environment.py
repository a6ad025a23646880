"""The LMDB environment: groups, snapshots, growth, and files that are no bank."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import DEADLINE, Gate
from karbor_actors.bank.database.environment import FORMAT_VERSION, Environment, Table
from karbor_actors.bank.writer import Put
from karbor_actors.errors import (
    BankBrokenError,
    BankClosedError,
    BankError,
    BankFormatError,
    BankFullError,
    BankLeaseError,
    BankPathError,
    BankReadonlyError,
)

OBJECTS = Table.OBJECTS


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "bank.lmdb")


@pytest.fixture
def environment(path):
    with Environment(path) as environment:
        yield environment


def put(key, value=b"v"):
    return lambda transaction: transaction.put(OBJECTS, key, value)


def fail(error):
    def change(transaction):
        transaction.put(OBJECTS, b"half done", b"")
        raise error

    return change


def rows(environment, table=OBJECTS):
    with environment.snapshot() as snapshot:
        return dict(snapshot.scan(table))


# Groups


def test_what_a_group_wrote_is_there_after_opening_again(path):
    with Environment(path) as environment:
        outcomes = environment.commit_group([put(b"a"), put(b"b")])

    assert [outcome.error for outcome in outcomes] == [None, None]
    with Environment(path) as environment:
        assert rows(environment) == {b"a": b"v", b"b": b"v"}


def test_later_changes_of_a_group_see_what_earlier_ones_wrote(environment):
    outcomes = environment.commit_group([put(b"a", b"1"), lambda t: t.get(OBJECTS, b"a")])

    assert outcomes[1].value == b"1"


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_a_change_that_raises_fails_alone(environment, error):
    outcomes = environment.commit_group([put(b"a"), fail(error), put(b"b")])

    assert [outcome.error for outcome in outcomes] == [None, error, None]
    assert set(rows(environment)) == {b"a", b"b"}


def test_many_bad_changes_cost_one_more_try_and_not_one_each(environment):
    runs = 0

    def count(transaction):
        nonlocal runs
        runs += 1
        transaction.put(OBJECTS, b"counted", b"")

    bad = [fail(ValueError(number)) for number in range(200)]
    outcomes = environment.commit_group([count, *bad])

    assert [outcome.error is None for outcome in outcomes] == [True] + [False] * 200
    assert runs == 2
    assert set(rows(environment)) == {b"counted"}


def test_a_change_cannot_hide_what_the_database_refused(path):
    with Environment(path, map_size=1 << 17) as environment:

        def hiding(transaction):
            for number in range(100):
                try:
                    transaction.put(OBJECTS, b"%d" % number, bytes(4000))
                except BankError:
                    return

        assert environment.commit_group([hiding])[0].error is None
        assert len(rows(environment)) == 100


def test_a_full_map_grows_and_the_group_is_done_again(path):
    with Environment(path, map_size=1 << 17) as environment:
        changes = [put(b"%04d" % number, bytes(2000)) for number in range(1000)]
        outcomes = environment.commit_group(changes)

        assert all(outcome.error is None for outcome in outcomes)
        assert len(rows(environment)) == 1000
        assert environment.info()["map_size"] >= 1 << 21


def test_the_map_grows_while_readers_read(path):
    with Environment(path, map_size=1 << 17) as environment:
        environment.commit(put(b"first", b"1"))
        stop = threading.Event()

        def read():
            reads = 0
            while not stop.wait(0.001):  # not flat out: they would keep the GIL from the writer
                with environment.snapshot() as snapshot:
                    assert snapshot.get(OBJECTS, b"first") == b"1"
                    reads += sum(1 for _ in snapshot.scan(OBJECTS))
            return reads

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            for number in range(30):
                environment.commit(put(b"%04d" % number, bytes(100_000)))
            stop.set()

            assert all(reader.result(DEADLINE) > 0 for reader in readers)
        assert len(rows(environment)) == 31
        assert environment.info()["map_size"] >= 1 << 21


def test_a_map_that_may_not_grow_is_a_full_bank(path, monkeypatch):
    with Environment(path, map_size=1 << 17) as environment:
        environment.commit(put(b"a"))

        def refuse():
            raise BankFullError("no address space")

        monkeypatch.setattr(environment._file, "grow", refuse)
        outcomes = environment.commit_group([put(b"big", bytes(1 << 20))])
        monkeypatch.undo()

        assert isinstance(outcomes[0].error, BankFullError)
        assert set(rows(environment)) == {b"a"}


def test_a_failure_that_lmdb_calls_final_is_healed_by_opening_again(environment, monkeypatch):
    environment.commit(put(b"a"))

    def panic():
        raise lmdb.PanicError("update of the meta page failed")

    monkeypatch.setattr(environment._file, "begin", panic)
    outcomes = environment.commit_group([put(b"b")])
    monkeypatch.undo()
    environment.commit(put(b"c"))

    assert isinstance(outcomes[0].error, BankBrokenError)
    assert set(rows(environment)) == {b"a", b"c"}


def take_away(file):
    file.unlink()


def put_another_in_place(file):
    shutil.copy(file, file.with_suffix(".copy"))
    os.replace(file.with_suffix(".copy"), file)


def take_the_folder_away(file):
    shutil.rmtree(file.parent)


def put_another_folder_in_place(file):
    file.parent.rename(file.parent.with_suffix(".old"))
    shutil.copytree(file.parent.with_suffix(".old"), file.parent)


def lead_the_path_elsewhere(file):
    parent = file.parent.parent
    parent.rename(parent.with_suffix(".old"))
    shutil.copytree(parent.with_suffix(".old"), parent.with_suffix(".new"))
    parent.symlink_to(parent.with_suffix(".new"))


def put_back_what_a_backup_had(file):
    """As rsync and tar do: the folder's times are what they were."""
    status = file.parent.stat()
    put_another_in_place(file)
    os.utime(file.parent, ns=(status.st_atime_ns, status.st_mtime_ns))


HARMS = [
    take_away,
    put_another_in_place,
    take_the_folder_away,
    put_another_folder_in_place,
    lead_the_path_elsewhere,
    put_back_what_a_backup_had,
]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("is_settled", [False, True])
def test_what_goes_into_a_file_that_is_not_there_any_more_is_never_durable(
    tmp_path, harm, size, is_settled
):
    """LMDB writes on, into a file that nobody will find again."""
    (tmp_path / "parent").mkdir()
    path = str(tmp_path / "parent" / "bank.lmdb")
    with Environment(path) as environment:
        environment.commit(put(b"a"))
        while is_settled and environment._file._place is None:
            environment.commit(put(b"a"))
        harm(Path(path) / "data.mdb")
        for _ in range(2):
            outcomes = environment.commit_group([put(b"b", bytes(size)), put(b"c")])

            assert [type(outcome.error) for outcome in outcomes] == [BankBrokenError] * 2
            assert "data.mdb" in str(outcomes[0].error)
            assert "close the bank" in str(outcomes[1].error)
        assert rows(environment)[b"a"] == b"v"
        if harm in {take_away, take_the_folder_away}:
            with pytest.raises(BankPathError, match="No such file"):
                environment.info()


def test_a_failure_that_cannot_be_healed_is_told_to_each(environment, path, monkeypatch):
    def panic():
        take_the_folder_away(Path(path) / "data.mdb")
        raise lmdb.PanicError("update of the meta page failed")

    monkeypatch.setattr(environment._file, "begin", panic)
    broken = environment.commit_group([put(b"a"), put(b"b")])
    monkeypatch.undo()
    later = environment.commit_group([put(b"c")])

    assert all(isinstance(outcome.error, BankError) for outcome in [*broken, *later])


@pytest.mark.parametrize("error", [OSError(5, "input/output error"), MemoryError(), KeyError(1)])
def test_whatever_a_commit_meets_is_told_to_each_who_asked(environment, monkeypatch, error):
    def broken():
        raise error

    monkeypatch.setattr(environment._file, "check_place", broken)
    outcomes = environment.commit_group([put(b"a"), put(b"b")])
    monkeypatch.undo()
    environment.commit(put(b"c"))

    assert [type(outcome.error) for outcome in outcomes] == [BankBrokenError] * 2
    assert outcomes[0].error.__cause__ is error


def test_a_group_too_large_for_one_transaction_is_split(environment, monkeypatch):
    begin = environment._file.begin
    refused = iter([True, False, False])

    def sometimes():
        if next(refused):
            raise lmdb.TxnFullError("too many dirty pages")
        return begin()

    monkeypatch.setattr(environment._file, "begin", sometimes)
    outcomes = environment.commit_group([put(b"a"), put(b"b"), put(b"c")])

    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert set(rows(environment)) == {b"a", b"b", b"c"}


def test_an_owner_whose_epoch_is_over_can_commit_no_more(path):
    with Environment(path) as first, Environment(path) as second:
        first.next_epoch()
        first.commit(put(b"a"))
        second.next_epoch()

        with pytest.raises(BankLeaseError, match="later owner"):
            first.commit(put(b"b"))
        second.commit(put(b"c"))

        assert set(rows(second)) == {b"a", b"c"}


# Snapshots and transactions


def test_a_snapshot_stays_as_it_was(environment):
    environment.commit(put(b"a", b"old"))
    with environment.snapshot() as snapshot:
        writing = threading.Thread(target=environment.commit, args=(put(b"a", b"new"),))
        writing.start()
        writing.join(DEADLINE)

        assert snapshot.get(OBJECTS, b"a") == b"old"
    assert rows(environment) == {b"a": b"new"}


def test_a_snapshot_is_for_one_thread(environment):
    with environment.snapshot() as snapshot, ThreadPoolExecutor(1) as pool:
        error = pool.submit(snapshot.get, OBJECTS, b"a").exception(DEADLINE)

    assert isinstance(error, BankError)
    assert "thread" in str(error)


def test_a_transaction_cannot_be_kept(environment):
    kept = []
    environment.commit(kept.append)

    with pytest.raises(BankError, match="over"):
        kept[0].put(OBJECTS, b"a", b"")


def test_a_closed_snapshot_cannot_be_used(environment):
    snapshot = environment.snapshot()
    snapshot.close()
    snapshot.close()

    with pytest.raises(BankError, match="over"):
        list(snapshot.scan(OBJECTS))


def test_a_key_that_lmdb_does_not_take_is_an_error_of_the_bank(environment):
    for key in (b"", bytes(512)):
        with pytest.raises(BankFormatError, match="511"):
            environment.commit(put(key))


def refuse(transaction):
    raise ValueError("no")


@pytest.mark.parametrize(
    "between", ["nothing", "a commit", "a failure", "a commit of nothing", "a new file"]
)
def test_an_owner_notices_whatever_came_between_that_its_epoch_is_over(path, between):
    with Environment(path) as first, Environment(path) as second:
        first.next_epoch()
        first.commit(put(b"a"))
        if between == "a commit of nothing":
            first.commit(lambda _: None)
        second.next_epoch()
        if between == "a commit":
            second.commit(put(b"b"))
        elif between == "a failure":
            assert second.commit_group([refuse])[0].error is not None
            assert first.commit_group([refuse])[0].error is not None
        elif between == "a new file":
            second.compact()
        for _ in range(3):
            with pytest.raises(BankLeaseError):
                first.commit(put(b"c"))
            second.commit(put(b"d"))


@pytest.mark.parametrize("rows", [1, 2])
def test_an_owner_does_not_look_who_it_is_after_its_own_commit(environment, rows):
    environment.next_epoch()
    changes = [Put(OBJECTS, b"%d" % row, b"") for row in range(rows)]
    looked = 0

    def count(frame, event, argument):
        nonlocal looked
        looked += event == "c_call" and argument.__name__ == "get"

    sys.setprofile(count)
    for _ in range(3):
        environment.commit_group(changes)
    sys.setprofile(None)

    assert looked == 0


KEYS = st.binary(min_size=1, max_size=4)


@settings(max_examples=40)
@given(
    keys=st.sets(KEYS, max_size=700),
    prefix=st.binary(max_size=2),
    start=st.binary(max_size=3),
    before=st.none() | st.binary(max_size=3),
)
def test_scans_agree_with_a_sorted_list(tmp_path_factory, keys, prefix, start, before):
    folder = tmp_path_factory.mktemp("scans")
    with Environment(str(folder / "e")) as environment:
        environment.commit(lambda t: t.put_many(OBJECTS, [(key, b"") for key in sorted(keys)]))
        wanted = sorted(key for key in keys if key.startswith(prefix))
        with environment.snapshot() as snapshot:
            forward = [key for key, _ in snapshot.scan(OBJECTS, prefix, start)]
            back = [key for key, _ in snapshot.scan_back(OBJECTS, prefix, before)]
            last = snapshot.last_key(OBJECTS, prefix)
            has = bool(prefix) and snapshot.has(OBJECTS, prefix)
            count = snapshot.count(OBJECTS)
    shutil.rmtree(folder)

    assert forward == [key for key in wanted if key >= start]
    assert back == [key for key in reversed(wanted) if before is None or key < before]
    assert last == (wanted[-1] if wanted else None)
    assert has == bool(prefix and wanted)
    assert count == len(keys)


def test_a_scan_reads_no_row_that_it_does_not_yield(environment):
    keys = [b"%d%02d" % (tens, n) for tens in range(9) for n in range(30)]
    environment.commit(lambda t: t.put_many(OBJECTS, [(key, b"") for key in keys]))
    read = 0

    def count(frame, event, argument):
        nonlocal read
        read += event == "c_call" and argument.__name__ == "startswith"

    with environment.snapshot() as snapshot:
        sys.setprofile(count)
        found = [*snapshot.scan(OBJECTS, b"4"), *snapshot.scan_back(OBJECTS, b"4")]
        sys.setprofile(None)

    assert len(found) == 60
    assert read == 62, "of each way the first row that is another's is looked at"


def test_rows_can_be_deleted_while_they_are_scanned(environment):
    environment.commit(lambda t: t.put_many(OBJECTS, [(b"%04d" % n, b"") for n in range(1000)]))

    def delete_all(transaction):
        return sum(transaction.delete(OBJECTS, key) for key, _ in transaction.scan(OBJECTS))

    assert environment.commit(delete_all) == 1000
    assert rows(environment) == {}


def test_sixty_four_threads_read_and_write_at_once(environment):
    start = threading.Barrier(64)

    def work(number):
        rng = random.Random(number)
        start.wait(DEADLINE)
        for turn in range(20):
            key = b"%d-%d" % (number, turn)
            environment.commit(put(key, b"%d" % rng.random().__hash__()))
            with environment.snapshot() as snapshot:
                assert snapshot.get(OBJECTS, key) is not None

    with ThreadPoolExecutor(64) as pool:
        for done in [pool.submit(work, number) for number in range(64)]:
            done.result(DEADLINE)

    assert len(rows(environment)) == 64 * 20


# Opening and closing


def test_the_files_are_for_their_owner_only(environment, path):
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(f"{path}/data.mdb").st_mode & 0o777 == 0o600


def test_the_format_is_that_of_lmdb_0_9(path):
    with Environment(path):
        pass
    with lmdb.open(path) as raw:
        assert raw.lib_version()[:2] == (0, 9)


def test_a_closed_environment_says_so(path):
    environment = Environment(path)
    environment.close()
    environment.close()

    with pytest.raises(BankClosedError):
        environment.snapshot()
    with pytest.raises(BankClosedError):
        environment.commit(put(b"a"))


def test_closing_waits_for_the_snapshots_of_other_threads(path):
    environment = Environment(path)
    environment.commit(put(b"a"))
    gate = Gate()

    def read():
        with environment.snapshot() as snapshot:
            gate.pass_through()
            return snapshot.get(OBJECTS, b"a")

    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read)
        gate.wait_entered()
        closing = pool.submit(environment.close)
        gate.open()

        assert reading.result(DEADLINE) == b"v"
        closing.result(DEADLINE)


def test_a_reader_in_the_owners_process_shares_its_file(environment, path):
    with Environment(path, readonly=True) as reader:
        environment.commit(put(b"a"))

        assert rows(reader) == {b"a": b"v"}
        with pytest.raises(BankReadonlyError):
            reader.commit(put(b"b"))


def test_an_owner_may_come_after_a_reader_and_leave_before_it(path):
    Environment(path).close()
    with Environment(path, readonly=True) as reader:
        with Environment(path) as owner:
            owner.commit(put(b"a"))

        assert rows(reader) == {b"a": b"v"}


def test_a_reader_makes_nothing(path):
    with pytest.raises(BankPathError, match="no bank"):
        Environment(path, readonly=True)
    with pytest.raises(BankPathError, match="no bank"):
        Environment(path, create=False)

    assert not os.path.lexists(path)


def test_a_file_is_no_bank(path):
    Path(path).write_bytes(b"something else")

    with pytest.raises(BankPathError, match="is a file"):
        Environment(path)


def test_a_folder_below_a_file_is_no_place_for_a_bank(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(BankPathError):
        Environment(str(tmp_path / "file" / "bank.lmdb"))


def test_a_parent_that_is_missing_is_named(tmp_path):
    with pytest.raises(BankPathError, match="nowhere"):
        Environment(str(tmp_path / "nowhere" / "bank.lmdb"))


@pytest.mark.parametrize("contents", [b"", b"#!/bin/sh\n" * 1000, os.urandom(100_000)])
def test_a_data_file_of_something_else_is_refused(path, contents):
    Path(path).mkdir()
    Path(path, "data.mdb").write_bytes(contents)

    with pytest.raises(BankFormatError):
        Environment(path)
    assert Path(path, "data.mdb").read_bytes() == contents


def test_an_lmdb_file_of_something_else_is_refused(path):
    lmdb.open(path, max_dbs=1, lib_version=0).close()

    with pytest.raises(BankFormatError, match="no bank"):
        Environment(path)


def test_lmdb_1_0s_format_is_refused(path):
    lmdb.open(path, lib_version=1).close()

    with pytest.raises(BankFormatError):
        Environment(path)


def test_a_newer_format_is_refused_and_says_so(path):
    with Environment(path) as environment:
        key, magic = b"format", rows(environment, Table.META)[b"format"][:-8]
        newer = magic + (FORMAT_VERSION + 1).to_bytes(8, "big")
        environment.commit(lambda transaction: transaction.put(Table.META, key, newer))

    with pytest.raises(BankFormatError, match="newer"):
        Environment(path)


def test_a_format_that_there_will_never_be_is_damage(path):
    with Environment(path) as environment:
        key, value = b"format", bytearray(rows(environment, Table.META)[b"format"])
        value[-8] ^= 0x80
        environment.commit(lambda transaction: transaction.put(Table.META, key, bytes(value)))

    with pytest.raises(BankFormatError, match="damaged") as caught:
        Environment(path)
    assert not caught.value.is_newer


@pytest.mark.parametrize("kept", [1, 4096, 8192, 9000, 40_000, 200_000])
def test_a_data_file_that_was_cut_short_is_refused_before_it_can_kill_the_process(path, kept):
    with Environment(path) as environment:
        environment.commit(lambda t: [t.put(OBJECTS, b"%d" % n, bytes(4000)) for n in range(100)])
    os.truncate(f"{path}/data.mdb", kept)

    with pytest.raises(BankFormatError):
        Environment(path)


def shorten(transaction):
    """Take pages at the end of the file and free them again: LMDB never writes those."""
    keys = [b"%05d" % number for number in range(200)]
    for key in keys:
        transaction.put(OBJECTS, key, bytes(1000))
    for key in reversed(keys[1:]):
        transaction.delete(OBJECTS, key)


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_commit_leaves_the_file_as_long_as_it_should_be(environment, path, is_alone):
    environment.commit_group([shorten] if is_alone else [fail(ValueError()), shorten])

    assert os.path.getsize(f"{path}/data.mdb") >= environment.info()["used_bytes"]


def test_closing_leaves_the_file_as_long_as_it_should_be(path, monkeypatch):
    with Environment(path) as environment:
        monkeypatch.setattr(environment._file, "extend", lambda: None)
        environment.commit(shorten)
        monkeypatch.undo()
        used_bytes = environment.info()["used_bytes"]

    assert os.path.getsize(f"{path}/data.mdb") >= used_bytes


def test_closing_leaves_alone_what_was_put_in_the_files_place(path):
    with Environment(path) as environment:
        environment.commit(put(b"a"))
        file = Path(path) / "data.mdb"
        file.with_suffix(".new").write_bytes(b"another")
        os.replace(file.with_suffix(".new"), file)

    assert file.read_bytes() == b"another"


@pytest.mark.parametrize("readonly", [True, False])
def test_a_healthy_file_is_never_taken_for_one_that_was_cut_short(path, monkeypatch, readonly):
    with Environment(path) as environment:
        monkeypatch.setattr(environment._file, "extend", lambda: None)  # killed before it
        environment.commit(shorten)
        assert os.path.getsize(f"{path}/data.mdb") < environment.info()["used_bytes"]

    with Environment(path, readonly=readonly) as environment:
        assert set(rows(environment)) == {b"00000"}


def test_a_forked_child_is_told_to_open_the_bank_anew(environment):
    environment.commit(put(b"a"))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            environment.snapshot()
        except BankError as error:
            os.write(write_end, str(error).encode())
        environment.close()
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)

    assert b"fork" in said
    assert rows(environment) == {b"a": b"v"}


def test_an_environment_that_was_left_half_made_is_made_anew(path):
    half = Path(f"{path}.new-0badcafe")
    half.mkdir()
    (half / "data.mdb").write_bytes(b"")

    with Environment(path) as environment:
        environment.commit(put(b"a"))

    assert not half.exists()


# Compacting and copying


def fill_and_empty(environment):
    environment.commit(lambda t: [t.put(OBJECTS, b"%d" % n, bytes(4000)) for n in range(500)])
    environment.commit(lambda t: [t.delete(OBJECTS, b"%d" % n) for n in range(499)])


def test_compacting_gives_space_back_and_keeps_the_rows(environment, path):
    fill_and_empty(environment)
    before, kept = os.path.getsize(f"{path}/data.mdb"), rows(environment)
    environment.compact()
    environment.commit(put(b"after"))

    assert os.path.getsize(f"{path}/data.mdb") < before / 4
    assert rows(environment) == kept | {b"after": b"v"}
    assert sorted(os.listdir(os.path.dirname(path))) == ["bank.lmdb"]


def test_compacting_goes_beside_readers(environment, path):
    fill_and_empty(environment)
    stop = threading.Event()

    def read():
        while not stop.is_set():
            assert set(rows(environment)) == {b"499"}

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(5):
            environment.compact()
        stop.set()
        for reader in readers:
            reader.result(DEADLINE)


def test_compacting_that_was_killed_leaves_the_old_files_or_the_new(path):
    with Environment(path) as environment:
        environment.commit(put(b"a"))
    os.rename(path, f"{path}.old")
    shutil.copytree(f"{path}.old", f"{path}.new-1")  # killed between the two renames
    with Environment(path) as environment:
        assert rows(environment) == {b"a": b"v"}
    shutil.copytree(path, f"{path}.old")  # killed before the old files were removed
    with Environment(path) as environment:
        assert rows(environment) == {b"a": b"v"}

    assert os.listdir(os.path.dirname(path)) == ["bank.lmdb"]


def test_a_copy_is_whole_and_never_written_over_something(environment, tmp_path):
    environment.commit(put(b"a"))
    (tmp_path / "copy").mkdir()
    environment.copy(str(tmp_path / "copy" / "data.mdb"))

    with Environment(str(tmp_path / "copy"), readonly=True) as copy:
        assert rows(copy) == {b"a": b"v"}
    with pytest.raises(BankPathError):
        environment.copy(str(tmp_path / "copy" / "data.mdb"))
