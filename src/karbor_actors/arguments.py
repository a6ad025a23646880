"""What callers give, checked where it is given: an error names the argument. Pure; any thread."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Collection
from datetime import datetime, tzinfo
from enum import StrEnum
from numbers import Real
from threading import TIMEOUT_MAX
from typing import Any, TypeVar, cast

from karbor_actors.errors import ArgumentError, describe_value

EnumT = TypeVar("EnumT", bound=StrEnum)
T = TypeVar("T")

FOR_EVER = TIMEOUT_MAX
"""Seconds that no thread can wait for, centuries: a limit of so many is none."""

_EPOCH_YEAR = 1970


def argument_error(argument: str, expected: str, given: object) -> ArgumentError:
    """Return the error of *argument*, which is *expected* and was *given* otherwise."""
    return ArgumentError(argument, expected, f"{describe_value(given)} ({type(given).__name__})")


def check_instance(
    argument: str, given: object, kinds: type[Any] | tuple[type[Any], ...], expected: str
) -> None:
    """Refuse what is of none of the *kinds*, which *expected* says in words."""
    if not isinstance(given, kinds):
        raise argument_error(argument, expected, given)


def check_flags(**given: object) -> None:
    """Refuse flags, by name, that are neither True nor False: ``force="no"`` would force."""
    for argument, flag in given.items():
        check_instance(argument, flag, bool, "True or False")


def names_only_fields(cls: type[T]) -> type[T]:
    """Have a dataclass refuse an argument that it has no field for as it refuses any other."""
    init: Callable[..., None] = cls.__init__
    names = [field.name for field in dataclasses.fields(cast("Any", cls))]

    @functools.wraps(init)
    def checked_init(self: object, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in names:
                raise ArgumentError(
                    f"an argument of {cls.__name__}", f"one of {', '.join(names)}", name
                )
        init(self, *args, **given)

    cls.__init__ = checked_init  # type: ignore[method-assign]
    return cls


def is_number(given: object) -> bool:
    """Return whether it is a real number: no bool, and not NaN."""
    return isinstance(given, (int, float, Real)) and not isinstance(given, bool) and given == given  # noqa: PLR0124


def checked_limit(
    argument: str, given: Any, *, positive: bool = True, or_none: bool = True
) -> float | None:
    """Return a number of seconds that something may take; None for no limit, and for infinity.

    Args:
        argument: Its name.
        given: What the caller gave.
        positive: Whether it is more than 0; else 0 will do.
        or_none: Whether None may be given.
    """
    if given is None and or_none:
        return None
    if not is_number(given) or given < 0 or (positive and given == 0):
        least = "more than 0" if positive else "0 or more"
        raise argument_error(argument, f"{least} seconds{', or None' * or_none}", given)
    return None if given >= FOR_EVER else given


def checked_wait(argument: str, given: Any) -> float | None:
    """Return how long to wait in seconds, 0 for what lies in the past; None for ever."""
    if given is None:
        return None
    if not is_number(given):
        raise argument_error(argument, "a number of seconds, or None", given)
    return None if given >= FOR_EVER else max(0.0, given)


def checked_moment(argument: str, given: Any, zone: tzinfo | None = None) -> float | None:
    """Return a moment in seconds since 1970, from 0 to `FOR_EVER`; None for none.

    Args:
        argument: Its name.
        given: A datetime, a number of seconds since 1970, or None.
        zone: Which zone a datetime without one is of; None: the machine's.
    """
    moment = given
    if isinstance(given, datetime):
        try:
            moment = (given if given.tzinfo else given.replace(tzinfo=zone)).timestamp()
        except (OverflowError, ValueError, OSError):  # near the ends of the calendar
            moment = 0.0 if given.year < _EPOCH_YEAR else FOR_EVER
    if moment is None:
        return None
    if not is_number(moment):
        raise argument_error(argument, "a datetime, or seconds since 1970, or None", given)
    return max(0.0, float(min(moment, FOR_EVER)))


def checked_count(
    argument: str,
    given: Any,
    *,
    least: int = 1,
    most: int | None = None,
    or_none: bool = False,
) -> Any:
    """Return *given*, a whole number from *least* to *most*, or None where that may be given."""
    if given is None and or_none:
        return None
    is_whole = isinstance(given, int) and not isinstance(given, bool)
    if not is_whole or given < least or (most is not None and given > most):
        range_ = f"at least {least}" if most is None else f"from {least} to {most}"
        expected = f"a whole number, {range_}{', or None' * or_none}"
        raise argument_error(argument, expected, given)
    return given


def checked_choice(argument: str, given: Any, choices: type[EnumT]) -> EnumT:
    """Return the member of *choices* that *given* is, or is the value of."""
    try:
        return choices(given)
    except ValueError:
        expected = f"one of {', '.join(choices)}"
        raise argument_error(argument, expected, given) from None


def checked_choices(argument: str, given: Any, choices: type[EnumT]) -> frozenset[EnumT] | None:
    """Return the members of *choices* that *given*, one or a collection, names; None for None."""
    if given is None:
        return None
    is_several = isinstance(given, Collection) and not isinstance(given, (str, bytes))
    return frozenset(
        checked_choice(argument, each, choices) for each in (given if is_several else [given])
    )


def checked_path(argument: str, given: Any) -> str:
    """Return the path *given*, absolute: text, bytes (decoded as the system does), or path-like."""
    if not isinstance(given, (str, bytes, os.PathLike)):
        raise argument_error(argument, "a path", given)
    path = os.fsdecode(given)
    if not path or "\x00" in path:
        raise argument_error(argument, "a path, which is not empty and holds no NUL", given)
    return os.path.abspath(path)


def check_text(argument: str, given: object) -> None:
    """Refuse what is no string, or None."""
    check_instance(argument, given, (str, type(None)), "a string, or None")
