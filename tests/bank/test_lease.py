"""The lease: one owner at a time, named to the second, gone with its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from banks import make_graph
from karbor_actors.bank import lease as lease_module
from karbor_actors.bank.bank import Bank
from karbor_actors.bank.lease import Lease, owner_of
from karbor_actors.errors import BankError, BankLeaseError, BankPathError, ForeignLeaseError

OWNER = """
import sys
from karbor_actors.bank.bank import Bank
with Bank.open(sys.argv[1]) as bank:
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that has the bank in tmp_path open."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path):
    with Bank.open(tmp_path), pytest.raises(BankLeaseError, match="this process"):
        Bank.open(tmp_path)


def test_an_owner_in_another_process_is_named(tmp_path, owner):
    with pytest.raises(BankLeaseError) as refused:
        Bank.open(tmp_path)

    assert f"process {owner.pid}" in refused.value.owner
    assert os.path.basename(sys.executable) in refused.value.owner
    assert "readonly=True" in str(refused.value)


def test_whoever_asks_is_told_the_owner_and_takes_nothing(tmp_path, owner):
    assert f"process {owner.pid} on " in (owner_of(str(tmp_path)) or "")
    owner.kill()
    owner.wait()
    assert owner_of(str(tmp_path)) is None
    assert owner_of(str(tmp_path / "nowhere")) is None
    with Bank.open(tmp_path):
        assert (owner_of(str(tmp_path)) or "").startswith("this process")


def test_a_reader_needs_no_lease(tmp_path, owner):
    with Bank.open(tmp_path, readonly=True) as bank:
        assert bank.checkpoints() == []


def test_a_killed_owners_lease_goes_with_it(tmp_path, owner):
    owner.send_signal(signal.SIGKILL)
    owner.wait()

    with Bank.open(tmp_path) as bank:
        assert bank.info()["epoch"] == 2


def leave(directory, **changes):
    """Leave the lease of a dead owner with what *changes* says of it."""
    with Bank.open(directory):
        record = json.loads((directory / "lease").read_bytes())
    assert not (directory / "lease").read_bytes().strip(), "a lease that was given up names nobody"
    (directory / "lease").write_text(json.dumps(record | changes))


FOREIGN = {"host": "elsewhere", "machine": "m", "boot": "b", "pid": 7}


def test_another_hosts_lease_goes_only_when_it_is_broken(tmp_path):
    leave(tmp_path, **FOREIGN)
    for _ in range(2):
        with pytest.raises(ForeignLeaseError, match=r"process 7 on elsewhere .*break-lease"):
            Bank.open(tmp_path)
    with Bank.open(tmp_path, readonly=True) as bank:
        assert bank.check() == []

    assert "process 7 on elsewhere" in Bank.break_lease(tmp_path)
    assert Bank.break_lease(tmp_path) is None
    with Bank.open(tmp_path) as bank:
        assert bank.is_writable


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "a-container-of-before", "machine": "another"},
        {"boot": "the-boot-before"},
        {"boot": "the-boot-before", "pid": os.getpid()},
    ],
)
def test_a_dead_owners_lease_on_this_host_is_free_at_once(tmp_path, changes):
    leave(tmp_path, **changes)
    with Bank.open(tmp_path) as bank:
        assert bank.is_writable


def test_a_living_owners_lease_cannot_be_broken(tmp_path, owner):
    with pytest.raises(BankLeaseError, match=f"process {owner.pid}"):
        Bank.break_lease(tmp_path)
    with pytest.raises(BankPathError):
        Bank.break_lease(tmp_path / "nowhere")


def test_an_owner_whose_lease_was_broken_writes_nothing_more(tmp_path):
    with Bank.open(tmp_path) as first:
        fcntl_lock_of_another_host_is_not_seen(first)
        with Bank.open(tmp_path) as second:
            with pytest.raises(BankLeaseError, match="later owner"):
                first.create_checkpoint({"name": "late"}, "local", make_graph())
            second.create_checkpoint({"name": "new"}, "local", make_graph())


def fcntl_lock_of_another_host_is_not_seen(bank):
    """Drop the lock but not the bank, as a file system does that does not share locks."""
    for lease in list(lease_module._held):
        if os.path.dirname(os.readlink(f"/proc/self/fd/{lease._fd}")) == str(bank.directory):
            lease.release()


def test_closing_gives_the_lease_up(tmp_path):
    for epoch in (1, 2, 3):
        with Bank.open(tmp_path) as bank:
            assert bank.info()["epoch"] == epoch


def test_a_failed_opening_gives_the_lease_up(tmp_path):
    with Bank.open(tmp_path):
        pass
    data = tmp_path / "bank.lmdb" / "data.mdb"
    kept = data.read_bytes()
    data.write_bytes(b"rubbish" * 2000)
    with pytest.raises(BankError):
        Bank.open(tmp_path)
    data.write_bytes(kept)

    with Bank.open(tmp_path) as bank:
        assert bank.is_writable


def test_closing_another_descriptor_of_the_file_does_not_drop_the_lease(tmp_path):
    lease = Lease(str(tmp_path))
    (tmp_path / "lease").read_bytes()

    with pytest.raises(BankLeaseError):
        Lease(str(tmp_path))
    lease.release()
    lease.release()
    Lease(str(tmp_path)).release()


FORKING_OWNER = """
import os, sys
from karbor_actors.bank.lease import Lease, owner_of
lease = Lease(sys.argv[1])
if os.fork() == 0:
    print("forked", flush=True)
sys.stdin.read()
"""


def test_a_forked_child_does_not_keep_the_lease_of_its_killed_parent(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING_OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "forked\n"
    with pytest.raises(BankLeaseError):
        Lease(str(tmp_path))
    process.kill()
    process.wait()

    Lease(str(tmp_path)).release()  # while the child lives on
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"[]", b'{"pid": 1}', b"{" * 5000])
def test_an_owner_that_cannot_be_read_is_another_process(tmp_path, record):
    lease = Lease(str(tmp_path))
    Path(tmp_path, "lease").write_bytes(record)

    with pytest.raises(BankLeaseError, match="another process"):
        Lease(str(tmp_path))
    lease.release()


def test_the_lease_file_is_no_way_to_another_file(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "lease").symlink_to(victim)

    with pytest.raises(BankError):
        Lease(str(tmp_path))
    assert victim.read_bytes() == b"precious"


def test_the_lease_says_in_plain_words_who_has_it(tmp_path):
    lease = Lease(str(tmp_path))
    record = json.loads((tmp_path / "lease").read_text())
    lease.release()

    assert record["pid"] == os.getpid()
    assert (tmp_path / "lease").stat().st_mode & 0o777 == 0o600
