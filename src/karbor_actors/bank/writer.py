"""How everything is written to a bank: changes, which one writer commits in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from karbor_actors.bank.database.transactions import Table, Transaction

T = TypeVar("T")
Change = Callable[[Transaction], T]
"""What a transaction is to do.

It may run more than once (the map grew, a neighbour in its group failed), so it touches nothing
but the transaction, and what it returns is made anew by each run.
"""
OnDone = Callable[[T | None, BaseException | None], None]
"""Hears of a change's result, or of the error that kept all of it from being recorded."""


class Put(NamedTuple):
    """The change that sets one row, and no more: a run of them goes to LMDB in one call."""

    table: Table
    key: bytes
    value: bytes

    def __call__(self, transaction: Transaction) -> None:
        """Set the row."""
        transaction.put(*self)


class _PutMany:
    """The change that does what many do which set one row each."""

    def __init__(self, puts: list[Put]) -> None:
        self._rows: dict[Table, list[tuple[bytes, bytes]]] = {}
        for table, key, value in puts:
            self._rows.setdefault(table, []).append((key, value))

    def __call__(self, transaction: Transaction) -> None:
        """Set the rows, in the order of their keys; of equal keys the last one counts."""
        for table, rows in self._rows.items():
            rows.sort(key=itemgetter(0))
            transaction.put_many(table, rows)


def in_runs(changes: Iterable[Change[Any]]) -> Iterator[tuple[Change[Any], int]]:
    """Yield *changes* in order, one instead of each run of :class:`Put`; and how many it is."""
    for is_put, run in groupby(changes, lambda change: type(change) is Put):
        if is_put:
            puts = cast("list[Put]", list(run))
            yield _PutMany(puts), len(puts)
        else:
            yield from ((change, 1) for change in run)


class Writer(Protocol):
    """Commits changes, many to one transaction and one sync. Any thread may call it."""

    def write(self, change: Change[T]) -> T:
        """Run *change* and return what it returned, once that is durable.

        Blocks. What *change* raises is raised here, and nothing of it is recorded.

        Raises:
            BankFullError: No space is left; nothing was recorded.
            BankBrokenError: The writer died, or the disk failed.
            BankClosedError: The bank is closed.
            BankReadonlyError: It was opened for reading only.
            BankLeaseError: Another owner has taken the bank over.
        """
        ...

    def submit(self, change: Change[T], on_done: OnDone[T]) -> None:
        """Have *change* run, and *on_done* called once its result is durable, or its error known.

        Never waits for the disk, and never raises. *on_done* runs once, on the writer's thread
        (on the caller's, where the writer takes no changes any more); it must be quick.
        """
        ...
