"""A process that runs one verb, or only recovers, and is killed in a hook; run by test_recovery.

Usage: killed_process.py DIRECTORY VERB CHECKPOINT HOOK RESOURCE WHEN

With ISOLATE in the environment a second, lone resource is protected beside the tree, failures
are isolated, and the process is killed once the lone resource's main hook has ended.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from karbor_actors import (
    Bank,
    Operation,
    Plan,
    ProtectablePlugin,
    ProtectionPlugin,
    ProtectionService,
    Provider,
    Resource,
)
from karbor_actors.testing import install_faults_from_environment

CHILDREN = {"server": ["disk1", "disk2"], "disk1": ["image"], "disk2": ["image"]}
TYPE = "Test::Thing"
ISOLATE = "ISOLATE" in os.environ


class Things(ProtectablePlugin):
    def get_resource_type(self) -> str:
        return TYPE

    def get_parent_resource_types(self) -> tuple[str, ...]:
        return (TYPE,)

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        return [Resource(TYPE, name) for name in CHILDREN.get(parent_resource.id, [])]


class Freezing(ProtectionPlugin):
    """Freezes things, which are files in a directory, and logs each hook's start and end."""

    def __init__(self, directory: Path, kill: tuple[str, str, str, str] | None = None) -> None:
        self.directory, self.kill = directory, kill

    def get_supported_resources_types(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TYPE,)

    def _operation(self, verb: str) -> Operation:
        return type("Freeze", (Operation,), {n: _hook(self, verb, n) for n in HOOKS})()

    def get_protect_operation(self, resource: Resource) -> Operation:
        return self._operation("protect")

    def get_restore_operation(self, resource: Resource) -> Operation:
        return self._operation("restore")

    def get_verify_operation(self, resource: Resource) -> Operation:
        return self._operation("verify")

    def get_delete_operation(self, resource: Resource) -> Operation:
        return self._operation("delete")

    def log(self, *words: object) -> None:
        line = " ".join(map(str, words)) + "\n"
        fd = os.open(self.directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line.encode())
        os.close(fd)

    def die_if(self, *place: str) -> None:
        if self.kill != place:
            return
        poll = threading.Event()
        while ISOLATE and "end protect on_main lone" not in (self.directory / "log").read_text():
            poll.wait(0.001)
        os.kill(os.getpid(), signal.SIGKILL)


HOOKS = ("on_prepare_begin", "on_prepare_finish", "on_main", "on_complete", "on_abort", "on_resume")


def _hook(plugin: Freezing, verb: str, name: str) -> Any:
    def hook(
        self: Any, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        plugin.log("begin", verb, name, resource.id, context.attempt, context.idempotency_key)
        plugin.die_if(verb, name, resource.id, "before")
        frozen = plugin.directory / f"frozen-{resource.id}"
        if verb == "protect":
            _protect(name, frozen, checkpoint, resource, context)
        plugin.die_if(verb, name, resource.id, "after")
        plugin.log("end", verb, name, resource.id)

    return hook


def _protect(name: str, frozen: Path, checkpoint: Any, resource: Any, context: Any) -> None:
    if name == "on_prepare_begin":
        frozen.touch()
        context.state["frozen"] = str(frozen)
    elif name in ("on_prepare_finish", "on_abort"):
        frozen.unlink(missing_ok=True)
    elif name == "on_main":
        assert context.state["frozen"] == str(frozen)
        section = checkpoint.get_resource_bank_section(resource)
        section.write_stream("data", io.BytesIO(resource.id.encode() * 10_000))


def provider(directory: Path, kill: tuple[str, str, str, str] | None = None) -> Provider:
    bank = Bank.open(directory / "bank")
    return Provider(
        "local", bank=bank, protection_plugins=[Freezing(directory, kill)], protectables=[Things()]
    )


def main() -> None:
    install_faults_from_environment()
    directory, verb, checkpoint, *kill = sys.argv[1:]
    with ProtectionService(workers=4) as service:
        service.add_provider(provider(Path(directory), (verb, *kill)))  # type: ignore[arg-type]
        for handle in service.recovered:
            handle.wait()
        if verb == "protect" and not service.recovered:
            names = ["server", "lone"] if ISOLATE else ["server"]
            plan = Plan("plan", "local", [Resource(TYPE, name) for name in names])
            service.protect(plan, on_failure="isolate" if ISOLATE else "abort").wait()
        elif verb != "recover" and not service.recovered:
            getattr(service, verb)(checkpoint).wait()


if __name__ == "__main__":
    main()
