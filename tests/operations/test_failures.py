"""Cancel, conflicts, dead actors and banks that cannot write, under running operations."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    CheckpointStatus,
    OperationError,
    OperationStatus,
    Plan,
    ProtectionService,
    ResourceStatus,
)
from karbor_actors.actors import ThreadDispatcher
from karbor_actors.bank.database.environment import Outcome
from karbor_actors.errors import (
    BankFullError,
    HookFailedError,
    OperationCancelledError,
    OperationNotFoundError,
    PluginError,
    ServiceClosedError,
)
from karbor_actors.operations.control import OperationControl
from karbor_actors.operations.hooks import hook as hook_module
from kit import TYPE, Journal, RecordingProtection, failing, plan, provider, store_something, thing

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource

TREE = {"server": ["disk1", "disk2"]}


def add(
    service: ProtectionService, path: Path, journal: Journal, behave: Any = None, **kw: Any
) -> RecordingProtection:
    children = kw.pop("children", TREE)
    plugin = RecordingProtection(journal, behave, **kw)
    service.add_provider(provider(path / "bank", plugin, children))
    return plugin


def waiting_at(gate: Gate, hook: str, name: str, *, polls: bool = False) -> Any:
    """Return a behaviour that waits at *gate* in one hook."""

    def behave(verb: str, found: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, found, resource, call)
        if (found, resource.id) == (hook, name):
            gate.pass_through()
            if polls:
                call["context"].check_cancelled()

    return behave


@pytest.mark.parametrize("polls", [False, True])
def test_cancel_starts_nothing_new_and_undoes_what_began(service, tmp_path, journal, polls):
    gate = Gate()
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "disk1", polls=polls))
    handle = service.protect(plan("server"))
    gate.wait_entered()
    assert handle.cancel()
    gate.open()

    with pytest.raises(OperationCancelledError):
        handle.result(DEADLINE)
    assert handle.status is OperationStatus.CANCELLED
    assert not handle.cancel()
    assert ("on_complete", "disk1") not in journal.hooks()
    assert set(journal.aborted()) == {"server", "disk1", "disk2"}
    assert journal.aborted()[-1] == "server"
    (checkpoint,) = service.provider("local").bank.checkpoints()
    assert checkpoint.status is CheckpointStatus.ERROR


def test_an_abort_does_not_wait_for_another_resources_main_hook(service, tmp_path, journal):
    """Disk1 copies on and on while disk2 fails: the server is thawed before the copy ends."""
    gate, thawed = Gate(), threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "disk1"):
            gate.pass_through()
        if (hook, resource.id) == ("on_main", "other"):
            gate.wait_entered()
            raise RuntimeError("broke")
        if (hook, resource.id) == ("on_abort", "other"):
            thawed.set()

    add(service, tmp_path, journal, behave)
    handle = service.protect(plan("disk1", "other"))
    try:
        assert thawed.wait(DEADLINE)
        assert not handle.wait(0)
    finally:
        gate.open()
    assert handle.wait(DEADLINE)
    assert set(journal.aborted()) == {"disk1", "other"}


def test_an_abort_that_cannot_succeed_leaves_its_resource_abort_pending_and_the_parent_undone(
    service, tmp_path, journal
):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        failing(("on_complete", "server"))(verb, hook, resource, call)
        if (hook, resource.id) == ("on_abort", "disk1"):
            raise OSError("the array does not answer")

    add(service, tmp_path, journal, behave)
    handle = service.protect(plan("server"))
    with pytest.raises(OperationError, match="the array does not answer"):
        handle.result(DEADLINE)

    (checkpoint,) = service.provider("local").bank.checkpoints()
    assert checkpoint.resource_status(thing("disk1")) is ResourceStatus.ABORT_PENDING
    assert checkpoint.resource_status(thing("server")) is ResourceStatus.ABORTED
    assert journal.aborted().count("disk1") == 3
    (record,) = service.operation_history("local")
    assert record.abort_pending == 1


def test_operations_on_one_resource_follow_each_other_and_others_run_beside(
    service, tmp_path, journal
):
    gate = Gate()
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    first = service.protect(plan("one"))
    gate.wait_entered()
    second = service.protect(plan("one"))
    beside = service.protect(plan("two"))
    beside.result(DEADLINE)

    assert not first.wait(0)
    assert second.status is OperationStatus.QUEUED
    gate.open()
    first.result(DEADLINE)
    second.result(DEADLINE)
    ids = [call["context"].idempotency_key for call in journal.calls if call["id"] == "one"]
    assert [key[:36] for key in ids] == [first.id] * 4 + [second.id] * 4


def test_a_protect_that_waited_looks_at_its_resources_again(service, tmp_path, journal):
    gate, children = Gate(), {"one": ["before"]}
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children=children)
    first = service.protect(plan("one"))
    gate.wait_entered()
    second = service.protect(plan("one"))
    children["one"] = ["after"]
    gate.open()
    first.result(DEADLINE)
    graph = second.result(DEADLINE).resource_graph

    assert (TYPE, "after") in graph
    assert (TYPE, "before") not in graph


def test_a_waiting_operation_can_be_cancelled(service, tmp_path, journal):
    gate = Gate()
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    first = service.protect(plan("one"))
    gate.wait_entered()
    second = service.protect(plan("one"))
    second.cancel()
    with pytest.raises(OperationCancelledError):
        second.result(DEADLINE)
    gate.open()
    first.result(DEADLINE)

    assert len([1 for hook, _ in journal.hooks() if hook == "on_main"]) == 1


def test_delete_waits_for_a_restore_that_reads_the_checkpoint(service, tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("restore", "on_main"):
            gate.pass_through()

    add(service, tmp_path, journal, behave, children={})
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    restore = service.restore(checkpoint.id)
    gate.wait_entered()
    delete = service.delete(checkpoint.id)
    assert not delete.wait(0.05)
    gate.open()
    restore.result(DEADLINE)
    delete.result(DEADLINE)

    assert ("delete", "on_main", "one") in journal.entries


@pytest.mark.crash_expected
def test_a_dead_hook_actor_fails_its_own_operation_only(service, tmp_path, journal, monkeypatch):
    add(service, tmp_path, journal)
    original = hook_module.HookActor.on_receive

    def dies(self: Any, message: Any) -> None:
        graph = self.control.run.planned.graph
        if type(message).__name__ == "CompletionDurable" and (TYPE, "disk1") in graph:
            raise ZeroDivisionError("a bug")
        original(self, message)

    monkeypatch.setattr(hook_module.HookActor, "on_receive", dies)
    with pytest.raises(OperationError, match="a bug"):
        service.protect(plan("server")).result(DEADLINE)

    assert journal.aborted() == ["server"]
    assert service.protect(plan("lone")).result(DEADLINE).status is CheckpointStatus.AVAILABLE


@pytest.mark.parametrize("after", ["_journal_written", "_begin"])
def test_a_hook_that_is_failed_while_a_message_waits_for_its_actor_kills_no_actor(
    service, tmp_path, journal, monkeypatch, after
):
    """As when what holds it passes its limit between the message and the actor's turn."""
    monkeypatch.setattr(ThreadDispatcher, "run_all", ThreadDispatcher.schedule_all)
    hooks = ("on_prepare_begin", "on_main", "on_abort") if after == "_journal_written" else ()
    add(service, tmp_path, journal, hooks=hooks or ("on_main",))
    original = getattr(OperationControl, after)

    def loses(self: Any, given: Any) -> None:
        original(self, given)
        for hook in given.intents if after == "_journal_written" else given:
            error = HookFailedError((TYPE, "disk1"), "on_main", 1, "it took too long")
            self.lose_hook(hook, error)

    monkeypatch.setattr(OperationControl, after, loses)
    handle = service.protect(plan("server"), on_failure="isolate")

    assert isinstance(handle.exception(DEADLINE), OperationError)
    assert "it took too long" in str(handle.exception(0))
    assert {hook for hook, _ in journal.hooks()} <= {"on_abort"}


@pytest.mark.crash_expected
@pytest.mark.parametrize("deaths", [1, 2])
def test_a_dead_supervisor_ends_its_own_operation_and_its_successor_undoes_what_began(
    service, tmp_path, journal, monkeypatch, deaths
):
    gate, left = Gate(), [deaths]
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "disk1"))
    handle = service.protect(plan("server"))
    gate.wait_entered()
    original = OperationControl.take_reports

    def dies(self: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise ZeroDivisionError("a bug")
        original(self)

    monkeypatch.setattr(OperationControl, "take_reports", dies)
    gate.open()
    with pytest.raises(OperationError, match="a bug"):
        handle.result(DEADLINE)

    assert handle.status is OperationStatus.FAILED
    if deaths == 1:
        assert journal.aborted()[-1] == "server"
    assert service.protect(plan("lone")).result(DEADLINE).status is CheckpointStatus.AVAILABLE


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("nth", range(1, 14))
def test_a_bank_that_fails_at_its_nth_commit_ends_the_operation_and_undoes_what_began(
    tmp_path, journal, monkeypatch, nth, is_async
):
    """Whatever commit fails: the operation ends, and nothing that began stays so."""
    with ProtectionService(workers=4) as service:
        add(service, tmp_path, journal, is_async=is_async)
        bank = service.provider("local").bank
        environment = bank._environment
        commit, counted = environment.commit_group, [0]

        def commit_group(changes: Any) -> Any:
            counted[0] += 1
            if counted[0] == nth:
                return [Outcome(None, BankFullError("the disk is full")) for _ in changes]
            return commit(changes)

        monkeypatch.setattr(environment, "commit_group", commit_group)
        handle = service.protect(plan("server"))
        assert handle.wait(DEADLINE)
        error = handle.exception()
        began = {n for hook, n in journal.hooks() if hook != "on_abort"}
        if counted[0] < nth:
            assert error is None
        elif error is not None:
            assert "the disk is full" in str(error)
            assert set(journal.aborted()) == began
        assert handle.status.is_terminal
        assert bank.check() == []


def test_a_bank_that_never_writes_again_still_lets_everything_be_undone(
    tmp_path, journal, monkeypatch
):
    broken = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "disk1"):
            broken.set()

    with ProtectionService(workers=4) as service:
        add(service, tmp_path, journal, behave)
        environment = service.provider("local").bank._environment
        commit = environment.commit_group

        def commit_group(changes: Any) -> Any:
            if broken.is_set():
                return [Outcome(None, BankFullError("the disk is full")) for _ in changes]
            return commit(changes)

        monkeypatch.setattr(environment, "commit_group", commit_group)
        handle = service.protect(plan("server"))
        with pytest.raises(OperationError, match="the disk is full"):
            handle.result(DEADLINE)
        assert set(journal.aborted()) == {"server", "disk1", "disk2"}
        broken.clear()


def test_many_operations_at_once_all_end(tmp_path, journal):
    with ProtectionService(workers=4) as service:
        add(service, tmp_path, journal, failing(("on_main", "7"), ("on_main", "30")), children={})
        handles = [
            service.protect(Plan("many", "local", [thing(str(number))])) for number in range(60)
        ]
        statuses = [handle.wait(DEADLINE) and handle.status for handle in handles]

    assert statuses.count(OperationStatus.FAILED) == 2
    assert statuses.count(OperationStatus.SUCCEEDED) == 58


def test_who_waits_before_closing_sees_the_end_and_a_closed_service_refuses_what_comes(
    tmp_path, journal
):
    gate = Gate()
    service = ProtectionService(workers=4)
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    handle = service.protect(plan("one"))
    gate.wait_entered()
    assert not service.wait(0)
    gate.open()
    assert service.wait(DEADLINE)
    service.close()

    assert handle.status is OperationStatus.SUCCEEDED
    with pytest.raises(ServiceClosedError):
        service.protect(plan("one"))
    service.close()


def test_closing_without_draining_cancels_and_undoes(tmp_path, journal):
    gate = Gate()
    service = ProtectionService(workers=4)
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    handle = service.protect(plan("one"))
    gate.wait_entered()
    closer = threading.Thread(target=lambda: service.close(drain=False))
    closer.start()
    gate.open()
    closer.join(DEADLINE)

    assert handle.status is OperationStatus.CANCELLED
    assert journal.aborted() == ["one"]


def test_an_operations_time_limit_ends_it(tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        never = threading.Event()
        while hook == "on_main":
            call["context"].check_cancelled()
            never.wait(0.001)

    with ProtectionService(workers=4) as service:
        add(service, tmp_path, journal, behave, children={})
        handle = service.protect(plan("one"), timeout=0.05)
        with pytest.raises(OperationError, match=r"longer than 0\.05 s"):
            handle.result(DEADLINE)
    assert handle.status is OperationStatus.FAILED


def test_handles_say_how_far_they_are_and_tell_events(service, tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "disk1"):
            call["context"].progress(3, 10, "bytes")
            gate.pass_through()

    add(service, tmp_path, journal, behave)
    handle = service.protect(plan("server"))
    events = handle.events()
    gate.wait_entered()
    progress = handle.progress()
    (running,) = [r for r in progress.running if r.resource == (TYPE, "disk1")]
    assert (running.hook, running.done, running.total) == ("on_main", 3, 10)
    assert progress.hooks_total == 12
    assert service.operation(handle.id) is handle
    gate.open()
    called = threading.Event()
    handle.add_done_callback(lambda found: found is handle and called.set())
    handle.result(DEADLINE)

    kinds = [event.kind for event in events]
    assert kinds.count("hook_completed") <= 12
    assert kinds[-1] == "ended"
    assert called.wait(DEADLINE)
    assert handle.progress().hooks_done == 12
    assert list(handle.events()) == []
    with pytest.raises(OperationNotFoundError):
        service.operation(handle.id)


def test_a_handle_can_be_awaited_and_a_cancelled_waiter_cancels_nothing(service, tmp_path, journal):
    gate = Gate()
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    handle = service.protect(plan("one"))

    async def wait_for_it() -> Any:
        waiter = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(_result(handle)), 0.01))
        with pytest.raises(TimeoutError):
            await waiter
        gate.open()
        return await handle

    checkpoint = asyncio.run(wait_for_it())
    assert checkpoint.status is CheckpointStatus.AVAILABLE


async def _result(handle: Any) -> Any:
    return await handle


def test_who_awaits_a_handle_for_a_while_leaves_nothing_with_it(service, tmp_path, journal):
    gate = Gate()
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    handle = service.protect(plan("one"))

    async def ask_again() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(handle, 0.001)

    asyncio.run(ask_again())
    assert not handle._futures
    gate.open()
    handle.result(DEADLINE)


def test_a_waiter_that_has_gone_leaves_no_error_that_nobody_looked_at(
    service, tmp_path, journal, caplog
):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            gate.pass_through()
            raise ValueError("bad luck")

    add(service, tmp_path, journal, behave, children={})
    handle = service.protect(plan("one"))

    async def leave_and_come_again() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle, 0.01)
        gate.open()
        with pytest.raises(OperationError, match="bad luck"):
            await handle

    asyncio.run(leave_and_come_again())
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_async_hooks_run_side_by_side_on_one_thread(service, tmp_path, journal):
    inside: list[int] = []
    most = [0]

    async def slow() -> None:
        inside.append(1)
        most[0] = max(most[0], len(inside))
        for _ in range(50):
            await asyncio.sleep(0)
        inside.pop()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
        return slow() if hook == "on_main" else None

    children = {"server": [f"disk{number}" for number in range(200)]}
    add(service, tmp_path, journal, behave, children=children, is_async=True)
    service.protect(plan("server")).result(DEADLINE)

    assert most[0] > 50
    assert len({call["thread"] for call in journal.calls}) == 1


def test_a_service_cannot_be_closed_by_a_done_callback_and_says_so(tmp_path, journal):
    caught: list[BaseException] = []
    called = threading.Event()
    service = ProtectionService(workers=4)
    add(service, tmp_path, journal, children={})

    def close(_: Any) -> None:
        try:
            service.close()
        except RuntimeError as error:
            caught.append(error)
        called.set()

    handle = service.protect(plan("one"))
    handle.add_done_callback(close)
    assert called.wait(DEADLINE)
    service.close()

    assert "done callback" in str(caught[0])


def test_a_hook_that_is_a_generator_is_refused(service, tmp_path, journal):
    plugin = add(service, tmp_path, journal, children={})

    class Yielding:
        def on_main(self, *args: Any, **kwargs: Any) -> Any:
            yield None

    plugin.operation = lambda verb, resource: Yielding()  # type: ignore[method-assign]
    with pytest.raises(PluginError, match="generator"):
        service.protect(plan("one")).result(DEADLINE)


def test_a_failed_verify_has_its_result(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("verify", "on_main"):
            raise OSError("broken")

    add(service, tmp_path, journal, behave, children={})
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    with pytest.raises(OperationError, match="broken") as caught:
        service.verify(checkpoint.id).result(DEADLINE)

    assert caught.value.result.resources[(TYPE, "one")] is ResourceStatus.FAILED


def test_a_pending_abort_is_tried_again_on_request_and_at_the_next_start(tmp_path, journal):
    is_broken = [True]

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        failing(("on_complete", "server"))(verb, hook, resource, call)
        if (hook, resource.id) == ("on_abort", "disk1") and is_broken[0]:
            raise OSError("the array does not answer")

    with ProtectionService(workers=4) as service:
        add(service, tmp_path, journal, behave)
        handle = service.protect(plan("server"))
        assert handle.wait(DEADLINE)
        cause = service.operation_history("local")[0].error_info[0]
        assert (cause["hook"], cause["resource"][1]) == ("on_complete", "server")
        assert service.abort(handle.id).wait(DEADLINE)
    with ProtectionService(workers=4) as service:  # a start tries, too
        add(service, tmp_path, journal, behave)
        (again,) = service.recovered
        assert again.wait(DEADLINE)
        assert service.operation_history("local")[0].abort_pending == 1
        is_broken[0] = False
        assert service.abort(handle.id).wait(DEADLINE)

        (record,) = service.operation_history("local")
        assert record.abort_pending == 0
        assert record.error_info[0] == cause, "why it failed is known whatever else is tried"
        (checkpoint,) = service.provider("local").bank.checkpoints()
        assert checkpoint.resource_status(thing("disk1")) is ResourceStatus.ABORTED
        with pytest.raises(OperationNotFoundError):
            service.abort(handle.id)
    assert journal.aborted().count("disk1") == 3 + 3 + 3 + 1
    assert journal.aborted().count("server") == 1


@pytest.mark.parametrize("verb", ["protect", "restore"])
def test_what_stayed_frozen_is_tried_again_before_the_next_operation_that_waited_for_it(
    service, tmp_path, journal, verb
):
    gate, is_broken, seen = Gate(), [True], []

    def behave(found: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(found, hook, resource, call)
        seen.append((found, hook))
        if resource.id == "one" and found == "restore" and is_broken[0]:
            if hook == "on_main":
                gate.pass_through()
            if hook in ("on_main", "on_abort"):
                is_broken[0] = seen.count((found, "on_abort")) < 3
                raise OSError("the array does not answer")

    add(service, tmp_path, journal, behave, children={})
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    first = service.restore(checkpoint.id)
    gate.wait_entered()
    again = service.protect(plan("one")) if verb == "protect" else service.restore(checkpoint.id)
    while again.id not in service._engine._waiting:
        pass
    seen.clear()
    gate.open()
    assert isinstance(first.exception(DEADLINE), OperationError)
    again.result(DEADLINE)

    assert seen[:5] == [*[("restore", "on_abort")] * 4, (verb, "on_prepare_begin")]
    assert [record.abort_pending for record in service.operation_history("local")] == [0, 0, 0]


def test_abort_cancels_an_operation_that_runs(service, tmp_path, journal):
    gate = Gate()
    add(service, tmp_path, journal, waiting_at(gate, "on_main", "one"), children={})
    handle = service.protect(plan("one"))
    gate.wait_entered()
    assert service.abort(handle.id) is handle
    gate.open()
    with pytest.raises(OperationCancelledError):
        handle.result(DEADLINE)
