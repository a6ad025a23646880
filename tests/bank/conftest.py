"""What the bank's tests share: an open bank, a small graph, and a place without space."""

from __future__ import annotations

from array import array

import pytest

from karbor_actors.bank.bank import Bank
from karbor_actors.graph import ResourceGraph
from karbor_actors.model import Resource

SERVER = Resource("OS::Nova::Server", "s1", "web")
VOLUME = Resource("OS::Cinder::Volume", "v1", "root disk")
SHARED = Resource("OS::Cinder::Volume", "s1", "has the server's id")


def make_graph() -> ResourceGraph:
    """Return a server over two volumes, one of which has the server's id."""
    return ResourceGraph([SERVER, VOLUME, SHARED], array("I", [0, 2, 2, 2]), array("I", [1, 2]))


@pytest.fixture
def graph():
    return make_graph()


@pytest.fixture
def bank(tmp_path):
    with Bank.open(tmp_path / "bank") as bank:
        yield bank


@pytest.fixture
def checkpoint(bank, graph):
    return bank.create_checkpoint({"name": "nightly", "provider": "local"}, "local", graph)


@pytest.fixture
def section(checkpoint):
    return checkpoint.get_resource_bank_section(SERVER)
