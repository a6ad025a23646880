"""Protecting a directory: its tree goes into the bank in the main hook."""

from __future__ import annotations

import os
import posixpath
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import BankFormatError, ObjectNotFoundError
from karbor_actors.plugins import Operation
from karbor_filesystem.ahead import CountAhead
from karbor_filesystem.data import DataWriter, StreamPages, is_mostly_dead
from karbor_filesystem.descent import Descent
from karbor_filesystem.errors import ManifestError, RootError, show
from karbor_filesystem.manifest import FORMAT, INFO_KEY, Manifest, ManifestWriter
from karbor_filesystem.own_bank import bank_places, place_around
from karbor_filesystem.patterns import KEPT_BESIDE, Selection
from karbor_filesystem.previous import PreviousEntries
from karbor_filesystem.reader import TreeReader
from karbor_filesystem.report import Report, Ticker, reason_of
from karbor_filesystem.scan import Scanner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from karbor_actors.model import Resource
    from karbor_filesystem.patterns import Path

DIRECTORY_TYPE = "FileSystem::Directory"
DATABASE_TYPE = "SQLite::Database"


def open_root(path: str) -> Descent:
    """Open the directory to protect or to verify against.

    Raises:
        RootError: It is missing, a link, no directory, not absolute, or forbidden.
    """
    if not posixpath.isabs(path):
        raise RootError(path, "is not an absolute path")
    # A trailing slash would follow a link.
    name = os.fsencode(posixpath.normpath(path))
    try:
        return Descent(name)
    except NotADirectoryError as error:
        is_link = os.path.islink(name)
        reason = "is a symbolic link; name the directory itself" if is_link else "is no directory"
        raise RootError(path, reason) from error
    except OSError as error:
        raise RootError(path, f"cannot be opened: {reason_of(error)}") from error


def selection_of(parameters: Mapping[str, Any]) -> Selection:
    """Return what the parameters of protect select."""
    return Selection(parameters.get("include") or (), parameters.get("exclude") or ())


def databases_below(checkpoint: Any, resource: Resource) -> frozenset[Path]:
    """Return the files of *resource*'s children that are SQLite databases, by relative path.

    With each database go the files that SQLite keeps beside it.
    """
    graph = checkpoint.resource_graph
    found: set[Path] = set()
    for child in graph.node(graph.number(resource.key)).child_nodes:
        path = path_below(resource, child.value)
        if path is not None:
            *names, last = path
            found.update((*names, last + suffix) for suffix in (b"", *KEPT_BESIDE))
    return frozenset(found)


def path_below(resource: Resource, child: Resource) -> Path | None:
    """Return the path of *child* below the directory *resource*; None if it is no file there."""
    root = os.fsencode(posixpath.normpath(resource.id)).rstrip(b"/") + b"/"
    path = os.fsencode(child.id)
    if child.type != DATABASE_TYPE or not path.startswith(root):
        return None
    return tuple(path.removeprefix(root).split(b"/"))


class ProtectDirectory(Operation):
    """Copies a tree into the bank.

    Nothing is held still: each file is read on its own, and one that changes meanwhile is
    read again. Nothing is made outside of the bank, so there is nothing to abort.
    """

    def on_prepare_begin(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Check, before anything is frozen for it, that the directory can be read.

        Raises:
            RootError: It cannot, or it is where the bank itself is.
            PatternError: A pattern can match nothing.
        """
        selection_of(parameters)
        bank = place_around(resource.id, bank_places(checkpoint))
        if bank is not None:
            raise RootError(resource.id, f"lies in the bank {show(bank)}; name another bank")
        open_root(resource.id).close()

    def on_main(
        self, checkpoint: Any, resource: Resource, context: Any, parameters: Any, **kwargs: Any
    ) -> None:
        """Write the data and the manifest, and at last the manifest's description.

        Raises:
            DirectoryError: The tree cannot be read as asked for.
            BankError: The bank cannot write.
        """
        section = checkpoint.get_resource_bank_section(resource)
        # What an earlier attempt wrote may have other numbers.
        for stream in list(section.list_streams()):
            section.delete_stream(stream.key)
        fails = parameters.get("on_unreadable", "fail") == "fail"
        selection, bank = selection_of(parameters), bank_places(checkpoint)
        databases = databases_below(checkpoint, resource)
        one_file_system = parameters.get("one_file_system", False)
        with (
            open_root(resource.id) as descent,
            section.stream_writer() as writer,
            ExitStack() as stack,
        ):
            data, previous, total = self._beginning(writer, resource, context)
            ahead = None
            if total is None:
                ahead = CountAhead(
                    resource.id, selection, databases, bank, one_file_system=one_file_system
                )
                stack.enter_context(ahead)
            scanner = Scanner(
                descent,
                selection,
                databases,
                bank,
                Report(resource.id, context.log, fails_on_unreadable=fails),
                one_file_system=one_file_system,
                keeps_atime=parameters.get("atime", False),
            )
            reader = TreeReader(
                scanner,
                ManifestWriter(writer.add),
                data,
                Ticker(context, total, ahead),
                previous=previous,
                fails_on_change=parameters.get("on_change", "report") == "fail",
            )
            info = reader.run()
        section.update_object(INFO_KEY, {"format": FORMAT, "path": resource.id, **info})
        context.report_consistency("none", "each file was read on its own, while others may change")

    def _beginning(
        self, writer: Any, resource: Resource, context: Any
    ) -> tuple[DataWriter, PreviousEntries | None, int | None]:
        """Return what takes the data; the previous checkpoint's entries, and its bytes, if any."""
        if context.previous is None:
            return DataWriter(writer), None, None
        try:
            earlier = Manifest(context.previous.get_resource_bank_section(resource))
        except (ManifestError, ObjectNotFoundError, BankFormatError) as error:
            context.log.warning("the previous checkpoint is not used: %s", error)
            return DataWriter(writer), None, None
        streams = StreamPages(earlier.section)
        data = DataWriter(writer, streams, reuses_bundles=not is_mostly_dead(earlier))
        return data, PreviousEntries(earlier.rows(), context.log), earlier.stored
