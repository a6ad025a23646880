"""The commands about a bank itself: what is damaged, what is made again, who may write it."""

from __future__ import annotations

from karbor_actors import Bank
from karbor_actors.bank.transactions import Table


def damage_row(path, checkpoint_id):
    with Bank.open(path) as bank:
        key = bank.checkpoint(checkpoint_id).number.to_bytes(8, "big") + b"\0"
        bank.writer.write(lambda transaction: transaction.put(Table.CHECKPOINTS, key, b"\xc1"))


def test_a_damaged_record_is_an_error_of_the_listing_after_the_good_ones(cli, tmp_path, app):
    damaged, good = cli.protect("app"), cli.protect("app")
    damage_row(tmp_path / "bank", damaged)

    listed = cli("checkpoints", "list", "--bank", "bank", code=11)
    assert listed.out.splitlines()[1].split()[0] == good
    assert len(listed.out.splitlines()) == 2
    assert "1 checkpoint's record is damaged; see: karbor-actors bank check" in listed.errors[-1]
    as_json = cli("checkpoints", "list", "--bank", "bank", "--json", code=11)
    assert [one["id"] for one in as_json.document] == [good]
