"""The object store of a simulated bank: in memory, and it outlives the process."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from karbor_actors import faultpoints
from karbor_actors.bank.manifests.manifest import FOLDER
from karbor_actors.errors import BankFullError, StoreError
from karbor_actors.store.objects import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.store.objects import Data


class SimulatedStore(MemoryStore):
    """Objects in memory whose puts fail, or are cut off by a crash, as the faults say.

    One that is under way when the process is killed is there, or is not; what was
    acknowledged is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_manifest: Callable[[str], None] = lambda _: None
        """Called with the id of each checkpoint whose manifest is about to be there at last."""
        self._manifests: set[str] = set()

    def has_manifest(self, checkpoint_id: str) -> bool:
        """Return whether the manifest of a checkpoint is there, whole."""
        return any(_described(name) == checkpoint_id for name, _ in self.list(FOLDER))

    def put(self, name: str, data: Data) -> None:
        """See ObjectStore."""
        try:
            if faultpoints.injector is not None:
                faultpoints.injector.on_put(name, "before")
            self._note(name)
            super().put(name, data)
            if faultpoints.injector is not None:
                faultpoints.injector.on_put(name, "after")
        except OSError as error:
            if isinstance(error, StoreError | BankFullError):
                raise
            if error.errno == errno.ENOSPC:
                raise BankFullError(f"no space is left for object {name}") from error
            raise StoreError(f"cannot write object {name}: {error.strerror}") from error

    def _note(self, name: str) -> None:
        described = _described(name)
        if described and described not in self._manifests:
            self.on_manifest(described)
            self._manifests.add(described)


def _described(name: str) -> str:
    """Return the id of the checkpoint whose manifest the object *name* is the head of, or nothing."""
    folder, _, rest = name.partition("/")
    _, _, head = rest.partition("/")
    described, _, what = head.partition("/")
    return described if (folder, what) == (FOLDER, "head") else ""
