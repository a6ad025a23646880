"""Which ready hooks get in, over all operations: caps, windows, fairness. Pure: a table.

Ready hooks wait in *lines*: those of one operation that count against the same keys (a lane, a
capped type, a capped group) stand in one line. A hook gets in when each of its keys has room;
it takes all of them at once or none, so that none waits while it holds one: no deadlock. Lines
take turns, a hook each (or a batch of short ones), so that operations share what is scarce; within a line the hook with
the longest path ahead is first. A line whose turn it is although a key is full is parked there,
and the first one parked goes when a place is given back; one that has been turned away too often
has the places that it needs kept free: no starvation.

A lane's *window* is how many hooks are in at once, running or queued at a worker. Short hooks come
in large batches; of long ones hardly more are in than there are workers, since what is queued there
is out of reach for whoever has a longer path ahead, and for other operations' turns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, MutableSequence, Sequence

_QUEUE_SECONDS = 1e-5
"""A worker whose hooks take s seconds has as many queued as s goes into this over s: a thousand for
16 workers at no-op hooks, one in ten workers at hooks of ten milliseconds."""
_MEASURED = 0.02
"""Seconds over which hooks are measured, unless so many end that it is known sooner."""
_ENOUGH = 4
"""Hooks for each worker: so many say how long one takes. The first batches are small until then."""
_NOTHING = 1e-6
"""Seconds that a hook is taken to last at the least."""
_TURNS_OF_A_WINDOW = 8
"""So many lines at least share a window, if there are as many."""
_PATIENCE = 16
"""How often a line is turned away before places are kept for it."""
HOOK_BITS = 32
"""An entry's low bits are the hook; what is above them orders a line, smallest first."""
_HOOK = (1 << HOOK_BITS) - 1


@dataclass(slots=True)
class _Key:
    """What hooks count against."""

    limit: int
    inside: int = 0
    workers: int = 0
    """Of a window: who takes what is in; 0: the limit is fixed."""
    ceiling: int = 0
    ended: int = 0
    """Hooks that were measured since the window was last fitted to them."""
    spent: float = 0.0
    """Seconds that those took on their workers, in all."""
    measured_at: float = 0.0
    """When it was last fitted, or the first of those ended."""

    @property
    def quantum(self) -> int:
        """How many hooks of a line come in at one turn: short ones in batches, or each is costly."""
        return max(1, self.limit // _TURNS_OF_A_WINDOW) if self.workers else 1


class Line:
    """The ready hooks of one operation that count against the same keys.

    Args:
        keys: The keys, each of which has a limit.
        wake: Called when hooks got in; they are in :attr:`granted`.
        is_urgent: Whether its hooks go before those of other lines.
    """

    __slots__ = (
        "ended",
        "granted",
        "inside",
        "is_queued",
        "is_urgent",
        "keys",
        "leaving",
        "refused",
        "spent",
        "waiting",
        "wake",
    )

    def __init__(
        self, keys: tuple[Hashable, ...], wake: Callable[[], None], *, is_urgent: bool = False
    ) -> None:
        self.keys, self.wake, self.is_urgent = keys, wake, is_urgent
        # Lists once there is something in them: most lines of most operations are empty.
        self.waiting: Sequence[int] = ()
        """A heap of entries."""
        self.granted: MutableSequence[int] | tuple[()] = ()
        """Hooks that are in and not taken yet."""
        self.inside = 0
        """How many are in, taken or not."""
        self.leaving = 0
        """How many of those have ended, for whoever gathers them to call :meth:`Admission.leave`."""
        self.ended, self.spent = 0, 0.0
        """How many of those were measured, and the seconds that they took on their workers."""
        self.is_queued = False
        """Whether it has its turn to come, or is parked."""
        self.refused = 0


class Admission:
    """Lets hooks in. The control thread only."""

    def __init__(self) -> None:
        self._keys: dict[Hashable, _Key] = {}
        self._windows: list[_Key] = []
        self._parked: dict[Hashable, deque[Line]] = {}
        self._turns: deque[Line] = deque()
        self._urgent: deque[Line] = deque()
        self._favoured: Line | None = None
        """The line for which places are kept."""

    def set_cap(self, key: Hashable, limit: int) -> None:
        """Let at most *limit* hooks with *key* in at once."""
        self._keys[key] = _Key(limit)
        self._parked[key] = deque()

    def set_window(self, key: Hashable, workers: int, ceiling: int) -> None:
        """Let as many hooks with *key* in as keep *workers* busy, at most *ceiling* if that is more."""
        self.set_cap(key, workers)
        window = self._keys[key]
        window.workers, window.ceiling = workers, max(workers, ceiling)
        self._windows.append(window)

    def add(self, line: Line, entries: list[int]) -> None:
        """Have the hooks in *entries* wait in *line*."""
        if isinstance(line.waiting, list):
            for entry in entries:
                heappush(line.waiting, entry)
        else:
            line.waiting = sorted(entries)  # which is a heap
        if not line.is_queued:
            self._queue(line)

    def pump(self, now: float) -> None:
        """Let in what there is room for, at *now* in seconds, and wake whose it is."""
        for window in self._windows:
            if window.ended >= _ENOUGH * window.workers:
                _adjust(window, now)
            elif window.ended and not window.measured_at:
                window.measured_at = now
            elif window.ended and now - window.measured_at >= _MEASURED:
                _adjust(window, now)
        woken: dict[int, Line] = {}
        while turns := self._urgent or self._turns:
            line = turns.popleft()
            line.is_queued = False
            full = self._full(line) if line.waiting else None
            if full is not None:
                self._park(line, full)
            elif line.waiting:
                room = self.room(line)
                self._grant(line, min(room, self._quantum(line)) if turns else room)
                woken[id(line)] = line
                if line.waiting:
                    self._queue(line)
        for line in woken.values():
            line.wake()

    def leave(self, line: Line, count: int = 1) -> None:
        """Give the places of *count* hooks of *line* back; :meth:`pump` lets others in."""
        line.inside -= count
        for key in line.keys:
            found = self._keys[key]
            found.inside -= count
            found.ended += line.ended
            found.spent += line.spent
            self._unpark(key)
        line.ended, line.spent = 0, 0.0

    def clear(self, line: Line) -> list[int]:
        """Turn all that waits in *line*, or is in and not taken, away; return it."""
        granted, line.granted = line.granted, ()
        waiting, line.waiting = line.waiting, ()
        if granted:
            self.leave(line, len(granted))
        if line is self._favoured:
            self._favour(None)
        return [*granted, *(entry & _HOOK for entry in sorted(waiting))]

    def remove(self, line: Line) -> None:
        """Forget *line* and give all its places back: its operation has ended."""
        self.clear(line)
        line.leaving = 0
        self.leave(line, line.inside)

    def _grant(self, line: Line, most: int) -> None:
        """Let *most* hooks of *line* in, or all that wait."""
        waiting = line.waiting
        count = min(most, len(waiting))
        for key in line.keys:
            self._keys[key].inside += count
        line.inside += count
        line.refused = 0
        if count == len(waiting):
            granted = [entry & _HOOK for entry in sorted(waiting)]
            line.waiting = ()
        else:
            heap = cast("list[int]", waiting)
            granted = [heappop(heap) & _HOOK for _ in range(count)]
        if line.granted:
            line.granted.extend(granted)
        else:
            line.granted = granted
        if line is self._favoured:
            self._favour(None)

    def room(self, line: Line) -> int:
        """Return how many hooks of *line* may come in now, apart from other lines' turns."""
        if self._favoured is not None:
            return 1
        if len(line.keys) == 1:  # nearly all: no cap counts them
            found = self._keys[line.keys[0]]
            return found.limit - found.inside
        keys = [self._keys[key] for key in line.keys]
        return min((key.limit - key.inside for key in keys), default=len(line.waiting))

    def _quantum(self, line: Line) -> int:
        """Return how many hooks of *line* come in at one turn."""
        if len(line.keys) == 1:
            return self._keys[line.keys[0]].quantum
        keys = [self._keys[key] for key in line.keys]
        return min((key.quantum for key in keys), default=len(line.waiting))

    def _full(self, line: Line) -> Hashable | None:
        """Return a key of *line* that has no room for it, or None."""
        favoured = self._favoured
        kept = favoured.keys if favoured is not None and favoured is not line else ()
        for key in line.keys:
            found = self._keys[key]
            room = found.limit - found.inside
            if room <= 0 or (kept and key in kept and not line.is_urgent):
                return key
            if room < len(line.waiting) and room < self._least(line, found):
                return key
        return None

    def _least(self, line: Line, found: _Key) -> int:
        """Return how many hooks of *line* come in together at least.

        All of a turn's where the workers have enough to do meanwhile: places that are given back by
        ones and twos would be taken by ones and twos, and each of those costs a turn of its own.
        """
        if found.inside < found.workers or line.refused > _PATIENCE:
            return 1
        return min(len(line.waiting), self._quantum(line))

    def _queue(self, line: Line) -> None:
        line.is_queued = True
        (self._urgent if line.is_urgent else self._turns).append(line)

    def _park(self, line: Line, full: Hashable) -> None:
        line.is_queued = True
        line.refused += 1
        if line.is_urgent:
            self._parked[full].appendleft(line)
        else:
            self._parked[full].append(line)
        if line.refused > _PATIENCE and self._favoured is None and len(line.keys) > 1:
            self._favour(line)
        if line is not self._favoured:
            for key in line.keys:  # it does not take what it was unparked for: others may
                if key != full:
                    self._unpark(key)

    def _unpark(self, key: Hashable) -> None:
        """Give the first line that is parked at *key* its turn, if there is room; or the favoured."""
        favoured, parked, found = self._favoured, self._parked[key], self._keys[key]
        if favoured is not None and key in favoured.keys:
            if self._full(favoured) is None:
                for other in favoured.keys:
                    if favoured in self._parked[other]:
                        self._parked[other].remove(favoured)
                        self._queue(favoured)
            if not (parked and parked[0].is_urgent):  # a thaw goes before all others
                return
        room = found.limit - found.inside
        is_kept = favoured is not None and key in favoured.keys
        while parked and room > 0 and (parked[0].is_urgent or not is_kept):
            line = parked[0]
            if room < self._least(line, found):
                line.refused += 1
                return
            parked.popleft()
            line.is_queued = False
            if line.waiting:
                self._queue(line)
                room -= min(len(line.waiting), self._quantum(line))

    def _favour(self, line: Line | None) -> None:
        """Keep places for *line*, or, with None, for nobody any more."""
        before, self._favoured = self._favoured, line
        if line is None and before is not None:
            for key in before.keys:
                self._unpark(key)


def _adjust(window: _Key, now: float) -> None:
    """Fit a window to how long hooks take.

    Not to how fast they leave it, which says how busy the control thread is: what is in would be
    few while many small operations are under way, and each of them would get on by single hooks.
    """
    each = max(window.spent / window.ended, _NOTHING)
    queued = int(window.workers * _QUEUE_SECONDS / (each * each))
    window.limit = min(window.workers + queued, window.ceiling)
    window.ended, window.spent, window.measured_at = 0, 0.0, now
