"""The commands about a bank itself: what is damaged, what is made again, who may write it."""

from __future__ import annotations

import json
import os
import shutil

from karbor_actors import Bank
from karbor_actors.bank.database.transactions import Table


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


def test_a_damaged_record_of_an_operation_is_an_error_of_the_listing(cli, tmp_path, app):
    cli.protect("app")
    cli.protect("app")
    with Bank.open(tmp_path / "bank") as bank:
        newest, oldest = bank.journal.operations()
        key = oldest.number.to_bytes(8, "big")
        bank.writer.write(lambda transaction: transaction.put(Table.OPERATIONS, key, b"\xc1"))

    listed = cli("operations", "list", "--bank", "bank", "--json", code=11)
    assert [one["id"] for one in listed.document] == [newest.id]
    assert "1 operation's record is damaged; see: karbor-actors bank check" in listed.errors[-1]
    cli("protect", "app", "--bank", "bank")


def test_lost_records_are_made_again(cli, tmp_path, app):
    kept = [cli.protect("app"), cli.protect("app")]
    assert "are whole" in cli.fails(5, "bank", "rebuild", "--bank", "bank")
    shutil.rmtree(tmp_path / "bank" / "bank.lmdb")

    rebuilt = cli("bank", "rebuild", "--bank", "bank", "--json").document
    assert (rebuilt["checkpoints"], rebuilt["damaged"]) == (2, {})
    listed = cli("checkpoints", "list", "--bank", "bank", "--json").document
    assert {one["id"] for one in listed} == set(kept)
    cli("restore", kept[0], "--bank", "bank", "--target", "new")
    assert (tmp_path / "new" / "hello.txt").read_text() == "hello"


def test_a_rebuild_names_what_was_not_there_any_more(cli, tmp_path, app):
    checkpoint = cli.protect("app")
    shutil.rmtree(tmp_path / "bank" / "bank.lmdb")
    for path in (tmp_path / "bank" / "objects").rglob("packs*"):
        path.unlink()

    rebuilt = cli("bank", "rebuild", "--bank", "bank", code=11)
    assert f"checkpoint {checkpoint}: " in rebuilt.out
    assert "0 whole, 1 damaged" in rebuilt.out
    assert "not all of it was there" in rebuilt.errors[-1]


def test_a_rebuild_of_nothing_is_refused(cli, tmp_path):
    assert "nothing that a bank" in cli.fails(5, "bank", "rebuild", "--bank", "bank")


def test_another_hosts_lease_is_broken_on_request_only(cli, tmp_path, app):
    cli.protect("app")
    elsewhere = {"pid": 7, "host": "elsewhere", "machine": "m", "boot": "b", "command": "daemon"}
    elsewhere["since"] = "2026-03-01T04:00:00Z"
    (tmp_path / "bank" / "lease").write_text(json.dumps(elsewhere))

    refused = cli.fails(5, "protect", "app", "--bank", "bank")
    assert "process 7 on elsewhere (daemon, since 2026-03-01T04:00:00Z)" in refused
    assert "break" in refused
    assert "say --yes" in cli.fails(2, "bank", "break-lease", "--bank", "bank")
    broken = cli("bank", "break-lease", "--bank", "bank", "--yes", "--json").document
    assert broken["owner"].startswith("process 7 on elsewhere")
    cli.protect("app")


def test_a_living_owners_lease_is_not_broken(cli, tmp_path):
    with Bank.open(tmp_path / "bank"):
        refused = cli.fails(5, "bank", "break-lease", "--bank", "bank", "--yes")
        assert f"process {os.getpid()} on " in refused
    assert "nobody owned" in cli("bank", "break-lease", "--bank", "bank").out
    assert "nowhere/lease" in cli.fails(5, "bank", "break-lease", "--bank", "nowhere")


def test_a_bank_whose_objects_are_lost_is_listed_and_its_check_says_what_is_lost(
    cli, tmp_path, app
):
    checkpoint = cli.protect("app")
    shutil.rmtree(tmp_path / "bank" / "objects")

    assert checkpoint in cli("checkpoints", "list", "--bank", "bank").out
    assert checkpoint in cli("checkpoints", "show", checkpoint, "--bank", "bank").out
    for how in ([], ["--deep"]):
        found = cli("bank", "check", "--bank", "bank", *how, code=11).out
        assert "needed blocks" in found
    cli("verify", checkpoint, "--bank", "bank", "--readonly", code=11)
    assert not (tmp_path / "bank" / "objects").exists()
