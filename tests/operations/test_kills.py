"""Real processes killed with SIGKILL at points drawn by a seed: commits, objects, messages, hooks.

KARBOR_ACTORS_KILLS says of how many banks; ``tox -e stress`` asks for more.
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


def lives() -> list[tuple[tuple[str, int], ...]]:
    """Return where one process is killed, and the next one, which recovers, and maybe a third."""
    rng = random.Random("kills")
    drawn: dict[tuple[tuple[str, int], ...], None] = {}
    while len(drawn) < KILLS:
        points = rng.choices(list(REACH), k=rng.choice((1, 1, 2, 3)))
        drawn[tuple((point, rng.randint(1, REACH[point])) for point in points)] = None
    return list(drawn)


def run(directory, verb, faults) -> int:
    """Run a protect, or recover, in a process under *faults*; return how it ended."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(directory), verb, "-", "-", "-", "-"],
        check=False,
        timeout=DEADLINE,
        capture_output=True,
        text=True,
        env={**os.environ, VARIABLE: json.dumps(faults)},
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("places", lives(), ids=str)
def test_whatever_is_killed_nothing_stays_frozen_and_order_holds(tmp_path, places):
    for number, (point, nth) in enumerate(places):
        verb = "protect" if number == 0 else "recover"
        code = run(tmp_path, verb, {"rules": [{"point": point, "action": "kill", "nth": nth}]})
        if code == 0 and number == 0:  # it had ended before it came to the point
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
