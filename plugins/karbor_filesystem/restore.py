"""Restoring a directory: directories first, then files, then the directories' metadata."""

from __future__ import annotations

import os
import posixpath
import secrets
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from karbor_actors.plugins import Operation
from karbor_filesystem.data import DataReader
from karbor_filesystem.descent import Descent
from karbor_filesystem.errors import DAMAGED, TargetError, show
from karbor_filesystem.files import FileMaker
from karbor_filesystem.manifest import Manifest
from karbor_filesystem.metadata import MetadataSetter
from karbor_filesystem.own_bank import bank_places, place_around
from karbor_filesystem.report import LostFiles, Ticker, reason_of
from karbor_filesystem.target import DirectoryFinisher, DirectoryMaker, Place, Remover, Surveyor
from karbor_filesystem.walk import FileSystems, follow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.model import Resource
    from karbor_filesystem.entries import Entry
    from karbor_filesystem.own_bank import Places

INCOMPLETE = "incomplete"
"""What a restore reports of a directory in which files are missing that are damaged."""


def target_of(resource: Resource, parameters: dict[str, Any]) -> str:
    """Return the absolute path to restore into.

    Raises:
        TargetError: It is not absolute.
    """
    target: str = parameters.get("target") or resource.id
    if not posixpath.isabs(target) or "\0" in target:
        raise TargetError(target, "it is not an absolute path")
    return posixpath.normpath(target)


def missing_directories(target: str) -> list[str]:
    """Return *target* and the directories above it that are to be made, topmost first.

    Raises:
        TargetError: Something else is in the way.
    """
    missing: list[str] = []
    path = target
    while True:
        try:
            # Links above the target are the operator's; the target itself may be none.
            status = os.stat(path, follow_symlinks=path != target)
        except FileNotFoundError:
            missing.append(path)
            path = posixpath.dirname(path)
            continue
        except OSError as error:
            raise TargetError(target, reason_of(error)) from error
        if not stat.S_ISDIR(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
            raise TargetError(target, f"{show(path)} is {kind}")
        return missing[::-1]


@contextmanager
def opened_place(target: str) -> Iterator[tuple[Place, FileSystems]]:
    """Open the target for one walk.

    Raises:
        TargetError: It cannot be opened.
    """
    try:
        descent = Descent(os.fsencode(target))
    except OSError as error:
        raise TargetError(target, reason_of(error)) from error
    file_systems = FileSystems()
    try:
        yield Place(target, descent, file_systems), file_systems
    finally:
        descent.close()
        file_systems.close()


def _is_directory(path: str) -> bool:
    """Return whether *path* is a directory, and no link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def until_damaged(entries: Iterator[Entry], log: Any) -> Iterator[Entry]:
    """Return the entries up to the first that cannot be read.

    For undoing: the hooks that made things came no further than that either.
    """
    try:
        yield from entries
    except DAMAGED as error:
        log.warning("what follows in the manifest was never restored: %s", error)


class RestoreDirectory(Operation):
    """Makes a tree again.

    ``state`` holds ``target``; ``part``, the name of files that are not whole yet; ``made``,
    the directories down to the target that did not exist; ``existed``, which entries did; and
    ``lost``, a sentence about the files that are damaged and were left out.
    """

    def on_prepare_begin(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Make all directories, so that children may restore into them.

        Raises:
            TargetError: The target is not empty and may not be overwritten, cannot be made, or
                is where the bank is.
            ManifestError: The manifest is damaged or forged.
        """
        manifest = Manifest(checkpoint.get_resource_bank_section(resource))
        state = context.state
        if "target" not in state:
            target, bank = target_of(resource, parameters), bank_places(checkpoint)
            made = missing_directories(target)
            if (own := place_around(target, bank)) is not None:
                reason = f"it lies in the bank {show(own)}; choose another target"
                raise TargetError(target, reason)
            existed = b"" if made else self._survey(target, manifest, bank, context, parameters)
            state["part"] = f".karbor-{secrets.token_hex(8)}"
            state["made"], state["existed"] = made, existed
            state["target"] = target
            # What was there before must be known before anything is made.
            state.flush()
        target = state["target"]
        for path in state["made"]:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue  # opening the target tells whether it is a directory
            except OSError as error:
                raise TargetError(target, f"{show(path)}: {reason_of(error)}") from error
        with opened_place(target) as (place, file_systems):
            follow(manifest.entries(), DirectoryMaker(place), Ticker(context))
            file_systems.sync()
        kwargs["new_resources"][resource.id] = target

    def _survey(
        self, target: str, manifest: Manifest, bank: Places, context: Any, parameters: Any
    ) -> bytes:
        """Return which entries are in the target already, if they may be overwritten."""
        with opened_place(target) as (place, _):
            if not os.listdir(place.descent.fd):
                return b""
            if not parameters.get("overwrite", False):
                reason = "it is not empty; empty it, choose another target, or set overwrite"
                raise TargetError(target, reason)
            surveyor = Surveyor(place, bank)
            follow(manifest.entries(), surveyor, Ticker(context))
            return surveyor.existed()

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Write the files; durable on return.

        With ``damaged="skip"``, those whose data is damaged are left out, and named.

        Raises:
            DirectoryError: The target cannot take them.
            BankError: The data cannot be read.
        """
        manifest = Manifest(checkpoint.get_resource_bank_section(resource))
        ticker = Ticker(context, manifest.stored)
        lost = LostFiles(context.log)
        makes_devices = parameters.get("restore_devices")
        with opened_place(context.state["target"]) as (place, file_systems):
            maker = FileMaker(
                place,
                DataReader(manifest.section),
                self._setter(context, parameters),
                os.fsencode(context.state["part"]),
                ticker,
                makes_devices=os.geteuid() == 0 if makes_devices is None else makes_devices,
                log=context.log,
                lost=lost if parameters.get("damaged", "fail") == "skip" else None,
            )
            follow(manifest.entries(), maker, ticker)
            file_systems.sync()
        context.state["lost"] = lost.describe() if lost.count else ""

    def on_complete(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Set the directories' modes, owners and times, now that nothing changes them.

        Raises:
            DirectoryError: The target cannot hold them.
        """
        manifest = Manifest(checkpoint.get_resource_bank_section(resource))
        with opened_place(context.state["target"]) as (place, file_systems):
            finisher = DirectoryFinisher(place, self._setter(context, parameters))
            follow(manifest.entries(), finisher, Ticker(context))
            file_systems.sync()
        if lost := context.state.get("lost"):
            target = context.state["target"]
            kwargs["restore"].update_resource_status(resource.type, target, INCOMPLETE, lost)

    def on_abort(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Remove what the hooks made.

        Files that were overwritten stay as restored: each is whole, old or new.
        """
        state = context.state
        if "target" not in state:
            return
        manifest = Manifest(checkpoint.get_resource_bank_section(resource))
        if _is_directory(state["target"]):
            with opened_place(state["target"]) as (place, _):
                part = os.fsencode(state["part"])
                remover = Remover(place, state["existed"], part, context.log)
                follow(until_damaged(manifest.entries(), context.log), remover, Ticker(context))
        for path in reversed(state["made"]):
            try:
                os.rmdir(path)
            except OSError as error:
                if os.path.lexists(path):  # a read-only file system says so of what is not there
                    context.log.warning("%s stays: %s", show(path), reason_of(error))

    def _setter(self, context: Any, parameters: Any) -> MetadataSetter:
        def report(path: str, what: str, reason: str) -> None:
            context.log.warning("%s of %s not set: %s", what, show(path), reason)

        is_reported = parameters.get("on_unsupported", "fail") == "report"
        return MetadataSetter(
            restores_owner=parameters.get("restore_owner"),
            report=report if is_reported else None,
        )
