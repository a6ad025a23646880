"""What the hooks of a restore do at each entry of the target directory."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import KarborError
from karbor_filesystem.entries import Kind
from karbor_filesystem.errors import TargetError
from karbor_filesystem.metadata import path_of
from karbor_filesystem.own_bank import place_of
from karbor_filesystem.report import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_filesystem.descent import Descent
    from karbor_filesystem.entries import Entry
    from karbor_filesystem.metadata import MetadataSetter
    from karbor_filesystem.own_bank import Places
    from karbor_filesystem.walk import FileSystems


class Place:
    """The target directory and the walk through it; shared by all visitors.

    Args:
        root: The target's absolute path, for messages.
        descent: Where the walk is.
        file_systems: Told of each directory that is entered.
    """

    def __init__(self, root: str, descent: Descent, file_systems: FileSystems) -> None:
        self.root, self.descent, self._file_systems = root, descent, file_systems
        file_systems.add(descent)

    def path(self, name: bytes = b"") -> str:
        """Return the absolute path of *name* in the directory that the walk is in."""
        names = (*self.descent.path, name) if name else self.descent.path
        return os.path.join(self.root, *map(os.fsdecode, names))

    def enter(self, entry: Entry) -> None:
        """Go into a directory that is there.

        Raises:
            OSError: It is missing, a link, or no directory.
        """
        if entry.depth == 0:
            return
        try:
            self.descent.enter(entry.name)
        except PermissionError:
            # Run again, without root's rights, where the directory has its own mode by now.
            self._open_up(entry.name)
            self.descent.enter(entry.name)
        self._file_systems.add(self.descent)

    def _open_up(self, name: bytes) -> None:
        fd = os.open(
            name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descent.fd
        )
        try:
            os.chmod(path_of(fd), 0o700)
        finally:
            os.close(fd)

    @contextmanager
    def errors_at(self, name: bytes) -> Iterator[None]:
        """Give an error of the system the path that it is about.

        Raises:
            TargetError: In place of an OSError that is not ours.
        """
        try:
            yield
        except OSError as error:
            if isinstance(error, KarborError):
                raise
            raise TargetError(self.path(name), reason_of(error)) from error


class Surveyor:
    """Finds, before anything is made, what of the manifest is there already.

    Args:
        place: The target.
        bank: The bank's own directories, in which nothing may be restored.
    """

    def __init__(self, place: Place, bank: Places) -> None:
        self._place, self._bank = place, bank
        self._existed = bytearray()

    def existed(self) -> bytes:
        """Return a bit for each entry: whether it, or something in its place, was there."""
        return bytes(self._existed)

    def enter(self, number: int, entry: Entry) -> bool:
        """Note a directory that is there; what another has below needs no look.

        Raises:
            TargetError: Something else stands in its place, or it is the bank.
        """
        with self._place.errors_at(entry.name):
            found = entry.depth == 0 or self._note(number, entry)
            if found:
                self._set(number)
                self._place.enter(entry)
        return found

    def visit(self, number: int, entry: Entry) -> None:
        """Note a file that is there.

        Raises:
            TargetError: A directory stands in its place.
        """
        with self._place.errors_at(entry.name):
            self._note(number, entry)

    def leave(self, number: int, entry: Entry) -> None:
        """Go back up."""
        if entry.depth:
            self._place.descent.leave()

    def _note(self, number: int, entry: Entry) -> bool:
        try:
            status = os.stat(entry.name, dir_fd=self._place.descent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        is_directory = entry.kind is Kind.DIRECTORY
        if stat.S_ISDIR(status.st_mode) != is_directory:
            there, wanted = ("a file or link", "a directory")[:: 1 if is_directory else -1]
            reason = f"{there} is where {wanted} belongs; move it away"
            raise TargetError(self._place.path(entry.name), reason)
        if is_directory and place_of(status, self._bank) is not None:
            reason = "it is the bank that is restored from; choose another target"
            raise TargetError(self._place.path(entry.name), reason)
        self._set(number)
        return True

    def _set(self, number: int) -> None:
        byte = number >> 3
        self._existed.extend(bytes(max(0, byte + 1 - len(self._existed))))
        self._existed[byte] |= 1 << (number & 7)


def has_existed(existed: bytes, number: int) -> bool:
    """Return whether entry *number* was there, as :meth:`Surveyor.existed` notes it."""
    byte = number >> 3
    return byte < len(existed) and bool(existed[byte] >> (number & 7) & 1)


class DirectoryMaker:
    """Makes the directories, private until they are complete."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def enter(self, number: int, entry: Entry) -> bool:
        """Make a directory, or enter it where it is there already."""
        with self._place.errors_at(entry.name):
            if entry.depth:
                with suppress(FileExistsError):  # entering it tells whether it is a directory
                    os.mkdir(entry.name, 0o700, dir_fd=self._place.descent.fd)
            self._place.enter(entry)
        return True

    def visit(self, number: int, entry: Entry) -> None:
        """Leave files for the main hook."""

    def leave(self, number: int, entry: Entry) -> None:
        """Go back up."""
        if entry.depth:
            self._place.descent.leave()


class DirectoryFinisher:
    """Gives directories their metadata, each after all that it holds."""

    def __init__(self, place: Place, setter: MetadataSetter) -> None:
        self._place, self._setter = place, setter

    def enter(self, number: int, entry: Entry) -> bool:
        """Go into a directory."""
        with self._place.errors_at(entry.name):
            self._place.enter(entry)
        return True

    def visit(self, number: int, entry: Entry) -> None:
        """Files are complete."""

    def leave(self, number: int, entry: Entry) -> None:
        """Set the metadata of the directory and go back up."""
        with self._place.errors_at(b""):
            self._setter.apply(self._place.descent.fd, entry, self._place.path)
        if entry.depth:
            self._place.descent.leave()


class Remover:
    """Removes what a restore made, and nothing else.

    Args:
        place: The target.
        existed: What was there before, as :class:`Surveyor` noted it.
        part_name: The name of a file that was not whole yet.
        log: Told of directories that stay since others put something there.
    """

    def __init__(self, place: Place, existed: bytes, part_name: bytes, log: Any) -> None:
        self._place, self._existed = place, existed
        self._part, self._log = part_name, log

    def enter(self, number: int, entry: Entry) -> bool:
        """Go into a directory, if it is there."""
        try:
            self._place.enter(entry)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if os.geteuid() != 0 and not has_existed(self._existed, number):
            # It may have its own mode by now, which keeps all but root from removing anything.
            with suppress(PermissionError):
                os.fchmod(self._place.descent.fd, 0o700)
        return True

    def visit(self, number: int, entry: Entry) -> None:
        """Remove a file that was not there before."""
        if not has_existed(self._existed, number):
            with self._place.errors_at(entry.name):
                remove_if_there(entry.name, self._place.descent.fd)

    def leave(self, number: int, entry: Entry) -> None:
        """Remove a directory that was not there before, unless others use it."""
        with self._place.errors_at(self._part):
            remove_if_there(self._part, self._place.descent.fd)
        if not entry.depth:
            return
        path = self._place.path()
        self._place.descent.leave()
        if not has_existed(self._existed, number):
            try:
                os.rmdir(entry.name, dir_fd=self._place.descent.fd)
            except FileNotFoundError:
                return
            except OSError as error:
                self._log.warning("%s stays: %s", path, reason_of(error))


def remove_if_there(name: bytes, directory_fd: int) -> None:
    """Remove what is no directory, if it is there."""
    try:
        os.unlink(name, dir_fd=directory_fd)
    except (FileNotFoundError, IsADirectoryError):
        return
