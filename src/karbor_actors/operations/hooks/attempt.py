"""One run of one hook's body: the only place that calls a plugin's hooks."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from karbor_actors import faultpoints, liveness
from karbor_actors.errors import (
    FencedError,
    HookFailedError,
    HookGivenUpError,
    describe_cause,
    describe_key,
)
from karbor_actors.errors.base import SENTENCE_LIMIT, examinable, shorten
from karbor_actors.model import HookName
from karbor_actors.operations.hooks.calls import refuse_unfinished
from karbor_actors.operations.hooks.context import HookContext
from karbor_actors.operations.hooks.memory import Changes
from karbor_actors.operations.results import ResourceProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors.operations.hooks.runner import Lane
    from karbor_actors.operations.hooks.worker import Host
    from karbor_actors.operations.run import OperationRun


class Attempt:
    """One attempt of one hook of one resource: it runs once, and is its own report.

    The control thread makes it and hands it to a worker, which runs the body and hands it
    back, ended. Meanwhile it says what the hook may write, and whether it still may.

    Args:
        run: The operation.
        hook_number: The hook's number in the schedule, or :func:`abort_number` of a resource.
        resource: The resource's number.
        hook: Which hook.
        number: Which attempt, from 1.
        lane: The workers it is meant for.
        report: Takes it back; called once, on the worker's thread.
        extra: Keyword arguments beside the verb's own (for ``on_abort``: reason and so on).
    """

    __slots__ = (
        "_extra",
        "_report",
        "alive_at",
        "began_at",
        "done",
        "error",
        "has_ended",
        "hook",
        "hook_number",
        "is_fenced",
        "lane",
        "number",
        "resource",
        "run",
        "took",
        "written",
    )

    def __init__(
        self,
        run: OperationRun,
        hook_number: int,
        resource: int,
        hook: HookName,
        number: int,
        lane: Lane,
        report: Callable[[Attempt], None],
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.run, self.hook_number, self.resource, self.hook = run, hook_number, resource, hook
        self.number, self.lane = number, lane
        self._report, self._extra = report, extra
        self.written: Changes | None = None
        """What the hook wrote and has not made durable yet; None if it never wrote."""
        self.began_at: float | None = None
        """When the body began, by the engine's clock; None if it has not, or will not."""
        self.alive_at: float | None = None
        """When it began, or last said how far it is, by the engine's clock."""
        self.done: tuple[float, float | None, str] = _NOTHING_DONE
        """How far it said it is: done, total, unit."""
        self.has_ended = False
        """Whether the body has returned."""
        self.took = 0.0
        """Seconds that the body took, once it has returned."""
        self.error: BaseException | None = None
        """What it raised, as a HookFailedError."""
        self.is_fenced = False
        """Whether the engine gave it up."""

    # -- what the hook wrote, and may write

    @property
    def changes(self) -> Changes:
        """Where the hook writes; made when first asked for."""
        if self.written is None:
            self.written = Changes()
        return self.written

    @property
    def is_unwanted(self) -> bool:
        """Whether the hook should not begin, or stop early."""
        if self.hook is HookName.ON_ABORT:
            return False
        needed = self.run.needed
        return self.run.is_cancelled or (needed is not None and self.hook_number not in needed)

    @property
    def waits(self) -> bool:
        """Whether what it writes is durable when the call returns; not in ``on_abort``."""
        return self.hook is not HookName.ON_ABORT

    def check(self) -> None:
        """Refuse what a given-up hook still writes.

        Raises:
            FencedError: The engine gave it up, or its operation has ended.
        """
        if self.is_fenced:
            raise FencedError
        self.run.check()

    def flush(self) -> None:
        """Make the changes so far durable, and visible to all. Blocks."""
        changes = self.changes
        now = Changes(dict(changes.state), dict(changes.new_resources))
        if now:
            self.run.flush(self.resource, now, waits=self.waits)
            _forget(changes.state, now.state)
            _forget(changes.new_resources, now.new_resources)

    def note_alive(self) -> None:
        """Note that the body gets on; the thread that runs it.

        What holds a resource has a bound all the same: prepare hooks and ``on_abort``.
        """
        if self.hook in _MAY_GO_ON:
            self.alive_at = self.run.clock()

    def report_progress(self, done: float, total: float | None, unit: str) -> None:
        """Note how far the body is, and that it is alive; the thread that runs it."""
        self.note_alive()
        self.done = (done, total, unit)

    def __str__(self) -> str:
        """Say whose hook it is, for the log."""
        key = self.run.planned.graph.nodes[self.resource].key
        return f"{self.hook} of {describe_key(key)} (operation {self.run.id})"

    def progress(self) -> ResourceProgress:
        """Return how far it is; any thread, while the body runs."""
        began_at = self.began_at
        since = 0.0 if began_at is None else self.run.clock() - began_at
        key = self.run.planned.graph.nodes[self.resource].key
        return ResourceProgress(key, self.hook, self.number, time.time() - since, *self.done)

    # -- the body

    def execute(self) -> None:
        """Run a plain hook: begin, body, end."""
        if not self.begin():
            return
        error: BaseException | None = None
        liveness.listener.set(self)  # until the worker's next hook: nobody else asks
        try:
            if faultpoints.injector is not None:
                faultpoints.injector.on_hook(self, "before")
            result = self.body()
            if result is not None:
                asyncio.run(_await(result))
            if faultpoints.injector is not None:
                faultpoints.injector.on_hook(self, "after")
        except BaseException as raised:
            error = raised
        self.end(error)

    async def execute_async(self, host: Host) -> None:
        """Run an ``async def`` hook on *host*, if it may begin there."""
        if not (host.may_begin(self) and self.begin()):
            host.has_left(self)
            return
        error: BaseException | None = None
        liveness.listener.set(self)  # the task's own
        try:
            if faultpoints.injector is not None:
                await asyncio.to_thread(faultpoints.injector.on_hook, self, "before")
            if self.run.recovered is not None:
                await asyncio.to_thread(self._resume)
            if self.run.engine_main is not None:
                await asyncio.to_thread(self._engine_part)
            hook = getattr(self.run.planned.operations[self.resource], self.hook._value_, None)
            if hook is not None:
                running = self._call(hook)
                del hook  # it need not live as long as it runs, thousands of them
                if (result := await running) is not None:
                    refuse_unfinished(result)
            if faultpoints.injector is not None:
                await asyncio.to_thread(faultpoints.injector.on_hook, self, "after")
        except BaseException as raised:
            error = raised
        has_failed = error is not None or self.is_fenced
        # What it has begun off the loop goes on, and may do what is to be undone.
        if not (has_failed and host.outlives(self, partial(self.end, error))):
            self.end(error)
            host.has_left(self)

    def body(self) -> Any:
        """Run the hook, and what the engine does with it; return what is to be awaited, or None.

        What the hook raises is raised.
        """
        if self.run.recovered is not None:
            self._resume()
        if self.run.engine_main is not None:
            self._engine_part()
        # A plain str: what is found for those is remembered by their class, not so for an enum.
        hook = getattr(self.run.planned.operations[self.resource], self.hook._value_, None)
        if hook is None:
            return None
        result = self._call(hook)
        if result is None or inspect.isawaitable(result):
            return result
        refuse_unfinished(result)
        return None

    def begin(self) -> bool:
        """Note that the body begins; False, reported, if nothing begins any more."""
        run = self.run
        if (run.is_cancelled or run.needed is not None) and self.is_unwanted:
            self._report(self)
            return False
        self.began_at = self.alive_at = run.clock()
        if self.is_fenced:  # given up while it waited: looked at after it says that it begins
            self.began_at = None
            self._report(self)
            return False
        run.running[self.resource] = self
        return True

    def take_back(self) -> bool:
        """Fence the body off, unless it has begun; return whether it never will. The control thread.

        Whoever begins it says so first and looks at the fence then, as this does the other way round.
        """
        if self.began_at is None:
            self.is_fenced = True
            if self.began_at is None:
                return True
            self.is_fenced = False
        return False

    def refuse(self, why: str) -> None:
        """Report that there is nobody to run the body, if it has not reported."""
        if self.has_ended:
            return
        self.began_at = self.run.clock()  # it may not run again as if nothing had been tried
        self.end(HookGivenUpError(why))

    def end(self, error: BaseException | None) -> None:
        """Report how the body ended; after :meth:`begin`, and what it says first counts."""
        if self.has_ended:  # its task was done before it was: who makes tasks may be a plugin's
            return
        run = self.run
        self.has_ended = True
        if self.began_at is not None:
            self.took = run.clock() - self.began_at
        if run.running.get(self.resource) is self:
            del run.running[self.resource]
            if self.hook in PREPARE_HOOKS:
                run.prepared_at = time.time()
        if error is not None:
            try:  # nobody reads what one raised that was given up, of which there may be thousands
                self.error = error if self.is_fenced else hook_failure(self, error)
            except BaseException:  # no memory is left, say: what it raised is reported as it is
                self.error = error
        self._report(self)

    def _resume(self) -> None:
        """After a restart, let the Operation take up again what its process held."""
        if self.hook is HookName.ON_ABORT:
            return
        found = self.run.to_take_up(self.resource)
        on_resume = getattr(self.run.planned.operations[self.resource], "on_resume", None)
        if found is None or on_resume is None:
            return
        done = {
            "began": found.began(self.resource),
            "completed": found.completed(self.resource),
        }
        result = self._call(on_resume, done)
        if inspect.isawaitable(result):
            asyncio.run(_await(result))
        elif result is not None:
            refuse_unfinished(result)
        self.run.took_up(self.resource)

    def _engine_part(self) -> None:
        if self.hook is HookName.ON_MAIN and self.run.engine_main is not None:
            self.run.engine_main(self)

    def _call(self, hook: Callable[..., Any], more: dict[str, Any] | None = None) -> Any:
        """Call *hook* with what every hook gets, and *more* keyword arguments."""
        run, resource = self.run, self.resource
        planned = run.planned
        keywords = run.hook_arguments(self)
        for added in (self._extra, more):
            if added:
                keywords.update(added)
        return hook(
            run.checkpoint.view(is_writable=run.is_writable, guard=self),
            planned.graph.nodes[resource],
            HookContext(self),
            planned.parameters.resolved(resource),
            **keywords,
        )


_NOTHING_DONE = (0.0, None, "")
_MAY_GO_ON = (HookName.ON_MAIN, HookName.ON_COMPLETE)
"""The hooks whose time is counted from the last sign that they get on."""
_MAX_FRAMES = 64
"""The most frames of a traceback that are kept: those of one exception grow with each raise."""
PREPARE_HOOKS = frozenset({HookName.ON_PREPARE_BEGIN, HookName.ON_PREPARE_FINISH})


def abort_number(resource: int) -> int:
    """Return the number that *resource*'s ``on_abort`` goes by: no hook of a schedule has it."""
    return ~resource


def _forget(changed: dict[Any, Any], durable: dict[Any, Any]) -> None:
    """Take *durable* out of *changed*; another thread may have set something since."""
    for key, value in durable.items():
        if changed.get(key, durable) is value:
            changed.pop(key, None)


async def _await(awaitable: Any) -> None:
    result = await awaitable
    if result is not None:
        refuse_unfinished(result)


def hook_failure(attempt: Attempt, error: BaseException) -> HookFailedError:
    """Return *error*, raised by *attempt*'s body, as the engine's own error with its traceback."""
    key = attempt.run.planned.graph.nodes[attempt.resource].key
    failure = HookFailedError(key, str(attempt.hook), attempt.number, describe_cause(error))
    failure.__cause__ = examinable(error)
    try:
        trace = "".join(traceback.format_exception(error, limit=-_MAX_FRAMES))
    except BaseException:  # it asks foreign code, which may raise anything
        trace = f"{failure.reason}\n(its traceback cannot be shown)\n"
    failure.trace = shorten(trace, 2 * SENTENCE_LIMIT)
    return failure
