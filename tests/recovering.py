"""Killing tests/killed_process.py, and what must hold once another process has recovered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import killed_process
from helpers import DEADLINE
from karbor_actors import ProtectionService

SCRIPT = Path(killed_process.__file__)
HOOKS = ("on_prepare_begin", "on_prepare_finish", "on_main", "on_complete")


def run_until_killed(
    directory: Path, verb: str, checkpoint: str, *kill: str, isolate: bool = False
) -> bool:
    """Run a process that kills itself in a hook; return whether it did."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(directory), verb, checkpoint, *kill],
        check=False,
        timeout=DEADLINE,
        capture_output=True,
        text=True,
        env={**os.environ, "ISOLATE": "1"} if isolate else None,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == -signal.SIGKILL


def recover(directory: Path) -> list[str]:
    """Open the bank again, let everything be taken up; return how each operation ended."""
    with ProtectionService(workers=4) as service:
        service.add_provider(killed_process.provider(directory))
        ended = []
        for handle in service.recovered:
            assert handle.wait(DEADLINE)
            ended.append(str(handle.status))
        bank = service.provider("local").bank
        assert all(record.status.is_terminal for record in bank.journal.operations())
        assert bank.check(deep=True) == []
    assert not list(directory.glob("frozen-*")), "something stays frozen"
    check_order(directory)
    return ended


def check_order(directory: Path) -> None:
    """No edge of the guide is broken, over all processes; a completed hook never ran again."""
    log = directory / "log"  # there is none if the process was killed before its first hook
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    for verb in ("protect", "restore"):
        own = [line for line in lines if line[1] == verb and line[2] in HOOKS]
        begins = {
            (line[2], line[3]): n
            for n, line in reversed(list(enumerate(own)))
            if line[0] == "begin"
        }
        last = {(line[2], line[3]): n for n, line in enumerate(own) if line[0] == "begin"}
        ends = {(line[2], line[3]): n for n, line in enumerate(own) if line[0] == "end"}
        edges = [
            ((a, n), (b, n))
            for n in ("server", "disk1", "disk2", "image")
            for a, b in pairwise(HOOKS)
        ]
        for parent, children in killed_process.CHILDREN.items():
            for child in children:
                edges.append(((HOOKS[0], parent), (HOOKS[0], child)))
                edges.append(((HOOKS[1], child), (HOOKS[1], parent)))
                edges.append(((HOOKS[3], child), (HOOKS[3], parent)))
        for before, after in edges:
            if after in begins:
                assert before in ends
                assert ends[before] < begins[after], f"{after} began before {before} ended"
                assert last[before] < begins[after], f"{before} ran again after {after} began"
        keys = {}
        for line in own:
            if line[0] == "begin":
                assert keys.setdefault((line[2], line[3]), line[5]) == line[5]
