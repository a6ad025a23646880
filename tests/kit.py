"""Plugins for tests of the engine: they record what is called, and misbehave on request."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import TYPE_CHECKING, Any

from karbor_actors import (
    Bank,
    HookName,
    Operation,
    OperationType,
    Plan,
    ProtectablePlugin,
    ProtectionPlugin,
    Provider,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TYPE = "Test::Thing"
HOOK_METHODS = tuple(str(name) for name in HookName)


def thing(name: str, kind: str = TYPE) -> Resource:
    """Return a resource."""
    return Resource(kind, name, f"the {name}")


class Journal:
    """What hooks did, in order; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entries: list[tuple[str, str, str]] = []
        """(verb, hook, resource id)."""
        self.calls: list[dict[str, Any]] = []

    def add(self, verb: str, hook: str, resource: Resource, **call: Any) -> None:
        with self._lock:
            self.entries.append((verb, hook, resource.id))
            self.calls.append(
                {"verb": verb, "hook": hook, "id": resource.id, "resource": resource, **call}
            )

    def hooks(self, verb: str = "protect") -> list[tuple[str, str]]:
        """Return (hook, resource id) of one verb, in order."""
        with self._lock:
            return [(hook, name) for found, hook, name in self.entries if found == verb]

    def place(self, hook: str, name: str, verb: str = "protect") -> int:
        """Return where a hook stands in the order."""
        return self.hooks(verb).index((hook, name))

    def aborted(self) -> list[str]:
        """Return the ids of the aborted resources, in order."""
        return [name for hook, name in self.hooks() if hook == "on_abort"]


class Things(ProtectablePlugin):
    """Finds things by a table of parents and children."""

    def __init__(self, children: dict[str, list[str]] | None = None, kind: str = TYPE) -> None:
        self.children, self.kind = children or {}, kind

    def get_resource_type(self) -> str:
        return self.kind

    def get_parent_resource_types(self) -> tuple[str, ...]:
        return (TYPE,)

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        return [thing(name, self.kind) for name in self.children.get(parent_resource.id, [])]


Behaviour = "Callable[[str, str, Resource, dict[str, Any]], Any]"


class RecordingProtection(ProtectionPlugin):
    """Records each hook, and then does what the test says.

    Args:
        journal: Where hooks are recorded.
        behave: Called in each hook with verb, hook, resource and the call's arguments.
        hooks: The hooks that operations have.
        is_async: Whether they are ``async def``.
    """

    def __init__(
        self,
        journal: Journal,
        behave: Callable[[str, str, Resource, dict[str, Any]], Any] | None = None,
        hooks: tuple[str, ...] = HOOK_METHODS,
        *,
        is_async: bool = False,
        verbs: tuple[str, ...] = tuple(map(str, OperationType)),
    ) -> None:
        self.journal, self.behave, self.hooks = journal, behave, hooks
        self.is_async, self.verbs = is_async, verbs
        self.asked: list[tuple[str, str]] = []

    def get_supported_resources_types(self) -> tuple[str, ...]:  # type: ignore[override]
        return (TYPE,)

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        self.asked.append((verb, resource.id))
        if verb not in self.verbs:
            return None
        methods = {name: self._hook(verb, name) for name in self.hooks}
        return type("Recording", (Operation,), methods)()

    def get_protect_operation(self, resource: Resource) -> Operation | None:
        return self.operation("protect", resource)

    def get_restore_operation(self, resource: Resource) -> Operation | None:
        return self.operation("restore", resource)

    def get_verify_operation(self, resource: Resource) -> Operation | None:
        return self.operation("verify", resource)

    def get_copy_operation(self, resource: Resource) -> Operation | None:
        return self.operation("copy", resource)

    def get_delete_operation(self, resource: Resource) -> Operation | None:
        return self.operation("delete", resource)

    def _hook(self, verb: str, name: str) -> Any:
        plugin = self

        def hook(
            self: Any, checkpoint: Any, resource: Any, context: Any, parameters: Any, **kwargs: Any
        ) -> Any:
            call = {
                "checkpoint": checkpoint,
                "context": context,
                "parameters": parameters,
                "kwargs": kwargs,
                "operation": self,
                "thread": threading.current_thread().name,
            }
            plugin.journal.add(verb, name, resource, **call)
            if plugin.behave is not None:
                return plugin.behave(verb, name, resource, call)
            return None

        async def async_hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = hook(self, *args, **kwargs)
            return await result if hasattr(result, "__await__") else result

        return async_hook if self.is_async else hook


def store_something(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> Any:
    """Write a record and a stream in protect's main hook, as a plugin would."""
    if (verb, hook) != ("protect", "on_main"):
        return None
    if threading.current_thread().name == "karbor-loop":
        return asyncio.to_thread(_store, resource, call)
    return _store(resource, call)


def _store(resource: Resource, call: dict[str, Any]) -> None:
    section = call["checkpoint"].get_resource_bank_section(resource)
    section.update_object("metadata", {"name": resource.name})
    section.write_stream("data", io.BytesIO(resource.id.encode() * 1000))


def failing(*where: tuple[str, str], error: BaseException | None = None) -> Any:
    """Return a behaviour that raises in the (hook, resource id) given, of protect."""

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if verb == "protect" and (hook, resource.id) in where:
            raise error if error is not None else RuntimeError(f"{hook} of {resource.id} broke")

    return behave


def provider(
    directory: Path,
    plugin: ProtectionPlugin,
    children: dict[str, list[str]] | None = None,
    name: str = "local",
    **kwargs: Any,
) -> Provider:
    """Return a provider with a bank of its own."""
    return Provider(
        name,
        bank=Bank.open(directory),
        protection_plugins=[plugin],
        protectables=[Things(children)],
        **kwargs,
    )


def plan(*names: str, provider: str = "local", **kwargs: Any) -> Plan:
    """Return a plan of things."""
    return Plan("a plan", provider, [thing(name) for name in names], **kwargs)
