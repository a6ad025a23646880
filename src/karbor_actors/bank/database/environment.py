"""The LMDB environment of a bank: opened once per process, written in groups, read in snapshots.

The file format is LMDB 0.9's: 1.0 cannot read it, nor 0.9 what 1.0 wrote, and 0.9 is what other
tools and older releases have. Every commit is synced, and nothing is written through the map (a
full disk would kill the process).
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import lmdb

from karbor_actors import faultpoints
from karbor_actors.bank.database.data_files import (
    FORMAT_KEY,
    FORMAT_VERSION,
    NEW,
    OLD,
    U64,
    check_format,
    make_folder,
    number_in,
    tidy_folder,
)
from karbor_actors.bank.database.faults import open_error, record_error
from karbor_actors.bank.database.mapping import MappedFile, data_file
from karbor_actors.bank.database.transactions import Snapshot, Table, Transaction
from karbor_actors.bank.writer import in_runs
from karbor_actors.errors import (
    BankBrokenError,
    BankClosedError,
    BankError,
    BankLeaseError,
    BankPathError,
    BankReadonlyError,
    describe_cause,
)
from karbor_actors.folders import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from karbor_actors.bank.writer import Change, T

__all__ = ["FORMAT_VERSION", "Environment", "Outcome", "Snapshot", "Table", "Transaction"]

DEFAULT_MAP_SIZE = 1 << 30
"""Bytes of address space at first, not of disk; doubled when full."""

_EPOCH_KEY = b"epoch"


class Outcome(NamedTuple):
    """How one change of a group ended: *error* is None where it is durable."""

    value: Any
    error: BaseException | None


_DONE: Final = Outcome(None, None)


class _NeighbourFailed(Exception):  # noqa: N818 - never leaves this module
    """A change failed: its group is done again, each change in a transaction within."""


class Environment:
    """The records of a bank. Any thread may call it; a process may open it several times.

    Args:
        path: The folder of the LMDB files, whose parent exists.
        readonly: Whether nothing may be written. Needs no lease.
        create: Whether to make it where it is missing; never with *readonly*.
        map_size: Bytes of address space for a new one.

    Raises:
        BankPathError: *path* is a file, or missing and not to be made.
        BankReadonlyError: It may not be opened, or not for writing.
        BankFormatError: It holds something else, is damaged, or was written by a newer release.
        BankFullError: There is no space to make it.
    """

    def __init__(
        self,
        path: str,
        *,
        readonly: bool = False,
        create: bool = True,
        map_size: int = DEFAULT_MAP_SIZE,
    ) -> None:
        self.path = os.path.abspath(path)
        self.readonly = readonly
        self.epoch: int | None = None
        """Set by the lease's holder: a commit is refused once the bank has another one."""
        self._last_commit: int | None = None
        """LMDB's number of the last transaction, if this environment committed it, and it wrote."""
        self._committing = threading.Lock()
        self.before_sync: Callable[[], object] = _nothing
        """Called when all of a group is in its transaction, which waits for the disk next; quick."""
        if not readonly:
            tidy_folder(self.path)
        if create and not readonly and not os.path.lexists(self.path):
            make_folder(self.path, map_size)
        self._file: MappedFile | None = MappedFile.open(self.path, readonly=readonly)
        try:
            self._check_format()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether :meth:`close` was not called yet."""
        return self._file is not None

    def check_may_wait(self) -> None:
        """Refuse a thread that must not wait for a write.

        Raises:
            BankError: The environment was opened before a fork, or the thread holds a snapshot.
        """
        if self._file is not None:
            self._file.check_may_wait()

    @property
    def is_reading(self) -> bool:
        """Whether the calling thread holds a snapshot, so that it must not wait for a write."""
        return self._file is not None and self._file.gate.is_inside

    def close(self) -> None:
        """Close it, once snapshots that other threads hold have ended. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def snapshot(self) -> Snapshot:
        """Begin to read on the calling thread; the writer is neither waited for nor held up.

        Raises:
            BankClosedError: The environment is closed.
        """
        return self._opened().snapshot()

    def commit(self, change: Change[T]) -> T:
        """Run *change* in a transaction of its own and return its result, durable.

        For who opens the bank; afterwards everything is written through the Writer.
        """
        outcome = self.commit_group([change])[0]
        if outcome.error is not None:
            raise outcome.error
        value: T = outcome.value
        return value

    def commit_group(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        """Run *changes* in one transaction, commit it with one sync, and say how each ended.

        A change that raises, whatever it is, fails alone. A full map is doubled and the group
        done again. Where the disk fails, all of the group fail and the environment stays usable.
        Never raises: what else goes wrong is a BankBrokenError of each change.
        """
        with self._committing:
            return self._commit_group(changes)

    def _commit_group(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        careful = False
        while changes:
            try:
                return self._attempt(changes, careful=careful)
            except _NeighbourFailed:
                careful = True
            except lmdb.TxnFullError as error:
                if len(changes) == 1:
                    return [Outcome(None, record_error(error, self.path))]
                half = len(changes) // 2
                return self._commit_group(changes[:half]) + self._commit_group(changes[half:])
            except Exception as error:  # told to each who asked for one of the changes
                failure = self._mend(error)
                if failure is not None:
                    return [Outcome(None, failure)] * len(changes)
        return []

    def _mend(self, error: Exception) -> BankError | None:
        """Return what *error* means for all of a group; None where that may be done again."""
        try:
            if isinstance(error, lmdb.MapFullError):
                self._opened().grow()
                return None
            if isinstance(error, lmdb.PanicError):
                self._opened().reopen()
        except BankError as refusal:
            refusal.__cause__ = error
            return refusal
        if isinstance(error, BankError):
            return error
        if isinstance(error, lmdb.Error):
            failure = record_error(error, self.path)
        else:
            failure = BankBrokenError(f"a commit to {self.path} failed: {describe_cause(error)}")
        failure.__cause__ = error
        return failure

    def next_epoch(self) -> int:
        """Make this environment the bank's owner: whoever was it before can commit no more."""

        def change(transaction: Transaction) -> int:
            epoch = number_in(transaction.get(Table.META, _EPOCH_KEY)) + 1
            transaction.put(Table.META, _EPOCH_KEY, U64.pack(epoch))
            return epoch

        self.epoch = None
        self.epoch = self.commit(change)
        return self.epoch

    def info(self) -> dict[str, int]:
        """Return the map's size, the bytes of it in use, and the number of readers."""
        return self._opened().info()

    def copy(self, path: str) -> None:
        """Write a compacted copy of the data file as *path*, which must not exist.

        It is of one moment, synced, and for its owner only (0600).

        Raises:
            BankPathError: *path* exists, or cannot be written.
            BankFullError: There is no space for it.
        """
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BankPathError(f"cannot write a copy to {path}: {error.strerror}") from error
        try:
            self._opened().copy_to(fd)
            os.fsync(fd)
        except BaseException as error:
            os.unlink(path)
            if isinstance(error, (lmdb.Error, OSError)):
                raise open_error(error, path) from error
            raise
        finally:
            os.close(fd)

    def compact(self) -> None:
        """Rewrite the files without the space that deleted rows left. Commits wait meanwhile.

        Killed at any point, the next open finds the old files or the new ones. Readers in other
        processes go on with what they have, and see nothing new until they open it again.

        Raises:
            BankFullError: There is no space for a second copy.
            BankReadonlyError: Opened for reading only.
        """
        if self.readonly:
            raise BankReadonlyError(f"the bank {self.path} was opened for reading only")
        making = f"{self.path}{NEW}{secrets.token_hex(4)}"
        with self._committing:
            try:
                os.mkdir(making, 0o700)
                self.copy(data_file(making))
                sync_folder(making)
                self._last_commit = None  # the copy has numbers of its own
                self._opened().replace(making, f"{self.path}{OLD}")
                sync_folder(os.path.dirname(self.path))
            except BankError:
                raise  # some are OSErrors
            except OSError as error:
                raise open_error(error, self.path) from error
            finally:
                shutil.rmtree(making, ignore_errors=True)  # gone, unless it failed
        tidy_folder(self.path)

    def run_alone(self, work: Callable[[MappedFile], T]) -> T:
        """Return what *work* makes of the data file while nobody, of any process, writes to it."""
        with self._committing:
            file = self._opened()
            raw = file.begin()
            try:
                return work(file)
            finally:
                raw.abort()

    def _opened(self) -> MappedFile:
        if self._file is None:
            raise BankClosedError
        return self._file

    def _attempt(self, changes: Sequence[Change[Any]], *, careful: bool) -> list[Outcome]:
        file = self._file or self._opened()
        if self.readonly:
            raise BankReadonlyError(f"the bank {self.path} was opened for reading only")
        raw = file.begin()
        try:
            whole = Transaction(raw, file.tables, self.path)
            try:
                number = raw.id()
                if self._last_commit is None or number != self._last_commit + 1:
                    self._check_epoch(whole)  # somebody else may have written
                if careful:
                    outcomes = [self._run_alone(file, raw, change) for change in changes]
                elif len(changes) == 1:
                    outcomes = [self._run(whole, changes[0])]
                else:
                    outcomes = []
                    for change, count in in_runs(changes):
                        outcomes += [self._run(whole, change)] * count
            finally:
                whole.end()
            if faultpoints.injector is not None:
                faultpoints.injector.on_commit(self.path, "before")
            self.before_sync()
            raw.commit()
        except BaseException:
            raw.abort()  # does nothing after a commit
            raise
        # One that wrote nothing has used up no number: somebody else's will be the same.
        self._last_commit = number if whole.has_written else None
        file.check_place()
        if careful or whole.has_removed:
            file.extend()
        if faultpoints.injector is not None:
            faultpoints.injector.on_commit(self.path, "after")
        return outcomes

    def _run(self, transaction: Transaction, change: Change[Any]) -> Outcome:
        try:
            value = change(transaction)
        except BaseException as error:
            raise (transaction.failure or _NeighbourFailed()) from error
        if transaction.failure is not None:
            raise transaction.failure
        return _DONE if value is None else Outcome(value, None)

    def _run_alone(self, file: MappedFile, parent: Any, change: Change[Any]) -> Outcome:
        raw = file.begin_within(parent)
        transaction = Transaction(raw, file.tables, self.path)
        try:
            value = change(transaction)
        except BaseException as error:  # to be told to who asked for the change
            raw.abort()
            if transaction.failure is not None:
                raise transaction.failure from error
            return Outcome(None, error)
        finally:
            transaction.end()
        if transaction.failure is not None:
            raw.abort()
            raise transaction.failure
        raw.commit()
        return Outcome(value, None)

    def _check_epoch(self, transaction: Transaction) -> None:
        if self.epoch is None:
            return
        found = number_in(transaction.get(Table.META, _EPOCH_KEY))
        if found != self.epoch:
            raise BankLeaseError(self.path, f"a later owner (epoch {found}, this is {self.epoch})")

    def _check_format(self) -> None:
        with self.snapshot() as snapshot:
            check_format(snapshot.get(Table.META, FORMAT_KEY), self.path)


def _nothing() -> None:
    """Do nothing."""
