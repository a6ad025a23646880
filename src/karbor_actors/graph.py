"""The graph of resources: built breadth first, free of cycles, packed for the bank.

A resource's number is its place in the order of discovery: the plan's resources first, then
each resource's children in the order in which they were listed. The edges are kept in
compressed sparse rows: the children of resource ``n`` are ``child_targets[a:b]`` with
``a, b = child_offsets[n], child_offsets[n + 1]``, and the parents alike. All in here is pure;
a finished graph never changes and may be used from any thread.
"""

from __future__ import annotations

import hashlib
import operator
from array import array
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import accumulate, chain, compress, count, islice, repeat
from typing import TYPE_CHECKING, Any, NoReturn, Self

from karbor_actors.errors import (
    CycleError,
    ListingError,
    OperationCancelledError,
    PlanError,
    ResourceNotFoundError,
    describe_cause,
    describe_value,
)
from karbor_actors.graph_format import GraphColumns, damaged
from karbor_actors.model import Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from karbor_actors.errors import ResourceKey

    MapParallel = Callable[
        [Callable[[Resource], Sequence[Resource]], Sequence[Resource]], Iterable[Sequence[Resource]]
    ]

_LOOKUPS_AT_ONCE = 4096
"""How many look-ups are handed over together, so that a wide graph does not make them all wait."""


class GraphNode:
    """A resource as a plugin walks the graph: ``value`` and ``child_nodes``.

    There is one object per resource of a graph, so a shared child is the same object.
    """

    __slots__ = ("_children", "_graph", "number")

    def __init__(self, graph: ResourceGraph, number: int) -> None:
        self._graph = graph
        self._children: tuple[GraphNode, ...] | None = None
        self.number = number
        """The resource's number in its graph."""

    @property
    def value(self) -> Resource:
        """The resource."""
        return self._graph.nodes[self.number]

    @property
    def child_nodes(self) -> tuple[GraphNode, ...]:
        """The nodes of the resource's children, in the order in which they were listed."""
        if self._children is None:
            self._children = tuple(map(self._graph.node, self._graph.children(self.number)))
        return self._children

    def __repr__(self) -> str:
        return f"GraphNode({self.value})"


class ResourceGraph:
    """Resources and which depend on which.

    Iterates over its root nodes; its length is the number of all resources. Made by
    :func:`build_graph` or :meth:`unpack`.

    Args:
        nodes: The resources in the order of their numbers, no key twice.
        child_offsets: ``array('I')``: where each resource's children begin, and the end.
        child_targets: ``array('I')``: the children's numbers, none twice for one parent.
        numbers: Each resource's number by its key, if at hand.

    Raises:
        CycleError: Resources depend on each other in a circle.
    """

    def __init__(
        self,
        nodes: Sequence[Resource],
        child_offsets: array[int],
        child_targets: array[int],
        numbers: dict[ResourceKey, int] | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        """Every resource, in the order of its number."""
        self.types = tuple(dict.fromkeys(map(operator.attrgetter("type"), self.nodes)))
        """The resource types, each once, in the order of their first resource."""
        self.child_offsets = child_offsets
        """``array('I')``, one more than there are resources; read only."""
        self.child_targets = child_targets
        """``array('I')``, one entry per edge; read only."""
        degrees = map(operator.sub, child_offsets[1:], child_offsets)
        sources = list(chain.from_iterable(map(repeat, range(len(self.nodes)), degrees)))
        self.parent_offsets, self.parent_targets = _parents(sources, child_targets, len(self.nodes))
        starts = self.parent_offsets
        self.roots = tuple(compress(count(), map(operator.eq, starts, starts[1:])))
        """The numbers of the resources that are nobody's child, in the plan's order."""
        ascending = all(map(operator.lt, sources, child_targets))  # so is every tree
        self.order = array("I", range(len(self.nodes))) if ascending else self._topological_order()
        """``array('I')`` of every number, parents before children; read only."""
        if numbers is None:
            numbers = dict(zip(map(operator.attrgetter("key"), self.nodes), count()))
        self._numbers = numbers
        self._walked: dict[int, GraphNode] = {}

    @property
    def edge_count(self) -> int:
        """How many pairs of parent and child there are."""
        return len(self.child_targets)

    def children(self, number: int) -> Sequence[int]:
        """Return the numbers of a resource's children, in the order in which they were listed."""
        self._check(number)
        return self.child_targets[self.child_offsets[number] : self.child_offsets[number + 1]]

    def parents(self, number: int) -> Sequence[int]:
        """Return the numbers of a resource's parents, ascending."""
        self._check(number)
        return self.parent_targets[self.parent_offsets[number] : self.parent_offsets[number + 1]]

    def number(self, key: ResourceKey) -> int:
        """Return the number of the resource with *key*.

        Raises:
            ResourceNotFoundError: It is not in the graph.
        """
        try:
            return self._numbers[key]
        except (KeyError, TypeError):  # what no dict holds is no key
            raise ResourceNotFoundError(key) from None

    def keys_by_id(self, resource_id: str) -> tuple[ResourceKey, ...]:
        """Return the keys that have an id: none, one, or several if types share it."""
        keys = ((resource_type, resource_id) for resource_type in self.types)
        return tuple(key for key in keys if key in self._numbers)

    def node(self, number: int) -> GraphNode:
        """Return the node of a resource: always the same object."""
        self._check(number)
        node = self._walked.get(number)
        if node is None:  # setdefault is atomic, so two threads get one object
            node = self._walked.setdefault(number, GraphNode(self, number))
        return node

    def pack(self) -> bytes:
        """Return the graph as bytes: equal graphs give equal bytes."""
        type_numbers = {resource_type: number for number, resource_type in enumerate(self.types)}
        columns = GraphColumns(
            self.types,
            array("I", [type_numbers[resource.type] for resource in self.nodes]),
            [resource.id for resource in self.nodes],
            [resource.name for resource in self.nodes],
            [resource.extra_info for resource in self.nodes],
            self.child_offsets,
            self.child_targets,
        )
        return columns.pack()

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return the graph that :meth:`pack` packed, with the same numbers.

        Raises:
            BankFormatError: The bytes are damaged, or are from a newer release.
        """
        columns = GraphColumns.unpack(packed)
        types = map(columns.types.__getitem__, columns.type_numbers)
        try:
            nodes = list(map(Resource, types, columns.ids, columns.names, columns.extra_infos))
            graph = cls(nodes, columns.child_offsets, columns.child_targets)
        except (PlanError, CycleError) as error:
            raise damaged(str(error)) from error
        if len(graph._numbers) != len(nodes):
            raise damaged("a resource is in it twice")
        return graph

    def digest(self) -> bytes:
        """Return 32 bytes that tell this graph from every other (BLAKE2b of :meth:`pack`)."""
        return hashlib.blake2b(self.pack(), digest_size=32).digest()

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[GraphNode]:
        return map(self.node, self.roots)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __repr__(self) -> str:
        return f"<ResourceGraph of {len(self)} resources and {self.edge_count} edges>"

    def _check(self, number: int) -> None:
        """Refuse a number out of range, which array slices would silently take."""
        if not 0 <= number < len(self.nodes):
            msg = f"no resource has the number {number}; there are {len(self.nodes)}"
            raise IndexError(msg)

    def _topological_order(self) -> array[int]:
        """Return parents before children (Kahn's algorithm), refusing a cycle."""
        offsets, targets = self.child_offsets, self.child_targets
        starts = self.parent_offsets
        waiting = array("I", map(operator.sub, starts[1:], starts))
        order = list(self.roots)
        for number in order:  # grows while it is read
            for child in targets[offsets[number] : offsets[number + 1]]:
                waiting[child] -= 1
                if not waiting[child]:
                    order.append(child)
        if len(order) < len(self.nodes):
            raise CycleError([self.nodes[number].key for number in self._cycle(waiting)])
        return array("I", order)

    def _cycle(self, waiting: array[int]) -> list[int]:
        """Return a cycle's numbers in order, given how many parents each resource waits for."""
        number = next(number for number, parents in enumerate(waiting) if parents)
        steps: dict[int, int] = {}  # what waits has a parent that waits, so upwards leads round
        while number not in steps:
            steps[number] = len(steps)
            number = next(parent for parent in self.parents(number) if waiting[parent])
        cycle = list(steps)[steps[number] :][::-1]
        first = cycle.index(min(cycle))
        return cycle[first:] + cycle[:first]


def build_graph(
    resources: Iterable[Resource],
    find_children: Callable[[Resource], Iterable[Resource]],
    *,
    map_parallel: MapParallel | None = None,
    parallel_from: int = 32,
) -> ResourceGraph:
    """Build the graph of *resources* and of all that depends on them, breadth first.

    Each resource is looked up once. If a key is met again, its first name and extra_info
    hold. The result is the same whether or not look-ups ran in parallel.

    Args:
        resources: Where to start: a plan's resources.
        find_children: Returns the resources that depend on the one given; is called from
            *map_parallel*'s threads too.
        map_parallel: Like ``map``, but calls in parallel: an executor's ``map``. It must
            keep the order.
        parallel_from: How many look-ups must be due before they run in parallel; fewer
            are done inline, since handing them over costs more.

    Raises:
        CycleError: Resources depend on each other in a circle.
        ListingError: A look-up failed, or returned no list of resources.
        OperationCancelledError: *find_children* raised it; the only other error let through.
    """
    nodes: list[Resource] = []
    numbers: dict[ResourceKey, int] = {}
    offsets, targets = [0], list[int]()
    for resource in resources:
        if numbers.setdefault(resource.key, len(nodes)) == len(nodes):
            nodes.append(resource)
    look_up, number_of, total = partial(_look_up, find_children), numbers.setdefault, len(nodes)
    for children in _listings(nodes, look_up, map_parallel, parallel_from):
        known = total
        # No function of its own: a call would cost as much as all the rest that a child takes.
        for child in children:
            number = number_of(child.key, total)
            if number == total:
                nodes.append(child)
                total += 1
            targets.append(number)
        if total - known < len(children) > 1:  # one was met again, perhaps in this listing
            found = targets[offsets[-1] :]
            if len(set(found)) < len(found):
                targets[offsets[-1] :] = dict.fromkeys(found)
        offsets.append(len(targets))
    return ResourceGraph(nodes, array("I", offsets), array("I", targets), numbers)


def _listings(
    nodes: list[Resource],
    look_up: Callable[[Resource], Sequence[Resource]],
    map_parallel: MapParallel | None,
    parallel_from: int,
) -> Iterator[Sequence[Resource]]:
    """Return an iterator over the children of each of *nodes*, which grows meanwhile."""
    if map_parallel is None:
        return map(look_up, nodes)
    return _listings_in_parallel(nodes, look_up, map_parallel, parallel_from)


def _listings_in_parallel(
    nodes: list[Resource],
    look_up: Callable[[Resource], Sequence[Resource]],
    map_parallel: MapParallel,
    parallel_from: int,
) -> Iterator[Sequence[Resource]]:
    coming, left_alone = iter(nodes), max(parallel_from - 1, 0)
    done = 0
    while len(nodes) > done:
        while (waiting := len(nodes) - done) > left_alone:
            # No more than there are: an iterator that has come to the end of a list stays there.
            due = list(islice(coming, min(waiting, _LOOKUPS_AT_ONCE)))
            done += len(due)
            for _, children in zip(due, map_parallel(look_up, due), strict=True):
                yield children
        for resource in coming:
            yield look_up(resource)
            done += 1
            if len(nodes) - done > left_alone:
                break


def _look_up(
    find_children: Callable[[Resource], Iterable[Resource]], resource: Resource
) -> Sequence[Resource]:
    """Return a resource's children; runs on *map_parallel*'s threads."""
    try:
        children = find_children(resource)
        if type(children) is not list:  # nearly all are
            children = as_listing(children)
        for child in children:
            if type(child) is not Resource and not isinstance(child, Resource):
                _refuse(child)
    except (ListingError, OperationCancelledError):
        raise
    except Exception as error:  # plugin code: ends the operation, naming the resource
        plugin = getattr(find_children, "__qualname__", type(find_children).__name__)
        raise ListingError(resource.key, plugin, describe_cause(error)) from error
    return children


def _refuse(child: object) -> NoReturn:
    raise TypeError(f"returned {describe_value(child)} in a list, not a Resource")


def as_listing(listed: Any) -> Sequence[Any]:
    """Return what a protectable plugin listed as a list or a tuple.

    Raises:
        TypeError: It is no list: None, a string, a mapping, or a set (which has no order).
    """
    if type(listed) is list or isinstance(listed, (list, tuple)):  # nearly all are lists
        return listed
    if not isinstance(listed, Iterable) or isinstance(listed, (str, bytes, Mapping, AbstractSet)):
        raise TypeError(f"returned {describe_value(listed)}, not a list of Resource")
    return list(listed)


def _parents(sources: list[int], targets: array[int], count: int) -> tuple[array[int], array[int]]:
    """Return the offsets and numbers of the parents of *count* resources, given every edge.

    A counting sort, stable: parents ascend where *sources* do.
    """
    starts = array("I", bytes(4 * (count + 1)))
    for target in targets:
        starts[target + 1] += 1
    starts = array("I", accumulate(starts))
    free, parents = starts.tolist(), array("I", bytes(4 * len(targets)))
    for target, source in zip(targets, sources, strict=True):
        place = free[target]
        parents[place] = source
        free[target] = place + 1
    return starts, parents
