"""Which stored blocks cannot be counted on: found damaged, or in a pack that is lost or cut.

A new checkpoint must not refer to such a block: its success would be false. What was found
damaged is kept in META, under its digest, until the block is stored anew.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks.rows import pack_row
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from karbor_actors.bank.database.environment import Environment
    from karbor_actors.bank.database.transactions import Reader, Transaction
    from karbor_actors.bank.writer import Writer
    from karbor_actors.store.objects import ObjectStore

_DAMAGED = b"damaged\x00"
_SEEN_FOR = 60.0
"""Seconds for which a pack that was seen whole is taken to be so still."""


class BlockHealth:
    """What is known of the state of blocks and packs. Any thread may call it.

    Args:
        environment: The bank's records.
        objects: Where the packs are.
        object_name: Returns the name of a pack's object.
        writer: Takes what is found damaged; None for a bank that is only read.
    """

    def __init__(
        self,
        environment: Environment,
        objects: ObjectStore,
        object_name: Callable[[int], str],
        writer: Writer | None,
    ) -> None:
        self._objects, self._object_name, self._writer = objects, object_name, writer
        self._lock = threading.Lock()
        self._packs: dict[int, tuple[bool, float]] = {}
        """By pack: whether it was whole, and when it was looked at."""
        with environment.snapshot() as snapshot:
            rows = snapshot.scan(Table.META, _DAMAGED)
            self._damaged = {bytes(key[len(_DAMAGED) :]) for key, _ in rows}

    def mark_damaged(self, digest: bytes) -> None:
        """Remember that a block's bytes are not those that were stored."""
        with self._lock:
            if digest in self._damaged:
                return
            self._damaged.add(digest)
        if self._writer is not None:
            key = _DAMAGED + digest
            self._writer.submit(
                lambda transaction: transaction.put(Table.META, key, b""), lambda *_: None
            )

    def unseen_packs(self, reader: Reader, packs: Iterable[int]) -> dict[int, int]:
        """Return the recorded size of each of *packs* that was not looked at lately."""
        oldest = time.monotonic() - _SEEN_FOR
        with self._lock:
            due = {p for p in packs if p not in self._packs or self._packs[p][1] < oldest}
        rows = {pack: pack_row(reader, pack) for pack in due}
        return {pack: row.size for pack, row in rows.items() if row is not None}

    def look_at(self, sizes: Mapping[int, int]) -> None:
        """See whether the objects of packs are there, and of their recorded *sizes*."""
        for pack, size in sizes.items():
            try:
                is_whole = self._objects.size(self._object_name(pack)) == size
            except ObjectNotFoundError:
                is_whole = False
            with self._lock:
                self._packs[pack] = (is_whole, time.monotonic())

    def is_lost(self, digest: bytes, pack: int) -> bool:
        """Return whether a block in *pack* cannot be counted on."""
        with self._lock:
            seen = self._packs.get(pack)
            return digest in self._damaged or (seen is not None and not seen[0])

    def stored_anew(self, transaction: Transaction, digest: bytes) -> None:
        """Forget that a block was damaged: its record names another place now."""
        transaction.delete(Table.META, _DAMAGED + digest)
        with self._lock:
            self._damaged.discard(digest)
