"""The demo's comparison: it notices whatever differs, so that its silence means something."""

from __future__ import annotations

import os
import shutil
from contextlib import closing

import pytest

from karbor_actors.cli import demo_application, demo_writer
from karbor_actors.cli.demo_compare import (
    compare_databases,
    compare_trees,
    describe_tree,
    read_ledger,
)

DATABASE = demo_application.DATABASE


@pytest.fixture
def trees(tmp_path):
    """The application, and a copy of it that is equal."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    demo_application.make(original)
    shutil.copytree(original, copy, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    os.mkfifo(copy / "pipe")
    for path in ("hard", "copies/hard"):
        (copy / path).unlink()
    (copy / "hard").hardlink_to(copy / "big.bin")
    (copy / "copies" / "hard").hardlink_to(copy / "copies" / "one")
    for folder, directories, files in os.walk(original, topdown=False):
        for name in [*directories, *files, "."]:
            source = os.path.join(folder, name)
            target = os.path.join(copy, os.path.relpath(source, original))
            status = os.lstat(source)
            if not os.path.islink(source):
                os.chmod(target, status.st_mode & 0o7777)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(target, ns=times, follow_symlinks=False)
    return original, copy


def differences(trees):
    return compare_trees(*(describe_tree(tree, DATABASE) for tree in trees))


def test_equal_trees_do_not_differ(trees):
    assert differences(trees) == []


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda copy: (copy / "empty").unlink(), "empty is missing"),
        (lambda copy: (copy / "added").write_text("x"), "added is new"),
        (lambda copy: (copy / "run.sh").chmod(0o644), "run.sh differs in mode"),
        (lambda copy: os.utime(copy / "run.sh", ns=(0, 1)), "run.sh differs in mtime_ns"),
        (lambda copy: os.truncate(copy / "sparse.img", 5), "sparse.img differs in mtime_ns, size"),
        (lambda copy: os.replace(copy / "link", copy / "dangling"), "link is missing"),
        (
            lambda copy: (
                shutil.copy2(copy / "copies/two", copy / "x") and (copy / "x").rename(copy / "hard")
            ),
            "hard differs in",
        ),
    ],
)
def test_each_kind_of_difference_is_noticed(trees, change, difference):
    change(trees[1])

    assert any(found.startswith(difference) for found in differences(trees))


def test_the_damage_is_noticed(trees):
    hurt = demo_application.damage(trees[1])

    assert len(differences(trees)) >= hurt - 1  # the database is compared by its rows


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "ledger.db"
    demo_writer.create(str(path))
    return path


COUNT = demo_writer.FIRST_TRANSFERS


def test_a_database_of_whole_transfers_does_not_differ(database):
    found, rows = compare_databases(read_ledger(database), database, least=COUNT, most=COUNT)

    assert found == []
    assert rows == 3 * COUNT + demo_writer.ACCOUNTS


@pytest.mark.parametrize(
    ("sql", "difference"),
    [
        ("UPDATE ledger SET note = x'00' WHERE id = 7", "row 7 of the ledger differs"),
        ("DELETE FROM ledger WHERE id = 7", "row 7 of the ledger differs"),
        ("INSERT INTO ledger VALUES (-1, 0, 0, 0, '')", "row -1 of the ledger differs"),
        (f"DELETE FROM ledger WHERE id = {3 * COUNT - 1}", "of the ledger differs"),
        ("UPDATE accounts SET balance = balance + 1 WHERE id = 3", "account 3 has"),
        ("INSERT INTO accounts VALUES (999, 0)", "account 999 is new"),
        (f"DELETE FROM ledger WHERE transfer >= {COUNT // 2}", "transfers, not"),
    ],
)
def test_each_kind_of_wrong_row_is_noticed(database, sql, difference):
    original = read_ledger(database)
    with closing(demo_writer.connect(str(database))) as connection:
        connection.execute(sql)
    found, _ = compare_databases(original, database, least=COUNT, most=COUNT)

    assert any(difference in one for one in found)


def test_the_writer_makes_whole_transfers_until_it_is_told_to_stop(tmp_path):
    (tmp_path / "data").mkdir()
    demo_writer.create(str(tmp_path / DATABASE))
    with demo_application.running_writer(tmp_path) as writer:
        while writer.transfers() < COUNT + 10:
            pass
        least = writer.transfers()
    rows = read_ledger(tmp_path / DATABASE)
    found, _ = compare_databases(rows, tmp_path / DATABASE, least=least, most=len(rows))

    assert found == []
