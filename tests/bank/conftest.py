"""What the bank's tests share: an open bank with a checkpoint."""

from __future__ import annotations

import pytest

from banks import SERVER, make_graph
from karbor_actors.bank.bank import Bank


@pytest.fixture
def graph():
    return make_graph()


@pytest.fixture
def bank(tmp_path):
    with Bank.open(tmp_path / "bank") as bank:
        yield bank


@pytest.fixture
def checkpoint(bank, graph):
    return bank.create_checkpoint({"name": "nightly", "provider": "local"}, "local", graph)


@pytest.fixture
def section(checkpoint):
    return checkpoint.get_resource_bank_section(SERVER)
