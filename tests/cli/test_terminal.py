"""What a person at a terminal sees, by way of a pseudo-terminal."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from helpers import DEADLINE

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal, of 80 columns by default, with a command on it."""

    def __init__(self, cli, *arguments, columns=80, **environment) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        cli.environment = {**cli.environment, "TERM": "xterm", **environment}
        del cli.environment["COLUMNS"]
        self.process = cli.start(*arguments, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.raw = ""
        self._killer = threading.Timer(DEADLINE, self.process.kill)
        self._killer.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._killer.cancel()
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read_until(self, text: str) -> None:
        """Read until *text* was seen, colours and all left out."""
        while text not in self.text:
            if not self._read():
                pytest.fail(f"no {text!r} in {self.text!r}")

    def read_all(self) -> str:
        """Read to the end; return all that was seen."""
        while self._read():
            pass
        self.process.wait(timeout=DEADLINE)
        return self.text

    def wait_reading(self) -> None:
        """Wait until the command's main thread waits for what is typed."""
        poll = threading.Event()
        for _ in range(int(DEADLINE * 100)):
            call = Path(f"/proc/{self.process.pid}/syscall").read_text().split()
            if len(call) > 1 and call[1] in ("0x0", "0x1"):  # of descriptor 0, or up to there
                return
            poll.wait(0.01)
        pytest.fail("it never read")

    @property
    def text(self) -> str:
        return ESCAPES.sub("", self.raw)

    def _read(self) -> bool:
        try:
            piece = os.read(self.master, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:  # what Linux says at the end
                raise
            return False
        self.raw += piece.decode(errors="replace")
        return bool(piece)


def test_a_narrow_terminal_still_shows_which_resource_it_is(cli, slow_config):
    with Terminal(cli, "protect", "thing", "--config", "slow.toml", columns=50) as terminal:
        terminal.read_until("of 39.1 MiB")
        terminal.process.send_signal(signal.SIGINT)
        text = terminal.read_all()

    assert re.search(r"Thing thing +on_main +[0-9.]+ .iB of 39\.1 MiB", text)
    assert "left" not in text


def test_the_live_tree_shows_hook_bytes_rate_and_time_left(cli, slow_config):
    with Terminal(cli, "protect", "thing", "--config", "slow.toml") as terminal:
        terminal.read_until("left")
        terminal.process.send_signal(signal.SIGINT)
        text = terminal.read_all()

    assert terminal.process.returncode == 130
    assert re.search(r"Thing thing +on_main +[\d.]+ KiB of 39.1 MiB \d+% +[\d.]+ KiB/s", text)
    assert "running" in text
    assert "cancelling" in text
    assert "was cancelled" in text
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h"), "the cursor is back"


def test_the_tree_is_gone_when_the_operation_has_ended(cli, app):
    with Terminal(cli, "protect", "app", "--bank", "bank") as terminal:
        text = terminal.read_all()

    assert terminal.process.returncode == 0
    assert "available, 2 resources" in text.splitlines()[-1]


def test_a_terminal_gets_short_ids_that_commands_take(cli, app):
    checkpoint = cli.protect("app")
    with Terminal(cli, "checkpoints", "list", "--bank", "bank") as terminal:
        [_, row] = terminal.read_all().splitlines()

    assert row.split()[0] == checkpoint[:8]
    assert len(row) <= 80


def test_a_delete_asks_and_takes_no_for_an_answer(cli, app):
    checkpoint = cli.protect("app")
    with Terminal(cli, "delete", checkpoint, "--bank", "bank") as terminal:
        terminal.read_until("for good?")
        os.write(terminal.master, b"n\n")
        assert "nothing was changed" in terminal.read_all()

    assert terminal.process.returncode == 130
    cli("verify", checkpoint, "--bank", "bank")


def test_ctrl_c_at_a_question_changes_nothing_and_says_so_on_a_line_of_its_own(cli, app):
    checkpoint = cli.protect("app")
    with Terminal(cli, "delete", checkpoint, "--bank", "bank") as terminal:
        terminal.read_until("[y/N]")
        # One that comes just before the program begins to read is seen only after what it reads.
        terminal.wait_reading()
        terminal.process.send_signal(signal.SIGINT)
        text = terminal.read_all()

    assert terminal.process.returncode == 130
    assert "error: interrupted; no operation was running" in text.splitlines()
    assert cli("checkpoints", "list", "--bank", "bank", "--json").document


def test_a_delete_deletes_after_a_yes(cli, app):
    checkpoint = cli.protect("app")
    with Terminal(cli, "delete", checkpoint, "--bank", "bank") as terminal:
        terminal.read_until("for good?")
        os.write(terminal.master, b"y\n")
        terminal.read_all()

    assert terminal.process.returncode == 0
    assert cli("checkpoints", "list", "--bank", "bank", "--json").document == []


def test_colours_can_be_switched_off(cli, app):
    cli.protect("app")
    with Terminal(cli, "checkpoints", "show", "nope", "--bank", "bank") as terminal:
        terminal.read_all()
    assert "\x1b[1;31m" in terminal.raw
    cli.environment["COLUMNS"] = "80"
    with Terminal(cli, "checkpoints", "show", "nope", "--bank", "bank", NO_COLOR="1") as terminal:
        terminal.read_all()
    assert "31m" not in terminal.raw


def test_stdout_stays_clean_when_only_stderr_is_a_terminal(cli, app):
    out = subprocess.PIPE
    master, slave = pty.openpty()
    try:
        finished = cli("protect", "app", "--bank", "bank", "--json", stderr=slave, stdout=out)
    finally:
        os.close(slave)
        os.close(master)

    assert finished.document["result"]["status"] == "available"
