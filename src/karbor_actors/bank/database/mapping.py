"""One open LMDB file of this process, shared by all who opened it.

LMDB's locks belong to the process and the file, so a file may be opened only once per process;
this module keeps the one opening and counts its users. It also guards what LMDB does not: use
after a fork, a data file that was cut short (touching what is missing would kill the process), and
readers while the map is replaced.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import lmdb
from lmdb import verify as lmdb_verify

from karbor_actors.bank.database.faults import open_error, record_error
from karbor_actors.bank.database.gate import Gate
from karbor_actors.bank.database.transactions import Snapshot, Table
from karbor_actors.errors import (
    BankBrokenError,
    BankClosedError,
    BankError,
    BankFormatError,
    BankFullError,
    BankPathError,
    BankReadonlyError,
)

_MAX_READERS = 1024

_LOOKS = 3
_SECOND = 1_000_000_000
_TICK = _SECOND // 10

_FileId = tuple[int, int]


def data_file(path: str) -> str:
    """Return where the environment *path* has its data."""
    return os.path.join(path, "data.mdb")


class _Opened:
    """What this process has open. Process-wide since LMDB's locks are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: dict[_FileId, MappedFile] = {}


_opened = _Opened()
# In a forked child the parent's files are not usable, and its lock may be held for ever.
os.register_at_fork(after_in_child=_opened.__init__)  # type: ignore[misc]


class MappedFile:
    """An LMDB environment that is open in this process. Any thread may call it."""

    gate: Gate
    """Passed by readers; who replaces the map has it alone."""
    tables: dict[Table, Any]
    """The named databases' handles."""

    def __init__(self, path: str, *, readonly: bool) -> None:
        self.path = path
        self._data = data_file(path)
        self.gate = Gate()
        self._readonly = readonly
        self._users = 1
        self._pid = os.getpid()
        self._raw: Any = None
        self._open()

    @classmethod
    def open(cls, path: str, *, readonly: bool) -> MappedFile:
        """Return the file in folder *path*, opened or shared; each user closes it once.

        Raises:
            BankError: See :class:`~karbor_actors.bank.database.environment.Environment`.
        """
        with _opened.lock:
            key = _identify(path)
            file = _opened.files.get(key)
            if file is None:
                file = _opened.files[key] = cls(path, readonly=readonly)
            else:
                file._share(readonly=readonly)
            return file

    def close(self) -> None:
        """Give up one user's share; the last one closes the file."""
        if os.getpid() != self._pid:
            return  # the parent's; LMDB forbids a child to touch it
        with _opened.lock:
            self._users -= 1
            if self._users:
                return
            self._forget()
            with self.gate.alone():
                if not self._readonly:
                    with contextlib.suppress(BankError, lmdb.Error):  # what is broken stays so
                        self.check_place()
                        self.extend()
                raw, self._raw = self._raw, None
                raw.close()

    def snapshot(self) -> Snapshot:
        """Begin to read on the calling thread."""
        self.check_process()
        for attempt in range(4):
            reading = self.gate.enter()
            try:
                raw = self._still_open().begin()
                return Snapshot(raw, self.tables, self.path, reading.give_back)
            except lmdb.MapResizedError:
                reading.give_back()
                self._adopt_map()  # another process has grown the file
            except lmdb.ReadersFullError as error:
                reading.give_back()
                if attempt or not self._raw.reader_check():
                    raise record_error(error, self.path) from error
            except lmdb.Error as error:
                reading.give_back()
                raise record_error(error, self.path) from error
            except BaseException:
                reading.give_back()
                raise
        raise BankBrokenError(f"the size of {self.path} changes too fast to read it; try again")

    def check_may_wait(self) -> None:
        """Refuse a thread that cannot wait for a write: of a forked child, or one that reads.

        A snapshot keeps the map from growing, which the write may wait for.
        """
        if os.getpid() != self._pid:
            self.check_process()
        if self.gate.is_inside:
            raise BankError("close the snapshot before writing to the bank")

    def begin(self) -> Any:
        """Begin a write transaction, which the caller commits or aborts."""
        if os.getpid() != self._pid or self._raw is None:
            self.check_process()
            self._still_open()
        return self._raw.begin(write=True)

    def begin_within(self, parent: Any) -> Any:
        """Begin a transaction within *parent*, which can be aborted alone."""
        return self._raw.begin(parent=parent, write=True)

    def grow(self) -> None:
        """Double the map, when no reader is inside.

        Raises:
            BankFullError: The process may not have so much address space.
        """
        with self.gate.alone():
            size = 2 * self._raw.info()["map_size"]
            try:
                self._raw.set_mapsize(size)
            except lmdb.Error as error:
                raise BankFullError(
                    f"{self.path} needs {size} bytes of address space; raise the process's limit"
                ) from error

    def reopen(self) -> None:
        """Open the file again, after a failure that LMDB says is final."""
        with self.gate.alone():
            self._raw.close()
            self._open()

    def replace(self, new: str, old: str) -> None:
        """Move the folder to *old* and *new* into its place, and go on with that.

        Raises:
            OSError: It could not be moved; the file is open as before.
        """
        with _opened.lock, self.gate.alone():
            self._raw.close()
            try:
                os.rename(self.path, old)
                try:
                    os.rename(new, self.path)
                except OSError:
                    os.rename(old, self.path)
                    raise
            finally:
                self._open()
                self._forget()
                _opened.files[_identify(self.path)] = self

    def info(self) -> dict[str, int]:
        """Return the map's size, the bytes of it in use, and the number of readers."""
        self.check_process()
        reading = self.gate.enter()
        try:
            raw = self._still_open()
            info, stat = raw.info(), raw.stat()
            file_bytes = os.path.getsize(self._data)
        except OSError as error:
            raise open_error(error, self.path) from error
        finally:
            reading.give_back()
        return {
            "map_size": info["map_size"],
            "used_bytes": (info["last_pgno"] + 1) * stat["psize"],
            "file_bytes": file_bytes,
            "readers": info["num_readers"],
        }

    def copy_to(self, fd: int) -> None:
        """Write a compacted copy to the file descriptor *fd*."""
        self.check_process()
        reading = self.gate.enter()
        try:
            self._still_open().copyfd(fd, compact=True)
        finally:
            reading.give_back()

    def _forget(self) -> None:
        for key in [key for key, file in _opened.files.items() if file is self]:
            del _opened.files[key]

    def _share(self, *, readonly: bool) -> None:
        """Add a user. Held: the lock of what is open."""
        if self._readonly and not readonly:
            with self.gate.alone():
                self._raw.close()
                self._readonly = False
                try:
                    self._open()
                except BankError:
                    self._readonly = True
                    self._open()
                    raise
        self._users += 1

    def _open(self) -> None:
        if not self._readonly and not os.access(self._data, os.W_OK):
            raise BankReadonlyError(f"{self.path} may not be written; open it with readonly=True")
        try:
            self._raw = _open_raw(self.path, readonly=self._readonly)
        except (lmdb.Error, OSError) as error:
            raise open_error(error, self.path) from error
        try:
            self._file_id = _file_id(self._data)
            self._place: tuple[int, int, int] | None = None
            self._least_bytes = 0
            self._page_size = self._raw.stat()["psize"]
            self._check_length()
            self.tables = {table: self._raw.open_db(table.value, create=False) for table in Table}
            self._raw.reader_check()
        except (lmdb.NotFoundError, lmdb_verify.VerifyError) as error:
            self._raw.close()
            raise BankFormatError(
                f"{self.path} is an LMDB file but no bank; name another directory"
            ) from error
        except (lmdb.Error, OSError) as error:
            self._raw.close()
            raise open_error(error, self.path) from error
        except BaseException:
            self._raw.close()
            raise

    def check_place(self) -> None:
        """Refuse a data file that is no longer where it was opened; called after each commit.

        While nothing was made, removed or renamed in its folder, it is. The file itself is left
        alone: since Linux 6.13 the first write after a look at a file's times notes them anew,
        which makes that commit a fifth slower.

        Raises:
            BankBrokenError: The file is not where the next open looks for it: what is written
                is lost.
        """
        try:
            folder = os.stat(self.path)
            place = folder.st_dev, folder.st_ino, folder.st_ctime_ns
            if place == self._place:
                return
            is_same = _file_id(self._data) == self._file_id
        except OSError as error:
            raise BankBrokenError(
                f"{self._data} is gone ({error.strerror}): it was taken away while the bank was "
                "open; close the bank, then rebuild it"
            ) from error
        if not is_same:
            raise BankBrokenError(
                f"{self._data} was replaced while the bank was open; close the bank and open it "
                "again"
            )
        self._place = place if _is_settled(folder.st_ctime_ns) else None

    def extend(self) -> None:
        """Make the data file as long as LMDB believes it to be; called where rows were removed.

        A transaction that frees again the last pages that it took does not write them. Nobody
        reads them, but a file that is shorter than it should be looks as if it had been cut, and
        the next open reads all of it to see that it was not.
        """
        with contextlib.suppress(OSError):  # then the next open looks more closely
            missing = self._missing_bytes()
            if missing > 0:
                os.truncate(self._data, self._least_bytes + missing)

    def cut(self) -> None:
        """Give back what the data file has beyond its last page in use. Within :meth:`begin`."""
        self.check_place()
        self._least_bytes = 0
        os.truncate(self._data, self.info()["used_bytes"])

    def _missing_bytes(self) -> int:
        needed = int((self._raw.info()["last_pgno"] + 1) * self._page_size)
        if needed > self._least_bytes:
            self._least_bytes = os.path.getsize(self._data)
        return needed - self._least_bytes

    def _check_length(self) -> None:
        """Refuse a data file that ends before a page that is in use."""
        for _ in range(_LOOKS):
            if self._missing_bytes() <= 0:
                return
            # Killed between a commit and extend()? The walk reads the file without mapping it.
            # A writer in another process may change it meanwhile: look again.
            findings = lmdb_verify.verify(self.path)  # type: ignore[no-untyped-call]
            if not findings:
                if not self._readonly:
                    self.extend()
                return
        raise BankFormatError(
            f"{self._data} is cut short by {self._missing_bytes()} bytes; "
            f"rebuild it ({findings[0]})"
        )

    def check_process(self) -> None:
        """Refuse a forked child: the threads of the bank, and its locks, stayed with the parent."""
        if os.getpid() != self._pid:
            raise BankError("this bank was opened before a fork; open it anew in the child")

    def _adopt_map(self) -> None:
        with self.gate.alone():
            try:
                self._raw.set_mapsize(0)
            except lmdb.Error as error:
                raise record_error(error, self.path) from error

    def _still_open(self) -> Any:
        if self._raw is None:
            raise BankClosedError
        return self._raw


def _is_settled(changed: int) -> bool:
    """Return whether a later change than the one at *changed* would have another time.

    A file system's clock ticks at least a hundred times a second, but some keep whole seconds.
    """
    passed = time.time_ns() - changed
    return passed > (_TICK if changed % _SECOND else 2 * _SECOND + _TICK)


def _file_id(file: str) -> _FileId:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def _identify(path: str) -> _FileId:
    """Return what tells the data file of *path* from all others, once it looks like one."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise BankPathError(f"{path} is a file, not the folder of a bank")
    try:
        status = os.stat(data_file(path))
    except FileNotFoundError as error:
        raise BankPathError(f"there is no bank in {os.path.dirname(path)}") from error
    except OSError as error:
        raise open_error(error, path) from error
    if status.st_size == 0:
        raise BankFormatError(f"{data_file(path)} is empty: its contents were lost; rebuild it")
    return status.st_dev, status.st_ino


def _open_raw(path: str, *, readonly: bool) -> Any:
    return lmdb.Environment(
        os.fsencode(path),  # of text it takes only what is UTF-8
        map_size=0,
        max_dbs=len(Table),
        max_readers=_MAX_READERS,
        max_spare_txns=0,  # a forked child that frees spare ones would break the parent's
        mode=0o600,
        create=False,
        readonly=readonly,
        lib_version=0,
    )
