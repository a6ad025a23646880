"""What operations leave in memory: the collector looks at all that lives, again and again."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from helpers import DEADLINE
from karbor_actors import OperationError
from karbor_actors.operations.control import OperationControl
from karbor_actors.operations.supervisor import SupervisorActor
from kit import RecordingProtection, failing, plan, provider, store_something

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import ProtectionService
    from kit import Journal

PARTS = (OperationControl, SupervisorActor)
"""Not what a plugin may have kept, such as a context."""


@pytest.mark.parametrize("fails", [False, True])
def test_what_has_ended_is_gone_without_the_collector(
    service: ProtectionService, tmp_path: Path, journal: Journal, fails: bool
) -> None:
    behave = failing(("on_main", "thing")) if fails else store_something
    service.add_provider(provider(tmp_path, RecordingProtection(journal, behave)))
    gc.collect()
    gc.disable()
    try:
        handle = service.protect(plan("thing"))
        with suppress(OperationError):
            handle.result(DEADLINE)
        left, until = PARTS, time.monotonic() + DEADLINE
        while left and time.monotonic() < until:
            left = tuple(type(o) for o in gc.get_objects() if isinstance(o, PARTS))
    finally:
        gc.enable()

    assert not left
    assert handle.exception() is None or fails
