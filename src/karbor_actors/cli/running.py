"""Waits for an operation: shows its progress, and turns Ctrl-C into a cancel."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from karbor_actors.cli.entry import ENDING
from karbor_actors.cli.progress import make_view
from karbor_actors.cli.text import SHORT, plural
from karbor_actors.errors import KarborError, OperationCancelledError, describe_cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from karbor_actors import Bank, Event, OperationHandle, ProtectionService
    from karbor_actors.cli.invocation import Invocation
    from karbor_actors.cli.progress import View

_POLL = 0.1
"""Seconds between two looks at the progress."""


class Interrupts:
    """Counts the signals that ask the program to end."""

    def __init__(self) -> None:
        self.count = 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1  # acting on it is for the main loop: a handler may take no lock

    @contextmanager
    def caught(self, *, for_good: bool = False) -> Iterator[None]:
        """Count signals, instead of dying of them, for as long as this lasts.

        Args:
            for_good: Whether that is until the process ends.
        """
        before = {number: signal.signal(number, self._handle) for number in ENDING}
        try:
            yield
        finally:
            for number, handler in () if for_good else before.items():
                signal.signal(number, handler)


def run(
    invocation: Invocation,
    start: Callable[[], OperationHandle],
    bank: Bank,
    *,
    is_last: bool = True,
) -> tuple[Any, OperationHandle, float]:
    """Start an operation and wait for its end, however long it takes to undo it.

    Args:
        invocation: Where to print.
        start: Starts the operation.
        bank: Where its checkpoint is or will be.
        is_last: Whether the command only has to say how it ended: then a signal that comes
            after the end changes nothing, since what it asks for is about to happen.

    Returns:
        The operation's result, its handle, and the seconds that it took.

    Raises:
        KarborError: It did not succeed.
    """
    interrupts, started = Interrupts(), time.monotonic()
    with interrupts.caught(for_good=is_last):
        handle = start()
        _watch(invocation, handle, bank, interrupts)
        _warn_of_pending(invocation, handle, bank)
        return handle.result(), handle, time.monotonic() - started


def _warn_of_pending(invocation: Invocation, handle: OperationHandle, bank: Bank) -> None:
    """Say what the operation could not undo."""
    try:
        pending = bank.journal.get(handle.id).abort_pending
    except KarborError:  # it has no record: refused, or of a bank that is only read
        return
    if pending:
        what = plural(pending, "resource is", "resources are")
        invocation.output.note(f"warning: {what} not undone yet; try: karbor-actors recover")


def finish_recovered(invocation: Invocation, service: ProtectionService) -> None:
    """Wait for the operations that an earlier process left and the service took up again.

    What becomes of them is reported; that one fails is its own affair.

    Raises:
        OperationCancelledError: Somebody asked the program to end meanwhile.
    """
    handles = service.recovered
    for handle in handles:
        what = f"the {handle.type} {handle.id[:SHORT]} that an earlier process left unfinished"
        invocation.output.note(f"first: {what}")
    for handle in wait_each(invocation, handles):
        error = handle.exception()
        if error is not None:
            invocation.output.note(f"warning: {describe_cause(error)}")


def wait_each(
    invocation: Invocation, handles: Iterable[OperationHandle]
) -> Iterator[OperationHandle]:
    """Yield each operation once it has ended.

    Raises:
        OperationCancelledError: While iterating: somebody asked the program to end; the
            operation that was waited for is undone.
    """
    interrupts = Interrupts()
    with interrupts.caught():
        for handle in handles:
            _watch(invocation, handle, None, interrupts)
            yield handle
            if interrupts.count:
                raise OperationCancelledError("interrupted before all was done")


def _watch(
    invocation: Invocation, handle: OperationHandle, bank: Bank | None, interrupts: Interrupts
) -> None:
    events = handle.events()  # first of all: it has begun, and what happens unheard is not told
    view = make_view(invocation, handle, bank)
    listener = threading.Thread(target=_listen, args=(events, view), name="karbor-cli-events")
    listener.start()
    seen = 0
    output = _Resilient()
    while not handle.wait(_POLL):
        if (count := interrupts.count) > seen:
            output.call(view.message, _cancel(handle, first=seen == 0))
            seen = count  # one that came meanwhile is for the next round
        output.call(lambda: view.update(handle.progress()))
    listener.join()
    output.call(view.close)


def _listen(events: Iterable[Event], view: View) -> None:
    output = _Resilient()
    for event in events:
        output.call(view.event, event)


def _cancel(handle: OperationHandle, *, first: bool) -> str:
    handle.cancel()
    if first:
        return "cancelling: nothing new starts, what was begun is undone"
    return f"still undoing what was begun, please wait (process {os.getpid()})"


class _Resilient:
    """Calls what prints, until the terminal is gone: an operation is never left for that."""

    def __init__(self) -> None:
        self._is_gone = False

    def call(self, show: Callable[..., None], *arguments: Any) -> None:
        """Call *show*, unless printing failed before."""
        if self._is_gone:
            return
        try:
            show(*arguments)
        except OSError:
            self._is_gone = True
