"""Recovery with plugins that are missing, fail, or want other parameters: the others are undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from crashes import crash_image
from helpers import DEADLINE, Gate
from karbor_actors import (
    Bank,
    CheckpointStatus,
    Operation,
    OperationStatus,
    Plan,
    ProtectionPlugin,
    ProtectionService,
    Provider,
    Resource,
    ResourceStatus,
)
from kit import Journal, RecordingProtection

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

A, B = Resource("A", "a"), Resource("B", "b")


class Only(RecordingProtection):
    """Protects one type."""

    def __init__(self, kind: str, journal: Journal, behave: Any = None, **kwargs: Any) -> None:
        super().__init__(journal, behave, **kwargs)
        self.kind = kind

    def get_supported_resources_types(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.kind,)


class Broken(Only):
    """Has no operation to give any more."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        raise OSError("the licence has run out")


class Generating(Only):
    """Gives an operation that cannot be one."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        def on_main(self: Any, *_: Any, **__: Any) -> Any:
            yield

        return type("Generating", (Operation,), {"on_main": on_main})()


class Declining(Only):
    """Has nothing to do for its resources any more."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        return None


class Helpless(Only):
    """Gives an operation that goes on, and undoes nothing any more."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        def hook(self: Any, *_: Any, **__: Any) -> None:
            """Do what a hook does."""

        return type("Helpless", (Operation,), {"on_prepare_finish": hook, "on_main": hook})()


class Undoing(Only):
    """Gives an operation that only undoes."""

    def operation(self, verb: str, resource: Resource) -> Operation | None:
        def on_abort(_: Any, checkpoint: Any, resource: Any, *__: Any, **call: Any) -> None:
            self.journal.add(verb, "on_abort", resource, **call)

        return type("Undoing", (Operation,), {"on_abort": on_abort})()


def opened(path: Path, plugins: Iterable[ProtectionPlugin], **kwargs: Any) -> ProtectionService:
    service = ProtectionService(workers=4)
    bank = Bank.open(path / "bank")
    service.add_provider(Provider("local", bank=bank, protection_plugins=plugins, **kwargs))
    return service


def killed_while_both_are_held(path: Path, verb: str = "protect", **options: Any) -> Path:
    """Return what a process leaves that is killed while ``a`` and ``b`` are held by *verb*."""
    both = [Gate(), Gate()]

    def behave(found: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if (found, hook) == (verb, "on_prepare_finish"):
            both[resource == B].pass_through()

    plugins = [Only("A", Journal(), behave), Only("B", Journal(), behave)]
    with opened(path, plugins) as service:
        handle = service.protect(Plan("plan", "local", [A, B]), **options)
        if verb == "restore":
            handle = service.restore(handle.result(DEADLINE).id)
        for gate in both:
            gate.wait_entered()
        left = crash_image(service, path / "left")
        for gate in both:
            gate.open()
    return left


@pytest.mark.parametrize("verb", ["protect", "restore"])
@pytest.mark.parametrize(
    ("now", "says"),
    [
        (None, "handles B"),
        (Broken, "licence"),
        (Generating, "generator"),
        (Declining, "no on_abort"),
        (Helpless, "no on_abort"),
    ],
)
def test_what_a_plugin_cannot_undo_any_more_stays_pending_and_the_rest_is_undone(
    tmp_path, verb, now, says
):
    left = killed_while_both_are_held(tmp_path, verb)
    journal = Journal()
    plugins = [Only("A", journal), *([now("B", Journal())] if now else [])]
    with opened(left, plugins) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert handle.status is OperationStatus.FAILED
        assert [call["id"] for call in journal.calls if call["hook"] == "on_abort"] == ["a"]
        record = service.operation_history("local")[0]
        assert record.abort_pending == 1
        assert any(says in info["message"] for info in record.error_info)
        if verb == "protect":
            (checkpoint,) = service.provider("local").bank.checkpoints()
            assert checkpoint.status is CheckpointStatus.ERROR
            assert checkpoint.resource_status(A) is ResourceStatus.ABORTED
            assert checkpoint.resource_status(B) is ResourceStatus.ABORT_PENDING

    journal = Journal()
    with opened(left, [Only("A", journal), Only("B", journal)]) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert [call["id"] for call in journal.calls if call["hook"] == "on_abort"] == ["b"]
        assert service.operation_history("local")[0].abort_pending == 0


def test_an_operation_that_has_only_an_on_abort_left_undoes_what_another_one_began(tmp_path):
    left = killed_while_both_are_held(tmp_path)
    journal = Journal()
    with opened(left, [Only("A", journal), Undoing("B", journal)]) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert sorted(journal.aborted()) == ["a", "b"]
        assert service.operation_history("local")[0].abort_pending == 0


def test_what_had_begun_and_its_plugin_has_nothing_to_do_for_any_more_has_not_succeeded(tmp_path):
    """There is nothing to undo; but its main hook would never run."""
    hooks = ("on_prepare_begin", "on_main")
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main":
            gate.pass_through()

    with opened(tmp_path, [Only("A", Journal(), behave, hooks=hooks)]) as service:
        service.protect(Plan("plan", "local", [A]))
        gate.wait_entered()
        left = crash_image(service, tmp_path / "left")
        gate.open()
    with opened(left, [Declining("A", Journal())]) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert handle.status is OperationStatus.FAILED
        assert "no operation any more" in str(handle.exception())
        assert service.operation_history("local")[0].abort_pending == 0


def test_what_a_provider_left_that_has_another_name_now_is_warned_of(tmp_path, caplog):
    left = killed_while_both_are_held(tmp_path)
    journal = Journal()
    plugins = [Only("A", journal), Only("B", journal)]
    with ProtectionService(workers=4) as service:
        bank = Bank.open(left / "bank")
        service.add_provider(Provider("renamed", bank=bank, protection_plugins=plugins))
        assert service.recovered == []
        (warning,) = [record.getMessage() for record in caplog.records]
        assert "left unfinished by the provider 'local'" in warning
        caplog.clear()

        service.add_provider(Provider("local", bank=bank, protection_plugins=plugins))
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert sorted(journal.aborted()) == ["a", "b"]
        assert caplog.records == []


@pytest.mark.parametrize("recover", ["resume", "ask"])
def test_with_isolate_only_the_part_of_the_missing_plugin_is_given_up(tmp_path, recover):
    gate = Gate()

    def behave(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_main" and resource == A:
            gate.pass_through()

    held = Gate()

    def hold(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        if hook == "on_prepare_finish":
            held.pass_through()

    with opened(tmp_path, [Only("A", Journal(), behave), Only("B", Journal(), hold)]) as service:
        service.protect(Plan("plan", "local", [A, B]), on_failure="isolate")
        gate.wait_entered()
        held.wait_entered()
        left = crash_image(service, tmp_path / "left")
        gate.open()
        held.open()
    journal = Journal()
    with opened(left, [Only("A", journal)], recover=recover) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        if recover == "ask":
            assert handle.status is OperationStatus.SUSPENDED
            assert journal.hooks() == [], "the rest is asked about"
            handle = service.resume(handle.id)
            assert handle.wait(DEADLINE)
        assert handle.status is OperationStatus.PARTIAL
        assert journal.aborted() == []
        assert ("on_complete", "a") in journal.hooks()
        (checkpoint,) = service.provider("local").bank.checkpoints()
        assert checkpoint.resource_status(A) is ResourceStatus.EMPTY  # done, and saved nothing
        assert checkpoint.resource_status(B) is ResourceStatus.ABORT_PENDING


def test_what_was_begun_is_undone_with_the_parameters_that_it_was_begun_with(tmp_path, monkeypatch):
    """They do not fit the newer release's schema; its secrets are resolved all the same."""
    monkeypatch.setenv("KARBOR_TEST_PASSWORD", "hunter2")
    old = {"size": {"type": "integer"}, "password": {"type": "string", "secret": True}}
    monkeypatch.setattr(Only, "get_options_schema", lambda _, kind: old if kind == "A" else {})
    left = killed_while_both_are_held(
        tmp_path, parameters={"A": {"size": 3, "password": "env:KARBOR_TEST_PASSWORD"}}
    )

    class Newer(Only):
        @classmethod
        def get_options_schema(cls, resource_type: str) -> dict[str, Any]:
            return {
                "password": {"type": "string", "secret": True},
                "mode": {"type": "string", "required": True},
            }

    journal = Journal()
    with opened(left, [Newer("A", journal), Only("B", journal)]) as service:
        (handle,) = service.recovered
        assert handle.wait(DEADLINE)
        assert "mode" in str(handle.exception())
        assert sorted(journal.aborted()) == ["a", "b"]
        (given,) = [call["parameters"] for call in journal.calls if call["id"] == "a"]
        assert given == {"size": 3, "password": "hunter2"}
