"""What a signal's handler may call, wherever its thread is: it comes between any two of its steps."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import textwrap
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest

from helpers import DEADLINE
from karbor_actors import Bank, ProtectionService
from karbor_actors.actors import ThreadDispatcher
from karbor_actors.actors.uninterrupted import done_aside
from karbor_actors.errors import ServiceClosedError
from karbor_actors.testing import make_graph, synthetic_plan, synthetic_provider

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

GRAPH = make_graph("flat", 1)
PLAN = synthetic_plan(GRAPH)


def handled_at(number: int, function: Callable[[], object], handle: Callable[[], object]) -> bool:
    """Call *function*, and *handle* where a signal would be seen so many times; return whether it was."""
    seen, places = count(), list[int]()

    def see(frame: FrameType, event: str, _argument: object) -> None:
        if event not in ("call", "c_return") or "karbor_actors" not in frame.f_code.co_filename:
            return
        if next(seen) == number:
            sys.setprofile(None)
            places.append(number)
            handle()

    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(None)
    return bool(places)


def opened(path, name="synthetic") -> ProtectionService:
    """Return a service with one provider."""
    service = ProtectionService(workers=2)
    service.add_provider(synthetic_provider(GRAPH, bank=Bank.open(path), name=name))
    return service


def test_another_errand_is_run_while_the_first_thread_is_started():
    number, is_handled = 0, True
    while is_handled:
        dispatcher, done = ThreadDispatcher(name="test"), []
        ask = partial(dispatcher.uninterrupted, lambda done=done: done.append(1))
        is_handled = handled_at(number, ask, ask)
        assert len(done) == 1 + is_handled, f"at {number}"
        dispatcher.close(timeout=DEADLINE)
        number += 1
    assert number > 10


def test_the_first_operation_is_begun_while_another_one_is(tmp_path):
    number, is_handled = 0, True
    while is_handled:
        with opened(tmp_path / "bank") as service:
            begin = partial(service.protect, PLAN)
            is_handled = handled_at(number, begin, lambda begin=begin: begin().result(DEADLINE))
        number += 1
    assert number > 10


@pytest.mark.parametrize("call", ["protect", "close"])
def test_the_service_is_closed_while_its_thread_is_in_a_call(tmp_path, call):
    number, is_handled = 0, True
    while is_handled:
        service = opened(tmp_path / "bank")
        service.protect(PLAN).result(DEADLINE)
        use = {"protect": partial(service.protect, PLAN), "close": service.close}[call]
        with suppress(ServiceClosedError):  # an operation that was not begun before it
            is_handled = handled_at(number, use, service.close)
        service.close()
        number += 1
    assert number > 10


def test_a_provider_is_added_while_an_operation_is_begun(tmp_path):
    number, is_handled = 0, True
    with opened(tmp_path / "bank") as service:
        while is_handled:
            name = f"other {number}"
            other = synthetic_provider(GRAPH, bank=Bank.open(tmp_path / name), name=name)
            add = partial(service.add_provider, other)
            is_handled = handled_at(number, partial(service.protect, PLAN), add)
            if not is_handled:
                other.bank.close()
            number += 1
    assert number > 10


def test_what_is_done_aside_has_the_callers_context():
    variable = contextvars.ContextVar("variable", default="")
    variable.set("the caller's")
    assert done_aside(variable.get) == "the caller's"


def test_a_module_that_is_being_imported_may_open_and_close_a_bank(tmp_path):
    """Whatever the bank's thread wants of that module, it would wait for the import."""
    (tmp_path / "app.py").write_text(
        textwrap.dedent(
            """
            from karbor_actors import Bank
            from karbor_actors.store.local import LocalStore

            class Store(LocalStore):
                def close(self):
                    import app
                    super().close()

            Bank.open("bank", objects=Store("objects")).close()
            """
        )
    )
    command = [sys.executable, "-c", "import app; print('imported')"]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert run.stdout == "imported\n"
