"""Real directories, a real bank, and the plugin's hooks between them."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from karbor_actors import Bank, Resource
from karbor_filesystem import DirectoryProtection
from plugins.hooks import Driver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bank(tmp_path) -> Iterator[Bank]:
    with Bank.open(tmp_path / "bank") as opened:
        yield opened


@pytest.fixture
def driver(bank) -> Driver:
    return Driver(bank, DirectoryProtection())


@pytest.fixture
def source(tmp_path):
    """An empty directory to protect."""
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def resource(source) -> Resource:
    return Resource("FileSystem::Directory", str(source))


@pytest.fixture
def case(driver, resource, source, tmp_path):
    """All that a test of a whole round needs, by name."""
    return SimpleNamespace(
        driver=driver, resource=resource, source=source, target=tmp_path / "target"
    )


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.WARNING, "karbor_actors")
