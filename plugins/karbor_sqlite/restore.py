"""Makes a database file again, all of it or nothing."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karbor_actors import KarborError, Operation
from karbor_sqlite.attributes import set_attributes
from karbor_sqlite.engine import check_integrity, connect, is_busy, is_wrong
from karbor_sqlite.errors import (
    DatabaseUnsupportedError,
    RestorePlaceError,
    TargetExistsError,
    TargetInUseError,
    reason_of,
)
from karbor_sqlite.places import (
    DIRECTORY_TYPE,
    MAX_PATH_BYTES,
    SIBLING_SUFFIXES,
    directory,
    identity,
    path_in,
    remove_at,
    stat_at,
)
from karbor_sqlite.streams import STREAM, copy_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from karbor_actors import Resource

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
"""How file systems without hard links refuse one."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Place:
    """Where a database is restored to: *root*/*parts*/*name*; no link below *root* is followed."""

    root: str
    parts: tuple[str, ...]
    name: str
    is_new: bool
    """Whether *root* is a directory that this restore makes too."""

    @property
    def path(self) -> str:
        """The file's whole path."""
        return os.path.join(self.root, *self.parts, self.name)


def find_place(resource: Resource, target: str | None, new_resources: Mapping[Any, Any]) -> Place:
    """Return where to restore *resource*: to *target*, into its restored directory, or back.

    Raises:
        RestorePlaceError: The checkpoint's record of its path leads elsewhere.
    """
    if target is not None:
        return Place(*_split(target), is_new=False)
    info = resource.extra_info
    if not (isinstance(info, dict) and {"directory", "path"} <= info.keys()):
        return Place(*_split(resource.id), is_new=False)
    *parts, name = str(info["path"]).split("/")
    if {"", ".", ".."} & {*parts, name}:
        raise RestorePlaceError(str(info["path"]), "the path leads out of its directory")
    old = str(info["directory"])
    new = new_resources.get((DIRECTORY_TYPE, old))
    return Place(new or old, tuple(parts), name, is_new=new is not None)


def _split(path: str) -> tuple[str, tuple[str, ...], str]:
    root, name = os.path.split(path)
    return root, (), name


class RestoreDatabase(Operation):
    """Restores a database beside its place, checks it, and renames it into its place."""

    def on_prepare_begin(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Refuse what cannot be restored before any resource is changed."""
        place = find_place(resource, parameters["target"], kwargs["new_resources"])
        try:
            with directory(place.root, place.parts) as fd:
                if not _is_ours(stat_at(fd, place.name), context.state):
                    _refuse_unless_free(fd, place, parameters["overwrite"])
        except FileNotFoundError:
            return  # the directory is made with what is restored beside the database
        except OSError as error:
            if isinstance(error, KarborError):
                raise
            raise RestorePlaceError(place.path, reason_of(error)) from error

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Make the database file and say where it is in ``new_resources``."""
        section = checkpoint.get_resource_bank_section(resource)
        new_resources = kwargs["new_resources"]
        self._undo(context, keep_result=True)  # of an earlier attempt
        place = find_place(resource, parameters["target"], new_resources)
        if len(os.fsencode(place.path)) > MAX_PATH_BYTES:
            raise RestorePlaceError(place.path, f"SQLite opens no path over {MAX_PATH_BYTES} bytes")
        try:
            self._restore(section, place, parameters["overwrite"], context)
        except OSError as error:
            if isinstance(error, KarborError):
                raise
            raise RestorePlaceError(place.path, reason_of(error)) from error
        new_resources[resource.id] = place.path

    def _restore(self, section: Any, place: Place, overwrite: bool, context: Any) -> None:
        state = context.state
        with directory(place.root, place.parts, make=place.is_new) as fd:
            if _is_ours(stat_at(fd, place.name), state):
                return  # the attempt before this one was cut off after its last step
            _refuse_unless_free(fd, place, overwrite)
            temporary = f".karbor-sqlite-{secrets.token_hex(8)}"
            state.update(root=place.root, parts=list(place.parts), name=place.name)
            state.update(temporary=temporary, file=None, replaces=False)
            state.flush()
            try:
                state["file"] = _write(fd, temporary, section, context)
                _check(fd, temporary, place.path, context)
                state["replaces"] = stat_at(fd, place.name) is not None
                state.flush()
                context.check_cancelled()
                if overwrite:
                    _replace(fd, temporary, place)
                else:
                    _put_into_place(fd, temporary, place)
            finally:
                remove_at(fd, temporary)
            os.fsync(fd)

    def on_abort(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Remove what was made; what replaced an older database stays, being whole."""
        self._undo(context, keep_result=False)

    @staticmethod
    def _undo(context: Any, *, keep_result: bool) -> None:
        state = context.state
        if "temporary" not in state:
            return
        with suppress(FileNotFoundError), directory(state["root"], state["parts"]) as fd:
            remove_at(fd, state["temporary"])
            made = not keep_result and not state["replaces"]
            if made and _is_ours(stat_at(fd, state["name"]), state):
                remove_at(fd, state["name"])
            os.fsync(fd)


def _is_ours(status: os.stat_result | None, state: Mapping[str, Any]) -> bool:
    """Return whether a file is the one that an attempt of this restore wrote."""
    return status is not None and identity(status) == state.get("file")


def _refuse_unless_free(fd: int, place: Place, overwrite: bool) -> None:
    """Raise TargetExistsError unless the database may be made; also about a log left alone.

    SQLite would play a ``-wal`` or ``-journal`` that it finds into the restored database.
    """
    for name in (place.name, *(f"{place.name}{suffix}" for suffix in SIBLING_SUFFIXES)):
        status = stat_at(fd, name)
        if status is None:
            continue
        path = os.path.join(os.path.dirname(place.path), name)
        if not overwrite:
            raise TargetExistsError(path)
        if not stat.S_ISREG(status.st_mode):
            raise RestorePlaceError(path, "what stands there is no regular file; remove it")


def _write(fd: int, name: str, section: Any, context: Any) -> list[int]:
    """Write the section's database to a new file in the directory *fd*; return its identity."""
    saved = section.get_object(STREAM)
    with open(os.open(name, _CREATE, 0o600, dir_fd=fd), "wb") as file:
        copy_stream(section, file.write, context)
        file.flush()
        number = file.fileno()
        try:
            os.fchown(number, saved["uid"], saved["gid"])
        except PermissionError:
            context.log.warning("the owner stays %d: only root may give files away", os.geteuid())
        set_attributes(number, saved.get("xattrs"), context.log.warning)
        os.fchmod(number, saved["mode"])
        os.utime(number, ns=(saved["mtime_ns"], saved["mtime_ns"]))
        os.fsync(number)
        return identity(os.fstat(number))


def _check(fd: int, name: str, label: str, context: Any) -> None:
    try:
        check_integrity(path_in(fd, name), "integrity_check", label, context.check_cancelled)
    except DatabaseUnsupportedError as error:
        # What the database needs may be at hand where it is used.
        context.log.warning("%s", error)


def _put_into_place(fd: int, temporary: str, place: Place) -> None:
    """Give the file its name, unless something has taken that meanwhile."""
    try:
        os.link(temporary, place.name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    except FileExistsError as error:
        raise TargetExistsError(place.path) from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _refuse_unless_free(fd, place, overwrite=False)
        os.rename(temporary, place.name, src_dir_fd=fd, dst_dir_fd=fd)


def _replace(fd: int, temporary: str, place: Place) -> None:
    """Put the file in the place of what stands there, with nothing of that left beside it."""
    with ExitStack() as stack:
        if stat_at(fd, place.name) is not None:
            stack.enter_context(_settled(fd, place))
        for suffix in SIBLING_SUFFIXES:
            remove_at(fd, f"{place.name}{suffix}")
        os.rename(temporary, place.name, src_dir_fd=fd, dst_dir_fd=fd)


@contextmanager
def _settled(fd: int, place: Place) -> Iterator[None]:
    """Hold the database that is to be replaced, its log played into it, against all others.

    So a crash before the rename leaves it whole, and nobody can write what would be lost. A
    file that SQLite cannot read is as lost as it is; nothing is held then.

    Raises:
        TargetInUseError: Somebody has it open or locked.
    """
    with ExitStack() as stack:
        try:
            old = stack.enter_context(connect(path_in(fd, place.name), mode="rw"))
            old.execute("PRAGMA journal_mode = DELETE").fetchone()
            old.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if is_busy(error):
                raise TargetInUseError(place.path) from error
            if not is_wrong(error):
                raise RestorePlaceError(place.path, f"SQLite says: {error}") from error
            stack.close()
        yield
