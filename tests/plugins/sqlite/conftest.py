"""Drives the plugin's hooks against a real bank, without an engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from karbor_actors import Bank, Resource
from karbor_actors.errors import HookCancelledError
from karbor_actors.graph import build_graph
from karbor_sqlite import DatabaseProtectable, DatabaseProtection
from plugins.hooks import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from karbor_actors import Checkpoint

DEFAULTS = {
    "protect": {"check": "quick", "busy_timeout": 30.0, "scratch": None},
    "verify": {"foreign_keys": False, "scratch": None},
    "restore": {"target": None, "overwrite": False},
}


class Context:
    """A hook's context, with the same calls as the engine's."""

    def __init__(self, on_progress: Callable[[], None] = lambda: None):
        self.state = State()
        self.log = logging.getLogger("karbor_actors.hooks")
        self.cancelled = False
        self.reports: list[tuple[float, float, str]] = []
        self._on_progress = on_progress

    def progress(self, done, total=None, unit=""):
        self.reports.append((done, total, unit))
        self._on_progress()

    def report_consistency(self, level, cause=""):
        self.consistency = level, cause

    def check_cancelled(self):
        if self.cancelled:
            raise HookCancelledError


class Driver:
    """Runs the plugin's hooks for one database at a time."""

    def __init__(self, bank: Bank, scratch: Path):
        self._bank, self.scratch = bank, scratch
        self.plugin = DatabaseProtection()

    def find(self, directory) -> list[Resource]:
        parent = Resource("FileSystem::Directory", str(directory))
        return list(DatabaseProtectable().get_dependent_resources(None, parent))

    def new_checkpoint(self, resource) -> Checkpoint:
        plan = {"name": "test", "provider": "local", "resources": [resource.to_dict()]}
        return self._bank.create_checkpoint(plan, "local", build_graph([resource], lambda _: ()))

    def parameters(self, verb, given):
        scratch = {"scratch": str(self.scratch)} if "scratch" in DEFAULTS[verb] else {}
        return DEFAULTS[verb] | scratch | given

    def protect(self, resource, context=None, **parameters) -> Checkpoint:
        checkpoint = self.new_checkpoint(resource)
        self.plugin.get_protect_operation(resource).on_main(
            checkpoint, resource, context or Context(), self.parameters("protect", parameters)
        )
        return checkpoint

    def verify(self, checkpoint, resource, context=None, **parameters):
        self.plugin.get_verify_operation(resource).on_main(
            checkpoint, resource, context or Context(), self.parameters("verify", parameters)
        )

    def restore(self, checkpoint, resource, context=None, new_resources=None, **parameters):
        """Restore, and return the path of the restored file."""
        new_resources = {} if new_resources is None else new_resources
        self.plugin.get_restore_operation(resource).on_main(
            checkpoint,
            resource,
            context or Context(),
            self.parameters("restore", parameters),
            new_resources=new_resources,
        )
        return new_resources[resource.id]

    def abort(self, verb, checkpoint, resource, context):
        operation = getattr(self.plugin, f"get_{verb}_operation")(resource)
        operation.on_abort(checkpoint, resource, context, self.parameters(verb, {}))


@pytest.fixture
def bank(tmp_path) -> Iterator[Bank]:
    with Bank.open(tmp_path / "bank") as opened:
        yield opened


@pytest.fixture
def driver(bank, tmp_path) -> Iterator[Driver]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield Driver(bank, scratch)

    assert not list(scratch.iterdir()), "a temporary copy was left behind"


@pytest.fixture
def make_context() -> type[Context]:
    return Context


@pytest.fixture
def data(tmp_path) -> Path:
    """A directory for databases."""
    path = tmp_path / "data"
    path.mkdir()
    return path
