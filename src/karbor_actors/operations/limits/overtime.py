"""What becomes of bodies that take too long, and of those that return late."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from karbor_actors.errors import HookFailedError, HookGivenUpError, describe_key
from karbor_actors.model import AbortKind, AbortReason, HookName
from karbor_actors.operations.messages import BodyFailed, NotBegun
from karbor_actors.schedule import BEGUN, HOOKS_PER_RESOURCE, READY, WAITING, hook_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from karbor_actors.operations.control import OperationControl
    from karbor_actors.operations.hooks.attempt import Attempt

_WHY = "it took longer than it may and was given up"
_HELD = "it was held for longer than max_quiesce allows"
_UNENDED = (WAITING, READY, BEGUN)
_ABORT_LINGERS = 30.0
"""Seconds after its limit for which an ``on_abort`` is waited for before the next one, at most."""
_LOOK = 0.2
"""Seconds between two looks at whether it has returned."""


class LateBodies:
    """Bodies that were given up and have not returned. The control thread; any may iterate."""

    def __init__(self) -> None:
        self._all: dict[Attempt, None] = {}
        self._of: dict[int, set[Attempt]] = {}

    def __contains__(self, attempt: object) -> bool:
        return attempt in self._all

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(tuple(self._all))

    def of(self, resource: int) -> Collection[Attempt]:
        """Return those of *resource*: there may be thousands of others."""
        return self._of.get(resource, ())

    def update(self, attempts: Iterable[Attempt]) -> None:
        """Add *attempts*."""
        for attempt in attempts:
            self._all[attempt] = None
            self._of.setdefault(attempt.resource, set()).add(attempt)

    def discard(self, attempt: Attempt) -> None:
        """Take *attempt* out, if it is there."""
        if attempt in self._all:
            del self._all[attempt]
            others = self._of[attempt.resource]
            others.discard(attempt)
            if not others:
                del self._of[attempt.resource]


class Overtime:
    """Gives bodies up: fences them off, and undoes what they did when they return.

    The control thread only.
    """

    def __init__(self, control: OperationControl) -> None:
        self._control = control
        self.late = LateBodies()

    def look_at_clock(self) -> None:
        """Give up what has taken too long."""
        control = self._control
        now = control.dispatcher.now()
        for attempt in control.watch.overdue(now):
            self._give_up(attempt, _WHY)
        for resource in control.watch.held_too_long(now):
            self._end_span(resource)
            control.undo.release([resource])
        control.watch.look_again(now)
        control.request_flush()

    def take_back(self) -> None:
        """Withdraw the hooks that wait for a worker and are not to begin: others may keep all busy."""
        control = self._control
        for attempt in control.watch.running():
            if attempt.is_unwanted and attempt.take_back():
                control.watch.ended(attempt.hook_number)
                control.intake.abandon(attempt)
                control.tell(attempt.hook_number, NotBegun())

    def end_grace(self) -> None:
        """Give up the bodies that go on although they should stop."""
        control = self._control
        for attempt in control.watch.running():
            if attempt.is_unwanted:
                control.watch.ended(attempt.hook_number)
                self._give_up(attempt, _WHY)
        control.request_flush()

    def came_back(self, attempt: Attempt) -> None:
        """Undo once more what a body did that was given up and has now returned."""
        if attempt not in self.late:
            return
        self.late.discard(attempt)
        if attempt.hook is not HookName.ON_ABORT:
            self._control.undo.again(attempt.resource)
        self._control.request_flush()

    def wait_for_abort(self, resource: int) -> float:
        """Return in how many seconds to ask again before another ``on_abort`` of *resource* runs.

        That is 0 unless one that was given up goes on: two at once are not for plugins to bear. But
        it may never return, and then the next one may do what it did not: it is waited for as long
        again as it had, and 30 s at most.
        """
        late = [a for a in self.late.of(resource) if a.hook is HookName.ON_ABORT]
        for attempt in late:
            if attempt.has_ended:  # the next one comes after it
                self.late.discard(attempt)
        limit = self._control.watch.limit_of(resource, HookName.ON_ABORT)
        grace = _ABORT_LINGERS if limit is None else limit + min(limit, _ABORT_LINGERS)
        began = max((a.began_at or 0.0 for a in late if not a.has_ended), default=-inf)
        return min(max(began + grace - self._control.dispatcher.now(), 0.0), _LOOK)

    def leave(self, hook: int) -> None:
        """Fence the body of *hook* off, if it runs: nobody waits for it any more."""
        attempt = self._control.watch.ended(hook)
        if attempt is not None:
            attempt.is_fenced = True
            self.late.update([attempt])
            self._control.intake.abandon(attempt)

    def leave_all(self) -> None:
        """Fence every body off, and replace its worker: its operation has ended."""
        for attempt in self._control.watch.running():
            self.leave(attempt.hook_number)

    def _end_span(self, resource: int) -> None:
        """Give up what keeps *resource* held: its own body, or what it waits for."""
        control = self._control
        own = [a for a in control.watch.running() if a.resource == resource]
        for attempt in own:
            if attempt.hook is not HookName.ON_ABORT:
                control.watch.ended(attempt.hook_number)
                self._give_up(attempt, _HELD)
        if own:
            return
        first = resource * HOOKS_PER_RESOURCE
        hooks = range(first, first + HOOKS_PER_RESOURCE)
        hook = next((h for h in hooks if control.schedule.state(h) in _UNENDED), None)
        key = control.run.planned.graph.nodes[resource].key
        if hook is not None:
            error = self._failure(resource, hook_name(hook), 1, _HELD)
            if control.lose_hook(hook, error):
                return
        control.failures.append(HookGivenUpError(f"{describe_key(key)}: {_HELD}"))
        reason = AbortReason(AbortKind.TIMEOUT, _HELD, key)
        control.lose([] if hook is None else control.schedule.drop(hook), reason)

    def _failure(self, resource: int, hook: HookName, attempt: int, why: str) -> HookFailedError:
        key = self._control.run.planned.graph.nodes[resource].key
        error = HookFailedError(key, str(hook), attempt, why)
        error.__cause__ = HookGivenUpError(why)
        return error

    def _give_up(self, attempt: Attempt, why: str) -> None:
        """Fence *attempt* off and go on as if it had failed."""
        control = self._control
        attempt.is_fenced = True
        has_begun = attempt.began_at is not None  # asked after it was fenced: else it never will
        if has_begun:
            self.late.update([attempt])
        control.intake.abandon(attempt)
        error = self._failure(attempt.resource, attempt.hook, attempt.number, why)
        if attempt.hook is HookName.ON_ABORT:
            control.undo.body_ended(attempt, error)
        elif control.suspending.is_on and attempt.is_unwanted:
            control.drop(attempt.hook_number, control.schedule.withdraw)
        elif attempt.is_unwanted and not has_begun:
            control.tell(attempt.hook_number, NotBegun())
        else:
            control.tell(attempt.hook_number, BodyFailed(error))
