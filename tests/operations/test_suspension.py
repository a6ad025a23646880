"""Closing a service under running operations: what is suspended goes on at the next start."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    CheckpointStatus,
    Operation,
    OperationStatus,
    ProtectionService,
    Provider,
    RetryPolicy,
    TimeLimits,
)
from karbor_actors.bank.journal import journal as journal_module
from karbor_actors.errors import (
    BankFullError,
    CannotResumeError,
    ListingError,
    OperationCancelledError,
    OperationError,
    OperationNotFoundError,
    OperationSuspendedError,
    PartialOperationError,
)
from karbor_actors.model import AbortKind, AbortReason
from karbor_actors.operations.planning import StalePlan
from karbor_actors.operations.verbs.delete import Delete
from karbor_actors.operations.verbs.protect import Protect
from karbor_actors.operations.verbs.recorded import RecordedOperation
from karbor_actors.operations.verbs.verb import Verb
from karbor_actors.testing import FaultPlan, Rule
from kit import Journal, RecordingProtection, Things, plan, provider, store_something

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource

TREE = {"server": ["disk1", "disk2"]}
SHORT = 0.05


def opened(path: Path, plugin: Any, children: Any = None, **kwargs: Any) -> ProtectionService:
    service = ProtectionService(workers=4, abort_grace=kwargs.pop("abort_grace", 30.0))
    service.add_provider(provider(path / "bank", plugin, children, **kwargs))
    return service


def leaving_at(gate: Gate, hook: str, name: str, *, polls: bool = True) -> Any:
    """Return a behaviour that waits at *gate*, then leaves if it is told to."""

    def behave(verb: str, found: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, found, resource, call)
        if (found, resource.id) == (hook, name):
            gate.pass_through()
            if polls:
                call["context"].check_cancelled()

    return behave


def close_while_at(gate: Gate, service: ProtectionService, **kwargs: Any) -> threading.Thread:
    """Close *service* on a thread of its own, once a hook stands at *gate*, and open that."""
    gate.wait_entered()
    closer = threading.Thread(target=service.close, kwargs=kwargs)
    closer.start()
    return closer


def wait_until_told(handle: Any) -> None:
    """Wait until the operation has been told to stop."""
    poll = threading.Event()
    while not handle.is_suspended:
        poll.wait(0.001)
    handle.progress()  # answered after what it was told before


def suspend_at(gate: Gate, service: ProtectionService, handle: Any) -> None:
    """Close *service* while a hook of *handle*'s stands at *gate*, which opens once it was told."""
    closer = close_while_at(gate, service)
    wait_until_told(handle)
    gate.open()
    closer.join(DEADLINE)


def wait_until_cancelled(handle: Any) -> None:
    """Wait until the operation has been told to undo what it did."""
    poll = threading.Event()
    while handle.cancel_reason is None:
        poll.wait(0.001)
    handle.progress()


@pytest.mark.parametrize("polls", [True, False])
def test_a_protect_whose_spans_have_ended_is_suspended_and_goes_on(tmp_path, journal, polls):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "server", polls=polls))
    service = opened(tmp_path, plugin, TREE)
    handle = service.protect(plan("server"))
    suspend_at(gate, service, handle)

    assert handle.status is OperationStatus.SUSPENDED
    with pytest.raises(OperationSuspendedError, match="next start"):
        handle.result(0)
    assert journal.aborted() == []
    done = set(journal.hooks())
    assert not any(hook == "on_complete" and name == "server" for hook, name in done)

    again = Journal()
    with opened(tmp_path, RecordingProtection(again, store_something), TREE) as service:
        (resumed,) = service.recovered
        assert resumed.id == handle.id
        assert resumed.result(DEADLINE).status is CheckpointStatus.AVAILABLE
    assert ("on_complete", "server") in again.hooks()
    assert not any(hook.startswith("on_prepare") for hook, _ in again.hooks())
    assert (("on_main", "server") in again.hooks()) is polls


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_hook_that_has_attempts_left_is_suspended_not_failed(tmp_path, journal, is_waiting):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if hook == "on_main":
            gate.pass_through()
            raise RuntimeError("not now")

    retry = {"on_main": RetryPolicy(attempts=9, backoff=600.0, max_backoff=600.0)}
    service = opened(tmp_path, RecordingProtection(journal, behave), retry=retry)
    handle = service.protect(plan("disk1"))
    if is_waiting:
        gate.wait_entered()
        gate.open()
        while handle.progress().running:
            pass
        service.close()
    else:
        closer = close_while_at(gate, service)
        wait_until_told(handle)
        gate.open()
        closer.join(DEADLINE)

    assert handle.status is OperationStatus.SUSPENDED
    assert journal.aborted() == []


def test_every_close_returns_when_all_is_closed(tmp_path, journal):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "disk1"))
    service = opened(tmp_path, plugin)
    bank = service.provider("local").bank
    handle = service.protect(plan("disk1"))
    seen: list[tuple[OperationStatus, bool]] = []

    def close() -> None:
        service.close()
        seen.append((handle.status, bank.is_open))

    gate.wait_entered()
    closers = [threading.Thread(target=close) for _ in range(3)]
    for closer in closers:
        closer.start()
        wait_until_told(handle)
    gate.open()
    for closer in closers:
        closer.join(DEADLINE)

    assert seen == [(OperationStatus.SUSPENDED, False)] * 3


def test_a_stricter_close_hurries_the_one_that_waits(tmp_path, journal):
    """The hook leaves only when everything is undone, which the first close does not ask for."""
    entered = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_begin":
            entered.set()
            poll = threading.Event()
            while not call["context"].cancelled:
                poll.wait(0.001)
            call["context"].check_cancelled()

    service = opened(tmp_path, RecordingProtection(journal, behave))
    handle = service.protect(plan("disk1"))
    assert entered.wait(DEADLINE)
    patient = threading.Thread(target=service.close)
    patient.start()
    wait_until_told(handle)
    service.close(drain=False)
    patient.join(DEADLINE)

    assert handle.status is OperationStatus.CANCELLED
    assert journal.aborted() == ["disk1"]
    assert not patient.is_alive()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("hook", ["on_prepare_begin", "on_main"])
def test_a_hook_cannot_close_its_service_and_is_told_so(tmp_path, journal, is_async, hook):
    caught: list[str] = []

    def behave(verb: str, name: str, resource: Resource, call: dict[str, Any]) -> None:
        if name == hook:
            with pytest.raises(RuntimeError, match="waits for the thread") as refused:
                service.close()
            caught.append(str(refused.value))

    service = opened(tmp_path, RecordingProtection(journal, behave, is_async=is_async))
    checkpoint = service.protect(plan("disk1")).result(DEADLINE)
    service.close()

    assert checkpoint.status is CheckpointStatus.AVAILABLE
    assert "a hook" in caught[0]


def test_a_plugin_that_is_asked_for_resources_cannot_close_the_service(tmp_path, journal):
    class Closing(Things):
        def get_dependent_resources(self, context: Any, parent_resource: Resource) -> Any:
            service.close()

    with ProtectionService() as service:
        given = Provider(
            "local",
            bank=Bank.open(tmp_path / "bank"),
            protection_plugins=[RecordingProtection(journal)],
            protectables=[Closing()],
        )
        service.add_provider(given)
        with pytest.raises(ListingError, match="call of a plugin"):
            service.protect(plan("disk1")).result(DEADLINE)


def test_what_is_undone_after_all_is_told_of_the_attempts_that_failed(tmp_path, journal):
    """A hook with attempts left was left to the next start; then another one fails for good."""
    gate, began, tried = Gate(), {}, threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_abort":
            began[resource.id] = set(map(str, call["kwargs"]["began"]))
        elif (hook, resource.id) == ("on_main", "one"):
            tried.set()
            raise RuntimeError("not now")
        elif (hook, resource.id) == ("on_main", "two"):
            gate.pass_through()
            raise CannotResumeError("never")

    retry = {"on_main": RetryPolicy(attempts=9, backoff=600.0, max_backoff=600.0)}
    service = opened(tmp_path, RecordingProtection(journal, behave), retry=retry)
    handle = service.protect(plan("one", "two"))
    gate.wait_entered()
    assert tried.wait(DEADLINE)  # it may begin some milliseconds later
    while [running.resource[1] for running in handle.progress().running] != ["two"]:
        pass
    suspend_at(gate, service, handle)

    assert handle.status is OperationStatus.FAILED
    assert began["one"] == began["two"] == {"on_prepare_begin", "on_prepare_finish", "on_main"}


def test_a_close_that_was_interrupted_leaves_the_bank_open_and_can_be_repeated(
    tmp_path, journal, monkeypatch
):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "disk1"))
    service = opened(tmp_path, plugin)
    handle = service.protect(plan("disk1"))
    gate.wait_entered()

    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(service._engine, "wait_idle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            service.close()
    gate.open()
    service.close()

    assert handle.status is OperationStatus.SUSPENDED
    with opened(tmp_path, RecordingProtection(Journal(), store_something)) as again:
        assert [found.id for found in again.recovered] == [handle.id], "what it did was recorded"


def test_open_spans_end_before_the_operation_is_suspended_and_nothing_else_runs(tmp_path, journal):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_prepare_begin", "disk1"))
    service = opened(tmp_path, plugin, TREE)
    handle = service.protect(plan("server"))
    suspend_at(gate, service, handle)

    assert handle.status is OperationStatus.SUSPENDED
    hooks = journal.hooks()
    assert ("on_prepare_finish", "server") in hooks
    assert ("on_main", "server") not in hooks
    assert journal.aborted() == []


class Forgetful(RecordingProtection):
    """Gives Operations that keep state in memory only."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        made = super().operation(verb, resource)
        if made is not None:
            type(made).resumable = False
        return made


def test_what_keeps_state_in_memory_is_undone_by_the_process_that_has_it(tmp_path, journal):
    gate = Gate()
    plugin = Forgetful(journal, leaving_at(gate, "on_main", "one"))
    service = opened(tmp_path, plugin)
    handle = service.protect(plan("one"))
    suspend_at(gate, service, handle)

    assert handle.status is OperationStatus.CANCELLED
    assert journal.aborted() == ["one"]
    with opened(tmp_path, RecordingProtection(Journal())) as service:
        assert service.recovered == []


def test_a_hook_that_does_not_leave_is_given_up_and_runs_again(tmp_path, journal):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "one"))
    service = opened(tmp_path, plugin, abort_grace=SHORT)
    try:
        handle = service.protect(plan("one"))
        closer = close_while_at(gate, service)
        closer.join(DEADLINE)
        assert handle.status is OperationStatus.SUSPENDED
    finally:
        gate.open()
    again = Journal()
    with opened(tmp_path, RecordingProtection(again, store_something)) as service:
        (resumed,) = service.recovered
        assert resumed.result(DEADLINE).status is CheckpointStatus.AVAILABLE
    attempts = [c["context"].attempt for c in again.calls if c["hook"] == "on_main"]
    assert attempts == [2]


def test_a_span_that_does_not_end_in_time_is_undone(tmp_path, journal):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_prepare_begin", "one"))
    service = opened(tmp_path, plugin, abort_grace=SHORT)
    handle = service.protect(plan("one"))
    closer = close_while_at(gate, service, timeout=SHORT)
    closer.join(DEADLINE)
    gate.open()

    assert handle.status is OperationStatus.CANCELLED
    assert "one" in journal.aborted()


def test_an_operation_that_waits_for_its_locks_is_cancelled(tmp_path, journal):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "one"))
    service = opened(tmp_path, plugin)
    first = service.protect(plan("one"))
    gate.wait_entered()
    second = service.protect(plan("one"))
    closer = close_while_at(gate, service)
    with pytest.raises(OperationCancelledError):
        second.result(DEADLINE)
    gate.open()
    closer.join(DEADLINE)
    assert first.status is OperationStatus.SUSPENDED


def suspend_one(path: Path, journal: Journal, **kwargs: Any) -> str:
    """Suspend a protect in its main hook; return its id."""
    gate = Gate()
    plugin = kwargs.pop("plugin", RecordingProtection)(journal, leaving_at(gate, "on_main", "one"))
    service = opened(path, plugin)
    handle = service.protect(plan("one"), **kwargs)
    suspend_at(gate, service, handle)
    assert handle.status is OperationStatus.SUSPENDED
    return str(handle.id)


@pytest.mark.parametrize("answer", ["resume", "abort"])
def test_a_host_that_wants_to_be_asked_says_what_becomes_of_it(tmp_path, journal, answer):
    operation_id = suspend_one(tmp_path, journal)
    again = Journal()
    plugin = RecordingProtection(again, store_something)
    with opened(tmp_path, plugin, recover="ask") as service:
        (asked,) = service.recovered
        with pytest.raises(OperationSuspendedError):
            asked.result(DEADLINE)
        assert again.hooks() == []
        record = service.provider("local").bank.journal.get(operation_id)
        assert record.status is OperationStatus.SUSPENDED
        handle = getattr(service, answer)(operation_id)
        assert handle.id == operation_id
        assert handle.wait(DEADLINE)
        assert service.wait(DEADLINE)
        if answer == "resume":
            assert handle.result(0).status is CheckpointStatus.AVAILABLE
            assert again.aborted() == []
        else:
            assert handle.status is OperationStatus.FAILED
            assert again.aborted() == ["one"]
        with pytest.raises(OperationNotFoundError):
            service.resume(operation_id)


def test_what_two_resume_at_once_goes_on_once(tmp_path, journal, monkeypatch):
    """One has read that it stands still; the other would have it go on, and end, meanwhile."""
    operation_id = suspend_one(tmp_path, journal)
    again = Journal()
    plugin = RecordingProtection(again, store_something)
    with opened(tmp_path, plugin, recover="ask") as service:
        (asked,) = service.recovered
        asked.wait(DEADLINE)
        records = service.provider("local").bank.journal
        get, has_read, has_ended = type(records).get, threading.Event(), threading.Event()

        def slow_get(self: Any, wanted: str) -> Any:
            record = get(self, wanted)
            if threading.current_thread().name == "first":
                has_read.set()
                has_ended.wait(0.3)
            return record

        monkeypatch.setattr(type(records), "get", slow_get)
        first = threading.Thread(target=service.resume, args=[operation_id], name="first")
        first.start()
        assert has_read.wait(DEADLINE)
        with contextlib.suppress(OperationNotFoundError):  # the first one's has ended
            service.resume(operation_id).wait(DEADLINE)
        has_ended.set()
        first.join(DEADLINE)
        assert service.wait(DEADLINE)
        assert records.get(operation_id).status is OperationStatus.SUCCEEDED
    ran = again.hooks()
    assert ran
    assert len(ran) == len(set(ran))


class Versioned(RecordingProtection):
    state_version = 2


class Generous(Versioned):
    def can_resume(self, version: int) -> bool:
        return version == 1


class Speechless(Versioned):
    def can_resume(self, version: int) -> bool:
        raise SystemExit("it cannot say")


@pytest.mark.parametrize(
    ("newer", "status"),
    [(Versioned, "failed"), (Generous, "succeeded"), (Speechless, "failed")],
)
def test_a_release_that_cannot_read_the_kept_state_undoes_what_began(
    tmp_path, journal, newer, status
):
    suspend_one(tmp_path, journal)
    again = Journal()
    with opened(tmp_path, newer(again, store_something)) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert handle.status == status
    assert again.aborted() == (["one"] if status == "failed" else [])


def test_a_time_limit_counts_what_ran_before_and_a_deadline_is_a_moment(tmp_path, journal):
    operation_id = suspend_one(tmp_path, journal, timeout=3600.0)
    service = opened(tmp_path, RecordingProtection(Journal()), recover="ask")
    with service:
        assert service.recovered[0].wait(DEADLINE)
        record = service.provider("local").bank.journal.get(operation_id)
        assert record.extra["timeout"] == 3600.0
        assert 0 < record.extra["seconds run"] < 3600

        never = threading.Event()

        def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
            while hook == "on_main":
                call["context"].check_cancelled()
                never.wait(0.001)

    with opened(tmp_path / "other", RecordingProtection(Journal(), behave)) as service:
        late = service.protect(plan("one"), deadline=0.0)
        with pytest.raises(OperationError, match="deadline has passed"):
            late.result(DEADLINE)


def test_what_is_pending_is_undone_before_the_next_operation_touches_it(tmp_path, journal):
    refuses = threading.Event()
    refuses.set()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if hook == "on_main" and refuses.is_set():
            raise OSError("broke")
        if hook == "on_abort" and refuses.is_set():
            raise OSError("cannot thaw")

    with opened(tmp_path, RecordingProtection(journal, behave)) as service:
        with pytest.raises(OperationError, match="broke"):
            service.protect(plan("one")).result(DEADLINE)
        assert journal.aborted() == ["one"] * 3
        refuses.clear()
        other = service.protect(plan("another"))
        assert other.result(DEADLINE).status is CheckpointStatus.AVAILABLE
        assert journal.aborted() == ["one"] * 3, "nobody has touched it"

        assert service.protect(plan("one")).result(DEADLINE).status is CheckpointStatus.AVAILABLE
        assert journal.aborted() == ["one"] * 4
        begins = [
            n for n, found in enumerate(journal.hooks()) if found == ("on_prepare_begin", "one")
        ]
        aborts = [n for n, found in enumerate(journal.hooks()) if found == ("on_abort", "one")]
        assert aborts[-1] < begins[-1]
        assert all(not r.abort_pending for r in service.operation_history("local"))


def test_a_freeze_that_succeeds_after_the_operations_end_is_undone_all_the_same(tmp_path, journal):
    returns = threading.Event()
    frozen = threading.Event()
    thawed_again = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_begin":
            assert returns.wait(DEADLINE)
            frozen.set()
        if hook == "on_abort" and frozen.is_set():
            thawed_again.set()

    limits = TimeLimits(prepare=SHORT)
    service = opened(tmp_path, RecordingProtection(journal, behave), time_limits=limits)
    with pytest.raises(OperationError, match="longer than"):
        service.protect(plan("one")).result(DEADLINE)
    (record,) = service.operation_history("local")
    assert record.abort_pending == service.provider("local").abort_pending == 1
    returns.set()
    assert thawed_again.wait(DEADLINE), "what froze late stays frozen"
    assert service.wait(DEADLINE)
    (record,) = service.operation_history("local")
    assert record.abort_pending == service.provider("local").abort_pending == 0
    service.close()


class Dying(pykka.ThreadingActor):
    """An actor of the host's that takes all others along, as Pykka has it."""

    def on_receive(self, message: Any) -> Any:
        raise SystemExit("the host's own business")


def die() -> None:
    ref = Dying.start()
    ref.tell("die")
    assert ref.actor_stopped.wait(DEADLINE)


@pytest.mark.crash_expected
@pytest.mark.parametrize("end", [pykka.ActorRegistry.stop_all, die])
def test_a_host_whose_actors_all_end_ends_nothing_of_ours_by_that(tmp_path, journal, end):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "one", polls=False))
    with opened(tmp_path, plugin) as service:
        handle = service.protect(plan("one"))
        gate.wait_entered()
        end()
        gate.open()
        assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE
        assert service.protect(plan("two")).result(DEADLINE).status is CheckpointStatus.AVAILABLE


@pytest.mark.parametrize("failing_commits", [0, 1, 2, 3, 4, 5, 6])
def test_pending_aborts_of_a_partial_protect_leave_what_it_holds_alone(
    tmp_path, journal, monkeypatch, failing_commits
):
    """What is tried again is the abort that failed, not every resource that had begun."""
    refuses = threading.Event()
    refuses.set()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if resource.id == "bad" and hook == "on_main":
            raise OSError("broke")
        if resource.id == "bad" and hook == "on_abort" and refuses.is_set():
            raise OSError("cannot thaw")

    with opened(tmp_path, RecordingProtection(journal, behave)) as service:
        handle = service.protect(plan("good", "bad"), on_failure="isolate")
        with pytest.raises(PartialOperationError):
            handle.result(DEADLINE)
    refuses.clear()
    again = Journal()
    update, left = journal_module.Journal.update, [failing_commits]

    def fails(self: Any, transaction: Any, number: int, **changes: Any) -> Any:
        if "ended_at" in changes and left[0]:
            left[0] -= 1
            raise BankFullError("the disk is full")
        return update(self, transaction, number, **changes)

    monkeypatch.setattr(journal_module.Journal, "update", fails)
    for _ in range(3):  # each start tries the end twice, and each time alone once more
        with opened(tmp_path, RecordingProtection(again, behave)) as service:
            assert all(undone.wait(DEADLINE) for undone in service.recovered)
            (record,) = service.operation_history("local")
            assert record.status == "partial"
    with opened(tmp_path, RecordingProtection(again, behave)) as service:
        assert service.recovered == []
        (record,) = service.operation_history("local")
        assert (record.status, record.abort_pending) == ("partial", 0)
        (checkpoint,) = service.provider("local").bank.checkpoints()
        assert checkpoint.status is CheckpointStatus.PARTIAL
    assert set(again.aborted()) == {"bad"}


def test_what_may_still_be_frozen_late_is_listed_as_pending_though_the_rest_is_suspended(
    tmp_path, journal, caplog
):
    """A freeze was given up and has not returned when the service closes, which says so."""
    freeze, copy, undone = Gate(), Gate(), threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (hook, resource.id) == ("on_prepare_begin", "two"):
            freeze.pass_through()
        elif (hook, resource.id) == ("on_abort", "two"):
            undone.set()
        elif (hook, resource.id) == ("on_main", "one"):
            copy.pass_through()
            call["context"].check_cancelled()

    limits = TimeLimits(prepare=1.0)
    service = opened(tmp_path, RecordingProtection(journal, behave), time_limits=limits)
    handle = service.protect(plan("one", "two"), on_failure="isolate")
    assert undone.wait(DEADLINE)
    closer = close_while_at(copy, service)
    copy.open()
    closer.join(DEADLINE)

    assert handle.status is OperationStatus.SUSPENDED
    (said,) = [record.getMessage() for record in caplog.records if "goes on" in record.msg]
    assert said.startswith("on_prepare_begin of ")
    assert handle.id in said
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert bank.journal.get(handle.id).abort_pending == 1
    freeze.open()
    again = Journal()
    with opened(tmp_path, RecordingProtection(again, store_something)) as service:
        assert service.recovered[0].wait(DEADLINE)
        assert service.provider("local").abort_pending == 0
    assert again.aborted() == ["two"]


@pytest.mark.parametrize("drain", [True, False])
def test_what_a_close_undoes_was_cancelled_and_waits_for_no_hook_longer_than_the_grace(
    tmp_path, journal, drain
):
    """Its Operation cannot be resumed, so that a close that drains undoes it too."""
    gate = Gate()
    plugin = Forgetful(journal, leaving_at(gate, "on_main", "one", polls=False))
    service = opened(tmp_path, plugin, abort_grace=SHORT)
    handle = service.protect(plan("one"))
    gate.wait_entered()
    service.close(drain=drain)
    gate.open()

    assert handle.status is OperationStatus.CANCELLED
    with pytest.raises(OperationCancelledError):
        handle.result(0)


def test_what_had_ended_is_not_told_otherwise_by_a_close_before_its_rest_could_be_undone(
    tmp_path, journal
):
    """Its plan hangs at the next start, so that nothing more can be undone there."""
    gate = Gate()

    class Hanging(RecordingProtection):
        def get_protect_operation(self, resource: Resource) -> Operation | None:
            if again:
                gate.pass_through()
            return super().get_protect_operation(resource)

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if resource.id == "bad" and hook in ("on_main", "on_abort"):
            raise OSError("broke")

    again = False
    plugin = Hanging(journal, behave)
    with opened(tmp_path, plugin) as service:
        service.protect(plan("good", "bad"), on_failure="isolate").wait(DEADLINE)
    again = True
    service = opened(tmp_path, plugin, abort_grace=SHORT)
    (handle,) = service.recovered
    gate.wait_entered()
    service.close(drain=False)
    gate.open()

    assert handle.status is OperationStatus.PARTIAL
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert bank.journal.get(handle.id).status is OperationStatus.PARTIAL


@pytest.mark.parametrize("verb", ["protect", "delete", "restore", "verify"])
def test_what_is_being_recorded_when_the_service_is_closed_goes_on_at_the_next_start(
    tmp_path, journal, monkeypatch, verb
):
    """It is marked already, and would be left so."""
    recording, is_slow = Gate(), False
    begin = Verb._begin

    def slow(self: Any, *args: Any) -> Any:
        run = begin(self, *args)
        if is_slow:
            recording.pass_through()
        return run

    monkeypatch.setattr(Verb, "_begin", slow)
    service = opened(tmp_path, RecordingProtection(journal, store_something))
    kept = service.protect(plan("one")).result(DEADLINE)
    is_slow = True
    handle = service.protect(plan("two")) if verb == "protect" else getattr(service, verb)(kept.id)
    closer = close_while_at(recording, service)
    wait_until_told(handle)
    recording.open()
    closer.join(DEADLINE)

    assert handle.status in (OperationStatus.SUSPENDED, OperationStatus.SUCCEEDED)
    is_slow, again = False, Journal()
    with opened(tmp_path, RecordingProtection(again, store_something)) as service:
        for resumed in service.recovered:
            assert resumed.id == handle.id
            resumed.result(DEADLINE)
        found = [found.status for found in service.provider("local").bank.checkpoints()]
        assert set(found) <= {CheckpointStatus.AVAILABLE}
        assert len(found) == {"protect": 2, "delete": 0}.get(verb, 1)


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_what_was_told_to_stop_as_it_was_to_be_recorded_is_not_planned_again(
    tmp_path, journal, monkeypatch, how
):
    """Its plan is stale, so nothing is recorded of it: a plan that hangs then is no suspension."""
    opening, planning, plans, make = Gate(), Gate(), [], Delete.plan

    def stale(_: Any, __: Any) -> Any:
        opening.pass_through()
        raise StalePlan

    def only_once(self: Any) -> Any:
        plans.append(self)
        if len(plans) > 1:
            planning.pass_through()
        return make(self)

    monkeypatch.setattr(Delete, "open", stale)
    monkeypatch.setattr(Delete, "plan", only_once)
    service = opened(tmp_path, RecordingProtection(journal, store_something), abort_grace=SHORT)
    try:
        handle = service.delete(service.protect(plan("one")).result(DEADLINE).id)
        stop = service.close if how == "close" else handle.cancel
        opening.wait_entered()
        stopper = threading.Thread(target=stop)
        stopper.start()
        wait_until_told(handle) if how == "close" else wait_until_cancelled(handle)
        opening.open()
        stopper.join(DEADLINE)
        assert handle.wait(DEADLINE)
        assert (handle.status, len(plans)) == (OperationStatus.CANCELLED, 1)
    finally:
        opening.open()
        planning.open()
        service.close()


@pytest.mark.parametrize("when", ["plan", "open"])
def test_what_is_cancelled_before_it_is_taken_up_is_undone_although_the_disk_is_full(
    tmp_path, journal, monkeypatch, when
):
    gate = Gate()
    plugin = RecordingProtection(journal, leaving_at(gate, "on_main", "server"))
    service = opened(tmp_path, plugin, TREE)
    handle = service.protect(plan("server"))
    suspend_at(gate, service, handle)
    assert handle.status is OperationStatus.SUSPENDED

    taking_up, step, again = Gate(), getattr(Protect, when), Journal()

    def slow(self: Any, *args: Any) -> Any:
        taking_up.pass_through()
        return step(self, *args)

    monkeypatch.setattr(Protect, when, slow)
    with opened(tmp_path, RecordingProtection(again, store_something), TREE) as service:
        (found,) = service.recovered
        taking_up.wait_entered()
        canceller = threading.Thread(target=found.cancel)
        canceller.start()
        wait_until_cancelled(found)
        with FaultPlan([Rule("commit_before", "disk_full")], seed=1).installed():
            taking_up.open()
            assert found.wait(DEADLINE)
            canceller.join(DEADLINE)
        assert set(again.aborted()) == {"server", "disk1", "disk2"}
        assert found.status is not OperationStatus.SUSPENDED

    monkeypatch.setattr(Protect, when, step)
    last = Journal()
    with opened(tmp_path, RecordingProtection(last, store_something), TREE) as service:
        for handle in service.recovered:
            assert handle.wait(DEADLINE)
    assert {hook for hook, _ in last.hooks()} <= {"on_abort"}


def test_a_cancel_while_the_suspension_is_being_recorded_is_not_lost(
    tmp_path, journal, monkeypatch
):
    gate, recording = Gate(), Gate()
    suspend = RecordedOperation.suspend

    def slow(self: Any, *args: Any) -> None:
        recording.pass_through()
        suspend(self, *args)

    monkeypatch.setattr(RecordedOperation, "suspend", slow)
    service = opened(tmp_path, RecordingProtection(journal, leaving_at(gate, "on_main", "one")))
    handle = service.protect(plan("one"))
    closer = close_while_at(gate, service)
    wait_until_told(handle)
    gate.open()
    recording.wait_entered()
    handle.cancel_for(AbortReason(AbortKind.CANCEL))
    handle.progress()  # the supervisor has taken the message before this one
    recording.open()
    closer.join(DEADLINE)

    assert handle.status is OperationStatus.CANCELLED
    assert journal.aborted() == ["one"]
    with opened(tmp_path, RecordingProtection(Journal())) as service:
        assert service.recovered == []
