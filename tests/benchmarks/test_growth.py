"""The guard against growth: what a hook costs does not depend on how many there are.

Nothing is timed. A whole protect runs on one thread, in an order that a seed decides, and what is
counted is the same in each run: calls of functions, rows that LMDB is given, commits, bytes. The
cost of one hook more is compared between small operations and large ones, so that what an operation
costs besides its hooks does not hide anything.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import pytest

from karbor_actors import Bank, OperationStatus, ProtectionService
from karbor_actors.actors.simulated import SimulatedDispatcher
from karbor_actors.bank.actor import BankActor
from karbor_actors.operations.admission import intake
from karbor_actors.operations.engine import Engine
from karbor_actors.operations.hooks.runner import Runners
from karbor_actors.testing import (
    SyntheticProtection,
    Work,
    make_graph,
    synthetic_plan,
    synthetic_provider,
)

SMALL, LARGE = (500, 1_000), (2_500, 3_000)
"""Hooks; the cost of one hook is what the second costs more than the first, by the difference."""
SLACK, ROW_SLACK = 1.05, 1.10
WORK = Work(has_abort=True)
"""Intents are recorded too."""
LMDB = ("Transaction", "Cursor")
"""The types of py-lmdb whose methods are counted by name."""
WIDTH = 30
"""Of the graph's layers: few enough that look-ups are not handed to threads."""
OWN = tracemalloc.Filter(inclusive=True, filename_pattern="*/karbor_actors/*")
LARGEST = 300_000
"""Bytes. Python's table of strings grows in one step, larger than this, in anybody's line."""


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Keep as few hooks in as there are workers, in small operations and large ones alike.

    Where they take no time there are a thousand, which is more than the small ones have.
    """
    monkeypatch.setattr(intake, "WINDOW", 1)


class BankLast(SimulatedDispatcher):
    """Has the bank wait until nobody else can do anything, so that it commits in groups."""

    def __init__(self, seed):
        super().__init__(seed)
        self._of_bank = []

    def schedule(self, runnable):
        if getattr(runnable, "actor_class", None) is BankActor:
            self._of_bank.append(runnable)
        else:
            super().schedule(runnable)

    def step(self, *, until=None):
        if not self._ready and self._of_bank:
            super().schedule(self._of_bank.pop(0))
        return super().step(until=until)


class InlineRunners(Runners):
    """Runs bodies as turns of the dispatcher."""

    def __init__(self, dispatcher):
        self._dispatcher = dispatcher

    def submit(self, lane, calls, **_):
        for call in calls:
            self._dispatcher.schedule(SimpleNamespace(run=call.execute))

    def abandon(self, lane, call):
        raise AssertionError("nothing takes too long here")

    def runs_caller(self):
        return False

    def close(self):
        pass


def protect(hooks, directory, around, plugin=None):
    """Protect a graph of *hooks* hooks, inside of *around*."""
    graph = make_graph("layered", hooks // 4, width=WIDTH)
    dispatcher = BankLast(seed=1)
    engine = Engine(1, dispatcher=dispatcher, runners=InlineRunners(dispatcher), events=dispatcher)
    with ProtectionService(engine=engine) as service:
        bank = Bank.open(directory, dispatcher=dispatcher)
        provider = synthetic_provider(graph, WORK, bank=bank)
        if plugin is not None:
            provider.protection_plugins = dict.fromkeys(provider.protection_plugins, plugin)
        service.add_provider(provider)
        plan = synthetic_plan(graph)
        handle = around(lambda: protect_and_settle(service, plan, dispatcher))
        assert handle.status is OperationStatus.SUCCEEDED, handle.exception()
        assert handle.progress().hooks_done == hooks


def protect_and_settle(service, plan, dispatcher):
    handle = service.protect(plan)
    dispatcher.run_until_idle()
    return handle


def counted(hooks, directory):
    """Return how often functions were called, and what LMDB was asked for."""
    counts = Counter()

    def look(frame, event, argument):
        if event in ("call", "c_call"):
            counts["calls"] += 1
            if event == "c_call":
                owner = type(getattr(argument, "__self__", None))
                if owner.__name__ in LMDB:
                    counts[f"lmdb {argument.__name__}"] += 1

    def around(run):
        gc.disable()  # what it calls depends on when it comes
        sys.setprofile(look)
        try:
            return run()
        finally:
            sys.setprofile(None)
            gc.enable()

    protect(hooks, directory, around)
    return counts


def allocated(hooks, directory):
    """Return how many bytes there are when half of the main hooks have run."""
    held = Counter()

    class Looking(SyntheticProtection):
        def get_protect_operation(self, resource):
            return looking

    class Look(type(SyntheticProtection(WORK).get_protect_operation(None))):
        def on_main(self, *_arguments, **_keywords):
            held["hooks"] += 1
            if held["hooks"] == hooks // 8:
                gc.collect()
                snapshot = tracemalloc.take_snapshot().filter_traces([OWN])
                held["bytes"] = sum(trace.size for trace in snapshot.traces if trace.size < LARGEST)

    looking = Look()

    def around(run):
        gc.collect()
        tracemalloc.start()
        try:
            return run()
        finally:
            tracemalloc.stop()

    protect(hooks, directory, around, Looking(WORK))
    return held


def per_hook(count, sizes, directory):
    """Return what one hook more costs, by what is counted."""
    count(100, directory / f"{sizes}")  # imports what is only imported now
    fewer, more = (count(size, directory / f"{size}") for size in sizes)
    return {name: (more[name] - fewer[name]) / (sizes[1] - sizes[0]) for name in more}


def test_a_hook_of_a_large_operation_takes_as_many_calls_and_rows(tmp_path):
    small = per_hook(counted, SMALL, tmp_path)
    large = per_hook(counted, LARGE, tmp_path)

    assert small["calls"] > 10, "the profile saw the engine at work"
    assert small["lmdb put"] > 0, "and the bank"
    assert large["calls"] <= small["calls"] * SLACK, (small, large)
    for name, count in large.items():  # what shares a commit is a matter of chance
        assert count <= small[name] * ROW_SLACK + 0.02, (name, small, large)


def test_a_hook_of_a_large_operation_takes_as_much_memory(tmp_path):
    small = per_hook(allocated, (500, 1_000), tmp_path)  # tables double at both
    large = per_hook(allocated, (2_000, 4_000), tmp_path)

    assert 0 < large["bytes"] <= small["bytes"] * SLACK + 50, (small, large)
