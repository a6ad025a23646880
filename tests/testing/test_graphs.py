"""The synthetic graphs: what each shape promises, for any size and seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.testing import SHAPES, make_graph

sizes = st.integers(1, 200)
seeds = st.integers(0, 5)
widths = st.integers(1, 9)


def edges(graph):
    return [(node, child) for node in range(graph.size) for child in graph.children(node)]


def parents(graph, node):
    return [parent for parent, child in edges(graph) if child == node]


@pytest.mark.parametrize("shape", SHAPES)
@given(size=sizes, seed=seeds, width=widths)
def test_parents_have_smaller_numbers_and_no_edge_is_there_twice(shape, size, seed, width):
    graph = make_graph(shape, size, seed=seed, width=width)

    assert all(parent < child < size for parent, child in edges(graph))
    assert len(set(edges(graph))) == graph.edge_count == len(edges(graph))


@pytest.mark.parametrize("shape", SHAPES)
@given(size=sizes, seed=seeds)
def test_the_roots_are_the_nodes_without_parents(shape, size, seed):
    graph = make_graph(shape, size, seed=seed)
    with_parents = {child for _, child in edges(graph)}

    assert graph.roots == tuple(n for n in range(size) if n not in with_parents)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_arguments_give_equal_graphs(shape):
    assert make_graph(shape, 300, seed=3) == make_graph(shape, 300, seed=3)


@pytest.mark.parametrize("shape", ["random", "layered"])
def test_another_seed_gives_another_graph(shape):
    assert edges(make_graph(shape, 300, seed=1)) != edges(make_graph(shape, 300, seed=2))


def test_a_flat_graph_has_no_edges():
    assert make_graph("flat", 5).roots == (0, 1, 2, 3, 4)


def test_in_a_chain_each_node_is_the_parent_of_the_next():
    assert edges(make_graph("chain", 4)) == [(0, 1), (1, 2), (2, 3)]


def test_a_tree_has_as_many_children_per_node_as_it_is_wide():
    assert edges(make_graph("tree", 6, width=3)) == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]


def test_in_a_ladder_both_nodes_of_a_pair_are_parents_of_both_of_the_next():
    assert edges(make_graph("ladder", 5)) == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 4), (3, 4)]


@given(size=sizes, seed=seeds, width=widths)
def test_a_random_node_has_no_more_parents_than_the_graph_is_wide(size, seed, width):
    graph = make_graph("random", size, seed=seed, width=width)

    assert all(len(parents(graph, node)) <= width for node in range(size))


@given(size=sizes, seed=seeds, width=widths)
def test_the_parents_of_a_layered_node_are_in_the_layer_above(size, seed, width):
    graph = make_graph("layered", size, seed=seed, width=width)

    assert all(parent // width == child // width - 1 for parent, child in edges(graph))
    assert len(graph.roots) == min(size, width)


@pytest.mark.parametrize(
    ("shape", "size", "width"), [("circle", 1, 1), ("tree", 0, 1), ("tree", 1, 0)]
)
def test_what_cannot_be_a_graph_is_refused(shape, size, width):
    with pytest.raises(ValueError, match=r"circle|at least 1"):
        make_graph(shape, size, width=width)
