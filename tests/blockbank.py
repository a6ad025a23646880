"""Streams and blocks without a bank around them, and what breaks them on purpose."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from karbor_actors.bank.blocks import blocks
from karbor_actors.bank.blocks import sweep as block_sweep
from karbor_actors.bank.blocks.blocks import BlockStore
from karbor_actors.bank.blocks.check import check_blocks
from karbor_actors.bank.database.environment import Environment
from karbor_actors.bank.streams import pipeline as stream_pipeline
from karbor_actors.bank.streams.streams import Streams
from karbor_actors.errors import StoreError
from karbor_actors.store import MemoryStore, packs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from karbor_actors.store.objects import Data

TINY_BLOCK = 64
"""Bytes of a block in tests of what happens at the edges of blocks, segments and packs."""


@contextlib.contextmanager
def tiny_blocks() -> Iterator[None]:
    """Make blocks, segments, packs, tasks and steps so small that a test meets all their edges."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("karbor_actors.") and hasattr(module, "BLOCK_SIZE"):
                patch.setattr(module, "BLOCK_SIZE", TINY_BLOCK)
        patch.setattr(blocks, "_ZEROS", bytes(TINY_BLOCK))
        patch.setattr(packs, "PACK_TARGET", 4 * TINY_BLOCK)
        patch.setattr(stream_pipeline, "_SEGMENT", 3 * 32)
        patch.setattr(stream_pipeline, "_TASK_SIZE", 2 * TINY_BLOCK)
        patch.setattr(stream_pipeline, "_TASKS", 2)
        patch.setattr(stream_pipeline, "_PUTS", 1)
        patch.setattr(stream_pipeline, "_IDS", (1, 2, 3))
        patch.setattr(stream_pipeline, "STEP", 7)
        patch.setattr(block_sweep, "STEP", 5)
        patch.setattr(blocks, "_RESERVED", (1, 2))
        yield


class Fuse:
    """Stands between the blocks and what they write to; cuts the power when told to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_blown = False
        self._left: int | None = None
        self._acts = self._lasts = False

    def cut_after(self, uses: int, *, acts: bool = False, lasts: bool = True) -> None:
        """Have a call fail after *uses* more.

        Args:
            uses: how many still work.
            acts: whether the failing one has taken effect all the same.
            lasts: whether all later ones fail too.
        """
        self._left, self._acts, self._lasts = uses, acts, lasts

    def run(self, action: Callable[[], Any]) -> Any:
        with self._lock:
            is_cut = self._cuts()
            acts = not is_cut or (self._acts and not self.is_blown)
            self.is_blown = self.is_blown or is_cut
        result = action() if acts else None
        if is_cut:
            raise StoreError("the power was cut")
        return result

    def _cuts(self) -> bool:
        if self._left is None or (self.is_blown and not self._lasts):
            return False
        self._left -= 1
        return self._left < 0


class FusedWriter:
    """A Writer that commits on the calling thread, through a fuse."""

    def __init__(self, environment: Environment, fuse: Fuse) -> None:
        self._environment, self._fuse = environment, fuse

    def write(self, change: Any) -> Any:
        assert not self._environment.is_reading, "a write while the thread holds a snapshot"
        return self._fuse.run(lambda: self._environment.commit(change))

    def submit(self, change: Any, on_done: Any, *, can_wait: bool = False) -> None:
        try:
            value = self.write(change)
        except Exception as error:
            on_done(None, error)
        else:
            on_done(value, None)


class FusedStore:
    """A store whose changes go through a fuse."""

    def __init__(self, store: Any, fuse: Fuse) -> None:
        self._store, self._fuse = store, fuse
        self.get, self.size, self.list = store.get, store.size, store.list

    def put(self, name: str, data: Data) -> None:
        self._fuse.run(lambda: self._store.put(name, data))

    def delete(self, name: str) -> None:
        self._fuse.run(lambda: self._store.delete(name))

    def close(self) -> None:
        self._store.close()


class BlockBank:
    """An environment and a store in memory, with the blocks opened on them; a context manager."""

    def __init__(self, store: Any = None, *, bank_id: bytes | None = None) -> None:
        # In memory, where there is such a place: these tests commit thousands of times.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._directory = tempfile.TemporaryDirectory(prefix="blocks-", dir=memory)
        self.environment = Environment(f"{self._directory.name}/db")
        self.store = MemoryStore() if store is None else store
        self.blocks: BlockStore
        self.fuse: Fuse
        self.open(bank_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self.environment.close()
        self.store.close()
        self._directory.cleanup()

    def open(self, bank_id: bytes | None = None) -> None:
        self.fuse = Fuse()
        writer = FusedWriter(self.environment, self.fuse)
        store: Any = FusedStore(self.store, self.fuse)
        self.blocks = BlockStore(self.environment, store, writer, bank_id=bank_id)

    def close(self) -> None:
        self.blocks.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def crash(self) -> None:
        """Leave everything as it is, and open it anew."""
        self.fuse.cut_after(0)
        self.reopen()

    def streams(self, scope: bytes = b"12345678abcd", prefix: str = "") -> Streams:
        return Streams(self.blocks, scope, prefix, name="section")

    def check(self) -> list[str]:
        return check_blocks(self.blocks, deep=True)

    def objects(self) -> list[str]:
        return sorted(name for name, _ in self.store.list())


def write(streams: Streams, key: str, data: bytes) -> Any:
    with streams.session() as session:
        return session.add(key, io.BytesIO(data))


def contents(streams: Streams) -> dict[str, bytes]:
    found = {}
    for info in streams.list():
        with streams.open(info.key) as reader:
            found[info.key] = reader.read()
        assert len(found[info.key]) == info.size
    return found
