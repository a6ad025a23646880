"""What a plugin author derives from, and how plugins are found by entry point.

Any object with the right methods will do: nothing here is checked by type.
"""

from __future__ import annotations

import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from karbor_actors.errors import PluginError, describe_cause
from karbor_actors.model import HookName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.model import Resource

PROTECTION_GROUP = "karbor_actors.protections"
"""The entry-point group of protection plugins."""
PROTECTABLE_GROUP = "karbor_actors.protectables"
"""The entry-point group of protectable plugins."""

Schema = dict[str, Any]
"""A Cerberus schema: field name -> rules; or one in Karbor's JSON Schema form.

None, which no schema is, means that any parameters are taken; an empty one takes none.
"""


def is_raised_by_plugin(error: BaseException) -> bool:
    """Return whether *error*, which came out of a call to a plugin, is the plugin's.

    On the main thread a SystemExit or a KeyboardInterrupt may be a signal's, and is for the host.
    """
    return isinstance(error, Exception) or threading.current_thread() is not threading.main_thread()


class Operation:
    """The hooks of one resource in one operation; leave out those that you do not need.

    A hook is a plain method (it runs on a worker thread) or ``async def`` (it runs on the
    engine's event loop). One object serves all hooks of its resource, one at a time. A
    hook left as it is here costs nothing. A hook must bear being run again.

    Each hook is called as ``hook(checkpoint, resource, context, parameters, **kwargs)``:
    *checkpoint* is a :class:`~karbor_actors.Checkpoint`, *resource* a
    :class:`~karbor_actors.Resource`, *context* a
    :class:`~karbor_actors.HookContext`, *parameters* a dict of its own.
    """

    held_until: ClassVar[HookName] = HookName.ON_PREPARE_FINISH
    """The hook that ends the critical span, in which something is frozen or open."""
    resumable: ClassVar[bool] = True
    """False if the object keeps state in attributes that a new one could not know."""
    cap_groups: Sequence[str] = ()
    """Named groups (a disk array, say) that have a cap in :class:`karbor_actors.Caps`: no more
    hooks of Operations that name the group run at once."""

    def on_prepare_begin(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> Any:
        """Run before any hook of this resource and of its children has begun."""

    def on_prepare_finish(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> Any:
        """Run after every prepare hook of the children is complete."""

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> Any:
        """Run after this resource's prepare hooks, beside any other resource."""

    def on_complete(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> Any:
        """Run after this resource's main hook and every child's complete hook."""

    def on_abort(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> Any:
        """Undo what the hooks began; also gets reason, began, completed and artifacts.

        It may run again after it has ended, well or not, but not while it runs: unless it takes
        longer than ``TimeLimits.abort`` and goes on for as long again, 30 s at most. Then it may be
        stuck for good, and another one runs beside it.
        """

    def on_resume(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> Any:
        """Take up again, after a restart, what the process held; also gets began and completed."""


class ProtectionPlugin:
    """Acts on resources: gives the Operation for each resource and verb.

    Every method has a harmless default; None means that there is nothing to do.
    """

    state_version: ClassVar[int] = 1
    """Raise it when a release cannot go on with the state that an older one kept."""

    def get_protect_operation(self, resource: Resource) -> Operation | None:
        """Return the operation that makes *resource*'s part of a checkpoint."""
        return None

    def get_restore_operation(self, resource: Resource) -> Operation | None:
        """Return the operation that makes *resource* again from a checkpoint."""
        return None

    def get_verify_operation(self, resource: Resource) -> Operation | None:
        """Return the operation that checks *resource*'s part of a checkpoint."""
        return None

    def get_copy_operation(self, resource: Resource) -> Operation | None:
        """Return the operation that copies *resource*'s part to another checkpoint."""
        return None

    def get_delete_operation(self, resource: Resource) -> Operation | None:
        """Return the operation that removes what *resource* keeps outside of the bank."""
        return None

    def can_resume(self, version: int) -> bool:
        """Return whether state that was kept under state_version *version* can be used."""
        return version == self.state_version

    def choose_children(
        self, resource: Resource, children: Sequence[Resource], parameters: Mapping[str, Any]
    ) -> Sequence[Resource]:
        """Return those of *children* that a protect of *resource* takes along; called before it.

        Args:
            resource: A resource that this plugin handles.
            children: What protectable plugins found to depend on it.
            parameters: The resource's parameters of protect, validated; secrets are references.
        """
        return children

    @classmethod
    def get_supported_resources_types(cls) -> Sequence[str]:
        """Return the resource types that this plugin handles."""
        return ()

    @classmethod
    def get_options_schema(cls, resource_type: str) -> Schema:
        """Return the schema of the parameters of protect."""
        return {}

    @classmethod
    def get_restore_schema(cls, resource_type: str) -> Schema:
        """Return the schema of the parameters of restore."""
        return {}

    @classmethod
    def get_verify_schema(cls, resource_type: str) -> Schema:
        """Return the schema of the parameters of verify."""
        return {}

    @classmethod
    def get_saved_info_schema(cls, resource_type: str) -> Schema:
        """Return the schema of what :meth:`get_saved_info` returns."""
        return {}

    @classmethod
    def get_saved_info(cls, metadata_store: Any, resource: Resource) -> Mapping[str, Any] | None:
        """Return what a checkpoint says of *resource*.

        Args:
            metadata_store: The resource's read-only bank section.
            resource: The resource.
        """
        return None


class ProtectablePlugin:
    """Finds the resources of one type."""

    def get_resource_type(self) -> str:
        """Return the type of the resources that this plugin finds."""
        msg = f"{type(self).__name__} does not say which resource type it finds"
        raise NotImplementedError(msg)

    def get_parent_resource_types(self) -> Sequence[str]:
        """Return the types that may have resources of this type as children."""
        return ()

    def list_resources(
        self, context: Any, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Resource]:
        """Return every resource of this type."""
        return ()

    def show_resource(
        self, context: Any, resource_id: str, parameters: Mapping[str, Any] | None = None
    ) -> Resource | None:
        """Return the resource of that id, or None."""
        return None

    def get_dependent_resources(
        self, context: Any, parent_resource: Resource
    ) -> Sequence[Resource]:
        """Return the resources of this type that are children of *parent_resource*."""
        return ()


def load_plugin(group: str, name: str) -> Any:
    """Return the plugin class that an installed distribution registers as *name* in *group*.

    Raises:
        PluginError: There is none, there are several, or it cannot be imported.
    """
    found = entry_points(group=group, name=name)
    if not found:
        known = ", ".join(sorted({entry.name for entry in entry_points(group=group)})) or "none"
        msg = f"no installed plugin is named {name!r} in {group} (known: {known})"
        raise PluginError(msg)
    if len(targets := {entry.value for entry in found}) > 1:
        msg = (
            f"several installed plugins are named {name!r} in {group}: {', '.join(sorted(targets))}"
        )
        raise PluginError(msg)
    try:
        return next(iter(found)).load()
    except Exception as error:  # reported to the caller with the plugin's name
        msg = f"the plugin {name!r} cannot be loaded: {describe_cause(error)}"
        raise PluginError(msg) from error


def instantiate(plugin: Any) -> Any:
    """Return *plugin*, made into an object if it is a class (Karbor's take one optional argument)."""
    if not isinstance(plugin, type):
        return plugin
    try:
        return plugin()
    except Exception as error:  # plugin code: reported to the caller with its name
        msg = f"{plugin.__name__} cannot be made without arguments: {describe_cause(error)}"
        raise PluginError(msg) from error
