from __future__ import annotations

import hashlib
import resource

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.errors import BlockCorruptError
from karbor_actors.store.codec import BLOCK_SIZE, Codec, decode, digest_of, encode


def encoded(raw):
    return encode(raw, digest_of(raw))


def decoded(block, **changes):
    fields = {
        "data": block.data,
        "codec": block.codec,
        "raw_length": block.raw_length,
        "digest": block.digest,
        "where": "stream 'x'",
    } | changes
    return decode(**fields)


@given(st.one_of(st.binary(), st.binary(max_size=50).map(lambda part: part * 1000)))
def test_a_block_comes_back_as_it_was(raw):
    assert decoded(encoded(raw)) == raw


def test_a_whole_block_of_text_is_compressed():
    raw = (b"some text " * BLOCK_SIZE)[:BLOCK_SIZE]
    block = encoded(raw)

    assert block.codec is Codec.ZSTD
    assert len(block.data) < BLOCK_SIZE // 100
    assert decoded(block) == raw


def test_what_does_not_shrink_is_kept_as_it_is():
    raw = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(100))
    block = encoded(raw)

    assert block.codec is Codec.RAW
    assert block.data == raw
    assert decoded(block) == raw


@pytest.mark.parametrize("raw", [b"text " * 1000, bytes(range(256))])
def test_every_flipped_byte_is_found(raw):
    block = encoded(raw)
    for position in range(len(block.data)):
        damaged = bytearray(block.data)
        damaged[position] ^= 0x40
        try:
            assert decoded(block, data=bytes(damaged)) == raw  # a bit that zstd does not use
        except BlockCorruptError as error:
            assert error.where == "stream 'x'"  # noqa: PT017 - either is right


@given(data=st.binary(), codec=st.integers(0, 255), raw_length=st.integers(-1, 2 * BLOCK_SIZE))
def test_rubbish_is_a_corrupted_block_and_nothing_else(data, codec, raw_length):
    with pytest.raises(BlockCorruptError, match="of stream 'x' is corrupted"):
        decode(data, codec, raw_length, b"\1" * 32, "stream 'x'")


def test_a_block_that_swells_is_refused_before_it_is_unpacked():
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(BlockCorruptError, match="it holds 1073741824 bytes"):
        decode(bomb, Codec.ZSTD, BLOCK_SIZE, digest_of(b""), "stream 'x'")
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))
    with pytest.raises(BlockCorruptError):
        decode(unsized, Codec.ZSTD, BLOCK_SIZE, digest_of(b""), "stream 'x'")

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_bytes_after_a_block_are_refused():
    block = encoded(b"text " * 1000)

    with pytest.raises(BlockCorruptError):
        decoded(block, data=bytes(block.data) + b"x")
