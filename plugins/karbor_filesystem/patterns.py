"""Include and exclude patterns. Pure.

A pattern is matched against an entry's path relative to the protected directory:

* ``*.tmp`` (no slash) matches that name at any depth;
* ``/cache`` or ``build/out`` (a slash at the start or within) is anchored at the
  protected directory;
* ``logs/`` (a slash at the end) matches directories only;
* ``*``, ``?`` and ``[...]`` match within one name, ``**`` any number of names.

A pattern that matches a directory matches all that is below it.
"""

from __future__ import annotations

import os
import re
from fnmatch import translate
from typing import TYPE_CHECKING

from karbor_filesystem.errors import PatternError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path = tuple[bytes, ...]
"""A path relative to the protected directory, name by name; () is that directory."""

KEPT_BESIDE = (b"-wal", b"-shm", b"-journal")
"""What SQLite appends to a database's name for the files that it keeps beside it."""


class Pattern:
    """One pattern.

    Args:
        text: The pattern; its names may hold surrogateescape.

    Raises:
        PatternError: It is empty or has empty, ``.`` or ``..`` names.
    """

    __slots__ = ("_names", "directories_only")

    def __init__(self, text: str) -> None:
        self.directories_only = text.endswith("/")
        body = text.rstrip("/")
        anchored = "/" in body
        names = body.removeprefix("/").split("/")
        if not body or "" in names:
            raise PatternError(text, "names nothing: give a name, or /name for one at the top")
        if "." in names or ".." in names or "\0" in text:
            raise PatternError(text, "cannot match: paths hold no '.', '..' or NUL")
        self._names: list[re.Pattern[str] | None] = [] if anchored else [None]
        for name in names:
            if name != "**":
                self._names.append(re.compile(translate(name)))
            elif self._names[-1:] != [None]:
                self._names.append(None)

    def matches(self, path: Sequence[str], *, is_directory: bool) -> bool:
        """Return whether the pattern matches *path* itself (not what it is below of)."""
        if self.directories_only and not is_directory:
            return False
        # Positions in the pattern that are reachable after each name: linear, no backtracking.
        places = self._skip_stars({0})
        for name in path:
            following = set()
            for place in places:
                if place == len(self._names):
                    continue
                part = self._names[place]
                if part is None:
                    following.add(place)
                elif part.match(name):
                    following.add(place + 1)
            places = self._skip_stars(following)
            if not places:
                return False
        return len(self._names) in places

    def _skip_stars(self, places: set[int]) -> set[int]:
        """Return *places* and those behind a ``**``, which may match no name at all."""
        reached = set(places)
        for place in places:
            while place < len(self._names) and self._names[place] is None:
                place += 1  # noqa: PLW2901 - walks over adjacent stars
                reached.add(place)
        return reached


class Selection:
    """Which entries of a tree are taken.

    Args:
        include: If any, only what they match, with the directories on the way to it.
        exclude: What is left out; stronger than *include*.

    Raises:
        PatternError: A pattern that can match nothing.
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = tuple(map(Pattern, include))
        self._exclude = tuple(map(Pattern, exclude))
        self.takes_all = not self._include
        """Whether everything is taken that is not excluded."""
        self.takes_everything = self.takes_all and not self._exclude
        """Whether everything is taken."""

    def excludes(self, path: Path, *, is_directory: bool) -> bool:
        """Return whether *path*, whose directory was not excluded, is left out.

        What SQLite keeps beside an excluded file is left out with it: restored by itself, an old
        log would be laid over a newer database.
        """
        if not self._exclude:
            return False
        if _any_matches(self._exclude, path, is_directory):
            return True
        *names, last = path
        main = next((last[: -len(end)] for end in KEPT_BESIDE if last.endswith(end)), b"")
        return bool(main) and not is_directory and self.excludes((*names, main), is_directory=False)

    def takes(self, path: Path) -> bool:
        """Return whether the file at *path* is taken, by itself or with a directory above it."""
        above = [path[:depth] for depth in range(1, len(path))]
        if self.excludes(path, is_directory=False) or any(
            self.excludes(one, is_directory=True) for one in above
        ):
            return False
        return self.includes(path, is_directory=False) or any(
            self.includes(one, is_directory=True) for one in above
        )

    def includes(self, path: Path, *, is_directory: bool) -> bool:
        """Return whether *path*, whose directory was not included, is asked for."""
        return self.takes_all or _any_matches(self._include, path, is_directory)


def _any_matches(patterns: Sequence[Pattern], path: Path, is_directory: bool) -> bool:
    names = [os.fsdecode(name) for name in path]
    return any(pattern.matches(names, is_directory=is_directory) for pattern in patterns)
