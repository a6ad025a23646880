"""Hooks without an operation: an attempt of one, for tests of what runs it; import as ``lone_hooks``."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from karbor_actors.model import HookName
from karbor_actors.operations.hooks.attempt import Attempt
from karbor_actors.operations.hooks.runner import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class _Run:
    """As much of an operation's run as the body of one ``async def`` hook asks for."""

    is_cancelled = False
    needed = recovered = engine_main = None
    is_writable = True
    clock = staticmethod(time.monotonic)

    def __init__(self, hook: HookName, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.running: dict[int, Attempt] = {}
        self.prepared_at: float | None = None
        self.checkpoint = SimpleNamespace(view=lambda **_: None)
        self.planned = SimpleNamespace(
            operations=[SimpleNamespace(**{hook.value: lambda *_: body()})],
            graph=SimpleNamespace(nodes=[SimpleNamespace(key="the only one")]),
            parameters=SimpleNamespace(resolved=lambda _: {}),
        )

    def hook_arguments(self, attempt: Attempt) -> dict[str, Any]:
        return {}


class LoneHook:
    """One attempt of a hook that awaits *body*, and what it reported."""

    def __init__(
        self, body: Callable[[], Coroutine[Any, Any, None]], hook: HookName = HookName.ON_MAIN
    ) -> None:
        run: Any = _Run(hook, body)
        self.reports: list[Attempt] = []
        self.done = threading.Event()
        self.attempt = Attempt(run, 0, 0, hook, 1, Lane.MAIN, self._report)

    def _report(self, attempt: Attempt) -> None:
        self.reports.append(attempt)
        self.done.set()
