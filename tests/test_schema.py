"""Parameters: both forms of schema, merging, every fault at once, secrets by reference."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import DEADLINE
from karbor_actors import rules
from karbor_actors.errors import BankFormatError, ParametersError, PluginError
from karbor_actors.graph import build_graph
from karbor_actors.model import Resource
from karbor_actors.schema import (
    ResourceParameters,
    merge_call_parameters,
    plugin_schema,
    prepare_schema,
    resolve_secrets,
    secret_fields,
    translate,
    validate_parameters,
    validate_saved_info,
)

DIRECTORY, VOLUME = "FileSystem::Directory", "Volume"
APP = Resource(DIRECTORY, "/srv/app")
HASHED = Resource(DIRECTORY, "/srv/#1#")
DISK = Resource(VOLUME, "1")
GRAPH = build_graph([APP, HASHED, DISK], lambda _: [])

SCHEMAS = {
    DIRECTORY: {
        "exclude": {"type": "list", "schema": {"type": "string"}, "default": []},
        "level": {"type": "integer", "min": 1, "max": 9, "default": 3},
    },
    VOLUME: {
        "mode": {"type": "string", "allowed": ["full", "incremental"], "default": "full"},
        "size": {"type": "integer", "coerce": int},
    },
    "Unused": {"x": {}},
}
KARBOR = {
    "title": "Volume Protection Options",
    "type": "object",
    "properties": {
        "backup_name": {"type": "string", "title": "Name", "description": "...", "default": None},
        "backup_mode": {"type": "string", "enum": ["full", "incremental"], "default": "full"},
        "force": {"type": "boolean", "default": False},
        "size": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "object", "properties": {"pool": {"type": ["string", "null"]}}},
        "count": {"type": ["integer", "string"], "minimum": 3},
        "anything": {},
    },
    "required": ["backup_name", "force"],
}


def validate(parameters, schemas=None, graph=GRAPH):
    return validate_parameters(graph, parameters, (schemas or SCHEMAS).__getitem__)


def faults_of(parameters, schemas=None):
    with pytest.raises(ParametersError) as error:
        validate(parameters, schemas)
    return [str(fault) for fault in error.value.faults]


# Merging and normalizing.


def test_without_parameters_each_resource_gets_the_defaults():
    found = validate(None)

    assert found.for_resource(0) == found.for_resource(1) == {"exclude": [], "level": 3}
    assert found.for_resource(2) == {"mode": "full"}
    assert all(found.is_default(number) for number in range(3))


def test_a_resources_own_parameters_are_laid_over_its_types_field_by_field():
    found = validate({DIRECTORY: {"level": 5, "exclude": ["a"]}, f"{APP}": {"exclude": ["b"]}})

    assert found.for_resource(0) == {"level": 5, "exclude": ["b"]}
    assert found.for_resource(1) == {"level": 5, "exclude": ["a"]}
    assert [found.is_default(number) for number in range(3)] == [False, False, True]


def test_an_id_may_hold_a_hash_sign():
    found = validate({f"{DIRECTORY}#/srv/#1#": {"level": 9}})

    assert (found.for_resource(0)["level"], found.for_resource(1)["level"]) == (3, 9)


def test_each_hook_gets_a_dict_of_its_own_down_to_the_last_list():
    given_now = {DIRECTORY: {"exclude": ["a"]}}
    found = validate(given_now)
    found.for_resource(0)["exclude"].append("b")
    given_now[DIRECTORY]["exclude"].append("c")

    assert found.for_resource(0)["exclude"] == found.for_resource(1)["exclude"] == ["a"]


def test_values_are_coerced_as_the_schema_says():
    assert validate({VOLUME: {"size": "12"}}).for_resource(2)["size"] == 12


def test_a_type_that_only_its_resources_own_parameters_complete_is_complete():
    schemas = {**SCHEMAS, DIRECTORY: {"key": {"required": True}, "other": {}}}
    own = {f"{APP}": {"key": 1}, f"{HASHED}": {"key": 2}}
    found = validate({**own, DIRECTORY: {"other": 3}}, schemas)

    assert found.for_resource(0) == {"key": 1, "other": 3}
    assert faults_of({f"{APP}": {"key": 1}}, schemas) == [f"{DIRECTORY}.key: is required"]


def test_equal_parameters_are_checked_and_kept_once():
    checked = []

    def check(field, value, error):
        checked.append(value)

    graph = build_graph([Resource("T", str(n)) for n in range(100)], lambda _: [])
    own = {f"T#{n}": {"x": n % 2} for n in range(50)}
    found = validate({**own, "T": {"x": 7}}, {"T": {"x": {"check_with": check}}}, graph)

    assert sorted(checked) == [0, 1, 7]
    assert len(found.to_data()["values"]) == 3
    assert [found.for_resource(n)["x"] for n in (0, 1, 49, 50, 99)] == [0, 1, 1, 7, 7]


def test_a_type_that_has_no_resource_today_may_have_parameters():
    found = validate({"Unused": {"x": 1}})

    assert found.for_resource(0)["level"] == 3
    assert faults_of({"Unused": {"y": 1}}) == ["Unused.y: is not a parameter of Unused in protect"]


def test_without_a_schema_any_plain_parameters_are_taken():
    found = validate({VOLUME: {"x": [1]}}, {**SCHEMAS, VOLUME: None})

    assert found.for_resource(2) == {"x": [1]}
    assert faults_of({VOLUME: {"x": {1}}}, {**SCHEMAS, VOLUME: None})[0].startswith("Volume.x: ")


# Faults.


def test_every_fault_is_reported_at_once_with_its_place():
    found = faults_of(
        {
            DIRECTORY: {"exclud": ["a"], "level": 10},
            f"{APP}": {"exclude": ["a", 7], "level": "low"},
            f"{DIRECTORY}#/gone": {},
            "Nothing": {},
            VOLUME: {"mode": "fast"},
        }
    )

    assert found == [
        "FileSystem::Directory#/gone: is not in the resource graph",
        "Nothing: is a type that no plugin handles",
        (
            "FileSystem::Directory.exclud: is not a parameter of FileSystem::Directory in protect "
            "(did you mean 'exclude'?)"
        ),
        "FileSystem::Directory.level: must be at most 9, not 10",
        "FileSystem::Directory#/srv/app.exclude[1]: must be a string, not 7",
        "FileSystem::Directory#/srv/app.level: must be an integer, not 'low'",
        "Volume.mode: must be one of 'full', 'incremental', not 'fast'",
    ]


@pytest.mark.parametrize(
    ("rules", "value", "sentence"),
    [
        ({"type": "integer"}, "abc", "must be an integer, not 'abc'"),
        ({"type": ["integer", "list"]}, "abc", "must be an integer or a list, not 'abc'"),
        ({"type": "boolean"}, 1, "must be true or false, not 1"),
        ({"type": "integer"}, None, "must not be None"),
        ({"type": "datetime"}, "now", "must be of type datetime, not 'now'"),
        ({"min": 3}, 2, "must be at least 3, not 2"),
        ({"minlength": 3}, "ab", "must be at least 3 long"),
        ({"maxlength": 1}, "ab", "must be at most 1 long"),
        ({"empty": False}, "", "must not be empty"),
        ({"regex": "[a-z]+"}, "A", "must match [a-z]+, not 'A'"),
        ({"allowed": ["a", "b"]}, ["c"], "must be one of 'a', 'b', not ['c']"),
        ({"anyof_type": ["string", "list"]}, 3, "must fit the rule anyof, not 3"),
        ({"contains": "a"}, ["b"], "missing members {'a'}"),
        ({"check_with": lambda f, v, error: error(f, "is too far")}, 3, "is too far"),
        ({"check_with": lambda f, v, error: 1 / 0}, 3, "cannot be checked: ZeroDivisionError"),
        ({"coerce": lambda value: value.lower()}, 3, "cannot be coerced"),
        ({"coerce": lambda value: {value}}, 3, "is of type set, which cannot be stored"),
        ({"type": "dict", "schema": {"a": {"required": True}}}, {}, "x.a: is required"),
        ({"type": "dict", "schema": {}}, {"b": 1}, "x.b: is not a known field"),
        ({"valuesrules": {"type": "string"}}, {"b": 1}, "x.b: must be a string, not 1"),
        ({"items": [{"type": "string"}]}, [1], "x[0]: must be a string, not 1"),
        ({"type": "string"}, "x" * 10_000, None),
    ],
)
def test_a_fault_is_a_plain_sentence(rules, value, sentence):
    if sentence is None:
        validate({VOLUME: {"x": value}}, {**SCHEMAS, VOLUME: {"x": rules}})
        return
    (fault,) = faults_of({VOLUME: {"x": value}}, {**SCHEMAS, VOLUME: {"x": rules}})

    assert fault.startswith("Volume")
    assert sentence in fault


def test_an_empty_schema_takes_no_parameters():
    assert faults_of({VOLUME: {"x": 1}}, {**SCHEMAS, VOLUME: {}}) == [
        "Volume.x: is not a parameter of Volume in protect, which takes none"
    ]


@pytest.mark.parametrize(
    "parameters", [3, "x", [1], {"A/B": {}}, {3: {}}, {VOLUME: 3}, {VOLUME: [("a", 1)]}, {"": {}}]
)
def test_parameters_of_another_shape_are_a_parameters_error(parameters):
    assert faults_of(parameters)


@given(
    st.dictionaries(
        st.sampled_from([DIRECTORY, VOLUME, f"{APP}", f"{HASHED}", "Volume#2", "No"]),
        st.dictionaries(
            st.sampled_from(["exclude", "level", "mode", "size", "else"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4
            ),
        ),
    )
)
def test_any_parameters_are_refused_or_come_out_as_the_schema_says(parameters):
    try:
        found = validate(parameters)
    except ParametersError:
        return
    for number, node in enumerate(GRAPH.nodes):
        fields = found.for_resource(number)
        assert fields.keys() <= SCHEMAS[node.type].keys()
        given_now = {**parameters.get(node.type, {}), **parameters.get(str(node), {})}
        assert given_now.keys() <= fields.keys()
        assert found.is_default(number) == (not given_now and str(node) not in parameters)


# Calls, and the journal.


def test_a_calls_parameters_are_laid_over_the_plans_field_by_field():
    plan = {DIRECTORY: {"level": 1, "exclude": ["a"]}, VOLUME: {"size": 1}}
    merged = merge_call_parameters(plan, {DIRECTORY: {"level": 2}, f"{APP}": {"level": 3}})

    assert merged == {
        DIRECTORY: {"level": 2, "exclude": ["a"]},
        VOLUME: {"size": 1},
        f"{APP}": {"level": 3},
    }
    assert plan[DIRECTORY] == {"level": 1, "exclude": ["a"]}
    assert merge_call_parameters(None, None) == {}
    with pytest.raises(ParametersError):
        merge_call_parameters(plan, 3)


def test_parameters_survive_the_journal():
    found = validate({DIRECTORY: {"exclude": ["\udcff"]}, f"{APP}": {"level": 9}})
    packed = msgpack.packb(found.to_data(), unicode_errors="surrogateescape")
    data = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    again = ResourceParameters.from_data(GRAPH, data, SCHEMAS.__getitem__)

    for number in range(len(GRAPH)):
        assert again.for_resource(number) == found.for_resource(number)
        assert again.is_default(number) == found.is_default(number)


@pytest.mark.parametrize(
    "change",
    [
        {"values": []},
        {"values": None},
        {"values": [b"\x01", b"\x01"]},
        {"values": [b"\xc1", b"\xc1"]},
        {"values": [{}, {}]},
        {"types": {}},
        {"types": {DIRECTORY: 99, VOLUME: 0}},
        {"types": {DIRECTORY: "a", VOLUME: 0}},
        {"own": [1]},
        {"own": [0, None]},
        {"own": [[], 0]},
        {"given": [[]]},
    ],
)
def test_damaged_parameters_are_a_format_error(change):
    data = {**validate(None).to_data(), **change}
    with pytest.raises(BankFormatError, match="damaged"):
        ResourceParameters.from_data(GRAPH, data, SCHEMAS.__getitem__)


@pytest.mark.parametrize("data", [None, 3, [], {}, "x"])
def test_what_holds_no_parameters_is_a_format_error(data):
    with pytest.raises(BankFormatError, match="damaged"):
        ResourceParameters.from_data(GRAPH, data, SCHEMAS.__getitem__)


# Schemas in Karbor's form.


def test_karbors_form_is_translated():
    assert translate(KARBOR) == {
        "backup_name": {"type": "string", "nullable": True},
        "backup_mode": {"type": "string", "allowed": ["full", "incremental"], "default": "full"},
        "force": {"type": "boolean", "default": False},
        "size": {"type": "number"},
        "tags": {"type": "list", "schema": {"type": "string"}},
        "where": {"type": "dict", "schema": {"pool": {"type": "string", "nullable": True}}},
        "count": {"type": ["integer", "string"]},
        "anything": {},
    }


def test_translating_twice_changes_nothing():
    assert translate(translate(KARBOR)) == translate(KARBOR)
    assert translate(SCHEMAS[DIRECTORY]) == SCHEMAS[DIRECTORY]


def test_a_default_of_none_is_allowed_and_not_filled_in():
    schemas = {**SCHEMAS, VOLUME: KARBOR}

    assert "backup_name" not in validate(None, schemas).for_resource(2)
    given = validate({VOLUME: {"backup_name": None}}, schemas).for_resource(2)
    assert given["backup_name"] is None


def test_karbors_checks_are_kept():
    schemas = {**SCHEMAS, VOLUME: KARBOR}
    found = validate({VOLUME: {"where": {"pool": None}, "count": "2"}}, schemas)

    assert found.for_resource(2) == {
        "backup_mode": "full",
        "force": False,
        "where": {"pool": None},
        "count": "2",
    }
    assert faults_of({VOLUME: {"force": "yes", "tags": ["a", 1], "colour": 1}}, schemas) == [
        "Volume.colour: is not a parameter of Volume in protect",
        "Volume.force: must be true or false, not 'yes'",
        "Volume.tags[1]: must be a string, not 1",
    ]


def test_required_is_a_warning_that_names_plugin_type_and_fields(caplog):
    with caplog.at_level(logging.WARNING, "karbor_actors.schema"):
        prepare_schema(KARBOR, "Cinder", VOLUME)

    assert caplog.messages == [
        (
            "the schema of Cinder for Volume: required is not enforced, as Karbor never did: "
            "backup_name, force"
        )
    ]


def test_a_default_of_karbors_that_its_own_rules_refuse_is_left_out():
    warnings = []
    schema = {"properties": {"x": {"type": "integer", "default": "three"}}}

    assert translate(schema, warnings) == {"x": {"type": "integer"}}
    assert "default of x" in warnings[0]


@pytest.mark.parametrize(
    ("schema", "is_karbors"),
    [
        ({"type": "object"}, True),
        ({"properties": {"a": {"type": "string"}}}, True),
        ({"properties": {"type": "dict", "schema": {"a": {}}}}, False),
        ({"type": {"type": "string"}}, False),
        ({}, False),
    ],
)
def test_the_two_forms_are_told_apart(schema, is_karbors):
    assert (translate(schema) != schema) is is_karbors


@pytest.mark.parametrize(
    "schema",
    [
        3,
        "x",
        ["x"],
        {"x": 3},
        {"x": {"type": "colour"}},
        {"x": {"typ": "string"}},
        {"x": {"allowed": 3}},
        {"x": {"secret": "yes"}},
        {"x": {"type": "list", "schema": 3}},
        {"type": "object", "properties": {"x": {"type": 3}}},
    ],
)
def test_what_is_no_schema_is_a_plugin_error_that_names_plugin_and_type(schema):
    with pytest.raises(PluginError, match="Cinder for Volume"):
        prepare_schema(schema, "Cinder", VOLUME)


class Plugin:
    """A plugin whose schema is whatever a test says."""

    def __init__(self, schema):
        self.schema = schema

    def get_options_schema(self, resource_type):
        if isinstance(self.schema, Exception):
            raise self.schema
        return self.schema


@pytest.mark.parametrize("plugin", [object(), Plugin(None), Plugin(NotImplementedError())])
def test_a_plugin_without_a_schema_has_none(plugin):
    assert plugin_schema(plugin, "get_options_schema", VOLUME) is None


def test_a_plugins_schema_is_prepared():
    assert plugin_schema(Plugin({}), "get_options_schema", VOLUME) == {}
    prepared = plugin_schema(Plugin(KARBOR), "get_options_schema", VOLUME)
    assert prepared == translate(KARBOR)


def test_a_prepared_schema_is_compiled_once_for_all_operations(monkeypatch):
    made = []

    class Counted(rules.SchemaValidator):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    prepared = prepare_schema(SCHEMAS[VOLUME], "P", VOLUME)
    monkeypatch.setattr(rules, "SchemaValidator", Counted)
    graph = build_graph([DISK], lambda _: [])
    for mode in ("full", "incremental", "odd", "full"):
        given = {VOLUME: {"mode": mode}}
        if mode == "odd":
            with pytest.raises(ParametersError, match="one of"):
                validate_parameters(graph, given, lambda _: prepared)
        else:
            found = validate_parameters(graph, given, lambda _: prepared)
            assert found.for_resource(0)["mode"] == mode

    assert len(made) == 1


def test_no_two_threads_use_one_validator_at_once():
    inside = threading.Barrier(4)

    def check(field, value, error):
        inside.wait(DEADLINE)
        if value % 2:
            error(field, f"{value} is odd")

    prepared = prepare_schema({"n": {"check_with": check}}, "P", VOLUME)
    graph = build_graph([DISK], lambda _: [])

    def faults(number):
        try:
            validate_parameters(graph, {VOLUME: {"n": number}}, lambda _: prepared)
        except ParametersError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(faults, range(4)))

    assert [bool(text) for text in found] == [False, True, False, True]
    assert "1 is odd" in found[1]
    assert "3 is odd" in found[3]


def test_a_plugin_that_fails_to_give_its_schema_is_named():
    with pytest.raises(PluginError, match="of Plugin failed for Volume: OSError: gone"):
        plugin_schema(Plugin(OSError("gone")), "get_options_schema", VOLUME)


# Secrets.

SECRETS = {
    "password": {"type": "string", "secret": True},
    "token": {"type": "string", "nullable": True, "meta": {"secret": True}},
    "server": {
        "type": "dict",
        "schema": {"key": {"type": "string", "meta": {"secret": True}}, "port": {}},
    },
    "keys": {"type": "list", "schema": {"type": "string", "secret": True}},
    "by_name": {"type": "dict", "valuesrules": {"type": "string", "meta": {"secret": True}}},
    "pair": {"items": [{"type": "string"}, {"type": "string", "secret": True}]},
    "level": {"type": "integer"},
}


def test_secrets_are_found_in_both_forms_of_schema():
    assert secret_fields(prepare_schema(SECRETS, "P", VOLUME)) == tuple(SECRETS)[:-1]
    karbors = {"properties": {"password": {"type": "string", "secret": True}, "x": {}}}
    assert secret_fields(prepare_schema(karbors, "P", VOLUME)) == ("password",)
    assert secret_fields(None) == ()


def test_references_are_resolved_wherever_a_schema_says_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("KARBOR_TEST_SECRET", "from the environment")
    file = tmp_path / "secret"
    file.write_bytes(b"from a file\xff\n\n")
    env, path = "env:KARBOR_TEST_SECRET", f"file:{file}"
    given_now = {
        "password": env,
        "token": None,
        "server": {"key": path, "port": 1},
        "keys": [env, path],
        "by_name": {"a": path},
        "pair": [env, env],
        "level": 3,
    }
    resolved = resolve_secrets(prepare_schema(SECRETS, "P", VOLUME), given_now)

    assert resolved == {
        "password": "from the environment",
        "token": None,
        "server": {"key": "from a file\udcff\n", "port": 1},
        "keys": ["from the environment", "from a file\udcff\n"],
        "by_name": {"a": "from a file\udcff\n"},
        "pair": [env, "from the environment"],
        "level": 3,
    }
    assert given_now["server"] == {"key": path, "port": 1}


def test_the_journal_keeps_the_reference_and_each_attempt_reads_the_secret(monkeypatch):
    schemas = {**SCHEMAS, VOLUME: SECRETS}
    found = validate({VOLUME: {"password": "env:KARBOR_TEST_SECRET"}}, schemas)
    again = ResourceParameters.from_data(GRAPH, found.to_data(), schemas.__getitem__)
    for secret in ("first", "second"):
        monkeypatch.setenv("KARBOR_TEST_SECRET", secret)

        assert again.resolved(2) == {"password": secret}
    assert found.for_resource(2) == {"password": "env:KARBOR_TEST_SECRET"}
    assert b"second" not in msgpack.packb(found.to_data())
    assert found.resolved(0) == found.for_resource(0)


def test_a_secret_that_cannot_be_read_says_which_field(monkeypatch, tmp_path):
    monkeypatch.delenv("KARBOR_TEST_SECRET", raising=False)
    big = tmp_path / "big"
    big.write_bytes(b"s" * (2 << 20))
    parameters = {"password": "env:KARBOR_TEST_SECRET", "keys": [f"file:{tmp_path}/no"]}
    parameters["server"] = {"key": f"file:{big}"}
    with pytest.raises(ParametersError) as error:
        resolve_secrets(prepare_schema(SECRETS, "P", VOLUME), parameters, "Volume#1")

    wheres = [fault.where for fault in error.value.faults]
    assert wheres == ["Volume#1.password", "Volume#1.server.key", "Volume#1.keys[0]"]
    assert "ssss" not in str(error.value)
    assert "KARBOR_TEST_SECRET" in str(error.value)


@pytest.mark.parametrize(
    "given_now",
    [
        {"password": "hunter2"},
        {"password": ["hunter2"]},
        {"password": {"value": "hunter2"}},
        {"token": "hunter2"},
        {"server": "hunter2"},
        {"server": {"key": "hunter2"}},
        {"server": {"kye": "hunter2"}},
        {"keys": "hunter2"},
        {"keys": ["env:A", "hunter2"]},
        {"by_name": {"a": "hunter2"}},
        {"pair": ["a", "hunter2"]},
        {"pasword": "hunter2"},
        {"password": "env:"},
        {"password": "file:"},
    ],
)
def test_a_secret_given_itself_is_refused_and_never_shown(given_now):
    found = faults_of({VOLUME: given_now}, {**SCHEMAS, VOLUME: SECRETS})

    assert found
    assert "hunter2" not in " ".join(found)


@pytest.mark.parametrize(
    "rules",
    [
        {"secret": True, "check_with": lambda f, v, error: error(f, f"{v} is weak")},
        {"secret": True, "check_with": lambda f, v, error: [][v]},
        {"secret": True, "coerce": int},
        {"secret": True, "allowed": ["env:A"]},
        {"secret": True, "regex": "env:A"},
    ],
)
def test_no_rule_shows_the_value_of_a_secret_field(rules):
    found = faults_of({VOLUME: {"p": "hunter2"}}, {**SCHEMAS, VOLUME: {"p": rules}})

    assert "hunter2" not in " ".join(found)


def test_a_secret_where_it_would_not_be_read_is_refused_at_registration():
    inside = {"x": {"anyof": [{"type": "integer"}, {"type": "string", "secret": True}]}}
    with pytest.raises(PluginError, match="anyof"):
        prepare_schema(inside, "P", VOLUME)
    with pytest.raises(PluginError, match="anyof"):
        prepare_schema({"y": {"type": "dict", "schema": inside}}, "P", VOLUME)


def test_a_field_may_be_called_meta_or_schema():
    schema = {
        "meta": {"type": "dict", "schema": {"schema": {"type": "string", "secret": True}}},
        "schema": {"type": "string"},
    }
    prepared = prepare_schema(schema, "P", VOLUME)

    assert secret_fields(prepared) == ("meta",)


# Saved info.


def test_saved_info_is_checked_against_its_schema():
    schema = {"properties": {"size": {"type": "integer"}, "name": {"default": None}}}

    assert validate_saved_info(schema, {"size": 3}) == {"size": 3}
    assert validate_saved_info(None, {"any": [1]}) == {"any": [1]}
    assert validate_saved_info(schema, None) == {}
    for rubbish in ({"size": "big"}, {"weight": 1}, [1], {"size": object()}, "x"):
        with pytest.raises(PluginError):
            validate_saved_info(schema, rubbish)
