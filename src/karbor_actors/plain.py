"""Plain data (what msgpack, and so a bank, can hold), and what may name a thing.

Pure functions, safe from any thread.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from karbor_actors.errors import Fault, describe_value

_FORBIDDEN_IN_TYPE = re.compile(r"[#/\x00]")
_MAX_DEPTH = 64
_INTEGERS = range(-(2**63), 2**64)
_ATOMS = frozenset({type(None), bool, float, bytes})

Parameters = dict[str, dict[str, Any]]
"""Parameters by resource type, or by ``type#id``."""


def text_fault(value: object) -> str | None:
    """Return what is wrong with *value* as a name or an id, or None.

    A string need not be UTF-8, but it must survive UTF-8 with surrogateescape unchanged.
    """
    if not isinstance(value, str) or not value:
        return f"must be a non-empty string, not {describe_value(value)}"
    return None if value.isascii() or _survives(value) else "is not text that can be stored"


def _survives(text: str) -> bool:
    """Return whether *text* comes back the same from UTF-8 with surrogateescape."""
    try:
        packed = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False  # half of a surrogate pair, which no file name decodes to
    return packed.decode("utf-8", "surrogateescape") == text


def type_fault(resource_type: object) -> str | None:
    """Return what is wrong with *resource_type* as a resource type, or None."""
    if not isinstance(resource_type, str):
        return text_fault(resource_type)
    return _type_fault(resource_type)


@lru_cache(maxsize=1024)  # a graph has few types and many resources
def _type_fault(resource_type: str) -> str | None:
    if _FORBIDDEN_IN_TYPE.search(resource_type):
        return f"the resource type {describe_value(resource_type)} holds '#', '/' or NUL"
    return text_fault(resource_type)


def copy_plain(value: Any, where: str, faults: list[Fault], *, depth: int = _MAX_DEPTH) -> Any:
    """Return a deep copy of *value* that msgpack can hold; a tuple becomes a list.

    Args:
        value: None, bool, int (64 bits), float, str, bytes, and lists and dicts (with
            strings as keys) of these, to a depth of 64.
        where: What the value is, for a fault.
        faults: Takes a fault for each part that is anything else; None stands for it.
        depth: How many more levels of lists and dicts there may be.
    """
    if type(value) is dict and depth:  # what most are, told at once
        return _copy_mapping(value, where, faults, depth)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, str):
        if value.isascii() or _survives(value):
            return str(value)
        faults.append(Fault(where, "is not text that can be stored"))
        return None
    if isinstance(value, int):
        if value in _INTEGERS:
            return int(value)
        faults.append(Fault(where, "is an integer of more than 64 bits"))
        return None
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, (list, tuple, dict, Mapping)):
        kind = type(value).__name__
        faults.append(Fault(where, f"is of type {kind}, which cannot be stored (use a string)"))
        return None
    if depth == 0:
        faults.append(Fault(where, "is nested too deeply"))
        return None
    if isinstance(value, (dict, Mapping)):  # a dict at once: Mapping asks ABCs
        return _copy_mapping(value, where, faults, depth)
    return [
        item if _is_atom(item) else copy_plain(item, f"{where}[{number}]", faults, depth=depth - 1)
        for number, item in enumerate(value)
    ]


def _is_atom(value: object) -> bool:
    """Return whether :func:`copy_plain` would return *value* itself; mostly it is one that does."""
    kind = type(value)
    if kind is str:
        return value.isascii()  # type: ignore[attr-defined, no-any-return]
    return kind in _ATOMS or (kind is int and value in _INTEGERS)


def _copy_mapping(
    value: Mapping[Any, Any], where: str, faults: list[Fault], depth: int
) -> dict[str, Any]:
    copied = {}
    for key, item in value.items():
        if isinstance(key, str) and (key.isascii() or _survives(key)):
            copied[str(key)] = (
                item
                if _is_atom(item)
                else copy_plain(item, f"{where}.{key}", faults, depth=depth - 1)
            )
        else:
            fault = f"has the key {describe_value(key)}, which is not text that can be stored"
            faults.append(Fault(where, fault))
    return copied


def _refuse_change(self: object, *_: object, **__: object) -> NoReturn:
    """Stand for every method that would change a frozen value."""
    kind = type(self).__name__
    msg = f"a {kind} cannot be changed; change a copy.deepcopy() of it, which is plain"
    raise TypeError(msg)


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed; a copy of it is a plain one."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse_change
    clear = pop = popitem = setdefault = update = _refuse_change

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenDict, (dict(self),))

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: copy.deepcopy(value, memo) for key, value in self.items()}

    __copy__ = dict.copy


class FrozenList(list[Any]):
    """A list that cannot be changed; a copy of it is a plain one."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse_change
    append = clear = extend = insert = pop = _refuse_change
    remove = reverse = sort = _refuse_change

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenList, (list(self),))

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(value, memo) for value in self]

    __copy__ = list.copy


def frozen(value: Any) -> Any:
    """Return *value*, which :func:`copy_plain` made and nobody has yet, so that none of it changes."""
    if type(value) is dict:
        for key, item in value.items():
            if type(item) in _NESTED:
                value[key] = frozen(item)
        return FrozenDict(value)
    if type(value) is list:
        for place, item in enumerate(value):
            if type(item) in _NESTED:
                value[place] = frozen(item)
        return FrozenList(value)
    return value


_NESTED = frozenset({dict, list})


def checked_parameters(parameters: object, faults: list[Fault]) -> Parameters:
    """Return a deep copy of *parameters*, reporting what has another shape or is not plain.

    Args:
        parameters: Parameters by ``type`` or ``type#id``, or None.
        faults: Takes what is wrong with them.
    """
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        faults.append(Fault("parameters", "must be a table of tables"))
        return {}
    kept = {}
    for key, fields in parameters.items():
        fault = type_fault(key.partition("#")[0]) if isinstance(key, str) else text_fault(key)
        if fault is not None:
            faults.append(Fault(f"parameters[{describe_value(key)}]", fault))
        elif isinstance(fields, Mapping):
            kept[key] = copy_plain(fields, key, faults)
        else:
            faults.append(
                Fault(key, f"must be a table of fields, not of type {type(fields).__name__}")
            )
    return kept
