"""What every exception is made of: the root, faults, and how things are said."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ResourceKey = tuple[str, str]
"""A resource's identity: (type, id)."""


_LONGEST_KEY = 5000
"""Characters of a key that are shown: more than a path may have."""


def describe_key(key: ResourceKey) -> str:
    """Return *key* as people read it: ``type#id``, with odd characters escaped.

    Of one that is longer than any path, only the ends.
    """
    if not isinstance(key, (tuple, list)) or len(key) != 2:  # noqa: PLR2004 - given, and no key
        return describe_value(key)
    text = f"{key[0]}#{key[1]}"
    if len(text) > _LONGEST_KEY:
        half = _LONGEST_KEY // 2
        text = f"{text[:half]}...{text[-half:]}"
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
    except BaseException:  # foreign code, which may raise anything: its class says what there is
        shown = f"<{class_name(value)}>"
    return " ".join(shown.split())


SENTENCE_LIMIT = 4096
"""The most characters of what somebody else's error says; of this library's, which hold those, twice."""


def shorten(text: str, limit: int) -> str:
    """Return *text* as any record can keep it: at most about *limit* characters, all of them text.

    Of a longer one its two ends are left, with how much is missing; half of a surrogate pair is
    written as an escape.
    """
    if len(text) > limit:
        head, tail = text[: limit * 3 // 4], text[-(limit // 4) :]
        text = f"{head} [... {len(text) - limit} characters left out ...] {tail}"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def describe_cause(error: BaseException) -> str:
    """Return *error* in one line: its class and its sentence, shortened if it is very long.

    Never raises: a plugin's error that cannot say what it is gives its class alone.
    """
    is_own = issubclass(type(error), KarborError)  # not isinstance(), which asks the instance
    limit = 2 * SENTENCE_LIMIT if is_own else SENTENCE_LIMIT
    try:
        # str() may give a subclass of str, which is foreign code too.
        sentence = " ".join(shorten(str.__str__(str(error)), limit).split())
    except BaseException:  # foreign code, which may raise anything: the class says what there is
        sentence = ""
    if is_own and sentence:
        return sentence
    name = class_name(error)
    return f"{name}: {sentence}" if sentence else name


_own_name = type.__dict__["__name__"].__get__  # whatever a metaclass says of it


def class_name(value: object) -> str:
    """Return the name of *value*'s class. Never raises."""
    return shorten(_own_name(type(value)), 256)


def examinable(error: BaseException) -> BaseException:
    """Return *error*, or what can be looked at in its place: its own code refuses even that."""
    try:
        isinstance(error, KarborError)
    except BaseException:  # foreign code, which may raise anything
        return RuntimeError(describe_cause(error))
    return error


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
