"""Making the records of blocks again, from the packs in the object store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from karbor_actors.bank.blocks import rows as block_rows
from karbor_actors.bank.blocks.rows import BlockRow, PackRow, PackState, block_row, pack_key
from karbor_actors.bank.blocks.sweep import STEP
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import BankFormatError, ObjectNotFoundError, describe_cause
from karbor_actors.store.packs import read_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.bank.blocks.blocks import BlockStore
    from karbor_actors.bank.database.transactions import Transaction
    from karbor_actors.store.packs import PackEntry


def record_packs(blocks: BlockStore) -> list[str]:
    """Record the blocks of all packs that are in the store and not in the records.

    For a bank whose records were lost: open a new one with ``BlockStore(..., bank_id=...)``, call
    this, add the streams with ``StreamSession.adopt``, and at last call ``free_unneeded``. Until
    then no session but those may be open, and nothing may be deleted.

    Returns:
        what could not be read, a line each.

    Raises:
        StoreError: the object store failed.
    """
    findings = []
    for pack, size in sorted(blocks.stored_packs().items()):
        with blocks.environment.snapshot() as snapshot:
            if block_rows.pack_row(snapshot, pack) is not None:
                continue
        try:
            entries = read_index(blocks.objects, blocks.object_name(pack))
        except (BankFormatError, ObjectNotFoundError) as error:
            findings.append(describe_cause(error))
            continue
        blocks.write(partial(_record, pack=pack, size=size, entries=entries))
    return findings


def _record(transaction: Transaction, pack: int, size: int, entries: Sequence[PackEntry]) -> None:
    """Record a pack and those of its blocks that no earlier pack has."""
    rows = {}
    for entry in entries:
        if entry.digest not in rows and block_row(transaction, entry.digest) is None:
            numbers = (entry.offset, entry.stored_length, entry.raw_length, entry.codec)
            rows[entry.digest] = BlockRow(pack, *numbers, 0)
    transaction.put_many(
        Table.BLOCKS, [(digest, row.packed()) for digest, row in sorted(rows.items())]
    )
    state = PackState.PRESENT if rows else PackState.FREEING
    live_bytes = sum(row.stored_length for row in rows.values())
    row = PackRow(state, size, len(rows), live_bytes)
    transaction.put(Table.PACKS, pack_key(pack), row.packed())


def free_unneeded(blocks: BlockStore) -> None:
    """Free the recorded blocks that no stream needs, and the packs that hold no others."""
    turn = blocks.next_ids(1)
    start: bytes | None = b""
    while start is not None:
        start = blocks.write(partial(_list_unneeded, start=start, turn=turn))
    with blocks.environment.snapshot() as snapshot:
        freeing = [
            pack for pack, row in block_rows.pack_rows(snapshot) if row.state == PackState.FREEING
        ]
    blocks.sweeper.bury(freeing)
    blocks.sweeper.sweep()


def _list_unneeded(transaction: Transaction, start: bytes, turn: int) -> bytes | None:
    """List some blocks without a reference for the sweep; return where to go on."""
    zeros = []
    following = None
    for count, (digest, value) in enumerate(transaction.scan(Table.BLOCKS, start=start)):
        if count >= STEP:
            following = digest
            break
        if not BlockRow.unpack(value, digest).references:
            zeros.append(digest)
    block_rows.list_unreferenced(transaction, zeros, turn)
    return following
