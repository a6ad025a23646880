"""Freeing what nobody needs: streams that are gone, their blocks, the blocks' packs."""

from __future__ import annotations

import logging
import threading
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from karbor_actors.bank.blocks import rows as block_rows
from karbor_actors.bank.writer import smaller_step
from karbor_actors.errors import BankClosedError, BankError, BankFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.bank.database.environment import Environment

_LOG = logging.getLogger("karbor_actors.bank")

STEP = 4096
"""How many blocks one transaction touches at most, or about: some tens of milliseconds."""


class Sweeper:
    """Knows the sessions that write, and frees what neither they nor a stream need.

    Any thread may call it; one sweeps at a time.

    Args:
        environment: the bank's records.
        write: runs a change and returns its result, durable.
        next_ids: returns the first of so many ids, ever higher.
        delete_pack: deletes a pack's object.
    """

    def __init__(
        self,
        environment: Environment,
        write: Callable[[Callable[[Any], Any]], Any],
        next_ids: Callable[[int], int],
        delete_pack: Callable[[int], None],
    ) -> None:
        self._environment = environment
        self._write = write
        self._next_ids = next_ids
        self._delete_pack = delete_pack
        self._lock = threading.Lock()
        self._is_closed = False
        self._sessions: dict[int, set[int]] = {}
        """By open session: the starts of the ranges of stream ids that it stages under."""
        self._last_session = 0
        self._is_sweeping = self._is_sweep_due = False
        self._rounds: dict[int, int] = {}
        """By round of the sweep: the newest session when it ended."""
        self._dead: list[int] = []
        """Packs whose objects are to be deleted."""

    def close(self) -> None:
        """Let no session begin any more."""
        with self._lock:
            self._is_closed = True

    def open_session(self) -> int:
        """Begin to count on blocks that have references now; return the session's number."""
        with self._lock:
            if self._is_closed:
                raise BankClosedError
            self._last_session += 1
            self._sessions[self._last_session] = set()
            return self._last_session

    def own_range(self, session: int, start: int) -> None:
        """Keep the sweep off the range of stream ids from *start*, until the session ends."""
        with self._lock:
            self._sessions[session].add(start)

    def close_session(self, session: int, *, sweep: bool = False) -> None:
        """End a session, and free what waited for that, or what it left itself (*sweep*)."""
        with self._lock:
            del self._sessions[session]
            sweep = sweep or bool(self._rounds or self._dead)
        if sweep:
            self.sweep()

    def bury(self, packs: Sequence[int]) -> None:
        """Take packs that nobody needs, put or not: their objects go with the next sweep."""
        with self._lock:
            self._dead += packs

    def sweep(self) -> None:
        """Free what nobody needs, as far as open sessions let it. Runs on the calling thread.

        Never raises for what can wait: it is logged, stays listed, and the next sweep takes it.
        While another thread sweeps, that one starts over instead. On a full disk it takes small
        steps, each to its end: what is listed on the way would take more space than is freed.
        """
        with self._lock:
            self._is_sweep_due = True
            if self._is_sweeping:
                return
            self._is_sweeping = True
        step = STEP
        while self._must_sweep():
            try:
                try:
                    self._free(step)
                except BankFullError as error:
                    step = smaller_step(step, error)
                    with self._lock:
                        self._is_sweep_due = True
            except BankError as error:
                _LOG.warning("some space could not be freed yet: %s", error)

    def _free(self, step: int) -> None:
        """Free what is unneeded, *step* blocks in a transaction; with small ones, all of one first."""
        if step < STEP:  # what is listed gives space to list more
            self._remove_unreferenced(step)
            self._delete_objects()
        left = self._unowned_ranges()
        while True:
            left = self._release(left, step)
            self._remove_unreferenced(step)
            self._delete_objects()
            if not left:
                return

    def _must_sweep(self) -> bool:
        with self._lock:
            self._is_sweeping, self._is_sweep_due = self._is_sweep_due, False
            return self._is_sweeping

    def _release(self, ranges: list[tuple[int, int]], step: int) -> list[tuple[int, int]]:
        """Give up the references of *ranges*, those of one small step at least; return what is left."""
        turn = self._next_ids(1)
        if not ranges:
            return []
        try:
            while ranges:
                change = partial(block_rows.release, ranges=ranges[:STEP], turn=turn, limit=step)
                ranges = ranges[self._write(change) :]
                if step < STEP:
                    break
        finally:
            with self._lock:
                self._rounds[turn] = self._last_session
        return ranges

    def _unowned_ranges(self) -> list[tuple[int, int]]:
        """Return the garbage ranges of no open session."""
        with self._environment.snapshot() as snapshot:
            found = list(block_rows.garbage_ranges(snapshot))
        with self._lock:
            owned = set().union(*self._sessions.values())
        return [item for item in found if item[0] not in owned]

    def _remove_unreferenced(self, step: int) -> None:
        before = self._removable_before()
        with self._environment.snapshot() as snapshot:
            more = any(turn < before for _, turn, _ in islice(block_rows.unreferenced(snapshot), 1))
        while more:
            change = partial(block_rows.remove_unreferenced, before=before, limit=step)
            dead, more = self._write(change)
            self.bury(dead)

    def _removable_before(self) -> int:
        """Return the first round that an open session may still count on."""
        with self._lock:
            oldest = min(self._sessions, default=self._last_session + 1)
            for turn in sorted(self._rounds):
                if self._rounds[turn] >= oldest:
                    return turn
                del self._rounds[turn]
        return block_rows.MAX_ID

    def _delete_objects(self) -> None:
        with self._lock:
            dead, self._dead = self._dead, []
        done: list[int] = []
        try:
            for pack in dead:
                if not self._is_needed(pack):
                    self._delete_pack(pack)
                done.append(pack)
        finally:
            with self._lock:
                self._dead += dead[len(done) :]
            for at in range(0, len(done), STEP):
                self._write(partial(block_rows.forget_packs, packs=done[at : at + STEP]))

    def _is_needed(self, pack: int) -> bool:
        """Tell whether a buried pack is in use after all: a writer may die having committed."""
        with self._environment.snapshot() as snapshot:
            row = block_rows.pack_row(snapshot, pack)
        return row is not None and row.state == block_rows.PackState.PRESENT
