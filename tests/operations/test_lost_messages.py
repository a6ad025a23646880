"""Messages of an operation's actors that are lost, or come twice: it ends all the same."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import ProtectionService
from karbor_actors.operations.limits import alarms
from karbor_actors.testing import FaultPlan, Rule
from kit import RecordingProtection, failing, plan, provider, store_something

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource

TO_SUPERVISORS = ("Begin", "StepDone", "LookAtOutbox", "Flush")
TO_HOOKS = ("RunHook", "IntentDurable", "CompletionDurable", "BodyFailed")
TO_ABORTS = ("RunAbort", "AbortSucceeded")
TREE = {"server": ["disk1", "disk2"]}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "LOOK_EVERY", 0.05)


def run(path: Path, journal, action: str, message: str, *, breaks: bool) -> str:
    """Protect a tree, with *action* at the first *message*; return how the operation ended."""
    behave = failing(("on_main", "disk1")) if breaks else store_something
    rule = Rule("message", action, where={"message": message}, nth=1)
    with ProtectionService(workers=4) as service:
        plugin = RecordingProtection(journal, behave)
        service.add_provider(provider(path / "bank", plugin, TREE))
        with FaultPlan([rule], seed=1).installed() as faults:
            handle = service.protect(plan("server"))
            assert handle.wait(DEADLINE), "it hangs"
        assert faults.fired
        records = service.operation_history("local")
        assert all(record.status.is_terminal for record in records)
    return str(handle.status)


@pytest.mark.parametrize("message", TO_SUPERVISORS)
def test_what_a_supervisor_was_not_told_it_finds_out(tmp_path, journal, message):
    assert run(tmp_path, journal, "lose", message, breaks=False) == "succeeded"


@pytest.mark.parametrize("action", ["lose", "duplicate"])
def test_who_waits_for_its_locks_begins_once_however_often_it_is_told(tmp_path, journal, action):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if hook == "on_main":
            gate.pass_through()

    rule = Rule("message", action, where={"message": "LocksGranted"}, nth=1)
    with ProtectionService(workers=4) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave), {}))
        with FaultPlan([rule], seed=1).installed() as faults:
            first = service.protect(plan("server"))
            gate.wait_entered()
            second = service.protect(plan("server"))
            deadline = time.monotonic() + DEADLINE
            while second.id not in service._engine._waiting:
                assert time.monotonic() < deadline, "it waits for no locks"
                time.sleep(0.001)
            gate.open()
            assert first.wait(DEADLINE)
            assert second.wait(DEADLINE), "it hangs"
        assert faults.fired
    assert (first.status, second.status) == ("succeeded", "succeeded")
    assert len(journal.hooks()) == 2 * 4, "a body ran twice"


@pytest.mark.parametrize("message", TO_HOOKS)
def test_a_hook_whose_message_is_lost_fails_its_operation(tmp_path, journal, message):
    breaks = message == "BodyFailed"
    assert run(tmp_path, journal, "lose", message, breaks=breaks) == "failed"
    if message not in {"IntentDurable", "RunHook"}:
        assert "server" in journal.aborted()


@pytest.mark.parametrize("message", TO_ABORTS)
def test_an_abort_whose_message_is_lost_leaves_its_resource_pending(tmp_path, journal, message):
    assert run(tmp_path, journal, "lose", message, breaks=True) == "failed"


@pytest.mark.parametrize("message", [*TO_SUPERVISORS, *TO_HOOKS, *TO_ABORTS])
def test_a_message_that_comes_twice_changes_nothing(tmp_path, journal, message):
    breaks = message in (*TO_ABORTS, "BodyFailed")
    status = run(tmp_path, journal, "duplicate", message, breaks=breaks)
    assert status == ("failed" if breaks else "succeeded")
    bodies = journal.hooks()
    assert len(bodies) == len(set(bodies)), "a body ran twice"
