"""What the public API says of handles, dry runs, plugins and the event loop, one by one."""

from __future__ import annotations

import asyncio
import io
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    Consistency,
    ConsistencyLevel,
    OnFailure,
    Operation,
    OperationError,
    OperationStatus,
    ProtectionPlugin,
    ProtectionService,
    Provider,
    RetryPolicy,
)
from karbor_actors.errors import (
    BankClosedError,
    BankLeaseError,
    BlockingCallError,
    CheckpointStateError,
    PluginError,
)
from karbor_actors.operations.handle import EventStream
from karbor_actors.operations.results import Event
from kit import TYPE, RecordingProtection, Things, plan, provider, store_something, thing

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors import Resource

DATA = b"data"


class Single(ProtectionPlugin):
    """Gives one Operation, or whatever else a test hands out, to protect."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def get_supported_resources_types(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TYPE,)

    def get_protect_operation(self, resource: Resource) -> Any:
        return self._operation


class OnTheLoop(Operation):
    """Calls everything that blocks, and then its twin."""

    def __init__(self) -> None:
        self.did_not_raise: list[str] = []
        self.found: dict[str, Any] = {}
        self.waits: SimpleQueue[dict[str, Callable[[], Any]]] = SimpleQueue()
        """Has calls that wait for what it is a part of."""

    async def on_main(  # type: ignore[override]
        self, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        section = checkpoint.get_resource_bank_section(resource)
        await section.aupdate_object("one", 1)
        await section.aupdate_objects({"two": 2, "three": 3})
        await section.adelete_object("three")
        stream = await section.awrite_stream("data", io.BytesIO(DATA))
        await section.awrite_stream("patched", [(1, b"A")], base=stream)
        await section.areuse_stream(stream, "again")
        await section.adelete_stream("data")
        inner = section.get_sub_section("inner")
        await inner.aupdate_object("one", 1)
        await inner.awrite_stream("data", io.BytesIO(DATA))
        await inner.acopy_to(section.get_sub_section("copy"))
        context.state["seen"] = True
        await context.state.aflush()
        made = await context.aartifact("snapshot", "first")
        await made.aupdate(id=5)
        await made.akeep()
        gone = await context.aartifact("snapshot", "second")
        await gone.arelease()
        self.found = {
            "one": await section.aget_object("one"),
            "objects": await section.alist_objects(limit=2),
            "streams": [info.key for info in await section.alist_streams("p")],
            "previous": await context.aprevious(),
        }
        plain: dict[str, Callable[[], Any]] = {
            "update_object": lambda: section.update_object("one", 2),
            "update_objects": lambda: section.update_objects({"one": 2}),
            "delete_object": lambda: section.delete_object("one"),
            "get_object": lambda: section.get_object("one"),
            "list_objects": section.list_objects,
            "write_stream": lambda: section.write_stream("x", io.BytesIO(DATA)),
            "open_stream": lambda: section.open_stream("again"),
            "list_streams": section.list_streams,
            "reuse_stream": lambda: section.reuse_stream(stream, "x"),
            "delete_stream": lambda: section.delete_stream("again"),
            "copy_to": lambda: inner.copy_to(section.get_sub_section("x")),
            "flush": context.state.flush,
            "artifact": lambda: context.artifact("snapshot", "third"),
            "update": lambda: made.update(id=6),
            "keep": made.keep,
            "release": made.release,
            "previous": lambda: context.previous,
        }
        plain |= await asyncio.to_thread(self.waits.get)
        context.state["unflushed"] = True
        for name, call in plain.items():
            try:
                call()
            except BlockingCallError:
                continue
            self.did_not_raise.append(name)


def test_what_blocks_raises_on_the_event_loop_and_has_a_twin_that_does_it(service, tmp_path):
    operation = OnTheLoop()
    service.add_provider(provider(tmp_path / "bank", Single(operation)))
    handle = service.protect(plan("one"))
    waits = {
        "handle.wait": handle.wait,
        "handle.result": lambda: handle.result(DEADLINE),
        "handle.exception": handle.exception,
        "handle.events": lambda: list(handle.events()),
        "service.wait": service.wait,
    }
    operation.waits.put(waits)
    checkpoint = handle.result(DEADLINE)

    assert operation.did_not_raise == []
    assert operation.found == {
        "one": 1,
        "objects": ["copy/one", "inner/one"],
        "streams": ["patched"],
        "previous": None,
    }
    section = checkpoint.get_resource_bank_section("one")
    assert section.list_objects() == ["copy/one", "inner/one", "one", "two"]
    assert section.open_stream("copy/data").read() == DATA
    assert section.open_stream("patched").read() == b"dAta"
    (kept,) = checkpoint.artifacts("one")
    assert (kept.name, kept.data) == ("first", {"id": 5})


def test_a_slow_listener_is_told_what_it_missed_and_how_the_operation_ended():
    stream = EventStream(limit=3)
    for number in range(10):
        stream.put(Event("status", float(number)))
    stream.close(Event("ended", 10.0))

    found = list(stream)
    assert [event.kind for event in found] == ["status", "status", "status", "dropped", "ended"]
    assert found[3].detail == {"count": 7}


def test_a_dry_run_says_what_its_verb_would_run(service, tmp_path, journal):
    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, store_something, verbs=("protect",))
        service.add_provider(provider(tmp_path / name, plugin, name=name))
    checkpoint = service.protect(plan("one", "two")).result(DEADLINE)

    assert service.plan_operation("copy", checkpoint.id, to="offsite").hook_count == 2
    service.copy(checkpoint.id, to="offsite").result(DEADLINE)
    assert service.plan_operation("copy", checkpoint.id, to="offsite").hook_count == 0
    again = service.plan_operation("copy", checkpoint.id, to="offsite", again=True)
    assert again.hook_count == 2
    assert service.plan_operation("verify", checkpoint.id).on_failure is OnFailure.ISOLATE
    assert service.plan_operation("restore", checkpoint.id).on_failure is OnFailure.ABORT


def test_a_dry_run_of_a_partial_checkpoint_wants_to_be_told_so(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook, resource.id) == ("protect", "on_main", "bad"):
            raise RuntimeError("broken")

    hooks = ("on_main",)
    service.add_provider(provider(tmp_path, RecordingProtection(journal, behave, hooks)))
    handle = service.protect(plan("good", "bad"), on_failure="isolate")
    assert handle.wait(DEADLINE)
    with pytest.raises(ValueError, match="allow_partial"):
        service.plan_operation("restore", handle.checkpoint_id)

    planned = service.plan_operation("restore", handle.checkpoint_id, allow_partial=True)
    assert planned.hook_count == 1


def test_a_dry_run_of_a_delete_is_refused_as_the_delete_is(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if resource.id == "stuck" and hook in ("on_main", "on_abort"):
            raise RuntimeError("it is stuck")

    service.add_provider(provider(tmp_path, RecordingProtection(journal, behave)))
    held = service.protect(plan("one")).result(DEADLINE)
    held.hold("an audit")
    handle = service.protect(plan("stuck"))
    assert handle.wait(DEADLINE)

    for checkpoint, why in ((held.id, "held for 'an audit'; rel"), (handle.checkpoint_id, "pend")):
        with pytest.raises(CheckpointStateError, match=why) as planned:
            service.plan_operation("delete", checkpoint)
        with pytest.raises(CheckpointStateError) as deleted:
            service.delete(checkpoint).result(DEADLINE)
        assert str(planned.value) == str(deleted.value)
    held.release_hold("an audit")
    assert service.plan_operation("delete", held.id).hook_count > 0


def test_a_dry_run_of_a_delete_does_not_mind_what_the_delete_waits_for(service, tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("restore", "on_main"):
            gate.pass_through()

    service.add_provider(provider(tmp_path, RecordingProtection(journal, behave)))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    restore = service.restore(checkpoint.id)
    gate.wait_entered()
    planned = service.plan_operation("delete", checkpoint.id)
    gate.open()
    restore.result(DEADLINE)

    assert planned.hook_count == 4


def test_a_copy_is_as_consistent_as_what_it_is_a_copy_of(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook, resource.id) == ("protect", "on_main", "one"):
            call["context"].report_consistency("application", "quiesced")

    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, behave, verbs=("protect",))
        service.add_provider(provider(tmp_path / name, plugin, name=name))
    checkpoint = service.protect(plan("one", "two")).result(DEADLINE)
    copy = service.copy(checkpoint.id, to="offsite").result(DEADLINE)

    for found in (checkpoint, copy):
        assert found.consistency("one") == Consistency(ConsistencyLevel.APPLICATION, "quiesced")
        assert found.consistency("two").level is ConsistencyLevel.NONE
    assert copy.point_in_time == checkpoint.point_in_time


def test_a_class_where_an_operation_should_be_is_refused_with_a_sentence(service, tmp_path):
    service.add_provider(provider(tmp_path / "bank", Single(OnTheLoop)))

    with pytest.raises(PluginError, match="returned the class OnTheLoop, not an object of it"):
        service.protect(plan("one")).result(DEADLINE)


def test_a_plugin_that_fails_to_say_what_was_saved_is_an_error(service, tmp_path, journal):
    class Broken(RecordingProtection):
        @classmethod
        def get_saved_info(cls, metadata_store: Any, resource: Resource) -> Any:
            return metadata_store.there_is_no_such_method()

    service.add_provider(provider(tmp_path / "bank", Broken(journal, store_something)))
    checkpoint = service.protect(plan("one")).result(DEADLINE)

    with pytest.raises(PluginError, match="there_is_no_such_method"):
        service.provider("local").saved_info(checkpoint, thing("one"))


def test_a_plugin_that_shows_no_single_resource_need_not_be_able_to(service, tmp_path, journal):
    class NotShowing(Things):
        def show_resource(self, context: Any, resource_id: str, parameters: Any = None) -> Any:
            raise NotImplementedError

    bank = provider(tmp_path / "bank", RecordingProtection(journal, store_something)).bank
    plugins = [RecordingProtection(journal, store_something)]
    service.add_provider(
        Provider("local", bank=bank, protection_plugins=plugins, protectables=[NotShowing()])
    )

    assert service.protect(plan("one")).result(DEADLINE).status == "available"


def test_a_hook_runs_only_after_its_operation_took_up_what_it_held(tmp_path):
    """A failed on_resume is tried again, not passed over by the hook's next attempt."""
    begun, never, calls = threading.Event(), threading.Event(), []

    class Resumed(Operation):
        def on_main(
            self, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
        ) -> None:
            if not calls:
                calls.append("begun")
                begun.set()
                while not context.cancelled:
                    never.wait(0.01)
                context.check_cancelled()
            calls.append("main")
            checkpoint.get_resource_bank_section(resource).update_object("metadata", 1)

        def on_resume(
            self, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
        ) -> None:
            calls.append("resume")
            if calls.count("resume") < 3:
                raise ConnectionError("the array does not answer")

        def on_abort(
            self, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
        ) -> None:
            calls.append("abort")

    retry = {"*": RetryPolicy(attempts=3, backoff=0.0)}
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", Single(Resumed()), retry=retry))
        service.protect(plan("one"))
        assert begun.wait(DEADLINE)
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", Single(Resumed()), retry=retry))
        (handle,) = service.recovered
        handle.result(DEADLINE)

    assert calls == ["begun", "resume", "resume", "resume", "main"]


def test_the_point_in_time_is_that_of_the_prepare_hooks_whoever_ends_the_operation(tmp_path):
    """A later process runs none of them again, and the data is of no other moment."""
    begun, never, calls = threading.Event(), threading.Event(), []

    class Prepared(Operation):
        def on_prepare_finish(
            self, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
        ) -> None:
            context.report_consistency("crash", "its snapshot is of one moment")
            calls.append("prepared")

        def on_main(
            self, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
        ) -> None:
            if calls == ["prepared"]:
                begun.set()
                calls.append("waited")
                while not context.cancelled:
                    never.wait(0.01)
                context.check_cancelled()
            checkpoint.get_resource_bank_section(resource).update_object("metadata", 1)

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", Single(Prepared())))
        service.protect(plan("one"))
        assert begun.wait(DEADLINE)
    restarted = datetime.now(UTC)
    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", Single(Prepared())))
        (handle,) = service.recovered
        checkpoint = handle.result(DEADLINE)

    assert calls == ["prepared", "waited"]
    assert checkpoint.point_in_time is not None
    assert checkpoint.created_at <= checkpoint.point_in_time < restarted


@pytest.mark.parametrize(
    ("levels", "hooks", "has_one"),
    [
        ({"one": "application", "two": "crash"}, ("on_prepare_finish", "on_main"), True),
        ({"one": "application", "two": "none"}, ("on_prepare_finish", "on_main"), False),
        ({"one": "application"}, ("on_prepare_finish", "on_main"), False),
        ({"one": "application", "two": "crash"}, ("on_main",), False),
    ],
    ids=["all consistent", "one of several moments", "one that does not say", "none prepared"],
)
def test_there_is_a_point_in_time_only_where_all_that_is_saved_is_of_one(
    service, tmp_path, journal, levels, hooks, has_one
):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if verb == "protect" and resource.id in levels:
            call["context"].report_consistency(levels[resource.id])

    service.add_provider(provider(tmp_path, RecordingProtection(journal, behave, hooks)))
    checkpoint = service.protect(plan("one", "two")).result(DEADLINE)

    assert (checkpoint.point_in_time is not None) == has_one
    assert (checkpoint.to_dict()["point_in_time"] is not None) == has_one


def test_what_failed_or_saved_nothing_has_no_part_in_the_point_in_time(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if resource.id == "good":
            store_something(verb, hook, resource, call)
            call["context"].report_consistency("filesystem", "frozen")
        if (hook, resource.id) == ("on_main", "bad"):
            raise RuntimeError("broken")

    service.add_provider(provider(tmp_path, RecordingProtection(journal, behave)))
    bank = service.provider("local").bank
    handle = service.protect(plan("good", "bad", "idle"), on_failure="isolate")
    assert handle.wait(DEADLINE)
    failed = service.protect(plan("good", "bad"))
    assert failed.wait(DEADLINE)

    assert bank.checkpoint(handle.checkpoint_id).point_in_time is not None
    assert bank.checkpoint(failed.checkpoint_id).status == "error"
    assert bank.checkpoint(failed.checkpoint_id).point_in_time is None


def test_a_retry_policy_is_given_its_attempts_and_its_backoff_by_place():
    assert RetryPolicy(3, 0.5) == RetryPolicy(attempts=3, backoff=0.5)


def test_a_status_that_there_is_not_is_no_empty_listing(service, tmp_path, journal):
    service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal)))

    with pytest.raises(ValueError, match="avialable"):
        service.provider("local").bank.checkpoints(status="avialable")


def test_a_handle_names_errors_by_kind(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            raise RuntimeError("broken")

    service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
    handle = service.protect(plan("one"))

    assert isinstance(handle.exception(DEADLINE), OperationError)
    assert handle.status is OperationStatus.FAILED


def test_a_bank_that_a_service_has_is_refused_to_another_which_would_recover_what_runs(
    tmp_path, journal
):
    gate = Gate()
    plugin = RecordingProtection(journal, lambda *_: gate.pass_through(), ("on_main",))
    given = provider(tmp_path / "bank", plugin)
    with ProtectionService() as first, ProtectionService() as second:
        first.add_provider(given)
        handle = first.protect(plan("one"))
        gate.wait_entered()
        same_bank = Provider("other", bank=given.bank, protection_plugins=[plugin])
        for taken in (given, same_bank):
            with pytest.raises(BankLeaseError, match=r"'local' of another service.*readonly=True"):
                second.add_provider(taken)
        with pytest.raises(BankLeaseError, match="this process"):
            Bank.open(tmp_path / "bank")
        first.add_provider(same_bank)  # in one service providers may share
        readonly = Bank.open(tmp_path / "bank", readonly=True)
        second.add_provider(Provider("reader", bank=readonly, protection_plugins=[plugin]))
        gate.open()

        assert handle.result(DEADLINE).status == "available"
        assert second.recovered == []
        assert journal.hooks() == [("on_main", "one")]


def test_a_bank_is_free_for_another_service_once_it_was_closed_and_opened_again(tmp_path, journal):
    plugin = RecordingProtection(journal, store_something)
    given = provider(tmp_path / "bank", plugin)
    with ProtectionService() as first:
        first.add_provider(given)
    with ProtectionService() as second:
        with pytest.raises(BankClosedError, match="closed"):
            second.add_provider(given)
        assert second.providers == {}
        second.add_provider(provider(tmp_path / "bank", plugin))
        assert second.protect(plan("one")).result(DEADLINE).status == "available"
