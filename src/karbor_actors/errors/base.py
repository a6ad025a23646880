"""What every exception is made of: the root, faults, and how things are said."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ResourceKey = tuple[str, str]
"""A resource's identity: (type, id)."""


def describe_key(key: ResourceKey) -> str:
    """Return *key* as people read it: ``type#id``, with odd characters escaped."""
    if not isinstance(key, (tuple, list)) or len(key) != 2:  # noqa: PLR2004 - given, and no key
        return describe_value(key)
    text = f"{key[0]}#{key[1]}"
    return text if text.isprintable() else ascii(text)[1:-1]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def describe_value(value: object) -> str:
    """Return *value* as errors show it: in one line, and only its ends if it is long."""
    try:
        shown = _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not print
        shown = f"<a number of {value.bit_length()} bits>" if isinstance(value, int) else "<?>"
    return " ".join(shown.split())


def describe_cause(error: BaseException) -> str:
    """Return *error* in one line: its class and its sentence.

    Never raises: a plugin's error that cannot say what it is gives its class alone.
    """
    try:
        sentence = " ".join(str(error).split())
    except Exception:  # foreign code: the class says what there is to say
        sentence = ""
    if isinstance(error, KarborError):
        return sentence
    name = type(error).__name__
    return f"{name}: {sentence}" if sentence else name


class KarborError(Exception):
    """The root of every exception that karbor_actors raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a plan or with parameters."""

    where: str
    """What it is about, for example ``FileSystem::Directory.exclude[0]``."""
    message: str
    """What is wrong with it, in one sentence without a full stop."""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class FaultsError(KarborError, ValueError):
    """Shared by the errors that list every fault at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)
        """Every fault found, in the order of the input."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults))
