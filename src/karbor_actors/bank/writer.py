"""How everything is written to a bank: changes, which one writer commits in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, Protocol, TypeVar, cast

from karbor_actors.bank.database.transactions import Table, Transaction
from karbor_actors.errors import BankFullError

T = TypeVar("T")
Change = Callable[[Transaction], T]
"""What a transaction is to do.

It may run more than once (the map grew, a neighbour in its group failed), so it touches nothing
but the transaction, and what it returns is made anew by each run.
"""
OnDone = Callable[[T | None, BaseException | None], None]
"""Hears of a change's result, or of the error that kept all of it from being recorded."""

_LEAST_STEP: Final = 32
"""How many rows one transaction removes where there is little space: each may cost a page at first."""
_LESS: Final = 8


def smaller_step(step: int, error: BankFullError) -> int:
    """Return how many rows to remove at once where there was no space to remove *step*.

    A page that changes is written anew before the old one is free: what is to free space needs some,
    the less the less it does at once.

    Raises:
        BankFullError: It is *error*: no fewer are worth a try.
    """
    if step <= _LEAST_STEP:
        raise error
    return max(step // _LESS, _LEAST_STEP)


def write_in_steps(
    write: Callable[[Change[bool]], bool], change_of: Callable[[int], Change[bool]], step: int
) -> None:
    """Write the change of so many rows, again and again, until it returns that none is left.

    Args:
        write: Runs a change and returns its result, durable.
        change_of: Returns the change that removes so many rows.
        step: How many at most; fewer where there is no space for so many.

    Raises:
        BankFullError: There is no space for a few either; what was removed before is.
    """
    most = step
    while True:
        try:
            if write(change_of(step)):
                return
            step = min(2 * step, most)  # there may be more space by now
        except BankFullError as error:
            step = smaller_step(step, error)


class Put:
    """The change that sets one row, and no more: a run of them goes to LMDB in one call."""

    __slots__ = ("key", "table", "value")  # made in two thirds of a NamedTuple's time

    def __init__(self, table: Table, key: bytes, value: bytes) -> None:
        self.table = table
        self.key = key
        self.value = value

    def __call__(self, transaction: Transaction) -> None:
        """Set the row."""
        transaction.put(self.table, self.key, self.value)


class _PutMany:
    """The change that does what many do which set one row each."""

    def __init__(self, puts: list[Put]) -> None:
        self._puts = puts

    def __call__(self, transaction: Transaction) -> None:
        """Set the rows, in the order of their keys; of equal keys the last one counts."""
        for table in dict.fromkeys(map(_TABLE, self._puts)):
            rows = [(put.key, put.value) for put in self._puts if put.table is table]
            rows.sort(key=_KEY)
            transaction.put_many(table, rows)


_TABLE: Final = attrgetter("table")
_KEY: Final = itemgetter(0)


def in_runs(changes: Iterable[Change[Any]]) -> Iterator[tuple[Change[Any], int]]:
    """Yield *changes* in order, one instead of each run of :class:`Put`; and how many it is."""
    for kind, run in groupby(changes, type):
        if kind is Put:
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

    def submit(self, change: Change[T], on_done: OnDone[T], *, can_wait: bool = False) -> None:
        """Have *change* run, and *on_done* called once its result is durable, or its error known.

        Never waits for the disk, and never raises. *on_done* runs once, on the writer's thread
        (on the caller's, where the writer takes no changes any more); it must be quick.

        With *can_wait* it is left until there is something else to commit, or the bank is closed.
        """
        ...
