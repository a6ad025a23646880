"""Lanes that share threads, and calls for them, as tests use them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

from helpers import DEADLINE
from karbor_actors.actors import LightActor, ThreadDispatcher
from karbor_actors.operations.hooks.lookout import Lookout
from karbor_actors.operations.hooks.pool import Pool
from karbor_actors.operations.hooks.workers import ThreadRunner


class Call:
    """Does what it is told, and then tells an actor that it has ended, if it has one to tell."""

    def __init__(self, work=lambda: None, told=None) -> None:
        self.work, self.told = work, told
        self.has_ended = False
        self.done = threading.Event()
        self.refused = ""
        self.thread = None

    def execute(self) -> None:
        self.thread = threading.current_thread()
        self.work()
        self.has_ended = True
        if self.told is not None:
            self.told.tell(self)
        self.done.set()

    def refuse(self, why: str) -> None:
        self.refused = why
        self.done.set()


def wait_until(is_so) -> None:
    poll = threading.Event()
    for _ in range(int(DEADLINE * 100)):
        if is_so():
            return
        poll.wait(0.01)
    raise AssertionError("it never came to that")


class Handing(LightActor):
    """Hands on what it is told to hand on after a call."""

    def __init__(self, hand_on) -> None:
        super().__init__()
        self.hand_on = hand_on

    def on_receive(self, call):
        if call is not None:
            self.hand_on(call)


class Lanes:
    """Three lanes that share a pool, and a control dispatcher."""

    def __init__(self, *limits: int) -> None:
        self.control = ThreadDispatcher(name="test-control", lends=True)
        lookout = self.lookout = Lookout(self.control.call_later)
        pool = Pool()
        self.lanes = [
            ThreadRunner(limit, f"test-lane-{number}", lookout=lookout, pool=pool)
            for number, limit in enumerate(limits)
        ]
        for lane in self.lanes:
            lookout.add(lane)

    def handing(self, hand_on):
        """Return an actor that calls *hand_on* with each call that has ended."""
        ref = Handing.start_on(self.control, hand_on)
        ref.ask(None, timeout=DEADLINE)
        return ref

    def make_quick(self) -> None:
        """Run some calls in each lane, so that they count as quick, and a worker or two sleep."""
        for lane in self.lanes:
            for _ in range(50):
                call = Call()
                lane.submit([call])
                assert call.done.wait(DEADLINE)
                if not lane.are_slow:
                    break
            assert not lane.are_slow
        wait_until(lambda: not any(lane.threads for lane in self.lanes))

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self.control.close(timeout=DEADLINE)


class Storm:
    """Many calls, most of them quick, which hand on others to any lane as they end."""

    def __init__(self, lanes: Lanes, seed: int) -> None:
        self.lanes, self.random = lanes, random.Random(seed)
        self.ran: Counter[int] = Counter()
        self.running: Counter[int] = Counter()
        self.most: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.left, self.count = 300, 0
        self.is_over = threading.Event()
        self.told = lanes.handing(lambda _: self.hand_on())

    def hand_on(self) -> None:
        """Submit some more, of all lanes, in this turn."""
        for _ in range(self.random.choice((0, 1, 1, 2, 3, 8))):
            self.submit()

    def submit(self) -> None:
        with self.lock:
            if not self.left:
                return
            self.left -= 1
            number, lane = self.count, self.random.randrange(3)
            self.count += 1
        pause = self.random.choice((0, 0, 0, 0, 0.0002, 0.002, 0.01))
        told = self.told if self.random.random() < 0.9 else None
        call = Call(lambda: self.run(number, lane, pause), told)
        self.lanes.lanes[lane].submit([call], first=self.random.random() < 0.2)

    def run(self, number: int, lane: int, pause: float) -> None:
        with self.lock:
            self.ran[number] += 1
            self.running[lane] += 1
            self.most[lane] = max(self.most[lane], self.running[lane])
        time.sleep(pause)
        with self.lock:
            self.running[lane] -= 1
            if not self.left and self.ran.total() == self.count:
                self.is_over.set()
