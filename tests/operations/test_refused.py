"""What is refused before anything runs, and what stays of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors.errors import (
    BankFullError,
    CycleError,
    ListingError,
    ParametersError,
    PluginError,
)
from karbor_actors.testing import FaultPlan, Rule
from kit import TYPE, RecordingProtection, Things, plan, provider, store_something

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Resource
    from kit import Journal

SECRET = "correct-horse-battery"


class WithPassword(RecordingProtection):
    """Its verbs take a secret."""

    @classmethod
    def get_options_schema(cls, resource_type: str) -> dict[str, Any]:
        return {"password": {"type": "string", "secret": True}, "level": {"type": "integer"}}

    get_restore_schema = get_verify_schema = get_options_schema


def _bytes_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("verb", ["protect", "restore", "verify"])
def test_a_secret_that_was_given_itself_is_nowhere_in_the_bank(service, tmp_path, journal, verb):
    """Neither is the operation forgotten: it is in the history, without its parameters."""
    plugin = WithPassword(journal, store_something)
    service.add_provider(provider(tmp_path / "bank", plugin))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    wrong = {TYPE: {"password": SECRET}}
    subject = plan("one") if verb == "protect" else checkpoint.id
    with pytest.raises(ParametersError, match="password"):
        getattr(service, verb)(subject, parameters=wrong).result(DEADLINE)
    last = service.operation_history("local", limit=1)[0]
    service.close()

    assert (last.type, last.status, last.parameters) == (verb, "failed", {})
    assert SECRET.encode() not in _bytes_below(tmp_path)


@pytest.mark.parametrize("verb", ["protect", "restore", "verify"])
def test_a_secret_that_cannot_be_read_is_refused_before_anything_runs(
    service, tmp_path, journal, verb
):
    """Else hooks fail that were never called, and leave what never began to be undone without it."""
    service.add_provider(provider(tmp_path / "bank", WithPassword(journal, store_something)))
    checkpoint = service.protect(plan("one", "two")).result(DEADLINE)
    before = list(journal.calls)
    subject = plan("one", "two") if verb == "protect" else checkpoint.id
    nowhere = {
        TYPE: {"password": "env:KARBOR_TEST_NOWHERE"},
        f"{TYPE}#two": {"password": f"file:{tmp_path / 'nowhere'}"},
    }
    with pytest.raises(ParametersError) as refused:
        getattr(service, verb)(subject, parameters=nowhere).result(DEADLINE)

    assert [fault.where for fault in refused.value.faults] == [
        f"{TYPE}#one.password",
        f"{TYPE}#two.password",
    ]
    assert journal.calls == before
    assert service.operation_history("local", limit=1)[0].abort_pending == 0


@pytest.mark.parametrize("verb", ["protect", "restore", "verify", "delete"])
@pytest.mark.parametrize("wrong", [5, "abc", {TYPE: 5}, {5: {}}, {TYPE: {"level": {1}}}])
def test_parameters_of_any_shape_are_refused_with_one_sentence(
    service, tmp_path, journal, verb, wrong
):
    service.add_provider(provider(tmp_path / "bank", WithPassword(journal, store_something)))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    subject = plan("one") if verb == "protect" else checkpoint.id
    handle = getattr(service, verb)(subject, parameters=wrong)

    assert type(handle.exception(DEADLINE)) is ParametersError
    assert service.operation_history("local", limit=1)[0].id == handle.id


def test_a_caller_may_go_on_with_its_own_parameters(service, tmp_path, journal):
    """What is changed after the call is not part of it, however late the operation plans."""
    service.add_provider(provider(tmp_path / "bank", WithPassword(journal, store_something)))
    parameters: dict[str, dict[str, Any]] = {TYPE: {"level": 1}}
    handles = []
    for level in range(20):
        parameters[TYPE]["level"] = level
        handles.append(service.protect(plan("one"), parameters=parameters))
    for handle in handles:
        handle.result(DEADLINE)

    seen = [call["parameters"]["level"] for call in journal.calls if call["hook"] == "on_main"]
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("deadline", ["tomorrow", float("nan"), [1]])
def test_a_deadline_that_is_no_moment_is_refused_at_the_call(service, tmp_path, journal, deadline):
    service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal)))
    with pytest.raises(ValueError, match="deadline"):
        service.protect(plan("one"), deadline=deadline)


def test_a_copy_into_a_bank_that_cannot_begin_it_is_one_operation_that_failed(
    service, tmp_path, journal
):
    """It is recorded in its own bank by then: not a second time, and not as one that runs on."""
    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, store_something, verbs=("protect",))
        service.add_provider(provider(tmp_path / name, plugin, name=name))
    checkpoint = service.protect(plan("one")).result(DEADLINE)
    full = Rule("commit_before", "disk_full", where={"path": "*/offsite/*"}, times=1)
    with FaultPlan([full]).installed():
        handle = service.copy(checkpoint.id, to="offsite")
        assert isinstance(handle.exception(DEADLINE), BankFullError)

    history = service.operation_history("local")
    assert [(r.id, r.status) for r in history if r.type == "copy"] == [(handle.id, "failed")]
    assert service.provider("local").bank.check() == []


class Leaving(Things):
    """Fails at one resource as a plugin does that ends its process."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def get_dependent_resources(self, context: Any, parent_resource: Resource) -> list[Resource]:
        raise self.error


class Getter(RecordingProtection):
    """Fails where it is asked for an operation."""

    def __init__(self, journal: Journal, error: BaseException) -> None:
        super().__init__(journal)
        self.error = error

    def get_protect_operation(self, resource: Resource) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(2), KeyboardInterrupt()])
def test_what_a_getter_raises_ends_its_operation_with_both_names(service, tmp_path, journal, error):
    service.add_provider(provider(tmp_path, Getter(journal, error)))

    said = rf"Getter\.get_protect_operation\(\) failed for {TYPE}#one: {type(error).__name__}"
    with pytest.raises(PluginError, match=said):
        service.protect(plan("one")).result(DEADLINE)


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(2)])
def test_what_a_listing_raises_is_recorded_with_its_resource(service, tmp_path, journal, error):
    made = provider(tmp_path, RecordingProtection(journal))
    made.protectables = type(made.protectables)([Leaving(error)])
    service.add_provider(made)
    with pytest.raises(ListingError, match=f"Leaving could not list .*{TYPE}#one"):
        service.protect(plan("one")).result(DEADLINE)

    [recorded] = service.operation_history("local", limit=1)[0].error_info
    assert (recorded["type"], recorded["resource"]) == ("ListingError", [TYPE, "one"])


def test_a_cycle_is_recorded_with_its_resources(service, tmp_path, journal):
    circle = {"one": ["two"], "two": ["one"]}
    service.add_provider(provider(tmp_path, RecordingProtection(journal), circle))
    with pytest.raises(CycleError):
        service.protect(plan("one")).result(DEADLINE)

    [recorded] = service.operation_history("local", limit=1)[0].error_info
    assert recorded["resources"] == [[TYPE, "one"], [TYPE, "two"]]


def test_a_signal_that_comes_in_a_dry_run_is_the_hosts(service, tmp_path, journal):
    """Its handler runs on the main thread, within whatever is called there."""
    service.add_provider(provider(tmp_path, Getter(journal, SystemExit(0))))

    with pytest.raises(SystemExit):
        service.plan_operation("protect", plan("one"))
