"""What a plugin derives from, entry points, and the registry of protectable plugins."""

from __future__ import annotations

from uuid import UUID

import pytest

from karbor_actors.errors import (
    ListingError,
    PluginError,
    ProtectableNotFoundError,
    ResourceMissingError,
)
from karbor_actors.graph import build_graph
from karbor_actors.model import OperationType, Resource
from karbor_actors.plugins import (
    PROTECTABLE_GROUP,
    Operation,
    ProtectablePlugin,
    ProtectionPlugin,
    instantiate,
    load_plugin,
)
from karbor_actors.protectables import Protectables, as_resource

UUID_1 = UUID(int=1)


class Finder(ProtectablePlugin):
    """Finds what a test tells it."""

    def __init__(self, resource_type="Disk", parents=(), children=()):
        self.resource_type, self.parents, self.children = resource_type, parents, children

    def get_resource_type(self):
        return self.resource_type

    def get_parent_resource_types(self):
        return self.parents

    def _answer(self):
        if isinstance(self.children, Exception):
            raise self.children
        return self.children

    def get_dependent_resources(self, context, parent_resource):
        return self._answer()

    def list_resources(self, context, parameters=None):
        return self._answer()

    def show_resource(self, context, resource_id, parameters=None):
        return self._answer()


class KarborResource:
    """A resource as Karbor's own class has it."""

    def __init__(self, type, id, name, extra_info=None):  # noqa: A002 - Karbor's names
        self.type, self.id, self.name, self.extra_info = type, id, name, extra_info


class KarborPlugin:
    """A plugin that, like Karbor's, keeps the context that it is made with."""

    def __init__(self, context=None, conf=None):
        self._context, self._conf = context, conf

    def instance(self, context=None, conf=None):
        return type(self)(context, conf)

    def get_resource_type(self):
        return "Network"

    def get_parent_resource_types(self):
        return "Project"  # a bare string, as Karbor's network plugin returns it

    def get_dependent_resources(self, context, parent_resource):
        return [KarborResource("Network", self._context, None, {"conf": self._conf})]


SERVER = Resource("Server", "1")


# Defaults.


@pytest.mark.parametrize("verb", OperationType)
def test_a_protection_plugin_has_nothing_to_do_unless_it_says_so(verb):
    assert getattr(ProtectionPlugin(), f"get_{verb}_operation")(SERVER) is None


def test_every_default_of_a_plugin_is_harmless():
    assert list(ProtectionPlugin.get_supported_resources_types()) == []
    for schema in ("options", "saved_info", "restore", "verify"):
        assert getattr(ProtectionPlugin, f"get_{schema}_schema")("Server") == {}
    assert ProtectionPlugin.get_saved_info(None, SERVER) is None
    assert ProtectionPlugin().can_resume(1)
    assert not ProtectionPlugin().can_resume(2)
    assert Operation().on_main(None, SERVER, None, {}, anything=1) is None
    assert list(ProtectablePlugin().list_resources(None)) == []
    assert ProtectablePlugin().show_resource(None, "1") is None
    assert list(ProtectablePlugin().get_dependent_resources(None, SERVER)) == []


# Entry points.


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Return a function that installs a distribution with entry points."""

    def install(name, *entries):
        info = tmp_path / name / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{PROTECTABLE_GROUP}]", *entries]))
        monkeypatch.syspath_prepend(str(tmp_path / name))

    return install


def test_a_plugin_is_found_by_its_entry_point(distribution):
    distribution("one", "test-finder = karbor_actors.plugins:ProtectablePlugin")

    assert load_plugin(PROTECTABLE_GROUP, "test-finder") is ProtectablePlugin


def test_a_plugin_that_nobody_installed_is_an_error_that_names_the_others(distribution):
    distribution("one", "test-finder = karbor_actors.plugins:ProtectablePlugin")
    with pytest.raises(PluginError, match=r"'test-fnider'.*known:.*test-finder"):
        load_plugin(PROTECTABLE_GROUP, "test-fnider")


@pytest.mark.parametrize("target", ["test_no_such_module:X", "karbor_actors.plugins:NoSuch"])
def test_a_plugin_that_cannot_be_imported_is_named(distribution, target):
    distribution("one", f"test-broken = {target}")
    with pytest.raises(PluginError, match="'test-broken' cannot be loaded") as error:
        load_plugin(PROTECTABLE_GROUP, "test-broken")

    assert error.value.__cause__ is not None


def test_two_plugins_of_one_name_are_refused(distribution):
    distribution("one", "test-finder = karbor_actors.plugins:ProtectablePlugin")
    distribution("two", "test-finder = karbor_actors.plugins:ProtectionPlugin")
    with pytest.raises(PluginError, match="several installed plugins"):
        load_plugin(PROTECTABLE_GROUP, "test-finder")


def test_a_class_is_made_into_an_object_and_an_object_is_left():
    finder = Finder()

    assert instantiate(finder) is finder
    assert isinstance(instantiate(Finder), Finder)
    with pytest.raises(PluginError, match="UUID cannot be made without arguments"):
        instantiate(UUID)


# The registry of protectable plugins.


def test_plugins_are_known_by_type_in_the_order_of_registration():
    disks, images = Finder("Disk"), Finder("Image")
    found = Protectables([disks, images])

    assert found.types == ("Disk", "Image")
    assert found.get("Image") is images
    with pytest.raises(ProtectableNotFoundError, match=r"'Share'.*known: Disk, Image"):
        found.get("Share")


def test_children_are_listed_plugin_by_plugin_in_the_order_of_registration():
    b, a = Resource("Image", "b"), Resource("Disk", "a")
    found = Protectables(
        [
            Finder("Image", ("Server",), [b]),
            Finder("Share", ("Project",), [Resource("Share", "c")]),
            Finder("Disk", ["Project", "Server", "Server"], (a,)),
        ]
    )

    assert found.find_children(None, SERVER) == [b, a]
    assert found.find_children(None, a) == []


def test_a_bare_string_is_one_parent_type_not_a_text_to_search():
    found = Protectables([KarborPlugin("A")])

    assert found.find_children(None, Resource("Project", "1"))
    assert found.find_children(None, Resource("Pro", "1")) == []


def test_a_plugin_that_keeps_its_context_is_made_anew_for_each():
    found = Protectables([KarborPlugin("nobody", "conf"), Finder("Disk", ("Project",))])
    project = Resource("Project", "1")
    first, second = found.for_context("A"), found.for_context("B")

    assert first.find_children("A", project) == [Resource("Network", "A")]
    assert second.find_children("B", project) == [Resource("Network", "B")]
    assert first.find_children("A", project)[0].extra_info == {"conf": "conf"}
    assert first.get("Disk") is found.get("Disk")


def test_karbors_resources_become_ours():
    found = as_resource(KarborResource("Pod", UUID_1, "ns:pod", {"zone": "a"}))

    assert found.to_dict() == {
        "type": "Pod",
        "id": str(UUID_1),
        "name": "ns:pod",
        "extra_info": {"zone": "a"},
    }
    assert as_resource(KarborResource("Pod", 7, None)).to_dict()["id"] == "7"
    assert as_resource(SERVER) is SERVER


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "returned None, not a list of Resource"),
        ("abc", "returned 'abc', not a list of Resource"),
        ([3], "returned 3, not a Resource"),
        ([None], "returned None, not a Resource"),
        ([KarborResource("", "1", "")], "returned what is no resource: resource.type"),
        ([KarborResource("Disk", None, "")], "returned what is no resource: resource.id"),
        (OSError(113, "no route to host"), "no route to host"),
    ],
)
def test_a_failing_listing_names_the_plugin_and_the_resource(answer, reason):
    found = Protectables([Finder("Disk", ("Server",), answer)])
    with pytest.raises(ListingError, match=reason) as error:
        build_graph([SERVER], lambda resource: found.find_children(None, resource))
    with pytest.raises(ListingError, match="Finder could not list resources"):
        found.list_resources(None, "Disk")

    assert (error.value.plugin, error.value.resource) == ("Finder", SERVER.key)
    assert error.value.__cause__ is not None


def test_resources_are_listed_and_shown():
    found = Protectables([Finder("Disk", (), [Resource("Disk", "1")]), Finder("Image", (), None)])

    assert found.list_resources(None, "Disk", {"zone": "a"}) == [Resource("Disk", "1")]
    assert found.show_resource(None, "Image", "1") is None
    with pytest.raises(ListingError, match=r"could not look up Disk#1: .* not a Resource"):
        found.show_resource(None, "Disk", "1")
    with pytest.raises(ProtectableNotFoundError):
        found.list_resources(None, "Share")
    with pytest.raises(ProtectableNotFoundError):
        found.show_resource(None, "Share", "1")


def test_resources_are_looked_up_where_their_plugins_can_show_one():
    class Unseeing(ProtectablePlugin):
        def get_resource_type(self):
            return "Share"

    there = Resource("Disk", "1", "found", {"size": 3})
    found = Protectables([Finder("Disk", (), there), Finder("Image"), Unseeing(), KarborPlugin()])
    unseen = [Resource("Share", "1"), Resource("Network", "1"), Resource("Server", "1")]

    assert found.look_up(None, [Resource("Disk", "1"), *unseen]) == [there, *unseen]
    shown = found.look_up(None, [Resource("Disk", "1", "mine", {})])
    assert (shown[0].name, shown[0].extra_info) == ("mine", {})
    nowhere = Protectables([Finder("Image", (), None)])
    with pytest.raises(ResourceMissingError) as missing:
        nowhere.look_up(None, [Resource("Image", "1"), *unseen, Resource("Image", "2")])
    assert missing.value.resources == (("Image", "1"), ("Image", "2"))
    with pytest.raises(ListingError):
        Protectables([Finder("Image", (), OSError("gone"))]).look_up(None, [Resource("Image", "1")])


@pytest.mark.parametrize(
    ("plugins", "reason"),
    [
        ([object()], "object cannot serve as a protectable plugin"),
        ([ProtectablePlugin()], "does not say which resource type it finds"),
        ([Finder("")], "non-empty string"),
        ([Finder(None)], "non-empty string"),
        ([Finder("A#B")], "holds '#'"),
        ([Finder("Disk"), Finder("Disk")], "Finder and Finder both find the type 'Disk'"),
        ([Finder("Disk", 3)], "failed: TypeError"),
        ([Finder("Disk", (3,))], "cannot be used"),
        ([Finder("Disk", ([],))], "failed: TypeError"),
    ],
)
def test_what_cannot_serve_as_a_protectable_plugin_is_refused(plugins, reason):
    with pytest.raises(PluginError, match=reason):
        Protectables(plugins)


def test_a_plugin_that_cannot_be_made_for_a_context_is_named():
    class Shy(KarborPlugin):
        def instance(self, context=None, conf=None):
            raise RuntimeError("no")

    with pytest.raises(PluginError, match=r"instance\(\) of Shy failed: RuntimeError: no"):
        Protectables([Shy]).for_context("A")
