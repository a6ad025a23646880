"""Other engines, each running the same hooks with the same edges; none records anything.

A function takes what a :class:`baselines.Linked` walk knows, how a hook is called, and a number of
threads; it returns the seconds from the finished walk to the last hook's end, the engine's own
preparation included. Each engine is imported only when it is measured.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines import HookCaller, Linked

    from karbor_actors.testing import SyntheticGraph


def run_taskflow(walk: Linked, call: HookCaller, workers: int) -> float:
    """Run a graph flow, one task per hook, on TaskFlow's parallel engine with threads."""
    from taskflow import engines, task  # noqa: PLC0415 - see above
    from taskflow.patterns import graph_flow  # noqa: PLC0415

    class Hook(task.Task):  # type: ignore[misc]
        def __init__(self, number: int) -> None:
            super().__init__(name=f"hook-{number}")
            self.number = number

        def execute(self) -> None:
            call(*walk.hooks[self.number])

    began = time.perf_counter()
    flow = graph_flow.Flow("hooks")
    tasks = [Hook(number) for number in range(len(walk.hooks))]
    flow.add(*tasks)
    for number, awaited in enumerate(walk.upstream):
        for other in awaited:
            flow.link(tasks[other], tasks[number])
    engines.load(flow, engine="parallel", executor="threaded", max_workers=workers).run()
    return time.perf_counter() - began


def run_dask(walk: Linked, call: HookCaller, workers: int) -> float:
    """Run a dask graph, one key per hook, on its threaded scheduler."""
    from dask.threaded import get  # noqa: PLC0415

    def run(number: int, *_awaited: Any) -> None:
        call(*walk.hooks[number])

    began = time.perf_counter()
    graph = {
        f"hook-{number}": (run, number, *(f"hook-{other}" for other in awaited))
        for number, awaited in enumerate(walk.upstream)
    }
    get(graph, list(graph), num_workers=workers)
    return time.perf_counter() - began


def run_pykka(walk: Linked, call: HookCaller, _workers: int) -> float:
    """Run a ThreadingActor per hook, started by its upstream actors' completion messages."""
    from pykka import ActorRegistry, ThreadingActor  # noqa: PLC0415

    all_ended = threading.Event()
    left = [len(walk.hooks)]
    lock = threading.Lock()
    refs: list[Any] = []

    class Hook(ThreadingActor):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number, self.waits = number, len(walk.upstream[number])

        def on_receive(self, message: object) -> None:
            self.waits -= 1
            if self.waits > 0:
                return
            call(*walk.hooks[self.number])
            for following in walk.downstream[self.number]:
                refs[following].tell("ended")
            with lock:
                left[0] -= 1
                if not left[0]:
                    all_ended.set()
            self.stop()

    began = time.perf_counter()
    refs.extend(Hook.start(number) for number in range(len(walk.hooks)))
    for number, awaited in enumerate(walk.upstream):
        if not awaited:
            refs[number].tell("start")
    all_ended.wait()
    seconds = time.perf_counter() - began
    ActorRegistry.stop_all()
    return seconds


def run_karbor(graph: SyntheticGraph) -> float:
    """Run Karbor's own protect flow: its walk, its tasks and its workflow engine.

    Its hooks do nothing; there is no bank, no database and no configuration behind it. The graph
    is Karbor's, of its own Resource objects.
    """
    import eventlet  # noqa: PLC0415

    eventlet.monkey_patch()  # as Karbor's daemon does
    from karbor.common import constants  # noqa: PLC0415
    from karbor.resource import Resource  # noqa: PLC0415
    from karbor.services.protection import graph as karbor_graph  # noqa: PLC0415
    from karbor.services.protection import resource_flow  # noqa: PLC0415
    from karbor.services.protection.flows.workflow import TaskFlowEngine  # noqa: PLC0415

    class Operation:
        def on_prepare_begin(self, checkpoint: Any, resource: Any, **kwargs: Any) -> None:
            """Do nothing, and so do the others."""

        on_prepare_finish = on_main = on_complete = on_prepare_begin

    class Plugin:
        def get_protect_operation(self, resource: Any) -> Operation:
            return Operation()

    def node(number: int) -> Any:
        return Resource(type="Bench::Node", id=str(number), name="node")

    began = time.perf_counter()
    made = karbor_graph.build_graph(
        [node(root) for root in graph.roots],
        lambda parent: [node(child) for child in graph.children(int(parent.id))],
    )
    engine = TaskFlowEngine()
    flow = resource_flow.build_resource_flow(
        operation_type=constants.OPERATION_PROTECT,
        context={},
        workflow_engine=engine,
        plugins={"Bench::Node": Plugin()},
        resource_graph=made,
        parameters={},
    )
    store: dict[str, Any] = {"context": {}, "checkpoint": None, "operation_log": None}
    engine.run_engine(engine.get_engine(flow, store=store))
    return time.perf_counter() - began
