"""Karbor's Nova, Cinder and Glance classes, as they are, on the engine and a real bank."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import DEADLINE
from karbor_actors import CheckpointStatus, OperationError, ResourceStatus
from karbor_actors.errors import (
    CheckpointNotFoundError,
    ListingError,
    ParametersError,
    PartialOperationError,
)
from karbor_plugins.karbor_side import IMAGE, SERVER, VOLUME, context, plan

PICTURE = bytes(range(256)) * 6000
"""An image's content: more than two of the objects into which Karbor cuts it."""


@pytest.fixture
def shop(cloud: Any) -> Any:
    """Return a cloud with a server that has an image and two volumes."""
    cloud.add_image("image", PICTURE)
    cloud.add_volume("rows", b"rows of a table")
    cloud.add_volume("logs", b"lines of a log")
    cloud.add_volume("unrelated", b"somebody else's")
    cloud.add_server("server", image="image", volumes=("rows", "logs"))
    return cloud


def protect(service: Any, *servers: str, **kwargs: Any) -> Any:
    return service.protect(plan(*(servers or ("server",))), context=context(), **kwargs).result(
        DEADLINE
    )


def restore(service: Any, checkpoint: Any, **kwargs: Any) -> Any:
    return service.restore(checkpoint.id, context=context(), **kwargs).result(DEADLINE)


def verify(service: Any, checkpoint: Any) -> Any:
    return service.verify(checkpoint.id, context=context()).result(DEADLINE)


def section(checkpoint: Any, resource_id: str) -> dict[str, Any]:
    """Return the records that a resource has in its section."""
    found = checkpoint.get_resource_bank_section(resource_id)
    return {key: found.get_object(key) for key in found.list_objects()}


# Protect.


def test_the_protectable_plugins_find_what_a_server_depends_on(service, shop):
    (root,) = protect(service).resource_graph

    assert root.value.key == (SERVER, "server")
    assert {node.value.key for node in root.child_nodes} == {
        (VOLUME, "rows"),
        (VOLUME, "logs"),
        (IMAGE, "image"),
    }
    infos = {node.value.id: node.value.extra_info for node in root.child_nodes}
    assert infos["rows"] == {"availability_zone": "zone-1"}


def test_protect_writes_what_karbor_wrote(service, shop):
    checkpoint = protect(service)

    assert checkpoint.status is CheckpointStatus.AVAILABLE
    server = section(checkpoint, "server")
    assert server["status"] == "available"
    assert server["metadata"]["boot_metadata"] == {
        "boot_device_type": "image",
        "boot_image_id": "image",
    }
    assert server["metadata"]["attach_metadata"] == {
        "rows": {"server_id": "server", "device": "/dev/vda", "bootable": "false"},
        "logs": {"server_id": "server", "device": "/dev/vdb", "bootable": "false"},
    }
    assert server["metadata"]["server_metadata"]["networks"] == ["a-network"]
    for volume in ("rows", "logs"):
        records = section(checkpoint, volume)
        backup = shop.backups.row(records["metadata"]["backup_id"]).fields
        assert records["status"] == backup["status"] == "available"
        assert backup["content"] == shop.volumes.row(volume).fields["content"]
    image = section(checkpoint, "image")
    assert image.pop("metadata")["chunks_num"] == 3
    assert image.pop("status") == "available"
    assert b"".join(image[key] for key in sorted(image)) == PICTURE


def test_cinders_snapshot_is_of_its_prepare_hook_and_the_backup_of_its_main_hook(service, shop):
    protect(service)

    for volume in ("rows", "logs"):
        # One Operation object serves both hooks: the snapshot's id stays in its attribute.
        backups = [row.fields for row in shop.backups.rows.values()]
        assert [b["from_snapshot"] for b in backups if b["volume_id"] == volume] == [True]
        order = [shop.place(call, volume) for call in ("snapshot", "backup", "delete snapshot")]
        assert order == sorted(order)
    assert not shop.snapshots.rows


def test_the_empty_hooks_of_karbors_base_class_are_not_run(service, shop):
    planned = service.plan_operation("protect", plan("server"), context=context())
    waves = [{(str(p.hook), p.resource[1]) for p in wave} for wave in planned.waves()]

    mains = {("on_main", name) for name in ("server", "rows", "logs", "image")}
    snapshots = {("on_prepare_finish", "rows"), ("on_prepare_finish", "logs")}
    assert set.union(*waves) == mains | snapshots
    assert waves[0] >= snapshots
    assert ("on_main", "rows") in waves[1]


def test_parameters_go_by_the_schemas_of_the_plugins(service, shop):
    parameters = {VOLUME: {"force": True}, f"{VOLUME}#rows": {"backup_name": "nightly"}}
    protect(service, parameters=parameters)

    options = {row.fields["volume_id"]: row.fields["options"] for row in shop.backups.rows.values()}
    assert options["rows"]["name"] == "nightly"
    assert options["logs"]["name"] is None
    assert options["rows"]["force"] is options["logs"]["force"] is True


@pytest.mark.parametrize("field", [{"backup_mode": "partial"}, {"force": "yes"}, {"colour": "red"}])
def test_parameters_that_do_not_fit_are_refused_before_anything_runs(service, shop, field):
    with pytest.raises(ParametersError, match="Volume"):
        protect(service, parameters={VOLUME: field})

    assert not shop.log
    assert not list(service.provider("karbor").bank.checkpoints())


def test_hooks_get_the_callers_context(service, shop):
    protect(service)

    assert {found.project_id for found in shop.contexts} == {"the-project"}


def test_a_cloud_that_cannot_list_volumes_makes_no_checkpoint_without_them(service, shop):
    shop.failing_lists.add("cinder")
    with pytest.raises(ListingError, match="cinder is being upgraded"):
        protect(service)

    assert not list(service.provider("karbor").bank.checkpoints())


def test_two_servers_may_share_an_image(service, shop):
    shop.add_server("other", image="image")
    checkpoint = protect(service, "server", "other")
    restored = restore(service, checkpoint).new_resources

    assert len(checkpoint.resource_graph) == 5
    new_servers = [shop.servers.get(restored[SERVER, name]) for name in ("server", "other")]
    assert {server.image for server in new_servers} == {restored[IMAGE, "image"]}


# Protect that fails.


def test_a_failing_backup_ends_in_an_error_that_has_karbors_sentence(service, shop):
    shop.failing_backups["logs"] = "the backup target is full"
    handle = service.protect(plan("server"), context=context())
    with pytest.raises(OperationError, match="the backup target is full"):
        handle.result(DEADLINE)

    (checkpoint,) = service.provider("karbor").bank.checkpoints()
    assert checkpoint.status is CheckpointStatus.ERROR
    (error,) = checkpoint.error_info
    sentence = (
        "Create Volume Backup failed: the backup target is full, id=logs, type=OS::Cinder::Volume"
    )
    assert sentence in error["message"]
    assert (error["resource"], error["hook"]) == ([VOLUME, "logs"], "on_main")
    assert section(checkpoint, "logs")["status"] == "error"
    (record,) = service.operation_history("karbor")
    assert sentence in record.error_info[0]["message"]


def test_what_cinders_class_cannot_delete_can_be_purged_from_the_bank(service, shop):
    shop.failing_backups["logs"] = "the backup target is full"
    with pytest.raises(OperationError):
        protect(service)
    (checkpoint,) = service.provider("karbor").bank.checkpoints()

    # Cinder's delete looks for the backup's id, which its protect does not keep when it fails.
    with pytest.raises(OperationError, match="Delete Volume Backup failed"):
        service.delete(checkpoint.id, context=context()).result(DEADLINE)
    assert checkpoint.refresh().status is CheckpointStatus.ERROR_DELETING
    checkpoint.begin_delete()
    checkpoint.purge()
    assert not list(service.provider("karbor").bank.checkpoints())


def test_isolate_finishes_the_other_server(service, shop):
    shop.add_volume("more", b"more rows")
    shop.add_server("other", image="image", volumes=("more",))
    shop.failing_backups["rows"] = "the backup target is full"
    with pytest.raises(PartialOperationError) as caught:
        protect(service, "server", "other", on_failure="isolate")

    checkpoint: Any = caught.value.checkpoint
    statuses = {key[1]: status for key, status in checkpoint.resource_statuses().items()}
    for lost in ("rows", "server"):  # the server is no better than its volume
        assert statuses[lost] is not ResourceStatus.AVAILABLE
    assert {statuses[name] for name in ("other", "more", "image")} == {ResourceStatus.AVAILABLE}
    result = restore(service, checkpoint, allow_partial=True, on_failure="isolate")
    assert shop.volumes_of(result.new_resources[SERVER, "other"]) == {"/dev/vda": b"more rows"}
    assert (SERVER, "server") not in result.new_resources
    assert result.resources[SERVER, "server"] is not ResourceStatus.AVAILABLE


# Restore.


def test_the_restored_server_has_its_restored_volumes_and_image(service, shop):
    checkpoint = protect(service)
    for table in (shop.volumes, shop.images):
        for row in table.rows.values():
            row.fields["content"] = b"overwritten since"
    result = restore(service, checkpoint)

    new = result.new_resources
    assert set(new) == {(SERVER, "server"), (VOLUME, "rows"), (VOLUME, "logs"), (IMAGE, "image")}
    assert set(result.resources.values()) == {ResourceStatus.AVAILABLE}
    server = shop.servers.get(new[SERVER, "server"])
    assert (server.id != "server", server.status) == (True, "ACTIVE")
    assert shop.volumes_of(server.id) == {
        "/dev/vda": b"rows of a table",
        "/dev/vdb": b"lines of a log",
    }
    assert server.image == new[IMAGE, "image"]
    assert shop.images.get(server.image).content == PICTURE
    assert (server.flavor, server.nics) == ("m1.small", [{"net-id": "a-network"}])
    assert server.floating_ips == ["192.0.2.5"]
    assert shop.volumes.get(new[VOLUME, "rows"]).name == f"{checkpoint.id}@rows"


def test_restore_makes_the_server_once_its_volumes_and_image_are_complete(service, shop):
    new = restore(service, protect(service)).new_resources

    created = shop.place("create server", new[SERVER, "server"])
    for volume in ("rows", "logs"):
        assert shop.place("create volume", new[VOLUME, volume]) < created
        assert created < shop.place("attach", new[VOLUME, volume])
    assert shop.place("upload", new[IMAGE, "image"]) < created


def test_restore_takes_parameters(service, shop):
    parameters = {
        SERVER: {"restore_name": "web 2", "restore_flavor_id": "m1.large"},
        f"{VOLUME}#rows": {"restore_name": "rows 2"},
    }
    new = restore(service, protect(service), parameters=parameters).new_resources

    server = shop.servers.get(new[SERVER, "server"])
    assert (server.name, server.flavor) == ("web 2", "m1.large")
    assert shop.volumes.get(new[VOLUME, "rows"]).name == "rows 2"


def test_a_server_that_boots_from_a_volume_boots_from_the_restored_one(service, cloud):
    cloud.add_volume("boot", b"a system", bootable="true")
    cloud.add_volume("rows", b"rows of a table")
    cloud.add_server("server", volumes=("boot", "rows"))
    new = restore(service, protect(service)).new_resources

    server = cloud.servers.get(new[SERVER, "server"])
    assert server.image is None
    assert server.block_device_mapping_v2[0]["uuid"] == new[VOLUME, "boot"]
    assert cloud.volumes_of(server.id) == {"/dev/vda": b"a system", "/dev/vdb": b"rows of a table"}


def test_a_restore_that_fails_says_why_in_karbors_words(service, shop):
    checkpoint = protect(service)
    shop.server_ends_as = "ERROR"
    with pytest.raises(OperationError, match="The server does not start successfully, id=server"):
        restore(service, checkpoint)

    assert checkpoint.refresh().status is CheckpointStatus.AVAILABLE
    shop.server_ends_as = "ACTIVE"
    assert len(restore(service, checkpoint).new_resources) == 4


# Verify and delete.


def test_verify_asks_every_plugin(service, shop):
    result = verify(service, protect(service))

    assert len(result.resources) == 4
    assert set(result.resources.values()) == {ResourceStatus.VERIFIED}


def test_verify_finds_that_a_backup_is_gone_from_cinder(service, shop):
    checkpoint = protect(service)
    del shop.backups.rows[section(checkpoint, "rows")["metadata"]["backup_id"]]
    with pytest.raises(OperationError) as caught:
        verify(service, checkpoint)

    assert "on_main of OS::Cinder::Volume#rows failed: NotFound" in str(caught.value)
    with pytest.raises(OperationError, match="#rows failed"):
        restore(service, checkpoint)


def test_verify_finds_that_a_backup_is_broken(service, shop):
    checkpoint = protect(service)
    backup = shop.backups.row(section(checkpoint, "rows")["metadata"]["backup_id"])
    backup.fields["status"] = "error_restoring"
    with pytest.raises(OperationError, match="The status of volume backup status is error_rest"):
        verify(service, checkpoint)


def test_delete_deletes_the_backups_and_the_checkpoint(service, shop):
    first, second = protect(service), protect(service)
    kept = {section(second, name)["metadata"]["backup_id"] for name in ("rows", "logs")}
    service.delete(first.id, context=context()).result(DEADLINE)

    assert set(shop.backups.rows) == kept
    with pytest.raises(CheckpointNotFoundError):
        service.provider("karbor").bank.checkpoint(first.id)
    assert set(verify(service, second).resources.values()) == {ResourceStatus.VERIFIED}


def test_delete_bears_that_a_backup_is_gone_already(service, shop):
    checkpoint = protect(service)
    shop.backups.rows.clear()
    service.delete(checkpoint.id, context=context()).result(DEADLINE)

    assert not list(service.provider("karbor").bank.checkpoints())
