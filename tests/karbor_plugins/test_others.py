"""More of Karbor's classes, as they are: Cinder's options, volume snapshots, no-ops, protectables."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors import CheckpointStatus, OperationError, Plan, Resource, ResourceStatus
from karbor_plugins.karbor_side import (
    NETWORK,
    SERVER,
    VOLUME,
    CinderBackupProtectionPlugin,
    NeutronProtectionPlugin,
    NoopProtectionPlugin,
    VolumeSnapshotProtectionPlugin,
    context,
    make_plugin,
    make_service,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VOLUMES = Plan("disks", "karbor", [Resource(VOLUME, "disk", "the disk")])


@contextmanager
def service_of(directory: Path, *plugins: Any) -> Iterator[Any]:
    """Yield a service with these plugins only."""
    yield from make_service(directory, *plugins)


def run(handle: Any) -> Any:
    return handle.result(DEADLINE)


@pytest.fixture
def disk(cloud: Any) -> Any:
    """Return a cloud with a volume that a server uses."""
    cloud.add_volume("disk", b"rows of a table")
    cloud.add_server("server", volumes=("disk",))
    return cloud


def test_cinder_without_snapshots_backs_up_the_volume_itself(tmp_path, disk):
    plugin = make_plugin(CinderBackupProtectionPlugin, backup_from_snapshot=False)
    with service_of(tmp_path / "bank", plugin) as service:
        with pytest.raises(OperationError, match=r"the volume is in use .*id=disk"):
            run(service.protect(VOLUMES, context=context()))
        run(service.protect(VOLUMES, context=context(), parameters={VOLUME: {"force": True}}))

    assert not disk.snapshots.rows
    assert [row.fields["from_snapshot"] for row in disk.backups.rows.values()] == [False]


def test_volume_snapshots_are_made_verified_restored_and_deleted(tmp_path, disk):
    parameters = {VOLUME: {"snapshot_name": "before the upgrade", "force": True}}
    with service_of(tmp_path / "bank", make_plugin(VolumeSnapshotProtectionPlugin)) as service:
        checkpoint = run(service.protect(VOLUMES, context=context(), parameters=parameters))
        (snapshot,) = disk.snapshots.list()
        assert (snapshot.name, snapshot.content) == ("before the upgrade", b"rows of a table")
        found = run(service.verify(checkpoint.id, context=context()))
        assert found.resources == {(VOLUME, "disk"): ResourceStatus.VERIFIED}

        result = run(service.restore(checkpoint.id, context=context()))
        assert result.new_resources == {}  # this class of Karbor's never says what it made
        (made,) = [volume for volume in disk.volumes.list() if volume.id != "disk"]
        assert made.content == b"rows of a table"
        assert made.name == f"volume-{checkpoint.id}@disk"

        run(service.delete(checkpoint.id, context=context()))
    assert not disk.snapshots.rows


def test_a_network_is_restored_with_its_subnet_by_their_names(tmp_path, cloud):
    cloud.add_network()
    with service_of(tmp_path / "bank", make_plugin(NeutronProtectionPlugin)) as service:
        protectables = service.provider("karbor").protectables.for_context(context())
        (topology,) = protectables.list_resources(context(), NETWORK)
        assert topology.id == "the-project"
        plan = Plan("networks", "karbor", [topology])
        checkpoint = run(service.protect(plan, context=context()))
        found = run(service.verify(checkpoint.id, context=context()))
        assert found.resources == {topology.key: ResourceStatus.VERIFIED}

        new = run(service.restore(checkpoint.id, context=context())).new_resources
        assert set(new) == {(NETWORK, "shop"), (NETWORK, "shop floor")}
        subnet = cloud.subnets.get(new[NETWORK, "shop floor"])
        assert (subnet.cidr, subnet.network_id) == ("10.0.0.0/24", new[NETWORK, "shop"])


def test_a_plugin_that_verifies_and_copies_nothing_is_no_error(tmp_path, disk):
    disk.add_image("image", b"a system")
    disk.add_server("other", image="image")
    plan = Plan("all", "karbor", [Resource(SERVER, "server"), Resource(SERVER, "other")])
    with service_of(tmp_path / "bank", make_plugin(NoopProtectionPlugin)) as service:
        checkpoint = run(service.protect(plan, context=context()))
        assert checkpoint.status is CheckpointStatus.AVAILABLE
        assert len(checkpoint.resource_graph) == 4
        with pytest.raises(OperationError, match="nothing was verified"):
            run(service.verify(checkpoint.id, context=context()))
        run(service.delete(checkpoint.id, context=context()))


def test_the_protectable_plugins_list_and_show(tmp_path, disk):
    disk.add_volume("broken", b"")
    disk.volumes.row("broken").fields["status"] = "error"
    with service_of(tmp_path / "bank") as service:
        protectables = service.provider("karbor").protectables.for_context(context())

        assert [r.key for r in protectables.list_resources(context(), VOLUME)] == [(VOLUME, "disk")]
        shown = protectables.show_resource(context(), SERVER, "server")
        assert shown == Resource(SERVER, "server", "the server")
