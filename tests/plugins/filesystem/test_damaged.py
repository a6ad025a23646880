"""Restoring what is left of a directory whose data is damaged in the bank."""

from __future__ import annotations

import os

import pytest

from karbor_actors.errors import BankError
from karbor_filesystem.data import SMALL
from plugins.hooks import Context
from plugins.trees import describe

TYPE = "FileSystem::Directory"


def damage(bank, data):
    """Change a byte of *data*, which does not compress, where the bank keeps it."""
    for path in (bank / "objects").rglob("*"):
        content = bytearray(path.read_bytes() if path.is_file() else b"")
        place = content.find(data)
        if place >= 0:
            content[place] ^= 1
            path.write_bytes(content)
            return
    pytest.fail("the bank does not have it")


@pytest.fixture
def damaged(case, tmp_path):
    """A checkpoint in which one file, which has two names, is damaged."""
    data = os.urandom(3 * SMALL)
    (case.source / "bad").write_bytes(data)
    (case.source / "good").write_bytes(os.urandom(3 * SMALL))
    (case.source / "sub").mkdir()
    (case.source / "sub" / "small").write_text("content")
    os.link(case.source / "bad", case.source / "sub" / "other-name")
    checkpoint = case.driver.protect(case.resource)
    damage(tmp_path / "bank", data[100:200])
    return checkpoint


def test_damaged_data_ends_a_restore_unless_it_is_told_otherwise(case, damaged):
    context = Context()
    parameters = {"target": str(case.target)}
    with pytest.raises(BankError, match="block"):
        case.driver.run("restore", damaged, case.resource, context, parameters)
    case.driver.abort("restore", damaged, case.resource, context, **parameters)

    assert not case.target.exists()


def test_a_restore_may_leave_out_what_is_damaged_and_names_it(case, damaged, caplog):
    target = str(case.target)
    case.driver.restore(damaged, case.resource, target=target, damaged="skip")

    before, after = describe(case.source), describe(case.target)
    assert before.keys() - after.keys() == {b"./bad", b"./sub/other-name"}
    assert after.keys() < before.keys()  # no part of a file stays, under any name
    assert (case.target / "good").read_bytes() == (case.source / "good").read_bytes()
    assert (case.target / "sub" / "small").read_text() == "content"
    status, reason = case.driver.report.statuses[TYPE, target]
    assert status == "incomplete"
    for name in (f"{target}/bad", f"{target}/sub/other-name"):
        assert name in reason
        assert any(name in record.getMessage() for record in caplog.records)


def test_what_stands_where_a_damaged_file_belongs_stays_as_it_is(case, damaged):
    case.target.mkdir()
    (case.target / "bad").write_text("theirs")
    target = str(case.target)
    case.driver.restore(damaged, case.resource, target=target, damaged="skip", overwrite=True)

    assert (case.target / "bad").read_text() == "theirs"
    assert (case.target / "good").exists()


def test_all_files_of_a_damaged_bundle_are_left_out(case, tmp_path):
    data = os.urandom(1000)
    for name in ("one", "two", "three"):
        (case.source / name).write_bytes(data if name == "two" else os.urandom(1000))
    (case.source / "large").write_bytes(os.urandom(2 * SMALL))
    checkpoint = case.driver.protect(case.resource)
    damage(tmp_path / "bank", data[:100])
    case.driver.restore(checkpoint, case.resource, target=str(case.target), damaged="skip")

    assert os.listdir(case.target) == ["large"]
    assert "3 files are not restored" in case.driver.report.statuses[TYPE, str(case.target)][1]


def test_a_whole_checkpoint_is_reported_as_such(case):
    (case.source / "file").write_text("content")
    checkpoint = case.driver.protect(case.resource)
    case.driver.restore(checkpoint, case.resource, target=str(case.target), damaged="skip")

    assert case.driver.report.statuses == {}
