"""Object stores of the cloud, through the optional package obstore."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from karbor_actors.errors import ObjectNotFoundError, StoreError
from karbor_actors.store.objects import check_name, check_range, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from karbor_actors.store.objects import Data, ObjectStore


def _obstore() -> Any:
    try:
        return importlib.import_module("obstore")
    except ImportError as error:
        raise StoreError(
            "this object store needs the package obstore: pip install karbor_actors[objectstore]"
        ) from error


class RemoteStore:
    """An ObjectStore over any store of obstore (S3, GCS, Azure, HTTP, memory).

    As durable as the service is. obstore's own LocalStore does not sync; for a local directory
    use ``file://``.

    Args:
        store: a store object of obstore.

    Raises:
        StoreError: obstore is not installed.
    """

    def __init__(self, store: Any) -> None:
        self._api = _obstore()
        self._store = store

    def put(self, name: str, data: Data) -> None:
        """See ObjectStore."""
        check_name(name)
        try:
            self._api.put(self._store, name, b"".join(parts_of(data)))
        except Exception as error:  # obstore's: reported to the caller of the bank
            raise self._failure("write", name, error) from error

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """See ObjectStore."""
        check_range(start, length)
        check_name(name)
        try:
            if start == 0 and length is None:
                return bytes(self._api.get(self._store, name).bytes())
            if length:
                with contextlib.suppress(self._api.exceptions.GenericError):
                    return bytes(self._api.get_range(self._store, name, start=start, length=length))
            # An open range, or one that the service refuses because it begins beyond the end.
            size = self._api.head(self._store, name)["size"]
            end = size if length is None else min(size, start + length)
            if start >= end:
                return b""
            return bytes(self._api.get_range(self._store, name, start=start, end=end))
        except Exception as error:  # obstore's: reported to the caller of the bank
            raise self._failure("read", name, error) from error

    def size(self, name: str) -> int:
        """See ObjectStore."""
        check_name(name)
        try:
            return int(self._api.head(self._store, name)["size"])
        except Exception as error:  # obstore's: reported to the caller of the bank
            raise self._failure("read", name, error) from error

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        check_name(name)
        try:
            self._api.delete(self._store, name)
        except FileNotFoundError:
            return
        except Exception as error:  # obstore's: reported to the caller of the bank
            raise self._failure("delete", name, error) from error

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """See ObjectStore."""
        prefix = check_name(folder) if folder else None
        try:
            for batch in self._api.list(self._store, prefix):
                for item in batch:
                    yield item["path"], item["size"]
        except Exception as error:  # obstore's: reported to the caller of the bank
            raise self._failure("list", folder or "the store", error) from error

    def close(self) -> None:
        """Nothing to release: obstore closes its connections itself."""

    def _failure(self, verb: str, name: str, error: Exception) -> StoreError | ObjectNotFoundError:
        if isinstance(error, FileNotFoundError):
            return ObjectNotFoundError(name)
        reason = str(error).partition("\n")[0]
        return StoreError(f"cannot {verb} object {name} in {self._store!r}: {reason}")


def open_remote(url: str, *, writable: bool) -> ObjectStore:
    """Open the store at *url*; credentials come from the service's usual variables.

    Raises:
        StoreError: obstore is not installed, or refuses the URL.
    """
    del writable
    _obstore()
    stores = importlib.import_module("obstore.store")
    try:
        return RemoteStore(stores.from_url(url))
    except Exception as error:  # obstore's: reported to whoever opens the bank
        reason = str(error).partition("\n")[0]
        raise StoreError(f"cannot open the object store {url}: {reason}") from error
