"""``SQLite::Database``: SQLite databases, protected while they are in use.

A database is a child of the ``FileSystem::Directory`` that holds it. It is copied with SQLite's
online backup, verified with ``PRAGMA integrity_check`` and restored atomically.
"""

from karbor_sqlite.errors import (
    CopyWrongError,
    DatabaseBusyError,
    DatabaseError,
    DatabaseMissingError,
    DatabaseReplacedError,
    DatabaseUnreadableError,
    DatabaseUnsupportedError,
    DatabaseWrongError,
    RestorePlaceError,
    ScratchError,
    TargetExistsError,
    TargetInUseError,
)
from karbor_sqlite.protectable import DatabaseProtectable
from karbor_sqlite.protection import DatabaseProtection

__all__ = [
    "CopyWrongError",
    "DatabaseBusyError",
    "DatabaseError",
    "DatabaseMissingError",
    "DatabaseProtectable",
    "DatabaseProtection",
    "DatabaseReplacedError",
    "DatabaseUnreadableError",
    "DatabaseUnsupportedError",
    "DatabaseWrongError",
    "RestorePlaceError",
    "ScratchError",
    "TargetExistsError",
    "TargetInUseError",
]
