"""Words and figures as people read them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.cli.text import (
    human_bytes,
    human_count,
    human_seconds,
    iso_time,
    local_time,
    plural,
    sentence,
    shown,
)


@given(st.text() | st.binary().map(os.fsdecode))
def test_what_is_shown_is_one_printable_line(text):
    line = shown(text)

    assert line.isprintable()
    assert sentence(text).isprintable()
    if text.isprintable():
        assert line == text


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\udcff", "\\udcff"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("ümläut", "ümläut"),
        ("[red]", "[red]"),
    ],
)
def test_odd_characters_are_escaped_and_others_left(name, line):
    assert shown(name) == line


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (150 * 1024, "150 KiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_bytes_have_a_unit(count, text):
    assert human_bytes(count) == text
    assert human_count(count, "bytes") == text


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [(1234, "pages", "1,234 pages"), (0.5, "rows", "0.5 rows"), (3, "", "3"), (1, "a\n", "1 a\\n")],
)
def test_other_units_are_named(count, unit, text):
    assert human_count(count, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.256, "0.26 s"),
        (4.25, "4.2 s"),
        (60, "1:00"),
        (185, "3:05"),
        (7205, "2:00:05"),
        (86_400 * 3 + 14_405, "3 d 4:00:05"),
        (float("inf"), "?"),
        (float("nan"), "?"),
        (-1, "?"),
    ],
)
def test_durations_are_short(seconds, text):
    assert human_seconds(seconds) == text


def test_moments_are_local_for_people_and_utc_for_machines():
    assert local_time(None) == ""
    assert iso_time(None) is None
    assert iso_time(0.0) == "1970-01-01T00:00:00+00:00"
    assert len(local_time(0.0)) == len("1970-01-01 00:00:00")


def test_nouns_are_counted():
    assert [plural(1, "row"), plural(2, "row"), plural(0, "entry", "entries")] == [
        "1 row",
        "2 rows",
        "0 entries",
    ]
