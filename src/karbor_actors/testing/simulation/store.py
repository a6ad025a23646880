"""The object store of a simulated bank: in memory, and it outlives the process."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from karbor_actors import faultpoints
from karbor_actors.errors import BankFullError, StoreError
from karbor_actors.store.objects import MemoryStore

if TYPE_CHECKING:
    from karbor_actors.store.objects import Data


class SimulatedStore(MemoryStore):
    """Objects in memory whose puts fail, or are cut off by a crash, as the faults say.

    One that is under way when the process is killed is there, or is not; what was
    acknowledged is.
    """

    def put(self, name: str, data: Data) -> None:
        """See ObjectStore."""
        try:
            if faultpoints.injector is not None:
                faultpoints.injector.on_put(name, "before")
            super().put(name, data)
            if faultpoints.injector is not None:
                faultpoints.injector.on_put(name, "after")
        except OSError as error:
            if isinstance(error, StoreError | BankFullError):
                raise
            if error.errno == errno.ENOSPC:
                raise BankFullError(f"no space is left for object {name}") from error
            raise StoreError(f"cannot write object {name}: {error.strerror}") from error
