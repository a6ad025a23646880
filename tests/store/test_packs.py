from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.errors import BankError, BankFormatError, ObjectNotFoundError
from karbor_actors.store import MemoryStore
from karbor_actors.store.codec import BLOCK_SIZE, Block, Codec, decode, digest_of, encode
from karbor_actors.store.packs import (
    MAX_BLOCKS,
    PACK_LIMIT,
    PACK_TARGET,
    PackBuilder,
    read_index,
)

FOOTER = 48


def pack_of(raws):
    builder = PackBuilder()
    for raw in raws:
        builder.add(encode(raw, digest_of(raw)))
    return builder


def stored(data):
    store = MemoryStore()
    store.put("pack", data)
    return store


@given(st.lists(st.binary(min_size=1)))
def test_a_packs_index_finds_its_blocks(raws):
    builder = pack_of(raws)
    store = stored(builder.finish())

    entries = read_index(store, "pack")

    assert entries == builder.entries
    assert [
        decode(
            store.get("pack", entry.offset, entry.stored_length),
            entry.codec,
            entry.raw_length,
            entry.digest,
            "",
        )
        for entry in entries
    ] == raws


def test_a_pack_is_full_at_its_target_and_never_beyond_the_limit():
    builder = PackBuilder()
    data = bytes(BLOCK_SIZE)
    while not builder.is_full:
        builder.add(Block(b"d" * 32, BLOCK_SIZE, Codec.RAW, data))

    assert builder.size == PACK_TARGET
    assert sum(map(len, builder.finish())) < PACK_LIMIT


def test_a_pack_is_full_at_so_many_small_blocks_and_its_index_can_be_read():
    builder = PackBuilder()
    for number in range(MAX_BLOCKS):
        assert not builder.is_full
        builder.add(Block(digest_of(struct.pack(">I", number)), 1, Codec.RAW, b"x"))

    assert builder.is_full
    assert read_index(stored(builder.finish()), "pack") == builder.entries


def test_a_missing_pack_is_not_found():
    with pytest.raises(ObjectNotFoundError):
        read_index(MemoryStore(), "pack")


PACK = b"".join(pack_of([b"one", b"two" * 100, bytes(5000)]).finish())


@given(position=st.integers(0, len(PACK) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_index_is_a_format_error(position, bit):
    damaged = bytearray(PACK)
    damaged[position] ^= 1 << bit
    data_size = sum(entry.stored_length for entry in read_index(stored(PACK), "pack"))

    if position < data_size:  # the blocks have digests of their own
        assert read_index(stored(damaged), "pack") == read_index(stored(PACK), "pack")
    else:
        with pytest.raises(BankFormatError, match="pack"):
            read_index(stored(damaged), "pack")


@given(st.integers(0, len(PACK) - 1))
def test_a_cut_pack_is_a_format_error(length):
    with pytest.raises(BankFormatError):
        read_index(stored(PACK[:length]), "pack")


@given(st.binary())
def test_rubbish_is_a_bank_error_and_nothing_else(data):
    with pytest.raises(BankError):
        read_index(stored(data), "pack")


def forged(index, length=None, version=1):
    footer = struct.pack(
        ">I32s10sH",
        len(index) if length is None else length,
        digest_of(index),
        b"KARBORPACK",
        version,
    )
    return stored(index + footer)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ROWS = st.lists(
    st.tuples(
        st.binary(min_size=32, max_size=32),
        st.integers(0, 10),
        st.integers(-1, 2),
        st.integers(-1, 2) | st.just(BLOCK_SIZE + 1),
        st.integers(-1, 3) | st.booleans(),
    ),
    min_size=1,
)


@given(VALUES | ROWS)
def test_a_forged_index_with_a_right_digest_is_not_believed(value):
    if value == []:
        return
    with pytest.raises(BankFormatError):
        read_index(forged(msgpack.packb(value)), "pack")


@given(st.binary(min_size=1).filter(lambda data: data != b"\x90"))
def test_an_index_of_rubbish_with_a_right_digest_is_a_format_error(index):
    with pytest.raises(BankFormatError):
        read_index(forged(index), "pack")


def test_an_index_longer_than_its_object_is_a_format_error():
    with pytest.raises(BankFormatError):
        read_index(forged(b"\x90", length=2**32 - 1), "pack")


def test_a_newer_format_says_so():
    with pytest.raises(BankFormatError, match=r"has format 2; this release reads 1"):
        read_index(forged(b"\x90", version=2), "pack")
