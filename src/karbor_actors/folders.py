"""Folders whose names are durable."""

from __future__ import annotations

import os
from contextlib import suppress


def sync_folder(path: str) -> None:
    """Make the names in folder *path* durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_path(path: str) -> None:
    """Make the folder *path*, for its owner only, and those above that are missing, if it is missing."""
    missing, folder = [], path
    while folder and not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    os.makedirs(path, mode=0o700, exist_ok=True)
    for made in missing:
        with suppress(PermissionError):  # of one that may be written and not read
            sync_folder(os.path.dirname(made) or ".")
