"""The command line as a process of its own, and a plugin that takes its time."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import karbor_actors
import karbor_filesystem
from helpers import DEADLINE
from karbor_actors.plugins import PROTECTION_GROUP

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
LIMIT = 2 * DEADLINE
"""Seconds that a command may take, its start included."""

SLOW_PLUGIN = '''
"""A thing is a directory, and files in it say what becomes of its protect.

That lasts until a cancel, or until there is a file "finish"; undoing it as long as a test wants,
and so does the end of the process if there is a pipe "late". Then it saves what "record" (in the
bank) and "snapshot" (elsewhere) say.
"""

import atexit
import os
import threading

from karbor_actors import Operation, ProtectablePlugin, ProtectionPlugin, Resource

TYPE = "Test::Thing"


class Thing(ProtectablePlugin):
    def get_resource_type(self):
        return TYPE

    def show_resource(self, context, resource_id, parameters=None):
        return Resource(TYPE, resource_id, "thing") if os.path.isdir(resource_id) else None


def wait_for(pipe):
    with open(pipe) as file:
        file.read()


def save(checkpoint, resource, context):
    if os.path.exists(os.path.join(resource.id, "record")):
        checkpoint.get_resource_bank_section(resource).update_object("record", 1)
    if os.path.exists(os.path.join(resource.id, "snapshot")):
        context.artifact("snapshot", "s-1").keep()
        context.report_consistency("crash", "a snapshot")


class Protect(Operation):
    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        if os.path.exists(late := os.path.join(resource.id, "late")):
            atexit.register(wait_for, late)
        for turn in range(10_000):
            if os.path.exists(os.path.join(resource.id, "finish")):
                return save(checkpoint, resource, context)
            context.progress(turn * 4096, 40_960_000, "bytes")
            context.check_cancelled()
            threading.Event().wait(0.01)

    def on_abort(self, checkpoint, resource, context, parameters, **kwargs):
        if os.path.exists(os.path.join(resource.id, "stuck")):
            raise OSError("it is stuck")
        gate = os.path.join(resource.id, "gate")
        if os.path.exists(gate):
            wait_for(gate)
        with open(os.path.join(resource.id, "undone"), "w") as file:
            file.write(str(kwargs["reason"].kind))


class Copy(Operation):
    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        Protect.on_main(self, kwargs["checkpoint_copy"], resource, context, parameters)


class Protection(ProtectionPlugin):
    @classmethod
    def get_supported_resources_types(cls):
        return [TYPE]

    def get_protect_operation(self, resource):
        protect = Protect()
        protect.resumable = os.path.exists(os.path.join(resource.id, "resumable"))
        return protect

    def get_copy_operation(self, resource):
        return Copy()
'''


class Finished:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def errors(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def document(self):
        """What ``--json`` printed."""
        return json.loads(self.out)


class CommandLine:
    """Runs commands in a directory of their own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory, self.environment = directory, environment

    def start(self, *arguments: str | bytes, **options) -> subprocess.Popen[str]:
        """Start a command; its streams are pipes unless *options* say otherwise."""
        return subprocess.Popen(
            [sys.executable, "-m", "karbor_actors.cli", *arguments],
            **{
                "cwd": self.directory,
                "env": self.environment,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "errors": "surrogateescape",
                **options,
            },
        )

    def __call__(self, *arguments: str | bytes, code: int | None = 0, **options) -> Finished:
        """Run a command to its end and check its exit code."""
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(timeout=LIMIT)
        finished = Finished(process.returncode, out or "", err or "")
        assert "Traceback" not in finished.err, finished
        if code is not None:
            assert finished.code == code, finished
        return finished

    def fails(self, code: int, *arguments: str | bytes, **options) -> str:
        """Run a command that ends with *code* and return its only error line."""
        finished = self(*arguments, code=code, **options)
        assert len(finished.errors) == 1, finished
        assert finished.err.splitlines()[-1] == finished.errors[0], finished
        return finished.errors[0]

    @contextmanager
    def slow_protect(self, *arguments: str):
        """Start a protect, or what *arguments* say, that lasts; yield it once its hook runs."""
        options = ("--config", "slow.toml", "--progress", "json", "--json")
        with self.start(*(arguments or ("protect", "thing")), *options) as process:
            killer = threading.Timer(DEADLINE, process.kill)
            killer.start()
            try:
                self.wait_for_event(process, "hook_started")
                yield process
            finally:
                killer.cancel()
                process.kill()

    @staticmethod
    def wait_for_event(process, kind, text=""):
        """Read a command's progress as JSON up to an event of that kind, and return it."""
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == kind and text in event.get("text", ""):
                return event
        pytest.fail(f"the command ended without {kind} {text}")

    def killed_protect(self):
        """Kill a protect whose hook runs; return its operation's id."""
        with self.slow_protect() as process:
            process.kill()
            process.wait(timeout=DEADLINE)
        [left] = self("operations", "list", "--config", "slow.toml", "--json").document
        return left["id"]

    def protect(self, *names: str | bytes, bank: str = "bank") -> str:
        """Protect *names* and return the checkpoint's id."""
        finished = self("protect", *names, "--bank", bank, "--json")
        return finished.document["result"]["id"]


def _root_of(module: ModuleType) -> str:
    assert module.__file__ is not None
    return str(Path(module.__file__).parents[1])


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of a process that finds the packages and their entry points."""
    paths = [_root_of(karbor_actors), _root_of(karbor_filesystem)]
    if not entry_points(group=PROTECTION_GROUP):  # a checkout, not an installed distribution
        metadata = tmp_path_factory.mktemp("metadata")
        command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(metadata)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        paths.append(str(metadata))
    plugin = tmp_path_factory.mktemp("plugin")
    (plugin / "karbor_test_slow.py").write_text(SLOW_PLUGIN)
    info = plugin / "karbor_test_slow-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: karbor-test-slow\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[karbor_actors.protections]\nslow = karbor_test_slow:Protection\n"
        "[karbor_actors.protectables]\nslow = karbor_test_slow:Thing\n"
    )
    paths.append(str(plugin))
    names = ("PATH", "HOME", "LANG", "TMPDIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "COLUMNS": "80"}


@pytest.fixture
def cli(tmp_path, environment):
    return CommandLine(tmp_path, environment)


@pytest.fixture
def app(tmp_path):
    """An application: two files and a database."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "hello.txt").write_text("hello")
    (folder / "random.bin").write_bytes(os.urandom(300_000))
    with closing(sqlite3.connect(folder / "rows.db")) as database:
        database.execute("CREATE TABLE rows (name)")
        database.executemany("INSERT INTO rows VALUES (?)", [("one",), ("two",)])
        database.commit()
    return folder


@pytest.fixture
def slow_config(tmp_path):
    """A provider with the plugin that takes its time, and the thing that it protects."""
    (tmp_path / "thing").mkdir()
    path = tmp_path / "slow.toml"
    path.write_text('[[provider]]\nname = "slow"\nbank = "bank"\nprotection_plugins = ["slow"]\n')
    return path
