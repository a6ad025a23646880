"""A child that was forked from a process with a live service."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE, Gate
from karbor_actors import ProtectionService
from karbor_actors.bank.journal import abort_marks
from karbor_actors.operations import ledger
from kit import RecordingProtection, plan, provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from karbor_actors import OperationHandle, Resource

TOUCHES: dict[str, Callable[[ProtectionService, OperationHandle], Any]] = {
    "protect": lambda service, _: service.protect(plan("other")),
    "restore": lambda service, _: service.restore("0"),
    "operations": lambda service, _: service.operations(),
    "operation": lambda service, handle: service.operation(handle.id),
    "operation_history": lambda service, _: service.operation_history("local"),
    "abort": lambda service, handle: service.abort(handle.id),
    "resume": lambda service, handle: service.resume(handle.id),
    "recovered": lambda service, _: service.recovered,
    "provider": lambda service, _: service.provider("local"),
    "providers": lambda service, _: service.providers,
    "abandoned_threads": lambda service, _: service.abandoned_threads,
    "wait": lambda service, _: service.wait(),
    "close": lambda service, _: service.close(),
    "leaving the block": lambda service, _: service.__exit__(None, None, None),
    "handle.wait": lambda _, handle: handle.wait(),
    "handle.result": lambda _, handle: handle.result(),
    "handle.exception": lambda _, handle: handle.exception(),
    "handle.cancel": lambda _, handle: handle.cancel(),
    "handle.suspend": lambda _, handle: handle.suspend(),
    "handle.progress": lambda _, handle: handle.progress(),
    "handle.events": lambda _, handle: list(handle.events()),
    "handle.add_done_callback": lambda _, handle: handle.add_done_callback(print),
    "await handle": lambda _, handle: asyncio.run(awaiting(handle)),
}


async def awaiting(handle: OperationHandle) -> Any:
    return await handle


def said_by_child(touch: Callable[[], Any]) -> str:
    """Return what *touch* raised in a forked child."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            touch()
            os.write(writes, b"nothing was raised")
        except BaseException as error:
            os.write(writes, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writes)
    try:
        is_ready, _, _ = select.select([reads], [], [], DEADLINE)
        return os.read(reads, 1000).decode() if is_ready else "it hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_that_touches_the_service_or_an_operation_is_told_so(tmp_path, journal):
    gate = Gate()

    def behave(verb: str, hook: str, *_: Any) -> None:
        if hook == "on_main":
            gate.pass_through()

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handle = service.protect(plan("one"))
        gate.wait_entered()
        sys.stdout.flush()
        said = {
            what: said_by_child(lambda touch=touch: touch(service, handle))  # type: ignore[misc]
            for what, touch in TOUCHES.items()
        }
        gate.open()
        assert handle.result(DEADLINE).status == "available", "the parent goes on"
    wrong = {what: text for what, text in said.items() if "ServiceClosedError" not in text}
    assert wrong == {}
    assert all("fork" in text for text in said.values())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_child_that_a_hook_forks_is_told_so_when_it_writes(tmp_path, journal, is_busy):
    """Whatever the bank is doing when it is forked: nobody in the child would ever answer."""
    said: dict[str, str] = {}
    writing, written = threading.Event(), threading.Event()

    def write_long(_: Any) -> None:
        writing.set()
        written.wait(DEADLINE)

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook != "on_main":
            return
        context = call["context"]
        section = call["checkpoint"].get_resource_bank_section(resource)
        context.state["size"] = 4
        if is_busy:
            bank.writer.submit(write_long, lambda _, __: None)
            writing.wait(DEADLINE)
            bank.writer.submit(lambda _: None, lambda _, __: None)  # it is told, and is to come
        for what, touch in {
            "state": context.state.flush,
            "artifact": lambda: context.artifact("snapshot", "s1"),
            "object": lambda: section.update_object("size", 4),
            "stream": lambda: section.write_stream("data", io.BytesIO(b"data")),
        }.items():
            said[what] = said_by_child(touch)
        written.set()

    with ProtectionService(workers=2) as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        bank = service.provider("local").bank
        sys.stdout.flush()
        assert service.protect(plan("one")).result(DEADLINE).status == "available"
    assert said.keys() == {"state", "artifact", "object", "stream"}
    assert [text for text in said.values() if "opened before a fork" not in text] == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("of_marks", [False, True])
def test_a_child_that_begins_anew_finds_no_lock_held(tmp_path, of_marks):
    """What another thread of the parent's held just then nobody would ever give back there."""
    directory = str(tmp_path)
    is_held, may_end = threading.Event(), threading.Event()
    if of_marks:
        abort_marks.prepare(directory, ())
        abort_marks.add(directory, "one")
        held = abort_marks._locks[directory]
    else:
        held = ledger._joining

    def hold() -> None:
        with held:
            is_held.set()
            may_end.wait(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(DEADLINE)

    def begin() -> None:
        if of_marks:
            abort_marks.add(directory, "two")
        elif not ledger._joining.acquire(timeout=1):
            raise TimeoutError

    assert said_by_child(begin) == "nothing was raised"
    may_end.set()
    thread.join(DEADLINE)
