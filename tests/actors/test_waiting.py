"""Waiting for what others do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers import DEADLINE
from karbor_actors.actors.waiting import Bell, Flag


def test_what_is_so_is_not_waited_for():
    assert Bell().wait(lambda: True)
    assert Bell().wait(lambda: True, timeout=0)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_what_does_not_become_so_is_waited_for_so_long(timeout):
    bell, began = Bell(), time.monotonic()

    assert not bell.wait(lambda: False, timeout)
    assert time.monotonic() - began >= timeout
    assert not bell._sleepers, "it is still to be woken"


def test_all_who_wait_see_for_themselves_when_it_rings():
    bell, limit, seen = Bell(), [0], []

    def wait(least: int) -> None:
        assert bell.wait(lambda: limit[0] >= least, DEADLINE)
        seen.append(least)

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(wait, least) for least in (1, 1, 2)]
        for least in (1, 2):
            limit[0] = least
            bell.ring()
        for one in waiting:
            one.result(DEADLINE)
    assert sorted(seen) == [1, 1, 2]


def test_who_looks_needs_nobody_to_ring():
    bell, is_so = Bell(), threading.Event()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bell.wait, is_so.is_set, DEADLINE, look=0.01)
        is_so.set()
        assert waiting.result(DEADLINE)


def test_no_ring_is_lost_however_they_meet():
    """Two threads take turns, a thousand times each, and each waits for the other."""
    bell, turn = Bell(), [0]

    def take_turns(own: int) -> None:
        for _ in range(1000):
            assert bell.wait(lambda: turn[0] % 2 == own, DEADLINE), "a ring was lost"
            turn[0] += 1
            bell.ring()

    with ThreadPoolExecutor(2) as pool:
        for taken in [pool.submit(take_turns, own) for own in (0, 1)]:
            taken.result(DEADLINE)
    assert turn == [2000]


def test_a_flag_is_an_event():
    flag = Flag()
    assert isinstance(flag, threading.Event)
    assert not flag.is_set()
    assert not flag.wait(0.001)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(flag.wait, DEADLINE)
        flag.set()
        assert waiting.result(DEADLINE)
    assert flag.is_set()
    flag.clear()
    assert not flag.is_set()
