"""One run of one hook's body on a worker: the only place that calls a plugin's hooks."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from typing import TYPE_CHECKING, Any

from karbor_actors import faultpoints
from karbor_actors.errors import HookFailedError, describe_cause
from karbor_actors.model import HookName
from karbor_actors.operations.context import HookContext
from karbor_actors.operations.messages import BodyEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.operations.context import Attempt
    from karbor_actors.operations.runner import Lane


class HookCall:
    """Runs one attempt's body once and reports how it ended.

    Args:
        attempt: Which hook, of which resource, in which run.
        lane: The workers it is meant for.
        report: Takes the outcome; called once, on the worker's thread.
        extra: Keyword arguments beside the verb's own (for ``on_abort``: reason and so on).
    """

    __slots__ = ("_extra", "_report", "attempt", "lane")

    def __init__(
        self,
        attempt: Attempt,
        lane: Lane,
        report: Callable[[BodyEnded], None],
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.attempt, self.lane, self._report, self._extra = attempt, lane, report, extra

    def run(self) -> None:
        """Run a plain hook: begin, body, end."""
        if not self.begin():
            return
        error: BaseException | None = None
        try:
            if faultpoints.injector is not None:
                faultpoints.injector.on_hook(self.attempt, "before")
            result = self.body()
            if result is not None:
                asyncio.run(_await(result))
            if faultpoints.injector is not None:
                faultpoints.injector.on_hook(self.attempt, "after")
        except BaseException as raised:
            error = raised
        self.end(error)

    async def run_async(self) -> None:
        """Run an ``async def`` hook."""
        if not self.begin():
            return
        error: BaseException | None = None
        try:
            if faultpoints.injector is not None:
                await asyncio.to_thread(faultpoints.injector.on_hook, self.attempt, "before")
            if self.attempt.run.recovered is not None:
                await asyncio.to_thread(self._resume)
            if self._has_engine_part():
                await asyncio.to_thread(self._engine_part)
            hook = self._hook()
            if hook is not None:
                await hook(*self._arguments(), **self._keywords())
            if faultpoints.injector is not None:
                await asyncio.to_thread(faultpoints.injector.on_hook, self.attempt, "after")
        except BaseException as raised:
            error = raised
        self.end(error)

    def body(self) -> Any:
        """Run the hook, and what the engine does with it; return what is to be awaited, or None.

        What the hook raises is raised.
        """
        if self.attempt.run.recovered is not None:
            self._resume()
        self._engine_part()
        hook = self._hook()
        if hook is None:
            return None
        result = hook(*self._arguments(), **self._keywords())
        return result if result is not None and inspect.isawaitable(result) else None

    def begin(self) -> bool:
        """Note that the body begins; False, reported, if nothing begins any more."""
        attempt = self.attempt
        if attempt.is_unwanted:
            self._report(BodyEnded(attempt, began=False))
            return False
        attempt.alive_at = attempt.run.clock()
        attempt.run.begin_hook(attempt.resource, attempt.hook, attempt.number)
        return True

    def refuse(self, why: str) -> None:
        """Report that there is nobody to run the body."""
        self.end(TimeoutError(why))

    def end(self, error: BaseException | None) -> None:
        """Report how the body ended; after :meth:`begin`, once."""
        attempt = self.attempt
        attempt.has_ended = True
        attempt.run.end_hook(attempt.resource)
        if error is not None:
            error = hook_failure(attempt, error)
        self._report(BodyEnded(attempt, began=True, error=error))

    def _resume(self) -> None:
        """After a restart, let the Operation take up again what its process held."""
        attempt = self.attempt
        if attempt.hook is HookName.ON_ABORT:
            return
        found = attempt.run.take_up(attempt.resource)
        on_resume = getattr(attempt.run.planned.operations[attempt.resource], "on_resume", None)
        if found is None or on_resume is None:
            return
        result = on_resume(
            *self._arguments(),
            began=found.began(attempt.resource),
            completed=found.completed(attempt.resource),
            **self._keywords(),
        )
        if inspect.isawaitable(result):
            asyncio.run(_await(result))

    def _hook(self) -> Callable[..., Any] | None:
        attempt = self.attempt
        return getattr(attempt.run.planned.operations[attempt.resource], attempt.hook, None)

    def _has_engine_part(self) -> bool:
        attempt = self.attempt
        return attempt.hook is HookName.ON_MAIN and attempt.run.engine_main is not None

    def _engine_part(self) -> None:
        attempt = self.attempt
        if attempt.hook is HookName.ON_MAIN and attempt.run.engine_main is not None:
            attempt.run.engine_main(attempt)

    def _arguments(self) -> tuple[Any, ...]:
        attempt = self.attempt
        run = attempt.run
        return (
            run.checkpoint.view(is_writable=run.is_writable, guard=attempt.check),
            run.planned.graph.nodes[attempt.resource],
            HookContext(attempt),
            run.planned.parameters.resolved(attempt.resource),
        )

    def _keywords(self) -> dict[str, Any]:
        attempt = self.attempt
        keywords = attempt.run.hook_arguments(attempt)
        if self._extra:
            keywords.update(self._extra)
        return keywords


async def _await(result: Any) -> Any:
    return await result


def hook_failure(attempt: Attempt, error: BaseException) -> HookFailedError:
    """Return *error*, raised by *attempt*'s body, as the engine's own error with its traceback."""
    key = attempt.run.planned.graph.nodes[attempt.resource].key
    failure = HookFailedError(key, str(attempt.hook), attempt.number, describe_cause(error))
    failure.__cause__ = error
    failure.trace = "".join(traceback.format_exception(error))
    return failure
