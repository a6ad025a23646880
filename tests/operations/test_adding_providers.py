"""add_provider adds all that it is given, with what their banks have left, or nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from crashes import crash_image
from helpers import DEADLINE, Gate
from karbor_actors import Bank, CheckpointStatus, ProtectionService, Provider
from karbor_actors.errors import ArgumentError, BankLeaseError
from kit import Journal, RecordingProtection, plan, provider

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource


def left_by_a_crash(path: Path) -> Path:
    """Return a directory whose bank has a protect that did not end, with nothing held."""
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            gate.pass_through()

    with ProtectionService(workers=4) as service:
        service.add_provider(provider(path / "bank", RecordingProtection(Journal(), behave)))
        handle = service.protect(plan("one"))
        gate.wait_entered()
        left = crash_image(service, path / "left")
        gate.open()
        handle.result(DEADLINE)
    return left


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_stops_a_recovery_leaves_no_provider_behind(tmp_path, service, error):
    left = left_by_a_crash(tmp_path)

    def context_of(operation_id: str) -> Any:
        raise error

    bank, plugin = Bank.open(left / "bank"), RecordingProtection(Journal())
    first = provider(tmp_path / "first", plugin, name="first")
    broken = Provider("local", bank=bank, protection_plugins=[plugin], recovery_context=context_of)
    with pytest.raises(error):
        service.add_provider(first, broken)
    assert service.providers == {}
    assert service.recovered == service.operations() == []

    with ProtectionService(workers=2) as other:  # neither is this service's any more
        other.add_provider(first, Provider("local", bank=bank, protection_plugins=[plugin]))
        (handle,) = other.recovered
        assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE


def test_what_cannot_be_started_is_not_taken_up_and_keeps_no_lock(tmp_path, service, monkeypatch):
    """The system has no thread left for the engine, as when a container's limit is reached."""
    left = left_by_a_crash(tmp_path)
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("karbor-control"):
            raise RuntimeError("can't start new thread")
        start(thread)

    found = provider(left / "bank", RecordingProtection(Journal()))
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        service.add_provider(found)
    monkeypatch.undo()
    assert service.providers == {}
    assert service.operations() == []

    service.add_provider(found)
    (handle,) = service.recovered
    assert handle.result(DEADLINE).status is CheckpointStatus.AVAILABLE


def test_of_two_providers_of_one_name_none_is_added(tmp_path, service):
    plugin = RecordingProtection(Journal())
    one, same = provider(tmp_path / "one", plugin), provider(tmp_path / "two", plugin)
    with pytest.raises(ValueError, match="was added already"):
        service.add_provider(one, same)
    assert service.providers == {}
    service.add_provider(same)
    third = provider(tmp_path / "three", plugin, name="three")
    with pytest.raises(ArgumentError, match="provider"):
        service.add_provider(third, "four")  # type: ignore[arg-type]
    assert list(service.providers) == ["local"]
    one.bank.close()
    third.bank.close()


def test_a_bank_of_two_providers_is_still_the_services_where_one_is_refused(tmp_path, service):
    bank, plugin = Bank.open(tmp_path / "bank"), RecordingProtection(Journal())

    def made(name: str) -> Provider:
        return Provider(name, bank=bank, protection_plugins=[plugin])

    service.add_provider(made("one"))
    with pytest.raises(ValueError, match="was added already"):
        service.add_provider(made("two"), made("one"))
    with (
        ProtectionService(workers=2) as other,
        pytest.raises(BankLeaseError, match="another service"),
    ):
        other.add_provider(made("three"))
