"""What one run is: the resources, their hooks, the requests, the faults and the crashes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from karbor_actors.limits import Caps
from karbor_actors.model import RetryPolicy
from karbor_actors.testing.simulation.runner import LATEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors.testing.fault_rules import Rule
    from karbor_actors.testing.simulation.plugins import Traits


@dataclass(frozen=True, slots=True)
class Request:
    """One operation that the host asks for."""

    verb: str
    choice: int = 0
    """Which plan, or which checkpoint: modulo how many there are."""
    on_failure: str = "abort"
    cancel_after: float | None = None
    timeout: float | None = None
    at: str = "local"
    """In which bank the checkpoint is looked for."""
    again: bool = False
    """Of a copy: whether it is made although there is one."""


@dataclass(frozen=True, slots=True)
class Change:
    """Other resources depend on each other from some moment on."""

    process: int
    """In which process, from 0."""
    after: float
    """The virtual time."""
    children: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Closing:
    """How a service is closed while operations run."""

    after: float
    """The virtual time."""
    drain: bool = True
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """One life of the simulated process."""

    rules: Sequence[Rule] = ()
    crash: Rule | None = None
    closing: Closing | None = None
    is_hasty: bool = False
    """Whether the host asks for more before what was recovered has ended."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    seed: int
    children: Mapping[str, Sequence[str]]
    """By resource id."""
    traits: Mapping[str, Traits]
    plans: Sequence[Sequence[str]]
    """The resource ids that each plan names."""
    batches: Sequence[Sequence[Request]]
    """What is asked for at once, one batch after the other."""
    processes: Sequence[Process]
    """The lives, but for the last, in which nothing goes wrong."""
    workers: int = 2
    recover: str = "resume"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    caps: Caps = field(default_factory=Caps)
    latest: float = LATEST
    """Seconds that bodies that were given up take to return at most."""

    retries: Mapping[str | tuple[str, str], RetryPolicy] = field(default_factory=dict)
    """What is tried otherwise than *retry* says."""
    changes: Sequence[Change] = ()
    """What becomes of *children* meanwhile."""

    @property
    def policies(self) -> Mapping[str | tuple[str, str], RetryPolicy]:
        """How often hooks are tried, as a provider takes it."""
        return {"*": self.retry, **self.retries}


def without_faults(scenario: Scenario) -> Scenario:
    """Return *scenario* with one process, in which nothing goes wrong."""
    return replace(scenario, processes=())
