"""What a fault plan is made of: where a fault may strike, which, and how often. Frozen values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

from karbor_actors.errors import FaultPlanError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Point(StrEnum):
    """Where a fault may strike."""

    HOOK_BEFORE = "hook_before"
    """On the worker, before a hook's body."""
    HOOK_AFTER = "hook_after"
    """On the worker, after the body returned: what it did is done, and nobody knows."""
    MESSAGE = "message"
    """When an actor of an operation takes a message that it was told."""
    COMMIT_BEFORE = "commit_before"
    """Before a commit of a bank's records."""
    COMMIT_AFTER = "commit_after"
    """When a commit is durable, and nobody knows."""
    PUT_BEFORE = "put_before"
    """Before an object is put into the bank's object store."""
    PUT_AFTER = "put_after"
    """When an object is durable, and nobody knows."""


class Action(StrEnum):
    """What happens there."""

    RAISE = "raise"
    """An InjectedFaultError is raised; in an actor it is that actor's death."""
    EXIT = "exit"
    """SystemExit is raised, as by plugins that end the process."""
    HANG = "hang"
    """Nothing, until the plan is released or the engine has given the hook up."""
    SLOW = "slow"
    """It takes ``seconds`` longer."""
    KILL = "kill"
    """The process is killed with SIGKILL."""
    LOSE = "lose"
    """The message is lost."""
    DUPLICATE = "duplicate"
    """The message comes twice."""
    DELAY = "delay"
    """The message comes ``seconds`` later."""
    REORDER = "reorder"
    """The message comes after those that wait behind it."""
    FAIL = "fail"
    """An input/output error; nothing is durable."""
    MAP_FULL = "map_full"
    """The map of the records is full, and grows."""
    DISK_FULL = "disk_full"
    """No space is left; nothing is durable."""
    POWER_CUT = "power_cut"
    """The process is killed, and of the commit only some of the writes have reached the disk."""


_HOOK = {Action.RAISE, Action.EXIT, Action.HANG, Action.SLOW, Action.KILL}
ACTIONS: Mapping[Point, frozenset[Action]] = {
    Point.HOOK_BEFORE: frozenset(_HOOK),
    Point.HOOK_AFTER: frozenset(_HOOK),
    Point.MESSAGE: frozenset(
        {
            Action.RAISE,
            Action.EXIT,
            Action.KILL,
            Action.LOSE,
            Action.DUPLICATE,
            Action.DELAY,
            Action.REORDER,
        }
    ),
    Point.COMMIT_BEFORE: frozenset(
        {
            Action.FAIL,
            Action.MAP_FULL,
            Action.DISK_FULL,
            Action.SLOW,
            Action.KILL,
            Action.POWER_CUT,
        }
    ),
    Point.COMMIT_AFTER: frozenset({Action.SLOW, Action.KILL}),
    Point.PUT_BEFORE: frozenset({Action.FAIL, Action.DISK_FULL, Action.SLOW, Action.KILL}),
    Point.PUT_AFTER: frozenset({Action.FAIL, Action.SLOW, Action.KILL}),
}
"""What may happen at each point."""

_HOOK_FACTS = frozenset({"operation", "type", "id", "hook", "attempt"})
FACTS: Mapping[Point, frozenset[str]] = {
    Point.HOOK_BEFORE: _HOOK_FACTS,
    Point.HOOK_AFTER: _HOOK_FACTS,
    Point.MESSAGE: frozenset({"actor", "message"}),
    Point.COMMIT_BEFORE: frozenset({"path"}),
    Point.COMMIT_AFTER: frozenset({"path"}),
    Point.PUT_BEFORE: frozenset({"name"}),
    Point.PUT_AFTER: frozenset({"name"}),
}
"""What a rule may ask about at each point.

A hook: the verb, the resource's type and id, the hook, the attempt's number. A message: the
class names of the actor and of the message. A commit: where the records are. A put: the
object's name.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault: where it strikes, what happens, and how often.

    Args:
        point: Where: a :class:`Point` or its value.
        action: What: an :class:`Action` or its value.
        where: Patterns (as ``fnmatch`` has them) by the names in :data:`FACTS`: the rule
            matches what fits all of them.
        probability: The chance of each match, drawn from the plan's seed.
        nth: Strike at the nth match only, counted from 1.
        times: Strike so often at most.
        seconds: How long ``slow`` and ``delay`` take.

    Raises:
        FaultPlanError: The point has no such action or fact, or a number is out of range.
    """

    point: Point
    action: Action
    where: Mapping[str, str] = field(default_factory=dict)
    probability: float = 1.0
    nth: int | None = None
    times: int | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "point", Point(self.point))
            object.__setattr__(self, "action", Action(self.action))
        except ValueError as error:
            raise FaultPlanError(f"a rule of faults: {error}") from error
        if self.action not in ACTIONS[self.point]:
            fitting = ", ".join(sorted(ACTIONS[self.point]))
            raise FaultPlanError(f"{self.point} cannot {self.action}; it can {fitting}")
        if strangers := sorted(set(self.where) - FACTS[self.point]):
            asked = ", ".join(sorted(FACTS[self.point]))
            raise FaultPlanError(f"{self.point} has no {strangers[0]!r}; it has {asked}")
        if not all(isinstance(pattern, str) for pattern in self.where.values()):
            raise FaultPlanError(f"the patterns of a rule are strings, not {self.where!r}")
        if not 0 <= self.probability <= 1:
            raise FaultPlanError(f"a probability is from 0 to 1, not {self.probability!r}")
        for name in ("nth", "times"):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, int) and number >= 1):
                raise FaultPlanError(f"{name} is a whole number from 1, not {number!r}")
        if not self.seconds >= 0:
            raise FaultPlanError(f"seconds are 0 or more, not {self.seconds!r}")

    def matches(self, facts: Mapping[str, str]) -> bool:
        """Return whether *facts* fit all patterns."""
        return all(fnmatchcase(facts[name], pattern) for name, pattern in self.where.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as plain data, without what is as usual."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {"where": {}, "probability": 1.0, "nth": None, "times": None, "seconds": 1.0}
        said = {name: value for name, value in plain.items() if usual.get(name, "") != value}
        return {**said, "point": str(self.point), "action": str(self.action)}

    @classmethod
    def from_dict(cls, plain: Any) -> Self:
        """Return the rule that :meth:`to_dict` gave.

        Raises:
            FaultPlanError: It is none.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(plain, dict) or not {"point", "action"} <= set(plain) <= known:
            raise FaultPlanError(f"a rule has a point, an action and more, not {plain!r}")
        if not isinstance(plain.get("where", {}), dict):
            raise FaultPlanError(f"where is a table of patterns, not {plain['where']!r}")
        try:
            return cls(**plain)
        except TypeError as error:
            raise FaultPlanError(f"a rule of faults: {error}") from error


def read_rules(text: str) -> tuple[int, list[Rule]]:
    """Return the seed and the rules in *text*, JSON: ``{"seed": 1, "rules": [{...}]}``.

    Raises:
        FaultPlanError: It is something else.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FaultPlanError(f"the plan of faults is no JSON: {error}") from error
    if not isinstance(plain, dict) or not set(plain) <= {"seed", "rules"}:
        raise FaultPlanError('a plan of faults is {"seed": ..., "rules": [...]}')
    seed, rules = plain.get("seed", 0), plain.get("rules", [])
    if not isinstance(seed, int) or not isinstance(rules, list):
        raise FaultPlanError("the seed is a whole number, the rules are a list")
    return seed, [Rule.from_dict(rule) for rule in rules]
