from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_filesystem.errors import PatternError
from karbor_filesystem.patterns import Pattern, Selection


def matches(pattern: str, path: str) -> bool:
    names = path.rstrip("/").split("/")
    return Pattern(pattern).matches(names, is_directory=path.endswith("/"))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*.tmp", "a.tmp"),
        ("*.tmp", "deep/down/a.tmp"),
        ("*.tmp", "a\n.tmp"),
        ("/cache", "cache/"),
        ("build/out", "build/out"),
        ("logs/", "var/logs/"),
        ("a?c", "abc"),
        ("[ab]", "b"),
        ("[!ab]", "c"),
        ("/a/**/z", "a/z"),
        ("/a/**/z", "a/b/c/z"),
        ("/**", "anything/at/all"),
        ("**/x", "a/b/x"),
        ("**", "a"),
        ("caf\udce9", "caf\udce9"),
    ],
)
def test_a_pattern_matches(pattern, path):
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*.tmp", "a.tmp.gz"),
        ("/cache", "var/cache/"),
        ("build/out", "src/build/out"),
        ("logs/", "logs"),
        ("/a/*", "a/b/c"),
        ("/*.tmp", "a/b.tmp"),
        ("/a/**/z", "a/b"),
        ("a", "A"),
    ],
)
def test_a_pattern_does_not_match(pattern, path):
    assert not matches(pattern, path)


@pytest.mark.parametrize("pattern", ["", "/", "//", "a//b", "../x", "a/./b", "a\0b"])
def test_a_pattern_that_can_match_nothing_is_refused(pattern):
    with pytest.raises(PatternError):
        Pattern(pattern)


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_many_stars_are_matched_in_no_time(names):
    assert not Pattern("/" + "**/a/" * 20 + "c").matches(names, is_directory=False)


def test_exclude_is_stronger_than_include():
    selection = Selection(include=["*.py"], exclude=["test_*"])

    assert selection.includes((b"test_x.py",), is_directory=False)
    assert selection.excludes((b"test_x.py",), is_directory=False)
    assert not selection.excludes((b"x.py",), is_directory=False)
