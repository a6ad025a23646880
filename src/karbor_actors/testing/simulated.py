"""A service in virtual time for a program's own tests, and a process that is killed everywhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from karbor_actors import Bank, Provider, faultpoints
from karbor_actors.actors.simulated import SimulatedCrash
from karbor_actors.errors import KarborError
from karbor_actors.testing.fault_rules import Action, Point, Rule
from karbor_actors.testing.simulation.process import SimulatedProcess, is_endless
from karbor_actors.testing.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from karbor_actors import Caps, ProtectionService
    from karbor_actors.testing.faults import Fired


class SimulatedService:
    """A real service and real banks on the calling thread, with a virtual clock.

    Nothing happens but in :meth:`run`: hooks too run there, one after the other, in an order
    that the seed decides, and what they wait for takes no time. An ``async def`` hook may await
    nothing real. One thread; one at a time in a process.

    Args:
        directory: Where the banks are, and whatever the hooks keep there.
        seed: Decides the order of everything, and how long it takes.
        rules: What goes wrong; ``kill`` and ``power_cut`` end the simulated process only.
        workers: As for the service.
        caps: As for the service.

    Raises:
        RuntimeError: Faults are injected already, by another one or by a plan.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int = 0,
        rules: Iterable[Rule] = (),
        workers: int = 2,
        caps: Caps | None = None,
    ) -> None:
        self.directory = directory
        self._world = World()
        self._process = SimulatedProcess(
            seed, tuple(rules), self._world, workers=workers, caps=caps
        )
        self._banks: list[Bank] = []
        faultpoints.install(self._process.faults)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def service(self) -> ProtectionService:
        """The service; its blocking waits are over at once, so wait with :meth:`run`."""
        return self._process.service

    @property
    def is_dead(self) -> bool:
        """Whether a rule has killed the simulated process."""
        return self._process.dispatcher.is_halted

    @property
    def now(self) -> float:
        """The virtual time in seconds."""
        return self._process.dispatcher.now()

    @property
    def trace(self) -> tuple[str, ...]:
        """What happened, line by line; the same for the same seed."""
        return tuple(self._world.trace)

    @property
    def fired(self) -> tuple[Fired, ...]:
        """The faults that struck, in order."""
        return tuple(self._process.faults.fired)

    @property
    def passed(self) -> dict[Point, int]:
        """How often each point was passed at which a fault may strike."""
        return dict(self._process.faults.passed)

    def add_provider(self, name: str, **options: Any) -> Provider:
        """Add a provider with a bank of its name in :attr:`directory`.

        Args:
            name: The provider's name.
            options: As for :class:`karbor_actors.Provider`, but for the bank.
        """
        bank = Bank.open(self.directory / name, dispatcher=self._process.dispatcher)
        self._banks.append(bank)
        provider = Provider(name, bank=bank, **options)
        self.service.add_provider(provider)
        return provider

    def run(self, until: float | None = None) -> None:
        """Run until nothing is left to do, or the process is dead.

        Args:
            until: A virtual time at which to stop.

        Raises:
            TimeoutError: It goes on for ever: tens of thousands of turns, or virtual hours.
        """
        self._process.run(until)
        if is_endless(self._process.dispatcher):
            raise TimeoutError(f"{self._process.dispatcher} comes to no end")

    def close(self) -> None:
        """Close everything, as the service's ``close()`` does; a dead process just ends. Idempotent."""
        try:
            if not self.is_dead:
                self.service.close()
        except SimulatedCrash:
            pass  # it died while it closed, as a fault plan may have it
        finally:
            self._bury()

    def _bury(self) -> None:
        """Close what is open, and write what a power cut left."""
        for bank in reversed(self._banks):
            with contextlib.suppress(SimulatedCrash, KarborError):  # a dead one commits nothing
                bank.close()
        self._process.bury()
        faultpoints.remove(self._process.faults)


class Crash(NamedTuple):
    """One place at which a process was killed, and the process that came after it."""

    point: Point
    nth: int
    action: Action
    after: SimulatedService
    """It has taken up what was left, and has nothing to do any more. Open until the next crash."""

    def __str__(self) -> str:
        return f"{self.action} at {self.point} {self.nth}"


def crash_everywhere(
    directory: Path,
    live: Callable[[SimulatedService, bool], None],
    points: Iterable[Point] = tuple(Point),
) -> Iterator[Crash]:
    """Kill a process at each point that it passes, and let another take up what it left.

    Args:
        directory: Where each crash gets an empty directory of its own.
        live: What a process does: it adds providers, and asks for operations if the second
            argument, whether it is the one that is killed, is true. It makes its plugins anew.
        points: At which points to kill; commits are interrupted by power cuts too.

    Yields:
        Each crash, for the test to check.
    """
    with _fresh(directory / "whole") as whole:
        live(whole, True)
        whole.run()
        passed = whole.passed
    for point in points:
        actions = [Action.KILL, *([Action.POWER_CUT] if point is Point.COMMIT_BEFORE else [])]
        for nth in range(1, passed.get(point, 0) + 1):
            for action in actions:
                yield from _crash(directory / f"{point}-{nth}-{action}", live, point, nth, action)


def _crash(
    directory: Path,
    live: Callable[[SimulatedService, bool], None],
    point: Point,
    nth: int,
    action: Action,
) -> Iterator[Crash]:
    with _fresh(directory, [Rule(point, action, nth=nth)]) as killed:
        try:
            live(killed, True)
            killed.run()
        except (SimulatedCrash, KarborError):
            if not killed.is_dead:
                raise
    with SimulatedService(directory) as after:
        live(after, False)
        after.run()
        yield Crash(point, nth, action, after)


def _fresh(directory: Path, rules: Iterable[Rule] = ()) -> SimulatedService:
    directory.mkdir(parents=True)
    return SimulatedService(directory, rules=rules)
