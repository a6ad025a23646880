"""Ctrl-C: the operation is cancelled and undone, and nothing is left half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import DEADLINE

INTERRUPTED = """
import os, signal, threading
os.kill(os.getpid(), signal.SIGINT)
threading.Event().wait(30)
"""
"""A module that gets Ctrl-C while it is imported."""
LAUNCHER = "import sys, karbor_actors_command; sys.exit(karbor_actors_command.main())"


@pytest.mark.parametrize("module", ["lmdb", "click"])
def test_ctrl_c_while_the_program_still_loads_is_one_line(cli, tmp_path, module):
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / f"{module}.py").write_text(INTERRUPTED)
    paths = [str(tmp_path / "fakes"), cli.environment["PYTHONPATH"]]
    process = subprocess.run(
        [sys.executable, "-c", LAUNCHER, "plugins", "list", "--json"],
        env={**cli.environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert process.returncode == 130
    assert process.stderr == "error: interrupted; no operation was running\n"
    assert json.loads(process.stdout)["error"]["exit_code"] == 130


def test_ctrl_c_while_the_commands_load_needs_no_launcher(cli, tmp_path):
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "click.py").write_text(INTERRUPTED)
    paths = [str(tmp_path / "fakes"), cli.environment["PYTHONPATH"]]
    cli.environment = {**cli.environment, "PYTHONPATH": os.pathsep.join(paths)}

    assert cli.fails(130, "plugins", "list") == "error: interrupted; no operation was running"


def test_the_launcher_runs_commands_that_take_ctrl_c_as_ever(cli, slow_config, tmp_path):
    command = [sys.executable, "-c", LAUNCHER, "protect", "thing", "--config", "slow.toml"]
    options = {"cwd": tmp_path, "env": cli.environment, "stdout": -1, "stderr": -1, "text": True}
    with subprocess.Popen([*command, "--progress", "json"], **options) as process:
        cli.wait_for_event(process, "hook_started")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert (tmp_path / "thing" / "undone").read_text() == "cancel"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_and_undoes(cli, slow_config, tmp_path, number):
    with cli.slow_protect() as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert json.loads(out)["error"]["class"] == "OperationCancelledError"
    assert err.splitlines()[-1].startswith("error: ")
    assert (tmp_path / "thing" / "undone").read_text() == "cancel"
    [checkpoint] = cli("checkpoints", "list", "--config", "slow.toml", "--json").document
    [operation] = cli("operations", "list", "--config", "slow.toml", "--json").document
    assert checkpoint["status"] == "error"
    assert operation["status"] == "cancelled"


def test_a_second_ctrl_c_goes_on_waiting_for_the_end(cli, slow_config, tmp_path):
    gate = tmp_path / "thing" / "gate"
    os.mkfifo(gate)
    with cli.slow_protect() as process:
        process.send_signal(signal.SIGINT)
        cli.wait_for_event(process, "message", "cancelling")
        process.send_signal(signal.SIGINT)
        cli.wait_for_event(process, "message", "still undoing")
        assert process.poll() is None
        gate.write_text("open")
        process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert (tmp_path / "thing" / "undone").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_end_changes_nothing_about_it(cli, slow_config, tmp_path, number):
    late = tmp_path / "thing" / "late"
    os.mkfifo(late)
    with cli.slow_protect() as process:
        (tmp_path / "thing" / "finish").touch()
        with late.open("w"):  # opens once the process is on its way out
            process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 0
    assert json.loads(out)["result"]["status"] == "available"
    assert "error" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_result_was_told_does_not_kill_the_process(
    cli, slow_config, tmp_path, number
):
    """Python gives its handlers up some hundredths of a second before the process has ended."""
    (tmp_path / "thing" / "finish").touch()
    codes = []
    for late in range(10):
        with cli.slow_protect() as process:
            while '"available"' not in process.stdout.readline():
                pass
            time.sleep(0.004 * late)
            process.send_signal(number)
            codes.append(process.wait(timeout=DEADLINE))

    assert set(codes) == {0}


LEAVES_A_THREAD = """
import sys, threading
from karbor_actors.cli import app, entry

def run(args):
    threading.Thread(target=threading.Event().wait).start()
    print("told", flush=True)
    return 3

app.run = run
sys.exit(entry.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_that_waits_for_a_thread_that_a_plugin_has_left(number):
    command = [sys.executable, "-c", LEAVES_A_THREAD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "told\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
            process.send_signal(number)
            assert process.wait(timeout=DEADLINE) == 3
        finally:
            process.kill()


def test_a_terminal_that_goes_away_does_not_keep_an_operation_from_being_undone(
    cli, slow_config, tmp_path
):
    with cli.slow_protect() as process:
        process.stderr.close()
        process.send_signal(signal.SIGHUP)
        process.wait(timeout=DEADLINE)

    assert (tmp_path / "thing" / "undone").read_text() == "cancel"


def test_what_a_killed_process_left_is_undone_by_the_next(cli, slow_config, tmp_path):
    with cli.slow_protect() as process:
        process.kill()
        process.wait(timeout=DEADLINE)
    assert not (tmp_path / "thing" / "undone").exists()
    [left] = cli("operations", "list", "--config", "slow.toml", "--json").document

    finished = cli("protect", "thing", "--config", "slow.toml", "--timeout", "0.1", code=8)
    assert f"first: the protect {left['id'][:8]} that an earlier process left" in finished.err
    listed = cli("operations", "list", "--config", "slow.toml", "--json").document
    assert {one["id"]: one["status"] for one in listed}[left["id"]] == "failed"
    assert len(listed) == 2
