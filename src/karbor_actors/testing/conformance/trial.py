"""One run of a subject's plugins on a real service, and what must be so at its end."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from karbor_actors import (
    Bank,
    CheckpointStatus,
    Plan,
    ProtectionService,
    Provider,
    Resource,
    RetryPolicy,
    TimeLimits,
)
from karbor_actors.errors import HookFailedError, KarborError
from karbor_actors.schedule import hook_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from karbor_actors import HookName, OperationHandle
    from karbor_actors.testing.conformance.subject import Subject

VERBS = ("protect", "verify", "restore", "copy", "delete")
_PROVIDER, _OTHER = "conformance", "conformance-copy"
_LOOK_EVERY = 0.01


class HookPlace(NamedTuple):
    """A hook of a resource in an operation, in the run of a subject in some directory."""

    verb: str
    resource: Resource
    hook: HookName
    directory: str

    def __str__(self) -> str:
        return f"{self.hook} of {self.resource} in {self.verb}"

    def moved(self, directory: Path) -> HookPlace:
        """Return the same hook of the subject in *directory*, which ids may tell of."""
        own, new = self.resource, str(directory)
        moved = Resource(own.type, own.id.replace(self.directory, new), own.name)
        return HookPlace(self.verb, moved, self.hook, new)

    @property
    def facts(self) -> dict[str, str]:
        """What a rule of faults asks for to strike here."""
        return {
            "operation": self.verb,
            "type": _literal(self.resource.type),
            "id": _literal(self.resource.id),
            "hook": str(self.hook),
        }


def _literal(text: str) -> str:
    """Return the fnmatch pattern that fits *text* only."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


class Trial:
    """A subject, a service and two banks. The test's own thread only.

    Args:
        subject: What is tried; it is prepared already.
        attempts: How often a failing hook is tried.
        limits: How long hooks may take.
    """

    def __init__(
        self, subject: Subject, *, attempts: int = 1, limits: TimeLimits | None = None
    ) -> None:
        self.subject = subject
        self.service = ProtectionService(workers=4, abort_grace=subject.patience)
        retry = {"*": RetryPolicy(attempts=attempts, backoff=0.0)}
        try:
            for name in (_PROVIDER, _OTHER):
                self.service.add_provider(
                    Provider(
                        name,
                        bank=Bank.open(subject.directory / f"bank-{name}"),
                        protection_plugins=subject.protection_plugins(),
                        protectables=subject.protectables(),
                        retry=retry,
                        time_limits=limits,
                    )
                )
        except BaseException:
            self.service.close(drain=False)
            raise

    def begin(self, verb: str) -> OperationHandle:
        """Begin *verb*; all but protect concern the newest checkpoint."""
        parameters = self.subject.parameters_of(verb)
        if verb == "protect":
            plan = Plan("conformance", _PROVIDER, self.subject.resources())
            return self.service.protect(plan, parameters=parameters)
        options: dict[str, Any] = {"provider": _PROVIDER, "parameters": parameters}
        if verb == "copy":
            options["to"] = _OTHER
        handle: OperationHandle = getattr(self.service, verb)(self._newest(), **options)
        return handle

    def run(self, verb: str) -> BaseException | None:
        """Run *verb* to its end; return what its handle would raise."""
        return self.end_of(self.begin(verb))

    def end_of(self, handle: OperationHandle) -> BaseException | None:
        """Wait for an operation's end; return what its handle would raise.

        Raises:
            AssertionError: It does not end within the subject's patience.
        """
        patience = self.subject.patience
        if not handle.wait(patience):
            running = ", ".join(f"{r.hook} of {r.resource}" for r in handle.progress().running)
            msg = f"{handle.type} has not ended after {patience} s; running: {running or 'nothing'}"
            raise AssertionError(msg)
        return handle.exception(0)

    def succeed(self, verb: str, why: str = "") -> None:
        """Run *verb*.

        Raises:
            AssertionError: It does not succeed.
        """
        error = self.run(verb)
        if error is not None:
            msg = f"{verb} fails{why}: {error}"
            raise AssertionError(msg) from error
        if verb == "restore":
            self.subject.check_restored()

    def lead_up_to(self, verb: str) -> None:
        """Do what must be done before *verb* can be tried."""
        if verb != "protect":
            self.succeed("protect")

    def places(self, verb: str) -> list[HookPlace]:
        """Return the hooks that the plugins have for *verb*; to be asked after a protect."""
        what: Any = self._newest() if verb != "protect" else None
        if what is None:
            what = Plan("conformance", _PROVIDER, self.subject.resources())
        planned = self.service.plan_operation(
            verb,
            what,
            provider=None if verb == "protect" else _PROVIDER,
            parameters=self.subject.parameters_of(verb),
            to=_OTHER if verb == "copy" else "",
        )
        kinds = planned.hook_kinds
        return [
            HookPlace(
                verb, planned.graph.nodes[hook // 4], hook_name(hook), str(self.subject.directory)
            )
            for hook in range(len(kinds))
            if kinds[hook] and hasattr(planned.operations[hook // 4], hook_name(hook))
        ]

    def check_quiet(self, what: str) -> None:
        """Check that nothing is frozen and nothing is left to be undone.

        Raises:
            AssertionError: Something is.
        """
        until = time.monotonic() + self.subject.patience
        pause = threading.Event()
        while self.service.abandoned_threads or self.service.operations() or self._pending():
            if time.monotonic() > until:
                break
            pause.wait(_LOOK_EVERY)  # what returned late is undone once more, a moment later
        assert not self.service.abandoned_threads, f"{what}: a hook that was given up never returns"
        assert not (pending := self._pending()), f"{what}: {pending}"
        assert not (frozen := sorted(self.subject.frozen())), f"{what}: {frozen} stays frozen"

    def check_clean(self, what: str, before: list[str]) -> None:
        """Delete every checkpoint, and check that nothing is left of any.

        Raises:
            AssertionError: Something is left, or cannot be deleted.
        """
        for name, provider in self.service.providers.items():
            for checkpoint in provider.bank.checkpoints():
                error = self.end_of(self.service.delete(checkpoint.id, provider=name))
                assert error is None, f"{what}: its checkpoint cannot be deleted: {error}"
        self.check_quiet(what)
        left = sorted(set(self.subject.leftovers()) - set(before))
        assert not left, f"{what}: {left} is left, although every checkpoint was deleted"

    def _pending(self) -> str:
        """Return a sentence on what could not be undone, or nothing."""
        for provider in self.service.providers.values():
            for record in provider.bank.journal.operations():
                if record.abort_pending:
                    why = "; ".join(str(info.get("message")) for info in record.error_info)
                    return f"on_abort did not succeed, so that {record.type} is pending: {why}"
        return ""

    def _newest(self) -> str:
        bank = self.service.provider(_PROVIDER).bank
        return next(iter(bank.checkpoints(status=CheckpointStatus.AVAILABLE))).id


@contextlib.contextmanager
def trial(subject: Subject, **options: Any) -> Iterator[Trial]:
    """Open a :class:`Trial`; close it at the end, whatever runs."""
    opened = Trial(subject, **options)
    try:
        yield opened
    finally:
        with contextlib.suppress(KarborError):
            opened.service.close(drain=False)


def fresh(kind: type[Subject], directory: Path) -> Subject:
    """Return a prepared subject in an empty *directory*, which is made."""
    directory.mkdir(parents=True)
    subject = kind(directory)
    subject.prepare()
    return subject


def blames_a_hook(error: BaseException | None) -> BaseException | None:
    """Return what a hook raised by itself and made an operation fail, if it did."""
    for cause in getattr(error, "causes", ()):
        if isinstance(cause, HookFailedError) and not isinstance(cause.__cause__, KarborError):
            return cause
    return None
