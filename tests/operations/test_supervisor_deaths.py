"""A supervisor that dies at any message: a bug, which must leave nothing half done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors import CheckpointStatus, OperationStatus, ProtectionService
from karbor_actors.operations.messages import LookAround, StepDone
from karbor_actors.operations.supervisor import SupervisorActor
from kit import Journal, RecordingProtection, plan, provider, store_something

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.crash_expected
TREE = {"server": ["disk"]}
ENDED = {CheckpointStatus.AVAILABLE, CheckpointStatus.ERROR}


class Mortal:
    """Kills the first supervisor before or after it has handled its *nth* message."""

    def __init__(self, nth: int, *, after: bool) -> None:
        self.left, self.after = nth, after
        self.has_died = False
        self._receive = SupervisorActor.on_receive

    def on_receive(self, actor: SupervisorActor, message: Any) -> Any:
        if isinstance(message, LookAround):
            return self._receive(actor, message)
        self.left -= 1
        if self.left:
            return self._receive(actor, message)
        self.has_died = True
        if self.after:
            self._receive(actor, message)
        raise ZeroDivisionError("a bug")


def _protect(path: Path, journal: Journal) -> Iterator[Any]:
    with ProtectionService(workers=2) as service:
        plugin = RecordingProtection(journal, store_something)
        service.add_provider(provider(path / "bank", plugin, TREE))
        handle = service.protect(plan("server"))
        assert handle.wait(DEADLINE)
        yield handle
        bank = service.provider("local").bank
        statuses = {checkpoint.status for checkpoint in bank.checkpoints()}
        assert statuses <= ENDED
        records = list(bank.journal.operations())
        assert [record.id for record in records] == [handle.id] * len(records)
        assert all(record.status.is_terminal for record in records)
        assert service.protect(plan("server")).result(DEADLINE).status == "available"


@pytest.mark.parametrize("after", [False, True])
def test_whatever_message_a_supervisor_dies_of_its_operation_and_checkpoint_end(
    tmp_path, monkeypatch, after
):
    """One message after the other, until an operation ends with fewer."""
    monkeypatch.setattr("karbor_actors.operations.limits.alarms.LOOK_EVERY", 10_000.0)
    for nth in range(1, 200):
        mortal, journal = Mortal(nth, after=after), Journal()
        with monkeypatch.context() as patched:
            patched.setattr(
                SupervisorActor,
                "on_receive",
                lambda actor, message, mortal=mortal: mortal.on_receive(actor, message),
            )
            checked = _protect(tmp_path / f"{nth}", journal)
            handle = next(checked)
        is_over = not mortal.has_died
        if handle.status is not OperationStatus.SUCCEEDED:
            begun = {name for hook, name in journal.hooks() if hook != "on_abort"}
            assert handle.status is OperationStatus.FAILED
            assert "a bug" in str(handle.exception())
            assert begun <= set(journal.aborted())  # one may have been about to begin
        assert list(checked) == []
        if is_over:
            break
    else:
        pytest.fail("the operation never ended with fewer messages")


def test_a_supervisor_that_dies_of_what_it_opened_ends_it(tmp_path, monkeypatch):
    """The step has made a checkpoint, and its supervisor has not begun to run its hooks."""
    opened, journal, left = SupervisorActor._opened, Journal(), [1]

    def dies(actor: SupervisorActor, run: Any) -> None:
        if left:
            left.pop()
            raise ZeroDivisionError("a bug")
        opened(actor, run)

    monkeypatch.setattr(SupervisorActor, "_opened", dies)
    checked = _protect(tmp_path, journal)
    handle = next(checked)

    assert handle.status is OperationStatus.FAILED
    assert "a bug" in str(handle.exception())
    assert journal.entries == []
    assert list(checked) == []


def test_messages_that_end_steps_are_among_those(tmp_path, monkeypatch):
    """Else the first test would say nothing of opening and closing."""
    seen, receive = [], SupervisorActor.on_receive

    def watched(actor: SupervisorActor, message: Any) -> Any:
        if isinstance(message, StepDone):
            seen.append(message.step.name)
        return receive(actor, message)

    monkeypatch.setattr(SupervisorActor, "on_receive", watched)
    checked = _protect(tmp_path, Journal())
    next(checked)

    assert seen == ["plan", "open", "close"]
    assert list(checked) == []
