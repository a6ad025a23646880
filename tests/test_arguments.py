"""Rubbish in every argument of the public API: taken with sense, or refused with a sentence."""

from __future__ import annotations

import io
import math
import os
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from helpers import DEADLINE
from karbor_actors import (
    Bank,
    Caps,
    OperationStatus,
    Plan,
    ProtectionService,
    Provider,
    Resource,
    RetryPolicy,
    TimeLimits,
)
from karbor_actors.actors import SimulatedDispatcher, ThreadDispatcher
from karbor_actors.errors import ArgumentError, KarborError
from karbor_actors.testing import FaultPlan, make_graph
from kit import TYPE, Journal, RecordingProtection, plan, provider, store_something, thing

LONGEST = 500
"""Characters of a sentence for a person."""
BEYOND_FLOATS, BEYOND_PRINTING = HUGE = (10**400, 10**5000)


async def _coroutine_function(*_: Any) -> None:
    """Nobody awaits it."""


class Unprintable:
    """Has neither what anything needs, nor a short name."""

    def __init__(self, *_: Any) -> None:
        """Be made of anything, as a class that is called must be."""

    def __repr__(self) -> str:
        return "x" * 100_000


RUBBISH: dict[str, Any] = {
    "None": None,
    "bytes": b"\xff",
    "str": "x",
    "NUL": "a\x00b",
    "negative": -1,
    "nan": math.nan,
    "inf": math.inf,
    "beyond floats": BEYOND_FLOATS,
    "beyond printing": BEYOND_PRINTING,
    "bool": True,
    "coroutine function": _coroutine_function,
    "class": Unprintable,
    "list": [1],
    "object": Unprintable(),
}


class World:
    """A service with a checkpoint, an ended operation and sections: what calls are made on."""

    def __init__(self, service: ProtectionService, directory: Any) -> None:
        self.service, self.directory = service, directory
        plugin = RecordingProtection(Journal(), store_something, ("on_main",))
        service.add_provider(provider(directory / "bank", plugin))
        self.handle = service.protect(plan("one"))
        self.checkpoint = self.handle.result(DEADLINE)
        self.bank = service.provider("local").bank
        made = self.bank.create_checkpoint({}, "p", self.checkpoint.resource_graph)
        self.made, self.section = made, made.get_resource_bank_section(thing("one"))
        self.section.write_stream("base", io.BytesIO(b"abc"))
        self.stream = self.section.open_stream("base")

    def run(self, verb: str, **given: Any) -> None:
        subject = plan("one") if verb == "protect" else self.checkpoint.id
        target = {"to": "local"} if verb == "copy" else {}
        handle = getattr(self.service, verb)(subject, **target | given)
        handle.wait(DEADLINE)

    def provider(self, **given: Any) -> None:
        Provider(**{"name": "x", "bank": self.bank} | given)

    def close(self, timeout: Any) -> None:
        with ProtectionService(workers=1) as service:
            service.close(timeout=timeout)


def service_with(**given: Any) -> None:
    ProtectionService(**given).close()


CALLS: dict[str, Any] = {
    **{
        f"ProtectionService {name}": lambda _, v, name=name: service_with(**{name: v})
        for name in ("workers", "abort_grace", "caps", "engine")
    },
    "add_provider": lambda w, v: w.service.add_provider(v),
    "provider": lambda w, v: w.service.provider(v),
    "operation": lambda w, v: w.service.operation(v),
    "abort": lambda w, v: w.service.abort(v),
    "resume": lambda w, v: w.service.resume(v),
    "operation_history provider": lambda w, v: w.service.operation_history(v),
    "operation_history limit": lambda w, v: w.service.operation_history("local", v),
    "service.wait": lambda w, v: w.service.wait(v),
    "close timeout": World.close,
    **{
        f"{verb} {name}": lambda w, v, verb=verb, name=name: w.run(verb, **{name: v})
        for verb in ("protect", "restore", "verify", "copy")
        for name in ("parameters", "context", "on_failure", "timeout", "deadline")
    },
    **{
        f"{verb} subject": lambda w, v, verb=verb: getattr(w.service, verb)(
            v, **({"to": "local"} if verb == "copy" else {})
        )
        for verb in ("protect", "restore", "verify", "copy", "delete")
    },
    "verify provider": lambda w, v: w.run("verify", provider=v),
    "copy to": lambda w, v: w.run("copy", to=v),
    **{
        f"plan_operation {name}": lambda w, v, name=name: w.service.plan_operation(
            **{"operation_type": "copy", "subject": w.checkpoint.id, "to": "local"} | {name: v}
        )
        for name in ("operation_type", "subject", "provider", "parameters", "on_failure", "to")
    },
    "handle.wait": lambda w, v: w.handle.wait(v),
    "handle.result": lambda w, v: w.handle.result(v),
    "handle.exception": lambda w, v: w.handle.exception(v),
    "add_done_callback": lambda w, v: w.handle.add_done_callback(v),
    "Bank.open": lambda _, v: Bank.open(v).close(),
    "Bank.open objects": lambda w, v: Bank.open(w.directory / "new", objects=v).close(),
    "Bank.open dispatcher": lambda w, v: Bank.open(w.directory / "new", dispatcher=v).close(),
    "ThreadDispatcher threads": lambda _, v: ThreadDispatcher(threads=v).close(),
    "ThreadDispatcher spare": lambda _, v: ThreadDispatcher(spare=v).close(),
    "ThreadDispatcher name": lambda _, v: ThreadDispatcher(name=v).close(),
    "SimulatedDispatcher seed": lambda _, v: SimulatedDispatcher(v),
    "SimulatedDispatcher start": lambda _, v: SimulatedDispatcher(1, start=v),
    "FaultPlan rules": lambda _, v: FaultPlan(v),
    "FaultPlan a rule": lambda _, v: FaultPlan([v]),
    "FaultPlan seed": lambda _, v: FaultPlan(seed=v),
    "make_graph shape": lambda _, v: make_graph(v, 3),
    "make_graph size": lambda _, v: make_graph("flat", v if v not in HUGE else 1),
    "make_graph seed": lambda _, v: make_graph("random", 3, seed=v),
    "make_graph width": lambda _, v: make_graph("tree", 3, width=v),
    "Bank.rebuild": lambda _, v: Bank.rebuild(v),
    "Bank.break_lease": lambda _, v: Bank.break_lease(v),
    "bank.checkpoint": lambda w, v: w.bank.checkpoint(v),
    "bank.backup": lambda w, v: w.bank.backup(v),
    **{
        f"checkpoints {name}": lambda w, v, name=name: w.bank.checkpoints(**{name: v})
        for name in ("plan", "status", "since", "until", "limit", "provider")
    },
    "hold": lambda w, v: w.made.hold(v),
    "release_hold": lambda w, v: w.made.release_hold(v),
    **{
        name: lambda w, v, name=name: getattr(w.checkpoint, name)(v)
        for name in ("get_resource_bank_section", "resource_status", "consistency", "artifacts")
    },
    "update_object": lambda w, v: w.section.update_object(v, 1),
    "update_object value": lambda w, v: w.section.update_object("key", v),
    "update_objects": lambda w, v: w.section.update_objects(v),
    **{
        name: lambda w, v, name=name: getattr(w.section, name)(v)
        for name in (
            "get_object",
            "delete_object",
            "list_objects",
            "get_sub_section",
            "open_stream",
            "list_streams",
            "delete_stream",
            "reuse_stream",
            "copy_to",
        )
    },
    "list_objects limit": lambda w, v: w.section.list_objects(limit=v),
    "list_objects marker": lambda w, v: w.section.list_objects(marker=v),
    "write_stream key": lambda w, v: w.section.write_stream(v, io.BytesIO(b"x")),
    "write_stream readable": lambda w, v: w.section.write_stream("k", v),
    "write_stream base": lambda w, v: w.section.write_stream("k", [], base=v or "nothing"),
    "write_stream size": lambda w, v: w.section.write_stream("k", [], base=w.stream, size=v),
    "write_stream changes": lambda w, v: w.section.write_stream("k", v, base=w.stream),
    "write_stream change": lambda w, v: w.section.write_stream("k", [v], base=w.stream),
    "write_stream offset": lambda w, v: w.section.write_stream("k", [(v, b"")], base=w.stream),
    **{
        f"Provider {name}": lambda w, v, name=name: w.provider(**{name: v})
        for name in (
            "name",
            "bank",
            "protection_plugins",
            "protectables",
            "retry",
            "time_limits",
            "recover",
            "description",
        )
    },
    "Provider a plugin": lambda w, v: w.provider(protection_plugins=[v]),
    "Provider a protectable": lambda w, v: w.provider(protectables=[v]),
    "Provider a retry": lambda w, v: w.provider(retry={"*": v}),
    "Provider a time limit": lambda w, v: w.provider(time_limits={"*": v}),
    **{
        f"TimeLimits {name}": lambda _, v, name=name: TimeLimits(**{name: v})
        for name in ("prepare", "main", "complete", "abort", "max_quiesce")
    },
    **{
        f"RetryPolicy {name}": lambda _, v, name=name: RetryPolicy(**{name: v}).delay(9)
        for name in ("attempts", "backoff", "max_backoff")
    },
    **{
        f"Caps {name}": lambda _, v, name=name: Caps(**{name: v})
        for name in ("types", "hooks", "groups")
    },
    "Caps a cap": lambda _, v: Caps(types={TYPE: v}),
    "Caps a type": lambda _, v: Caps(types={v: 1} if v.__hash__ else v),
    **{
        f"Resource {name}": lambda _, v, name=name: Resource(**{"type": "T", "id": "1"} | {name: v})
        for name in ("type", "id", "name", "extra_info")
    },
    **{
        f"Plan {name}": lambda _, v, name=name: Plan(
            **{"name": "n", "provider": "p", "resources": [thing("one")]} | {name: v}
        )
        for name in ("name", "provider", "resources", "parameters")
    },
    "Plan.from_dict": lambda _, v: Plan.from_dict(v),
    "Resource.from_dict": lambda _, v: Resource.from_dict(v),
}


@pytest.fixture
def world(tmp_path):
    with ProtectionService(workers=2) as service:
        yield World(service, tmp_path)


def fault_of(call: Any, on: Any, given: Any) -> str | None:
    """Return what is wrong with how *call* takes *given*: that it is not refused as ours are."""
    try:
        made = call(on, given)
    except KarborError as error:
        text = str(error)
        return None if 0 < len(text) < LONGEST and "\n" not in text else f"says {text!r}"
    except Exception as error:  # what these tests are about
        return repr(error)
    if hasattr(made, "release"):
        made.release()
    return None


def test_what_an_argument_cannot_be_is_refused_where_it_is_given(world, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    wrong = [
        f"{call}, given {name}: {fault}"
        for call in CALLS
        for name, given in RUBBISH.items()
        if (fault := fault_of(CALLS[call], world, given)) is not None
    ]

    assert wrong == []


FLAGS: dict[str, Any] = {
    "force": lambda w, v: w.service.delete(w.checkpoint.id, force=v),
    "again": lambda w, v: w.service.copy(w.checkpoint.id, to="local", again=v),
    "allow_partial": lambda w, v: w.service.restore(w.checkpoint.id, allow_partial=v),
    "drain": lambda w, v: w.service.close(drain=v),
    "readonly": lambda w, v: Bank.open(w.directory / "new", readonly=v),
    "create": lambda w, v: Bank.open(w.directory / "new", create=v),
}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("given", ["no", 1, None], ids=str)
def test_a_flag_is_true_or_false(world, flag, given):
    """A setting read from a file may be "no", which is true."""
    with pytest.raises(ArgumentError, match=f"{flag} is True or False, not "):
        FLAGS[flag](world, given)

    assert world.bank.checkpoint(world.checkpoint.id).status == "available"
    assert not (world.directory / "new").exists()


HOOK_CALLS: dict[str, Any] = {
    "artifact kind": lambda context, v: context.artifact(v, "name"),
    "artifact name": lambda context, v: context.artifact("kind", v),
    "state_of": lambda context, v: context.state_of(v),
    "report_consistency": lambda context, v: context.report_consistency(v),
    "report_consistency cause": lambda context, v: context.report_consistency("crash", v),
    "progress done": lambda context, v: context.progress(v),
    "progress total": lambda context, v: context.progress(1, v),
    "progress unit": lambda context, v: context.progress(1, 2, v),
    "state key": lambda context, v: context.state.__setitem__(v, 1),
    "state value": lambda context, v: context.state.__setitem__("key", v),
}


def test_what_an_argument_of_a_context_cannot_be_is_refused_where_it_is_given(tmp_path):
    wrong: list[str] = []

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        for what, method in HOOK_CALLS.items():
            for name, given in RUBBISH.items():
                fault = fault_of(method, call["context"], given)
                if fault is not None:
                    wrong.append(f"{what}, given {name}: {fault}")

    with ProtectionService(workers=2) as service:
        plugin = RecordingProtection(Journal(), behave, ("on_main",))
        service.add_provider(provider(tmp_path / "bank", plugin))
        assert service.protect(plan("one")).result(DEADLINE).status == "available"

    assert wrong == []


@pytest.mark.parametrize(
    ("call", "given", "says"),
    [
        (lambda v: ProtectionService(caps=v), {"on_main": 1}, r"caps is a Caps, .*\(dict\)"),
        (lambda v: TimeLimits(main=v), "x", r"main is more than 0 seconds, .*'x' \(str\)"),
        (lambda v: RetryPolicy(attempts=v), True, r"attempts is a whole number, .*True \(bool\)"),
        (
            lambda v: TimeLimits(on_main=v),
            5,
            r"argument of TimeLimits is one of prepare, main, .*, not on_main",
        ),
        (lambda v: Caps(on_main=v), 5, r"argument of Caps is one of types, .*, not on_main"),
        (lambda v: Bank.open("x", dispatcher=v), 5, r"dispatcher is a Dispatcher, .*5 \(int\)"),
        (Bank.open, 5, r"directory is a path, not 5 \(int\)"),
        (lambda v: Provider("x", bank=v), "bank", r"bank is a Bank: .*'bank' \(str\)"),
        (lambda v: Provider("x", bank=v), Bank, r"bank is a Bank: .*\(type\)"),
    ],
)
def test_the_sentence_names_the_argument_its_type_and_what_is_expected(call, given, says):
    with pytest.raises(ArgumentError, match=says) as refused:
        call(given)

    assert isinstance(refused.value, ValueError)
    assert isinstance(refused.value, TypeError)


def test_bytes_for_a_stream_and_a_file_of_text_are_refused_with_advice(world):
    with pytest.raises(ArgumentError, match=r"io\.BytesIO"):
        world.section.write_stream("key", b"data")
    with pytest.raises(TypeError, match="binary mode"):
        world.section.write_stream("key", io.StringIO("data"))
    assert "key" not in {info.key for info in world.section.list_streams()}


@pytest.mark.parametrize("forever", [math.inf, BEYOND_FLOATS, 1e300, threading.TIMEOUT_MAX])
def test_what_is_longer_than_anybody_can_wait_is_for_ever(tmp_path, forever):
    """In limits that are kept while hooks run, in waits for them, and in closing."""
    limits = TimeLimits(prepare=forever, main=forever, abort=forever, max_quiesce=forever)
    retry = {"on_main": RetryPolicy(attempts=2, backoff=forever, max_backoff=0)}
    failures = iter([True, False])

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if hook == "on_main" and next(failures):
            raise RuntimeError("not now")

    with ProtectionService(abort_grace=forever) as service:
        plugin = RecordingProtection(Journal(), behave)
        given = provider(tmp_path / "bank", plugin, retry=retry, time_limits=limits)
        service.add_provider(given)
        handle = service.protect(plan("one"), timeout=forever, deadline=forever)
        assert handle.wait(forever)
        assert handle.result(forever).status == "available"
        assert handle.exception(forever) is None
        assert service.wait(forever)
        service.close(timeout=forever)


def test_a_retry_after_for_ever_waits_and_can_be_cancelled(tmp_path):
    retry = {"on_main": RetryPolicy(attempts=2, backoff=math.inf, max_backoff=math.inf)}
    failed = threading.Event()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            failed.set()
            raise RuntimeError("not now")

    with ProtectionService(abort_grace=math.inf) as service:
        plugin = RecordingProtection(Journal(), behave)
        service.add_provider(provider(tmp_path / "bank", plugin, retry=retry))
        handle = service.protect(plan("one"))
        assert failed.wait(DEADLINE)
        handle.cancel()
        assert handle.wait(DEADLINE)

    assert handle.status in (OperationStatus.CANCELLED, OperationStatus.FAILED)


def test_a_wait_into_the_past_is_over_at_once(world):
    assert world.handle.wait(-1)
    assert world.service.wait(-5.0)


def test_moments_beyond_the_calendar_select_all_or_nothing(world):
    bank, far = world.bank, datetime.max.replace(tzinfo=UTC)
    every = {checkpoint.id for checkpoint in bank.checkpoints()}
    for since in (
        0,
        -1,
        datetime.fromisoformat("0001-01-01"),
        datetime.min.replace(tzinfo=UTC),
        -math.inf,
    ):
        assert {checkpoint.id for checkpoint in bank.checkpoints(since=since)} == every
        assert bank.checkpoints(until=since) == []
    for until in (time.time() + 60, math.inf, far, BEYOND_FLOATS):
        assert {checkpoint.id for checkpoint in bank.checkpoints(until=until)} == every
        assert bank.checkpoints(since=until) == []


def test_a_bank_is_opened_by_a_path_of_any_kind(tmp_path):
    for given in (str(tmp_path / "a"), os.fsencode(tmp_path / "b\udcff"), tmp_path / "c"):
        with Bank.open(given) as bank:
            bank.backup(os.fsencode(bank.directory) + b"-backup")

    assert sorted(os.listdir(os.fsencode(tmp_path))) == [
        b"a",
        b"a-backup",
        b"b\xff",
        b"b\xff-backup",
        b"c",
        b"c-backup",
    ]
