"""What ``import karbor_actors`` gives, and what an installed distribution registers."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points, files, version

import pytest

import karbor_actors
from karbor_actors.plugins import PROTECTABLE_GROUP, PROTECTION_GROUP, load_plugin

PROMISED = {
    "Bank",
    "Checkpoint",
    "HookName",
    "Operation",
    "OperationHandle",
    "OperationType",
    "Plan",
    "ProtectablePlugin",
    "ProtectionPlugin",
    "ProtectionService",
    "Provider",
    "Resource",
    "RetryPolicy",
}
"""The names that the documents promise to keep."""

PACKAGES = [
    "karbor_actors",
    *(
        module.name
        for module in pkgutil.walk_packages(karbor_actors.__path__, "karbor_actors.")
        if module.ispkg
    ),
]


def test_the_promised_names_are_exported():
    assert set(karbor_actors.__all__) >= PROMISED


@pytest.mark.parametrize("name", PACKAGES)
def test_all_agrees_with_the_names(name):
    package = importlib.import_module(name)
    submodules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    public = {key for key in vars(package) if not key.startswith(("_", "@"))}  # @: pytest's own
    names = public - submodules - {"annotations", "TYPE_CHECKING"}
    listed = getattr(package, "__all__", [])  # the linter (RUF022) looks after its order

    assert len(set(listed)) == len(listed)
    assert names == set(listed) - submodules


@pytest.mark.parametrize("group", [PROTECTION_GROUP, PROTECTABLE_GROUP])
@pytest.mark.parametrize("name", ["filesystem", "sqlite"])
def test_the_plugins_are_found_by_entry_point(group, name):
    if not entry_points(group=group):
        pytest.skip("karbor-actors is not installed here; tox runs this on the built wheel")

    assert isinstance(load_plugin(group, name), type)


@pytest.mark.parametrize("package", ["karbor_actors", "karbor_filesystem", "karbor_sqlite"])
def test_the_types_of_every_package_ship(package):
    if not entry_points(group=PROTECTION_GROUP):
        pytest.skip("karbor-actors is not installed here; tox runs this on the built wheel")
    shipped = {str(file) for file in files("karbor-actors") or ()}

    assert f"{package}/py.typed" in shipped
    assert version("karbor-actors")
