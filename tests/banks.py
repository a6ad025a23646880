"""A small graph for tests of banks; import it as ``banks``."""

from __future__ import annotations

from array import array

from karbor_actors.graph import ResourceGraph
from karbor_actors.model import Resource

SERVER = Resource("OS::Nova::Server", "s1", "web")
VOLUME = Resource("OS::Cinder::Volume", "v1", "root disk")
SHARED = Resource("OS::Cinder::Volume", "s1", "has the server's id")


def make_graph() -> ResourceGraph:
    """Return a server over two volumes, one of which has the server's id."""
    return ResourceGraph([SERVER, VOLUME, SHARED], array("I", [0, 2, 2, 2]), array("I", [1, 2]))
