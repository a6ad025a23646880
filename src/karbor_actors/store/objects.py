"""Object stores: where a bank keeps its bulk data, as immutable named objects.

A store is dumb on purpose: it keeps whole objects under plain names. What they hold, who names
them and when they go is decided by the bank. The contract of :class:`ObjectStore` is run by one
test suite against every store.

``open_store`` finds a store by the scheme of its URL. The schemes are those of this package and
those of installed distributions that name a factory, ``factory(url, *, writable)``, in the entry
point group ``karbor_actors.object_stores``.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, cast

from karbor_actors.errors import BankPathError, ObjectNotFoundError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.metadata import EntryPoint

Buffer = bytes | bytearray | memoryview
Data = Buffer | Sequence[Buffer]
"""An object's bytes, whole or in parts that are stored one after another."""

ENTRY_POINT_GROUP = "karbor_actors.object_stores"
MAX_NAME_LENGTH = 200

_NAME = re.compile(r"[a-z0-9_-]+(?:/[a-z0-9_-]+)*")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


class ObjectStore(Protocol):
    """Named, immutable objects. Every method may be called from any thread, until ``close``.

    Names are parts of ``[a-z0-9_-]`` joined by ``/``, at most 200 characters; anything else is
    a ValueError. Failures are StoreError, BankFullError when the space ran out.
    """

    def put(self, name: str, data: Data) -> None:
        """Store *data* as *name*, in place of what was there.

        Durable on return, and atomic: no reader sees half of it, and a failure leaves nothing
        under a new name.
        """

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return *length* bytes from *start* on, fewer where the object ends.

        Raises:
            ObjectNotFoundError: there is no object *name*.
        """

    def size(self, name: str) -> int:
        """Return the object's size in bytes.

        Raises:
            ObjectNotFoundError: there is no object *name*.
        """

    def delete(self, name: str) -> None:
        """Remove the object; an absent one is fine."""

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Yield the (name, size in bytes) of every object below *folder*, in any order.

        Objects put or deleted meanwhile may be in it or not.
        """

    def close(self) -> None:
        """Release what the store holds; idempotent. No other call may be running."""


class StoreFactory(Protocol):
    """What an entry point of ``karbor_actors.object_stores`` names."""

    def __call__(self, url: str, *, writable: bool) -> ObjectStore:
        """Open the store at *url*."""


def check_name(name: str) -> str:
    """Return *name* if it may name an object; raise ValueError otherwise."""
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name an object")
    return name


def is_name(name: str) -> bool:
    """Return whether *name* may name an object."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def parts_of(data: Data) -> Sequence[Buffer]:
    """Return *data* as its parts."""
    return (data,) if isinstance(data, bytes | bytearray | memoryview) else data


def check_range(start: int, length: int | None) -> None:
    """Raise ValueError for a negative range."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"no such range: {length} bytes from {start}")


class MemoryStore:
    """Objects in this process's memory: for tests, and for data that need not last."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: Data) -> None:
        """See ObjectStore."""
        whole = b"".join(parts_of(data))
        with self._lock:
            self._objects[check_name(name)] = whole

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ObjectStore."""
        check_range(start, length)
        whole = self._find(name)
        return whole[start : None if length is None else start + length]

    def size(self, name: str) -> int:
        """See ObjectStore."""
        return len(self._find(name))

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        with self._lock:
            self._objects.pop(check_name(name), None)

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """See ObjectStore."""
        start = f"{check_name(folder)}/" if folder else ""
        with self._lock:
            found = [(name, len(data)) for name, data in self._objects.items()]
        return (item for item in found if item[0].startswith(start))

    def close(self) -> None:
        """Keep the objects: a store in memory can be handed to the next bank."""

    def _find(self, name: str) -> bytes:
        with self._lock:
            whole = self._objects.get(check_name(name))
        if whole is None:
            raise ObjectNotFoundError(name)
        return whole


def open_memory(url: str, *, writable: bool) -> ObjectStore:
    """Open a new, empty store in memory for ``memory://``."""
    del url, writable
    return MemoryStore()


_REMOTE = "karbor_actors.store.remote:open_remote"
_BUILTIN: Mapping[str, str] = {
    "file": "karbor_actors.store.local:open_local",
    "memory": "karbor_actors.store.objects:open_memory",
    **dict.fromkeys(("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"), _REMOTE),
}


def open_store(url: str, *, writable: bool = True) -> ObjectStore:
    """Open the store at *url*; a text without a scheme is a local directory.

    Args:
        url: for example ``file:///var/lib/app/objects``, ``memory://``, ``s3://bucket/folder``.
        writable: False promises that nothing will be put or deleted.

    Raises:
        BankPathError: no store handles the scheme, or the place cannot hold objects.
        StoreError: the store cannot be reached, or needs a package that is not installed.
    """
    scheme = match[1] if (match := _SCHEME.match(url)) else "file"
    return _find_factory(scheme)(url, writable=writable)


def _find_factory(scheme: str) -> StoreFactory:
    if target := _BUILTIN.get(scheme):
        module, _, name = target.partition(":")
        return cast("StoreFactory", getattr(importlib.import_module(module), name))
    found = entry_points(group=ENTRY_POINT_GROUP)
    for point in found.select(name=scheme):
        return _load(point)
    known = ", ".join(sorted({*_BUILTIN, *found.names}))
    raise BankPathError(f"no object store handles {scheme}://; write one of {known}")


def _load(point: EntryPoint) -> StoreFactory:
    try:
        return cast("StoreFactory", point.load())
    except Exception as error:  # foreign code: its failure is reported to whoever opens the bank
        raise StoreError(f"the object store {point.value} cannot be loaded: {error}") from error
