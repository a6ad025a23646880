"""What is undone takes back the hooks that wait for a worker, which others may keep for long."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import HookName, ProtectionService
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.operations.limits import alarms
from kit import RecordingProtection, plan, provider

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource


class BegunOnTheLoop(RecordingProtection):
    """Freezes on the event loop and thaws on a worker, for which it needs no place."""

    def _hook(self, verb: str, name: str) -> Any:
        self.is_async = name == "on_prepare_begin"
        return super()._hook(verb, name)


def wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_hook_that_waits_for_a_worker_keeps_no_operation_from_being_undone(
    tmp_path: Path, journal, monkeypatch, end
):
    """Its resource stayed frozen until the other operation's hook was done, or for the grace."""
    monkeypatch.setattr(alarms, "LOOK_EVERY", 3600.0)
    long, bad = Gate(), Gate()

    def fail() -> None:
        bad.pass_through()
        raise ValueError("as asked")

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
        if (hook, resource.id) == ("on_prepare_finish", "long"):
            long.pass_through()
        if (hook, resource.id) == ("on_prepare_begin", "bad"):
            return asyncio.to_thread(fail)
        return None

    with ProtectionService(workers=1, abort_grace=3600.0) as service:
        service.add_provider(provider(tmp_path / "bank", BegunOnTheLoop(journal, behave)))
        other = service.protect(plan("long"))
        long.wait_entered()
        undone = service.protect(plan("frozen", "bad") if end == "fail" else plan("frozen"))
        lane = service._own_engine.runners._lanes[Lane.PREPARE]
        wait_until(lambda: lane.queue)  # the thaw: the only worker has the other one's
        bad.open()
        if end == "cancel":
            undone.cancel()
        assert undone.wait(DEADLINE)
        assert undone.status == ("cancelled" if end == "cancel" else "failed")
        assert "frozen" in journal.aborted()
        assert ("on_prepare_finish", "frozen") not in journal.hooks()
        assert not lane.queue
        assert not other.wait(0)
        long.open()
        other.result(DEADLINE)


class Racing(Attempt):
    """An attempt that a worker begins just as it is fenced off."""

    __slots__ = ("looks",)

    @property
    def began_at(self) -> float | None:
        self.looks += 1
        return 1.0 if self.looks > 1 else None

    @began_at.setter
    def began_at(self, _: float | None) -> None:
        self.looks = 0


@pytest.mark.parametrize("kind", [Attempt, Racing])
def test_only_what_has_not_begun_is_taken_back(kind):
    attempt = kind(None, 0, 0, HookName.ON_MAIN, 1, Lane.MAIN, lambda _: None)
    if kind is Attempt:
        assert attempt.take_back()
        assert attempt.is_fenced
        attempt.is_fenced, attempt.began_at = False, 1.0
    assert not attempt.take_back()
    assert not attempt.is_fenced
