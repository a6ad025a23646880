"""The quick look at one's own machine: that it measures and cleans up; its figures mean nothing."""

from __future__ import annotations

import os

SMALL = ("--size", "40", "--size", "400", "--megabytes", "2")


def test_the_figures_are_a_document(cli, tmp_path):
    document = cli("bench", *SMALL, "--directory", str(tmp_path), "--json").document

    assert [row["hooks"] for row in document["hooks"]] == [40, 400]
    assert all(row["per_second"] > 0 < row["pool_per_second"] for row in document["hooks"])
    assert [row["threads"] for row in document["writes"]] == [1, 64]
    assert all(row["per_second"] > 0 for row in document["writes"])
    assert document["files"]["bytes"] == 2 << 20
    assert document["files"]["protect_per_second"] > 0 < document["files"]["restore_per_second"]
    assert document["machine"]["cores"] >= 1
    assert os.listdir(tmp_path) == []


def test_the_figures_are_tables_for_a_person(cli, tmp_path):
    lines = cli("bench", *SMALL, "--directory", str(tmp_path)).out.splitlines()

    assert [line.split()[0] for line in lines if line] == [
        "HOOKS",
        "40",
        "400",
        "DURABLE",
        "1",
        "64",
        "FILES",
        "protect",
        "restore",
    ]


def test_a_directory_that_is_not_there_is_refused_before_anything_is_measured(cli, tmp_path):
    assert "does not exist" in cli.fails(2, "bench", "--directory", str(tmp_path / "missing"))


def test_less_than_one_resource_is_refused(cli):
    assert "--size" in cli.fails(2, "bench", "--size", "3")
