"""The least that runs hooks on threads and makes each durable: what the interpreter leaves of an ideal."""

from __future__ import annotations

import heapq
import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from baselines import BareCommits, Linked

    _Numbers = queue.SimpleQueue[int | None]


class BareLoop:
    """Runs hooks that sleep, the one with the longest way to the end first, in this thread.

    It has no plugins, no context, no journal of more than a row, no limits, and nothing can be
    cancelled. A thread of its own commits what has ended, all of it at once.

    Args:
        walk: The hooks.
        seconds: How long each sleeps.
        lanes: Which group of workers runs each.
        workers: In each group.
        commits: What is committed to.
    """

    def __init__(
        self,
        walk: Linked,
        seconds: Sequence[float],
        lanes: Sequence[int],
        workers: int,
        commits: BareCommits,
    ) -> None:
        self._walk, self._seconds, self._lanes, self._commits = walk, seconds, lanes, commits
        self._free = dict.fromkeys(lanes, workers)
        self._due: dict[int, _Numbers] = {lane: queue.SimpleQueue() for lane in self._free}
        self._ended: _Numbers = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[tuple[bool, list[int]]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(due,))
            for due in self._due.values()
            for _ in range(workers)
        ]
        self._threads.append(threading.Thread(target=self._commit))

    def run(self) -> float:
        """Run all; return the seconds from the first hook to the last one's commit."""
        for thread in self._threads:
            thread.start()
        began = time.perf_counter()
        self._loop()
        seconds = time.perf_counter() - began
        for due in (*self._due.values(), self._ended):
            for _ in self._threads:
                due.put(None)
        for thread in self._threads:
            thread.join()
        return seconds

    def _loop(self) -> None:
        lanes, free = self._lanes, self._free
        left, waits = self._walk.to_the_end(self._seconds), list(map(len, self._walk.upstream))
        ready: dict[int, list[tuple[float, int]]] = {lane: [] for lane in free}
        found = [number for number, count in enumerate(waits) if not count]
        todo = len(waits)
        while todo:
            for number in found:
                heapq.heappush(ready[lanes[number]], (-left[number], number))
            for lane, waiting in ready.items():
                while waiting and free[lane]:
                    free[lane] -= 1
                    self._due[lane].put(heapq.heappop(waiting)[1])
            found = []
            is_durable, numbers = self._reports.get()
            for number in numbers:
                if not is_durable:
                    free[lanes[number]] += 1
                    continue
                todo -= 1
                for following in self._walk.downstream[number]:
                    waits[following] -= 1
                    if not waits[following]:
                        found.append(following)

    def _work(self, due: _Numbers) -> None:
        while (number := due.get()) is not None:
            time.sleep(self._seconds[number])
            self._ended.put(number)
            self._reports.put((False, [number]))

    def _commit(self) -> None:
        while (first := self._ended.get()) is not None:
            group = [first]
            while not self._ended.empty():
                if (number := self._ended.get()) is not None:
                    group.append(number)
            self._commits.one()
            self._reports.put((True, group))
