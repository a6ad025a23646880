"""The plugin in the engine, with databases as children."""

from __future__ import annotations

import os
import sqlite3

import pytest

from helpers import DEADLINE
from karbor_actors import Bank, OperationError, Plan, ProtectionService, Provider, Resource
from karbor_actors.errors import ParametersError, ResourceMissingError
from karbor_filesystem import DirectoryProtectable, DirectoryProtection
from karbor_sqlite import DatabaseProtectable, DatabaseProtection
from plugins.trees import describe

TYPE = "FileSystem::Directory"


@pytest.fixture
def service(tmp_path):
    with ProtectionService(workers=4) as service:
        service.add_provider(
            Provider(
                "local",
                bank=Bank.open(tmp_path / "bank"),
                protection_plugins=[DirectoryProtection(), DatabaseProtection()],
                protectables=[DirectoryProtectable(), DatabaseProtectable()],
            )
        )
        yield service


@pytest.fixture
def tree(source):
    (source / "sub").mkdir()
    for name in ("sub/app.db", "top.db"):
        with sqlite3.connect(source / name) as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
        connection.close()
    (source / "sub" / "file").write_text("content")
    os.chmod(source / "sub", 0o750)
    os.utime(source / "sub", ns=(1, 123_456_789))
    return source


def plan(source, **parameters):
    return Plan("test", "local", [Resource(TYPE, str(source))], {TYPE: parameters})


def test_a_tree_with_databases_comes_back_whole(service, tree, tmp_path):
    target = tmp_path / "target"
    checkpoint = service.protect(plan(tree)).result(DEADLINE)

    service.verify(checkpoint.id).result(DEADLINE)
    parameters = {TYPE: {"target": str(target)}}
    result = service.restore(checkpoint.id, parameters=parameters).result(DEADLINE)

    assert result.new_resources[(TYPE, str(tree))] == str(target)
    with sqlite3.connect(target / "sub" / "app.db") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1000,)
    connection.close()
    restored, before = describe(target), describe(tree)
    assert restored.keys() == before.keys()
    for path in (b".", b"./sub", b"./sub/file"):
        assert restored[path] == before[path]


def test_a_restore_that_is_refused_leaves_the_target_alone(service, tree):
    checkpoint = service.protect(plan(tree)).result(DEADLINE)
    before = describe(tree)

    with pytest.raises(OperationError, match="not empty"):
        service.restore(checkpoint.id).result(DEADLINE)

    assert describe(tree) == before


def test_a_second_protect_finds_the_first_by_itself(service, tree):
    service.protect(plan(tree)).result(DEADLINE)

    checkpoint = service.protect(plan(tree)).result(DEADLINE)

    resource = Resource(TYPE, str(tree))
    section = checkpoint.get_resource_bank_section(resource)
    assert DirectoryProtection.get_saved_info(section, resource)["unchanged"] == 1
    assert sum(stream.new_blocks for stream in section.list_streams()) == 0


def test_a_pattern_that_can_match_nothing_is_refused_before_anything_runs(service, tree):
    with pytest.raises(ParametersError, match=r"the pattern '\.\.' cannot match"):
        service.protect(plan(tree, exclude=[".."])).result(DEADLINE)


def test_a_tree_whose_name_is_no_utf8_comes_back(service, tmp_path):
    source, target = os.fsencode(tmp_path) + b"/\xff", os.fsencode(tmp_path) + b"/\xfe"
    os.mkdir(source)
    with open(source + b"/\xfd", "wb") as file:
        file.write(b"content")
    checkpoint = service.protect(plan(os.fsdecode(source))).result(DEADLINE)

    parameters = {TYPE: {"target": os.fsdecode(target)}}
    service.restore(checkpoint.id, parameters=parameters).result(DEADLINE)

    assert describe(target) == describe(source)


def test_a_resource_that_is_not_there_is_refused_before_anything_is_stored(service, tree):
    missing = [Resource(TYPE, str(tree / name)) for name in ("one", "two")]
    absent = Plan("test", "local", [Resource(TYPE, str(tree)), *missing])

    with pytest.raises(ResourceMissingError, match=r"one, .*two do not exist") as raised:
        service.protect(absent).result(DEADLINE)
    assert raised.value.resources == tuple(resource.key for resource in missing)
    with pytest.raises(ResourceMissingError):
        service.plan_operation("protect", absent)
    assert service.provider("local").bank.checkpoints() == []
