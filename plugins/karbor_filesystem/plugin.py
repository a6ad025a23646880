"""The plugins: which directories there are, and what is done to them."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import ObjectNotFoundError
from karbor_actors.model import Resource
from karbor_actors.plugins import ProtectablePlugin, ProtectionPlugin
from karbor_filesystem.manifest import INFO_KEY
from karbor_filesystem.protect import DIRECTORY_TYPE, ProtectDirectory
from karbor_filesystem.restore import RestoreDirectory
from karbor_filesystem.verify import VerifyDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.plugins import Operation, Schema

_COUNTS = (
    "files",
    "directories",
    "links",
    "symlinks",
    "special",
    "bytes",
    "bytes_read",
    "unchanged",
    "left_to_children",
    "skipped",
    "changed",
    "vanished",
    "unreadable",
)
_PATTERNS = {
    "type": "list",
    "schema": {"type": "string", "minlength": 1},
    "default": [],
}


def _either(first: str, second: str) -> dict[str, Any]:
    return {"type": "string", "allowed": [first, second], "default": first}


class DirectoryProtectable(ProtectablePlugin):
    """Directories; a directory's id is its absolute path (with surrogateescape)."""

    def get_resource_type(self) -> str:
        """Return the type of directories."""
        return DIRECTORY_TYPE

    def show_resource(
        self, context: Any, resource_id: str, parameters: Mapping[str, Any] | None = None
    ) -> Resource | None:
        """Return the directory at an absolute path, or None if there is none."""
        if not posixpath.isabs(resource_id):
            return None
        path = posixpath.normpath(resource_id)
        if os.path.islink(path) or not os.path.isdir(path):
            return None
        return Resource(DIRECTORY_TYPE, path, posixpath.basename(path) or path)


class DirectoryProtection(ProtectionPlugin):
    """Keeps directories with all that is in them.

    Files that are children of type ``SQLite::Database`` in the checkpoint's graph are left
    to those, with the files that SQLite keeps beside them.
    """

    def get_protect_operation(self, resource: Resource) -> Operation:
        """Return the operation that copies the tree into the bank."""
        return ProtectDirectory()

    def get_restore_operation(self, resource: Resource) -> Operation:
        """Return the operation that makes the tree again."""
        return RestoreDirectory()

    def get_verify_operation(self, resource: Resource) -> Operation:
        """Return the operation that checks that every file has its data."""
        return VerifyDirectory()

    @classmethod
    def get_supported_resources_types(cls) -> Sequence[str]:
        """Return the type of directories."""
        return (DIRECTORY_TYPE,)

    @classmethod
    def get_options_schema(cls, resource_type: str) -> Schema:
        """Return the schema of protect's parameters.

        ``include`` and ``exclude`` are lists of patterns (see
        :mod:`karbor_filesystem.patterns`); ``one_file_system`` stays out of what is mounted
        below; ``on_unreadable`` and ``on_change`` say whether a file that cannot be read, or
        keeps changing, ends the protect or is reported; ``atime`` keeps access times too.
        """
        return {
            "include": _PATTERNS,
            "exclude": _PATTERNS,
            "one_file_system": {"type": "boolean", "default": False},
            "on_unreadable": _either("fail", "report"),
            "on_change": _either("report", "fail"),
            "atime": {"type": "boolean", "default": False},
        }

    @classmethod
    def get_restore_schema(cls, resource_type: str) -> Schema:
        """Return the schema of restore's parameters.

        ``target`` is another absolute path to restore into; ``overwrite`` allows one that is
        not empty; ``restore_owner`` and ``restore_devices`` are by default what root does;
        ``on_unsupported`` says whether metadata that the target refuses ends the restore.
        """
        return {
            "target": {"type": "string", "minlength": 1, "nullable": True, "default": None},
            "overwrite": {"type": "boolean", "default": False},
            "restore_owner": {"type": "boolean", "nullable": True, "default": None},
            "restore_devices": {"type": "boolean", "nullable": True, "default": None},
            "on_unsupported": _either("fail", "report"),
        }

    @classmethod
    def get_saved_info_schema(cls, resource_type: str) -> Schema:
        """Return the schema of what a checkpoint says of a directory."""
        return {
            "path": {"type": "string"},
            **{name: {"type": "integer", "min": 0} for name in _COUNTS},
            "reports": {"type": "list", "schema": {"type": "dict"}},
        }

    @classmethod
    def get_saved_info(cls, metadata_store: Any, resource: Resource) -> Mapping[str, Any] | None:
        """Return the counts and the first reports, or None if nothing was saved."""
        try:
            info = metadata_store.get_object(INFO_KEY)
        except ObjectNotFoundError:
            return None
        return {name: info[name] for name in cls.get_saved_info_schema(resource.type)}
