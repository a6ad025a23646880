"""Protects and verifies databases."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from karbor_actors import KarborError, Operation, ProtectionPlugin
from karbor_sqlite.attributes import read_attributes
from karbor_sqlite.engine import check_integrity, copy_database, describe
from karbor_sqlite.errors import (
    CopyWrongError,
    DatabaseMissingError,
    DatabaseUnreadableError,
    DatabaseUnsupportedError,
    DatabaseWrongError,
    ScratchError,
    reason_of,
    show,
)
from karbor_sqlite.places import DATABASE_TYPE, regular_file
from karbor_sqlite.restore import RestoreDatabase
from karbor_sqlite.scratch import remove_scratch, scratch_file
from karbor_sqlite.streams import STREAM, WatchedReader, copy_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from karbor_actors import Resource

_CHECKS = {"quick": "quick_check", "full": "integrity_check"}


def _check_absolute(field: str, value: str | None, error: Callable[[str, str], None]) -> None:
    if value is not None and "\0" in value:
        error(field, "holds NUL, which no path does")
    elif value is not None and not os.path.isabs(value):
        error(field, f"must be an absolute path, not {value!r}")


def _check_number(field: str, value: float, error: Callable[[str, str], None]) -> None:
    if math.isnan(value):
        error(field, "must be a number")


def _check_file(field: str, value: str | None, error: Callable[[str, str], None]) -> None:
    _check_absolute(field, value, error)
    if value is not None and value.endswith("/"):
        error(field, f"must be the path of a file, not {value!r}")


_SCRATCH = {
    "type": "string",
    "nullable": True,
    "default": None,
    "check_with": _check_absolute,
    "meta": {
        "description": "absolute path of a directory for the temporary copy; default: the system's"
    },
}
_OPTIONS = {
    "check": {
        "type": "string",
        "allowed": ["quick", "full", "none"],
        "default": "quick",
        "meta": {"description": "how the copy is checked before it is kept"},
    },
    "busy_timeout": {
        "type": "float",
        "min": 0,
        "default": 60.0,
        "check_with": _check_number,
        "meta": {"description": "seconds to wait while somebody keeps the database locked"},
    },
    "scratch": _SCRATCH,
}
_RESTORE = {
    "target": {
        "type": "string",
        "nullable": True,
        "default": None,
        "check_with": _check_file,
        "meta": {
            "description": "absolute path of the file to make; default: its place below the "
            "restored directory, or where it was"
        },
    },
    "overwrite": {
        "type": "boolean",
        "default": False,
        "meta": {"description": "whether to replace what stands at the target"},
    },
}
_VERIFY = {
    "foreign_keys": {
        "type": "boolean",
        "default": False,
        "meta": {"description": "whether rows whose parent row is missing are a fault too"},
    },
    "scratch": _SCRATCH,
}
_SAVED_INFO = {
    "size": {"type": "integer", "meta": {"description": "bytes"}},
    "page_count": {"type": "integer", "meta": {"description": "pages of the copy"}},
    "page_size": {"type": "integer", "meta": {"description": "bytes"}},
    "schema_version": {"type": "integer", "meta": {"description": "grows with each change"}},
    "user_version": {"type": "integer", "meta": {"description": "the application's own"}},
    "application_id": {"type": "integer", "meta": {"description": "the application's own, too"}},
    "encoding": {"type": "string", "meta": {"description": "of its texts"}},
    "journal_mode": {
        "type": "string",
        "allowed": ["wal", "delete"],
        "meta": {"description": "whether it had a write-ahead log"},
    },
}


class DatabaseProtection(ProtectionPlugin):
    """Protects, verifies and restores ``SQLite::Database`` resources. Safe from any thread.

    Copy and delete are the engine's: nothing is kept outside of the bank.
    """

    def get_protect_operation(self, resource: Resource) -> Operation:
        """Return the operation that copies the database into the checkpoint."""
        return ProtectDatabase()

    def get_restore_operation(self, resource: Resource) -> Operation:
        """Return the operation that makes the database file again."""
        return RestoreDatabase()

    def get_verify_operation(self, resource: Resource) -> Operation:
        """Return the operation that checks the checkpoint's copy."""
        return VerifyDatabase()

    @classmethod
    def get_supported_resources_types(cls) -> Sequence[str]:
        """Return ``SQLite::Database``."""
        return (DATABASE_TYPE,)

    @classmethod
    def get_options_schema(cls, resource_type: str) -> dict[str, Any]:
        """Return the schema of protect: ``check``, ``busy_timeout``, ``scratch``."""
        return _OPTIONS

    @classmethod
    def get_restore_schema(cls, resource_type: str) -> dict[str, Any]:
        """Return the schema of restore: ``target``, ``overwrite``."""
        return _RESTORE

    @classmethod
    def get_verify_schema(cls, resource_type: str) -> dict[str, Any]:
        """Return the schema of verify: ``foreign_keys``, ``scratch``."""
        return _VERIFY

    @classmethod
    def get_saved_info_schema(cls, resource_type: str) -> dict[str, Any]:
        """Return the schema of what a checkpoint says of a database."""
        return _SAVED_INFO

    @classmethod
    def get_saved_info(cls, metadata_store: Any, resource: Resource) -> Mapping[str, Any]:
        """Return size, pages, versions, encoding and journal mode of the checkpoint's copy."""
        saved = metadata_store.get_object(STREAM)
        return {key: saved[key] for key in _SAVED_INFO if key in saved}


class ProtectDatabase(Operation):
    """Copies a database as it is at one moment, while others may write it."""

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Copy the database to a temporary file, check the copy, and keep it in the bank."""
        section = checkpoint.get_resource_bank_section(resource)
        path = resource.id
        with scratch_file(context, parameters["scratch"]) as copy:
            try:
                status = regular_file(path)
                if status is None:
                    raise DatabaseMissingError(path, "it is a link or no file")
                xattrs = read_attributes(path)

                report = _page_reporter(context)
                copy_database(path, copy, parameters["busy_timeout"], report)
            except OSError as error:
                if isinstance(error, KarborError):
                    raise
                if isinstance(error, FileNotFoundError):
                    raise DatabaseMissingError(path, "it is gone") from error
                raise DatabaseUnreadableError(path, reason_of(error)) from error
            self._check(copy, path, parameters["check"], context)
            facts = describe(copy, path)
            with open(copy, "rb") as file:
                section.write_stream(STREAM, WatchedReader(file, facts["size"], context))
        attributes = {
            "mode": status.st_mode & 0o7777,
            "uid": status.st_uid,
            "gid": status.st_gid,
            "mtime_ns": status.st_mtime_ns,
            "xattrs": xattrs,
        }
        section.update_object(STREAM, facts | attributes)
        _report_consistency(context, path, status.st_nlink)

    @staticmethod
    def _check(copy: str, path: str, check: str, context: Any) -> None:
        if check not in _CHECKS:
            return
        try:
            check_integrity(copy, _CHECKS[check], path, context.check_cancelled)
        except DatabaseUnsupportedError as error:
            # The copy is as good as the database is; verify says the same as an error.
            context.log.warning("%s", error)

    def on_abort(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Remove the temporary copy, if a crash left one."""
        remove_scratch(context)


def _page_reporter(context: Any) -> Callable[[int, int], None]:
    """Return what tells of pages done; waiting for a lock is no progress that keeps a hook alive."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        context.check_cancelled()
        if done != last:
            last = done
            context.progress(done, total, "pages")

    return report


def _report_consistency(context: Any, path: str, names: int) -> None:
    """Say that the copy is of one moment, unless another name may hide a part of it.

    SQLite names a log after the name by which a program opened the database.
    """
    if names == 1:
        context.report_consistency("application", "between two transactions, by online backup")
        return
    cause = f"the file has {names} names, and what a program does by another one may be missing"
    context.log.warning("%s: %s; leave one name", show(path), cause)
    context.report_consistency("none", cause)


class VerifyDatabase(Operation):
    """Checks a checkpoint's copy with ``PRAGMA integrity_check``."""

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Copy the database out of the bank, check it, and compare it with what was saved."""
        section = checkpoint.get_resource_bank_section(resource)
        saved = section.get_object(STREAM)
        with scratch_file(context, parameters["scratch"]) as copy:
            try:
                with open(copy, "wb") as file:
                    copy_stream(section, file.write, context)
            except OSError as error:
                if isinstance(error, KarborError):
                    raise
                raise ScratchError(os.path.dirname(copy), reason_of(error)) from error
            pragmas = ["integrity_check"]
            if parameters["foreign_keys"]:
                pragmas.append("foreign_key_check")
            try:
                for pragma in pragmas:
                    check_integrity(copy, pragma, resource.id, context.check_cancelled)
                facts = describe(copy, resource.id)
            except DatabaseWrongError as error:
                raise CopyWrongError(resource.id, error.findings) from error
        differ = [
            f"{key} is {facts[key]}, not {saved.get(key)}"
            for key in facts
            if facts[key] != saved.get(key)
        ]
        if differ:
            raise CopyWrongError(resource.id, differ)

    def on_abort(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Remove the temporary copy, if a crash left one."""
        remove_scratch(context)
