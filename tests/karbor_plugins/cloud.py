"""A small cloud behind fake OpenStack clients: it has state, contents, and takes its time.

Volumes, images and servers hold bytes, so that a test sees what a restore brought back. A
status moves on by one step each time somebody looks, so polling is needed and nothing waits.
Safe from any thread.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

from cinderclient import exceptions as cinder_errors
from glanceclient import exc as glance_errors
from neutronclient.common import exceptions as neutron_errors
from novaclient import exceptions as nova_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = "the-project"
GLANCE_CHUNK = 65536
"""Bytes that glance's client yields at once."""


class Seen(dict[str, Any]):
    """What a client returns: fields as attributes, and as glance's are, as keys."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Row:
    """One thing in the cloud: its fields, and the statuses that are still to come."""

    def __init__(self, fields: dict[str, Any], coming: tuple[str, ...] = ()) -> None:
        self.fields, self.coming = fields, list(coming)

    def look(self) -> None:
        """Move the status on."""
        if self.coming:
            self.fields["status"] = self.coming.pop(0)


class Table:
    """The things of one kind.

    Args:
        cloud: What they are in.
        prefix: What the ids of new ones begin with.
        not_found: Makes the client library's error.
    """

    def __init__(self, cloud: Cloud, prefix: str, not_found: Callable[[str], Exception]) -> None:
        self._cloud, self._prefix, self._not_found = cloud, prefix, not_found
        self._numbers = itertools.count(1)
        self.rows: dict[str, Row] = {}

    def add(self, *, id: str = "", coming: tuple[str, ...] = (), **fields: Any) -> str:  # noqa: A002
        """Add one and return its id."""
        new_id = id or f"{self._prefix}-{next(self._numbers)}"
        self.rows[new_id] = Row({"id": new_id, **fields}, coming)
        return new_id

    def row(self, row_id: str) -> Row:
        """Return the row itself, or raise the client's own error."""
        if row_id not in self.rows:
            raise self._not_found(row_id)
        return self.rows[row_id]

    def get(self, row_id: str) -> Seen:
        """Return a copy, as a client would; moves the status on."""
        with self._cloud.lock:
            row = self.row(row_id)
            seen = Seen(copy.deepcopy(row.fields))
            row.look()
            if row.fields["status"] == "gone":
                del self.rows[row_id]
            return seen

    def list(self) -> list[Seen]:
        """Return copies of all."""
        with self._cloud.lock:
            return [Seen(**copy.deepcopy(row.fields)) for row in self.rows.values()]


class Cloud:
    """All services, and what tests set up and look at."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.log: list[tuple[str, str]] = []
        """What was asked for, in order: the call, and the id that it was about."""
        self.contexts: list[Any] = []
        """The context of each client that was made."""
        self.volumes = Table(self, "new-volume", lambda _: cinder_errors.NotFound(404))
        self.snapshots = Table(self, "snapshot", lambda _: cinder_errors.NotFound(404))
        self.backups = Table(self, "backup", lambda _: cinder_errors.NotFound(404))
        self.servers = Table(self, "new-server", lambda _: nova_errors.NotFound(404))
        self.images = Table(self, "new-image", lambda _: glance_errors.HTTPNotFound())
        self.networks = Table(self, "new-network", lambda _: neutron_errors.NotFound())
        self.subnets = Table(self, "new-subnet", lambda _: neutron_errors.NotFound())
        self.failing_backups: dict[str, str] = {}
        """Why the backup of a volume will fail, by the volume's id."""
        self.failing_lists: set[str] = set()
        """Services that cannot list."""
        self.server_ends_as = "ACTIVE"
        """What a new server's status comes to."""
        self.clients = {
            "cinder": Cinder(self),
            "nova": Nova(self),
            "glance": Glance(self),
            "neutron": Neutron(self),
        }

    def create_client(self, service: str, context: Any, **_: Any) -> Any:
        """Stand in for ``ClientFactory.create_client``."""
        with self.lock:
            self.contexts.append(context)
        return self.clients[service]

    def note(self, call: str, about: str) -> None:
        """Add to the log."""
        with self.lock:
            self.log.append((call, about))

    def place(self, call: str, about: str) -> int:
        """Return where a call stands in the log."""
        return self.log.index((call, about))

    def add_volume(self, name: str, content: bytes, bootable: str = "false") -> str:
        """Add a volume that nothing uses, and return its id."""
        return self.volumes.add(
            id=name, name=f"the {name}", status="available", size=1, content=content,
            bootable=bootable, attachments=[], availability_zone="zone-1",
        )  # fmt: skip

    def add_image(self, name: str, content: bytes) -> str:
        """Add an image and return its id."""
        return self.images.add(
            id=name, name=f"the {name}", status="active", owner=PROJECT, content=content,
            checksum=hashlib.md5(content).hexdigest(), disk_format="qcow2",
            container_format="bare",
        )  # fmt: skip

    def add_network(self) -> None:
        """Add a network with a subnet."""
        self.networks.add(
            id="a-network", name="shop", status="ACTIVE", shared=False, admin_state_up=True,
            port_security_enabled=True, **{"router:external": False},
        )  # fmt: skip
        self.subnets.add(
            id="a-subnet", name="shop floor", status="", network_id="a-network", ip_version=4,
            cidr="10.0.0.0/24", allocation_pools=[], dns_nameservers=[], enable_dhcp=True,
            gateway_ip="10.0.0.1", host_routes=[], tenant_id=PROJECT,
        )  # fmt: skip

    def add_server(
        self, name: str, *, image: str | None = None, volumes: tuple[str, ...] = ()
    ) -> str:
        """Add a running server with *volumes* attached, and return its id."""
        addresses = [
            {"addr": "10.0.0.5", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:05",
             "OS-EXT-IPS:type": "fixed"},
            {"addr": "192.0.2.5", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:05",
             "OS-EXT-IPS:type": "floating"},
        ]  # fmt: skip
        fields = {
            "OS-EXT-AZ:availability_zone": "zone-1",
            "os-extended-volumes:volumes_attached": [{"id": volume} for volume in volumes],
            "image": {"id": image} if image else "",
        }
        self.servers.add(
            id=name, name=f"the {name}", status="ACTIVE", addresses={"net": addresses},
            flavor={"id": "m1.small"}, key_name="a-key",
            security_groups=[{"name": "default"}], **fields,
        )  # fmt: skip
        for number, volume in enumerate(volumes):
            self.attach(name, volume, f"/dev/vd{'abcdef'[number]}")
        return name

    def attach(self, server: str, volume: str, device: str, *coming: str) -> None:
        """Attach a volume; its status goes through *coming* first."""
        row = self.volumes.row(volume)
        statuses = [*coming, "in-use"]
        row.fields["attachments"] = [{"server_id": server, "device": device}]
        row.fields["status"], row.coming = statuses[0], statuses[1:]

    def volumes_of(self, server: str) -> dict[str, bytes]:
        """Return the contents of the volumes attached to a server, by device."""
        return {
            attachment["device"]: volume.content
            for volume in self.volumes.list()
            for attachment in volume.attachments
            if attachment["server_id"] == server
        }


class Cinder:
    """The parts of cinder's client that Karbor calls."""

    def __init__(self, cloud: Cloud) -> None:
        self.volumes = CinderVolumes(cloud)
        self.volume_snapshots = CinderSnapshots(cloud)
        self.backups = CinderBackups(cloud)
        self.restores = CinderRestores(cloud)


class CinderVolumes:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.get = cloud.volumes.get

    def list(self, *, detailed: bool) -> list[Seen]:
        if "cinder" in self._cloud.failing_lists:
            raise cinder_errors.ClientException(503, "cinder is being upgraded")
        return self._cloud.volumes.list()

    def create(self, size: int, *, snapshot_id: str, name: str, description: str | None) -> Seen:
        with self._cloud.lock:
            content = self._cloud.snapshots.row(snapshot_id).fields["content"]
            return Seen(id=new_volume(self._cloud, content, size, name, "creating"))

    def update(self, volume_id: str, **fields: Any) -> None:
        with self._cloud.lock:
            self._cloud.volumes.row(volume_id).fields.update(fields)


def new_volume(cloud: Cloud, content: bytes, size: int, name: str, *coming: str) -> str:
    """Make a volume of something's content; its status goes through *coming* first."""
    volume_id = cloud.volumes.add(
        name=name, status=coming[0], coming=(*coming[1:], "available"), size=size,
        content=content, bootable="false", attachments=[], availability_zone="zone-1",
    )  # fmt: skip
    cloud.note("create volume", volume_id)
    return volume_id


class CinderSnapshots:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.get = cloud.snapshots.get

    def create(self, volume_id: str, *, force: bool, **names: Any) -> Seen:
        with self._cloud.lock:
            volume = self._cloud.volumes.row(volume_id).fields
            if volume["status"] == "in-use" and not force:
                raise cinder_errors.BadRequest(400, "the volume is in use")
            snapshot_id = self._cloud.snapshots.add(
                status="creating", coming=("creating", "available"),
                volume_id=volume_id, content=volume["content"], **names,
            )  # fmt: skip
            self._cloud.note("snapshot", volume_id)
            return Seen(id=snapshot_id)

    def delete(self, snapshot: Any) -> None:
        with self._cloud.lock:
            row = self._cloud.snapshots.row(getattr(snapshot, "id", snapshot))
            row.fields["status"], row.coming = "deleting", ["deleting", "gone"]
            self._cloud.note("delete snapshot", row.fields["volume_id"])


class CinderBackups:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.get = cloud.backups.get

    def create(self, *, volume_id: str, snapshot_id: str | None, **options: Any) -> Seen:
        with self._cloud.lock:
            table, row_id = self._cloud.volumes, volume_id
            is_in_use = table.row(volume_id).fields["status"] == "in-use"
            if snapshot_id is None and is_in_use and not options["force"]:
                raise cinder_errors.BadRequest(400, "the volume is in use")
            if snapshot_id is not None:
                table, row_id = self._cloud.snapshots, snapshot_id
            reason = self._cloud.failing_backups.get(volume_id)
            backup_id = self._cloud.backups.add(
                status="creating", coming=("creating", "error" if reason else "available"),
                volume_id=volume_id, content=table.row(row_id).fields["content"],
                from_snapshot=snapshot_id is not None, fail_reason=reason, options=options,
            )  # fmt: skip
            self._cloud.note("backup", volume_id)
            return Seen(id=backup_id)

    def delete(self, backup: Seen) -> None:
        with self._cloud.lock:
            row = self._cloud.backups.row(backup.id)
            row.fields["status"], row.coming = "deleting", ["deleting", "gone"]
            self._cloud.note("delete backup", row.fields["volume_id"])


class CinderRestores:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def restore(self, backup_id: str) -> Seen:
        with self._cloud.lock:
            content = self._cloud.backups.row(backup_id).fields["content"]
            volume_id = new_volume(
                self._cloud, content, 1, "nameless", "creating", "restoring-backup"
            )
            return Seen(volume_id=volume_id)


class Nova:
    """The parts of nova's client that Karbor calls."""

    def __init__(self, cloud: Cloud) -> None:
        self.servers = NovaServers(cloud)
        self.volumes = NovaVolumes(cloud)


class NovaServers:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.get = cloud.servers.get

    def list(self, *, detailed: bool) -> list[Seen]:
        return self._cloud.servers.list()

    def create(self, **properties: Any) -> Seen:
        with self._cloud.lock:
            if properties["image"] is not None:
                self._cloud.images.row(properties["image"])
            server_id = self._cloud.servers.add(
                status="BUILD", coming=("BUILD", self._cloud.server_ends_as),
                floating_ips=[], **properties,
            )  # fmt: skip
            for device in properties.get("block_device_mapping_v2", ()):
                self._cloud.attach(server_id, device["uuid"], "/dev/vda")
            self._cloud.note("create server", server_id)
            return Seen(id=server_id)

    def add_floating_ip(self, server: Seen, address: str) -> None:
        with self._cloud.lock:
            self._cloud.servers.row(server.id).fields["floating_ips"].append(address)


class NovaVolumes:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def create_server_volume(self, *, server_id: str, volume_id: str, device: str) -> None:
        with self._cloud.lock:
            if self._cloud.servers.row(server_id).fields["status"] != "ACTIVE":
                raise nova_errors.Conflict(409, "the server is not active")
            if self._cloud.volumes.row(volume_id).fields["status"] != "available":
                raise nova_errors.BadRequest(400, "the volume is not available")
            self._cloud.attach(server_id, volume_id, device, "attaching", "attaching")
            self._cloud.note("attach", volume_id)


class Glance:
    """The parts of glance's client that Karbor calls."""

    def __init__(self, cloud: Cloud) -> None:
        self.images = GlanceImages(cloud)


class GlanceImages:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.get, self.list = cloud.images.get, cloud.images.list

    def data(self, image_id: str, *, do_checksum: bool) -> Iterator[bytes]:
        content = self._cloud.images.row(image_id).fields["content"]
        for start in range(0, len(content), GLANCE_CHUNK):
            yield content[start : start + GLANCE_CHUNK]

    def create(self, **fields: Any) -> Seen:
        with self._cloud.lock:
            return Seen(id=self._cloud.images.add(status="queued", **fields))

    def upload(self, image_id: str, data: Any) -> None:
        content = b"".join(iter(data.read, ""))
        with self._cloud.lock:
            row = self._cloud.images.row(image_id)
            row.fields |= {"content": content, "checksum": hashlib.md5(content).hexdigest()}
            row.fields["status"], row.coming = "saving", ["saving", "active"]
            self._cloud.note("upload", image_id)

    def delete(self, image_id: str) -> None:
        with self._cloud.lock:
            del self._cloud.images.rows[image_id]


class Neutron:
    """The parts of neutron's client that Karbor calls for a network without routers."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def list_ports(self, *, mac_address: str = "", project_id: str = "") -> dict[str, Any]:
        """Return the port of a server, or those of a project: none."""
        if project_id:
            return {"ports": []}
        return {"ports": [{"mac_address": mac_address, "network_id": "a-network"}]}

    def list_networks(self, *, project_id: str) -> dict[str, Any]:
        return {"networks": self._cloud.networks.list()}

    def list_subnets(self, *, project_id: str) -> dict[str, Any]:
        return {"subnets": self._cloud.subnets.list()}

    def list_routers(self, *, project_id: str) -> dict[str, Any]:
        return {"routers": []}

    def list_security_groups(self, *, project_id: str) -> dict[str, Any]:
        return {"security_groups": []}

    def create_network(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._cloud.lock:
            network = self._cloud.networks.add(
                status="BUILD", coming=("ACTIVE",), **body["network"]
            )
            return {"network": {"id": network}}

    def show_network(self, network_id: str) -> dict[str, Any]:
        return {"network": self._cloud.networks.get(network_id)}

    def create_subnet(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._cloud.lock:
            return {"subnet": {"id": self._cloud.subnets.add(status="", **body["subnet"])}}
