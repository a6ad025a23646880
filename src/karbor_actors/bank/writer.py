"""How everything is written to a bank: changes, which one writer commits in groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from karbor_actors.bank.transactions import Transaction

T = TypeVar("T")
Change = Callable[[Transaction], T]
"""What a transaction is to do.

It may run more than once (the map grew, a neighbour in its group failed), so it touches nothing
but the transaction, and what it returns is made anew by each run.
"""
OnDone = Callable[[T | None, BaseException | None], None]
"""Hears of a change's result, or of the error that kept all of it from being recorded."""


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
