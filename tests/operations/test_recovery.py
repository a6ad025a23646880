"""Processes killed with SIGKILL in a hook: what the next one makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import killed_process
from helpers import DEADLINE
from karbor_actors import Bank, CheckpointStatus, Plan, ProtectionService, Resource
from karbor_actors.bank.journal_records import JournalRecord

SCRIPT = Path(killed_process.__file__)
HOOKS = ("on_prepare_begin", "on_prepare_finish", "on_main", "on_complete")
POINTS = [
    (hook, name, when)
    for hook in HOOKS
    for name, when in (("server", "after"), ("disk1", "before"), ("image", "after"))
]


def run_until_killed(
    directory: Path, verb: str, checkpoint: str, *kill: str, isolate: bool = False
) -> bool:
    """Run a process that kills itself in a hook; return whether it did."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(directory), verb, checkpoint, *kill],
        check=False,
        timeout=DEADLINE,
        capture_output=True,
        text=True,
        env={**os.environ, "ISOLATE": "1"} if isolate else None,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == -signal.SIGKILL


def recover(directory: Path) -> list[str]:
    """Open the bank again, let everything be taken up; return how each operation ended."""
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(directory))
        ended = []
        for handle in service.recovered:
            assert handle.wait(DEADLINE)
            ended.append(str(handle.status))
        bank = service.provider("local").bank
        assert all(record.status.is_terminal for record in bank.journal.operations())
        assert bank.check(deep=True) == []
    assert not list(directory.glob("frozen-*")), "something stays frozen"
    check_order(directory)
    return ended


def check_order(directory: Path) -> None:
    """No edge of the guide is broken, over all processes; a completed hook never ran again."""
    lines = [line.split() for line in (directory / "log").read_text().splitlines()]
    for verb in ("protect", "restore"):
        own = [line for line in lines if line[1] == verb and line[2] in HOOKS]
        begins = {
            (line[2], line[3]): n
            for n, line in reversed(list(enumerate(own)))
            if line[0] == "begin"
        }
        last = {(line[2], line[3]): n for n, line in enumerate(own) if line[0] == "begin"}
        ends = {(line[2], line[3]): n for n, line in enumerate(own) if line[0] == "end"}
        edges = [
            ((a, n), (b, n))
            for n in ("server", "disk1", "disk2", "image")
            for a, b in pairwise(HOOKS)
        ]
        for parent, children in killed_process.CHILDREN.items():
            for child in children:
                edges.append(((HOOKS[0], parent), (HOOKS[0], child)))
                edges.append(((HOOKS[1], child), (HOOKS[1], parent)))
                edges.append(((HOOKS[3], child), (HOOKS[3], parent)))
        for before, after in edges:
            if after in begins:
                assert before in ends
                assert ends[before] < begins[after], f"{after} began before {before} ended"
                assert last[before] < begins[after], f"{before} ran again after {after} began"
        keys = {}
        for line in own:
            if line[0] == "begin":
                assert keys.setdefault((line[2], line[3]), line[5]) == line[5]


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
