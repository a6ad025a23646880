"""The conformance suite: what ships passes it, and plugins that are broken on purpose do not."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from karbor_actors import HookName, Operation, ProtectablePlugin, ProtectionPlugin, Resource
from karbor_actors.testing.conformance import PluginConformance, Subject, checks

if TYPE_CHECKING:
    from pathlib import Path

TYPE = "Test::Vault"


class Directories(Subject):
    """The directory plugin."""

    def prepare(self):
        tree = self.directory / "app"
        (tree / "inner").mkdir(parents=True)
        (tree / "settings").write_text("colour = blue\n")
        (tree / "inner" / "data").write_bytes(bytes(range(256)) * 300)

    def protection_plugins(self):
        return ["filesystem"]

    def protectables(self):
        return ["filesystem"]

    def resources(self):
        return [Resource("FileSystem::Directory", str(self.directory / "app"))]

    def parameters_of(self, verb):
        if verb != "restore":
            return {}
        return {
            "FileSystem::Directory": {
                "target": str(self.directory / "restored"),
                "overwrite": True,
            }
        }

    def leftovers(self):
        known = {"app", "restored", "bank-conformance", "bank-conformance-copy"}
        inside = [str(path) for path in (self.directory / "app").rglob("*")]
        return inside + [p.name for p in self.directory.iterdir() if p.name not in known]

    def check_restored(self):
        made = self.directory / "restored"
        assert (made / "settings").read_text() == "colour = blue\n"
        assert (made / "inner" / "data").read_bytes() == bytes(range(256)) * 300


class Databases(Subject):
    """The SQLite plugin."""

    def prepare(self):
        with sqlite3.connect(self.directory / "app.db") as connection:
            connection.execute("CREATE TABLE notes (text)")
            connection.executemany("INSERT INTO notes VALUES (?)", [(str(n),) for n in range(500)])
        connection.close()

    def protection_plugins(self):
        return ["sqlite"]

    def protectables(self):
        return ["sqlite"]

    def resources(self):
        return [Resource("SQLite::Database", str(self.directory / "app.db"))]

    def parameters_of(self, verb):
        restored = {"target": str(self.directory / "restored.db"), "overwrite": True}
        scratch = {"scratch": str(self.directory)}
        given = {"restore": restored, "protect": scratch, "verify": scratch}
        return {"SQLite::Database": given[verb]} if verb in given else {}

    def leftovers(self):
        known = {"app.db", "restored.db", "bank-conformance", "bank-conformance-copy"}
        return [path.name for path in self.directory.iterdir() if path.name not in known]

    def check_restored(self):
        with sqlite3.connect(self.directory / "restored.db") as connection:
            assert connection.execute("SELECT count(*) FROM notes").fetchone() == (500,)
        connection.close()


class Vault(Operation):
    """Freezes, makes a snapshot, saves it, and removes it; each is a file of its own."""

    def __init__(self, directory: Path, verb: str) -> None:
        self.directory, self.verb = directory, verb

    def file(self, kind: str, resource: Resource) -> Path:
        return self.directory / f"{kind}-{resource.id}"

    def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
        self.file("frozen", resource).touch()
        context.state["name"] = f"snapshot-{resource.id}"

    def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        if self.verb == "protect":
            context.artifact("snapshot", context.state["name"])
            self.file("snapshot", resource).touch()
        self.file("frozen", resource).unlink(missing_ok=True)

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        context.check_cancelled()
        section = checkpoint.get_resource_bank_section(resource)
        if self.verb == "protect":
            assert (self.directory / context.state["name"]).exists()
            section.update_object("size", len(parameters["word"]))
        elif self.verb == "restore":
            self.file("restored", resource).write_text("x" * section.get_object("size"))

    def on_complete(self, checkpoint, resource, context, parameters, **kwargs):
        if self.verb == "protect":
            self.file("snapshot", resource).unlink(missing_ok=True)
            context.artifact("snapshot", context.state["name"]).release()

    def on_abort(self, checkpoint, resource, context, parameters, *, artifacts, **kwargs):
        self.file("snapshot", resource).unlink(missing_ok=True)
        self.file("frozen", resource).unlink(missing_ok=True)
        for artifact in artifacts:
            artifact.release()


class Vaults(ProtectionPlugin):
    """Protects vaults with *operation*."""

    schema: ClassVar[dict[str, Any]] = {"word": {"type": "string", "default": "sesame"}}

    def __init__(self, directory: Path, operation: type[Vault]) -> None:
        self.directory, self.operation = directory, operation

    def get_supported_resources_types(self):
        return (TYPE,)

    def get_options_schema(self, resource_type):
        return self.schema

    def get_protect_operation(self, resource):
        return self.operation(self.directory, "protect")

    def get_restore_operation(self, resource):
        return self.operation(self.directory, "restore")


class Houses(ProtectablePlugin):
    """A vault may have another one inside."""

    def get_resource_type(self):
        return TYPE

    def get_parent_resource_types(self):
        return (TYPE,)

    def get_dependent_resources(self, context, parent_resource):
        return [Resource(TYPE, "inner")] if parent_resource.id == "outer" else []


class GoodVaults(Subject):
    """Two vaults, and a plugin that does everything right."""

    operation: type[Vault] = Vault
    plugin: type[Vaults] = Vaults
    patience = 5.0

    def prepare(self):
        pass

    def protection_plugins(self):
        return [self.plugin(self.directory, self.operation)]

    def protectables(self):
        return [Houses()]

    def resources(self):
        return [Resource(TYPE, "outer")]

    def _files(self, kind):
        return [path.name for path in self.directory.glob(f"{kind}-*")]

    def frozen(self):
        return self._files("frozen")

    def leftovers(self):
        return self._files("snapshot")

    def check_restored(self):
        assert (self.directory / "restored-inner").read_text() == "x" * 6


class AbortOnceVault(Vault):
    """Its on_abort cannot be run a second time."""

    def on_abort(self, checkpoint, resource, context, parameters, **kwargs):
        self.file("frozen", resource).unlink()


class AbortOnce(GoodVaults):
    operation = AbortOnceVault


class FreezeOnceVault(Vault):
    """Its freeze cannot be run a second time."""

    def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
        with self.file("frozen", resource).open("x"):
            context.state["name"] = f"snapshot-{resource.id}"


class FreezeOnce(GoodVaults):
    operation = FreezeOnceVault


class ForgetfulVault(Vault):
    """It keeps in an attribute what must survive the process, and says that it can go on."""

    def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        super().on_prepare_finish(checkpoint, resource, context, parameters, **kwargs)
        self.name = f"snapshot-{resource.id}"

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        if self.verb == "protect":
            assert (self.directory / self.name).exists()
        super().on_main(checkpoint, resource, context, parameters, **kwargs)


class Forgetful(GoodVaults):
    operation = ForgetfulVault


class LeakyVault(Vault):
    """It makes a snapshot that no artifact tells of, and removes it only when all goes well."""

    def on_abort(self, checkpoint, resource, context, parameters, *, artifacts, **kwargs):
        self.file("frozen", resource).unlink(missing_ok=True)
        for artifact in artifacts:
            artifact.release()


class Leaky(GoodVaults):
    operation = LeakyVault


class OutstandingVault(Vault):
    """It never says what becomes of its artifact."""

    def on_complete(self, checkpoint, resource, context, parameters, **kwargs):
        self.file("snapshot", resource).unlink(missing_ok=True)


class Outstanding(GoodVaults):
    operation = OutstandingVault


class NeverThawedVault(Vault):
    """Its on_abort thaws nothing."""

    def on_abort(self, checkpoint, resource, context, parameters, *, artifacts, **kwargs):
        self.file("snapshot", resource).unlink(missing_ok=True)
        for artifact in artifacts:
            artifact.release()


class NeverThawed(GoodVaults):
    operation = NeverThawedVault


class DeafVault(Vault):
    """It takes the word to leave for one of many errors, and goes on."""

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        try:
            context.check_cancelled()
            super().on_main(checkpoint, resource, context, parameters, **kwargs)
        except Exception:  # the mistake that is tested
            context.log.info("never mind")


class Deaf(GoodVaults):
    operation = DeafVault


class StubbornVault(Vault):
    """It never asks whether it should leave."""

    gate = threading.Event()

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        if context.cancelled:
            self.gate.wait(60)
        super().on_main(checkpoint, resource, context, parameters, **kwargs)


class Stubborn(GoodVaults):
    operation = StubbornVault
    patience = 0.5


class LongHeldVault(Vault):
    """Thaws when all is saved, and does not say so with ``held_until``."""

    def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        super().on_prepare_finish(checkpoint, resource, context, parameters)
        if self.verb == "protect":
            self.file("frozen", resource).touch()

    def on_complete(self, checkpoint, resource, context, parameters, **kwargs):
        super().on_complete(checkpoint, resource, context, parameters)
        self.file("frozen", resource).unlink(missing_ok=True)


class LongHeld(GoodVaults):
    operation = LongHeldVault


class LongHeldVaultThatSaysSo(LongHeldVault):
    held_until = HookName.ON_COMPLETE


class LongHeldSaysSo(GoodVaults):
    operation = LongHeldVaultThatSaysSo


class WrongDefaultPlugin(Vaults):
    schema: ClassVar = {"word": {"type": "string", "default": 7}}


class WrongDefault(GoodVaults):
    plugin = WrongDefaultPlugin


class GrowingDefaultPlugin(Vaults):
    schema: ClassVar = {"word": {"type": "string", "default": "a", "allowed": ["b"]}}


class GrowingDefault(GoodVaults):
    plugin = GrowingDefaultPlugin


class NoSchemaPlugin(Vaults):
    schema: ClassVar = {"word": {"type": "sting"}}


class NoSchema(GoodVaults):
    plugin = NoSchemaPlugin


class WrongRestore(GoodVaults):
    """What is restored is not what was saved."""

    def check_restored(self):
        assert (self.directory / "restored-inner").read_text() == "y"


class TestGoodVaults(PluginConformance):
    subject = GoodVaults


@pytest.mark.parametrize("kind", [WrongDefault, GrowingDefault, NoSchema])
def test_a_schema_that_is_wrong_is_found(kind, tmp_path):
    with pytest.raises(AssertionError, match="schema of Test::Vault for protect"):
        checks.check_schemas(kind, tmp_path / "subject")


def test_an_artifact_of_which_nobody_says_what_became_is_found(tmp_path):
    with pytest.raises(AssertionError, match=r"protect fails.*outstanding"):
        checks.check_success(Outstanding, tmp_path / "subject")


def test_a_restore_that_restores_something_else_is_found(tmp_path):
    with pytest.raises(AssertionError, match="xxxxxx"):
        checks.check_success(WrongRestore, tmp_path / "subject")


def test_an_on_abort_that_thaws_nothing_is_found(tmp_path):
    with pytest.raises(AssertionError, match="stays frozen"):
        checks.check_failure(NeverThawed, tmp_path, "protect")


def test_an_on_abort_that_cannot_run_twice_is_found(tmp_path):
    with pytest.raises(AssertionError, match="on_abort did not succeed"):
        checks.check_abort_twice(AbortOnce, tmp_path, "protect")


def test_a_hook_that_cannot_run_twice_is_found(tmp_path):
    with pytest.raises(AssertionError, match=r"when on_prepare_begin of .* runs twice"):
        checks.check_repeats(FreezeOnce, tmp_path, "protect")


def test_a_snapshot_that_is_forgotten_is_found(tmp_path):
    with pytest.raises(AssertionError, match=r"snapshot-.* is left"):
        checks.check_failure(Leaky, tmp_path, "protect")


def test_state_that_does_not_survive_its_process_is_found(tmp_path):
    with pytest.raises(AssertionError, match=r"taken up again, on_main of .* failed"):
        checks.check_kill(Forgetful, tmp_path, "protect")


def test_a_hook_that_takes_the_word_to_leave_for_an_error_is_found(tmp_path):
    with pytest.raises(AssertionError, match="swallows HookCancelledError"):
        checks.check_cancel(Deaf, tmp_path, "protect")


def test_a_hook_that_never_leaves_is_found(tmp_path):
    try:
        with pytest.raises(AssertionError, match=r"never returns|has not ended"):
            checks.check_cancel(Stubborn, tmp_path, "protect")
    finally:
        StubbornVault.gate.set()


def test_what_is_held_for_longer_than_the_plugin_says_is_found(tmp_path):
    """After a kill it would go on, with data from after the moment at which all was frozen."""
    with pytest.raises(AssertionError, match="held longer than the Operation's held_until says"):
        checks.check_kill(LongHeld, tmp_path / "silent", "protect")
    checks.check_kill(LongHeldSaysSo, tmp_path / "said", "protect")


def test_a_subject_that_no_other_process_can_find_is_refused(tmp_path):
    class Local(GoodVaults):
        """Is made within a function."""

    with pytest.raises(AssertionError, match="put the Subject at its module's top level"):
        checks.check_kill(Local, tmp_path, "protect")


class TestDirectories(PluginConformance):
    subject = Directories


class TestDatabases(PluginConformance):
    subject = Databases
