"""Dispatchers for the tests of the actor runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from helpers import DEADLINE
from karbor_actors.actors import ThreadDispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make_dispatcher() -> Iterator[Callable[..., ThreadDispatcher]]:
    """Make thread dispatchers that are closed when the test ends."""
    made: list[ThreadDispatcher] = []

    def make(*, threads: int = 1, spare: int = 0) -> ThreadDispatcher:
        made.append(ThreadDispatcher(threads=threads, name="test", spare=spare))
        return made[-1]

    yield make
    for dispatcher in made:
        dispatcher.close(timeout=DEADLINE)


@pytest.fixture
def dispatcher(make_dispatcher: Callable[..., ThreadDispatcher]) -> ThreadDispatcher:
    """A dispatcher of one thread."""
    return make_dispatcher()
