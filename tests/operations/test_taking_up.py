"""What a start makes of operations that were left unfinished, or not undone, in awkward states."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import lmdb
import pytest

from crashes import crash_image
from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    CheckpointStatus,
    OperationStatus,
    ProtectionService,
    ResourceStatus,
    faultpoints,
)
from karbor_actors.bank.journal import abort_marks
from karbor_actors.errors import OperationError, PartialOperationError
from karbor_actors.operations.limits import alarms
from kit import Journal, RecordingProtection, plan, provider, store_something, thing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from karbor_actors import OperationHandle, Resource

POLL = threading.Event()


def opened(path: Path, plugin: Any, children: Any = None, **kwargs: Any) -> ProtectionService:
    service = ProtectionService(workers=4)
    service.add_provider(provider(path / "bank", plugin, children, **kwargs))
    return service


def at(hook: str, name: str, do: Callable[[dict[str, Any]], object]) -> Any:
    """Return a behaviour that does *do* with the call's arguments in one hook of any verb."""

    def behave(verb: str, found: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, found, resource, call)
        if (found, resource.id) == (hook, name):
            do(call)

    return behave


def raises(sentence: str) -> Callable[[dict[str, Any]], object]:
    def do(call: dict[str, Any]) -> None:
        raise OSError(sentence)

    return do


def suspend(service: ProtectionService, handle: OperationHandle, gate: Gate) -> None:
    """Close *service* while a hook of *handle*'s stands at *gate*, and leaves when told to."""
    gate.wait_entered()
    closer = threading.Thread(target=service.close)
    closer.start()
    while not handle.is_suspended:
        POLL.wait(0.001)
    handle.progress()  # answered after what it was told before
    gate.open()
    closer.join(DEADLINE)
    assert handle.status is OperationStatus.SUSPENDED


def leaving(gate: Gate) -> Callable[[dict[str, Any]], object]:
    def do(call: dict[str, Any]) -> None:
        gate.pass_through()
        call["context"].check_cancelled()

    return do


def leave_one_pending(path: Path, **options: Any) -> None:
    """Protect ``good`` and ``bad``, of which one is whole and the other is not undone."""

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if resource.id == "bad" and hook in ("on_main", "on_abort"):
            raise OSError("it does not answer")

    with (
        opened(path, RecordingProtection(Journal(), behave)) as service,
        pytest.raises(PartialOperationError),
    ):
        service.protect(plan("good", "bad"), on_failure="isolate", **options).result(DEADLINE)


@pytest.mark.parametrize("how", ["cancel", "close", "close at once", "deadline"])
def test_whatever_is_asked_of_it_undoing_what_was_pending_leaves_what_is_good_alone(tmp_path, how):
    options = {"deadline": time.time() + 4.0} if how == "deadline" else {}
    leave_one_pending(tmp_path, **options)
    gate, again = Gate(), Journal()
    while how == "deadline" and time.time() < options["deadline"]:
        POLL.wait(0.05)
    behave = at("on_abort", "bad", lambda _: gate.pass_through())
    service = opened(tmp_path, RecordingProtection(again, behave))
    (handle,) = service.recovered
    gate.wait_entered()
    closer = threading.Thread(target=service.close, kwargs={"drain": how != "close at once"})
    if how == "cancel":
        handle.cancel()
    elif how.startswith("close"):
        closer.start()
        while handle.cancel_reason is None and not handle.is_suspended:
            POLL.wait(0.001)
    handle.progress()
    gate.open()
    assert handle.wait(DEADLINE)
    if not how.startswith("close"):
        closer.start()
    closer.join(DEADLINE)

    assert again.aborted() == ["bad"]
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        (checkpoint,) = bank.checkpoints()
        assert checkpoint.status is CheckpointStatus.PARTIAL
        assert checkpoint.resource_status(thing("good")) is ResourceStatus.AVAILABLE
        assert checkpoint.resource_status(thing("bad")) is ResourceStatus.ABORTED


@pytest.mark.parametrize("how", ["close", "close at once", "cancel"])
def test_what_was_left_pending_is_undone_although_it_still_waits_for_its_locks(tmp_path, how):
    """A newer operation has the locks: it was killed while it held them, and takes its time."""
    broken = RecordingProtection(
        Journal(),
        lambda _, hook, *__: raises("broke")({}) if hook in ("on_main", "on_abort") else 0,
    )
    with opened(tmp_path, broken) as service:
        assert service.protect(plan("one")).wait(DEADLINE)
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_abort":
            raise OSError("it does not answer")
        if hook == "on_prepare_finish":
            gate.pass_through()

    with opened(tmp_path, RecordingProtection(Journal(), behave)) as service:
        service.protect(plan("one"))
        gate.wait_entered()
        left = crash_image(service, tmp_path / "left")
        gate.open()

    thaws, again = Gate(), Journal()
    behave_again = at("on_abort", "one", lambda _: thaws.pass_through())
    service = opened(left, RecordingProtection(again, behave_again))
    newer, older = service.recovered
    thaws.wait_entered()
    closer = threading.Thread(target=service.close, kwargs={"drain": how == "close"})
    if how == "cancel":
        older.cancel()
    else:
        closer.start()
        while older.cancel_reason is None and not older.is_suspended:
            POLL.wait(0.001)
    older.progress()
    thaws.open()
    assert older.wait(DEADLINE)
    assert newer.wait(DEADLINE)
    if how == "cancel":
        closer.start()
    closer.join(DEADLINE)

    assert again.aborted() == ["one", "one"]
    with Bank.open(left / "bank", readonly=True) as bank:
        assert [record.abort_pending for record in bank.journal.operations()] == [0, 0]


def test_what_an_operation_was_asked_outlives_any_number_of_restarts(tmp_path):
    """Its limits, the versions of its state; and its attempts are counted on."""
    kept, attempts = [], []
    operation_id = ""
    for _ in range(4):
        gate = Gate()

        def leave(call: dict[str, Any], gate: Gate = gate) -> None:
            attempts.append(call["context"].attempt)
            leaving(gate)(call)

        # Without an on_abort the journal has no intents, and so does not know of attempts.
        plugin = RecordingProtection(Journal(), at("on_main", "one", leave), hooks=("on_main",))
        service = opened(tmp_path, plugin)
        if not service.recovered:
            limits = {"timeout": 3600.0, "deadline": time.time() + 7200.0}
            operation_id = service.protect(plan("one"), **limits).id
        suspend(service, service.operation(operation_id), gate)
        with Bank.open(tmp_path / "bank", readonly=True) as bank:
            kept.append(bank.journal.get(operation_id).extra)

    assert {"timeout", "deadline", "state versions", "graph"} <= kept[0].keys()
    for extra in kept[1:]:
        same = kept[0].keys() - {"starts", "seconds run"}
        assert {k: extra[k] for k in same} == {k: kept[0][k] for k in same}
    ran = [extra["seconds run"] for extra in kept]
    assert ran == sorted(ran)
    assert attempts == sorted(set(attempts)), "a number came twice"


def test_a_forced_delete_is_forced_after_a_restart_too(tmp_path):
    gate = Gate()

    def leave_or_break(call: dict[str, Any]) -> None:
        if "delete" in call["kwargs"]["operation_log"].operation_type:
            leaving(gate)(call)
            raise OSError("it does not answer")

    plugin = RecordingProtection(Journal(), at("on_main", "one", leave_or_break))
    service = opened(tmp_path, plugin)
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    suspend(service, service.delete(checkpoint.id, force=True), gate)
    with opened(tmp_path, plugin) as service:
        (handle,) = service.recovered
        with pytest.raises(PartialOperationError, match="does not answer"):
            handle.result(DEADLINE)
        assert service.provider("local").bank.checkpoints() == []


def test_aborts_of_a_checkpoint_that_was_deleted_by_force_are_pending_no_more(tmp_path):
    leave_one_pending(tmp_path)
    with opened(tmp_path, RecordingProtection(Journal(), at("on_abort", "bad", raises("no")))) as s:
        assert s.recovered[0].wait(DEADLINE)
        (checkpoint,) = s.provider("local").bank.checkpoints()
        s.delete(checkpoint.id, force=True).wait(DEADLINE)
    with opened(tmp_path, RecordingProtection(Journal())) as s:
        assert s.recovered == []
        (record,) = [r for r in s.operation_history("local") if r.type == "protect"]
        assert (record.status, record.abort_pending) == (OperationStatus.PARTIAL, 0)
        assert record.error_info[-1]["type"] == "CheckpointNotFoundError"


def suspended(path: Path) -> None:
    gate = Gate()
    service = opened(path, RecordingProtection(Journal(), at("on_main", "one", leaving(gate))))
    suspend(service, service.protect(plan("one"), context={"token": "t"}), gate)


def test_the_host_supplies_the_context_of_each_operation_that_is_taken_up(tmp_path):
    suspended(tmp_path)
    seen, asked = [], []

    def context_of(operation_id: str) -> dict[str, str]:
        asked.append((operation_id, service.operations(), service.providers))  # it may look around
        return {"token": "fresh"}

    behave = at("on_main", "one", lambda call: seen.append(call["context"].token))
    with ProtectionService(workers=4) as service:
        service.add_provider(
            provider(
                tmp_path / "bank",
                RecordingProtection(Journal(), behave),
                recovery_context=context_of,
            )
        )
        (handle,) = service.recovered
        assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE
    assert seen == ["fresh"]
    assert [operation_id for operation_id, *_ in asked] == [handle.id]


@pytest.mark.crash_expected
def test_a_host_that_cannot_supply_it_fails_the_hooks_that_want_it_and_nothing_else(tmp_path):
    suspended(tmp_path)

    def no_context(operation_id: str) -> dict[str, str]:
        raise ValueError("the vault is sealed")

    again = Journal()
    plugin = RecordingProtection(again, at("on_main", "one", lambda call: call["context"].token))
    with opened(tmp_path, plugin, recovery_context=no_context) as service:
        (handle,) = service.recovered
        with pytest.raises(OperationError, match="the vault is sealed"):
            handle.result(DEADLINE)
        assert again.aborted() == ["one"], "which wants no context"


def test_a_time_limit_counts_what_ran_before_a_crash(tmp_path, monkeypatch):
    """The process that is killed says from time to time how long it has run."""
    monkeypatch.setattr(alarms, "LOOK_EVERY", 0.05)
    gate = Gate()
    plugin = RecordingProtection(Journal(), at("on_main", "one", lambda _: gate.pass_through()))
    with opened(tmp_path, plugin) as service:
        handle = service.protect(plan("one"), timeout=3600.0)
        gate.wait_entered()
        journal = service.provider("local").bank.journal
        while journal.get(handle.id).extra.get("seconds run", 0.0) < 0.3:
            POLL.wait(0.01)
        left = crash_image(service, tmp_path / "left")
        gate.open()
        handle.result(DEADLINE)
    again = Gate()
    leave = at("on_main", "one", leaving(again))
    service = opened(left, RecordingProtection(Journal(), leave))
    suspend(service, service.operation(handle.id), again)
    with Bank.open(left / "bank", readonly=True) as bank:
        extra = bank.journal.get(handle.id).extra
    assert extra["timeout"] == 3600.0
    assert extra["seconds run"] > 0.3


@pytest.mark.parametrize("hangs", [False, True])
def test_an_abort_that_writes_down_what_it_does_never_waits_for_the_bank(tmp_path, hangs):
    """Whatever it releases or keeps: a bank that refuses, or hangs, keeps nothing frozen."""
    disk, thawed, journal = StuckCommits(hangs=hangs), threading.Event(), Journal()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        context = call["context"]
        if hook == "on_prepare_begin":
            context.artifact("snapshot", "s1")
        if hook == "on_main":
            disk.is_stuck.set()
            raise OSError("broke")
        if hook == "on_abort":
            for artifact in call["kwargs"]["artifacts"]:
                artifact.update(gone=True)
                artifact.release()
            context.state["undone"] = True
            context.state.flush()
            thawed.set()

    with ProtectionService(workers=2, abort_grace=0.1) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        faultpoints.install(disk)  # type: ignore[arg-type]
        try:
            handle = service.protect(plan("one"))
            assert thawed.wait(DEADLINE / 2), "it stays frozen"
        finally:
            if not hangs:
                assert handle.wait(DEADLINE)
            disk.free()
            assert handle.wait(DEADLINE)
            faultpoints.remove(disk)  # type: ignore[arg-type]
    assert journal.aborted() == ["one"], "it was tried once"
    again = Journal()

    def release(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        for artifact in call["kwargs"].get("artifacts", ()):
            artifact.release()

    with opened(tmp_path, RecordingProtection(again, release)) as service:
        assert all(handle.wait(DEADLINE) for handle in service.recovered)
        assert all(r.status.is_terminal for r in service.operation_history("local"))
    assert again.aborted() == ([] if hangs else ["one"]), "what was not recorded runs again"


def test_what_a_crash_left_and_the_host_is_to_be_asked_about_is_listed_as_suspended(tmp_path):
    """It does not run, whatever its dead process had recorded."""
    gate = Gate()
    plugin = RecordingProtection(Journal(), at("on_main", "one", lambda _: gate.pass_through()))
    with opened(tmp_path, plugin) as service:
        handle = service.protect(plan("one"))
        gate.wait_entered()
        left = crash_image(service, tmp_path / "left")
        gate.open()
        handle.result(DEADLINE)
    with opened(left, RecordingProtection(Journal()), recover="ask") as service:
        (asked,) = service.recovered
        assert asked.wait(DEADLINE)
        assert asked.status is OperationStatus.SUSPENDED
    with Bank.open(left / "bank", readonly=True) as bank:
        assert bank.journal.get(handle.id).status is OperationStatus.SUSPENDED
    with opened(left, RecordingProtection(Journal()), recover="ask") as service:
        assert service.recovered[0].wait(DEADLINE)
        resumed = service.resume(handle.id)
        assert resumed.result(DEADLINE).status is CheckpointStatus.AVAILABLE


def fill_the_disk_in_main(path: Path, journal: Journal) -> Any:
    """Protect two resources while the disk fills up; return the disk, still full."""
    disk = StuckCommits(hangs=False)

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "one"):
            disk.is_stuck.set()
            section = call["checkpoint"].get_resource_bank_section(resource)
            section.update_object("size", 1)

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(path / "bank", RecordingProtection(journal, behave)))
        faultpoints.install(disk)  # type: ignore[arg-type]
        with pytest.raises(OperationError, match="no space is left"):
            service.protect(plan("one", "two")).result(DEADLINE)
    return disk


def test_what_a_full_disk_had_undone_never_goes_on(tmp_path):
    """The bank could not take down that it was undone: the next process knows all the same."""
    journal = Journal()
    disk = fill_the_disk_in_main(tmp_path, journal)
    disk.free()
    faultpoints.remove(disk)
    assert sorted(journal.aborted()) == ["one", "two"]
    with ProtectionService(workers=2) as service:  # another one of its providers is there first
        plugin = RecordingProtection(Journal())
        service.add_provider(provider(tmp_path / "bank", plugin, name="other"))
        assert service.recovered == []

    again = Journal()
    with opened(tmp_path, RecordingProtection(again)) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert handle.status is OperationStatus.FAILED
    assert sorted(again.hooks()) == [("on_abort", "one"), ("on_abort", "two")]
    with opened(tmp_path, RecordingProtection(Journal())) as service:
        assert service.recovered == []
    assert abort_marks.prepare(tmp_path / "bank", [handle.id]) == frozenset(), "it is forgotten"


def test_a_disk_on_which_marks_take_long_holds_up_neither_a_thaw_nor_anybody_else(
    tmp_path, monkeypatch
):
    """What a full disk undoes is noted beside the bank: on the same disk, which may be slow too."""
    disk, marking, thawed = StuckCommits(hangs=False), Gate(), threading.Event()
    sync = os.fdatasync

    def slow_sync(fd: int) -> None:
        marking.pass_through()
        sync(fd)

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "one"):
            disk.is_stuck.set()
            call["context"].state["made"] = True
        if (hook, resource.id) == ("on_abort", "one"):
            thawed.set()

    plugin = RecordingProtection(Journal(), behave)
    monkeypatch.setattr(abort_marks.os, "fdatasync", slow_sync)
    with ProtectionService(workers=2, abort_grace=0.1) as service:
        service.add_provider(
            provider(tmp_path / "bank", plugin), provider(tmp_path / "good", plugin, name="good")
        )
        disk.path = str(tmp_path / "bank")
        faultpoints.install(disk)  # type: ignore[arg-type]
        try:
            handle = service.protect(plan("one"))
            marking.wait_entered()
            other = service.protect(plan("two", provider="good"))
            assert other.result(DEADLINE / 2).status is CheckpointStatus.AVAILABLE
            assert thawed.wait(DEADLINE / 2), "it stays frozen"
            assert not handle.wait(0), "it is to be remembered first"
        finally:
            marking.open()
            assert handle.wait(DEADLINE)
            faultpoints.remove(disk)  # type: ignore[arg-type]
        assert handle.status is OperationStatus.FAILED
    assert handle.id in abort_marks.prepare(tmp_path / "bank", [handle.id])


class StuckCommits:
    """A disk that takes nothing, once it is told to: it is full, or does not answer."""

    def __init__(self, *, hangs: bool) -> None:
        self.is_stuck, self._is_free, self._hangs = threading.Event(), threading.Event(), hangs
        self.path = ""
        """The directory of what is on it; ``""`` for everything."""

    def on_commit(self, path: str, when: str) -> None:
        is_here = path.startswith(self.path)
        if when == "before" and is_here and self.is_stuck.is_set():
            if not self._hangs:
                raise lmdb.DiskError("mdb_txn_commit: No space left on device")
            assert self._is_free.wait(DEADLINE)

    def on_message(self, actor: object, message: object) -> object:
        return message

    def on_hook(self, attempt: object, when: str) -> None:
        pass

    def on_put(self, name: str, when: str) -> None:
        pass

    def free(self) -> None:
        self.is_stuck.clear()
        self._is_free.set()
