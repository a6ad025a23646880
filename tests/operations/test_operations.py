"""The five operations on a real bank, with plugins that record what is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    CheckpointStatus,
    Operation,
    OperationError,
    OperationStatus,
    Plan,
    ProtectionService,
    Provider,
    ResourceStatus,
    RetryPolicy,
)
from karbor_actors.errors import (
    CheckpointNotFoundError,
    CheckpointStateError,
    CycleError,
    HookFailedError,
    ListingError,
    MissingPluginError,
    ParametersError,
    PartialOperationError,
    PluginError,
    ProviderNotFoundError,
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
    thing,
)

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource

TREE = {"server": ["disk1", "disk2"], "disk1": ["image"], "disk2": ["image"]}
EDGES = [
    ("on_prepare_begin", "on_prepare_begin", "down"),
    ("on_prepare_finish", "on_prepare_finish", "up"),
    ("on_complete", "on_complete", "up"),
]


def add(
    service: ProtectionService,
    path: Path,
    journal: Journal,
    behave: Any = store_something,
    **kw: Any,
) -> Any:
    children, retry = kw.pop("children", TREE), kw.pop("retry", None)
    plugin = RecordingProtection(journal, behave, **kw)
    service.add_provider(provider(path / "bank", plugin, children, retry=retry))
    return plugin


def assert_order(journal: Journal, verb: str) -> None:
    for parent, children in TREE.items():
        for child in children:
            for hook, _, way in EDGES:
                first, then = (parent, child) if way == "down" else (child, parent)
                assert journal.place(hook, first, verb) < journal.place(hook, then, verb)
    own = ["on_prepare_begin", "on_prepare_finish", "on_main", "on_complete"]
    for name in ("server", "disk1", "disk2", "image"):
        places = [journal.place(hook, name, verb) for hook in own]
        assert places == sorted(places)


def protect(service: ProtectionService, **kwargs: Any) -> Any:
    return service.protect(plan("server"), **kwargs).result(DEADLINE)


@pytest.mark.parametrize("is_async", [False, True])
def test_every_verb_runs_every_hook_once_in_the_guides_order(service, tmp_path, journal, is_async):
    add(service, tmp_path, journal, is_async=is_async)
    service.add_provider(provider(tmp_path / "other", RecordingProtection(journal), name="offsite"))
    checkpoint = protect(service)
    service.restore(checkpoint.id).result(DEADLINE)
    service.verify(checkpoint.id).result(DEADLINE)
    service.copy(checkpoint.id, to="offsite").result(DEADLINE)
    service.delete(checkpoint.id).result(DEADLINE)

    for verb in ("protect", "restore", "verify", "copy", "delete"):
        assert len(journal.hooks(verb)) == 16
        assert_order(journal, verb)


def test_hooks_get_the_arguments_of_their_verb(service, tmp_path, journal):
    add(service, tmp_path, journal)
    service.add_provider(provider(tmp_path / "other", RecordingProtection(journal), name="offsite"))
    checkpoint = protect(service)
    service.restore(checkpoint.id).result(DEADLINE)
    service.verify(checkpoint.id).result(DEADLINE)
    copied = service.copy(checkpoint.id, to="offsite").result(DEADLINE)
    service.delete(checkpoint.id).result(DEADLINE)

    wanted = {
        "protect": {"operation_log"},
        "restore": {"restore", "new_resources", "operation_log"},
        "verify": {"verify", "new_resources", "operation_log"},
        "copy": {"checkpoint_copy", "operation_log"},
        "delete": {"artifacts", "operation_log"},
    }
    for call in journal.calls:
        assert set(call["kwargs"]) == wanted[call["verb"]]
        assert call["checkpoint"].id == checkpoint.id
        assert call["kwargs"]["operation_log"].operation_type == call["verb"]
    copies = {c["kwargs"]["checkpoint_copy"].id for c in journal.calls if c["verb"] == "copy"}
    assert copies == {copied.id}


def test_one_operation_object_serves_all_hooks_of_a_resource(service, tmp_path, journal):
    plugin = add(service, tmp_path, journal)
    protect(service)

    assert sorted(plugin.asked) == [("protect", n) for n in ("disk1", "disk2", "image", "server")]
    for name in ("server", "image"):
        assert len({id(c["operation"]) for c in journal.calls if c["id"] == name}) == 1


def test_a_protected_checkpoint_says_what_it_holds(service, tmp_path, journal):
    add(service, tmp_path, journal)
    checkpoint = protect(service)

    assert checkpoint.status is CheckpointStatus.AVAILABLE
    assert [node.value.id for node in checkpoint.resource_graph] == ["server"]
    section = checkpoint.get_resource_bank_section(thing("disk1"))
    assert section.get_object("metadata") == {"name": "the disk1"}
    with section.open_stream("data") as stream:
        assert stream.read() == b"disk1" * 1000
    assert checkpoint.resource_status(thing("image")) is ResourceStatus.AVAILABLE
    assert not section.is_writable


def test_unimplemented_hooks_are_not_called_and_need_no_thread(service, tmp_path, journal):
    add(service, tmp_path, journal, hooks=("on_main",))
    checkpoint = protect(service)

    assert checkpoint.status is CheckpointStatus.AVAILABLE
    assert {hook for hook, _ in journal.hooks()} == {"on_main"}


def test_a_resource_without_an_operation_is_passed_over(service, tmp_path, journal):
    add(service, tmp_path, journal, verbs=("restore",))
    checkpoint = protect(service)

    assert journal.entries == []
    assert checkpoint.status is CheckpointStatus.AVAILABLE


def test_parameters_of_a_type_and_of_one_resource_are_merged(service, tmp_path, journal):
    plugin = add(service, tmp_path, journal)
    schema = {"x": {"type": "integer", "default": 7}, "y": {"type": "string"}}
    type(plugin).get_options_schema = classmethod(lambda cls, kind: schema)  # type: ignore[method-assign]
    try:
        parameters = {TYPE: {"y": "all"}, f"{TYPE}#disk1": {"y": "one"}}
        service.protect(plan("server", parameters=parameters)).result(DEADLINE)
    finally:
        del type(plugin).get_options_schema

    found = {c["id"]: c["parameters"] for c in journal.calls}
    assert found["disk1"] == {"x": 7, "y": "one"}
    assert found["disk2"] == {"x": 7, "y": "all"}


def test_merged_parameters_reach_every_hook_of_every_verb(service, tmp_path, journal):
    """Those of a call are that call's only: nothing of the plan's is in another verb's."""

    class Taking(RecordingProtection):
        @classmethod
        def get_options_schema(cls, resource_type):
            return {"x": {}, "y": {}, "plan": {}}

        get_restore_schema = get_verify_schema = get_options_schema

    service.add_provider(provider(tmp_path / "bank", Taking(journal, store_something), TREE))
    service.add_provider(provider(tmp_path / "other", Taking(journal), name="offsite"))
    of_plan = {TYPE: {"x": 0, "plan": "yes"}, f"{TYPE}#disk1": {"plan": "disk1's"}}
    given = {TYPE: {"x": 1, "y": 1}, f"{TYPE}#disk1": {"y": 2}}
    checkpoint = service.protect(plan("server", parameters=of_plan), parameters=given).result(
        DEADLINE
    )
    service.restore(checkpoint.id, parameters=given).result(DEADLINE)
    service.verify(checkpoint.id, parameters=given).result(DEADLINE)
    service.copy(checkpoint.id, to="offsite", parameters=given).result(DEADLINE)
    service.delete(checkpoint.id, parameters=given).result(DEADLINE)

    for call in journal.calls:
        of_protect = {"plan": "disk1's" if call["id"] == "disk1" else "yes"}
        wanted = {"x": 1, "y": 2 if call["id"] == "disk1" else 1}
        assert call["parameters"] == wanted | (of_protect if call["verb"] == "protect" else {})
    assert len(journal.calls) == 5 * 16


def test_wrong_parameters_end_the_operation_before_any_hook(service, tmp_path, journal):
    add(service, tmp_path, journal)
    wrong = {TYPE: {"nonsense": 1}, "Other::Type": {"a": 1}}
    handle = service.protect(plan("server", parameters=wrong))

    with pytest.raises(ParametersError) as caught:
        handle.result(DEADLINE)
    assert len(caught.value.faults) == 2
    assert journal.entries == []
    assert list(service.provider("local").bank.checkpoints()) == []


def test_a_cycle_and_a_missing_plugin_and_a_failed_listing_end_the_operation(
    service, tmp_path, journal
):
    add(service, tmp_path, journal, children={"server": ["disk"], "disk": ["server"]})
    with pytest.raises(CycleError):
        service.protect(plan("server")).result(DEADLINE)

    other = provider(tmp_path / "b", RecordingProtection(journal), name="other")
    other.protectables = type(other.protectables)([Things({"server": ["x"]}, "Unknown::Type")])
    service.add_provider(other)
    unknown = type(plan("server"))("p", "other", [thing("server")])
    with pytest.raises(MissingPluginError) as missing:
        service.protect(unknown).result(DEADLINE)
    assert missing.value.types == ("Unknown::Type",)

    class Broken(Things):
        def get_dependent_resources(self, context: Any, parent_resource: Any) -> Any:
            raise OSError("the array does not answer")

    broken = provider(tmp_path / "c", RecordingProtection(journal), name="broken")
    broken.protectables = type(broken.protectables)([Broken()])
    service.add_provider(broken)
    with pytest.raises(ListingError, match="the array does not answer"):
        service.protect(type(plan("s"))("p", "broken", [thing("s")])).result(DEADLINE)
    assert journal.entries == []


def test_providers_are_listed_and_shown_by_their_names(service, tmp_path, journal):
    add(service, tmp_path, journal)
    service.add_provider(provider(tmp_path / "other", RecordingProtection(journal), name="offsite"))

    listed = service.providers
    assert list(listed) == ["local", "offsite"]
    assert all(service.provider(name) is found for name, found in listed.items())
    listed.clear()
    assert len(service.providers) == 2
    with pytest.raises(ProviderNotFoundError, match="local, offsite"):
        service.provider("here")


def test_an_unknown_provider_is_refused_at_the_call(service):
    with pytest.raises(ProviderNotFoundError):
        service.protect(plan("server"))


@pytest.mark.parametrize(
    "hook", ["on_prepare_begin", "on_prepare_finish", "on_main", "on_complete"]
)
def test_a_failing_hook_undoes_what_began_children_first(service, tmp_path, journal, hook):
    add(service, tmp_path, journal, failing((hook, "disk1")))
    handle = service.protect(plan("server"))

    with pytest.raises(OperationError, match=f"{hook} of disk1 broke") as caught:
        handle.result(DEADLINE)
    assert handle.status is OperationStatus.FAILED
    assert isinstance(caught.value.causes[0], HookFailedError)
    began = {name for found, name in journal.hooks() if found != "on_abort"}
    assert set(journal.aborted()) == began
    order = journal.aborted()
    for parent, children in TREE.items():
        for child in children:
            if parent in began and child in began:
                assert order.index(child) < order.index(parent)
    (checkpoint,) = service.provider("local").bank.checkpoints()
    assert checkpoint.status is CheckpointStatus.ERROR
    (record,) = service.operation_history("local")
    assert record.status == "failed"
    assert record.error_info[0]["hook"] == hook
    assert "RuntimeError" in record.error_info[0]["traceback"]


def test_on_abort_is_told_why_and_what_began(service, tmp_path, journal):
    add(service, tmp_path, journal, failing(("on_main", "disk1")))
    service.protect(plan("server")).wait(DEADLINE)

    calls = {c["id"]: c["kwargs"] for c in journal.calls if c["hook"] == "on_abort"}
    assert calls["disk1"]["began"] == {"on_prepare_begin", "on_prepare_finish", "on_main"}
    assert calls["disk1"]["completed"] == {"on_prepare_begin", "on_prepare_finish"}
    reason = calls["server"]["reason"]
    assert (reason.kind, reason.hook, reason.resource) == ("failure", "on_main", (TYPE, "disk1"))


def test_isolate_finishes_what_does_not_depend_on_the_failure(service, tmp_path, journal):
    add(service, tmp_path, journal, failing(("on_main", "disk1")))
    handle = service.protect(plan("server"), on_failure="isolate")

    with pytest.raises(PartialOperationError) as caught:
        handle.result(DEADLINE)
    checkpoint = caught.value.checkpoint
    assert checkpoint.status is CheckpointStatus.PARTIAL
    assert checkpoint.resource_status(thing("disk2")) is ResourceStatus.AVAILABLE
    assert checkpoint.resource_status(thing("image")) is ResourceStatus.AVAILABLE
    assert checkpoint.resource_status(thing("disk1")) is ResourceStatus.ABORTED
    assert checkpoint.resource_status(thing("server")) is ResourceStatus.ABORTED
    assert set(journal.aborted()) == {"disk1", "server"}
    with pytest.raises(CheckpointStateError):
        service.restore(checkpoint.id)
    service.restore(checkpoint.id, allow_partial=True).result(DEADLINE)
    assert {name for _, name in journal.hooks("restore")} == {"disk2", "image"}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_hook_that_raises_a_base_exception_fails_its_own_operation_only(
    service, tmp_path, journal, error
):
    add(service, tmp_path, journal, failing(("on_main", "image"), error=error))
    with pytest.raises(OperationError, match=type(error).__name__):
        service.protect(plan("server")).result(DEADLINE)

    assert service.protect(plan("other")).result(DEADLINE).status is CheckpointStatus.AVAILABLE


def test_a_plugin_that_returns_rubbish_is_refused_with_a_sentence(service, tmp_path, journal):
    plugin = add(service, tmp_path, journal)
    for rubbish in ("a string", 3, object()):
        plugin.operation = lambda verb, resource, found=rubbish: found  # type: ignore[method-assign]
        with pytest.raises(PluginError, match="not an Operation"):
            service.protect(plan("server")).result(DEADLINE)

    class Odd:
        on_main = "not callable"

    plugin.operation = lambda verb, resource: Odd()  # type: ignore[method-assign]
    with pytest.raises(PluginError, match="cannot be called"):
        service.protect(plan("server")).result(DEADLINE)


def test_state_outlives_the_hook_and_is_seen_by_relatives(service, tmp_path, journal):
    seen: dict[str, Any] = {}

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        context = call["context"]
        if hook == "on_prepare_begin":
            context.state["snapshot"] = [resource.id, 1]
        elif hook == "on_main":
            seen[resource.id] = context.state["snapshot"]
        elif hook == "on_complete" and resource.id == "server":
            seen["of child"] = dict(context.state_of((TYPE, "disk1")))

    add(service, tmp_path, journal, behave)
    protect(service)

    assert seen["disk2"] == ["disk2", 1]
    assert seen["of child"] == {"snapshot": ["disk1", 1]}


def test_a_failed_attempts_state_is_dropped_and_its_flushed_state_kept(tmp_path, journal):
    seen: list[Any] = []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        context = call["context"]
        if hook != "on_main":
            return
        seen.append((context.attempt, dict(context.state), context.idempotency_key))
        context.state["flushed"] = context.attempt
        context.state.flush()
        context.state["lost"] = context.attempt
        if context.attempt < 3:
            raise OSError("try again")

    plugin = RecordingProtection(journal, behave)
    with ProtectionService() as service:
        retry = {"*": RetryPolicy(attempts=3, backoff=0.0)}
        service.add_provider(provider(tmp_path / "bank", plugin, retry=retry))
        service.protect(plan("one")).result(DEADLINE)

    assert [attempt for attempt, _, _ in seen] == [1, 2, 3]
    assert [state for _, state, _ in seen] == [{}, {"flushed": 1}, {"flushed": 2}]
    assert len({key for _, _, key in seen}) == 1


def test_new_resources_pass_from_children_to_parents_and_into_the_result(
    service, tmp_path, journal
):
    seen: dict[str, Any] = {}

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if verb != "restore":
            return
        new = call["kwargs"]["new_resources"]
        if hook == "on_main":
            new[resource.id] = f"new-{resource.id}"
        if hook == "on_complete" and resource.id == "server":
            seen.update({name: new[name] for name in ("disk1", "image")})
            seen["by key"] = new[(TYPE, "disk2")]
            seen["missing"] = new.get("nobody")

    add(service, tmp_path, journal, behave)
    result = service.restore(protect(service).id).result(DEADLINE)

    assert seen == {
        "disk1": "new-disk1",
        "image": "new-image",
        "by key": "new-disk2",
        "missing": None,
    }
    assert result.new_resources[(TYPE, "server")] == "new-server"
    assert set(result.resources.values()) == {ResourceStatus.AVAILABLE}


def test_an_artifact_left_outstanding_is_an_error_and_on_abort_gets_it(service, tmp_path, journal):
    left: list[Any] = []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            kept = call["context"].artifact("snapshot", "kept")
            kept.update(id=4)
            kept.keep()
            call["context"].artifact("snapshot", "gone").release()
            call["context"].artifact("volume", "temporary").update(id=5)
        if hook == "on_abort":
            for artifact in call["kwargs"]["artifacts"]:
                left.append((artifact.kind, artifact.name, artifact.data))
                artifact.release()

    add(service, tmp_path, journal, behave, children={})
    with pytest.raises(OperationError, match="volume 'temporary' outstanding"):
        service.protect(plan("one")).result(DEADLINE)
    assert left == [("volume", "temporary", {"id": 5})]


@pytest.mark.parametrize("releases", [True, False])
def test_an_artifact_that_on_abort_leaves_outstanding_leaves_its_resource_pending(
    service, tmp_path, journal, releases
):
    """Else the snapshot would be forgotten with the operation's journal."""

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_begin":
            call["context"].artifact("snapshot", "s1").update(id=7)
        if hook == "on_main":
            raise OSError("broke")
        for artifact in call["kwargs"].get("artifacts", ()):
            assert (artifact.kind, artifact.name, artifact.data) == ("snapshot", "s1", {"id": 7})
            if releases:
                artifact.release()

    add(service, tmp_path, journal, behave, children={})
    handle = service.protect(plan("one"))
    assert handle.wait(DEADLINE)
    (record,) = service.operation_history("local")
    assert record.abort_pending == (0 if releases else 1)
    assert journal.aborted() == ["one"] * (1 if releases else 3)
    if not releases:
        assert "release() what is gone" in record.error_info[-1]["message"]


def test_a_kept_artifact_is_for_delete_although_nothing_is_in_the_bank(service, tmp_path, journal):
    seen: list[Any] = []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (verb, hook) == ("protect", "on_main"):
            snapshot = call["context"].artifact("snapshot", f"of {resource.id}")
            snapshot.update(id=4)
            snapshot.keep()
        if (verb, hook) == ("delete", "on_main"):
            seen.extend((a.kind, a.name, a.data) for a in call["kwargs"]["artifacts"])

    add(service, tmp_path, journal, behave, children={})
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    assert [a.name for a in checkpoint.artifacts((TYPE, "one"))] == ["of one"]
    service.delete(checkpoint.id).result(DEADLINE)

    assert seen == [("snapshot", "of one", {"id": 4})]


def test_a_hook_that_runs_again_after_it_kept_an_artifact_keeps_that_same_one(
    service, tmp_path, journal
):
    """Else the checkpoint had it twice, once without its data, which delete hooks go by."""
    seen: list[Any] = []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (verb, hook) == ("protect", "on_main"):
            snapshot = call["context"].artifact("snapshot", "s1")
            seen.append(snapshot.data)
            if not snapshot.data:
                snapshot.update(id=4)
            snapshot.keep()
            if call["context"].attempt == 1:
                raise OSError("broke after it had kept it")
        if (verb, hook) == ("protect", "on_complete"):
            seen.append(call["context"].artifact("snapshot", "s1").data)

    retry = {"*": RetryPolicy(attempts=2, backoff=0.001)}
    add(service, tmp_path, journal, behave, children={}, retry=retry)
    checkpoint = service.protect(plan("one")).result(DEADLINE)

    assert seen == [{}, {"id": 4}, {"id": 4}]
    assert [a.data for a in checkpoint.artifacts((TYPE, "one"))] == [{"id": 4}]


def test_what_no_operation_protects_is_reported_as_empty(service, tmp_path, journal):
    class Nothing(RecordingProtection):
        def get_protect_operation(self, resource: Resource) -> Any:
            return None if resource.id == "two" else super().get_protect_operation(resource)

    service.add_provider(provider(tmp_path / "bank", Nothing(journal, store_something)))
    checkpoint = service.protect(plan("one", "two")).result(DEADLINE)

    assert checkpoint.resource_status((TYPE, "one")) is ResourceStatus.AVAILABLE
    assert checkpoint.resource_status((TYPE, "two")) is ResourceStatus.EMPTY


def test_the_callers_values_are_attributes_of_the_context(service, tmp_path, journal):
    add(service, tmp_path, journal, children={})
    service.protect(plan("one"), context={"tenant": "blue"}).result(DEADLINE)

    assert {c["context"].tenant for c in journal.calls} == {"blue"}
    with pytest.raises(AttributeError, match="context=") as caught:
        _ = journal.calls[0]["context"].nothing
    assert "nothing" in str(caught.value)


def test_verify_tells_what_was_looked_at_from_what_was_not(tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if resource.id != "image":
            store_something(verb, hook, resource, call)

    plugin = RecordingProtection(journal, behave, verbs=("protect",))
    with ProtectionService() as service:
        service.add_provider(provider(tmp_path / "bank", plugin, TREE))
        checkpoint = protect(service)
        result = service.verify(checkpoint.id).result(DEADLINE)

    assert result.resources[(TYPE, "server")] is ResourceStatus.ENGINE_ONLY
    assert result.resources[(TYPE, "image")] is ResourceStatus.EMPTY
    assert result.evidence[(TYPE, "disk1")].bytes == 5000


def test_verify_of_a_checkpoint_that_holds_nothing_is_no_success(service, tmp_path, journal):
    add(service, tmp_path, journal, lambda *_: None, children={}, verbs=("protect",))
    checkpoint = service.protect(plan("one")).result(DEADLINE)

    with pytest.raises(OperationError, match="nothing was verified"):
        service.verify(checkpoint.id).result(DEADLINE)


def test_copy_without_a_plugin_copies_records_and_blocks(tmp_path, journal):
    plugin = RecordingProtection(journal, store_something, verbs=("protect", "restore"))
    with ProtectionService() as service:
        service.add_provider(provider(tmp_path / "bank", plugin, TREE))
        service.add_provider(provider(tmp_path / "other", plugin, name="offsite"))
        checkpoint = protect(service)
        copied = service.copy(checkpoint.id, to="offsite").result(DEADLINE)
        again = service.copy(checkpoint.id, to="offsite").result(DEADLINE)
        third = service.copy(checkpoint.id, to="offsite", again=True).result(DEADLINE)
        service.delete(checkpoint.id).result(DEADLINE)
        section = copied.get_resource_bank_section(thing("disk2"))
        with section.open_stream("data") as stream:
            assert stream.read() == b"disk2" * 1000
        assert service.verify(copied.id).result(DEADLINE).checkpoint_id == copied.id

        assert copied.copied_from == checkpoint.id != copied.id
        assert again.id == copied.id
        assert third.id != copied.id
        assert service.provider("local").bank.check() == []
        assert service.provider("offsite").bank.check() == []


def test_delete_removes_everything_and_a_failed_delete_can_be_repeated(service, tmp_path, journal):
    broken = {"on": True}

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        is_disk = (hook, resource.id) == ("on_main", "disk1")
        if verb == "delete" and is_disk and broken["on"]:
            raise OSError("the array does not answer")

    add(service, tmp_path, journal, behave, hooks=("on_prepare_begin", "on_main", "on_complete"))
    bank = service.provider("local").bank
    checkpoint = protect(service)
    with pytest.raises(OperationError, match="the array does not answer"):
        service.delete(checkpoint.id).result(DEADLINE)
    assert bank.checkpoint(checkpoint.id).status is CheckpointStatus.ERROR_DELETING

    done = [hook for hook in journal.hooks("delete") if hook != ("on_main", "disk1")]
    broken["on"] = False
    service.delete(checkpoint.id).result(DEADLINE)
    again = journal.hooks("delete")[len(done) + 1 :]
    assert ("on_main", "disk1") in again
    assert not set(again) & set(done), "what an earlier delete had completed ran again"
    assert list(bank.checkpoints()) == []
    assert bank.check() == []
    assert bank.info()["rows"]["blocks"] == 0
    assert bank.info()["rows"]["objects"] == 0


def test_the_journals_of_ended_operations_are_dropped(tmp_path, journal):
    with ProtectionService() as service:
        add(service, tmp_path, journal)
        protect(service)
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert bank.info()["rows"]["journal"] == 0
        assert [record.status for record in bank.journal.operations()] == ["succeeded"]


def test_a_dry_run_shows_the_waves_and_runs_nothing(service, tmp_path, journal):
    add(service, tmp_path, journal, hooks=("on_prepare_begin", "on_prepare_finish"))
    planned = service.plan_operation("protect", plan("server"))

    waves = [[(str(h.hook), h.resource[1]) for h in wave] for wave in planned.waves()]
    assert waves == [
        [("on_prepare_begin", "server")],
        [("on_prepare_begin", "disk1"), ("on_prepare_begin", "disk2")],
        [("on_prepare_begin", "image")],
        [("on_prepare_finish", "image")],
        [("on_prepare_finish", "disk1"), ("on_prepare_finish", "disk2")],
        [("on_prepare_finish", "server")],
    ]
    assert planned.hook_count == 8
    assert journal.entries == []


def test_a_plugin_says_how_consistent_its_data_is(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_finish" and resource.id != "image":
            call["context"].report_consistency("application", "the server was quiesced")
            assert dict(call["context"].state) == {}

    add(service, tmp_path, journal, behave)
    checkpoint = protect(service)

    found = checkpoint.consistency(thing("disk1"))
    assert (found.level, found.cause) == ("application", "the server was quiesced")
    assert checkpoint.consistency(thing("image")).level == "none"


def test_previous_is_the_newest_good_checkpoint_and_is_kept_meanwhile(service, tmp_path, journal):
    seen: list[Any] = []
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (verb, hook) == ("protect", "on_main") and resource.id == "one":
            previous = call["context"].previous
            seen.append(previous and previous.id)
            if len(seen) == 3:
                gate.pass_through()
            if len(seen) == 4:
                return  # it saves nothing: there is nothing to begin from
        store_something(verb, hook, resource, call)

    add(service, tmp_path, journal, behave, children={})
    first = service.protect(plan("one")).result(DEADLINE)
    second = service.protect(Plan("other", "local", [thing("one"), thing("two")])).result(DEADLINE)
    third = service.protect(plan("one"))
    gate.wait_entered()
    delete = service.delete(second.id)
    assert not delete.wait(0.05)
    gate.open()
    newest = third.result(DEADLINE)
    delete.result(DEADLINE)
    for _ in range(2):
        service.protect(plan("one", "two")).result(DEADLINE)

    assert seen == [None, first.id, second.id, newest.id, newest.id]


def test_an_async_hook_that_would_block_the_event_loop_is_told_so(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
        section = call["checkpoint"].get_resource_bank_section(resource)
        if hook == "on_main":
            section.update_object("metadata", {})
        return section.aupdate_object("metadata", {})

    add(service, tmp_path, journal, behave, children={}, is_async=True)
    with pytest.raises(OperationError, match="await its twin"):
        service.protect(plan("one")).result(DEADLINE)
    assert ("on_prepare_finish", "one") in journal.hooks()


def test_saved_info_is_checked_against_its_schema(service, tmp_path, journal):
    plugin = add(service, tmp_path, journal, children={})
    schema = {"size": {"type": "integer", "required": True}}
    type(plugin).get_saved_info_schema = classmethod(lambda cls, kind: schema)  # type: ignore[method-assign]
    type(plugin).get_saved_info = classmethod(  # type: ignore[method-assign]
        lambda cls, section, resource: {"size": len(section.get_object("metadata")["name"])}
    )
    try:
        checkpoint = service.protect(plan("one")).result(DEADLINE)
        local = service.provider("local")
        assert local.saved_info(checkpoint, thing("one")) == {"size": len("the one")}
        schema["other"] = {"type": "string", "required": True}
        fresh = Provider("fresh", bank=local.bank, protection_plugins=[plugin])
        with pytest.raises(PluginError, match="other"):
            fresh.saved_info(checkpoint, thing("one"))
    finally:
        del type(plugin).get_saved_info_schema, type(plugin).get_saved_info


def test_a_forced_delete_removes_the_checkpoint_and_says_which_hooks_failed(
    service, tmp_path, journal
):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook, resource.id) == ("delete", "on_main", "disk1"):
            raise OSError("the array does not answer")

    add(service, tmp_path, journal, behave)
    checkpoint = protect(service)
    with pytest.raises(PartialOperationError, match="the array does not answer"):
        service.delete(checkpoint.id, force=True).result(DEADLINE)

    assert service.provider("local").bank.checkpoints() == []
    assert ("on_main", "disk2") in journal.hooks("delete")


def test_in_isolate_a_parent_without_a_complete_hook_is_no_better_than_its_child(
    service, tmp_path, journal
):
    add(service, tmp_path, journal, failing(("on_main", "disk1")), hooks=("on_main", "on_abort"))
    with pytest.raises(PartialOperationError) as caught:
        service.protect(plan("server"), on_failure="isolate").result(DEADLINE)

    statuses = caught.value.checkpoint.resource_statuses()
    assert statuses[(TYPE, "server")] is ResourceStatus.ABORTED
    assert statuses[(TYPE, "disk2")] is ResourceStatus.AVAILABLE


def test_what_a_plugin_reports_as_failed_is_a_failure(service, tmp_path, journal):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        report = call["kwargs"].get(verb)
        if report is not None and hook == "on_main":
            status = "error" if resource.id == "disk1" else "available"
            report.update_resource_status(TYPE, f"new-{resource.id}", status, "no space")

    add(service, tmp_path, journal, behave)
    checkpoint = protect(service)
    for verb in (service.restore, service.verify):
        with pytest.raises(OperationError, match="new-disk1 is error: no space"):
            verb(checkpoint.id).result(DEADLINE)


def test_protectables_see_a_mapping_of_the_callers_as_attributes(service, tmp_path, journal):
    seen: list[Any] = []

    class Asking(Things):
        def get_dependent_resources(self, context: Any, parent_resource: Any) -> Any:
            seen.append(context.tenant)
            return []

    own = provider(tmp_path / "bank", RecordingProtection(journal))
    own.protectables = type(own.protectables)([Asking()])
    service.add_provider(own)
    service.protect(plan("one"), context={"tenant": "blue"}).result(DEADLINE)

    assert seen == ["blue"]


def test_previous_of_a_checkpoint_that_is_being_deleted_is_an_older_one(service, tmp_path, journal):
    seen: list[Any] = []
    deleting = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("delete", "on_main"):
            deleting.pass_through()
        if (verb, hook) == ("protect", "on_main"):
            previous = call["context"].previous
            seen.append(previous and previous.id)

    add(service, tmp_path, journal, behave, children={})
    first, second = [service.protect(plan("one")).result(DEADLINE) for _ in range(2)]
    delete = service.delete(second.id)
    deleting.wait_entered()
    service.protect(plan("one")).result(DEADLINE)
    service.protect(plan("two")).result(DEADLINE)
    deleting.open()
    delete.result(DEADLINE)

    assert seen == [None, first.id, first.id, None]


@pytest.mark.parametrize("verb", ["restore", "verify", "copy", "delete"])
def test_every_verb_has_a_dry_run_that_runs_nothing(service, tmp_path, journal, verb):
    add(service, tmp_path, journal)
    service.add_provider(provider(tmp_path / "other", RecordingProtection(journal), name="offsite"))
    checkpoint = protect(service)
    planned = service.plan_operation(verb, checkpoint.id, to="offsite")

    assert planned.hook_count == 16
    assert journal.hooks(verb) == []
    assert service.provider("offsite").bank.checkpoints() == []


@pytest.mark.parametrize("wrong", ["on_lunch", "on_abort", 3, None])
def test_a_critical_span_that_never_ends_is_refused_before_anything_runs(
    service, tmp_path, journal, wrong
):
    class Holding(RecordingProtection):
        def operation(self, verb: str, resource: Resource) -> Operation | None:
            made = super().operation(verb, resource)
            type(made).held_until = wrong  # type: ignore[union-attr]
            return made

    service.add_provider(provider(tmp_path / "bank", Holding(journal)))
    with pytest.raises(PluginError, match="held_until"):
        service.protect(plan("one")).result(DEADLINE)
    assert journal.hooks() == []


def _waiting_for_a_delete(service, gate, checkpoint_id, *verbs):
    """Begin a delete that stops at *gate*, then *verbs*, and return their handles once they wait."""
    first = service.delete(checkpoint_id)
    gate.wait_entered()
    handles = [getattr(service, verb)(checkpoint_id) for verb in verbs]
    return first, handles


@pytest.mark.parametrize("when", ["waits", "plans"])
def test_a_delete_of_what_another_delete_removes_has_nothing_left_to_do(
    service, tmp_path, journal, when
):
    gate, planning = Gate(), Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("delete", "on_main"):
            gate.pass_through()

    class Slow(RecordingProtection):
        def get_delete_operation(self, resource: Resource) -> Operation | None:
            if when == "plans" and len(service.operations()) > 1:
                planning.pass_through()
            return super().get_delete_operation(resource)

    service.add_provider(provider(tmp_path / "bank", Slow(journal, behave)))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    first, (second,) = _waiting_for_a_delete(service, gate, checkpoint.id, "delete")
    if when == "plans":
        planning.wait_entered()
    gate.open()

    assert first.result(DEADLINE) is None
    planning.open()
    assert second.result(DEADLINE) is None
    assert second.status is OperationStatus.SUCCEEDED
    assert journal.hooks("delete").count(("on_main", "one")) == 1
    history = {record.id: record.status for record in service.operation_history("local")}
    assert history[second.id] == history[first.id] == "succeeded"
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint"):
        service.delete(checkpoint.id)


def test_a_delete_that_waited_for_one_that_failed_runs_only_what_that_had_left(
    service, tmp_path, journal
):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if (verb, hook) == ("delete", "on_complete") and journal.hooks(verb).count(
            (hook, resource.id)
        ) == 1:
            gate.pass_through()
            raise RuntimeError("not now")

    hooks = ("on_main", "on_complete")
    service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave, hooks)))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    first, (second,) = _waiting_for_a_delete(service, gate, checkpoint.id, "delete")
    gate.open()

    assert isinstance(first.exception(DEADLINE), OperationError)
    assert second.result(DEADLINE) is None
    assert journal.hooks("delete") == [
        ("on_main", "one"),
        ("on_complete", "one"),
        ("on_complete", "one"),
    ]


@pytest.mark.parametrize("verb", ["restore", "verify"])
def test_what_comes_after_a_delete_is_told_that_the_checkpoint_was_deleted(
    service, tmp_path, journal, verb
):
    planning = Gate()

    class Slow(RecordingProtection):
        def get_restore_operation(self, resource: Resource) -> Operation | None:
            planning.pass_through()
            return super().get_restore_operation(resource)

        get_verify_operation = get_restore_operation

    service.add_provider(provider(tmp_path / "bank", Slow(journal, store_something)))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    late = getattr(service, verb)(checkpoint.id)
    planning.wait_entered()
    service.delete(checkpoint.id).result(DEADLINE)
    planning.open()

    error = late.exception(DEADLINE)
    assert isinstance(error, CheckpointNotFoundError)
    assert f"it was deleted before the {verb} could begin" in str(error)
    assert journal.hooks(verb) == []
