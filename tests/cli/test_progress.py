"""Rates, and the tree as it is drawn."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from karbor_actors import HookName, OperationStatus, Progress, Resource, ResourceProgress
from karbor_actors.cli.progress import PlainView
from karbor_actors.cli.rates import Rates
from karbor_actors.cli.tree import label_of, tree_lines
from karbor_actors.graph import build_graph

KEY = ("T", "one")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def progress(done, total=None, *, attempt=1):
    return ResourceProgress(KEY, HookName.ON_MAIN, attempt, 0.0, done, total, "bytes")


def test_a_rate_is_that_of_the_last_seconds():
    clock = Clock()
    rates = Rates(clock)
    for second in range(60):
        clock.now = float(second)
        done = min(second, 30) * 100 + max(0, second - 30) * 1000
        rates.update([progress(done, 100_000)])

    assert rates.rate(progress(done)) == 1000
    assert rates.time_left(progress(done, done + 5000)) == 5
    assert rates.bytes_per_second([progress(done)]) == 1000


def test_it_is_too_early_for_a_rate_at_the_beginning():
    clock = Clock()
    rates = Rates(clock)
    rates.update([progress(0, 100)])
    clock.now = 0.1
    rates.update([progress(50, 100)])

    assert rates.rate(progress(50, 100)) is None
    assert rates.time_left(progress(50, 100)) is None


def test_another_unit_and_another_count_begin_their_rate_anew():
    clock = Clock()
    rates = Rates(clock)
    rates.update([dataclasses.replace(progress(10), unit="pages")])
    clock.now = 5.0
    rates.update([progress(40_960)])
    assert rates.rate(progress(40_960)) is None
    clock.now = 6.0
    rates.update([progress(10)])
    clock.now = 7.0
    assert rates.rate(progress(110)) == 100


def test_another_attempt_begins_its_rate_anew():
    clock = Clock()
    rates = Rates(clock)
    rates.update([progress(1000)])
    clock.now = 2.0
    rates.update([progress(10, attempt=2)])

    assert rates.rate(progress(10, attempt=2)) is None
    assert rates.rate(progress(2000)) is None


def test_nobody_knows_the_time_left_without_a_total():
    clock = Clock()
    rates = Rates(clock)
    rates.update([progress(0)])
    clock.now = 2.0
    rates.update([progress(10)])

    assert rates.rate(progress(10)) == 5
    assert rates.time_left(progress(10)) is None


def graph_of(children, roots):
    nodes = [Resource("T", str(number)) for number in range(len(children))]
    return build_graph(
        [nodes[root] for root in roots],
        lambda resource: [nodes[child] for child in children[int(resource.id)]],
    )


def test_the_tree_is_drawn_with_its_branches():
    lines = [
        f"{line.branch}{line.label}" for line in tree_lines(graph_of([[1, 3], [2], [], []], [0]))
    ]

    assert lines == ["T 0", "├─ T 1", "│  └─ T 2", "└─ T 3"]


@given(st.data())
def test_each_resource_is_drawn_once_whatever_the_graph(data):
    count = data.draw(st.integers(1, 12))
    children = [
        data.draw(st.lists(st.integers(number + 1, count - 1), unique=True))
        if number < count - 1
        else []
        for number in range(count)
    ]
    graph = graph_of(children, range(count))
    keys = [line.key for line in tree_lines(graph)]

    assert sorted(keys) == sorted(resource.key for resource in graph.nodes)


def test_a_long_chain_is_drawn_without_recursion():
    count = 5000
    graph = graph_of([[n + 1] for n in range(count - 1)] + [[]], [0])

    assert len(list(tree_lines(graph))) == count


def test_a_label_is_the_end_of_the_type_and_the_name():
    assert label_of(("OS::Nova::Server", "id"), "web\n1") == "Server web\\n1"
    assert label_of(("Thing", "id")) == "Thing id"


def test_a_plan_check_counts_the_hooks_that_the_progress_counts(cli, slow_config):
    checked = cli("plan", "check", "thing", "--config", "slow.toml").out
    with cli.slow_protect() as process:
        progress = cli.wait_for_event(process, "progress")

    assert "1 hook in 1 step" in checked
    assert (progress["hooks_done"], progress["hooks_total"]) == (0, 1)


class Notes:
    id, type = "0123456789", "protect"

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def test_a_protect_that_looks_for_resources_says_so_and_how_far_it_is():
    notes, clock = Notes(), Clock()
    view = PlainView(notes, notes, clock=clock)
    clock.now = 60.0
    view.update(Progress(OperationStatus.QUEUED, looked_up=12_345))
    clock.now = 120.0
    view.update(Progress(OperationStatus.QUEUED))

    assert notes.lines == [
        "protect 01234567: looking for resources, 12,345 looked at",
        "protect 01234567: 0 of 0 hooks done, 0 running",
    ]
