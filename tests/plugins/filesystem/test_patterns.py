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


NAMES = st.sampled_from(["a", "b", "a-wal", "b-journal"])
PATTERNS = st.lists(
    st.builds(
        lambda start, names, end: start + "/".join(names) + end,
        st.sampled_from(["", "/"]),
        st.lists(st.one_of(NAMES, st.sampled_from(["*", "**", "a*"])), min_size=1, max_size=3),
        st.sampled_from(["", "/"]),
    ),
    max_size=3,
)


@given(PATTERNS, PATTERNS, st.lists(NAMES.map(str.encode), min_size=1, max_size=4).map(tuple))
def test_a_path_by_itself_is_taken_just_as_by_a_walk_that_comes_to_it(include, exclude, path):
    selection = Selection(include, exclude)
    taken, is_included = True, selection.takes_all
    for depth in range(1, len(path) + 1):
        is_directory = depth < len(path)
        taken &= not selection.excludes(path[:depth], is_directory=is_directory)
        is_included |= selection.includes(path[:depth], is_directory=is_directory)

    assert selection.takes(path) == (taken and is_included)


@pytest.mark.parametrize("name", [b"app.db-wal", b"app.db-shm", b"app.db-journal"])
def test_what_sqlite_keeps_beside_an_excluded_file_is_excluded_with_it(name):
    selection = Selection(exclude=["*.db"])

    assert selection.excludes((b"x", name), is_directory=False)
    assert not selection.excludes((b"x", name), is_directory=True)
    assert not selection.excludes((b"x", b"other" + name[6:]), is_directory=False)
