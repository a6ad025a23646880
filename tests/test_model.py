"""Resources, plans and retry policies: immutable, checked when they are made."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.errors import PlanError
from karbor_actors.model import OperationStatus, Plan, Resource, RetryPolicy
from karbor_actors.plain import FrozenDict, FrozenList, copy_plain

VOLUME = Resource("Volume", "1", "root", {"size": 3, "tags": ["a"]})

RUBBISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=5)
    | st.just(object())
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
PLAN_FIELDS = st.sampled_from(["name", "provider", "resources", "parameters", "nme"])
RESOURCE_FIELDS = st.sampled_from(["type", "id", "name", "extra_info", "tpye"])


def wheres(error):
    return [fault.where for fault in error.value.faults]


def test_a_resource_is_its_type_and_id():
    renamed = Resource("Volume", "1", "data")

    assert renamed == VOLUME
    assert hash(renamed) == hash(VOLUME)
    assert Resource("Image", "1") != VOLUME
    assert VOLUME != ("Volume", "1")
    assert VOLUME.key == ("Volume", "1")
    assert str(VOLUME) == "Volume#1"


def test_a_resource_cannot_be_changed():
    with pytest.raises(AttributeError, match="immutable"):
        VOLUME.name = "other"
    with pytest.raises(AttributeError, match="immutable"):
        del VOLUME.name
    with pytest.raises(AttributeError):
        VOLUME.colour = "red"


def test_a_resource_keeps_a_copy_of_its_extra_info():
    tags = ["a"]
    resource = Resource("Volume", "1", extra_info={"tags": tags, "pair": (1, 2)})
    tags.append("b")

    assert resource.extra_info == {"tags": ["a"], "pair": [1, 2]}


CHANGES = {
    "set": lambda info: info.__setitem__("a", 1),
    "delete": lambda info: info.__delitem__("a"),
    "update": lambda info: info.update(b=1),
    "merge": lambda info: info.__ior__({"b": 1}),
    "pop": lambda info: info.pop("a"),
    "popitem": lambda info: info.popitem(),
    "setdefault": lambda info: info.setdefault("b", 1),
    "clear": lambda info: info.clear(),
    "set within": lambda info: info["a"]["b"].__setitem__(0, 1),
    "delete within": lambda info: info["a"]["b"].__delitem__(0),
    "append": lambda info: info["a"]["b"].append(1),
    "extend": lambda info: info["a"]["b"].extend([1]),
    "add": lambda info: info["a"]["b"].__iadd__([1]),
    "multiply": lambda info: info["a"]["b"].__imul__(2),
    "insert": lambda info: info["a"]["b"].insert(0, 1),
    "pop within": lambda info: info["a"]["b"].pop(),
    "remove": lambda info: info["a"]["b"].remove(2),
    "reverse": lambda info: info["a"]["b"].reverse(),
    "sort": lambda info: info["a"]["b"].sort(),
    "clear within": lambda info: info["a"]["b"].clear(),
}
INFO = {"a": {"b": [2, {"c": 3}]}}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("again", [lambda it: it, lambda it: pickle.loads(pickle.dumps(it))])
def test_what_a_resource_or_a_plan_holds_cannot_be_changed_in_place(change, again):
    """Equal resources are one: whoever changed the one would change it for everybody."""
    resource = again(Resource("Volume", "1", extra_info=INFO))
    made = again(Plan("n", "p", [VOLUME], {"Volume": INFO}))
    for held in (resource.extra_info, made.parameters["Volume"]):
        with pytest.raises(TypeError, match="cannot be changed"):
            change(held)
        assert held == INFO


def test_every_method_of_a_dict_or_a_list_that_changes_it_is_refused():
    reading = {
        "__class_getitem__", "__contains__", "__dir__", "__doc__", "__eq__", "__format__",
        "__ge__", "__getattribute__", "__getitem__", "__gt__", "__hash__", "__init__",
        "__init_subclass__", "__iter__", "__le__", "__len__", "__lt__", "__mul__", "__ne__",
        "__new__", "__or__", "__reduce__", "__reduce_ex__", "__repr__", "__reversed__",
        "__rmul__", "__ror__", "__setattr__", "__delattr__", "__sizeof__", "__str__",
        "__subclasshook__", "__add__", "__getstate__", "__class__", "copy", "count", "fromkeys",
        "get", "index", "items", "keys", "values",
    }  # fmt: skip
    for kind, base in ((FrozenDict, dict), (FrozenList, list)):
        changing = set(dir(base)) - reading
        left = [name for name in changing if getattr(kind, name) is getattr(base, name)]
        assert left == []


def test_what_a_resource_holds_is_plain_in_every_other_way():
    info = Resource("Volume", "1", extra_info=INFO).extra_info

    assert isinstance(info, dict)
    assert isinstance(info["a"]["b"], list)
    assert json.loads(json.dumps(info)) == msgpack.unpackb(msgpack.packb(info)) == INFO
    for own in (
        copy.deepcopy(info),
        Resource("Volume", "1", extra_info=info).to_dict()["extra_info"],
        Plan("n", "p", [VOLUME], {"Volume": info}).to_dict()["parameters"]["Volume"],
    ):
        own["a"]["b"].append(4)
        assert own == {"a": {"b": [2, {"c": 3}, 4]}}
    shallow = copy.copy(info)
    shallow["d"] = 5
    assert info == INFO


def test_a_resource_survives_copying_pickling_and_its_dict():
    for again in (
        copy.deepcopy(VOLUME),
        pickle.loads(pickle.dumps(VOLUME)),
        Resource.from_dict(VOLUME.to_dict()),
    ):
        assert again.to_dict() == VOLUME.to_dict()


def test_an_id_need_not_be_utf_8():
    assert Resource("File", "a\udcff").id == "a\udcff"


def test_a_missing_name_is_empty():
    assert Resource("Volume", "1", None).name == ""


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        (("", "1"), "resource.type"),
        (("A#B", "1"), "resource.type"),
        (("A/B", "1"), "resource.type"),
        (("A\0", "1"), "resource.type"),
        ((3, "1"), "resource.type"),
        ((["A"], "1"), "resource.type"),
        (("A", ""), "resource.id"),
        (("A", None), "resource.id"),
        (("A", 7), "resource.id"),
        (("A", "\ud800"), "resource.id"),
        (("A", "\udcc3\udca9"), "resource.id"),  # it would come back as one letter
        (("A", "1", 5), "resource.name"),
        (("A", "1", "", {"at": datetime.now(UTC)}), "resource.extra_info.at"),
        (("A", "1", "", {"n": [2**64]}), "resource.extra_info.n[0]"),
        (("A", "1", "", {3: 1}), "resource.extra_info"),
        (("A", "1", "", {"x": "\ud800"}), "resource.extra_info.x"),
    ],
)
def test_a_field_that_cannot_be_kept_is_refused(fields, where):
    with pytest.raises(PlanError) as error:
        Resource(*fields)

    assert wheres(error) == [where]


def test_a_resource_reports_all_its_faults_at_once():
    with pytest.raises(PlanError) as error:
        Resource("A#", 3, 4, {"x": object()})

    assert wheres(error) == [
        "resource.type",
        "resource.id",
        "resource.name",
        "resource.extra_info.x",
    ]


def test_plain_data_that_contains_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    faults: list = []
    copy_plain(loop, "loop", faults)

    assert [fault.message for fault in faults] == ["is nested too deeply"]


@given(RUBBISH)
def test_what_is_copied_as_plain_comes_back_from_msgpack(value):
    faults: list = []
    copied = copy_plain(value, "value", faults)

    if not faults:
        packed = msgpack.packb(copied, unicode_errors="surrogateescape")
        again = msgpack.unpackb(packed, unicode_errors="surrogateescape")
        assert repr(again) == repr(copied)  # NaN equals nothing, itself included


def test_a_plan_is_safe_from_what_its_maker_does_later():
    resources, parameters = [VOLUME], {"Volume": {"exclude": ["a"]}}
    plan = Plan("nightly", "local", resources, parameters)
    resources.clear()
    parameters["Volume"]["exclude"].append("b")
    parameters["Image"] = {}

    assert plan.resources == (VOLUME,)
    assert plan.to_dict()["parameters"] == {"Volume": {"exclude": ["a"]}}


def test_a_plans_dict_is_the_callers_own():
    plan = Plan("nightly", "local", [VOLUME], {"Volume": {"exclude": ["a"]}})
    plan.to_dict()["parameters"]["Volume"]["exclude"].append("b")

    assert plan.parameters["Volume"]["exclude"] == ["a"]


def test_a_plan_cannot_be_changed():
    plan = Plan("nightly", "local", [VOLUME], {"Volume": {"x": 1}})

    with pytest.raises(AttributeError):
        plan.name = "weekly"
    with pytest.raises(TypeError):
        plan.parameters["Image"] = {}
    with pytest.raises(TypeError):
        plan.parameters["Volume"]["x"] = 2


def test_a_plan_survives_pickling_and_its_dict():
    plan = Plan("nightly", "local", [VOLUME], {"Volume#1": {"x": [1]}})

    assert pickle.loads(pickle.dumps(plan)) == plan
    assert Plan.from_dict(plan.to_dict()) == plan
    assert hash(Plan.from_dict(plan.to_dict())) == hash(plan)


def test_a_plan_reports_all_its_faults_at_once():
    with pytest.raises(PlanError) as error:
        Plan("", 3, [VOLUME, VOLUME, "Volume"], {"A/B": {}, "Volume": 3, "Image": {"x": {1}}})

    assert wheres(error) == [
        "name",
        "provider",
        "resources[1]",
        "resources[2]",
        "parameters['A/B']",
        "Volume",
        "Image.x",
    ]


@pytest.mark.parametrize("resources", [None, 3, "Volume", b"Volume", {"a": 1}, [], ()])
def test_a_plan_without_a_list_of_resources_is_refused(resources):
    with pytest.raises(PlanError) as error:
        Plan("nightly", "local", resources)

    assert wheres(error) == ["resources"]


def test_a_described_plan_reports_all_its_faults_at_once():
    with pytest.raises(PlanError) as error:
        Plan.from_dict(
            {
                "nmae": "nightly",
                "provider": None,
                "resources": [{"type": "V"}, 3, {"type": "V", "id": "1", "size": 2}],
                "parameters": [1],
            }
        )

    assert wheres(error) == [
        "nmae",
        "resources[0].id",
        "resources[1]",
        "resources[2].size",
        "name",
        "provider",
        "parameters",
    ]


@pytest.mark.parametrize("data", [None, 3, "plan", [], [("name", "x")]])
def test_what_is_no_table_is_no_plan(data):
    with pytest.raises(PlanError):
        Plan.from_dict(data)


@given(
    RUBBISH
    | st.dictionaries(PLAN_FIELDS, RUBBISH)
    | st.fixed_dictionaries(
        {"name": st.just("n"), "provider": st.just("p")},
        optional={
            "resources": st.lists(RUBBISH | st.dictionaries(RESOURCE_FIELDS, RUBBISH)),
            "parameters": st.dictionaries(st.text(), RUBBISH),
        },
    )
)
def test_rubbish_makes_a_plan_error_and_nothing_else(data):
    try:
        plan = Plan.from_dict(data)
    except PlanError as caught:
        faults = caught.faults
    else:
        faults = ()
        assert plan.resources
    assert all("\n" not in fault.message for fault in faults)


def test_terminal_statuses_are_those_that_nothing_follows():
    assert {status for status in OperationStatus if status.is_terminal} == {
        "succeeded",
        "partial",
        "failed",
        "cancelled",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": "3"},
        {"backoff": -1.0},
        {"max_backoff": -1.0},
        {"backoff": float("nan")},
    ],
)
def test_a_retry_policy_out_of_range_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        RetryPolicy(**fields)


def test_the_wait_between_attempts_doubles_up_to_its_limit():
    policy = RetryPolicy(attempts=5, backoff=2.0, max_backoff=10.0)

    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4, 10**6)] == [2.0, 4.0, 8.0, 10.0, 10.0]
