"""What the guide to protection plugins says of them, where no other test says it of the engine."""

from __future__ import annotations

import threading

import pytest

from helpers import DEADLINE
from karbor_actors import (
    Bank,
    Operation,
    OperationType,
    Plan,
    ProtectionPlugin,
    ProtectionService,
    Provider,
)
from karbor_actors.errors import BankReadonlyError
from karbor_actors.model import HOOKS
from kit import TYPE, Journal, RecordingProtection, Things, plan, provider, thing

TREE = {"server": ["disk1", "disk2"]}
VERBS = tuple(map(str, OperationType))


@pytest.fixture
def service():
    with ProtectionService(workers=4) as opened:
        yield opened


@pytest.fixture
def run_verb(service, tmp_path):
    """Call with a plugin first, which protects the tree; then with a verb and a checkpoint."""

    def run(plugin, verb="protect", checkpoint=None):
        if verb == "protect":
            service.add_provider(provider(tmp_path / "bank", plugin, TREE))
            service.add_provider(provider(tmp_path / "other", plugin, name="offsite"))
            return service.protect(plan("server")).result(DEADLINE)
        to = {"to": "offsite"} if verb == "copy" else {}
        return getattr(service, verb)(checkpoint.id, **to).result(DEADLINE)

    return run


class Sharing(ProtectionPlugin):
    """Gives all resources of a verb one Operation."""

    def __init__(self):
        self.shared = {verb: RecordingShared() for verb in VERBS}

    @classmethod
    def get_supported_resources_types(cls):
        return (TYPE,)

    def get_protect_operation(self, resource):
        return self.shared["protect"]

    def get_restore_operation(self, resource):
        return self.shared["restore"]

    def get_verify_operation(self, resource):
        return self.shared["verify"]

    def get_copy_operation(self, resource):
        return self.shared["copy"]

    def get_delete_operation(self, resource):
        return self.shared["delete"]


class RecordingShared(Operation):
    """Notes each hook of each resource; the main hook saves something, for others to act on."""

    def __init__(self):
        self.calls = []

    def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
        self.calls.append((resource.id, "on_prepare_begin"))

    def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        self.calls.append((resource.id, "on_prepare_finish"))

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        self.calls.append((resource.id, "on_main"))
        section = checkpoint.get_resource_bank_section(resource)
        if section.is_writable:
            section.update_object("whose", resource.id)

    def on_complete(self, checkpoint, resource, context, parameters, **kwargs):
        self.calls.append((resource.id, "on_complete"))


def test_one_operation_object_may_be_shared_by_several_resources(run_verb):
    plugin = Sharing()
    checkpoint = run_verb(plugin)
    for verb in ("restore", "verify", "copy", "delete"):
        run_verb(plugin, verb, checkpoint)

    every = sorted(
        (name, hook) for name in ("server", "disk1", "disk2") for hook in map(str, HOOKS)
    )
    for verb in VERBS:
        assert sorted(plugin.shared[verb].calls) == every, verb


@pytest.mark.parametrize("hook", list(map(str, HOOKS)))
@pytest.mark.parametrize("verb", VERBS)
def test_hooks_that_nothing_orders_run_at_once(run_verb, verb, hook):
    """Those of two volumes of one server; of main hooks, also that of the server itself."""
    meeting = ("server", "disk1", "disk2") if hook == "on_main" else ("disk1", "disk2")
    together = threading.Barrier(len(meeting), timeout=DEADLINE)

    def behave(running, name, resource, call):
        if (running, name) == ("protect", "on_main"):
            section = call["checkpoint"].get_resource_bank_section(resource)
            section.update_object("metadata", {})
        if (running, name) == (verb, hook) and resource.id in meeting:
            together.wait()

    plugin = RecordingProtection(Journal(), behave)
    checkpoint = run_verb(plugin)
    if verb != "protect":
        run_verb(plugin, verb, checkpoint)

    assert not together.broken
    assert plugin.journal.place(hook, "server", verb) >= 0


def test_a_volumes_main_hook_may_begin_before_its_server_is_released(run_verb):
    """Only its own prepare hooks come before it."""
    began = threading.Event()

    def behave(verb, hook, resource, call):
        if (hook, resource.id) == ("on_main", "disk1"):
            began.set()
        if (hook, resource.id) == ("on_prepare_finish", "disk2"):
            assert began.wait(DEADLINE)

    plugin = RecordingProtection(Journal(), behave)
    run_verb(plugin)

    place = plugin.journal.place
    assert place("on_main", "disk1") < place("on_prepare_finish", "server")


def test_one_plugin_may_handle_several_types(service, tmp_path):
    class Both(RecordingProtection):
        def get_supported_resources_types(self):
            return (TYPE, "Test::Part")

        @classmethod
        def get_options_schema(cls, resource_type):
            return {"of": {"type": "string", "default": resource_type}}

    plugin = Both(Journal())
    service.add_provider(
        Provider(
            "local",
            bank=Bank.open(tmp_path / "bank"),
            protection_plugins=[plugin],
            protectables=[Things(), Things({"server": ["part"]}, "Test::Part")],
        )
    )
    checkpoint = service.protect(Plan("a plan", "local", [thing("server")])).result(DEADLINE)

    found = {call["resource"].key: call["parameters"] for call in plugin.journal.calls}
    assert found == {
        (TYPE, "server"): {"of": TYPE},
        ("Test::Part", "part"): {"of": "Test::Part"},
    }
    assert [r.key for r in checkpoint.resource_graph.nodes] == list(found)


def test_protect_stores_in_the_bank_what_restore_reads_and_delete_deletes(service, tmp_path):
    def behave(verb, hook, resource, call):
        if hook != "on_main":
            return
        section = call["checkpoint"].get_resource_bank_section(resource)
        if verb == "protect":
            section.update_object("metadata", {"of": resource.id})
            return
        assert section.get_object("metadata") == {"of": resource.id}
        if verb == "delete":
            section.delete_object("metadata")
            section.update_object("status", "deleted")
        else:
            with pytest.raises(BankReadonlyError):
                section.delete_object("metadata")

    plugin = RecordingProtection(Journal(), behave)
    service.add_provider(provider(tmp_path / "bank", plugin, TREE))
    checkpoint = service.protect(plan("server")).result(DEADLINE)
    service.restore(checkpoint.id).result(DEADLINE)
    service.verify(checkpoint.id).result(DEADLINE)
    service.delete(checkpoint.id).result(DEADLINE)

    assert {verb for verb, _, _ in plugin.journal.entries} == {*VERBS} - {"copy"}
    assert service.provider("local").bank.checkpoints() == []
