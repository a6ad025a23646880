"""Threads that keep no process from ending, and an Executor otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import DaemonExecutor


def test_it_gives_results_and_what_was_raised():
    with DaemonExecutor(2, "test") as executor:
        assert list(executor.map(str, range(100))) == [str(n) for n in range(100)]
        broken = executor.submit(int, "no number")
        with pytest.raises(ValueError, match="no number"):
            broken.result(DEADLINE)
        raised = executor.submit(sys.exit, 3)
        with pytest.raises(SystemExit):
            raised.result(DEADLINE)
        assert executor.submit(str, 1).result(DEADLINE) == "1"


def test_as_many_threads_start_as_there_is_work_for_and_no_more():
    before, together = threading.active_count(), threading.Barrier(3, timeout=DEADLINE)
    with DaemonExecutor(3, "test") as executor:
        assert executor.submit(str, 1).result(DEADLINE) == "1"
        assert threading.active_count() - before == 1
        waiting = [executor.submit(together.wait) for _ in range(3)]
        assert sorted(each.result(DEADLINE) for each in waiting) == [0, 1, 2]
        done = [executor.submit(str, n) for n in range(100)]
        assert [each.result(DEADLINE) for each in done] == [str(n) for n in range(100)]
        assert threading.active_count() - before == 3


@pytest.mark.parametrize("cancels", [True, False])
def test_shutting_it_down_waits_for_what_is_queued_unless_that_is_cancelled(cancels):
    gate, executor = Gate(), DaemonExecutor(1, "test")
    running = executor.submit(gate.pass_through)
    gate.wait_entered()
    queued = executor.submit(str, 1)
    executor.shutdown(wait=False, cancel_futures=cancels)
    gate.open()
    executor.shutdown()
    assert running.result(DEADLINE) is None
    if cancels:
        with pytest.raises(CancelledError):
            queued.result(DEADLINE)
    else:
        assert queued.result(DEADLINE) == "1"
    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit(str, 2)


def test_the_threads_of_one_that_is_forgotten_end():
    executor = DaemonExecutor(1, "test-forgotten")
    executor.submit(str, 1).result(DEADLINE)
    del executor
    for thread in threading.enumerate():
        if thread.name.startswith("test-forgotten"):
            thread.join(DEADLINE)
            assert not thread.is_alive()


HANGING = """
import sys, threading, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from karbor_actors import ProtectionService
from kit import Journal, RecordingProtection, Things, plan, provider, thing

hangs, asked = threading.Event(), []

class Slow(Things):
    def get_dependent_resources(self, context, parent_resource):
        asked.append(parent_resource)
        if len(asked) < 3:
            time.sleep(0.03)  # so that the rest goes to threads
        else:
            hangs.set()
            threading.Event().wait()
        return []

protects = provider(Path(sys.argv[1]), RecordingProtection(Journal()))
from karbor_actors.protectables import Protectables
protects.protectables = Protectables([Slow()])
service = ProtectionService(workers=2)
service.add_provider(protects)
handle = service.protect(plan(*map(str, range(2_000))))
assert hangs.wait(60)
assert any(t.name.startswith("karbor-look-up") for t in threading.enumerate())
handle.cancel()
assert handle.wait(60)
service.close()
print("closed")
"""


HANGING_OFF_THE_LOOP = """
import asyncio, sys, threading
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from karbor_actors import ProtectionService, TimeLimits
from kit import Journal, RecordingProtection, plan, provider

hangs = threading.Event()

def hang():
    hangs.set()
    threading.Event().wait()

def behave(verb, hook, resource, call):
    return asyncio.to_thread(hang) if hook == "on_main" else None

plugin = RecordingProtection(Journal(), behave, is_async=True)
service = ProtectionService(workers=2)
service.add_provider(provider(Path(sys.argv[1]), plugin, time_limits=TimeLimits(main=0.1)))
handle = service.protect(plan("one"))
assert hangs.wait(60)
assert handle.wait(60)
service.close()
print("closed")
"""


@pytest.mark.parametrize("program", [HANGING, HANGING_OFF_THE_LOOP], ids=["look-up", "to_thread"])
def test_a_plugin_that_hangs_keeps_no_process_from_ending(tmp_path, program):
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bank"), *paths],
        check=False,
        timeout=2 * DEADLINE,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


def test_what_is_waited_for_too_long_goes_on():
    gate = Gate()
    with DaemonExecutor(1, "test") as executor:
        running = executor.submit(gate.pass_through)
        gate.wait_entered()
        assert running.running()
        assert not running.done()
        assert not running.cancel()
        for ask in (running.result, running.exception):
            with pytest.raises(TimeoutError):
                ask(0.001)
        gate.open()
        assert running.result(DEADLINE) is None
        assert running.done()
        assert not running.running()
        assert not running.cancelled()
