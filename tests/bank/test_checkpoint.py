"""Checkpoints: what they keep, how their status moves, how they go."""

from __future__ import annotations

import io
from array import array
from datetime import UTC, datetime

import pytest

from banks import SERVER, SHARED, VOLUME
from karbor_actors.bank.bank import Bank
from karbor_actors.bank.checkpoints import checkpoint as checkpoint_module
from karbor_actors.bank.checkpoints.resource_rows import (
    Consistency,
    ConsistencyLevel,
    Ending,
    KeptArtifact,
)
from karbor_actors.bank.database.environment import Outcome
from karbor_actors.bank.database.keys import section_prefix
from karbor_actors.bank.database.transactions import HEADS, Table
from karbor_actors.errors import (
    BankFormatError,
    BankKeyError,
    BankReadonlyError,
    BankValueError,
    CheckpointNotFoundError,
    CheckpointStateError,
    ResourceNotFoundError,
)
from karbor_actors.graph import ResourceGraph
from karbor_actors.model import CheckpointStatus, Plan, Resource, ResourceStatus

AVAILABLE, ERROR = CheckpointStatus.AVAILABLE, CheckpointStatus.ERROR
DELETING, PROTECTING = CheckpointStatus.DELETING, CheckpointStatus.PROTECTING


def test_a_new_checkpoint_is_protecting_and_read_back_the_same(bank, checkpoint):
    found = bank.checkpoint(checkpoint.id)

    assert found == checkpoint
    assert hash(found) == hash(checkpoint)
    assert found.to_dict() == checkpoint.to_dict()
    assert found.status == PROTECTING
    assert found.provider == "local"
    assert found.plan == {"name": "nightly", "provider": "local"}
    assert found.copied_from is None
    assert abs((datetime.now(UTC) - found.created_at).total_seconds()) < 60
    assert found.created_at.tzinfo is UTC


def test_a_checkpoint_of_a_plan_keeps_all_of_it(bank, graph):
    plan = Plan("nightly", "local", [SERVER], {SERVER.type: {"retention": 3}})
    made = bank.create_checkpoint(plan, "local", graph, copied_from="there", status="copying")

    found = bank.checkpoint(made.id)
    assert found.plan == plan.to_dict()
    assert found.plan_name == "nightly"
    assert (found.status, found.copied_from) == (CheckpointStatus.COPYING, "there")


def test_changing_what_a_checkpoint_returns_changes_nothing(bank, graph):
    plan = {"name": "nightly", "resources": []}
    made = bank.create_checkpoint(plan, "local", graph)
    plan["name"] = "changed"
    made.plan["resources"].append(1)

    assert made.plan == {"name": "nightly", "resources": []}
    assert bank.checkpoint(made.id).plan == made.plan


def test_a_plan_that_is_not_plain_is_refused(bank, graph):
    with pytest.raises(BankValueError):
        bank.create_checkpoint({"name": object()}, "local", graph)
    assert bank.checkpoints() == []


def test_the_graph_comes_back_with_its_numbers(bank, checkpoint, graph):
    found = bank.checkpoint(checkpoint.id).resource_graph

    assert [node.value for node in found] == [SERVER]
    assert [child.value for node in found for child in node.child_nodes] == [VOLUME, SHARED]
    assert found.pack() == graph.pack()
    assert bank.checkpoint(checkpoint.id).resource_graph.nodes[0].name == "web"


def test_a_graph_of_many_megabytes_is_kept_in_pieces(bank):
    count = 3000
    nodes = [Resource("T", str(number), "n" * 1000) for number in range(count)]
    graph = ResourceGraph(nodes, array("I", bytes(4 * count + 4)), array("I"))
    made = bank.create_checkpoint({}, "local", graph)

    assert len(bank.checkpoint(made.id).resource_graph) == count
    assert bank.check() == []


# Resources


@pytest.mark.parametrize("resource", [VOLUME, VOLUME.key, "v1"])
def test_a_section_is_found_by_resource_by_key_and_by_an_id_of_its_own(checkpoint, resource):
    checkpoint.get_resource_bank_section(resource).update_object("key", 1)

    assert checkpoint.get_resource_bank_section(VOLUME).get_object("key") == 1


def test_an_id_that_two_types_share_is_refused_naming_both(checkpoint):
    with pytest.raises(BankKeyError, match=r"Server#s1.*Volume#s1"):
        checkpoint.get_resource_bank_section("s1")


@pytest.mark.parametrize("resource", ["v2", ("OS::Cinder::Volume", "v2"), ("Other", "v1")])
def test_a_resource_that_is_not_in_the_checkpoint_is_refused(checkpoint, resource):
    with pytest.raises(ResourceNotFoundError):
        checkpoint.get_resource_bank_section(resource)


def test_sections_of_a_checkpoint_that_was_looked_up_are_read_only(bank, checkpoint):
    section = bank.checkpoint(checkpoint.id).get_resource_bank_section(SERVER)

    assert not section.is_writable
    with pytest.raises(BankReadonlyError):
        section.update_object("a", 1)


def test_resources_are_pending_until_the_checkpoint_is_finished(bank, checkpoint):
    assert checkpoint.resource_status(SERVER) == ResourceStatus.PENDING
    checkpoint.finish(AVAILABLE)

    assert set(bank.checkpoint(checkpoint.id).resource_statuses().values()) == {
        ResourceStatus.AVAILABLE
    }


def test_only_what_differs_is_kept_of_resources(bank, checkpoint):
    checkpoint.finish(
        "partial",
        Ending(
            statuses={2: ResourceStatus.ERROR},
            consistency={1: Consistency(ConsistencyLevel.CRASH, "no agent answered")},
            artifacts={1: [KeptArtifact("snapshot", "s-1", {"id": 7})]},
            error_info=[{"resource": "s1", "error": "boom"}],
            point_in_time=datetime(2024, 5, 1, 12, tzinfo=UTC),
        ),
    )
    found = bank.checkpoint(checkpoint.id)

    assert found.status == CheckpointStatus.PARTIAL
    assert found.resource_status(VOLUME) == ResourceStatus.AVAILABLE
    assert found.resource_statuses() == {
        SERVER.key: ResourceStatus.AVAILABLE,
        VOLUME.key: ResourceStatus.AVAILABLE,
        SHARED.key: ResourceStatus.ERROR,
    }
    assert found.consistency(VOLUME).to_dict() == {"level": "crash", "cause": "no agent answered"}
    assert found.consistency(SERVER).level is ConsistencyLevel.NONE
    assert found.error_info == [{"resource": "s1", "error": "boom"}]
    assert found.point_in_time == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert found.artifacts(VOLUME) == [KeptArtifact("snapshot", "s-1", {"id": 7})]
    assert found.artifacts(SERVER) == []
    assert bank.info()["rows"]["checkpoints"] == 6  # row, graph, errors, and one of each kind


def test_what_saved_nothing_is_said_in_one_row(bank, checkpoint):
    checkpoint.finish(AVAILABLE, Ending(empty=[0, 1]))
    found = bank.checkpoint(checkpoint.id)

    assert found.resource_status(SERVER) == ResourceStatus.EMPTY
    assert list(found.resource_statuses().values()) == [
        ResourceStatus.EMPTY,
        ResourceStatus.EMPTY,
        ResourceStatus.AVAILABLE,
    ]
    assert bank.info()["rows"]["checkpoints"] == 3  # row, graph, and the empty ones
    assert bank.check(deep=True) == []


def test_what_is_kept_of_resources_is_objects_streams_and_artifacts(bank, graph):
    made = [bank.create_checkpoint({"name": "n", "provider": "p"}, "p", graph) for _ in range(4)]
    for checkpoint, resource in zip(made, (SERVER, VOLUME, SHARED), strict=False):
        section = checkpoint.view(is_writable=True).get_resource_bank_section(resource)
        section.get_sub_section("deep/er").update_object("key", 1)
        section.get_sub_section("deep/er").update_object("other", 1)
    made[2].view(is_writable=True).get_resource_bank_section(SERVER).write_stream(
        "disk", io.BytesIO(b"data")
    )
    made[1].finish(AVAILABLE, Ending(artifacts={2: [KeptArtifact("snapshot", "s-1")]}))

    assert [list(checkpoint.saved()) for checkpoint in made] == [
        [1, 0, 0],
        [0, 1, 1],
        [1, 0, 1],
        [0, 0, 0],
    ]


def test_what_is_kept_is_found_of_any_number_of_resources(bank):
    """More of them than one look finds, and rows that are of no resource beside them."""
    nodes = [Resource("T", str(number)) for number in range(2 * HEADS + 10)]
    offsets = array("I", bytes(4 * len(nodes) + 4))
    checkpoint = bank.create_checkpoint(
        {"name": "n", "provider": "p"}, "p", ResourceGraph(nodes, offsets, array("I"))
    )
    kept = [number for number in range(len(nodes)) if number % 7 != 3]
    rows = [
        (section_prefix(checkpoint.number, number) + key, b"\x01")
        for number in [*kept, len(nodes) + 1, 0xFFFFFFFF]
        for key in (b"a", b"b")
    ]
    bank.writer.write(lambda transaction: transaction.put_many(Table.OBJECTS, rows))

    assert [number for number, mark in enumerate(checkpoint.saved()) if mark] == kept
    assert len(checkpoint.saved()) == len(nodes)


# Statuses


def test_a_status_moves_only_from_what_was_expected(bank, checkpoint):
    other = bank.checkpoint(checkpoint.id)
    other.set_status(ERROR, expected={PROTECTING})

    with pytest.raises(CheckpointStateError, match="is error"):
        checkpoint.finish(AVAILABLE)
    assert checkpoint.refresh().status == ERROR
    assert checkpoint.error_info == []


def test_a_refused_finish_records_nothing_of_it(bank, checkpoint):
    checkpoint.set_status(ERROR, expected={PROTECTING})
    with pytest.raises(CheckpointStateError):
        checkpoint.finish(AVAILABLE, Ending(statuses={0: ResourceStatus.ERROR}, error_info=[{}]))

    assert bank.info()["rows"]["checkpoints"] == 2


@pytest.mark.parametrize("status", ["protecting", "copying", "deleting"])
def test_what_is_being_made_or_deleted_cannot_be_deleted(checkpoint, status):
    checkpoint.set_status(status, expected={PROTECTING})

    with pytest.raises(CheckpointStateError, match=status):
        checkpoint.begin_delete()


@pytest.mark.parametrize("status", ["available", "partial", "error", "error_deleting"])
def test_all_else_can_be_deleted(bank, checkpoint, status):
    checkpoint.set_status(status, expected={PROTECTING})
    checkpoint.begin_delete()

    assert bank.checkpoint(checkpoint.id).status == DELETING


@pytest.mark.parametrize("is_held", [False, True])
def test_an_end_that_was_packed_ahead_keeps_a_hold_that_came_meanwhile(bank, checkpoint, is_held):
    end = checkpoint.finish_change(AVAILABLE, expected={PROTECTING})
    if is_held:
        bank.checkpoint(checkpoint.id).hold("legal")
    bank.writer.write(end)
    found = bank.checkpoint(checkpoint.id)

    assert (found.status, found.holds) == (AVAILABLE, ("legal",) if is_held else ())


def test_an_end_that_was_packed_ahead_is_refused_if_another_came_meanwhile(bank, checkpoint):
    end = checkpoint.finish_change(AVAILABLE, expected={PROTECTING})
    bank.checkpoint(checkpoint.id).set_status(ERROR, expected={PROTECTING})
    with pytest.raises(CheckpointStateError):
        bank.writer.write(end)


def test_a_hold_keeps_a_checkpoint_until_it_is_released(bank, checkpoint):
    checkpoint.finish(AVAILABLE)
    checkpoint.hold("legal")
    checkpoint.hold("legal")
    bank.checkpoint(checkpoint.id).hold("audit")
    with pytest.raises(CheckpointStateError, match=r"'legal', 'audit'"):
        checkpoint.begin_delete()
    assert checkpoint.refresh().holds == ("legal", "audit")

    checkpoint.release_hold("legal")
    checkpoint.release_hold("never held")
    with pytest.raises(CheckpointStateError, match="audit"):
        checkpoint.begin_delete()
    checkpoint.release_hold("audit")
    checkpoint.begin_delete()
    assert checkpoint.status == DELETING


# Deleting


def fill(checkpoint):
    section = checkpoint.get_resource_bank_section(SERVER)
    section.update_objects({f"object {number}": number for number in range(50)})
    section.get_sub_section("sub").update_object("x" * 700, 1)
    section.write_stream("disk", io.BytesIO(b"data" * 1000))
    checkpoint.get_resource_bank_section(VOLUME).write_stream("disk", io.BytesIO(b"other"))
    ending = Ending(statuses={1: ResourceStatus.ERROR}, error_info=[{"a": 1}])
    checkpoint.finish("partial", ending)


def test_a_purged_checkpoint_leaves_nothing(bank, checkpoint, graph):
    empty = bank.info()["rows"]
    kept = bank.create_checkpoint({"name": "nightly"}, "local", graph)
    fill(checkpoint)
    fill(kept)
    checkpoint.begin_delete()
    checkpoint.purge()
    checkpoint.purge()

    assert checkpoint.status == CheckpointStatus.DELETED
    assert [found.id for found in bank.checkpoints()] == [kept.id]
    for call in (
        lambda: bank.checkpoint(checkpoint.id),
        checkpoint.refresh,
        lambda: checkpoint.set_status(AVAILABLE, expected={DELETING}),
        lambda: checkpoint.hold("late"),
    ):
        with pytest.raises(CheckpointNotFoundError):
            call()
    assert bank.check(deep=True) == []
    assert kept.get_resource_bank_section(SERVER).open_stream("disk").read() == b"data" * 1000

    kept.begin_delete()
    kept.purge()
    left = bank.info()["rows"]
    assert all(left[table] == 0 for table in ("objects", "streams", "blocks", "indices"))
    assert left["checkpoints"] == 0 < empty["checkpoints"]
    assert bank.check(deep=True) == []


def test_only_a_checkpoint_that_is_deleting_can_be_purged(bank, checkpoint):
    checkpoint.finish(AVAILABLE)

    with pytest.raises(CheckpointStateError):
        checkpoint.purge()
    assert bank.checkpoints() == [checkpoint]


def test_purging_takes_many_small_transactions_and_goes_on_where_it_was_stopped(
    tmp_path, graph, monkeypatch
):
    monkeypatch.setattr(checkpoint_module, "_REMOVED_AT_ONCE", 7)
    with Bank.open(tmp_path) as bank:
        checkpoint = bank.create_checkpoint({"name": "nightly"}, "local", graph)
        fill(checkpoint)
        checkpoint.begin_delete()
        checkpoint_id = checkpoint.id
    stopped = 0
    while True:
        with Bank.open(tmp_path) as bank:
            if not bank.checkpoints():
                break
            assert bank.check() == []
            checkpoint = bank.checkpoint(checkpoint_id)
            monkeypatch.setattr(bank._parts.environment, "commit_group", _only_four(bank))
            try:
                checkpoint.purge()
            except OSError:
                stopped += 1

    with Bank.open(tmp_path) as bank:
        assert bank.info()["rows"]["objects"] == bank.info()["rows"]["indices"] == 0
        assert bank.check() == []
    assert stopped >= 3


def _only_four(bank):
    """Return a commit_group that works four times."""
    commit_group = bank._parts.environment.commit_group
    left = iter(range(4))

    def limited(changes):
        if next(left, None) is None:
            return [Outcome(None, OSError("pulled"))] * len(changes)
        return commit_group(changes)

    return limited


# Damage


@pytest.mark.parametrize(
    "value",
    [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\x81\xa2id\x01", b"\xdf\xff\xff\xff\xff"],
)
def test_a_damaged_row_is_an_error_of_the_bank_and_leaves_others_readable(
    bank, checkpoint, graph, value
):
    other = bank.create_checkpoint({"name": "nightly"}, "local", graph)
    key = checkpoint.number.to_bytes(8, "big") + b"\0"
    bank.writer.write(lambda transaction: transaction.put(Table.CHECKPOINTS, key, value))

    with pytest.raises(BankFormatError):
        bank.checkpoint(checkpoint.id)
    assert len(bank.check()) >= 1
    assert bank.checkpoint(other.id) == other


def test_what_was_changed_and_changed_back_is_read_as_it_is(bank, checkpoint):
    checkpoint.refresh()
    checkpoint.hold("audit")
    bank.checkpoint(checkpoint.id).release_hold("audit")
    assert checkpoint.refresh().holds == ()


def test_a_hold_that_is_read_while_the_end_is_prepared_is_not_lost(bank, checkpoint, monkeypatch):
    manifests = checkpoint._parts.manifests
    prepare = type(manifests).prepare

    def held_meanwhile(*args, **options):
        bank.checkpoint(checkpoint.id).hold("audit")
        checkpoint.refresh()
        return prepare(*args, **options)

    monkeypatch.setattr(type(manifests), "prepare", held_meanwhile)
    checkpoint.finish(ERROR)
    assert bank.checkpoint(checkpoint.id).holds == ("audit",)
