"""Which hooks an Operation object implements, and how they are called.

Any object will do. A hook is implemented when it is there and is not the empty one of
:class:`karbor_actors.Operation`, nor that of Karbor's own base class.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any, Final

from karbor_actors.errors import PluginError
from karbor_actors.model import HookName
from karbor_actors.plugins import Operation

ABSENT: Final = 0
SYNC: Final = 1
ASYNC: Final = 2

_UNUSUAL = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_COROUTINE
_EMPTY = {name: getattr(Operation, name) for name in HookName}
_KARBORS_MODULE = "karbor.services.protection.protection_plugin"


class HookTable:
    """Looks at Operation objects; remembers what it learned of a class."""

    def __init__(self) -> None:
        self._by_class: dict[type, tuple[bytes, bool]] = {}

    def kinds(self, operation: object | None) -> bytes:
        """Return one byte for each of the four hooks and for ``on_abort``.

        Raises:
            PluginError: A hook is there and cannot be called.
        """
        if operation is None:
            return b"\0\0\0\0\0"
        known = self._by_class.get(type(operation))
        if known is None:
            own = type(operation)
            kinds = bytes([self._kind(own, name, getattr(own, name, None)) for name in _EMPTY])
            is_plain = isinstance(operation, Operation) and not hasattr(own, "__getattr__")
            known = self._by_class[own] = (kinds, is_plain)
        kinds, is_plain = known
        attributes = getattr(operation, "__dict__", None)
        if is_plain and not (attributes and not attributes.keys().isdisjoint(_EMPTY)):
            return kinds
        return bytes(
            self._kind(type(operation), name, getattr(operation, name, None)) for name in _EMPTY
        )

    @staticmethod
    def _kind(owner: type, name: HookName, hook: Any) -> int:
        if hook is None:
            return ABSENT
        if not callable(hook):
            msg = f"{owner.__name__}.{name} is {hook!r}, which cannot be called"
            raise PluginError(msg)
        outermost = getattr(hook, "__func__", hook)
        if outermost is _EMPTY[name]:
            return ABSENT
        if type(outermost) is FunctionType and not outermost.__dict__:
            # A plain function, which wraps nothing and is marked as nothing else: told at once.
            flags, is_karbors = outermost.__code__.co_flags, _is_karbors_empty(outermost, name)
            if not (flags & _UNUSUAL or is_karbors):
                return SYNC
        function = inspect.unwrap(outermost)
        if function is _EMPTY[name] or _is_karbors_empty(function, name):
            return ABSENT
        if inspect.isgeneratorfunction(outermost) or inspect.isasyncgenfunction(outermost):
            msg = f"{owner.__name__}.{name} is a generator (it has a yield): it would never run"
            raise PluginError(msg)
        # What is called counts, not what it wraps: a plain wrapper may run a coroutine itself.
        return ASYNC if inspect.iscoroutinefunction(outermost) else SYNC


def _is_karbors_empty(function: Any, name: HookName) -> bool:
    """Tell the empty hook of Karbor's base class, by name: Karbor need not be installed."""
    if getattr(function, "__module__", "") != _KARBORS_MODULE:
        return False
    return bool(getattr(function, "__qualname__", "") == f"Operation.{name}")


def refuse_unfinished(value: object) -> None:
    """Refuse what a hook returned that stands for work which nobody waits for.

    Raises:
        PluginError: It is a future or a generator, or something to await that came of an await.
    """
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        what = "a generator, which would never run; iterate over it in the hook"
    elif hasattr(type(value), "add_done_callback"):
        what = "a future, for which nobody waits; call its result() in the hook"
    elif inspect.isawaitable(value):
        what = "something to await, which nobody awaits; await it in the hook"
        if inspect.iscoroutine(value):
            value.close()  # said here, and not by Python some time later
    else:
        return
    raise PluginError(f"it returned {what}")


ABORT: Final = 4
"""Where ``on_abort`` stands in what :meth:`HookTable.kinds` returns."""
