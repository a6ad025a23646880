"""Which hooks an Operation object has."""

from __future__ import annotations

from typing import Any

from karbor_actors import Operation
from karbor_actors.operations.hooks.calls import ABSENT, SYNC, HookTable


def test_a_hook_that_is_set_on_the_object_leaves_its_empty_ones_empty() -> None:
    class Quiet(Operation):
        pass

    def on_main(*_: Any, **__: Any) -> None:
        pass

    operation: Any = Quiet()
    operation.on_main = on_main
    table = HookTable()

    assert table.kinds(Quiet()) == bytes([ABSENT] * 5)
    assert table.kinds(operation) == bytes([ABSENT, ABSENT, SYNC, ABSENT, ABSENT])
