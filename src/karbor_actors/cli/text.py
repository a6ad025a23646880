"""Words and figures as people read them. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

SHORT = 8
"""Characters of an id that tell it apart from the others that a person has before them."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIBI = 1024
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_EXACT = 10
"""Below it, a figure is shown with one decimal."""


def shown(text: object) -> str:
    """Return *text* in one line that a terminal prints as it is.

    What is not printable (control characters, bytes that are no UTF-8, marks that turn the
    direction of writing) appears as an escape of Python.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def sentence(text: object) -> str:
    """Return *text*, which may have several lines, as :func:`shown` does."""
    return shown(" ".join(str(text).split()))


def human_bytes(count: float) -> str:
    """Return a count of bytes with a unit: ``512 B``, ``1.5 MiB``."""
    unit = 0
    while count >= _KIBI and unit < len(_UNITS) - 1:
        count /= _KIBI
        unit += 1
    digits = 1 if unit and count < 10 * _EXACT else 0
    return f"{count:.{digits}f} {_UNITS[unit]}"


def human_count(count: float, unit: str) -> str:
    """Return a count of *unit*; bytes as :func:`human_bytes` does."""
    if unit == "bytes":
        return human_bytes(count)
    number = f"{count:,.0f}" if float(count).is_integer() else f"{count:,.1f}"
    return f"{number} {shown(unit)}".rstrip()


def human_seconds(seconds: float) -> str:
    """Return a duration: ``0.25 s``, ``4.2 s``, ``3:05``, ``2:00:05``, ``3 d 4:00:05``."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} d {clock}" if days else clock


def local_time(moment: datetime | float | None) -> str:
    """Return a moment (of its own zone, or seconds since 1970) in the local zone."""
    moment = as_datetime(moment)
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso_time(moment: datetime | float | None) -> str | None:
    """Return a moment in ISO 8601 and UTC, or None."""
    moment = as_datetime(moment)
    return None if moment is None else moment.astimezone(UTC).isoformat()


def as_datetime(moment: datetime | float | None) -> datetime | None:
    """Return a moment that is given in seconds since 1970 as a datetime in UTC."""
    if moment is None or isinstance(moment, datetime):
        return moment
    return datetime.fromtimestamp(moment, UTC)


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return ``1 file`` or ``2 files``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def looking(looked_up: int) -> str:
    """Return what is said of an operation that is still being planned."""
    return f"looking for resources, {looked_up:,} looked at"
