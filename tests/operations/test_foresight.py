"""A completion and the intents that it lets through are one commit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from helpers import DEADLINE, Gate
from karbor_actors import CheckpointStatus, OperationStatus, ProtectionService
from karbor_actors.bank.database.environment import Outcome
from karbor_actors.bank.journal.records import replay
from karbor_actors.errors import BankFullError
from kit import Journal, RecordingProtection, plan, provider, store_something

if TYPE_CHECKING:
    import pytest

LENGTH = 12
CHAIN = {f"d{n}": [f"d{n + 1}"] for n in range(LENGTH - 1)}
FEW = 8
"""Commits of an operation's beginning and end, at the most."""


class CountedCommits:
    """Counts a bank's commits, and lets a test stop at one."""

    def __init__(self, bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.gate, self.stop_at = 0, Gate(), 0
        commit = bank._environment.commit_group

        def commit_group(changes: Any) -> Any:
            self.count += 1
            if self.count == self.stop_at:
                self.gate.pass_through()
            return commit(changes)

        monkeypatch.setattr(bank._environment, "commit_group", commit_group)


def test_a_chain_whose_hooks_can_be_undone_takes_one_commit_a_hook(tmp_path, journal, monkeypatch):
    with ProtectionService(workers=4) as service:
        plugin = RecordingProtection(journal, store_nothing)
        service.add_provider(provider(tmp_path / "bank", plugin, CHAIN))
        commits = CountedCommits(service.provider("local").bank, monkeypatch)
        service.protect(plan("d0")).result(DEADLINE)

    hooks = [hook for hook, _ in journal.hooks() if hook != "on_abort"]
    assert len(hooks) == 4 * LENGTH
    assert commits.count <= len(hooks) + FEW


def test_hooks_that_are_passed_over_are_seen_through(tmp_path, journal, monkeypatch):
    with ProtectionService(workers=4) as service:
        plugin = RecordingProtection(journal, store_nothing, ("on_prepare_begin", "on_abort"))
        service.add_provider(provider(tmp_path / "bank", plugin, CHAIN))
        commits = CountedCommits(service.provider("local").bank, monkeypatch)
        service.protect(plan("d0")).result(DEADLINE)

    assert commits.count <= LENGTH + FEW


class LastCommit:
    """Stops the commit of a lone resource's last completion; notes it, and the manifest's put."""

    def __init__(self, service: Any, tmp_path: Any, journal: Journal, monkeypatch: Any) -> None:
        self.seen: list[str] = []
        self.was_put, self.may_run = threading.Event(), Gate()
        service.add_provider(
            provider(tmp_path / "bank", RecordingProtection(journal, self._behave))
        )
        self.bank = service.provider("local").bank
        self.commits = CountedCommits(self.bank, monkeypatch)
        objects = self.bank._parts.blocks.objects
        put = objects.put

        def noting_put(*arguments: Any) -> None:
            self.seen.append("put")
            self.was_put.set()
            put(*arguments)

        monkeypatch.setattr(objects, "put", noting_put)

    def _behave(self, verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
        if hook == "on_main":
            self.may_run.pass_through()
        elif hook == "on_complete":
            self.commits.stop_at = self.commits.count + 1

    def let_go(self) -> None:
        """Let the commit go on."""
        self.seen.append("committed")
        self.commits.gate.open()


def test_the_manifest_is_made_while_the_last_completion_is_being_written(
    tmp_path, journal, monkeypatch
):
    with ProtectionService(workers=4) as service:
        last = LastCommit(service, tmp_path, journal, monkeypatch)
        last.may_run.open()
        handle = service.protect(plan("lone"))
        last.commits.gate.wait_entered()
        assert last.was_put.wait(DEADLINE)
        assert not handle.wait(0)
        assert last.bank.checkpoints(status=CheckpointStatus.AVAILABLE) == []

        last.let_go()
        assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE
        assert last.bank.check() == []


def test_who_listens_hears_of_a_last_completion_that_is_durable(tmp_path, journal, monkeypatch):
    with ProtectionService(workers=4) as service:
        last = LastCommit(service, tmp_path, journal, monkeypatch)
        handle = service.protect(plan("lone"))
        events = handle.events()
        last.may_run.open()
        last.commits.gate.wait_entered()
        last.let_go()
        handle.result(DEADLINE)

    completed = [event.hook for event in events if event.kind == "hook_completed"]
    assert completed[-1] == "on_complete"
    assert last.seen == ["committed", "put"]


def test_an_operation_whose_end_is_recorded_has_ended_well_without_its_last_completion(
    tmp_path, journal, monkeypatch
):
    with ProtectionService(workers=4) as service:
        last = LastCommit(service, tmp_path, journal, monkeypatch)
        last.may_run.open()
        commit = last.bank._environment.commit_group

        def failing_once(changes: Any) -> Any:
            if last.commits.stop_at == last.commits.count + 1:
                last.commits.stop_at = -1
                return [Outcome(None, BankFullError("the disk is full")) for _ in changes]
            return commit(changes)

        monkeypatch.setattr(last.bank._environment, "commit_group", failing_once)
        handle = service.protect(plan("lone"))
        assert handle.wait(DEADLINE)
        found = last.bank.checkpoint(handle.checkpoint_id)

        if handle.status is OperationStatus.SUCCEEDED:
            assert found.status is CheckpointStatus.AVAILABLE
            assert journal.aborted() == []
        else:  # they were of one group
            assert found.status is CheckpointStatus.ERROR
            assert journal.aborted() == ["lone"]
        assert last.commits.stop_at == -1
        assert last.bank.check() == []


def store_nothing(*_: Any) -> None:
    """Behave as if there were nothing to store: a section's record is a commit of its own."""


def test_a_hook_that_does_not_run_after_all_has_made_no_attempt(tmp_path, journal, monkeypatch):
    """It was let through by what is written while the service closes."""
    gate = Gate()

    def behave(verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
        if hook == "on_main":
            gate.pass_through()

    service = ProtectionService(workers=4)
    service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
    commits = CountedCommits(service.provider("local").bank, monkeypatch)
    handle = service.protect(plan("lone"))
    gate.wait_entered()
    commits.stop_at = commits.count + 1
    gate.open()
    commits.gate.wait_entered()
    closer = threading.Thread(target=service.close)
    closer.start()
    poll = threading.Event()
    while not handle.is_suspended:
        poll.wait(0.001)
    handle.progress()  # answered after what it was told before
    commits.gate.open()
    closer.join(DEADLINE)
    assert handle.status is OperationStatus.SUSPENDED

    attempts: dict[str, int] = {}

    def count(verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        attempts[hook] = call["context"].attempt

    with ProtectionService(workers=4) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(Journal(), count)))
        (resumed,) = service.recovered
        assert resumed.result(DEADLINE).status is CheckpointStatus.AVAILABLE
    assert attempts == {"on_complete": 1}


def test_what_was_let_through_is_in_the_journal_with_what_let_it(tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Any, call: dict[str, Any]) -> None:
        if hook == "on_main":
            gate.pass_through()

    with ProtectionService(workers=4) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        bank = service.provider("local").bank
        handle = service.protect(plan("lone"))
        gate.wait_entered()
        records = list(bank.journal.read(bank.journal.get(handle.id).number))
        gate.open()
        handle.result(DEADLINE)

    assert [(list(r.intents), list(r.completions)) for r in records] == [
        ([0], []),
        ([1], [0]),
        ([2], [1]),
    ]
    assert replay(records).attempts == {0: 1, 1: 1, 2: 1}
