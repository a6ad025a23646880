"""How long the way is that lies ahead of each resource's hooks: what is longest goes first."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from karbor_actors.graph import ResourceGraph


class PathsAhead(NamedTuple):
    """By resource, in resources, this one included."""

    from_begin: array[int]
    """The longest way from its first hook: down to a leaf, and up from there to a root."""
    from_finish: array[int]
    """The longest way up to a root, where every hook but the first waits for the children."""


def paths_ahead(graph: ResourceGraph) -> PathsAhead | None:
    """Return what lies ahead of *graph*'s resources; None where nothing depends on anything."""
    offsets, targets = graph.child_offsets, graph.child_targets
    count = len(offsets) - 1
    if not targets:
        return None
    missing = array("I", bytes(4 * count))
    for child in targets:
        missing[child] += 1
    order = [resource for resource in range(count) if not missing[resource]]
    up = array("I", (1,)) * count
    for resource in order:  # grows while it is walked: parents come before children
        above = up[resource] + 1
        for child in targets[offsets[resource] : offsets[resource + 1]]:
            up[child] = max(up[child], above)
            missing[child] -= 1
            if not missing[child]:
                order.append(child)
    begin = array("I", up)
    for resource in reversed(order):
        longest = begin[resource]
        for child in targets[offsets[resource] : offsets[resource + 1]]:
            if longest <= begin[child]:
                longest = begin[child] + 1
        begin[resource] = longest
    return PathsAhead(begin, up)
