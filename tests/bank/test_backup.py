"""Backups of a bank's records: they are read, and take no part in what the bank does."""

from __future__ import annotations

import io
import os
import shutil

import pytest

from banks import SERVER, make_graph
from karbor_actors import Bank
from karbor_actors.errors import BankPathError, BankReadonlyError

MIB = 1 << 20


def protect(bank):
    """Make a checkpoint of data that no other one has; return its id and the data."""
    data = os.urandom(3 * MIB)
    checkpoint = bank.create_checkpoint({"name": "nightly"}, "local", make_graph())
    checkpoint.get_resource_bank_section(SERVER).write_stream("disk", io.BytesIO(data))
    checkpoint.finish("available")
    return checkpoint.id, data


def assert_holds(bank, *made):
    """See that the bank holds what was *made*, nothing else, and is sound."""
    assert {checkpoint.id for checkpoint in bank.checkpoints()} == {one for one, _ in made}
    for checkpoint_id, data in made:
        section = bank.checkpoint(checkpoint_id).get_resource_bank_section(SERVER)
        assert section.open_stream("disk").read() == data
    assert bank.check(deep=True) == []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bank"


@pytest.fixture
def objects(path):
    return str(path / "objects")


@pytest.fixture
def backup(tmp_path):
    return tmp_path / "backup"


def put_in_place(backup, path):
    """Do what an operator does whose records are lost."""
    shutil.rmtree(path / "bank.lmdb", ignore_errors=True)
    shutil.copytree(backup / "bank.lmdb", path / "bank.lmdb")


def assert_refused(directory, objects=None):
    with pytest.raises(BankReadonlyError, match=r"is a backup of .* readonly=True.* rebuild"):
        Bank.open(directory, objects=objects)


def test_a_backup_beside_an_open_bank_is_not_written_and_harms_nothing(path, objects, backup):
    with Bank.open(path) as bank:
        old = protect(bank)
        bank.backup(backup)
        new = protect(bank)
        assert_refused(backup, objects)
        with Bank.open(backup, objects=objects, readonly=True) as copy:
            section = copy.checkpoint(old[0]).get_resource_bank_section(SERVER)
            assert section.open_stream("disk").read() == old[1]
            with pytest.raises(BankReadonlyError):
                copy.compact()
            with pytest.raises(BankReadonlyError):
                protect(copy)
        assert_holds(bank, old, new, protect(bank))


def test_a_backup_of_a_closed_bank_is_not_written_either(path, objects, backup):
    with Bank.open(path) as bank:
        old = protect(bank)
    with Bank.open(path) as bank:
        bank.backup(backup)
    with Bank.open(path) as bank:  # of the number that the backup's opening would have, too
        new = protect(bank)
    assert_refused(backup, objects)
    with Bank.open(path) as bank:
        assert_holds(bank, old, new)


def test_a_bank_whose_lost_records_a_backup_replaces_is_rebuilt_with_all_that_is_newer(
    path, backup
):
    with Bank.open(path) as bank:
        old = protect(bank)
        bank.backup(backup)
        new = protect(bank)
    put_in_place(backup, path)
    assert_refused(path)

    report = Bank.rebuild(path)
    assert (report.checkpoints, report.damaged) == (2, {})
    assert os.path.isdir(report.moved_to)
    with Bank.open(path) as bank:
        newest = protect(bank)
        bank.compact()
        assert_holds(bank, old, new, newest)


def test_a_rebuild_after_a_backup_was_in_place_finds_all(path, backup):
    with Bank.open(path) as bank:
        old = protect(bank)
        bank.backup(backup)
        new = protect(bank)
    put_in_place(backup, path)
    assert_refused(path)
    shutil.rmtree(path / "bank.lmdb")

    assert Bank.rebuild(path).checkpoints == 2
    with Bank.open(path) as bank:
        assert_holds(bank, old, new)


def test_a_backup_is_rebuilt_elsewhere_only_when_the_banks_records_are_gone(path, objects, backup):
    with Bank.open(path) as bank:
        old = protect(bank)
        bank.backup(backup)
        with pytest.raises(BankPathError, match="whose records are there"):
            Bank.rebuild(backup, objects=objects)
        new = protect(bank)
    with pytest.raises(BankPathError, match="whose records are there"):
        Bank.rebuild(backup, objects=objects)
    shutil.rmtree(path / "bank.lmdb")
    with pytest.raises(BankPathError, match="holds nothing of the bank"):
        Bank.rebuild(backup)  # its own, empty object store

    assert Bank.rebuild(backup, objects=objects).checkpoints == 2
    with Bank.open(backup, objects=objects) as bank:
        assert_holds(bank, old, new)


def test_a_backup_says_which_of_the_banks_in_a_store_is_to_be_rebuilt(tmp_path, backup):
    objects = str(tmp_path / "shared")
    with Bank.open(tmp_path / "other", objects=objects) as bank:
        protect(bank)
    with Bank.open(tmp_path / "bank", objects=objects) as bank:
        made = protect(bank)
        bank.backup(backup)
    put_in_place(backup, tmp_path / "bank")

    Bank.rebuild(tmp_path / "bank", objects=objects)
    with Bank.open(tmp_path / "bank", objects=objects) as bank:
        assert_holds(bank, made)


def test_a_backup_of_a_backup_is_one_of_the_bank(path, objects, backup, tmp_path):
    with Bank.open(path) as bank:
        made = protect(bank)
        bank.backup(backup)
    with Bank.open(backup, objects=objects, readonly=True) as first:
        first.backup(tmp_path / "second")
    assert_refused(tmp_path / "second", objects)
    with Bank.open(tmp_path / "second", objects=objects, readonly=True) as second:
        assert_holds(second, made)
    with pytest.raises(BankPathError, match=f"a backup of the bank {path},"):
        Bank.rebuild(tmp_path / "second", objects=objects)
