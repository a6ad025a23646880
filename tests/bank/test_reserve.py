"""The space that a bank keeps for a start, and a delete, on a full disk."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

import pytest

from banks import SERVER, make_graph
from helpers import fill, mounted
from karbor_actors import Bank
from karbor_actors.actors import SimulatedDispatcher
from karbor_actors.errors import BankFullError

WHOLE = 1 << 20


def test_a_bank_keeps_some_space_for_its_owner_only(tmp_path):
    Bank.open(tmp_path / "bank").close()

    status = (tmp_path / "bank" / "reserve").stat()
    assert status.st_blocks * 512 >= status.st_size > 0
    assert stat.S_IMODE(status.st_mode) == 0o600


@pytest.mark.parametrize("make", ["link", "hard link", "fifo", "directory"])
def test_what_is_not_the_banks_own_file_is_left_alone(tmp_path, make):
    Bank.open(tmp_path / "bank").close()
    place, victim = tmp_path / "bank" / "reserve", tmp_path / "victim"
    place.unlink()
    victim.write_bytes(b"precious")
    if make == "link":
        place.symlink_to(victim)
    elif make == "hard link":
        place.hardlink_to(victim)
    elif make == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    before = place.lstat()

    Bank.open(tmp_path / "bank").close()
    with Bank.open(tmp_path / "bank") as bank:
        assert not bank.reserve.give_up()

    assert victim.read_bytes() == b"precious"
    assert place.lstat().st_ino == before.st_ino


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB of its own."""
    with mounted(tmp_path / "disk", "4m"):
        yield tmp_path / "disk"


def kept(disk):
    """Return the size of the space that is kept, and what the data file has but does not use."""
    with Bank.open(disk / "bank", readonly=True) as bank:
        info = bank.info()
    return (disk / "bank" / "reserve").stat().st_size, info["file_bytes"] - info["used_bytes"]


def free(disk):
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_it_is_given_up_while_somebody_uses_it_and_taken_back_after_the_last_one(disk):
    with Bank.open(disk / "bank") as bank:
        assert not bank.reserve.is_needed
        fill(disk / "ballast")
        assert bank.reserve.is_needed
        bank.reserve.use()
        bank.reserve.use()
        size, spare = kept(disk)
        assert size == WHOLE // 4
        assert free(disk) > WHOLE // 8
        assert size + spare + free(disk) == WHOLE

        bank.reserve.leave()
        assert kept(disk) == (size, spare), "somebody needs it still"
        assert bank.reserve.is_needed, "so whoever comes does not count on the space that is free"
        fill(disk / "more")
        bank.create_checkpoint({}, "p", make_graph())
        assert bank.reserve.give_up(), "for a start there is a rest"
        assert not bank.reserve.give_up()
        (disk / "more").unlink()
        bank.reserve.leave()
        size, spare = kept(disk)
        assert spare == 0
        assert WHOLE // 2 < size <= WHOLE
        assert bank.check(deep=True) == []
        (disk / "ballast").unlink()
        bank.create_checkpoint({}, "p", make_graph())
    with Bank.open(disk / "bank") as bank:
        assert len(bank.checkpoints()) == 2
        assert bank.check(deep=True) == []
    assert kept(disk) == (WHOLE, 0)


def test_nothing_that_is_written_meanwhile_is_lost_when_it_is_taken_back(disk):
    written = []
    with Bank.open(disk / "bank") as bank:
        section = bank.create_checkpoint({}, "p", make_graph()).get_resource_bank_section(SERVER)
        for turn in range(20):
            bank.reserve.use()
            with suppress(BankFullError):
                while True:
                    section.update_object(f"{turn} {len(written)}", os.urandom(20_000))
                    written.append(f"{turn} {len(written)}")
            for key in written[-10:]:
                section.delete_object(key)
            del written[-10:]
            bank.reserve.leave()
        assert sorted(section.list_objects()) == sorted(written)
        assert bank.check(deep=True) == []
    with Bank.open(disk / "bank") as bank:
        section = bank.checkpoints()[0].get_resource_bank_section(SERVER)
        assert all(len(section.get_object(key)) == 20_000 for key in written)
        assert bank.check(deep=True) == []
    assert len(written) > 50


def test_a_bank_that_is_closed_or_killed_meanwhile_has_it_at_the_next_start(disk):
    with Bank.open(disk / "bank") as bank:
        fill(disk / "ballast")
        bank.reserve.use()
    size, spare = kept(disk)
    assert spare == 0
    assert size > WHOLE // 2
    (disk / "bank" / "reserve").unlink()  # as one that was killed would leave it, or nearly so
    size = free(disk)

    Bank.open(disk / "bank").close()
    assert size // 4 < kept(disk)[0] <= size // 2, "the other half may be used"


def test_neither_who_only_reads_nor_a_simulation_has_any(tmp_path):
    dispatcher = SimulatedDispatcher(0)
    with Bank.open(tmp_path / "bank", dispatcher=dispatcher) as bank:
        bank.reserve.use()
        bank.reserve.leave()
    assert not (tmp_path / "bank" / "reserve").exists()
    Bank.open(tmp_path / "bank").close()
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert not bank.reserve.is_needed
        assert not bank.reserve.give_up()
        bank.reserve.use()
        bank.reserve.leave()
    assert (tmp_path / "bank" / "reserve").stat().st_size == WHOLE
