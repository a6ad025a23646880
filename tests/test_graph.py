"""The resource graph: built in any shape, equal to brute force, refused with a cycle, packed."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from helpers import DEADLINE
from karbor_actors.errors import (
    BankFormatError,
    CycleError,
    ListingError,
    OperationCancelledError,
    ResourceNotFoundError,
)
from karbor_actors.graph import ResourceGraph, build_graph
from karbor_actors.model import Resource


def resource(name):
    """Return the resource that a test calls *name*; its first letter is its type."""
    return Resource(f"Test::{name[0]}", name, f"the {name}")


def build(children, starts=None, **options):
    """Build the graph in which *children* maps names to lists of names."""
    found = {name: list(map(resource, names)) for name, names in children.items()}
    starts = list(children) if starts is None else starts
    return build_graph(
        list(map(resource, starts)), lambda parent: found.get(parent.id, []), **options
    )


def names(graph, numbers):
    return [graph.nodes[number].id for number in numbers]


def edges(graph):
    """Return every (parent's id, child's id), by walking nodes as a plugin does."""
    found, pending, seen = [], list(graph), set()
    while pending:
        node = pending.pop()
        if node.number not in seen:
            seen.add(node.number)
            found += [(node.value.id, child.value.id) for child in node.child_nodes]
            pending += node.child_nodes
    return sorted(found)


def assert_consistent(graph):
    """Check everything that a graph says twice against each other."""
    children = {n: list(graph.children(n)) for n in range(len(graph))}
    pairs = sorted((n, child) for n, listed in children.items() for child in listed)
    places = {number: place for place, number in enumerate(graph.order)}

    assert sorted((p, n) for n in range(len(graph)) for p in graph.parents(n)) == pairs
    assert graph.edge_count == len(pairs) == len(set(pairs))
    assert sorted(places) == list(range(len(graph)))
    assert all(places[parent] < places[child] for parent, child in pairs)
    assert list(graph.roots) == [n for n in range(len(graph)) if not len(graph.parents(n))]
    assert [graph.number(node.key) for node in graph.nodes] == list(range(len(graph)))
    assert [node.number for node in graph] == list(graph.roots)


# What Karbor's own tests ask of a graph.


@pytest.mark.parametrize(
    ("children", "roots"),
    [
        ({"A": ["B"], "B": ["C"], "C": []}, ["A"]),
        ({"A": ["B"], "B": [], "C": ["B"]}, ["A", "C"]),
        ({"A": ["B", "C"], "B": ["D"], "C": ["D"], "D": [], "E": []}, ["A", "E"]),
    ],
)
def test_the_roots_are_the_resources_that_are_nobodys_child(children, roots):
    for order in itertools.permutations(children):
        graph = build(children, order)

        assert sorted(names(graph, graph.roots)) == roots
        assert names(graph, graph.roots) == [name for name in order if name in roots]
        assert_consistent(graph)


@pytest.mark.parametrize(
    ("children", "cycle"),
    [
        ({"A": ["A"]}, ["A"]),
        ({"A": ["B"], "B": ["A"]}, ["A", "B"]),
        ({"A": ["B"], "B": ["C"], "C": ["D"], "D": ["B"]}, ["B", "C", "D"]),
        ({"A": ["B", "C"], "B": ["D"], "C": ["D"], "D": ["C"]}, ["C", "D"]),
    ],
)
def test_a_cycle_is_refused_and_named_in_order(children, cycle):
    with pytest.raises(CycleError) as error:
        build(children)

    assert [key[1] for key in error.value.cycle] == cycle


def test_a_shared_child_is_one_object():
    graph = build({"A": ["B", "C"], "B": ["D"], "C": ["D"], "D": []}, ["A"])
    (root,) = graph
    left, right = root.child_nodes

    assert (left.value.id, right.value.id) == ("B", "C")
    assert left.child_nodes[0] is right.child_nodes[0]
    assert root.child_nodes is root.child_nodes
    assert left.child_nodes[0].child_nodes == ()


@pytest.mark.parametrize(
    "children",
    [
        {"A1": ["B1", "B2"], "B1": ["C1", "C2"], "B2": ["C3", "C2"]},
        {"A1": ["B1"], "E": []},  # an isolated resource
        {"A1": ["B1", "B2"], "B1": ["B2"]},  # a child that is a sibling too
        {},
    ],
)
def test_packing_keeps_numbers_edges_and_names(children):
    graph = build(children)
    again = ResourceGraph.unpack(graph.pack())

    assert [node.to_dict() for node in again.nodes] == [node.to_dict() for node in graph.nodes]
    assert again.child_targets == graph.child_targets
    assert again.child_offsets == graph.child_offsets
    assert edges(again) == edges(graph)
    assert again.pack() == graph.pack()
    assert again.digest() == graph.digest()
    assert_consistent(again)


# What Karbor gets wrong.


def test_the_first_sighting_of_a_key_gives_its_name_and_extra_info():
    old, new = Resource("V", "1", "old"), Resource("V", "1", "new", {"server": "2"})
    graph = build_graph([old, Resource("S", "2")], lambda r: [new] if r.type == "S" else [])

    assert [node.name for node in graph.nodes] == ["old", ""]
    assert graph.nodes[0].extra_info is None
    assert names(graph, graph.roots) == ["2"]


def test_two_types_may_share_an_id():
    project, network = Resource("Project", "1"), Resource("Network", "1")
    graph = build_graph([project], lambda r: [network] if r == project else [])

    assert len(graph) == 2
    assert graph.keys_by_id("1") == (project.key, network.key)
    assert graph.keys_by_id("2") == ()
    assert graph.types == ("Project", "Network")


def test_each_resource_is_looked_up_once_and_a_duplicate_is_one_edge():
    asked = []

    def find_children(parent):
        asked.append(parent.id)
        return [resource("B"), resource("C"), resource("B")] if parent.id == "A" else []

    graph = build_graph([resource("A"), resource("A")], find_children)

    assert asked == ["A", "B", "C"]
    assert edges(graph) == [("A", "B"), ("A", "C")]


def test_a_chain_of_100_000_is_built_packed_and_walked_without_recursion():
    chain = [Resource("T", str(n)) for n in range(100_000)]
    following = dict(itertools.pairwise(chain))
    graph = build_graph(chain[:1], lambda r: [following[r]] if r in following else [])
    again = ResourceGraph.unpack(graph.pack())

    assert list(again.order) == list(range(100_000))
    assert len(edges(again)) == 99_999


def test_a_ladder_of_1000_diamonds_has_each_resource_once():
    children = {}
    for n in range(1000):
        children |= {f"T{n}": [f"L{n}", f"R{n}"], f"L{n}": [f"T{n + 1}"], f"R{n}": [f"T{n + 1}"]}
    graph = build(children, ["T0"])

    assert len(graph) == 3001
    assert graph.edge_count == 4000
    assert_consistent(graph)


def test_a_cycle_of_100_000_is_named_in_order():
    ring = [Resource("T", str(n)) for n in range(100_000)]
    following = dict(itertools.pairwise([*ring, ring[0]]))

    with pytest.raises(CycleError) as error:
        build_graph(ring[500:501], lambda r: [following[r]])

    assert error.value.cycle == tuple(r.key for r in [*ring[500:], *ring[:500]])


# Look-ups.


def test_a_wide_graph_is_looked_up_in_parallel_and_is_the_same():
    together = threading.Barrier(2, timeout=DEADLINE)
    children = {"A": [f"B{n}" for n in range(100)], "B7": ["C1", "C2"], "B3": ["C2", "B9"]}

    def find_children(parent):
        if parent.id in {"B0", "B1"}:
            together.wait()  # passes only if two look-ups run at once
        return list(map(resource, children.get(parent.id, [])))

    with ThreadPoolExecutor(4) as pool:
        parallel = build_graph([resource("A")], find_children, map_parallel=pool.map)

    assert parallel.pack() == build(children, ["A"]).pack()


def test_a_narrow_graph_is_looked_up_inline():
    threads = set()

    def find_children(parent):
        threads.add(threading.current_thread())
        return [resource("B")] if parent.id == "A" else []

    with ThreadPoolExecutor(1) as pool:
        build_graph([resource("A")], find_children, map_parallel=pool.map, parallel_from=2)

    assert threads == {threading.current_thread()}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "returned None, not a list of Resource"),
        ("Volume", "returned 'Volume', not a list of Resource"),
        ({"a": 1}, "not a list of Resource"),
        ({1}, "not a list of Resource"),
        (7, "returned 7, not a list of Resource"),
        ([("T", "1")], "in a list, not a Resource"),
        ([None], "returned None in a list, not a Resource"),
    ],
)
def test_an_answer_that_is_no_list_of_resources_is_a_listing_error(answer, reason):
    with pytest.raises(ListingError, match=reason) as error:
        build_graph([resource("A")], lambda _: answer)

    assert error.value.resource == ("Test::A", "A")


def test_a_failing_look_up_is_never_taken_for_no_children():
    def find_children(parent):
        raise OSError(113, "no route to host")

    with pytest.raises(ListingError, match="no route to host") as error:
        build_graph([resource("A")], find_children)

    assert isinstance(error.value.__cause__, OSError)
    assert "find_children" in error.value.plugin


def test_a_failing_look_up_on_another_thread_is_reported_alike():
    def find_children(parent):
        if parent.id == "B77":
            raise ListingError(parent.key, "Disks", "no route")
        return [resource(f"B{n}") for n in range(100)] if parent.id == "A" else []

    with ThreadPoolExecutor(2) as pool, pytest.raises(ListingError, match="Disks") as error:
        build_graph([resource("A")], find_children, map_parallel=pool.map)

    assert error.value.resource == ("Test::B", "B77")


def test_a_cancelled_look_up_is_a_cancelled_operation():
    def find_children(parent):
        raise OperationCancelledError("protect was cancelled")

    with pytest.raises(OperationCancelledError):
        build_graph([resource("A")], find_children)


def test_a_generator_will_do_for_a_list():
    graph = build_graph([resource("A")], lambda r: (resource(n) for n in ["B", "C"] if r.id == "A"))

    assert names(graph, graph.children(0)) == ["B", "C"]


def test_a_parallel_map_that_loses_an_answer_is_noticed():
    def lossy(function, items):
        return [function(item) for item in items[1:]]

    with pytest.raises(ValueError, match="shorter"):
        build({"A": [], "B": []}, map_parallel=lossy, parallel_from=1)


# Questions.


def test_what_is_not_in_the_graph_is_a_lookup_error():
    graph = build({"A": []})

    assert ("Test::A", "A") in graph
    assert ("Test::A", "B") not in graph
    assert graph.number(("Test::A", "A")) == 0
    with pytest.raises(ResourceNotFoundError, match="Test::A#B is not in the resource graph"):
        graph.number(("Test::A", "B"))
    for number in (-1, 1):
        for ask in (graph.children, graph.parents, graph.node):
            with pytest.raises(IndexError):
                ask(number)


def test_an_empty_graph_has_nothing():
    graph = build({})

    assert (len(graph), list(graph), graph.roots, graph.edge_count) == (0, [], (), 0)


# Any graph.


@st.composite
def listings(draw, *, acyclic):
    """Return children by resource: the keys in any order, so edges go both ways in numbers."""
    size = draw(st.integers(1, 12))
    found = {}
    for n in range(size):
        allowed = range(n + 1 if acyclic else 0, size)
        found[n] = draw(st.lists(st.sampled_from(allowed), max_size=5)) if allowed else []
    labels = draw(st.permutations(range(size)))
    return {f"T{labels[n]}": [f"T{labels[child]}" for child in found[n]] for n in found}


@given(children=listings(acyclic=True), starts=st.data(), parallel_from=st.integers(1, 5))
def test_a_built_graph_is_what_brute_force_finds(children, starts, parallel_from):
    first = starts.draw(st.lists(st.sampled_from(sorted(children)), max_size=6))
    reached = set(first)
    while (more := {c for name in reached for c in children[name]}) - reached:
        reached |= more
    graph = build(children, first, map_parallel=map, parallel_from=parallel_from)

    assert {node.id for node in graph.nodes} == reached
    assert names(graph, range(len(set(first)))) == list(dict.fromkeys(first))
    for number, node in enumerate(graph.nodes):
        assert names(graph, graph.children(number)) == list(dict.fromkeys(children[node.id]))
    assert_consistent(graph)
    assert graph.pack() == build(children, first).pack()
    assert ResourceGraph.unpack(graph.pack()).pack() == graph.pack()


@given(listings(acyclic=False))
def test_a_graph_is_refused_exactly_if_it_has_a_cycle_and_the_cycle_is_real(children):
    try:
        graph = build(children)
    except CycleError as error:
        cycle = [key[1] for key in error.cycle]
        assert len(set(cycle)) == len(cycle)
        for parent, child in itertools.pairwise([*cycle, cycle[0]]):
            assert child in children[parent]
    else:
        assert_consistent(graph)


text = st.text(st.characters(codec="utf-8"), min_size=1) | st.binary(min_size=1).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
resources = st.builds(
    Resource, st.sampled_from(["A", "B", "Ä"]), text, st.just("") | text, st.none() | plain
)


@given(st.lists(resources, max_size=5))
@example([Resource("A", "\udcff"), Resource("A", "ÿ")])
def test_any_resource_survives_packing(starts):
    graph = build_graph(starts, lambda _: [])
    again = ResourceGraph.unpack(graph.pack())

    assert [node.to_dict() for node in again.nodes] == [node.to_dict() for node in graph.nodes]
    assert again.digest() == graph.digest()


def test_the_order_of_a_dicts_keys_makes_no_other_graph():
    first, second = ({"a": 1, "b": [{"c": 2, "d": 3}]}, {"b": [{"d": 3, "c": 2}], "a": 1})
    digests = {
        build_graph([Resource("T", "1", "", info)], lambda _: []).digest()
        for info in (first, second)
    }

    assert len(digests) == 1


def test_every_difference_makes_another_digest():
    graphs = [
        build({"A": ["B", "C"]}),
        build({"A": ["C", "B"]}),
        build({"A": ["B"], "B": ["C"]}),
        build_graph([Resource("Test::A", "A", "renamed")], lambda _: []),
        build_graph([Resource("Test::A", "A", "", {"x": 1})], lambda _: []),
        build_graph([Resource("Test::B", "A")], lambda _: []),
    ]

    assert len({graph.digest() for graph in graphs}) == len(graphs)


# Unpacking trusts nothing.

PACKED = build({"A": ["B", "C"], "B": ["D"], "C": ["D"], "D": []}).pack()


@given(st.binary(max_size=200))
def test_random_bytes_are_no_graph(packed):
    with pytest.raises(BankFormatError):
        ResourceGraph.unpack(packed)


@given(st.integers(0, len(PACKED) - 1), st.binary(min_size=1, max_size=4), st.booleans())
def test_damaged_bytes_make_a_sound_graph_or_a_format_error(place, damage, insert):
    damaged = PACKED[:place] + damage + PACKED[place if insert else place + len(damage) :]
    try:
        graph = ResourceGraph.unpack(damaged)
    except BankFormatError:
        return
    assert_consistent(graph)


@given(st.integers(0, 7), st.recursive(plain, st.lists, max_leaves=5))
def test_a_column_of_anything_makes_a_sound_graph_or_a_format_error(column, value):
    fields = msgpack.unpackb(PACKED)
    fields[column] = value
    packed = msgpack.packb(fields, unicode_errors="surrogateescape")
    assume(packed != PACKED)
    try:
        graph = ResourceGraph.unpack(packed)
    except BankFormatError:
        return
    assert_consistent(graph)


def four(*numbers):
    return b"".join(number.to_bytes(4, "little") for number in numbers)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([2, [], b"", [], [], [], four(0), b""], "newer release"),
        ([True, [], b"", [], [], [], four(0), b""], "no format number"),
        ([1, [], b"", [], [], [], b"", b""], "wrong length"),
        ([1, [], b"", [], [], [], four(0)], "wrong fields"),
        ([1, [], four(0), ["a"], [""], [None], four(0, 0), b""], "a type is missing"),
        ([1, ["T"], four(0), ["a"], [], [None], four(0, 0), b""], "differ in length"),
        ([1, ["T"], four(0), ["a"], [""], [None], four(0, 1), four(9)], "leads nowhere"),
        ([1, ["T"], four(0), ["a"], [""], [None], four(0, 1), four(0)], "cycle"),
        ([1, ["T"], four(0), ["a"], [""], [None], four(1, 1), four(0)], "do not fit"),
        ([1, ["T"], four(0), [""], [""], [None], four(0, 0), b""], "non-empty string"),
        ([1, ["T"], four(0), ["a"], [""], [{b"x": 1}], four(0, 0), b""], "has the key"),
        (
            [1, ["T"], four(0, 0), ["a", "a"], ["", ""], [None, None], four(0, 0, 0), b""],
            "is in it twice",
        ),
        (
            [1, ["T"], four(0, 0), ["a", "b"], ["", ""], [None, None], four(0, 2, 2), four(1, 1)],
            "an edge is in it twice",
        ),
        (
            [1, ["T"], four(0, 0), ["a", "b"], ["", ""], [None, None], four(0, 9, 2), four(1, 1)],
            "do not fit",
        ),
    ],
)
def test_a_stored_graph_that_is_none_says_why(fields, reason):
    with pytest.raises(BankFormatError, match=reason):
        ResourceGraph.unpack(msgpack.packb(fields))


def test_a_length_that_the_bytes_do_not_have_takes_no_memory():
    with pytest.raises(BankFormatError):
        ResourceGraph.unpack(b"\xdd\xff\xff\xff\xff")
    with pytest.raises(BankFormatError):
        ResourceGraph.unpack(b"\x91" * 5000)
