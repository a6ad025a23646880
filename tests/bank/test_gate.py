"""The gate that readers pass, and who replaces the map has alone."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from helpers import DEADLINE
from karbor_actors.bank.database.gate import Gate


def read(gate: Gate) -> None:
    reading = gate.enter()
    assert gate.is_inside
    reading.give_back()


def reads_within(gate: Gate, number: int) -> bool:
    """Read, and within that at the place of that *number*; return whether there is such a place.

    So does a signal's handler, or the collector, which ends what a generator reads.
    """
    seen, places = count(), list[int]()

    def see(*_: object) -> None:
        if next(seen) == number:
            sys.setprofile(None)
            places.append(number)
            read(gate)

    sys.setprofile(see)
    try:
        read(gate)
    finally:
        sys.setprofile(None)
    assert not gate.is_inside
    return bool(places)


def test_a_thread_may_read_wherever_it_enters_or_leaves():
    gate, ended = Gate(), threading.Event()

    def read_at_each_place() -> None:
        number = 0
        while reads_within(gate, number):
            with gate.alone():
                number += 1
        assert number > 5
        ended.set()

    threading.Thread(target=read_at_each_place, daemon=True).start()
    assert ended.wait(DEADLINE), "it waits for itself"


def test_who_reads_already_does_not_wait_for_who_waits_for_it():
    gate = Gate()
    outer = gate.enter()
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(lambda: gate.alone().__enter__())
        while not gate._claims:
            time.sleep(0.001)
        read(gate)
        assert not closing.done()
        outer.give_back()
        closing.result(DEADLINE)


@pytest.mark.parametrize("closers", [1, 2])
def test_nobody_reads_while_a_thread_is_alone(closers):
    gate, reading, are_alone, faults = Gate(), set(), [], []

    def read_often(own: int) -> None:
        for _ in range(1000):
            outer, inner = gate.enter(), gate.enter()
            reading.add(own)
            faults.extend(are_alone)
            reading.remove(own)
            inner.give_back()
            outer.give_back()

    def shut_often(own: int) -> None:
        for _ in range(100):
            with gate.alone():
                faults.extend([*are_alone, *reading])
                are_alone.append(own)
                time.sleep(0.0001)
                are_alone.remove(own)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3 + closers) as pool:
            runs = [pool.submit(read_often, own) for own in range(3)]
            runs += [pool.submit(shut_often, -own) for own in range(1, closers + 1)]
            for run in runs:
                run.result(DEADLINE)
    finally:
        sys.setswitchinterval(before)
    assert not faults
