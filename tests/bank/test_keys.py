"""How rows are named: order, prefixes, long names, odd names."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karbor_actors.bank.database.keys import (
    check_name,
    check_prefix,
    decode_name,
    digest_name,
    encode_name,
    named_row,
    scan_start,
    section_prefix,
    split_row,
)
from karbor_actors.bank.database.transactions import MAX_KEY_SIZE
from karbor_actors.errors import BankFormatError, BankKeyError

FILE_NAMES = st.binary(min_size=1, max_size=600).map(
    lambda raw: os.fsdecode(raw.replace(b"\0", b"_").replace(b"/", b"_"))
)
NAMES = st.lists(
    FILE_NAMES.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=3
).map("/".join)
PREFIX = section_prefix(7, 3)


@given(NAMES)
@example("x" * 460)
@example("x" * 461)
@example("é" * 300)
def test_every_path_of_file_names_can_be_a_key(name):
    raw = encode_name(check_name(name))
    key, head = named_row(PREFIX, raw)

    assert len(key) <= 480 < MAX_KEY_SIZE
    assert split_row(PREFIX, key, head + b"value") == (raw, b"value")
    assert decode_name(raw) == name


@given(st.lists(NAMES, unique=True, max_size=20))
def test_different_names_have_different_rows_and_short_ones_keep_their_order(names):
    raws = [encode_name(name) for name in names]
    rows = [named_row(PREFIX, raw)[0] for raw in raws]

    assert len(set(rows)) == len(names)
    short = [raw for raw in raws if len(raw) <= 460]
    assert sorted(named_row(PREFIX, raw)[0] for raw in short) == [
        named_row(PREFIX, raw)[0] for raw in sorted(short)
    ]


@given(NAMES, st.integers(0, 700))
def test_whatever_a_key_begins_with_is_a_prefix(name, length):
    assert check_prefix(name[:length]) == name[:length]


@given(NAMES, st.integers(0, 700))
def test_a_scan_for_a_prefix_finds_every_name_that_begins_so(name, length):
    raw = encode_name(name)
    key, _ = named_row(PREFIX, raw)

    assert key.startswith(PREFIX + scan_start(raw[:length]))


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/.", "../a", "a/../b", "./a", "a\0b", None, 7, b"a"],
)
def test_what_is_no_key_is_refused(name):
    with pytest.raises(BankKeyError):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["a", ".a", "a.", "...", "a/..b", "a b\n", "C:\\x", "\udcff", "-", "ä/é"]
)
def test_nearly_anything_else_is_a_key(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["\ud800", "\udcc3\udca9", "x" * 70_000])
def test_what_would_not_come_back_the_same_is_refused(name):
    with pytest.raises(BankKeyError):
        encode_name(name)


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_a_damaged_row_is_an_error_of_the_bank(key, value):
    try:
        raw, rest = split_row(PREFIX, PREFIX + key, value)
    except BankFormatError:
        return
    assert named_row(PREFIX, raw)[0] == PREFIX + key or b"\0" not in key
    assert value.endswith(rest)


def test_rows_of_a_checkpoint_lie_together_in_the_order_of_its_resources():
    prefixes = [section_prefix(c, r) for c in (1, 2, 300) for r in (0, 1, 255, 256, 70_000)]

    assert prefixes == sorted(prefixes)


def test_any_name_has_a_digest():
    assert len({digest_name(name) for name in ("", "a", "\ud800", "\udcff", "x" * 10_000)}) == 5
