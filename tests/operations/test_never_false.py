"""Cases in which an operation could end better, worse, or later than is true."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors import (
    Bank,
    CheckpointStatus,
    Operation,
    OperationError,
    ProtectionService,
    Provider,
    Resource,
    ResourceStatus,
    RetryPolicy,
)
from karbor_actors.errors import (
    CheckpointStateError,
    FencedError,
    OperationCancelledError,
    PartialOperationError,
)
from kit import (
    TYPE,
    Journal,
    RecordingProtection,
    Things,
    failing,
    plan,
    provider,
    store_something,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Call = dict[str, Any]


@pytest.fixture
def service() -> Iterator[ProtectionService]:
    with ProtectionService(workers=2, abort_grace=0.05) as found:
        yield found


def add(service: ProtectionService, tmp_path: Path, plugin: RecordingProtection, **kw: Any) -> None:
    service.add_provider(provider(tmp_path / kw.get("name", "local"), plugin, **kw))


def partial(service: ProtectionService) -> Any:
    with pytest.raises(PartialOperationError) as caught:
        service.protect(plan("a", "b"), on_failure="isolate").result(DEADLINE)
    return caught.value.checkpoint


def test_verify_looks_only_at_what_a_partial_checkpoint_holds(service, tmp_path, journal):
    add(service, tmp_path, RecordingProtection(journal, failing(("on_complete", "b"))))
    checkpoint = partial(service)

    found = service.verify(checkpoint.id).result(DEADLINE)

    assert found.resources[TYPE, "a"] is ResourceStatus.VERIFIED
    assert found.resources[TYPE, "b"] is ResourceStatus.ABORTED
    assert (TYPE, "b") not in found.evidence
    assert {name for _, name in journal.hooks("verify")} == {"a"}


def test_a_restore_says_what_a_partial_checkpoint_did_not_hold(service, tmp_path, journal):
    add(service, tmp_path, RecordingProtection(journal, failing(("on_complete", "b"))))
    add(service, tmp_path, RecordingProtection(Journal()), name="offsite")
    checkpoint = partial(service)
    with pytest.raises(CheckpointStateError, match="to restore what is there"):
        service.restore(checkpoint.id)
    with pytest.raises(CheckpointStateError, match="to copy what is there"):
        service.copy(checkpoint.id, to="offsite")

    restored = service.restore(checkpoint.id, allow_partial=True).result(DEADLINE)
    assert restored.resources[TYPE, "a"] is ResourceStatus.AVAILABLE
    assert restored.resources[TYPE, "b"] is ResourceStatus.ABORTED


@pytest.mark.parametrize("verbs", [("protect",), ("protect", "copy")])
def test_a_copy_of_a_partial_checkpoint_is_partial_too(service, tmp_path, journal, verbs):
    plugin = RecordingProtection(journal, failing(("on_complete", "b")), verbs=verbs)
    add(service, tmp_path, plugin)
    add(service, tmp_path, RecordingProtection(Journal()), name="offsite")
    checkpoint = partial(service)

    copied = service.copy(checkpoint.id, to="offsite", allow_partial=True).result(DEADLINE)
    again = service.copy(checkpoint.id, to="offsite", allow_partial=True).result(DEADLINE)

    assert copied.status is CheckpointStatus.PARTIAL
    assert copied.resource_status("b") is ResourceStatus.ABORTED
    assert copied.get_resource_bank_section("b").list_objects() == []
    assert again.id == copied.id
    assert "b" not in {name for _, name in journal.hooks("copy")}


class Hookless(RecordingProtection):
    """Returns Operations without a hook for copy and verify."""

    def get_copy_operation(self, resource: Resource) -> Operation:
        return Operation()

    def get_verify_operation(self, resource: Resource) -> Operation:
        return Operation()


def test_an_operation_without_hooks_neither_copies_nor_verifies(service, tmp_path, journal):
    add(service, tmp_path, Hookless(journal, store_something))
    add(service, tmp_path, Hookless(Journal()), name="offsite")
    checkpoint = service.protect(plan("a")).result(DEADLINE)

    copied = service.copy(checkpoint.id, to="offsite").result(DEADLINE)
    found = service.verify(checkpoint.id).result(DEADLINE)

    assert [s.key for s in copied.get_resource_bank_section("a").list_streams()] == ["data"]
    assert found.resources[TYPE, "a"] is ResourceStatus.ENGINE_ONLY


def test_what_a_hooks_own_thread_writes_to_an_available_checkpoint_is_refused(
    service, tmp_path, journal
):
    add(service, tmp_path, RecordingProtection(journal, store_something))
    checkpoint = service.protect(plan("a")).result(DEADLINE)
    late = journal.calls[-1]["checkpoint"].get_resource_bank_section("a")

    with pytest.raises(FencedError):
        late.delete_stream("data")
    with pytest.raises(FencedError):
        late.update_object("metadata", {})
    with pytest.raises(FencedError):
        journal.calls[-1]["context"].artifact("snapshot", "late")

    service.verify(checkpoint.id).result(DEADLINE)


def test_delete_again_runs_what_is_left_although_the_section_is_empty(service, tmp_path, journal):
    broken = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if resource.id == "a":
            store_something(verb, hook, resource, call)
        if (verb, hook) == ("delete", "on_main"):
            section = call["checkpoint"].get_resource_bank_section(resource)
            section.delete_object("metadata")
            section.delete_stream("data")
        if (verb, hook) == ("delete", "on_complete") and not broken.is_set():
            broken.set()
            raise OSError("the array does not answer")

    hooks = ("on_main", "on_complete")
    add(service, tmp_path, RecordingProtection(journal, behave, hooks))
    checkpoint = service.protect(plan("a", "b")).result(DEADLINE)
    with pytest.raises(OperationError, match="does not answer"):
        service.delete(checkpoint.id).result(DEADLINE)

    service.delete(checkpoint.id).result(DEADLINE)

    on_a = [("on_main", "a"), ("on_complete", "a"), ("on_complete", "a")]
    assert journal.hooks("delete") == on_a, "b saved nothing, and has no hook to run"


def test_a_hook_that_names_its_artifact_again_means_the_same_one(tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if hook == "on_prepare_finish":
            snapshot = call["context"].artifact("snapshot", "of a")
            snapshot.update(seen=[*snapshot.data.get("seen", []), call["context"].attempt])
            if call["context"].attempt == 1:
                raise OSError("try again")
            assert snapshot.data == {"seen": [1, 2]}
            snapshot.keep()

    retry = {"*": RetryPolicy(attempts=2, backoff=0.001)}
    with ProtectionService() as service:
        add(service, tmp_path, RecordingProtection(journal, behave), retry=retry)
        assert service.protect(plan("a")).result(DEADLINE).status is CheckpointStatus.AVAILABLE


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no sentence")


def test_an_error_that_cannot_say_what_it_is_ends_its_operation(service, tmp_path, journal):
    plugin = RecordingProtection(journal, failing(("on_main", "a"), error=MuteError()))
    add(service, tmp_path, plugin)
    with pytest.raises(OperationError, match="MuteError"):
        service.protect(plan("a")).result(DEADLINE)


def test_a_thaw_does_not_wait_for_the_main_hooks_of_others(service, tmp_path, journal):
    thawed, frozen = threading.Event(), threading.Event()
    mains = threading.Semaphore(0)

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if resource.id.startswith("long") and hook == "on_main":
            mains.release()
            assert thawed.wait(DEADLINE), "the server stays frozen while others copy"
        elif (hook, resource.id) == ("on_prepare_begin", "server"):
            frozen.set()
        elif (hook, resource.id) == ("on_prepare_begin", "disk"):
            for _ in range(2):  # both workers copy
                assert mains.acquire(timeout=DEADLINE)
        elif (hook, resource.id) == ("on_prepare_finish", "server"):
            thawed.set()

    add(service, tmp_path, RecordingProtection(journal, behave), children={"server": ["disk"]})
    names = [f"long{n}" for n in range(8)]
    service.protect(plan("server", *names)).result(DEADLINE)
    assert frozen.is_set()


def test_isolate_too_waits_for_descendants_no_longer_than_the_grace(service, tmp_path, journal):
    aborted = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if (hook, resource.id) == ("on_prepare_begin", "bad"):
            raise OSError("no snapshot")
        if (hook, resource.id) == ("on_prepare_begin", "slow"):
            assert aborted.wait(DEADLINE), "the server stays frozen"
        if (hook, resource.id) == ("on_abort", "server"):
            aborted.set()

    plugin = RecordingProtection(journal, behave)
    add(service, tmp_path, plugin, children={"server": ["bad", "slow"]})
    with pytest.raises(PartialOperationError, match="no snapshot"):
        service.protect(plan("server"), on_failure="isolate").result(DEADLINE)


def test_a_cancel_after_a_failure_does_not_hide_it(service, tmp_path, journal):
    undoing, cancelled = threading.Event(), threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if hook == "on_main":
            raise OSError("the disk broke")
        if hook == "on_abort":
            undoing.set()
            assert cancelled.wait(DEADLINE)

    add(service, tmp_path, RecordingProtection(journal, behave))
    handle = service.protect(plan("a"))
    assert undoing.wait(DEADLINE)
    handle.cancel()
    handle.progress()  # answered after the cancel was dealt with
    cancelled.set()

    with pytest.raises(OperationError, match="the disk broke") as caught:
        handle.result(DEADLINE)
    assert not isinstance(caught.value, OperationCancelledError)
    assert handle.status == "failed"


def test_an_abort_that_succeeds_in_a_second_round_is_pending_no_more(
    service, tmp_path, journal, monkeypatch
):
    policy = RetryPolicy(attempts=1)
    monkeypatch.setattr("karbor_actors.operations.aborts.abort.ABORT_RETRY", policy)
    tried, cancelled = threading.Event(), threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if (hook, resource.id) == ("on_main", "a"):
            raise OSError("the disk broke")
        if (hook, resource.id) == ("on_main", "b"):
            assert cancelled.wait(DEADLINE)
        if (hook, resource.id) == ("on_abort", "a") and not tried.is_set():
            tried.set()
            raise OSError("cannot thaw")

    add(service, tmp_path, RecordingProtection(journal, behave))
    handle = service.protect(plan("a", "b"), on_failure="isolate")
    events = handle.events()
    for event in events:
        if event.kind == "abort_failed":
            break
    handle.cancel()
    handle.progress()
    cancelled.set()

    with pytest.raises(OperationCancelledError):
        handle.result(DEADLINE)
    checkpoint = service.provider("local").bank.checkpoint(handle.checkpoint_id)
    assert checkpoint.resource_status("a") is ResourceStatus.ABORTED


def test_what_an_abort_set_is_there_for_the_parents_abort(service, tmp_path, journal):
    seen = []

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        if (hook, resource.id) == ("on_main", "child"):
            raise OSError("the disk broke")
        if (hook, resource.id) == ("on_abort", "child"):
            call["context"].state["released"] = 7
        if (hook, resource.id) == ("on_abort", "parent"):
            seen.append(call["context"].state_of((TYPE, "child")).get("released"))

    plugin = RecordingProtection(journal, behave)
    service.add_provider(provider(tmp_path / "bank", plugin, {"parent": ["child"]}))
    with pytest.raises(OperationError):
        service.protect(plan("parent")).result(DEADLINE)

    assert seen == [7]


def test_a_plain_wrapper_around_a_coroutine_runs_as_a_plain_hook(service, tmp_path, journal):
    ran = []

    def runs(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(function(*args, **kwargs))

        return call

    class Wrapped(Operation):
        @runs
        async def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            ran.append(resource.id)

    class Plugin(RecordingProtection):
        def get_protect_operation(self, resource: Resource) -> Operation:
            return Wrapped()

    add(service, tmp_path, Plugin(journal))
    service.protect(plan("a")).result(DEADLINE)
    assert ran == ["a"]


def test_events_are_an_iterator_that_stays_at_its_end(service, tmp_path, journal):
    may_end = threading.Event()
    add(service, tmp_path, RecordingProtection(journal, lambda *_: may_end.wait(DEADLINE)))
    events = service.protect(plan("a")).events()
    may_end.set()

    assert [event.kind for event in events][-1] == "ended"
    assert next(events, None) is None
    assert list(events) == []


def test_a_done_callback_is_called_even_after_the_service_was_closed(tmp_path, journal):
    with ProtectionService() as service:
        add(service, tmp_path, RecordingProtection(journal))
        handle = service.protect(plan("a"))
    called: list[Any] = []
    handle.add_done_callback(called.append)
    assert called == [handle]


def test_providers_that_share_a_bank_find_its_checkpoints(service, tmp_path):
    bank = Bank.open(tmp_path / "bank")
    for name in ("first", "local"):
        plugins = [RecordingProtection(Journal(), store_something)]
        both = {"protection_plugins": plugins, "protectables": [Things()]}
        service.add_provider(Provider(name, bank=bank, **both))
    checkpoint = service.protect(plan("a")).result(DEADLINE)

    service.verify(checkpoint.id[:8]).result(DEADLINE)

    plugin = service.provider("local").protection_plugins[TYPE]
    assert plugin.journal.hooks("verify"), "the provider that made it was not asked"


def test_a_protect_that_waited_is_not_overtaken_while_it_plans_again(service, tmp_path, journal):
    holding, may_end = threading.Event(), threading.Event()
    order = []

    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        store_something(verb, hook, resource, call)
        if hook == "on_prepare_begin":
            order.append(call["kwargs"]["operation_log"].id)
        if (hook, len(order)) == ("on_main", 2):
            holding.set()
            assert may_end.wait(DEADLINE)

    add(service, tmp_path, RecordingProtection(journal, behave))
    checkpoint = service.protect(plan("a")).result(DEADLINE)
    first = service.protect(plan("a"))
    assert holding.wait(DEADLINE)
    second = service.protect(plan("a"))
    locks = service._engine._locks
    wait_until(lambda: second.id in locks._waiting)
    third = service.restore(checkpoint.id)
    wait_until(lambda: third.id in locks._waiting)
    may_end.set()

    for handle in (first, second, third):
        handle.result(DEADLINE)
    assert order[1:] == [first.id, second.id, third.id]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return once *is_so*; there is nothing to be told by."""
    pause = threading.Event()
    for _ in range(int(DEADLINE * 100)):
        if is_so():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to pass")


def test_what_another_thread_sets_during_a_flush_is_not_lost(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: Call) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) != ("restore", "on_main"):
            return
        new = call["kwargs"]["new_resources"]

        def set_all(start: int) -> None:
            for number in range(start, start + 200):
                new[f"part {number}"] = str(number)
                if number % 20 == 0:
                    new.flush()

        threads = [threading.Thread(target=set_all, args=(n * 200,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    add(service, tmp_path, RecordingProtection(journal, behave))
    checkpoint = service.protect(plan("a")).result(DEADLINE)
    result = service.restore(checkpoint.id).result(DEADLINE)
    assert len(result.new_resources) == 800
