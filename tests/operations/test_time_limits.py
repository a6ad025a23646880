"""Hooks that take too long: given up, fenced off, undone, and undone again when they return."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors import (
    Operation,
    OperationError,
    OperationStatus,
    ProtectionService,
    ResourceStatus,
    RetryPolicy,
    TimeLimits,
)
from karbor_actors.errors import FencedError
from kit import TYPE, Journal, RecordingProtection, plan, provider, thing

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource

SHORT = 0.05


def service_with(
    path: Path, journal: Journal, behave: Any, limits: Any, children: Any = None, **kwargs: Any
) -> ProtectionService:
    service = ProtectionService(workers=2)
    plugin = RecordingProtection(journal, behave, **kwargs)
    service.add_provider(provider(path / "bank", plugin, children, time_limits=limits))
    return service


def join_workers() -> None:
    """Wait for the threads whose hooks were given up: closing does not."""
    for thread in threading.enumerate():
        if thread.name.startswith(("karbor-prepare", "karbor-main", "karbor-abort")):
            thread.join(DEADLINE)


@pytest.mark.parametrize(
    ("hook", "limits"),
    [
        ("on_prepare_begin", TimeLimits(prepare=SHORT)),
        ("on_main", TimeLimits(main=SHORT)),
        ("on_complete", TimeLimits(complete=SHORT)),
        ("on_prepare_finish", TimeLimits(max_quiesce=SHORT, prepare=5 * SHORT)),
    ],
)
def test_a_hung_hook_is_given_up_and_its_operation_ends_before_it_returns(
    tmp_path, journal, hook, limits
):
    returns, late = threading.Event(), []

    def behave(verb: str, found: str, resource: Resource, call: dict[str, Any]) -> None:
        if found == hook:
            assert returns.wait(DEADLINE)
            try:
                call["context"].state["written"] = "late"
            except FencedError as error:
                late.append(error)

    service = service_with(tmp_path, journal, behave, {TYPE: limits})
    try:
        handle = service.protect(plan("one"))
        with pytest.raises(OperationError, match="longer than"):
            handle.result(DEADLINE)
        assert handle.status is OperationStatus.FAILED
        assert journal.aborted() == ["one"]
        (checkpoint,) = service.provider("local").bank.checkpoints()
        assert checkpoint.resource_status(thing("one")) is ResourceStatus.ABORT_PENDING
    finally:
        returns.set()
        service.close()
    join_workers()
    assert len(late) == 1


def test_what_a_late_hook_froze_is_thawed_again(tmp_path, journal):
    """The freeze succeeds after its abort had run: the abort runs once more."""
    returns, hold, thaws = threading.Event(), threading.Event(), []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_prepare_begin", "slow"):
            assert returns.wait(DEADLINE)
        if (hook, resource.id) == ("on_main", "other"):
            assert hold.wait(DEADLINE)  # keeps the operation going
        if (hook, resource.id) == ("on_abort", "slow"):
            thaws.append(returns.is_set())
            (hold if returns.is_set() else returns).set()

    service = service_with(tmp_path, journal, behave, TimeLimits(prepare=SHORT))
    try:
        handle = service.protect(plan("slow", "other"))
        assert handle.wait(DEADLINE)
    finally:
        returns.set()
        hold.set()
        service.close()

    assert thaws == [False, True]


def test_progress_keeps_a_long_main_hook_alive(tmp_path, journal):
    never = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        for done in range(40 if hook == "on_main" else 0):
            call["context"].progress(done, 40)
            never.wait(SHORT / 5)

    service = service_with(tmp_path, journal, behave, TimeLimits(main=4 * SHORT))
    try:
        assert service.protect(plan("one")).result(DEADLINE).status == "available"
    finally:
        service.close()


def test_an_async_hook_that_hangs_is_cancelled(tmp_path, journal):
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
        return hang() if hook == "on_main" else None

    service = service_with(tmp_path, journal, behave, TimeLimits(main=SHORT), is_async=True)
    try:
        with pytest.raises(OperationError, match="longer than"):
            service.protect(plan("one")).result(DEADLINE)
        assert cancelled.wait(DEADLINE)
        assert set(journal.aborted()) == {"one"}
    finally:
        service.close()


def test_a_hung_abort_leaves_its_resource_abort_pending_and_the_operation_ends(tmp_path, journal):
    returns = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            raise OSError("broke")
        if hook == "on_abort":
            assert returns.wait(DEADLINE)

    service = service_with(tmp_path, journal, behave, TimeLimits(abort=SHORT))
    try:
        with pytest.raises(OperationError, match="broke"):
            service.protect(plan("one")).result(DEADLINE)
        (checkpoint,) = service.provider("local").bank.checkpoints()
        assert checkpoint.resource_status(thing("one")) is ResourceStatus.ABORT_PENDING
        assert journal.aborted() == ["one"] * 3
    finally:
        returns.set()
        service.close()
    join_workers()


def test_hung_hooks_do_not_use_up_the_workers(tmp_path, journal):
    returns = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main" and resource.id.startswith("hung"):
            assert returns.wait(DEADLINE)

    service = service_with(tmp_path, journal, behave, TimeLimits(main=SHORT), hooks=("on_main",))
    try:
        hung = [service.protect(plan(f"hung{number}")) for number in range(6)]
        assert all(handle.wait(DEADLINE) for handle in hung)
        assert service.protect(plan("well")).result(DEADLINE).status == "available"
    finally:
        returns.set()
        service.close()
    join_workers()


def test_a_resource_is_held_until_the_hook_that_its_operation_names(tmp_path, journal):
    """A span that lasts to on_main: the limit counts until then."""
    never = threading.Event()

    class Holding(RecordingProtection):
        def operation(self, verb: str, resource: Resource) -> Operation | None:
            made = super().operation(verb, resource)
            if made is not None:
                type(made).held_until = "on_main"  # type: ignore[assignment]
            return made

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        while hook == "on_main":
            call["context"].check_cancelled()
            never.wait(0.001)

    service = ProtectionService(workers=2)
    limits = TimeLimits(max_quiesce=SHORT)
    plugin = Holding(journal, behave)
    service.add_provider(provider(tmp_path / "bank", plugin, time_limits=limits))
    try:
        with pytest.raises(OperationError, match="max_quiesce"):
            service.protect(plan("one")).result(DEADLINE)
        assert journal.aborted() == ["one"]
    finally:
        service.close()


@pytest.mark.parametrize("limit", [0, -1.0])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="main must be more than 0"):
        TimeLimits(main=limit)


def test_a_time_out_that_a_plugin_raises_is_tried_again_like_any_failure(tmp_path, journal):
    tries = []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            tries.append(call["context"].attempt)
            if len(tries) < 3:
                raise TimeoutError("the array took its time")

    retry = {"*": RetryPolicy(attempts=3, backoff=0.01)}
    with ProtectionService(workers=2) as service:
        plugin = RecordingProtection(journal, behave)
        service.add_provider(provider(tmp_path / "bank", plugin, retry=retry))
        service.protect(plan("one")).result(DEADLINE)
    assert tries == [1, 2, 3]
