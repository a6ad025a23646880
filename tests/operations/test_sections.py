"""What hooks do with their sections of the bank, seen from the operation that they are part of."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors import ProtectionService, TimeLimits
from karbor_actors.graph import ResourceGraph
from kit import Journal, RecordingProtection, plan, provider

if TYPE_CHECKING:
    from karbor_actors import Resource

SHORT = 0.1


class Trickle:
    """A source of *blocks* blocks, each of which takes a while."""

    def __init__(self, blocks: int) -> None:
        self._left, self._never = blocks, threading.Event()

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            return b""
        self._left -= 1
        self._never.wait(SHORT / 2)
        return os.urandom(1 << 20)


def use_section(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
    section = call["checkpoint"].get_resource_bank_section(resource)
    if (verb, hook) == ("protect", "on_main"):
        section.update_object("metadata", 1)
    elif "checkpoint_copy" in call["kwargs"] and hook == "on_main":
        copy = call["kwargs"]["checkpoint_copy"].get_resource_bank_section(resource)
        copy.update_object("metadata", section.get_object("metadata"))


@pytest.mark.parametrize("by_plugin", [True, False])
def test_the_graph_is_not_read_again_for_each_hook_that_looks_for_its_section(
    tmp_path, journal, service, monkeypatch, by_plugin
):
    """Else what a hook costs grows with the graph."""
    reads, unpack = [], ResourceGraph.unpack

    def counted(packed: bytes) -> ResourceGraph:
        reads.append(len(packed))
        return unpack(packed)

    monkeypatch.setattr(ResourceGraph, "unpack", staticmethod(counted))
    verbs = (
        ("protect", "restore", "verify", "copy", "delete") if by_plugin else ("protect", "restore")
    )
    children = {"top": [f"disk{number}" for number in range(50)]}
    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, use_section, verbs=verbs)
        service.add_provider(provider(tmp_path / name, plugin, children, name))
    checkpoint = service.protect(plan("top")).result(DEADLINE)
    costs = {"protect": len(reads)}
    for verb, more in (
        ("restore", {}),
        ("verify", {}),
        ("copy", {"to": "offsite"}),
        ("delete", {}),
    ):
        reads.clear()
        getattr(service, verb)(checkpoint.id, **more).result(DEADLINE)
        costs[verb] = len(reads)

    assert max(costs.values()) < 10, costs


def test_bytes_of_a_stream_keep_a_long_main_hook_alive(tmp_path):
    """Stored, copied and verified without a word of progress, for longer than the limit."""

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        section = call["checkpoint"].get_resource_bank_section(resource)
        if (verb, hook) == ("protect", "on_main"):
            section.write_stream("data", Trickle(20))
        if (verb, hook) == ("restore", "on_main"):
            with section.open_stream("data") as stream:
                while stream.read(1 << 20):
                    threading.Event().wait(SHORT / 2)

    limits = TimeLimits(main=5 * SHORT)
    with ProtectionService(workers=2) as service:
        plugin = RecordingProtection(Journal(), behave, verbs=("protect", "restore"))
        service.add_provider(provider(tmp_path / "bank", plugin, time_limits=limits))
        checkpoint = service.protect(plan("one")).result(DEADLINE)
        assert checkpoint.status == "available"
        service.restore(checkpoint.id).result(DEADLINE)


@pytest.mark.parametrize("verb", ["copy", "verify"])
def test_what_the_engine_itself_reads_and_writes_is_a_sign_of_life(
    tmp_path, service, journal, monkeypatch, verb
):
    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (verb, hook) == ("protect", "on_main"):
            section = call["checkpoint"].get_resource_bank_section(resource)
            section.write_stream("data", Trickle(5))

    signs: list[str] = []
    monkeypatch.setattr(
        "karbor_actors.operations.hooks.attempt.Attempt.note_alive",
        lambda attempt: signs.append(attempt.hook),
    )
    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, behave, verbs=("protect",))
        service.add_provider(provider(tmp_path / name, plugin, name=name))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    signs.clear()
    more = {"to": "offsite"} if verb == "copy" else {}
    getattr(service, verb)(checkpoint.id, **more).result(DEADLINE)

    assert len(signs) >= 5


@pytest.mark.parametrize(
    ("hook", "limits"),
    [
        ("on_prepare_begin", TimeLimits(prepare=SHORT)),
        ("on_abort", TimeLimits(abort=SHORT)),
    ],
)
def test_no_progress_prolongs_what_holds_a_resource(tmp_path, journal, hook, limits):
    """Progress counts for main and complete; prepare hooks and aborts have a bound."""
    gives_up = threading.Event()

    def behave(verb: str, found: str, resource: Resource, call: dict[str, Any]) -> None:
        if found == "on_main":
            raise RuntimeError("broken")
        while found == hook and not gives_up.wait(SHORT / 10):
            call["context"].progress(1, 2)

    service = ProtectionService(workers=2)
    try:
        plugin = RecordingProtection(journal, behave)
        service.add_provider(provider(tmp_path / "bank", plugin, time_limits=limits))
        handle = service.protect(plan("one"))
        assert "longer than" in str(handle.exception(DEADLINE))
    finally:
        gives_up.set()
        service.close()
    for thread in threading.enumerate():
        if thread.name.startswith(("karbor-prepare", "karbor-abort")):
            thread.join(DEADLINE)
