"""The live tree: each resource with its hook, how far it is, its rate and the time left."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from karbor_actors.cli.rates import Rates
from karbor_actors.cli.text import SHORT, human_count, human_seconds, looking, plural, shown
from karbor_actors.errors import KarborError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from karbor_actors import Bank, OperationHandle
    from karbor_actors.cli.output import Output
    from karbor_actors.errors import ResourceKey
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.operations.results import Event, Progress, ResourceProgress

WHOLE_TREE = 50
"""Resources up to which each is shown; beyond, only those that have a running hook."""
_SHOWN_RUNNING = 15
_WIDE = 70
"""Columns from which on rates and the time left are shown."""
_LEAST_LABEL = 16
"""Columns that resources' names have even where the terminal is narrow."""
_STYLES = {"failed": "red", "done": "green", "undone": "yellow", "waiting": "dim"}
_STATES = {
    "hook_completed": "done",
    "hook_failed": "failed",
    "aborted": "undone",
    "abort_failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One resource's place in the tree as it is drawn."""

    key: ResourceKey
    branch: str
    """The lines that lead to it."""
    label: str


def tree_lines(graph: ResourceGraph) -> Iterator[Line]:
    """Yield each resource once, depth first, with the branches that lead to it.

    A child of several parents is drawn below the first one that is met.
    """
    seen: set[int] = set()
    # (number, the branch before it, whether it is the last child); no recursion: a chain is long.
    waiting = [(number, "", True, True) for number in reversed(graph.roots)]
    while waiting:
        number, before, is_last, is_root = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        resource = graph.nodes[number]
        branch = "" if is_root else before + ("└─ " if is_last else "├─ ")
        yield Line(resource.key, branch, label_of(resource.key, resource.name))
        below = "" if is_root else before + ("   " if is_last else "│  ")
        children = [child for child in graph.children(number) if child not in seen]
        waiting.extend((child, below, child == children[-1], False) for child in reversed(children))


def label_of(key: ResourceKey, name: str = "") -> str:
    """Return what a resource is called where there is little room: its type's end, and name."""
    return f"{shown(key[0].rpartition('::')[2])} {shown(name or key[1])}"


class TreeView:
    """A live display on a terminal.

    Args:
        output: Where to print.
        handle: The operation.
        bank: Where its checkpoint, which has the graph, is or will be; None draws no tree.
    """

    def __init__(self, output: Output, handle: OperationHandle, bank: Bank | None) -> None:
        self._handle, self._bank, self._output = handle, bank, output
        self._rates = Rates()
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._states: dict[ResourceKey, str] = {}
        """By resource: what happened last, and to which hook."""
        self._lines: list[Line] | None = None
        self._graph: ResourceGraph | None = None
        self._message = ""
        self._live = Live(console=output.err, auto_refresh=False, transient=True)
        self._live.start()

    def update(self, progress: Progress) -> None:
        """Draw the display anew."""
        self._rates.update(progress.running)
        if self._lines is None:
            self._read_graph()
        self._live.update(self._render(progress), refresh=True)

    def event(self, event: Event) -> None:
        """Remember what happened to a resource."""
        if event.resource is None or event.hook is None or event.kind not in _STATES:
            return
        with self._lock:
            self._states[event.resource] = f"{event.hook} {_STATES[event.kind]}"

    def message(self, text: str) -> None:
        """Show *text* below the tree from now on."""
        self._message = text

    def close(self) -> None:
        """Remove the display."""
        self._live.stop()
        if self._message:
            self._output.note(self._message)

    def _read_graph(self) -> None:
        if self._handle.checkpoint_id is None or self._bank is None:
            return
        try:
            graph = self._bank.checkpoint(self._handle.checkpoint_id).resource_graph
        except KarborError as error:  # the operation itself meets it too and says so
            self._message = str(error)
            self._lines = []
            return
        self._graph = graph
        self._lines = list(tree_lines(graph)) if len(graph) <= WHOLE_TREE else []

    def _label(self, key: ResourceKey) -> str:
        graph = self._graph
        name = "" if graph is None else graph.nodes[graph.number(key)].name
        return label_of(key, name)

    @property
    def _is_wide(self) -> bool:
        """Whether the terminal has room for rates."""
        return self._output.err.width >= _WIDE

    def _render(self, progress: Progress) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0), expand=False)
        grid.add_column(min_width=_LEAST_LABEL)  # the one that is cut first: its cells say so
        for _ in range(2):
            grid.add_column(no_wrap=True)
        if self._is_wide:
            for _ in range(2):
                grid.add_column(no_wrap=True, justify="right")
        running = {one.resource: one for one in progress.running}
        if self._lines:
            for line in self._lines:
                self._add_row(grid, line, running.get(line.key))
        else:
            for one in progress.running[:_SHOWN_RUNNING]:
                self._add_row(grid, Line(one.resource, "", self._label(one.resource)), one)
        page = Table.grid()
        page.add_row(self._header(progress))
        page.add_row(grid)
        if len(progress.running) > _SHOWN_RUNNING and not self._lines:
            more = len(progress.running) - _SHOWN_RUNNING
            page.add_row(Text(f"and {more:,} more running", "dim"))
        for failure in progress.failures[-3:]:
            page.add_row(Text(shown(failure), "red", overflow="fold"))
        if self._message:
            page.add_row(Text(self._message, "yellow"))
        return page

    def _header(self, progress: Progress) -> Text:
        text = Text(f"{self._handle.type} {self._handle.id[:SHORT]}  ", "bold")
        text.append(str(progress.status), "not bold cyan")
        if progress.looked_up is not None:
            text.append(f"  {looking(progress.looked_up)}", "not bold")
        if progress.hooks_total:
            hooks = f"  {progress.hooks_done:,} of {progress.hooks_total:,} hooks"
            text.append(hooks, "not bold")
        count = 0 if self._graph is None else len(self._graph)
        if count > WHOLE_TREE:
            text.append(f"  {plural(count, 'resource')}", "not bold")
        text.append(f"  {human_seconds(time.monotonic() - self._started)}", "not bold dim")
        text.no_wrap = True
        return text

    def _add_row(self, grid: Table, line: Line, running: ResourceProgress | None) -> None:
        name = Text(line.branch, "dim", no_wrap=True, overflow="ellipsis")
        name.append(line.label, "not dim")
        if running is None:
            with self._lock:
                state = self._states.get(line.key, "waiting")
            style = _STYLES.get(state.rpartition(" ")[2], "")
            grid.add_row(name, Text(state, style))
            return
        hook = Text(str(running.hook), "cyan")
        if running.attempt > 1:
            hook.append(f" (attempt {running.attempt})", "yellow")
        cells: list[RenderableType] = [name, hook, _how_far(running)]
        if self._is_wide:
            rate, left = self._rates.rate(running), self._rates.time_left(running)
            cells.append(f"{human_count(rate, running.unit)}/s" if rate else "")
            cells.append(f"{human_seconds(left)} left" if left else "")
        grid.add_row(*cells)


def _how_far(running: ResourceProgress) -> str:
    if not running.done and running.total is None:
        return ""
    done = human_count(running.done, running.unit)
    if running.total is None:
        return done
    share = f" {running.done / running.total:.0%}" if running.total else ""
    return f"{done} of {human_count(running.total, running.unit)}{share}"
