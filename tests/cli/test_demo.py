"""The demo: the whole job on real input, and a failure when anything differs."""

from __future__ import annotations

import os
import signal


def test_the_demo_restores_every_file_and_every_row(cli, tmp_path):
    cli.environment = {**cli.environment, "TMPDIR": str(tmp_path)}
    finished = cli("demo", "--json")
    document = finished.document

    names = [step["name"] for step in document["steps"]]
    assert names == ["make", "protect", "damage", "verify", "restore", "compare"]
    assert document["differences"] == []
    assert os.listdir(tmp_path) == [], "the temporary directory is removed"


def test_the_demo_prints_what_it_did_and_how_long_it_took(cli):
    finished = cli("demo")

    lines = finished.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "make",
        "protect",
        "damage",
        "verify",
        "restore",
        "compare",
    ]
    assert "all equal" in lines[-2]
    assert lines[-1].startswith("restored as it was")


def test_the_demo_fails_if_one_byte_differs(cli):
    finished = cli("demo", "--tamper", code=11)

    assert "big.bin differs in contents" in finished.out
    assert len(finished.errors) == 1


def test_the_demo_keeps_its_directory_if_it_is_named(cli, tmp_path):
    cli("demo", "--directory", "kept")
    [checkpoint] = cli("checkpoints", "list", "--bank", "kept/bank", "--json").document

    assert checkpoint["status"] == "available"
    assert sorted(os.listdir(tmp_path / "kept")) == ["application", "bank", "restored"]
    assert "not empty" in cli.fails(5, "demo", "--directory", "kept")


def test_a_demo_that_is_stopped_removes_its_directory(cli, tmp_path):
    cli.environment = {**cli.environment, "TMPDIR": str(tmp_path)}
    with cli.start("demo") as process:
        process.stdout.readline()  # the application is made, and written
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()

    assert process.returncode == 130
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
