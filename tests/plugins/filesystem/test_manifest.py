from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_filesystem.entries import Entry, Kind, pack_entry, unpack_entry
from karbor_filesystem.errors import ManifestError
from karbor_filesystem.manifest import Manifest, ManifestWriter, in_order, unpack_rows

ROOT = Entry(Kind.DIRECTORY, 0, b"")
NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
TIMES = st.integers(-(2**62), 2**62) | st.integers(-(2**63) * 10**9, 2**63 * 10**9)
"""Nanoseconds; seconds of 64 bits, which some file systems have, are more than that many."""
COMMON = {
    "depth": st.integers(1, 1000),
    "name": NAMES,
    "mode": st.integers(0, 0o7777),
    "uid": st.integers(0, 2**32 - 1),
    "gid": st.integers(0, 2**32 - 1),
    "mtime": TIMES,
    "atime": st.none() | TIMES,
    "xattrs": st.none() | st.dictionaries(NAMES, st.binary(), min_size=1, max_size=3),
    "ordinal": st.just(7),
}
ENTRIES = st.one_of(
    st.builds(Entry, st.just(Kind.DIRECTORY), **COMMON),
    st.builds(
        Entry,
        st.just(Kind.FILE),
        size=st.integers(100, 2**62),
        ctime=TIMES,
        inode=st.integers(0, 2**64 - 1),
        extents=st.none() | st.just([]) | st.just([(0, 5), (10, 90)]),
        is_linked=st.booleans(),
        is_unstable=st.booleans(),
        stream=st.integers(0, 2**32 - 1),
        offset=st.integers(0, 2**20),
        is_bundled=st.booleans(),
        **COMMON,
    ),
    st.builds(Entry, st.just(Kind.SYMLINK), target=NAMES, is_linked=st.booleans(), **COMMON),
    st.builds(
        Entry,
        st.sampled_from([Kind.FIFO, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE]),
        device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20)),
        **COMMON,
    ),
    st.builds(
        Entry,
        st.just(Kind.LINK),
        depth=COMMON["depth"],
        name=NAMES,
        ordinal=st.integers(0, 6),
    ),
)


@given(ENTRIES)
def test_an_entry_survives_packing(entry):
    assert unpack_entry(msgpack.unpackb(pack_entry(entry)), 7) == entry


@given(st.recursive(st.none() | st.integers() | st.binary() | st.text(), st.lists, max_leaves=20))
def test_rubbish_is_refused_and_nothing_else_happens(row):
    try:
        unpack_entry(row, 3)
    except ManifestError:
        return
    pytest.fail("rubbish was taken for an entry")


@given(ENTRIES, st.data())
def test_a_damaged_entry_is_refused_or_read(entry, data):
    packed = bytearray(pack_entry(entry))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    try:
        read = [unpack_entry(row, 7) for row in unpack_rows(bytes(packed))]
    except ManifestError:
        return
    assert all(unpack_entry(msgpack.unpackb(pack_entry(one)), 7) == one for one in read)


def rows_of(*entries):
    return [msgpack.unpackb(pack_entry(entry)) for entry in entries]


def refused(*entries, count=None):
    with pytest.raises(ManifestError) as caught:
        list(in_order(rows_of(*entries), len(entries) if count is None else count))
    return str(caught.value)


def file(depth, name, **fields):
    return Entry(Kind.FILE, depth, name, **fields)


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc/passwd", b"a\0b", b"", b"x" * 5000])
def test_a_name_that_leads_elsewhere_is_refused(name):
    assert refused(ROOT, file(1, name))


def test_an_entry_in_no_directory_is_refused():
    assert "stands in no directory" in refused(ROOT, file(2, b"a"))
    assert "stands in no directory" in refused(ROOT, file(1, b"a"), file(2, b"b"))
    assert "stands in no directory" in refused(ROOT, ROOT)


def test_a_name_that_stands_twice_is_refused():
    assert "twice" in refused(ROOT, file(1, b"a"), file(1, b"a"))
    assert "twice" in refused(ROOT, file(1, b"b"), Entry(Kind.SYMLINK, 1, b"a", target=b"x"))
    directory = Entry(Kind.DIRECTORY, 1, b"d")
    assert "twice" in refused(ROOT, directory, file(2, b"a"), directory)


def test_a_manifest_must_begin_with_a_directory():
    assert "begin" in refused(file(0, b""))


def test_more_or_fewer_entries_than_claimed_are_refused():
    assert "more than its 1" in refused(ROOT, file(1, b"a"), count=1)
    assert "1 of its 9" in refused(ROOT, count=9)
    assert "0 of its 0" in refused()


def test_a_link_to_nothing_is_refused():
    link = Entry(Kind.LINK, 1, b"b", ordinal=1)

    assert "link to nothing" in refused(ROOT, file(1, b"a"), link)
    assert "malformed" in refused(ROOT, file(1, b"a"), Entry(Kind.LINK, 1, b"b", ordinal=2))
    assert "link to nothing" in refused(ROOT, Entry(Kind.LINK, 1, b"b", ordinal=0))
    assert len(list(in_order(rows_of(ROOT, file(1, b"a", is_linked=True), link), 3))) == 3


@pytest.mark.parametrize(
    "extents", [[(5, 5), (0, 2)], [(0, 11)], [(0, 0)], [(11, 1)], [(0, 5), (4, 2)]]
)
def test_runs_of_data_outside_of_the_file_are_refused(extents):
    assert "malformed" in refused(ROOT, file(1, b"a", size=10, extents=extents))


def test_a_chunk_that_is_no_msgpack_or_cut_short_is_refused():
    packed = pack_entry(file(1, b"name"))
    for chunk in (packed[:-1], b"\xc1", packed + b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 4000):
        with pytest.raises(ManifestError):
            list(unpack_rows(chunk))


def test_a_large_manifest_is_cut_into_chunks():
    chunks = []
    writer = ManifestWriter(lambda key, readable: chunks.append((key, readable.read())))
    writer.add(ROOT)
    for number in range(30_000):
        writer.add(file(1, b"%08d" % number, xattrs={b"user.x": b"y" * 60}))
    writer.flush()

    assert [key for key, _ in chunks] == [f"manifest/{n:06x}" for n in range(writer.chunks)]
    assert writer.chunks > 2
    assert max(len(chunk) for _, chunk in chunks) < 2 << 20
    rows = (row for _, chunk in chunks for row in unpack_rows(chunk))
    assert len(list(in_order(rows, writer.entries))) == 30_001


@pytest.mark.parametrize("info", [None, [], {}, {"format": 2}, {"format": 1, "chunks": -1}])
def test_a_manifest_of_another_format_is_refused(info):
    class Section:
        def get_object(self, key):
            return info

    with pytest.raises(ManifestError):
        Manifest(Section())
