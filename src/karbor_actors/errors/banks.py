"""Errors of banks, checkpoints and object stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.errors.base import KarborError, describe_value

if TYPE_CHECKING:
    from collections.abc import Sequence


class BankError(KarborError):
    """The bank cannot do what was asked."""


class BankClosedError(BankError):
    """The bank was closed; open it again."""

    def __str__(self) -> str:
        return super().__str__() or "the bank is closed"


class BankBrokenError(BankError):
    """The bank's writer died; nothing more can be written until it is opened again."""


class BankPathError(BankError, OSError):
    """A path cannot hold a bank: it is a file, is missing, or may not be used."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "the path cannot hold a bank"


class BankFormatError(BankError, ValueError):
    """The files are no bank, are damaged, or were written by a newer release."""

    is_newer = False
    """Whether they are of a newer release, and so may be whole."""


class BankReadonlyError(BankError, PermissionError):
    """A write to a bank or a section that was opened for reading only."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "the bank is read-only"


class BankFullError(BankError, OSError):
    """There is no space left for the bank; what was acknowledged is still there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "no space is left for the bank"


class BankLeaseError(BankError):
    """Another process, or another service of this one, owns the bank."""

    def __init__(self, directory: str, owner: str) -> None:
        super().__init__(directory, owner)
        self.directory, self.owner = directory, owner

    def __str__(self) -> str:
        return (
            f"the bank {self.directory} is in use by {self.owner}; "
            "stop it first; to list, restore and verify, open another Bank on it with "
            "readonly=True (restore and verify: --readonly)"
        )


class ForeignLeaseError(BankLeaseError):
    """Another host's process owned the bank and did not give it up."""

    def __str__(self) -> str:
        return (
            f"the bank {self.directory} was not given up by {self.owner}; if that is dead for "
            "sure, take its lease: karbor-actors bank break-lease (Bank.break_lease)"
        )


class BankKeyError(BankError, ValueError):
    """A key that can name no object, stream or sub-section."""


class BankValueError(BankError, ValueError):
    """A value that no record can hold; records hold plain values."""


class RecordTooLargeError(BankError, ValueError):
    """A value is too large for a record; write it as a stream."""


class ObjectNotFoundError(BankError, LookupError):
    """A section holds no object or stream under a key."""

    def __init__(self, key: str, section: str = "") -> None:
        super().__init__(key, section)
        self.key, self.section = key, section

    def __str__(self) -> str:
        where = f" in section {self.section}" if self.section else ""
        return f"no object {self.key!r}{where}"


class CheckpointNotFoundError(BankError, LookupError):
    """The bank has no checkpoint of that id."""

    def __init__(self, checkpoint_id: str, why: str = "") -> None:
        super().__init__(checkpoint_id, why)
        self.checkpoint_id = checkpoint_id

    def __str__(self) -> str:
        why = self.args[1]
        text = f"no checkpoint {describe_value(self.checkpoint_id)} in the bank"
        return f"{text}: {why}" if why else text


class AmbiguousCheckpointError(BankError, LookupError):
    """A shortened id fits several checkpoints; give more of it."""

    def __init__(self, prefix: str, matches: Sequence[str]) -> None:
        super().__init__(prefix, tuple(matches))
        self.prefix, self.matches = prefix, tuple(matches)

    def __str__(self) -> str:
        return f"{self.prefix!r} fits {len(self.matches)} checkpoints: {', '.join(self.matches)}"


class BlockMissingError(BankError, LookupError):
    """A block that a stream names is not in the object store."""

    def __init__(self, digest: str, where: str) -> None:
        super().__init__(digest, where)
        self.digest, self.where = digest, where

    def __str__(self) -> str:
        return f"block {self.digest[:16]} of {self.where} is missing"


class BlockCorruptError(BankError, ValueError):
    """A block's bytes are not those that were stored."""

    def __init__(self, digest: str, where: str, reason: str = "its digest differs") -> None:
        super().__init__(digest, where, reason)
        self.digest, self.where, self.reason = digest, where, reason

    def __str__(self) -> str:
        return f"block {self.digest[:16]} of {self.where} is corrupted: {self.reason}"


class StoreError(BankError, OSError):
    """The object store failed; ``__cause__`` says why."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "the object store failed"
