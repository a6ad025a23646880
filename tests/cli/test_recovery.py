"""What a killed process left: it is shown, gone on with, undone, and never passed over in silence."""

from __future__ import annotations

import json
import signal

import pytest

from helpers import DEADLINE
from karbor_actors import Bank

CONFIG = ("--config", "slow.toml")


@pytest.fixture
def thing(slow_config, tmp_path):
    return tmp_path / "thing"


def listed(cli):
    return cli("operations", "list", *CONFIG, "--json").document


def test_an_operation_whose_process_died_is_listed_as_interrupted(cli, thing):
    left = cli.killed_protect()

    [operation] = listed(cli)
    assert (operation["id"], operation["status"]) == (left, "interrupted")
    assert " interrupted " in cli("operations", "list", *CONFIG).out
    assert "status:     interrupted" in cli("operations", "show", left, *CONFIG).out


def test_an_operation_that_runs_is_not_interrupted(cli, thing):
    with cli.slow_protect():
        [operation] = listed(cli)

    assert operation["status"] == "running"


def test_an_operation_of_another_host_may_run_still(cli, thing, tmp_path):
    cli.killed_protect()
    owner = {"pid": 7, "host": "elsewhere", "machine": "m", "boot": "b", "command": "daemon"}
    (tmp_path / "bank" / "lease").write_text(json.dumps({**owner, "since": "2026-03-01T04:00:00Z"}))

    assert [one["status"] for one in listed(cli)] == ["running"]


def test_recover_undoes_what_cannot_go_on_and_says_so(cli, thing):
    left = cli.killed_protect()

    recovered = cli("recover", *CONFIG)
    assert recovered.out.startswith(f"protect {left[:8]}: failed, ")
    assert (thing / "undone").exists()
    assert "no operation was left unfinished" in cli("recover", *CONFIG).err
    assert cli("recover", *CONFIG, "--json").document == []


def test_a_bank_is_recovered_by_its_directory_alone(cli, tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "file").write_text("data")
    cli("protect", str(app), "--bank", "bank")

    recovered = cli("recover", "bank")
    assert "no operation was left unfinished" in recovered.err
    assert "there is no bank in" in cli.fails(5, "recover", "no-bank")


def test_recover_goes_on_with_what_can(cli, thing):
    (thing / "resumable").touch()
    left = cli.killed_protect()
    (thing / "finish").touch()

    [recovered] = cli("recover", "--resume", *CONFIG, "--json").document
    assert (recovered["id"], recovered["status"]) == (left, "succeeded")
    assert not (thing / "undone").exists()


def test_recover_undoes_everything_when_told_to(cli, thing):
    (thing / "resumable").touch()
    cli.killed_protect()
    (thing / "finish").touch()

    [recovered] = cli("recover", "--abort", *CONFIG, "--json").document
    assert recovered["status"] == "failed"
    assert (thing / "undone").exists()


def test_what_cannot_be_undone_is_an_exit_code_and_listed_until_it_is(cli, thing):
    (thing / "stuck").touch()
    left = cli.killed_protect()

    recovered = cli("recover", *CONFIG, code=12)
    assert "1 resource not undone yet" in recovered.out
    table = cli("operations", "list", *CONFIG).out.splitlines()
    assert table[0].endswith("ABORT PENDING")
    assert table[1].endswith(" 1")
    assert (
        cli("operations", "abort", left, *CONFIG, "--json", code=12).document["abort_pending"] == 1
    )
    (thing / "stuck").unlink()
    aborted = cli("operations", "abort", left[:6], *CONFIG).out
    assert "failed, as before, 1 resource undone" in aborted
    assert (thing / "undone").exists()
    assert "PENDING" not in cli("operations", "list", *CONFIG).out
    assert "nothing left to undo" in cli.fails(7, "operations", "abort", left, *CONFIG)


def test_an_interrupted_operation_is_resumed_by_its_id(cli, thing):
    (thing / "resumable").touch()
    left = cli.killed_protect()
    (thing / "finish").touch()

    assert f"protect {left[:8]}: succeeded" in cli("operations", "resume", left[:7], *CONFIG).out
    [checkpoint] = cli("checkpoints", "list", *CONFIG, "--json").document
    assert checkpoint["status"] == "available"
    assert "it cannot go on" in cli.fails(7, "operations", "resume", left, *CONFIG)


def test_an_operation_that_cannot_be_resumed_is_undone_and_that_is_an_error(cli, thing):
    left = cli.killed_protect()

    assert "failed" in cli.fails(8, "operations", "resume", left, *CONFIG)
    assert (thing / "undone").exists()


def test_an_interrupted_operation_is_aborted_by_its_id(cli, thing):
    (thing / "resumable").touch()
    left = cli.killed_protect()

    aborted = cli("operations", "abort", left, *CONFIG, "--json").document
    assert aborted["status"] in {"failed", "cancelled"}
    assert (thing / "undone").exists()


def test_an_operation_of_another_provider_is_left_and_said_to_be(cli, thing, tmp_path):
    left = cli.killed_protect()

    finished = cli("recover", "--bank", "bank", code=12)
    assert f"protect {left[:8]}: left as it is: it is of provider 'slow'" in finished.out
    assert "'slow'" in cli.fails(6, "operations", "abort", left, "--bank", "bank")
    assert [one["status"] for one in listed(cli)] == ["interrupted"]


def test_nothing_is_recovered_from_a_bank_that_somebody_owns(cli, thing, tmp_path):
    cli.killed_protect()
    with Bank.open(tmp_path / "bank"):
        error = cli.fails(5, "recover", *CONFIG)
        assert "is in use by process" in error
        assert "(restore and verify: --readonly)" in error
        # Who is asked only knows that there is an owner; it may have taken the operation up.
        assert [one["status"] for one in listed(cli)] == ["running"]


def test_a_killed_copy_goes_on_into_the_directory_that_it_was_for(cli, thing, tmp_path):
    (thing / "finish").touch()
    checkpoint = cli("protect", "thing", *CONFIG, "--json").document["result"]["id"]
    (thing / "finish").unlink()
    with cli.slow_protect("copy", checkpoint, "--to-bank", "other") as process:
        process.kill()
        process.wait(timeout=DEADLINE)
    (thing / "finish").touch()

    cli("copy", checkpoint, *CONFIG, "--to-bank", "third")
    assert [one["status"] for one in listed(cli)] == ["succeeded", "suspended", "succeeded"]
    assert cli("recover", *CONFIG).out.endswith(": succeeded\n")
    for name in ("other", "third"):
        [copy] = cli("checkpoints", "list", "--bank", name, "--json").document
        assert (copy["copied_from"], copy["status"]) == (checkpoint, "available")


def test_a_killed_copy_whose_target_is_not_named_waits_for_it_and_can_be_aborted(
    cli, thing, tmp_path
):
    (thing / "finish").touch()
    checkpoint = cli("protect", "thing", *CONFIG, "--json").document["result"]["id"]
    (thing / "finish").unlink()
    both = tmp_path / "both.toml"
    second = '\n[[provider]]\nname = "second"\nbank = "second"\nprotection_plugins = ["slow"]\n'
    both.write_text((tmp_path / "slow.toml").read_text() + second)
    Bank.open(tmp_path / "second").close()
    copying = ("copy", checkpoint, "--to", "second", "--provider", "slow", "--config", "both.toml")
    with cli.start(*copying, "--progress", "json", "--json") as process:
        cli.wait_for_event(process, "hook_started")
        process.kill()
        process.wait(timeout=DEADLINE)

    finished = cli("recover", *CONFIG, code=12)
    assert "suspended: it copies to provider 'second'; name that with --config" in finished.out
    finished = cli("operations", "list", *CONFIG)
    assert "WAITS FOR" in finished.out
    assert "provider 'second'" in finished.out
    left = listed(cli)[0]
    assert (left["status"], left["waits_for"]) == ("suspended", "provider 'second'")
    assert "provider 'second'" in cli("operations", "show", left["id"], *CONFIG).out
    assert "'second'" in cli.fails(6, "operations", "resume", left["id"], *CONFIG)

    finished = cli("operations", "abort", left["id"], *CONFIG)
    assert "failed" in finished.out
    assert "delete it there" in finished.out
    assert (listed(cli)[0]["status"], listed(cli)[0]["waits_for"]) == ("failed", "")


def test_ctrl_c_in_a_recovery_undoes_what_it_goes_on_with(cli, thing):
    (thing / "resumable").touch()
    cli.killed_protect()
    with cli.slow_protect("recover") as process:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert json.loads(out)["error"]["exit_code"] == 130
    assert (thing / "undone").read_text() == "cancel"
    assert [one["status"] for one in listed(cli)] == ["cancelled"]


def test_an_operation_that_cannot_be_undone_says_what_to_do(cli, thing):
    (thing / "stuck").touch()
    with cli.slow_protect() as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert "warning: 1 resource is not undone yet; try: karbor-actors recover" in err
    (thing / "stuck").unlink()
    assert "1 resource undone" in cli("recover", *CONFIG).out
