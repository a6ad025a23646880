"""The plugins of a simulation: they freeze things, make snapshots, save and read data."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import CannotResumeError
from karbor_actors.model import HOOKS, HookName, Resource
from karbor_actors.plugins import Operation, ProtectablePlugin, ProtectionPlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from karbor_actors.testing.simulation.world import World

TYPES = ("Sim::Server", "Sim::Disk")
GROUPS = ("array", "link")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a resource's Operations are like, drawn by the seed."""

    protect: frozenset[HookName]
    """The hooks of protect; none at all means no Operation."""
    restore: frozenset[HookName]
    verify: frozenset[HookName]
    delete: frozenset[HookName]
    has_abort: bool
    """Without it, nothing is frozen and no snapshot made."""
    is_async: bool
    is_resumable: bool
    has_resume: bool
    loses_everything: bool
    """Whether ``on_resume`` says that nothing is left to go on with."""
    held_until: HookName
    snapshot: str
    """``"release"``, ``"keep"`` or ``""`` for none."""
    streams: int
    flushes: bool
    copy: frozenset[HookName] = frozenset()
    """The hooks of copy; with none the engine copies."""
    groups: tuple[str, ...] = ()
    """The named groups that its hooks count against."""
    leaves: bool = False
    """Whether its hooks leave when they are told to."""

    def hooks(self, verb: str) -> tuple[HookName, ...]:
        """Return the hooks of a verb, in order."""
        chosen: frozenset[HookName] = getattr(self, verb, frozenset())
        return tuple(hook for hook in HOOKS if hook in chosen)


class SimulatedOperation(Operation):
    """One resource's hooks; the subclass that :func:`operation_class` makes has the methods."""

    def __init__(self, world: World, traits: Traits, verb: str) -> None:
        self.world, self.traits, self.verb = world, traits, verb
        self.resumable = traits.is_resumable  # type: ignore[misc]
        end = self._last_held if self._freezes else traits.held_until
        self.held_until = max(end, traits.held_until, key=HOOKS.index)  # type: ignore[misc]
        self.cap_groups = traits.groups

    def work(
        self, hook: HookName, checkpoint: Any, resource: Any, context: Any, arguments: Any
    ) -> None:
        """Do what *hook* of this verb does."""
        if self.traits.leaves:
            context.check_cancelled()
        own, operation = self.traits.hooks(self.verb), arguments["operation_log"].id
        if hook is own[0] and self._freezes:
            self.world.freeze(resource.id, operation)
        has_resume = self.traits.has_resume and self.verb == "protect"
        self.world.enter(
            operation, resource.id, hook, context, arguments, own, has_resume=has_resume
        )
        context.state[str(hook)] = context.attempt
        self.world.write("its state")
        if self.traits.flushes and not self.traits.is_async:
            context.state.flush()
        section = checkpoint.get_resource_bank_section(resource)
        if self.verb == "protect":
            self._protect(hook, section, resource, context, operation)
        elif hook is HookName.ON_MAIN and self.verb == "copy":
            section.copy_to(arguments["checkpoint_copy"].get_resource_bank_section(resource))
        elif hook is HookName.ON_MAIN:
            self._read(section, resource, arguments)
            if self.verb == "delete":
                self._delete(section)
        if hook is self._last_held and self._freezes:
            self.world.thaw(resource.id, operation)

    @property
    def _freezes(self) -> bool:
        return self.traits.has_abort and self.verb in ("protect", "restore")

    @property
    def _last_held(self) -> HookName:
        """The hook at whose end nothing is held any more."""
        end = HOOKS.index(self.traits.held_until)
        own = self.traits.hooks(self.verb)
        return [hook for hook in own if HOOKS.index(hook) <= end or hook is own[0]][-1]

    def _protect(
        self, hook: HookName, section: Any, resource: Any, context: Any, operation: str
    ) -> None:
        own = self.traits.hooks("protect")
        if self.traits.snapshot and self.traits.has_abort and not self.traits.is_async:
            name = snapshot_name(operation, resource.id)
            if hook in (own[0], own[-1]):  # the last one too: it may run again after its release
                artifact = context.artifact("snapshot", name)
                self.world.make_snapshot(name, operation)
                artifact.update(size=1)
            if hook is own[-1] and self.traits.snapshot == "keep":
                section.update_object("snapshot", name)
                artifact.keep()
            elif hook is own[-1]:
                self.world.delete_snapshot(name)
                artifact.release()
        if hook is HookName.ON_MAIN:
            self._save(section, resource, operation)

    def _save(self, section: Any, resource: Any, operation: str) -> None:
        data = content(self.world.label(operation, "protect"), resource.id)
        self.world.written[operation, resource.id] = data
        section.update_object("size", len(data))
        self.world.write("to its section")
        for number in range(self.traits.streams):
            section.write_stream(f"data/{number}", io.BytesIO(data * (1 + 40 * number)))

    def _read(self, section: Any, resource: Any, arguments: Any) -> None:
        for info in section.list_streams():
            with section.open_stream(info.key) as stream:
                stream.read(1 << 16)
        if self.verb == "restore":
            arguments["new_resources"][resource.id] = f"new-{resource.id}"

    def _delete(self, section: Any) -> None:
        if "snapshot" in section.list_objects():
            self.world.delete_snapshot(section.get_object("snapshot"))

    def undo(self, resource: Any, context: Any, arguments: Any) -> None:
        """Do what ``on_abort`` does: give back all that any hook made."""
        operation = arguments["operation_log"].id
        made = self.verb == "protect" and self.traits.snapshot == "release"
        self.world.enter_abort(operation, resource.id, context, arguments, has_artifact=made)
        for artifact in arguments["artifacts"]:
            self.world.delete_snapshot(artifact.name)
            if not self.traits.is_async:
                artifact.release()
        if self.verb == "protect":
            self.world.delete_snapshot(snapshot_name(operation, resource.id))
        self.world.thaw(resource.id, operation)

    def take_up(self, resource: Any, arguments: Any) -> None:
        """Do what ``on_resume`` does."""
        self.world.take_up(arguments["operation_log"].id, resource.id)
        if self.traits.loses_everything:
            msg = f"the snapshot of {resource} is gone"
            raise CannotResumeError(msg)


def snapshot_name(operation: str, resource: str) -> str:
    """Return the name of the snapshot that an operation makes of a resource."""
    return f"{operation}/{resource}"


def content(label: str, resource: str) -> bytes:
    """Return what an operation saves of a resource: the even ones share theirs."""
    whose = resource if int(resource[1:]) % 2 else "all"
    return f"what {label} saved of {whose}; ".encode() * 30


def _method(hook: HookName, *, is_async: bool) -> Callable[..., Any]:
    def plain(
        self: SimulatedOperation, checkpoint: Any, resource: Any, context: Any, _: Any, **more: Any
    ) -> None:
        if hook is HookName.ON_ABORT:
            self.undo(resource, context, more)
        else:
            self.work(hook, checkpoint, resource, context, more)

    async def on_loop(
        self: SimulatedOperation, checkpoint: Any, resource: Any, context: Any, _: Any, **more: Any
    ) -> None:
        plain(self, checkpoint, resource, context, _, **more)

    return on_loop if is_async else plain


def _on_resume(
    self: SimulatedOperation, checkpoint: Any, resource: Any, *_: Any, **more: Any
) -> None:
    self.take_up(resource, more)


@cache
def operation_class(
    hooks: tuple[HookName, ...], *, has_abort: bool, is_async: bool, has_resume: bool
) -> type[SimulatedOperation]:
    """Return a class with just these hooks."""
    methods: dict[str, Any] = {str(hook): _method(hook, is_async=is_async) for hook in hooks}
    if has_abort:
        methods["on_abort"] = _method(HookName.ON_ABORT, is_async=False)
    if has_resume:
        methods["on_resume"] = _on_resume
    return type("SimulatedOperation", (SimulatedOperation,), methods)


class SimulatedProtection(ProtectionPlugin):
    """Acts on the resources of a simulation."""

    def __init__(self, world: World, traits: Mapping[str, Traits]) -> None:
        self.world, self.traits = world, traits

    def get_supported_resources_types(self) -> Sequence[str]:  # type: ignore[override]
        """See ProtectionPlugin."""
        return TYPES

    def _operation(self, resource: Resource, verb: str) -> Operation | None:
        traits = self.traits[resource.id]
        hooks = traits.hooks(verb)
        if not hooks:
            return None
        made = operation_class(
            hooks,
            has_abort=traits.has_abort and verb in ("protect", "restore"),
            is_async=traits.is_async,
            has_resume=traits.has_resume and verb == "protect",
        )
        return made(self.world, traits, verb)

    def get_protect_operation(self, resource: Resource) -> Operation | None:
        """See ProtectionPlugin."""
        return self._operation(resource, "protect")

    def get_restore_operation(self, resource: Resource) -> Operation | None:
        """See ProtectionPlugin."""
        return self._operation(resource, "restore")

    def get_verify_operation(self, resource: Resource) -> Operation | None:
        """See ProtectionPlugin."""
        return self._operation(resource, "verify")

    def get_copy_operation(self, resource: Resource) -> Operation | None:
        """See ProtectionPlugin."""
        return self._operation(resource, "copy")

    def get_delete_operation(self, resource: Resource) -> Operation | None:
        """See ProtectionPlugin."""
        return self._operation(resource, "delete")


class SimulatedProtectable(ProtectablePlugin):
    """Finds the resources of one type, as there are some now."""

    def __init__(self, kind: str, world: World) -> None:
        self._kind, self._world = kind, world

    def get_resource_type(self) -> str:
        """See ProtectablePlugin."""
        return self._kind

    def get_parent_resource_types(self) -> Sequence[str]:
        """See ProtectablePlugin."""
        return TYPES

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        """See ProtectablePlugin."""
        found = map(make_resource, self._world.history.children.get(parent_resource.id, ()))
        return [resource for resource in found if resource.type == self._kind]


def make_resource(name: str) -> Resource:
    """Return the resource called *name*: ``r0``, ``r1`` and so on, of two types in turn."""
    return Resource(TYPES[int(name[1:]) % len(TYPES)], name)
