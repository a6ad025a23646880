"""Lost and damaged blocks: no new checkpoint counts on them, and the data at hand heals them."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import pytest

from karbor_actors import Bank, Plan, Resource
from karbor_actors.errors import BlockCorruptError, BlockMissingError
from karbor_actors.graph import build_graph

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors import BankSection

THING = Resource("Test::Thing", "one")
DATA = random.Random(7).randbytes(3_000_000)


def new_section(bank: Bank) -> BankSection:
    plan = Plan("plan", "local", [THING])
    graph = build_graph([THING], lambda _: [])
    return bank.create_checkpoint(plan, "local", graph).get_resource_bank_section(THING)


def only_pack(path: Path) -> Path:
    (pack,) = [p for p in (path / "objects").rglob("*") if p.is_file() and p.stat().st_size > 1e6]
    return pack


def damage(path: Path, how: str) -> None:
    pack = only_pack(path)
    if how == "lost":
        pack.unlink()
    elif how == "cut":
        pack.write_bytes(pack.read_bytes()[:-1000])
    else:
        content = bytearray(pack.read_bytes())
        content[1_500_000] ^= 0xFF
        pack.write_bytes(content)


@pytest.mark.parametrize("how", ["lost", "cut", "flipped"])
def test_what_is_lost_is_stored_anew_and_older_checkpoints_are_whole_again(tmp_path, how):
    path = tmp_path / "bank"
    with Bank.open(path) as bank:
        old = new_section(bank)
        old.write_stream("data", io.BytesIO(DATA))
    damage(path, how)
    with Bank.open(path) as bank:
        (checkpoint,) = bank.checkpoints()
        old = checkpoint.get_resource_bank_section(THING)
        with pytest.raises((BlockMissingError, BlockCorruptError)), old.open_stream("data") as file:
            file.read()
    with Bank.open(path) as bank:  # another process, which knows it from the records only
        section = new_section(bank)
        section.write_stream("data", io.BytesIO(DATA))
        for found in (section, bank.checkpoints()[-1].get_resource_bank_section(THING)):
            with found.open_stream("data") as file:
                assert file.read() == DATA
        bank.compact()
        assert bank.check(deep=True) == []


@pytest.mark.parametrize("how", ["lost", "cut", "flipped"])
def test_a_stream_with_lost_blocks_is_not_reused(tmp_path, how):
    path = tmp_path / "bank"
    with Bank.open(path) as bank:
        new_section(bank).write_stream("data", io.BytesIO(DATA))
    damage(path, how)
    with Bank.open(path) as bank:
        old = bank.checkpoints()[0].get_resource_bank_section(THING)
        (stream,) = old.list_streams()
        if how == "flipped":
            with pytest.raises(BlockCorruptError), old.open_stream("data") as file:
                file.read()
        section = new_section(bank)
        with pytest.raises(BlockMissingError):
            section.reuse_stream(stream)
        assert section.list_streams() == []
        section.write_stream("data", io.BytesIO(DATA))
        with section.open_stream("data") as file:
            assert file.read() == DATA
