"""Hooks that take too long: given up, fenced off, undone, and undone again when they return."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    HookName,
    Operation,
    OperationError,
    OperationStatus,
    ProtectionService,
    Provider,
    ResourceStatus,
    RetryPolicy,
    TimeLimits,
    faultpoints,
)
from karbor_actors.errors import FencedError
from karbor_actors.operations.aborts import abort
from karbor_actors.operations.hooks import event_loop, workers
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.limits import alarms
from karbor_actors.operations.verbs.protect import Protect
from karbor_actors.store import MemoryStore
from kit import (
    TYPE,
    Journal,
    RecordingProtection,
    Things,
    plan,
    provider,
    store_something,
    thing,
)

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


def test_what_a_hook_froze_that_returns_while_its_operation_ends_is_thawed_at_once(
    tmp_path, journal, monkeypatch
):
    """Its outcome is known by then, and has it as pending: that must not stay so."""
    returns, reported, thawed = threading.Event(), threading.Event(), threading.Event()
    end, conclude = Attempt.end, Protect.conclude

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_begin":
            assert returns.wait(DEADLINE)
        if hook == "on_abort" and returns.is_set():
            thawed.set()

    def reporting_end(attempt: Attempt, error: BaseException | None) -> None:
        end(attempt, error)
        if attempt.is_fenced:
            reported.set()

    def slow_conclude(verb: Protect, *args: Any) -> Any:
        returns.set()
        assert reported.wait(DEADLINE)
        for handle in service.operations():
            handle.progress()  # answered after what was told before: that a body returned
        return conclude(verb, *args)

    monkeypatch.setattr(Attempt, "end", reporting_end)
    monkeypatch.setattr(Protect, "conclude", slow_conclude)
    service = service_with(tmp_path, journal, behave, TimeLimits(prepare=SHORT))
    try:
        handle = service.protect(plan("slow"))
        assert handle.wait(DEADLINE)
        assert thawed.wait(DEADLINE)
        assert service.wait(DEADLINE)
        assert service.provider("local").bank.journal.get(handle.id).abort_pending == 0
    finally:
        returns.set()
        service.close()


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


class Slowly:
    """Gives a few blocks, one at a time, with a pause before each."""

    def __init__(self, blocks: int, pause: float) -> None:
        self._left, self._pause = blocks, pause

    def read(self, size: int, /) -> bytes:
        if self._left == 0:
            return b""
        self._left -= 1
        threading.Event().wait(self._pause)
        return os.urandom(size)


class SlowToRead(MemoryStore):
    """Keeps who reads waiting, once it is told to."""

    pause = 0.0

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        threading.Event().wait(self.pause)
        return super().get(name, start, length)


@pytest.mark.parametrize("verb", ["protect", "restore", "copy"])
def test_data_that_moves_keeps_a_long_main_hook_alive(tmp_path, journal, verb):
    """A hook that only reads or writes a stream, and the engine's own copying, need say nothing."""
    limits = TimeLimits(main=8 * SHORT)

    def behave(found: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        section = call["checkpoint"].get_resource_bank_section(resource)
        if (found, hook) == ("protect", "on_main"):
            slowly = Slowly(12, 2 * SHORT if verb == "protect" else 0.0)
            section.write_stream("data", slowly)
        if (found, hook) == ("restore", "on_main"):
            with section.open_stream("data") as stream:
                while stream.read(1 << 20):
                    threading.Event().wait(2 * SHORT)

    plugin = RecordingProtection(journal, behave, verbs=("protect", "restore"))
    objects = SlowToRead()
    with ProtectionService(workers=2) as service:
        for name, store in (("local", objects), ("other", None)):
            bank = Bank.open(tmp_path / name, objects=store)
            found = Provider(name, bank=bank, protection_plugins=[plugin], time_limits=limits)
            service.add_provider(found)
        checkpoint = service.protect(plan("one")).result(DEADLINE)
        if verb == "restore":
            service.restore(checkpoint.id).result(DEADLINE)
        if verb == "copy":
            objects.pause = 2 * SHORT
            service.copy(checkpoint.id, to="other").result(DEADLINE)


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


@pytest.mark.parametrize("how", ["retried", "asked for"])
def test_an_abort_that_took_too_long_and_goes_on_is_waited_for_before_the_next_one(
    tmp_path, journal, monkeypatch, how
):
    """Two that undo the same at once are not for plugins to bear."""
    attempts = 2 if how == "retried" else 1
    monkeypatch.setattr(abort, "ABORT_RETRY", RetryPolicy(attempts=attempts, backoff=0.001))
    now, most, lingers, asked = [0], [0], [True], threading.Event()
    poll, counting = threading.Event(), threading.Lock()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            raise OSError("broke")
        if hook != "on_abort":
            return
        with counting:
            now[0] += 1
            most[0] = max(most[0], now[0])
        while lingers:
            try:
                call["context"].artifact("lock", "l").release()
            except FencedError:  # it was given up, and takes its time all the same
                lingers.clear()
                if how == "asked for":
                    assert asked.wait(DEADLINE)
                poll.wait(0.3)
            poll.wait(0.01)
        with counting:
            now[0] -= 1

    service = service_with(tmp_path, journal, behave, TimeLimits(abort=3.0))
    try:
        handle = service.protect(plan("one"))
        with pytest.raises(OperationError, match="broke"):
            handle.result(DEADLINE)
        if how == "asked for":
            again = service.abort(handle.id)
            asked.set()
            assert again.wait(DEADLINE)
        assert journal.aborted() == ["one"] * 2
        assert most == [1]
        (record,) = service.operation_history("local")
        assert record.abort_pending == 0
    finally:
        asked.set()
        service.close()
    join_workers()


def test_closing_ends_although_an_abort_always_takes_longer_than_it_may(tmp_path, journal):
    """What comes back late is undone again; but this would come back late for ever."""
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            raise OSError("broke")
        if hook == "on_abort":
            gate.pass_through()
            threading.Event().wait(3 * SHORT)

    service = service_with(tmp_path, journal, behave, TimeLimits(abort=SHORT))
    handle = service.protect(plan("one"))
    gate.wait_entered()
    gate.open()
    assert handle.wait(DEADLINE)
    closer = threading.Thread(target=service.close)
    closer.start()
    closer.join(DEADLINE)
    assert not closer.is_alive()
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


def test_what_hangs_elsewhere_keeps_no_thaw_waiting(tmp_path, journal, monkeypatch):
    """Other operations' prepare hooks take all the workers while a server waits for its disk."""
    monkeypatch.setattr(alarms, "LOOK_EVERY", SHORT)
    monkeypatch.setattr(workers, "_STUCK", SHORT)
    gates = {name: Gate() for name in ("disk", "two", "three")}

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_begin" and resource.id in gates:
            gates[resource.id].pass_through()

    with ProtectionService(workers=2) as service:
        plugin = RecordingProtection(journal, behave)
        service.add_provider(provider(tmp_path / "bank", plugin, {"server": ["disk"]}))
        frozen = service.protect(plan("server"))
        gates["disk"].wait_entered()
        hung = [service.protect(plan("two"))]
        gates["two"].wait_entered()
        hung.append(service.protect(plan("three")))
        gates["disk"].open()
        gates["three"].wait_entered()
        assert frozen.wait(DEADLINE), "it stays frozen"
        for name in ("two", "three"):
            gates[name].open()
        for handle in (frozen, *hung):
            handle.result(DEADLINE)


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
        assert set(journal.aborted()) == {"one"}  # and again if the hook left only then
    finally:
        service.close()


@pytest.mark.parametrize("limit", [0, -1.0])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="main is more than 0 seconds"):
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


def held_for_too_long(path: Path, journal: Journal, behave: Any, children: Any = None) -> Any:
    """Return a service in which a resource may be held for a short while, its hooks run for long."""
    return service_with(path, journal, behave, TimeLimits(max_quiesce=4 * SHORT), children)


@pytest.mark.parametrize("on_failure", ["abort", "isolate"])
@pytest.mark.parametrize("hook", ["on_prepare_begin", "on_prepare_finish"])
def test_a_hook_that_holds_its_resource_for_too_long_is_given_up_at_once(
    tmp_path, journal, hook, on_failure
):
    returns, over = threading.Event(), threading.Event()

    def behave(verb: str, found: str, resource: Resource, call: dict[str, Any]) -> None:
        if (found, resource.id) == (hook, "slow"):
            assert returns.wait(DEADLINE)
        if (found, resource.id) == ("on_main", "other") and on_failure == "isolate":
            assert over.wait(DEADLINE)
        if (found, resource.id) == ("on_abort", "slow"):
            over.set()

    service = held_for_too_long(tmp_path, journal, behave)
    try:
        handle = service.protect(plan("slow", "other"), on_failure=on_failure)
        with pytest.raises(OperationError, match="max_quiesce"):
            handle.result(DEADLINE)
        if on_failure == "isolate":
            assert handle.status is OperationStatus.PARTIAL
            assert journal.aborted() == ["slow"], "the others have nothing to do with it"
        reason = next(c["kwargs"]["reason"] for c in journal.calls if c["hook"] == "on_abort")
        assert (reason.kind, reason.resource) == ("timeout", thing("slow").key)
    finally:
        returns.set()
        service.close()
    join_workers()


def test_what_waits_for_a_worker_is_not_held_yet(tmp_path, journal, monkeypatch):
    submit = workers.ThreadRunner.submit

    def submit_late(lane: Any, calls: Any, **keywords: Any) -> bool:
        if any(getattr(call, "hook", None) is HookName.ON_PREPARE_BEGIN for call in calls):
            threading.Timer(3.0, submit, (lane, calls), keywords).start()
            return True
        return submit(lane, calls, **keywords)

    monkeypatch.setattr(workers.ThreadRunner, "submit", submit_late)
    limits = TimeLimits(max_quiesce=2.0)
    with service_with(tmp_path, journal, store_something, limits, {}) as service:
        assert service.protect(plan("one")).result(DEADLINE).status == "available"
    assert not journal.aborted()


@pytest.mark.parametrize("on_failure", ["abort", "isolate"])
def test_a_thaw_waits_for_a_childs_hook_no_longer_than_max_quiesce(tmp_path, journal, on_failure):
    """Nor until the grace, which is longer, is over."""
    thawed, kept = threading.Event(), []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_prepare_begin", "disk"):
            kept.append(thawed.wait(DEADLINE))
        if (hook, resource.id) == ("on_abort", "server"):
            thawed.set()

    limits = {TYPE: TimeLimits(max_quiesce=4 * SHORT), "Disk": TimeLimits(max_quiesce=None)}
    plugin = RecordingProtection(journal, behave)
    plugin.get_supported_resources_types = lambda: (TYPE, "Disk")  # type: ignore[method-assign]
    with ProtectionService(workers=2) as service:
        found = Provider(
            "local",
            bank=Bank.open(tmp_path / "bank"),
            protection_plugins=[plugin],
            protectables=[Things({}), Things({"server": ["disk"]}, "Disk")],
            time_limits=limits,
        )
        service.add_provider(found)
        with pytest.raises(OperationError, match="max_quiesce"):
            service.protect(plan("server"), on_failure=on_failure).result(DEADLINE)
    assert kept == [True], "it stayed frozen until its child's hook had ended"


def test_a_resource_that_waits_to_be_tried_again_is_held_no_longer_for_that(tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_finish":
            raise OSError("not yet")

    plugin = RecordingProtection(journal, behave)
    retry = {"*": RetryPolicy(attempts=5, backoff=DEADLINE, max_backoff=DEADLINE)}
    limits = TimeLimits(max_quiesce=4 * SHORT)
    with ProtectionService(workers=2) as service:
        found = provider(tmp_path / "bank", plugin, time_limits=limits, retry=retry)
        service.add_provider(found)
        handle = service.protect(plan("one"))
        with pytest.raises(OperationError, match="max_quiesce"):
            handle.result(DEADLINE / 2)
    assert journal.aborted() == ["one"]


def test_a_span_that_does_not_end_while_the_service_closes_is_undone_not_suspended(
    tmp_path, journal
):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_finish":
            gate.pass_through()

    service = service_with(tmp_path, journal, behave, TimeLimits(prepare=4 * SHORT))
    handle = service.protect(plan("one"))
    gate.wait_entered()
    service.close()
    gate.open()
    join_workers()
    assert handle.status is OperationStatus.FAILED
    assert "one" in journal.aborted()


class HangingCommits:
    """Holds each commit up once it is told to: a disk that does not answer."""

    def __init__(self) -> None:
        self.hangs, self._answers = threading.Event(), threading.Event()
        self.is_hung = threading.Event()
        """Whether a commit is held up."""

    def on_commit(self, path: str, when: str) -> None:
        if when == "before" and self.hangs.is_set():
            self.is_hung.set()
            assert self._answers.wait(DEADLINE)

    def on_message(self, actor: object, message: object) -> object:
        return message

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def answer(self) -> None:
        self.hangs.clear()
        self._answers.set()


@pytest.mark.parametrize("on_failure", ["abort", "isolate"])
@pytest.mark.parametrize("at", ["on_prepare_begin", "on_prepare_finish"])
def test_a_bank_that_does_not_answer_keeps_nothing_frozen(tmp_path, journal, at, on_failure):
    """Neither the decision to undo it, nor the completion of its own hook, is waited for."""
    disk, thawed = HangingCommits(), threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == at:
            disk.hangs.set()
            if at == "on_prepare_finish":
                raise OSError("broke")
        if hook == "on_abort":
            thawed.set()

    plugin = RecordingProtection(journal, behave)
    limits = TimeLimits(max_quiesce=4 * SHORT)
    with ProtectionService(workers=2, abort_grace=4 * SHORT) as service:
        service.add_provider(provider(tmp_path / "bank", plugin, time_limits=limits))
        faultpoints.install(disk)  # type: ignore[arg-type]
        try:
            handle = service.protect(plan("one"), on_failure=on_failure)
            assert thawed.wait(DEADLINE / 2), "it stays frozen"
        finally:
            disk.answer()
            assert handle.wait(DEADLINE)
            faultpoints.remove(disk)  # type: ignore[arg-type]
        assert handle.status is OperationStatus.FAILED


@pytest.mark.parametrize("on_failure", ["abort", "isolate"])
@pytest.mark.parametrize("closing", [None, True, False])
def test_what_froze_late_while_the_end_is_written_is_thawed_though_the_service_is_closed(
    tmp_path, journal, monkeypatch, closing, on_failure
):
    """Closing waits for that: the next start may be far away, and what is frozen is so until then."""
    disk, returns, late, thaws = HangingCommits(), threading.Event(), [], []
    conclude = Protect.conclude

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_prepare_begin", "slow"):
            late.append(threading.current_thread())
            assert returns.wait(DEADLINE)
        if (hook, resource.id) == ("on_abort", "slow"):
            thaws.append(returns.is_set())

    def concluding(verb: Protect, *arguments: Any) -> Any:
        change = conclude(verb, *arguments)
        disk.hangs.set()  # the next commit is of the end
        return change

    monkeypatch.setattr(Protect, "conclude", concluding)
    service = service_with(tmp_path, journal, behave, TimeLimits(prepare=SHORT))
    faultpoints.install(disk)  # type: ignore[arg-type]
    closer = threading.Thread(target=service.close, kwargs={"drain": closing})
    try:
        handle = service.protect(plan("slow", "other"), on_failure=on_failure)
        assert disk.is_hung.wait(DEADLINE)
        if closing is not None:
            closer.start()
            while not (handle.is_suspended or handle.cancel_reason):
                threading.Event().wait(0.001)
        returns.set()
        late[0].join(DEADLINE)
        disk.hangs.clear()
    finally:
        disk.answer()
        returns.set()
        faultpoints.remove(disk)  # type: ignore[arg-type]
        if closing is None:
            assert handle.wait(DEADLINE)
            assert service.wait(DEADLINE), "what is undone still is waited for, too"
            service.close()
        else:
            closer.join(DEADLINE)
    assert thaws == [False, True]
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert bank.journal.get(handle.id).abort_pending == 0


def asynchronous(path: Path, journal: Journal, behave: Any, limits: Any) -> ProtectionService:
    return service_with(path, journal, behave, limits, is_async=True)


def join_loops() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("karbor-loop"):
            thread.join(DEADLINE)


def test_an_async_hook_that_blocks_its_loop_holds_up_no_other(tmp_path, journal, monkeypatch):
    """Nor the thaw of what it has frozen itself, nor the end of the service."""
    monkeypatch.setattr(alarms, "LOOK_EVERY", SHORT)
    monkeypatch.setattr(event_loop, "STUCK", 2 * SHORT)
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (hook, resource.id) == ("on_main", "blocks"):
            gate.pass_through()

    service = asynchronous(tmp_path, journal, behave, TimeLimits(main=8 * SHORT))
    try:
        hung = service.protect(plan("blocks"))
        gate.wait_entered()
        assert service.protect(plan("well")).result(DEADLINE / 2).status == "available"
        with pytest.raises(OperationError, match="longer than"):
            hung.result(DEADLINE / 2)
        assert "blocks" in journal.aborted()
        assert service.abandoned_threads == 1
        service.close()
    finally:
        gate.open()
        service.close()
    join_loops()


def test_a_thaw_does_not_wait_for_the_loop_that_another_operations_hook_blocks(
    tmp_path, monkeypatch
):
    """Nor until somebody looks around: that may take longer than the thaw's own limit."""
    monkeypatch.setattr(event_loop, "URGENT", SHORT)
    gate, thawed = Gate(), threading.Event()

    class Blocks(Operation):
        async def on_main(self, *args: Any, **kwargs: Any) -> None:
            gate.pass_through()

    class Held(Operation):
        def on_prepare_begin(self, *args: Any, **kwargs: Any) -> None:
            gate.wait_entered()

        async def on_prepare_finish(self, *args: Any, **kwargs: Any) -> None:
            thawed.set()

        async def on_abort(self, *args: Any, **kwargs: Any) -> None:
            thawed.set()

    class Plugin(RecordingProtection):
        def get_protect_operation(self, resource: Resource) -> Operation:
            return Blocks() if resource.id == "blocks" else Held()

    with ProtectionService(workers=4) as service:
        service.add_provider(provider(tmp_path / "bank", Plugin(Journal())))
        held = service.protect(plan("held"))
        blocks = service.protect(plan("blocks"))
        was_thawed = thawed.wait(DEADLINE / 2)
        assert not blocks.wait(0)
        assert held.result(DEADLINE).status == "available"
        gate.open()
        blocks.result(DEADLINE)
    assert was_thawed
    join_loops()


@pytest.mark.parametrize("goes_on", [True, False])
def test_the_log_says_when_what_is_not_undone_is_tried_again(tmp_path, journal, caplog, goes_on):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main" and goes_on:
            gate.pass_through()
        elif hook in ("on_main", "on_abort") and not goes_on:
            raise RuntimeError("no")

    with service_with(tmp_path, journal, behave, TimeLimits(main=SHORT)) as service:
        assert service.protect(plan("one")).exception(DEADLINE) is not None
        gate.open()

    when = "when a hook that was given up returns" if goes_on else "by the next start"
    assert f"is not all undone: tried again {when}" in caplog.text


def test_with_too_many_blocked_loops_calls_are_refused(tmp_path, journal, monkeypatch):
    monkeypatch.setattr(alarms, "LOOK_EVERY", SHORT)
    monkeypatch.setattr(event_loop, "STUCK", 2 * SHORT)
    monkeypatch.setattr(event_loop, "MAX_RETIRED", 1)
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main" and resource.id.startswith("blocks"):
            gate.pass_through()

    limits = TimeLimits(main=4 * SHORT)
    service = service_with(tmp_path, journal, behave, limits, is_async=True, hooks=("on_main",))
    try:
        hung = [service.protect(plan(f"blocks{number}")) for number in range(2)]
        assert all(handle.wait(DEADLINE / 2) for handle in hung)
        with pytest.raises(OperationError, match="event loops are blocked"):
            service.protect(plan("well")).result(DEADLINE / 2)
        service.close()
    finally:
        gate.open()
        service.close()
    join_loops()


def test_a_service_can_be_closed_although_an_async_hook_does_not_let_itself_be_cancelled(
    tmp_path, journal
):
    is_over = threading.Event()

    async def stubborn() -> None:
        while not is_over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(SHORT / 10)

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
        return stubborn() if hook == "on_main" else None

    service = asynchronous(tmp_path, journal, behave, TimeLimits(main=2 * SHORT))
    try:
        with pytest.raises(OperationError, match="longer than"):
            service.protect(plan("one")).result(DEADLINE)
        closer = threading.Thread(target=service.close)
        closer.start()
        closer.join(DEADLINE / 2)
        assert not closer.is_alive()
    finally:
        is_over.set()
    join_loops()
