"""Real processes killed with SIGKILL at points drawn by a seed: commits, objects, messages, hooks.

KARBOR_ACTORS_KILLS says how many; ``tox -e stress`` asks for more.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from helpers import DEADLINE
from karbor_actors import Bank
from karbor_actors.testing.faults import VARIABLE
from recovering import SCRIPT, recover

KILLS = int(os.environ.get("KARBOR_ACTORS_KILLS", "30"))
REACH = {
    "commit_before": 30,
    "commit_after": 30,
    "put_before": 2,
    "put_after": 2,
    "message": 120,
    "hook_before": 16,
    "hook_after": 16,
}
"""How often a protect of the killed process passes each point, about."""


def places() -> list[tuple[str, int]]:
    rng = random.Random("kills")
    drawn: dict[tuple[str, int], None] = {}
    while len(drawn) < min(KILLS, sum(REACH.values())):
        point = rng.choice(list(REACH))
        drawn[point, rng.randint(1, REACH[point])] = None
    return list(drawn)


def run(directory, faults) -> int:
    """Run a protect in a process under *faults*; return how it ended."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(directory), "protect", "-", "-", "-", "-"],
        check=False,
        timeout=DEADLINE,
        capture_output=True,
        text=True,
        env={**os.environ, VARIABLE: json.dumps(faults)},
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize(("point", "nth"), places())
def test_whatever_is_killed_nothing_stays_frozen_and_order_holds(tmp_path, point, nth):
    code = run(tmp_path, {"rules": [{"point": point, "action": "kill", "nth": nth}]})
    if code == 0:  # it had ended before it came to the point
        assert nth > REACH[point] // 4, f"nobody was killed at {point} {nth}"
    recover(tmp_path)
    assert recover(tmp_path) == [], "one recovery ends everything"

    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        for checkpoint in bank.checkpoints():
            assert checkpoint.status in ("available", "error")
            if checkpoint.status == "available":
                for resource in checkpoint.resource_graph.nodes:
                    section = checkpoint.get_resource_bank_section(resource)
                    with section.open_stream("data") as stream:
                        assert stream.read() == resource.id.encode() * 10_000
