"""The ready hooks of one operation on their way in, and the calls that a turn hands to workers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karbor_actors.operations.admission.admission import HOOK_BITS, Admission, Line
from karbor_actors.operations.hooks.calls import ASYNC
from karbor_actors.operations.hooks.runner import Lane
from karbor_actors.schedule import (
    COMPLETE,
    HOOKS_PER_RESOURCE,
    MAIN,
    PREPARE_BEGIN,
    PREPARE_FINISH,
    hook_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from karbor_actors.limits import Caps
    from karbor_actors.operations.admission.paths import PathsAhead
    from karbor_actors.operations.hooks.attempt import Attempt
    from karbor_actors.operations.hooks.runner import Runners
    from karbor_actors.operations.hooks.worker import Call
    from karbor_actors.operations.planning import PlannedOperation

WINDOW = 1024
"""Hooks of one lane that are in at once at most; of the event loop's, that begin in one turn."""
_KIND_BITS = 2
_LONGEST = (1 << 32) - 1


def new_admission(workers: int, caps: Caps) -> Admission:
    """Return what lets the hooks of all operations in.

    Args:
        workers: Threads per lane.
        caps: What the host allows.
    """
    admission = Admission()
    admission.set_window(Lane.PREPARE, workers, WINDOW)
    admission.set_window(Lane.MAIN, workers, WINDOW)
    for phase in (Lane.PREPARE, Lane.MAIN):
        for resource_type, limit in caps.types.items():
            admission.set_cap(("type", resource_type, phase), limit)
        for group, limit in caps.groups.items():
            admission.set_cap(("group", group, phase), limit)
    for hook, limit in caps.hooks.items():
        admission.set_cap(("hook", hook), limit)
    return admission


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How a hook gets to where it runs."""

    lane: Lane | None
    """Whose workers run it; None: the event loop, which takes thousands."""
    phase: Lane
    """What caps count it as."""
    is_held: bool = False
    """Whether its resource is held already: it waits for caps only, and goes before others."""


_LOOP_PREPARE, _LOOP_MAIN = Way(None, Lane.PREPARE), Way(None, Lane.MAIN)
_LOOP_HELD = Way(None, Lane.PREPARE, is_held=True)
_PREPARE, _HELD = Way(Lane.PREPARE, Lane.PREPARE), Way(Lane.PREPARE, Lane.PREPARE, is_held=True)
_MAIN = Way(Lane.MAIN, Lane.MAIN)
ABORT, ABORT_ON_LOOP = Way(Lane.ABORT, Lane.ABORT), Way(None, Lane.ABORT)
"""For ``on_abort``, which waits for nothing."""
_KEYS: dict[Way, tuple[Lane, ...]] = {_PREPARE: (Lane.PREPARE,), _MAIN: (Lane.MAIN,)}
"""What is counted of hooks that go these ways where no cap counts them: of the others, nothing."""


class _HookLine(Line):
    """A line whose hooks all go the same way."""

    __slots__ = ("way",)

    way: Way


class Intake:
    """One operation's lines of ready hooks. The control thread only.

    Args:
        planned: The operation.
        runners: Where calls go.
        admission: Lets hooks in.
        caps: What the admission knows caps of.
        paths: What lies ahead of each resource; None where nothing depends on anything.
        wake: Called when hooks got in through another operation's turn.
    """

    def __init__(
        self,
        planned: PlannedOperation,
        runners: Runners,
        admission: Admission,
        caps: Caps,
        paths: PathsAhead | None,
        wake: Callable[[], None],
    ) -> None:
        self._planned, self._kinds, self._runners = planned, planned.hook_kinds, runners
        self._admission, self._caps, self._paths, self._wake = admission, caps, paths, wake
        self._has_caps = bool(caps)
        self._told: Callable[[], None] = self._granted  # one for all lines
        self._lines: dict[Hashable, _HookLine] = {}
        self.arrived: list[int] = []
        """Hooks that may run and are not in their lines yet; added to from outside."""
        self._inside: dict[int, _HookLine] = {}
        self._is_admitting = False
        self._has_moved = False
        """Whether a hook of its own has left, or got in, since it was last looked at."""
        self._calls: dict[Way, list[Attempt]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no hook waits to get in."""
        lines = self._lines.values()
        return not self.arrived and not any(line.waiting or line.granted for line in lines)

    @property
    def places(self) -> int:
        """How many of its hooks are in, as the admission knows."""
        return sum(line.inside for line in self._lines.values())

    def admit(self, now: float) -> list[int]:
        """Return the hooks that get in, at *now* in seconds."""
        if not (self._has_moved or self.arrived):
            return []
        self._has_moved = False
        for line in self._lines.values():
            if line.leaving:
                self._admission.leave(line, line.leaving)
                line.leaving = 0
        if self.arrived:
            self._line_up()
        self._is_admitting = True
        self._admission.pump(now)
        self._is_admitting = False
        admitted: list[int] = []
        for line in self._lines.values():
            if line.granted:
                granted = self._take(line)
                admitted += granted
                self._inside.update(dict.fromkeys(granted, line))
        return admitted

    @property
    def has_more(self) -> bool:
        """Whether there may be more for :meth:`admit` to return."""
        return self._has_moved

    def way(self, hook: int) -> Way | None:
        """Return how *hook* gets to where it runs; None if it is not in, or not any more."""
        line = self._inside.get(hook)
        return None if line is None else line.way

    def leave(self, hook: int, took: float | None = None) -> None:
        """Make room for another hook, by the next :meth:`admit`: *hook*, which was in, has ended.

        Args:
            hook: Which hook.
            took: Seconds that its body took, if that is to be learned from.
        """
        line = self._inside.pop(hook, None)
        if line is not None:
            self._has_moved = True
            line.leaving += 1
            if took is not None:
                line.ended += 1
                line.spent += took

    def room(self, hook: int) -> int:
        """Return how many hooks that go *hook*'s way would get in at once."""
        line = self._line(hook)
        if line.waiting:
            return 0
        return (self._admission.room(line) if line.keys else WINDOW) - len(self.arrived)

    def clear(self) -> list[int]:
        """Turn all that waits away; return it."""
        self._has_moved = True
        self._line_up()
        return [hook for line in self._lines.values() for hook in self._admission.clear(line)]

    def close(self, now: float) -> None:
        """Give all places back, at *now* in seconds: the operation has ended, however."""
        for line in self._lines.values():
            self._admission.remove(line)
        self._lines, self._inside, self._told = {}, {}, _nobody
        self._admission.pump(now)

    def add_call(self, attempt: Attempt, way: Way) -> None:
        """Gather *attempt* for those that *way* leads to."""
        calls = self._calls.get(way)
        if calls is None:
            calls = self._calls[way] = []
        calls.append(attempt)

    def hand_on(self) -> None:
        """Give the calls that were gathered to the workers."""
        if not self._calls:
            return
        gathered, self._calls = self._calls, {}
        for way, calls in gathered.items():
            if way.lane is None:
                is_urgent = way.is_held or way is ABORT_ON_LOOP
                self._runners.submit_async(calls, is_urgent=is_urgent)
            else:
                self._runners.submit(way.lane, calls, first=way.is_held)

    def abandon(self, attempt: Attempt) -> None:
        """Give up *attempt*, wherever it runs."""
        self._runners.abandon(attempt.lane, attempt)

    def run_apart(self, call: Call) -> None:
        """Have a worker run *call*, which is no hook. Any thread."""
        self._runners.submit(Lane.RECORD, [call])

    def _take(self, line: _HookLine) -> Sequence[int]:
        """Take what is granted, but not so much that others wait for long: the loop has no window."""
        granted, line.granted = line.granted, ()
        if len(granted) <= WINDOW:
            return granted
        line.granted = granted if isinstance(granted, deque) else deque(granted)
        self._has_moved = True
        return [line.granted.popleft() for _ in range(WINDOW)]

    def _line_up(self) -> None:
        """Have the hooks that arrived wait in their lines, those with the longest way ahead first."""
        arrived, self.arrived = self.arrived, []
        kinds, paths = self._kinds, self._paths
        gathered: dict[int, list[int]] = {}
        """Of each line that no cap counts: its entries, by what :meth:`_way` looks at."""
        lined: dict[_HookLine, list[int]] = {}
        for hook in arrived:
            kind = hook % HOOKS_PER_RESOURCE
            # The later of two hooks first: what is nearly done is done, and gives up what it has.
            entry = (COMPLETE - kind) << HOOK_BITS | hook
            if paths is not None:
                ahead = paths.from_begin if kind == PREPARE_BEGIN else paths.from_finish
                entry |= (_LONGEST - ahead[hook // HOOKS_PER_RESOURCE]) << (HOOK_BITS + _KIND_BITS)
            known = kinds[hook] << _KIND_BITS | kind
            if kind == PREPARE_FINISH and kinds[hook - 1]:
                known = -known
            entries = gathered.get(known)
            if entries is None:
                entries = lined.setdefault(self._line(hook), [])
                if not self._has_caps:
                    gathered[known] = entries
            entries.append(entry)
        for line, entries in lined.items():
            self._admission.add(line, entries)

    def _way(self, hook: int) -> Way:
        kind = hook % HOOKS_PER_RESOURCE
        if self._kinds[hook] == ASYNC:
            ways = (_LOOP_PREPARE, _LOOP_HELD, _LOOP_MAIN)
        else:
            ways = (_PREPARE, _HELD, _MAIN)
        if kind >= MAIN:
            return ways[2]
        return ways[kind == PREPARE_FINISH and self._kinds[hook - 1] != 0]

    def _line(self, hook: int) -> _HookLine:
        if self._has_caps:
            return self._capped_line(hook)
        way = self._way(hook)
        return self._lines.get(way) or self._new_line(way, way, ())

    def _capped_line(self, hook: int) -> _HookLine:
        way = self._way(hook)
        resource = hook // HOOKS_PER_RESOURCE
        resource_type, name = self._planned.graph.nodes[resource].type, str(hook_name(hook))
        groups = _groups(self._planned.operations[resource])
        known = (way, resource_type, name, groups)
        return self._lines.get(known) or self._new_line(
            known,
            way,
            (
                *(
                    (("type", resource_type, way.phase),)
                    if resource_type in self._caps.types
                    else ()
                ),
                *((("hook", name),) if name in self._caps.hooks else ()),
                *(("group", group, way.phase) for group in groups if group in self._caps.groups),
            ),
        )

    def _new_line(self, known: Hashable, way: Way, caps: tuple[Hashable, ...]) -> _HookLine:
        keys: tuple[Hashable, ...] = _KEYS.get(way, ())
        line = _HookLine((*keys, *caps) if caps else keys, self._told, is_urgent=way.is_held)
        line.way = way
        self._lines[known] = line
        return line

    def _granted(self) -> None:
        if not self._is_admitting:
            self._has_moved = True
            self._wake()


def _nobody() -> None:
    """Hear of nothing."""


def _groups(operation: object) -> tuple[str, ...]:
    """Return the named groups that an Operation's hooks count against."""
    groups: Any = getattr(operation, "cap_groups", ())  # names, as was checked when it was planned
    return (groups,) if isinstance(groups, str) else tuple(dict.fromkeys(groups))
