"""The plugins: which directories there are, and what is done to them."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import ObjectNotFoundError
from karbor_actors.model import Resource
from karbor_actors.plugins import ProtectablePlugin, ProtectionPlugin
from karbor_filesystem.errors import PatternError
from karbor_filesystem.manifest import INFO_KEY
from karbor_filesystem.patterns import Pattern
from karbor_filesystem.protect import DIRECTORY_TYPE, ProtectDirectory, path_below, selection_of
from karbor_filesystem.restore import RestoreDirectory
from karbor_filesystem.verify import VerifyDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from karbor_actors.plugins import Operation, Schema

_COUNTS = {
    "files": "regular files",
    "directories": "directories, the protected one included",
    "links": "further names of files that have several",
    "symlinks": "symbolic links",
    "special": "fifos and device nodes",
    "bytes": "bytes of all files, holes included",
    "bytes_stored": "bytes of all files without their holes, which a restore reads",
    "bytes_read": "bytes that were read; the rest was in the checkpoint before",
    "unchanged": "files that were taken over from the checkpoint before, unread",
    "left_to_children": "files of databases that are resources of their own",
    "skipped": "sockets, other file systems, and the bank's own directories: left out",
    "changed": "files and directories that changed while they were read",
    "vanished": "files and directories that were gone before they were read",
    "unreadable": "files and directories that could not be read, and were left out",
}
"""What a checkpoint counts, and what each count means."""


def _described(description: str, **rules: Any) -> dict[str, Any]:
    return {**rules, "meta": {"description": description}}


def _check_pattern(field: str, value: str, error: Callable[[str, str], None]) -> None:
    try:
        Pattern(value)
    except PatternError as found:
        error(field, str(found))


def _check_absolute(field: str, value: str | None, error: Callable[[str, str], None]) -> None:
    if value is not None and "\0" in value:
        error(field, "holds NUL, which no path does")
    elif value is not None and not posixpath.isabs(value):
        error(field, f"must be an absolute path, not {value!r}")


def _patterns(description: str) -> dict[str, Any]:
    inner = {"type": "string", "check_with": _check_pattern}
    return _described(description, type="list", schema=inner, default=[])


def _either(description: str, first: str, second: str) -> dict[str, Any]:
    return _described(description, type="string", allowed=[first, second], default=first)


def _switch(description: str) -> dict[str, Any]:
    return _described(description, type="boolean", default=False)


def _if_root(description: str) -> dict[str, Any]:
    description += "; none: if root restores"
    return _described(description, type="boolean", nullable=True, default=None)


_OPTIONS = {
    "include": _patterns("patterns of what is saved; none: everything"),
    "exclude": _patterns("patterns of what is left out"),
    "one_file_system": _switch("whether to stay out of what is mounted below"),
    "on_unreadable": _either(
        "what a file that cannot be read does to the protect", "fail", "report"
    ),
    "on_change": _either("what a file that keeps changing does to the protect", "report", "fail"),
    "atime": _switch("whether access times are saved too"),
}
_RESTORE = {
    "target": _described(
        "absolute path to restore into; none: where it was",
        type="string",
        check_with=_check_absolute,
        nullable=True,
        default=None,
    ),
    "overwrite": _switch("whether the target may have something in it"),
    "restore_owner": _if_root("whether owners are restored"),
    "restore_devices": _if_root("whether device nodes are made"),
    "on_unsupported": _either(
        "what metadata that the target refuses does to the restore", "fail", "report"
    ),
    "damaged": _either(
        "what a file whose data is damaged does: ends the restore, or is left out and named",
        "fail",
        "skip",
    ),
}
_SAVED_INFO = {
    "path": _described("where it was", type="string"),
    **{name: _described(text, type="integer", min=0) for name, text in _COUNTS.items()},
    "reports": _described(
        "the first entries with something to say of: what, path, reason",
        type="list",
        schema={"type": "dict"},
    ),
}


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

    def choose_children(
        self, resource: Resource, children: Sequence[Resource], parameters: Mapping[str, Any]
    ) -> Sequence[Resource]:
        """Return the children but for databases that the patterns leave out."""
        selection = selection_of(parameters)
        paths = [path_below(resource, child) for child in children]
        return [
            child
            for child, path in zip(children, paths, strict=True)
            if path is None or selection.takes(path)
        ]

    @classmethod
    def get_supported_resources_types(cls) -> Sequence[str]:
        """Return the type of directories."""
        return (DIRECTORY_TYPE,)

    @classmethod
    def get_options_schema(cls, resource_type: str) -> Schema:
        """Return the schema of protect's parameters.

        For patterns see :mod:`karbor_filesystem.patterns`.
        """
        return _OPTIONS

    @classmethod
    def get_restore_schema(cls, resource_type: str) -> Schema:
        """Return the schema of restore's parameters."""
        return _RESTORE

    @classmethod
    def get_saved_info_schema(cls, resource_type: str) -> Schema:
        """Return the schema of what a checkpoint says of a directory."""
        return _SAVED_INFO

    @classmethod
    def get_saved_info(cls, metadata_store: Any, resource: Resource) -> Mapping[str, Any] | None:
        """Return the counts and the first reports, or None if nothing was saved."""
        try:
            info = metadata_store.get_object(INFO_KEY)
        except ObjectNotFoundError:
            return None
        return {name: info[name] for name in _SAVED_INFO if name in info}
