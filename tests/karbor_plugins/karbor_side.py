"""Karbor's classes, made as Karbor makes them; the only module here that imports Karbor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from karbor.services.protection.client_factory import ClientFactory
from karbor.services.protection.protectable_plugins.image import ImageProtectablePlugin
from karbor.services.protection.protectable_plugins.network import NetworkProtectablePlugin
from karbor.services.protection.protectable_plugins.server import ServerProtectablePlugin
from karbor.services.protection.protectable_plugins.volume import VolumeProtectablePlugin
from karbor.services.protection.protection_plugins.image.image_protection_plugin import (
    GlanceProtectionPlugin,
)
from karbor.services.protection.protection_plugins.network.neutron_protection_plugin import (
    NeutronProtectionPlugin,
)
from karbor.services.protection.protection_plugins.noop_plugin import NoopProtectionPlugin
from karbor.services.protection.protection_plugins.server.nova_protection_plugin import (
    NovaProtectionPlugin,
)
from karbor.services.protection.protection_plugins.volume.cinder_protection_plugin import (
    CinderBackupProtectionPlugin,
)
from karbor.services.protection.protection_plugins.volume.volume_snapshot_plugin import (
    VolumeSnapshotProtectionPlugin,
)
from oslo_config import cfg
from oslo_context.context import RequestContext

from karbor_actors import Bank, Plan, ProtectionService, Provider, Resource
from karbor_plugins.cloud import PROJECT, Cloud

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

SERVER, VOLUME, IMAGE = "OS::Nova::Server", "OS::Cinder::Volume", "OS::Glance::Image"
NETWORK = "OS::Neutron::Network"
PROTECTABLES = (
    ServerProtectablePlugin,
    VolumeProtectablePlugin,
    ImageProtectablePlugin,
    NetworkProtectablePlugin,
)
_GROUPS = {
    NovaProtectionPlugin: "nova_backup_protection_plugin",
    CinderBackupProtectionPlugin: "cinder_backup_protection_plugin",
    GlanceProtectionPlugin: "image_backup_plugin",
    VolumeSnapshotProtectionPlugin: "volume_snapshot_plugin",
    NeutronProtectionPlugin: "neutron_backup_protection_plugin",
}


def make_cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Return an empty cloud, with Karbor's clients replaced by its own."""
    cloud = Cloud()
    monkeypatch.setattr(ClientFactory, "create_client", cloud.create_client)
    return cloud


def make_plugin(plugin_class: type[Any], **options: Any) -> Any:
    """Return a plugin of Karbor's with a configuration that polls without pausing."""
    config = cfg.ConfigOpts()
    config([])
    if plugin_class not in _GROUPS:
        return plugin_class(config)
    plugin_class(config)  # registers its options
    group = _GROUPS[plugin_class]
    for name, value in ({"poll_interval": 0} | options).items():
        config.set_override(name, value, group)
    return plugin_class(config)


def make_service(directory: Path, *plugins: Any) -> Iterator[ProtectionService]:
    """Yield a service with Karbor's plugins, the server, volume and image ones if none is given."""
    plugins = plugins or (
        make_plugin(NovaProtectionPlugin),
        make_plugin(CinderBackupProtectionPlugin),
        make_plugin(GlanceProtectionPlugin, enable_server_snapshot=False),
    )
    with ProtectionService(workers=8) as service:
        service.add_provider(
            Provider(
                "karbor",
                bank=Bank.open(directory),
                protection_plugins=plugins,
                protectables=PROTECTABLES,
            )
        )
        yield service


def context() -> RequestContext:
    """Return a request's context: Karbor's is this class with its database beside it."""
    return RequestContext(
        user_id="a-user", project_id=PROJECT, project_name="a project", overwrite=False
    )


def plan(*servers: str, **kwargs: Any) -> Plan:
    """Return a plan of servers: what depends on them is for the protectable plugins to find."""
    return Plan("web shop", "karbor", [Resource(SERVER, s, f"the {s}") for s in servers], **kwargs)


__all__ = [
    "IMAGE",
    "NETWORK",
    "SERVER",
    "VOLUME",
    "CinderBackupProtectionPlugin",
    "GlanceProtectionPlugin",
    "NeutronProtectionPlugin",
    "NoopProtectionPlugin",
    "NovaProtectionPlugin",
    "VolumeSnapshotProtectionPlugin",
    "context",
    "make_plugin",
    "make_service",
    "plan",
]
