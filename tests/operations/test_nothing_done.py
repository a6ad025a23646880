"""What nobody saved, verified, restored or copied is called so, and never a success."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors import (
    CheckpointStatus,
    OperationError,
    OperationStatus,
    ResourceStatus,
    VerifyResult,
)
from kit import TYPE, RecordingProtection, plan, provider, store_something

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import Checkpoint, ProtectionService, Resource
    from kit import Journal

OUTSIDE, INSIDE, NOTHING = ((TYPE, name) for name in ("outside", "inside", "nothing"))


def save(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
    """Keep a snapshot of what is outside, records of what is inside, and else nothing."""
    if resource.id == "inside":
        store_something(verb, hook, resource, call)
    elif resource.id == "outside" and (verb, hook) == ("protect", "on_main"):
        call["context"].artifact("snapshot", "of outside").keep()


def protect(
    service: ProtectionService, directory: Path, journal: Journal, *names: str, verbs: Any = ()
) -> Checkpoint:
    """Protect with a plugin that has protect and *verbs*, into a bank beside that for copies."""
    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, save, verbs=("protect", *verbs))
        service.add_provider(provider(directory / name, plugin, name=name))
    checkpoint: Checkpoint = service.protect(plan(*names)).result(DEADLINE)
    return checkpoint


def test_what_saved_nothing_is_empty_though_all_its_hooks_ran(service, tmp_path, journal):
    checkpoint = protect(service, tmp_path, journal, "outside", "nothing", "inside")

    assert ("on_complete", "nothing") in journal.hooks()
    assert checkpoint.resource_statuses() == {
        OUTSIDE: ResourceStatus.AVAILABLE,
        NOTHING: ResourceStatus.EMPTY,
        INSIDE: ResourceStatus.AVAILABLE,
    }


def test_a_failed_resource_is_not_called_empty(service, tmp_path, journal):
    def fail(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        store_something(verb, hook, resource, call)
        if resource.id == "bad" and hook == "on_prepare_begin":
            raise RuntimeError("broken")

    service.add_provider(provider(tmp_path, RecordingProtection(journal, fail)))
    handle = service.protect(plan("bad", "good"), on_failure="isolate")
    assert handle.wait(DEADLINE)

    checkpoint = service.provider("local").bank.checkpoint(handle.checkpoint_id)
    assert checkpoint.resource_status("good") is ResourceStatus.AVAILABLE
    assert checkpoint.resource_status("bad") is ResourceStatus.ABORTED


def test_what_only_a_plugin_can_verify_is_verified_when_it_did(service, tmp_path, journal):
    checkpoint = protect(service, tmp_path, journal, "outside", verbs=("verify",))
    result = service.verify(checkpoint.id).result(DEADLINE)

    assert ("on_main", "outside") in journal.hooks("verify")
    assert result.resources == {OUTSIDE: ResourceStatus.VERIFIED}


def test_verify_says_what_nobody_looked_at(service, tmp_path, journal):
    checkpoint = protect(service, tmp_path, journal, "outside", "inside", "nothing")
    result = service.verify(checkpoint.id).result(DEADLINE)

    assert result.resources == {
        OUTSIDE: ResourceStatus.SKIPPED,
        INSIDE: ResourceStatus.ENGINE_ONLY,
        NOTHING: ResourceStatus.EMPTY,
    }


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("outside", ResourceStatus.SKIPPED, "outside of the bank, and no plugin verifies it"),
        ("nothing", ResourceStatus.EMPTY, "the checkpoint holds nothing"),
    ],
)
def test_verify_of_what_nobody_can_look_at_is_no_success(
    service, tmp_path, journal, name, status, why
):
    checkpoint = protect(service, tmp_path, journal, name)
    with pytest.raises(OperationError, match=f"nothing was verified: .*{why}") as caught:
        service.verify(checkpoint.id).result(DEADLINE)

    assert isinstance(caught.value.result, VerifyResult)
    assert caught.value.result.resources == {(TYPE, name): status}


def test_restore_says_what_nobody_restored(service, tmp_path, journal):
    class InsideOnly(RecordingProtection):
        def get_restore_operation(self, resource: Resource) -> Any:
            return super().get_restore_operation(resource) if resource.id == "inside" else None

    service.add_provider(provider(tmp_path, InsideOnly(journal, save)))
    checkpoint = service.protect(plan("outside", "inside", "nothing")).result(DEADLINE)
    result = service.restore(checkpoint.id).result(DEADLINE)

    assert result.resources == {
        OUTSIDE: ResourceStatus.SKIPPED,
        INSIDE: ResourceStatus.AVAILABLE,
        NOTHING: ResourceStatus.EMPTY,
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("inside", f"no plugin has a restore operation for {TYPE}"),
        ("outside", f"no plugin has a restore operation for {TYPE}"),
        ("nothing", "the checkpoint holds nothing"),
    ],
)
def test_restore_that_restores_nothing_is_no_success(service, tmp_path, journal, name, why):
    checkpoint = protect(service, tmp_path, journal, name)
    handle = service.restore(checkpoint.id)
    with pytest.raises(OperationError, match=f"nothing was restored: {why}"):
        handle.result(DEADLINE)

    assert handle.status is OperationStatus.FAILED


def test_what_saved_nothing_but_has_a_restore_operation_is_restored(service, tmp_path, journal):
    """A parent's hooks may make the place that its children are restored to."""
    checkpoint = protect(service, tmp_path, journal, "nothing", verbs=("restore",))
    result = service.restore(checkpoint.id).result(DEADLINE)

    assert result.resources == {NOTHING: ResourceStatus.AVAILABLE}


def test_a_copy_says_what_nobody_copied_and_is_found_again(service, tmp_path, journal):
    checkpoint = protect(service, tmp_path, journal, "outside", "inside", "nothing")
    copy = service.copy(checkpoint.id, to="offsite").result(DEADLINE)

    assert copy.resource_statuses() == {
        OUTSIDE: ResourceStatus.SKIPPED,
        INSIDE: ResourceStatus.AVAILABLE,
        NOTHING: ResourceStatus.EMPTY,
    }
    assert service.copy(checkpoint.id, to="offsite").result(DEADLINE) == copy
    assert service.verify(copy.id).result(DEADLINE).resources[OUTSIDE] is ResourceStatus.SKIPPED


@pytest.mark.parametrize("others", [(), ("nothing",)])
def test_a_copy_that_copies_nothing_of_what_there_is_is_no_success(
    service, tmp_path, journal, others
):
    checkpoint = protect(service, tmp_path, journal, "outside", *others)
    for _ in range(2):  # nor is it found by the next one as if it were a copy
        handle = service.copy(checkpoint.id, to="offsite")
        with pytest.raises(OperationError, match=f"nothing was copied: .* copies it: {TYPE}"):
            handle.result(DEADLINE)
        assert handle.status is OperationStatus.FAILED
    bank = service.provider("offsite").bank
    assert {copy.status for copy in bank.checkpoints()} == {CheckpointStatus.ERROR}


def test_a_copy_of_which_the_rest_failed_copied_nothing(service, tmp_path, journal):
    class InsideOnly(RecordingProtection):
        def get_copy_operation(self, resource: Resource) -> Any:
            return super().get_copy_operation(resource) if resource.id == "inside" else None

    def fail(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        save(verb, hook, resource, call)
        if (verb, hook) == ("copy", "on_main"):
            raise RuntimeError("broken")

    for name in ("local", "offsite"):
        service.add_provider(provider(tmp_path / name, InsideOnly(journal, fail), name=name))
    checkpoint = service.protect(plan("outside", "inside")).result(DEADLINE)
    handle = service.copy(checkpoint.id, to="offsite", on_failure="isolate")
    with pytest.raises(OperationError, match="nothing was copied"):
        handle.result(DEADLINE)
    assert handle.status is OperationStatus.FAILED


def test_a_copy_of_what_holds_nothing_is_all_that_there_is(service, tmp_path, journal):
    checkpoint = protect(service, tmp_path, journal, "nothing")
    copy = service.copy(checkpoint.id, to="offsite").result(DEADLINE)

    assert copy.status is CheckpointStatus.AVAILABLE
    assert copy.resource_statuses() == {NOTHING: ResourceStatus.EMPTY}


def test_what_a_plugin_copied_is_there_though_it_wrote_nothing(service, tmp_path, journal):
    checkpoint = protect(service, tmp_path, journal, "outside", "nothing", verbs=("copy",))
    copy = service.copy(checkpoint.id, to="offsite").result(DEADLINE)

    assert copy.resource_status("outside") is ResourceStatus.AVAILABLE
    assert copy.resource_status("nothing") is ResourceStatus.EMPTY


def test_what_a_copy_kept_outside_is_the_copys_and_is_deleted_with_it(service, tmp_path, journal):
    def keep(verb: str, hook: str, resource: Resource, call: dict[str, Any]) -> None:
        save(verb, hook, resource, call)
        if (verb, hook) == ("copy", "on_main"):
            call["context"].artifact("snapshot", "elsewhere").keep()

    for name in ("local", "offsite"):
        plugin = RecordingProtection(journal, keep)
        service.add_provider(provider(tmp_path / name, plugin, name=name))
    checkpoint = service.protect(plan("outside")).result(DEADLINE)
    copy = service.copy(checkpoint.id, to="offsite").result(DEADLINE)
    kept = [artifact.name for artifact in copy.artifacts("outside")]
    service.delete(copy.id).result(DEADLINE)

    assert kept == ["elsewhere"]
    [deleted] = [c for c in journal.calls if (c["verb"], c["hook"]) == ("delete", "on_main")]
    assert [artifact.name for artifact in deleted["kwargs"]["artifacts"]] == ["elsewhere"]
