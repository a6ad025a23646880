"""Where the bank itself is, so that no checkpoint holds it and no restore writes into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    Places = Mapping[tuple[int, int], str]


def bank_places(checkpoint: Any) -> Places:
    """Return the directories of *checkpoint*'s bank by (device, inode).

    By these a directory is known whatever links or mounts lead to it.
    """
    places = {}
    for directory in checkpoint.bank_directories:
        try:
            status = os.stat(directory)
        except FileNotFoundError:
            continue
        places[status.st_dev, status.st_ino] = directory
    return places


def place_of(status: os.stat_result, places: Places) -> str | None:
    """Return which of *places* a directory is, or None."""
    return places.get((status.st_dev, status.st_ino))


def place_around(path: str, places: Places) -> str | None:
    """Return which of *places* an absolute path is or lies in, or None; it need not exist."""
    inner = os.path.realpath(path)
    while True:
        try:
            place = place_of(os.stat(inner), places)
        except OSError:  # missing or forbidden: what is above it tells
            place = None
        if place is not None or inner == "/":
            return place
        inner = os.path.dirname(inner)
