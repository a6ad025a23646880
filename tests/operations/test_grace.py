"""How long bodies that do not leave are waited for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import OperationStatus, ProtectionService, TimeLimits
from kit import Journal, RecordingProtection, plan, provider

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource


@pytest.mark.parametrize(
    "how", ["close", "close without drain", "cancel", "suspend before it fails"]
)
def test_a_main_that_does_not_leave_is_given_up_although_another_has_failed(
    tmp_path: Path, how: str
):
    """A failure alone gives bodies no grace: they may take their time. Who closes or cancels does not."""
    stays, fails, begun = Gate(), Gate(), threading.Barrier(3)

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            begun.wait(DEADLINE)
            if resource.id == "one":
                stays.pass_through()
            else:
                fails.pass_through()
                raise ValueError("bad luck")

    service = ProtectionService(workers=2, abort_grace=0.05)
    service.add_provider(
        provider(tmp_path / "bank", RecordingProtection(Journal(), behave, ("on_main",)))
    )
    handle = service.protect(plan("one", "two"))
    begun.wait(DEADLINE)
    if how == "suspend before it fails":
        handle.suspend()
    fails.open()
    if how != "suspend before it fails":
        while handle.status is not OperationStatus.ABORTING:
            assert not handle.wait(0.01)
    if how == "cancel":
        handle.cancel()
    if how.startswith("close"):
        closing = threading.Thread(target=service.close, kwargs={"drain": how == "close"})
        closing.start()
    assert handle.wait(DEADLINE)
    stays.open()
    service.close()
    assert handle.status is OperationStatus.FAILED


def test_what_came_back_while_it_was_undone_is_undone_once_more_before_its_parent(tmp_path: Path):
    late, undoing, undone = Gate(), Gate(), []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (resource.id, hook) == ("disk", "on_prepare_begin"):
            late.pass_through()
        if hook == "on_abort":
            undone.append(resource.id)
            if undone == ["disk"]:
                undoing.pass_through()

    hooks = ("on_prepare_begin", "on_prepare_finish", "on_abort")
    service = ProtectionService(workers=2)
    service.add_provider(
        provider(
            tmp_path / "bank",
            RecordingProtection(Journal(), behave, hooks),
            {"server": ["disk"]},
            time_limits=TimeLimits(prepare=0.1),
        )
    )
    handle = service.protect(plan("server"))
    undoing.wait_entered()
    late.open()
    while service.abandoned_threads:
        assert not handle.wait(0.01)
    handle.progress()  # answered after what the body that came back has told
    undoing.open()

    assert handle.wait(DEADLINE)
    service.close()
    assert undone == ["disk", "disk", "server"]
