"""``demo``: the whole job on real input, in one command, without a server or a configuration."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from karbor_actors import CheckpointStatus, Plan
from karbor_actors.cli import demo_application as application
from karbor_actors.cli import demo_compare as comparison
from karbor_actors.cli.failures import ExitCode
from karbor_actors.cli.invocation import local_settings
from karbor_actors.cli.options import PathName, command
from karbor_actors.cli.resources import plan_of_paths
from karbor_actors.cli.running import run
from karbor_actors.cli.text import human_bytes, human_seconds, plural, shown
from karbor_actors.errors import BankPathError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from karbor_actors import Bank, Checkpoint, OperationHandle, ProtectionService
    from karbor_actors.cli.demo_application import Writer
    from karbor_actors.cli.invocation import Invocation

_SHOWN = 20
"""Differences that are printed."""


def register(app: click.Group) -> None:
    """Add the command to *app*."""
    command(app, "demo", uses_banks=False, runs=True)(_demo)


@click.option(
    "--directory",
    metavar="DIR",
    type=PathName(),
    help="An empty or new directory for all of it, which is kept; else a temporary one.",
)
@click.option(
    "--tamper", is_flag=True, help="Change one restored byte, to see that the demo then fails."
)
def _demo(invocation: Invocation, directory: str | None, tamper: bool) -> int:
    """Protect, damage, restore and compare a made-up application.

    The application is a directory with files of many kinds and a SQLite database that a process
    keeps writing. Fails if one file or one row is not as it was.
    """
    with _workplace(directory) as place:
        demo = _Demo(invocation, place)
        demo.run(tamper=tamper)
        return demo.conclude(is_kept=directory is not None)


@contextmanager
def _workplace(directory: str | None) -> Iterator[Path]:
    """Hold the directory for everything; a temporary one is removed."""
    if directory is not None:
        place = Path(directory).absolute()
        try:
            place.mkdir(parents=True, exist_ok=True)
            is_empty = not any(place.iterdir())
        except OSError as error:
            message = f"{place} cannot be used: {error.strerror}; name an empty directory"
            raise BankPathError(message) from error
        if not is_empty:
            raise BankPathError(f"{place} is not empty; name an empty or a new directory")
        yield place
        return
    temporary = Path(tempfile.mkdtemp(prefix="karbor-demo-"))
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(place: Path) -> None:
    for folder, _, _ in os.walk(place):  # a directory may have come without the right to write
        os.chmod(folder, stat.S_IRWXU)
    shutil.rmtree(place)


@dataclass
class _Step:
    """One thing that the demo did."""

    name: str
    detail: str
    seconds: float


@dataclass
class _Demo:
    """One run of the demo."""

    invocation: Invocation
    place: Path
    steps: list[_Step] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    checkpoint_id: str = ""

    def run(self, *, tamper: bool) -> None:
        """Do everything up to the comparison."""
        original, restored = self.place / "application", self.place / "restored"
        self._step("make", lambda: application.make(original), self._describe_made)
        settings = local_settings(str(self.place / "bank"))
        with self.invocation.service(settings, create=True) as service:
            with application.running_writer(original) as writer:
                tree = comparison.describe_tree(original, application.DATABASE)
                least, most = self._protect(service, original, writer)
            rows = comparison.read_ledger(original / application.DATABASE)
            self._step(
                "damage",
                lambda: application.damage(original),
                lambda hurt: (
                    f"{plural(hurt, 'file')} deleted, overwritten or cut off, with the database"
                ),
            )
            self._verify(service)
            self._restore(service, restored)
        if tamper:
            _tamper(restored)

        def compare() -> tuple[int, int]:
            found = comparison.describe_tree(restored, application.DATABASE)
            self.differences += comparison.compare_trees(tree, found)
            differences, count = comparison.compare_databases(
                rows, restored / application.DATABASE, least=least, most=most
            )
            self.differences += differences
            if not comparison.compare_trees(
                tree, comparison.describe_tree(original, application.DATABASE)
            ):
                self.differences.append("the damage was not noticed: the comparison is worthless")
            return len(tree), count

        self._step(
            "compare",
            compare,
            lambda counts: (
                f"{plural(counts[0], 'file')} and {plural(counts[1], 'row')}, "
                + (plural(len(self.differences), "difference") if self.differences else "all equal")
            ),
        )

    def conclude(self, *, is_kept: bool) -> int:
        """Print the verdict and return the exit code."""
        output = self.invocation.output
        total = sum(step.seconds for step in self.steps)
        for difference in self.differences[:_SHOWN]:
            output.line(f"  {difference}", "red")
        if len(self.differences) > _SHOWN:
            output.line(f"  and {len(self.differences) - _SHOWN:,} more", "red")
        output.document(
            {
                "steps": [vars(step) for step in self.steps],
                "checkpoint_id": self.checkpoint_id,
                "differences": self.differences,
                "directory": str(self.place) if is_kept else None,
            }
        )
        if is_kept:
            output.line(f"everything is in {shown(self.place)}")
        if self.differences:
            count = plural(len(self.differences), "difference")
            output.error(f"what was restored is not what there was: {count}")
            return ExitCode.DAMAGED
        output.line(f"restored as it was, in {human_seconds(total)}", "green")
        return ExitCode.OK

    def _step(self, name: str, do: Callable[[], Any], describe: Callable[[Any], str]) -> Any:
        began = time.monotonic()
        result = do()
        seconds = time.monotonic() - began
        step = _Step(name, describe(result), round(seconds, 3))
        self.steps.append(step)
        output = self.invocation.output
        output.line(f"{name:<8} {human_seconds(seconds):>7}  {shown(step.detail)}")
        return result

    def _run(self, start: Callable[[], OperationHandle], bank: Bank) -> Any:
        return run(self.invocation, start, bank, is_last=False)[0]

    def _describe_made(self, made: application.Made) -> str:
        size = human_bytes(made.bytes)
        return f"{plural(made.files, 'file')} of many kinds, {size}, and a busy database"

    def _protect(
        self, service: ProtectionService, original: Path, writer: Writer
    ) -> tuple[int, int]:
        """Protect the application; return the transfers that there were before and after."""
        provider = service.provider("local")
        plan: Plan = plan_of_paths([str(original)], "demo", provider)
        least = writer.transfers()

        def protect() -> Checkpoint:
            checkpoint: Checkpoint = self._run(lambda: service.protect(plan), provider.bank)
            self.checkpoint_id = checkpoint.id
            return checkpoint

        def describe(checkpoint: Checkpoint) -> str:
            written = writer.transfers() - least
            resources = plural(len(checkpoint.resource_graph), "resource")
            return f"{resources}, while {plural(written, 'transfer')} were written"

        checkpoint = self._step("protect", protect, describe)
        if checkpoint.status is not CheckpointStatus.AVAILABLE:
            self.differences.append(f"the checkpoint is {checkpoint.status}, not available")
        return least, writer.transfers()

    def _verify(self, service: ProtectionService) -> None:
        bank = service.provider("local").bank

        def verify() -> Any:
            return self._run(lambda: service.verify(self.checkpoint_id), bank)

        def describe(result: Any) -> str:
            size = sum(found.bytes for found in result.evidence.values())
            statuses = ", ".join(sorted(set(map(str, result.resources.values()))))
            return f"{human_bytes(size)} read back, {statuses}"

        self._step("verify", verify, describe)

    def _restore(self, service: ProtectionService, restored: Path) -> None:
        bank = service.provider("local").bank
        parameters = {"FileSystem::Directory": {"target": str(restored)}}

        def restore() -> Any:
            return self._run(
                lambda: service.restore(self.checkpoint_id, parameters=parameters), bank
            )

        self._step(
            "restore",
            restore,
            lambda result: f"{plural(len(result.new_resources), 'resource')} into {restored.name}/",
        )


def _tamper(restored: Path) -> None:
    path = restored / "big.bin"
    status = path.stat()
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
