"""The pytest plugin: fixtures for tests of plugins and of programs that embed the engine.

A package of its own, which imports the engine only when a fixture is used: pytest loads it in
every environment that has karbor-actors, and most tests there do not want it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from karbor_actors.testing import Crash, FaultPlan, Rule, SimulatedService


@pytest.fixture
def fault_plan() -> Iterator[Callable[..., FaultPlan]]:
    """Return ``fault_plan(*rules, seed=0)``, which lets faults strike until the test's end.

    It returns the FaultPlan, whose ``fired`` says what struck. A second call replaces the first.
    """
    from karbor_actors.testing import FaultPlan  # noqa: PLC0415 - see the module's docstring

    with contextlib.ExitStack() as installed:

        def install(*rules: Rule, seed: int = 0) -> FaultPlan:
            installed.close()
            return installed.enter_context(FaultPlan(rules, seed).installed())

        yield install


@pytest.fixture
def simulated_service(tmp_path: Path) -> Iterator[Callable[..., SimulatedService]]:
    """Return ``simulated_service(seed=0, rules=())``: a service in virtual time.

    A second call closes the first, and finds its banks: it is the next process.
    """
    from karbor_actors.testing import SimulatedService  # noqa: PLC0415 - see above

    with contextlib.ExitStack() as opened:

        def start(**options: object) -> SimulatedService:
            opened.close()
            return opened.enter_context(SimulatedService(tmp_path, **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def crash_points(tmp_path: Path) -> Callable[..., Iterator[Crash]]:
    """Return ``crash_points(live)``, which kills a simulated process at each point that it passes.

    See :func:`karbor_actors.testing.crash_everywhere`.
    """
    from karbor_actors.testing import crash_everywhere  # noqa: PLC0415 - see above

    def everywhere(
        live: Callable[[SimulatedService, bool], None], **options: object
    ) -> Iterator[Crash]:
        return crash_everywhere(tmp_path / "crashes", live, **options)  # type: ignore[arg-type]

    return everywhere
