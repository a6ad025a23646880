"""Synthetic plugins, run by the real engine."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path

import pytest

from helpers import DEADLINE
from karbor_actors import (
    Bank,
    HookName,
    OperationError,
    OperationStatus,
    ProtectionService,
    Resource,
)
from karbor_actors.errors import ArgumentError
from karbor_actors.testing import (
    SHAPES,
    SyntheticProtection,
    Work,
    make_graph,
    run_synthetic,
    synthetic_plan,
    synthetic_provider,
)
from karbor_actors.testing.synthetic import NODE_TYPE


@pytest.mark.parametrize("shape", SHAPES)
def test_every_hook_of_every_shape_runs(shape, tmp_path):
    figures = run_synthetic(make_graph(shape, 40, width=3), directory=tmp_path, timeout=DEADLINE)

    assert figures.status is OperationStatus.SUCCEEDED
    assert (figures.resources, figures.hooks, figures.failures) == (40, 160, 0)


@pytest.mark.parametrize(
    "work",
    [
        Work(is_async=True),
        Work(sleep=0.001),
        Work(sleep=0.001, is_async=True),
        Work(sleep_spread=0.001),
        Work(sleep_spread=0.001, is_async=True),
        Work(io=3 << 19),
        Work(cpu=0.001),
        Work(has_abort=True),
        Work(hooks=(HookName.ON_MAIN,)),
    ],
    ids=str,
)
def test_every_kind_of_work_is_done(work, tmp_path):
    figures = run_synthetic(make_graph("tree", 10), work, directory=tmp_path, timeout=DEADLINE)

    assert figures.status is OperationStatus.SUCCEEDED


def test_the_figures_fit_each_other(tmp_path):
    work = Work(cpu=0.001)
    figures = run_synthetic(make_graph("flat", 10), work, directory=tmp_path, timeout=DEADLINE)

    assert figures.planning_seconds > 0
    assert 40 * work.cpu <= figures.cpu_seconds
    assert figures.hooks_per_second == figures.hooks / figures.running_seconds
    assert figures.peak_memory > 1 << 20


def test_the_bank_stays_only_where_a_directory_was_given(tmp_path):
    run_synthetic(make_graph("flat", 1), directory=tmp_path, timeout=DEADLINE)

    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert len(list(bank.checkpoints())) == 1


def failing_hooks(work):
    node = Resource(NODE_TYPE, "7")
    return [hook for hook in work.hooks if work.fails(node, hook)]


def test_the_same_hooks_fail_each_time_and_others_with_another_seed():
    seeds = [failing_hooks(Work(failure_rate=0.5, seed=seed)) for seed in range(20)]

    assert seeds == [failing_hooks(Work(failure_rate=0.5, seed=seed)) for seed in range(20)]
    assert len(set(map(tuple, seeds))) > 1


def test_a_sleep_is_drawn_for_each_hook_and_stays_within_its_spread():
    work = Work(sleep=0.001, sleep_spread=0.019)
    nodes = [Resource(NODE_TYPE, str(node)) for node in range(100)]
    drawn = [work.sleep_of(node, hook) for node in nodes for hook in work.hooks]

    assert drawn == [work.sleep_of(node, hook) for node in nodes for hook in work.hooks]
    assert all(0.001 <= seconds <= 0.020 for seconds in drawn)
    assert max(drawn) - min(drawn) > 0.015, "they are spread over all of it"
    assert drawn[:4] != [Work(sleep_spread=0.019, seed=1).sleep_of(nodes[0], h) for h in work.hooks]


def bytes_written():
    """Return what this process has handed to write calls so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def test_input_and_output_go_through_a_file_that_is_left_nowhere(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    before = bytes_written()
    figures = run_synthetic(
        make_graph("flat", 4), Work(io=1 << 20), directory=tmp_path, timeout=DEADLINE
    )

    assert figures.status is OperationStatus.SUCCEEDED
    assert bytes_written() - before >= figures.hooks << 20
    assert list(place.iterdir()) == []


def test_input_and_output_on_the_event_loop_are_refused():
    with pytest.raises(ValueError, match="io blocks"):
        Work(io=1, is_async=True)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("cpu", -0.1),
        ("sleep", "1"),
        ("sleep", float("nan")),
        ("sleep_spread", None),
        ("io", 1.5),
        ("io", -1),
        ("failure_rate", 5),
        ("failure_rate", "often"),
        ("seed", "x"),
        ("is_async", 1),
        ("has_abort", "no"),
        ("hooks", "on_main"),
        ("hooks", (HookName.ON_ABORT,)),
        ("hooks", ("on_mian",)),
    ],
)
def test_work_that_cannot_be_is_refused_before_anything_runs(field, given):
    with pytest.raises(ArgumentError, match=field):
        Work(**{field: given})


def test_all_fail_at_a_rate_of_one_and_none_at_a_rate_of_zero():
    work = Work(failure_rate=1.0)

    assert failing_hooks(work) == list(work.hooks)
    assert failing_hooks(Work(failure_rate=0.0)) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_isolated_failures_leave_a_partial_operation_and_are_counted(is_async, tmp_path):
    work = Work(failure_rate=0.05, seed=1, is_async=is_async)
    graph = make_graph("flat", 60)
    nodes = [Resource(NODE_TYPE, str(node)) for node in range(graph.size)]
    broken = sum(any(work.fails(node, hook) for hook in work.hooks) for node in nodes)

    figures = run_synthetic(graph, work, directory=tmp_path, on_failure="isolate", timeout=DEADLINE)

    assert 0 < broken < graph.size
    assert figures.status is OperationStatus.PARTIAL
    assert figures.failures == broken


def test_a_failing_plugin_fails_the_operation(tmp_path):
    graph = make_graph("flat", 3)
    with ProtectionService() as service:
        bank = Bank.open(tmp_path / "bank")
        service.add_provider(synthetic_provider(graph, Work(failure_rate=1.0), bank=bank))

        with pytest.raises(OperationError, match="a synthetic failure in on_prepare_begin"):
            service.protect(synthetic_plan(graph)).result(timeout=DEADLINE)


@pytest.mark.parametrize("work", [Work(), Work(is_async=True)], ids=str)
def test_one_operation_serves_all_nodes_and_verbs(work):
    threads = threading.active_count()
    plugin = SyntheticProtection(work)
    one, other = (Resource(NODE_TYPE, name) for name in "12")

    operation = plugin.get_protect_operation(one)

    assert plugin.get_restore_operation(other) is operation
    assert asyncio.iscoroutinefunction(operation.on_main) is work.is_async
    assert threading.active_count() == threads
