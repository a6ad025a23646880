"""Graphs of resources, of any size, made by rule and seed."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from karbor_actors.arguments import argument_error, check_instance, checked_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class SyntheticGraph:
    """Nodes 0, 1, 2, ...; the parents of a node have smaller numbers, so there is no cycle.

    Immutable; any thread may read it.
    """

    shape: str
    size: int
    """How many nodes it has."""
    seed: int
    width: int
    roots: tuple[int, ...] = field(repr=False)
    """The nodes without parents, in order."""
    _offsets: array[int] = field(repr=False)
    _targets: array[int] = field(repr=False)

    @property
    def edge_count(self) -> int:
        """How many parent-child pairs there are."""
        return len(self._targets)

    def children(self, node: int) -> Sequence[int]:
        """Return the children of *node*, in order."""
        return self._targets[self._offsets[node] : self._offsets[node + 1]]


def make_graph(shape: str, size: int, *, seed: int = 0, width: int = 4) -> SyntheticGraph:
    """Return a graph; equal arguments give equal graphs.

    Args:
        shape: ``"flat"``: no edges. ``"chain"``: each node is the parent of the next.
            ``"tree"``: each node has *width* children. ``"ladder"``: the nodes of each pair
            are parents of both nodes of the next, so that paths double with every pair.
            ``"random"``: each node has up to *width* parents among all nodes before it.
            ``"layered"``: layers of *width* nodes; each node has one to three parents in the
            layer above.
        size: How many nodes.
        seed: For the shapes that leave something to chance.
        width: See *shape*; others ignore it.

    Raises:
        ArgumentError: There is no such shape, or *size* or *width* is less than 1.
    """
    check_instance("seed", seed, int, "a whole number")
    checked_count("size", size)
    checked_count("width", width)
    if shape not in SHAPES:
        raise argument_error("shape", f"one of {', '.join(SHAPES)}", shape)
    parents_of, rng = _PARENTS[shape], random.Random(seed)  # noqa: S311 - seeded on purpose
    roots: list[int] = []
    sources, targets = array("I"), array("I")
    counts = array("I", bytes(4 * (size + 1)))
    for node in range(size):
        parents = parents_of(node, width, rng)
        if not parents:
            roots.append(node)
        for parent in parents:
            sources.append(parent)
            targets.append(node)
            counts[parent + 1] += 1
    by_source = sorted(range(len(sources)), key=sources.__getitem__)  # stable: children ascend
    return SyntheticGraph(
        shape,
        size,
        seed,
        width,
        tuple(roots),
        array("I", accumulate(counts)),
        array("I", map(targets.__getitem__, by_source)),
    )


def _flat(_node: int, _width: int, _rng: random.Random) -> Sequence[int]:
    return ()


def _chain(node: int, _width: int, _rng: random.Random) -> Sequence[int]:
    return (node - 1,) if node else ()


def _tree(node: int, width: int, _rng: random.Random) -> Sequence[int]:
    return ((node - 1) // width,) if node else ()


def _ladder(node: int, _width: int, _rng: random.Random) -> Sequence[int]:
    above = node // 2 * 2
    return (above - 2, above - 1) if above else ()


def _random(node: int, width: int, rng: random.Random) -> Sequence[int]:
    return rng.sample(range(node), rng.randint(0, min(width, node)))


def _layered(node: int, width: int, rng: random.Random) -> Sequence[int]:
    start = node // width * width
    if not start:
        return ()
    return rng.sample(range(start - width, start), rng.randint(1, min(3, width)))


_PARENTS: dict[str, Callable[[int, int, random.Random], Sequence[int]]] = {
    "flat": _flat,
    "chain": _chain,
    "tree": _tree,
    "ladder": _ladder,
    "random": _random,
    "layered": _layered,
}

SHAPES = tuple(_PARENTS)
"""The shapes that :func:`make_graph` knows."""
