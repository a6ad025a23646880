"""The process-wide dispatcher, typed asks, and what a fork does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass

import pykka
import pytest

from helpers import DEADLINE
from karbor_actors.actors import (
    LightActor,
    Message,
    PooledActor,
    ask,
    default_dispatcher,
    set_default_dispatcher,
)


@dataclass(frozen=True, slots=True)
class GetLength(Message[int]):
    """Ask for the length of a text."""

    text: str


class Lengths(PooledActor):
    def on_receive(self, message):
        return len(message.text)


def run_script(script):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_start_uses_the_default_dispatcher_and_ask_knows_the_replys_type():
    ref = Lengths.start()

    length: int = ask(ref, GetLength("four"), timeout=DEADLINE)
    assert length == 4
    assert default_dispatcher() is default_dispatcher()
    assert ref.stop(timeout=DEADLINE)


def test_nested_asks_deeper_than_its_threads_do_not_deadlock_the_default_dispatcher():
    class Nested(LightActor):
        def on_receive(self, message):
            if not message:
                return 0
            ref = Nested.start()
            try:
                return 1 + ref.ask(message - 1, timeout=DEADLINE)
            finally:
                ref.stop(timeout=DEADLINE)

    ref = Nested.start()

    assert ref.ask(12, timeout=DEADLINE) == 12
    ref.stop(timeout=DEADLINE)


def test_the_default_dispatcher_can_be_replaced(make_dispatcher):
    mine = make_dispatcher()
    old = set_default_dispatcher(mine)
    try:
        ref = Lengths.start()

        assert mine.actor_count == 1
        ref.stop(timeout=DEADLINE)
    finally:
        assert set_default_dispatcher(old) is mine


def test_importing_and_asking_for_the_default_dispatcher_starts_no_thread():
    script = """
import threading, karbor_actors.actors as actors
actors.default_dispatcher()
print(threading.active_count())
"""
    assert run_script(script) == ["1"]


def test_a_program_ends_while_actors_on_the_default_dispatcher_are_idle():
    script = """
from karbor_actors.actors import PooledActor
PooledActor.start()
print("over")
"""
    assert run_script(script) == ["over"]


def test_a_forked_child_gets_a_new_default_dispatcher_and_dead_old_actors():
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
import pykka
from karbor_actors.actors import PooledActor, ThreadDispatcher
from karbor_actors.errors import DispatcherClosedError

class Echo(PooledActor):
    def on_receive(self, message):
        return message

other = ThreadDispatcher(name="other")
old, mine = Echo.start(), Echo.start_on(other)
assert old.ask("parent", timeout=30) == "parent"
assert mine.ask("parent", timeout=30) == "parent"
child = os.fork()
if not child:
    code = 1
    try:
        new = Echo.start()
        assert new.ask("child", timeout=30) == "child"
        for ref in (old, mine):
            assert not ref.is_alive()
            try:
                ref.ask("lost", timeout=30)
            except pykka.ActorDeadError:
                pass
            else:
                raise AssertionError
        try:
            Echo.start_on(other)
        except DispatcherClosedError:
            pass
        else:
            raise AssertionError
        other.close(timeout=30)
        code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert old.ask("parent", timeout=30) == "parent"
other.close(timeout=30)
print("over")
"""
    assert run_script(script) == ["over"]


def test_an_ask_that_takes_too_long_times_out():
    opened = threading.Event()

    class Slow(PooledActor):
        def on_receive(self, message):
            opened.wait(DEADLINE)

    ref = Slow.start()
    with pytest.raises(pykka.Timeout):
        ask(ref, GetLength(""), timeout=0.01)
    opened.set()
    ref.stop(timeout=DEADLINE)
