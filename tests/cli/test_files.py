"""The TOML files and the parameters of the command line."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.cli.files import (
    absolute_id,
    merge_parameters,
    parse_parameters,
    read_plan,
    read_providers,
)
from karbor_actors.errors import ConfigurationError, ParametersError, PlanError


def test_a_provider_has_defaults_and_paths_beside_its_file(tmp_path):
    path = tmp_path / "karbor.toml"
    path.write_text('[[provider]]\nname = "a"\nbank = "../bank"\n')
    settings = read_providers(str(path))["a"]

    assert settings.bank == str(tmp_path.parent / "bank")
    assert settings.objects is None
    assert settings.protection_plugins == settings.protectables == ("filesystem", "sqlite")
    assert settings.recover == "resume"


def test_protectables_are_those_of_the_protection_plugins_unless_named(tmp_path):
    path = tmp_path / "karbor.toml"
    path.write_text('[[provider]]\nname = "a"\nbank = "b"\nprotection_plugins = ["sqlite"]\n')

    assert read_providers(str(path))["a"].protectables == ("sqlite",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "provider: is missing"),
        ("provider = 3", "provider: is missing"),
        ("provider = [3]", "must be a table"),
        ('[[provider]]\nname = "a"', "provider[0].bank: is missing"),
        ('[[provider]]\nname = "a"\nbank = "b"\nrecover = "no"', "provider[0].recover: must be"),
        ('[[provider]]\nname = "a"\nbank = "b"\n' * 2, "is there twice"),
        ("a = 1\na = 2", "is no TOML"),
    ],
)
def test_a_malformed_configuration_says_what_is_wrong(tmp_path, text, fault):
    path = tmp_path / "karbor.toml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=r"karbor\.toml") as caught:
        read_providers(str(path))
    assert fault in str(caught.value)


def test_relative_ids_of_a_plan_become_absolute_with_links_resolved(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = tmp_path / "plan.toml"
    path.write_text(
        'name = "p"\n[[resources]]\ntype = "T"\nid = "./link"\n'
        '[[resources]]\ntype = "T"\nid = "volume-1"\n'
        '[parameters."T#./link"]\nfield = 1\n[parameters.T]\nfield = 2\n'
    )
    plan = read_plan(str(path))

    assert [resource.id for resource in plan.resources] == [str(tmp_path / "real"), "volume-1"]
    assert set(plan.parameters) == {f"T#{tmp_path}/real", "T"}
    assert plan.provider == "local"


@pytest.mark.parametrize("data", [b"name = ", b"\xff\xfe", b"a = " + b"[" * 20_000])
def test_what_is_no_toml_is_refused(tmp_path, data):
    path = tmp_path / "plan.toml"
    path.write_bytes(data)

    with pytest.raises(PlanError, match="is no TOML"):
        read_plan(str(path))


@pytest.mark.parametrize("resource_id", ["/srv", "volume-1", "a/b", ".hidden", "...", "~user"])
def test_other_ids_are_taken_as_they_are(resource_id):
    assert absolute_id(resource_id, "/folder") == resource_id


@pytest.mark.parametrize(
    ("assignment", "parameters"),
    [
        ("T.a=3", {"T": {"a": 3}}),
        ("T.a=true", {"T": {"a": True}}),
        ('T.a=["x", "y"]', {"T": {"a": ["x", "y"]}}),
        ('T.a="3"', {"T": {"a": "3"}}),
        ("T.a=/some/path", {"T": {"a": "/some/path"}}),
        ("T.a=", {"T": {"a": ""}}),
        ("T.a=x=y", {"T": {"a": "x=y"}}),
        ("T.a=1\nother = 2", {"T": {"a": "1\nother = 2"}}),
        ("A::B#/x/y.z.a=1", {"A::B#/x/y.z": {"a": 1}}),
    ],
)
def test_a_parameter_is_read_as_toml_or_else_as_text(assignment, parameters):
    assert parse_parameters([assignment]) == parameters


@pytest.mark.parametrize("assignment", ["", "T", "T=1", "T.=1", ".a=1", "T.a"])
def test_what_is_no_assignment_is_refused(assignment):
    with pytest.raises(ParametersError, match=r"TYPE\.FIELD=VALUE"):
        parse_parameters([assignment])


@given(st.text())
def test_no_text_breaks_the_reading_of_parameters(text):
    found = parse_parameters([f"T.a={text}"])

    assert set(found["T"]) == {"a"}


def test_later_layers_of_parameters_win_field_by_field():
    merged = merge_parameters({"T": {"a": 1, "b": 1}}, {"T": {"b": 2}, "U": {"c": 3}})

    assert merged == {"T": {"a": 1, "b": 2}, "U": {"c": 3}}


def test_a_parameter_of_one_resource_may_be_relative_to_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert parse_parameters(["T#./x.a=1"]) == {f"T#{os.getcwd()}/x": {"a": 1}}
