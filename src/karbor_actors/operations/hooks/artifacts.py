"""External things that hooks make: what the journal knows of one, and what a hook holds of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karbor_actors.actors.blocking import check_may_block
from karbor_actors.bank.database.records import pack_record, unpack_record

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class ArtifactRecord:
    """One external thing that a hook made, as the journal knows it."""

    id: int
    resource: int
    kind: str
    name: str
    status: str = "outstanding"
    """``outstanding``, ``released`` or ``kept``."""
    data: bytes = b""

    def unpacked(self) -> dict[str, Any]:
        """Return a fresh copy of what was kept with it."""
        return dict(unpack_record(self.data, "what a hook kept")) if self.data else {}


class Artifact:
    """An external thing (a snapshot, a temporary volume) that a hook made or is about to make."""

    __slots__ = ("_record", "_save")

    def __init__(self, record: ArtifactRecord, save: Callable[[ArtifactRecord], None]) -> None:
        self._record, self._save = record, save

    @property
    def kind(self) -> str:
        """What sort of thing it is, in the plugin's words."""
        return self._record.kind

    @property
    def name(self) -> str:
        """Its name, chosen before it was made."""
        return self._record.name

    @property
    def data(self) -> dict[str, Any]:
        """What :meth:`update` kept."""
        return self._record.unpacked()

    def update(self, **data: Any) -> None:
        """Keep *data* (an id that the outside gave, say) with it; durable on return."""
        check_may_block("artifact.update()")  # before anything is changed
        merged = self.data | data
        self._record.data = pack_record(merged, f"artifact {self._record.name!r}")
        self._save(self._record)

    def release(self) -> None:
        """Say that the thing is gone; durable on return."""
        self._set_status("released")

    def keep(self) -> None:
        """Say that the thing belongs to the checkpoint and is for delete; durable on return."""
        self._set_status("kept")

    async def aupdate(self, **data: Any) -> None:
        """Do :meth:`update` without blocking the event loop."""
        await asyncio.to_thread(self.update, **data)

    async def arelease(self) -> None:
        """Do :meth:`release` without blocking the event loop."""
        await asyncio.to_thread(self.release)

    async def akeep(self) -> None:
        """Do :meth:`keep` without blocking the event loop."""
        await asyncio.to_thread(self.keep)

    def _set_status(self, status: str) -> None:
        before, self._record.status = self._record.status, status
        try:
            self._save(self._record)
        except BaseException:
            self._record.status = before
            raise
