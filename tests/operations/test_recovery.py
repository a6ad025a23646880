"""Processes killed with SIGKILL in a hook: what the next one makes of it."""

from __future__ import annotations

import pytest

import killed_process
from helpers import DEADLINE, fill, mounted
from karbor_actors import Bank, CheckpointStatus, Plan, ProtectionService, Resource
from karbor_actors.bank.database.environment import Environment, Outcome
from karbor_actors.bank.database.keys import pack_u64
from karbor_actors.bank.database.transactions import Table
from karbor_actors.bank.journal.records import JournalRecord
from karbor_actors.errors import BankFormatError, BankFullError
from recovering import HOOKS, recover, run_until_killed

POINTS = [
    (hook, name, when)
    for hook in HOOKS
    for name, when in (("server", "after"), ("disk1", "before"), ("image", "after"))
]


@pytest.mark.parametrize(("hook", "name", "when"), POINTS)
def test_a_protect_killed_in_any_hook_leaves_nothing_frozen_and_ends(tmp_path, hook, name, when):
    assert run_until_killed(tmp_path, "protect", "-", hook, name, when)
    (status,) = recover(tmp_path)

    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        (checkpoint,) = bank.checkpoints()
    if status == "succeeded":
        assert checkpoint.status is CheckpointStatus.AVAILABLE
    else:
        assert checkpoint.status is CheckpointStatus.ERROR
    if hook.startswith("on_prepare"):
        assert status == "failed"
    if hook == "on_complete":
        assert status == "succeeded"


@pytest.mark.parametrize("verb", ["restore", "verify", "delete"])
@pytest.mark.parametrize("hook", HOOKS)
def test_the_other_verbs_are_resumed_and_succeed(tmp_path, verb, hook):
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(tmp_path))
        plan = Plan("plan", "local", [Resource(killed_process.TYPE, "server")])
        checkpoint = service.protect(plan).result(DEADLINE)
    assert run_until_killed(tmp_path, verb, checkpoint.id, hook, "disk1", "after")

    assert recover(tmp_path) == ["succeeded"]
    log = (tmp_path / "log").read_text()
    assert f"begin {verb} on_resume disk1" in log
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert [c.status for c in bank.checkpoints()] == ["available"] * (verb != "delete")


@pytest.mark.crash_expected
def test_a_damaged_record_of_another_operation_keeps_nothing_frozen(tmp_path):
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(tmp_path))
        plan = Plan("plan", "local", [Resource(killed_process.TYPE, "server")])
        handle = service.protect(plan)
        handle.result(DEADLINE)
        bank = service.provider("local").bank
        key = pack_u64(bank.journal.get(handle.id).number)
        bank.writer.write(lambda transaction: transaction.put(Table.OPERATIONS, key, b"rubbish"))
    assert run_until_killed(tmp_path, "protect", "-", "on_prepare_begin", "disk1", "after")

    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(tmp_path))
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        bank = service.provider("local").bank
        damaged: list[BankFormatError] = []
        assert [r.id for r in bank.journal.operations(damaged=damaged)] == [handle.id]
        assert len(damaged) == len(set(bank.check())) == 1
    assert not list(tmp_path.glob("frozen-*"))


@pytest.mark.parametrize("hook", ["on_prepare_begin", "on_prepare_finish", "on_main"])
def test_nothing_stays_frozen_although_the_disk_is_full_at_the_next_start(tmp_path, hook):
    with mounted(tmp_path / "bank", "8m"):
        assert run_until_killed(tmp_path, "protect", "-", hook, "disk1", "after")
        fill(tmp_path / "bank" / "ballast")

        with ProtectionService(workers=4) as service:
            service.add_provider(killed_process.provider(tmp_path))
            assert all(handle.wait(DEADLINE) for handle in service.recovered)
        assert not list(tmp_path.glob("frozen-*"))

        (tmp_path / "bank" / "ballast").unlink()
        recover(tmp_path)  # what could not be recorded
        assert recover(tmp_path) == []
        assert (tmp_path / "bank" / "reserve").stat().st_size, "for the next time"


@pytest.mark.parametrize("nth", range(8))
def test_a_disk_that_fills_up_during_recovery_keeps_nothing_frozen(tmp_path, nth, monkeypatch):
    """Whatever commit of the start is the last one that the disk has space for."""
    assert run_until_killed(tmp_path, "protect", "-", "on_prepare_begin", "image", "after")
    commit, counted = Environment.commit_group, [0]

    def commit_group(self, changes):
        counted[0] += 1
        if counted[0] > nth:
            return [Outcome(None, BankFullError("the disk is full")) for _ in changes]
        return commit(self, changes)

    provider = killed_process.provider(tmp_path)
    monkeypatch.setattr(Environment, "commit_group", commit_group)
    with ProtectionService(workers=4) as service:
        service.add_provider(provider)
        assert all(handle.wait(DEADLINE) for handle in service.recovered)
    assert not list(tmp_path.glob("frozen-*"))
    monkeypatch.undo()
    recover(tmp_path)


def test_recovery_that_is_killed_goes_on_at_the_next_start(tmp_path):
    assert run_until_killed(tmp_path, "protect", "-", "on_prepare_begin", "image", "after")
    for name in ("image", "disk1", "server"):
        assert run_until_killed(tmp_path, "protect", "-", "on_abort", name, "before")

    assert recover(tmp_path) == ["failed"]
    assert recover(tmp_path) == []


def test_new_operations_wait_behind_recovered_ones(tmp_path):
    assert run_until_killed(tmp_path, "protect", "-", "on_prepare_begin", "image", "after")
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(tmp_path))
        plan = Plan("plan", "local", [Resource(killed_process.TYPE, "server")])
        checkpoint = service.protect(plan).result(DEADLINE)
        (old,) = service.recovered

        assert old.status == "failed"
        assert checkpoint.status is CheckpointStatus.AVAILABLE
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    aborts = [n for n, line in enumerate(lines) if line[2] == "on_abort"]
    fresh = [
        n for n, line in enumerate(lines) if not line[-1].startswith(old.id) and line[0] == "begin"
    ]
    assert max(aborts) < min(fresh)


def test_a_start_drops_the_journals_of_what_had_ended(tmp_path):
    """An operation killed between its end and its tidying leaves a journal behind."""
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(tmp_path))
        plan = Plan("plan", "local", [Resource(killed_process.TYPE, "server")])
        service.protect(plan).result(DEADLINE)
    with Bank.open(tmp_path / "bank") as bank:
        (record,) = bank.journal.operations()
        left = JournalRecord.of_hooks([1], [2])
        bank.writer.write(lambda txn: bank.journal.append(txn, record.number, left))
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(tmp_path))

        assert service.recovered == []
        assert service.provider("local").bank.info()["rows"]["journal"] == 0


def test_only_the_part_of_an_isolated_protect_that_was_held_is_undone(tmp_path):
    place = ("on_prepare_begin", "image", "after")
    assert run_until_killed(tmp_path, "protect", "-", *place, isolate=True)

    assert recover(tmp_path) == ["partial"]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    aborted = {line[3] for line in lines if line[2] == "on_abort"}
    assert aborted == {"server", "disk1", "disk2", "image"}
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        (checkpoint,) = bank.checkpoints()
        assert checkpoint.status is CheckpointStatus.PARTIAL
        lone = Resource(killed_process.TYPE, "lone")
        assert checkpoint.resource_status(lone) == "available"
        section = checkpoint.get_resource_bank_section(lone)
        assert [info.key for info in section.list_streams()] == ["data"]


def test_what_was_decided_of_a_part_stays_decided_when_its_recovery_is_killed(tmp_path):
    place = ("on_prepare_begin", "image", "after")
    assert run_until_killed(tmp_path, "protect", "-", *place, isolate=True)
    again = ("on_abort", "image", "after")
    assert run_until_killed(tmp_path, "protect", "-", *again, isolate=True)

    assert recover(tmp_path) == ["partial"]
    assert recover(tmp_path) == []
