"""Making things fail on purpose, by a seed: in a test, a benchmark, or a daemon under test."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import lmdb
import pykka

from karbor_actors import faultpoints
from karbor_actors.arguments import check_instance
from karbor_actors.bank.database.mapping import data_file
from karbor_actors.errors import DispatcherClosedError, FaultPlanError, InjectedFaultError
from karbor_actors.testing.fault_rules import Action, Point, Rule, read_rules
from karbor_actors.testing.power import tear

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOG = logging.getLogger("karbor_actors.testing")
VARIABLE = "KARBOR_ACTORS_FAULTS"
"""The environment variable that :func:`install_faults_from_environment` reads."""
_LOOK_EVERY = 0.02
_IDENTITY = frozenset({"operation", "type", "id", "hook", "attempt", "actor", "message"})
"""The facts that are the same in each run of a test; paths and object names are not."""


@dataclass(frozen=True, slots=True)
class Fired:
    """A fault that struck."""

    rule: Rule
    facts: tuple[tuple[str, str], ...]
    """Where, by name, sorted."""

    def __str__(self) -> str:
        where = " ".join(f"{name}={value}" for name, value in self.facts)
        return f"{self.rule.point} {self.rule.action} {where}"


class _Again:
    """A message that an actor was told and gets now, without another fault."""

    __slots__ = ("message",)

    def __init__(self, message: Any) -> None:
        self.message = message


class FaultPlan:
    """Rules, and the seed that decides when those with a probability strike. Any thread.

    Equal seeds and equal rules strike at the same hooks, whatever order threads come in;
    only ``nth`` and ``times`` count in the order of arrival.

    Args:
        rules: The first that strikes at a point is the only one.
        seed: For the probabilities.
    """

    def __init__(self, rules: Iterable[Rule] = (), seed: int = 0) -> None:
        check_instance("rules", rules, Iterable, "rules, in a list")
        check_instance("seed", seed, int, "a whole number")
        self.rules, self.seed = tuple(rules), seed
        for rule in self.rules:
            check_instance("a rule", rule, Rule, "a Rule")
        self.fired: list[Fired] = []
        """What struck, in order."""
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._matches: Counter[int] = Counter()
        self._strikes: Counter[int] = Counter()
        self._met: Counter[tuple[Any, ...]] = Counter()
        self._before_cut: dict[str, bytes] = {}
        """By path: the records as they were before the commit that a power cut interrupts."""
        self._at: dict[Point, list[tuple[int, Rule]]] = {}
        for number, rule in enumerate(self.rules):
            self._at.setdefault(rule.point, []).append((number, rule))

    def __repr__(self) -> str:
        return f"<FaultPlan seed={self.seed} rules={len(self.rules)} fired={len(self.fired)}>"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan in *text*: ``{"seed": 1, "rules": [{"point": ..., "action": ...}]}``.

        Raises:
            FaultPlanError: It is no plan.
        """
        seed, rules = read_rules(text)
        return cls(rules, seed)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Self]:
        """Let the faults strike in this process, within; then release what hangs.

        Raises:
            RuntimeError: Another plan is installed.
        """
        faultpoints.install(self)
        try:
            yield self
        finally:
            faultpoints.remove(self)
            self.release()

    def release(self) -> None:
        """Let go on what hangs or is slow, now and later."""
        self._released.set()

    def draw(self, point: Point, facts: Mapping[str, str]) -> Rule | None:
        """Return the rule that strikes at *point*, noted as fired; None if none does."""
        for number, rule in self._at.get(point, ()):
            if not rule.matches(facts):
                continue
            with self._lock:
                if self._strikes_now(number, rule, facts):
                    self._strikes[number] += 1
                    fired = Fired(rule, tuple(sorted(facts.items())))
                    self.fired.append(fired)
                    _LOG.info("a fault strikes: %s", fired)
                    return rule
        return None

    def _strikes_now(self, number: int, rule: Rule, facts: Mapping[str, str]) -> bool:
        self._matches[number] += 1
        if rule.times is not None and self._strikes[number] >= rule.times:
            return False
        if rule.nth is not None and self._matches[number] != rule.nth:
            return False
        if rule.probability >= 1:
            return True
        place = (number, *sorted(item for item in facts.items() if item[0] in _IDENTITY))
        self._met[place] += 1
        drawn = repr((self.seed, place, self._met[place])).encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(drawn, digest_size=8).digest()
        return int.from_bytes(digest, "big") < rule.probability * 2**64

    # -- the injector

    def on_hook(self, attempt: Any, when: str) -> None:
        """See Injector."""
        point = Point.HOOK_BEFORE if when == "before" else Point.HOOK_AFTER
        rule = self.draw(point, hook_facts(attempt)) if point in self._at else None
        if rule is None:
            return
        if rule.action is Action.HANG:
            self.hang(attempt)
        else:
            self._strike(rule)

    def on_message(self, actor: Any, message: Any) -> Any:
        """See Injector."""
        if type(message) is _Again:
            return message.message
        if Point.MESSAGE not in self._at or type(actor).__module__.startswith("karbor_actors.bank"):
            return message
        facts = {"actor": type(actor).__name__, "message": type(message).__name__}
        rule = self.draw(Point.MESSAGE, facts)
        if rule is None:
            return message
        mailbox = actor.actor_inbox
        match rule.action:
            case Action.LOSE:
                return faultpoints.NOTHING
            case Action.DUPLICATE:
                mailbox.items.append(_Again(message))
                return message
            case Action.REORDER if mailbox.items:
                mailbox.items.append(_Again(message))
                return faultpoints.NOTHING
            case Action.REORDER | Action.DELAY:
                is_late = rule.action is Action.DELAY  # else only after what others do now
                _tell_later(actor, message, rule.seconds if is_late else 0.0)
                return faultpoints.NOTHING
        self._strike(rule)
        return message

    def on_commit(self, path: str, when: str) -> None:
        """See Injector."""
        if when == "after" and path in self._before_cut:
            file = Path(data_file(path))
            self.cut_power(file, tear(self._before_cut.pop(path), file.read_bytes(), self.seed))
            return
        point = Point.COMMIT_BEFORE if when == "before" else Point.COMMIT_AFTER
        rule = self.draw(point, {"path": path}) if point in self._at else None
        if rule is None:
            return
        if rule.action is Action.POWER_CUT:
            self._before_cut[path] = Path(data_file(path)).read_bytes()
            return
        if rule.action is Action.MAP_FULL:
            raise lmdb.MapFullError("an injected fault")
        if rule.action is Action.DISK_FULL:
            raise lmdb.DiskError("an injected fault: no space left on device")
        if rule.action is Action.FAIL:
            raise lmdb.Error("an injected fault: input/output error")
        self._strike(rule)

    def on_put(self, name: str, when: str) -> None:
        """See Injector."""
        point = Point.PUT_BEFORE if when == "before" else Point.PUT_AFTER
        rule = self.draw(point, {"name": name}) if point in self._at else None
        if rule is None:
            return
        if rule.action is Action.DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if rule.action is Action.FAIL:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._strike(rule)

    def _strike(self, rule: Rule) -> None:
        """Do what can be done anywhere."""
        match rule.action:
            case Action.RAISE:
                raise InjectedFaultError(f"an injected fault: {rule.point} {rule.action}")
            case Action.EXIT:
                raise SystemExit(f"an injected fault: {rule.point} {rule.action}")
            case Action.SLOW:
                self.wait(rule.seconds)
            case Action.KILL:
                self.kill()

    # -- how it is done here; a simulation does it otherwise

    def wait(self, seconds: float) -> None:
        """Take so long."""
        self._released.wait(seconds)

    def hang(self, attempt: Any) -> None:
        """Come back when released, or once the engine has given *attempt* up."""
        while not attempt.is_fenced and not self._released.wait(_LOOK_EVERY):
            pass

    def kill(self) -> None:
        """End the process at once."""
        os.kill(os.getpid(), signal.SIGKILL)

    def cut_power(self, file: Path, left: bytes) -> None:
        """End the process, with *left* as what the disk has of the records in *file*."""
        with file.open("r+b", buffering=0) as records:
            records.write(left)
            records.truncate()
            self.kill()


def hook_facts(attempt: Any) -> dict[str, str]:
    """Return what a rule may ask about one attempt of a hook."""
    resource = attempt.run.planned.graph.nodes[attempt.resource]
    return {
        "operation": str(attempt.run.type),
        "type": resource.type,
        "id": resource.id,
        "hook": str(attempt.hook),
        "attempt": str(attempt.number),
    }


def _tell_later(actor: Any, message: Any, seconds: float) -> None:
    ref, dispatcher = actor.actor_ref, actor.actor_inbox.dispatcher

    def tell() -> None:
        with contextlib.suppress(pykka.ActorDeadError):  # it came too late, as messages do
            ref.tell(_Again(message))

    with contextlib.suppress(DispatcherClosedError):
        dispatcher.call_later(seconds, tell)


def install_faults_from_environment() -> FaultPlan | None:
    """Install the plan that ``KARBOR_ACTORS_FAULTS`` holds or names the file of, if it is set.

    For a daemon under test, which calls this when it starts; nothing calls it by itself. What
    comes from the environment can make things fail or kill the process, and nothing else.

    Raises:
        FaultPlanError: It holds no plan.
        RuntimeError: Another plan is installed.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return None
    if not given.startswith("{"):
        try:
            given = Path(given).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise FaultPlanError(f"{VARIABLE} names no plan of faults: {error}") from error
    plan = FaultPlan.from_json(given)
    faultpoints.install(plan)
    _LOG.warning("faults are injected: %s (from %s)", plan, VARIABLE)
    return plan
