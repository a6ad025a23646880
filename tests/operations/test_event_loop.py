"""The event loop of async hooks, and those that a blocking hook made it replace."""

from __future__ import annotations

import threading

from helpers import DEADLINE, Gate
from karbor_actors.operations import event_loop as module
from karbor_actors.operations.event_loop import LoopRunner


class Call:
    """Waits at its gate, which blocks the loop; says when it is done."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.done = gate, threading.Event()

    async def execute_async(self) -> None:
        self.gate.pass_through()
        self.done.set()

    def refuse(self, why: str) -> None:
        raise AssertionError(why)


def test_a_call_can_be_given_up_while_a_loop_that_was_replaced_ends(monkeypatch):
    """Its thread lives a moment longer than the loop, which takes nothing any more by then."""
    monkeypatch.setattr(module, "STUCK", 0.0)
    runner, closed = LoopRunner("test-loop"), Gate()
    blocked = Call(Gate())
    runner.submit([blocked])
    blocked.gate.wait_entered()
    loop = runner._current
    close = loop._loop.close

    def close_and_stay() -> None:
        close()
        closed.pass_through()

    monkeypatch.setattr(loop._loop, "close", close_and_stay)
    for _ in range(2):  # it is asked, and has not answered
        runner.look_around()
    later = Call(Gate())
    runner.submit([later])
    later.gate.wait_entered()
    blocked.gate.open()
    closed.wait_entered()
    runner.abandon(later)
    closed.open()
    later.gate.open()

    assert later.done.wait(DEADLINE)
    runner.close()
    for thread in (loop.thread, *(t for t in threading.enumerate() if t.name == "test-loop")):
        thread.join(DEADLINE)
