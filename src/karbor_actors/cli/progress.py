"""How an operation's progress looks: a live tree, plain lines, or JSON lines."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from karbor_actors.cli.output import json_text
from karbor_actors.cli.rates import Rates
from karbor_actors.cli.text import (
    SHORT,
    human_bytes,
    human_count,
    human_seconds,
    iso_time,
    looking,
    shown,
)
from karbor_actors.cli.tree import TreeView

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors import Bank, OperationHandle
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.output import Output
    from karbor_actors.operations.results import Event, Progress

_PLAIN_EVERY = 5.0
"""Seconds between two lines where nobody watches a terminal."""
_JSON_EVERY = 1.0


class View(Protocol):
    """Shows one operation's progress on stderr."""

    def update(self, progress: Progress) -> None:
        """Show how far it is; called often, on the main thread."""

    def event(self, event: Event) -> None:
        """Note what happened; called on a thread of its own."""

    def message(self, text: str) -> None:
        """Say something; on the main thread."""

    def close(self) -> None:
        """Leave the terminal as it was; on the main thread."""


def make_view(invocation: Invocation, handle: OperationHandle, bank: Bank | None) -> View:
    """Return the view that the options and the terminal call for."""
    output, kind = invocation.output, invocation.progress
    if kind == "none" or (kind == "auto" and output.is_json):
        return NoView(output)
    if kind == "json":
        return JsonView(handle)
    if kind == "auto" and output.err.is_terminal:
        return TreeView(output, handle, bank)
    return PlainView(output, handle)


class NoView:
    """Shows nothing but messages."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def update(self, progress: Progress) -> None:
        """Show nothing."""

    def event(self, event: Event) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Print *text*."""
        self._output.note(text)

    def close(self) -> None:
        """Do nothing."""


class PlainView:
    """Prints a line when the status changes or a hook fails, and every few seconds."""

    def __init__(
        self,
        output: Output,
        handle: OperationHandle,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output, self._handle, self._clock = output, handle, clock
        self._status = "queued"
        self._failures = 0
        self._printed_at = clock()
        self._rates = Rates(clock)

    def update(self, progress: Progress) -> None:
        """Print what is new."""
        self._rates.update(progress.running)
        if str(progress.status) != self._status:
            self._status = str(progress.status)
            self._line("started" if self._status == "running" else self._status)
        for failure in progress.failures[self._failures :]:
            self._line(failure)
        self._failures = len(progress.failures)
        now = self._clock()
        if now - self._printed_at >= _PLAIN_EVERY:
            self._printed_at = now
            self._line(self._summary(progress))

    def event(self, event: Event) -> None:
        """Print nothing: what matters is in the progress."""

    def message(self, text: str) -> None:
        """Print *text*."""
        self._line(text)

    def close(self) -> None:
        """Do nothing."""

    def _summary(self, progress: Progress) -> str:
        if progress.looked_up is not None:
            return looking(progress.looked_up)
        parts = [f"{progress.hooks_done:,} of {progress.hooks_total:,} hooks done"]
        parts.append(f"{len(progress.running):,} running")
        if len(progress.running) == 1:
            [running] = progress.running
            parts.append(f"{running.hook} of {running.resource[0]}#{running.resource[1]}")
            if running.done:
                parts.append(human_count(running.done, running.unit))
        elif total := sum(r.done for r in progress.running if r.unit == "bytes"):
            parts.append(human_bytes(total))
        if rate := self._rates.bytes_per_second(progress.running):
            parts.append(f"{human_bytes(rate)}/s")
        if len(progress.running) == 1 and (left := self._rates.time_left(progress.running[0])):
            parts.append(f"{human_seconds(left)} left")
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        self._output.note(f"{self._handle.type} {self._handle.id[:SHORT]}: {shown(text)}")


class JsonView:
    """Prints each event, and the progress once a second, as a line of JSON."""

    def __init__(
        self, handle: OperationHandle, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._operation = handle.id
        self._clock, self._printed_at = clock, float("-inf")

    def update(self, progress: Progress) -> None:
        """Print the progress, if a second has gone by."""
        now = self._clock()
        if now - self._printed_at < _JSON_EVERY:
            return
        self._printed_at = now
        running = [
            {
                "resource": list(one.resource),
                "hook": str(one.hook),
                "attempt": one.attempt,
                "started_at": iso_time(one.started_at),
                "done": one.done,
                "total": one.total,
                "unit": one.unit,
            }
            for one in progress.running
        ]
        self._write(
            "progress",
            status=str(progress.status),
            hooks_done=progress.hooks_done,
            hooks_total=progress.hooks_total,
            looked_up=progress.looked_up,
            running=running,
        )

    def event(self, event: Event) -> None:
        """Print *event*."""
        resource = None if event.resource is None else list(event.resource)
        hook = None if event.hook is None else str(event.hook)
        self._write(
            event.kind, at=iso_time(event.at), resource=resource, hook=hook, detail=event.detail
        )

    def message(self, text: str) -> None:
        """Print *text* as an event."""
        self._write("message", text=text)

    def close(self) -> None:
        """Do nothing."""

    def _write(self, kind: str, **fields: Any) -> None:
        # One write for the whole line: events come from another thread.
        line = json_text({"event": kind, "operation": self._operation, **fields})
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
