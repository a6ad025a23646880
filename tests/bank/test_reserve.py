"""The space that a bank keeps for a start on a full disk."""

from __future__ import annotations

import os
import stat

import pytest

from karbor_actors import Bank
from karbor_actors.bank import reserve


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
    assert not reserve.give_up(str(tmp_path / "bank"), str(tmp_path / "bank" / "bank.lmdb"))

    assert victim.read_bytes() == b"precious"
    assert place.lstat().st_ino == before.st_ino
