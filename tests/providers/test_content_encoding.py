"""Compressed bodies are decoded as they arrive, in blocks of limited size."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest

from webapp.providers.content_encoding import BLOCK, UnknownEncoding, decoder

TEXT = bytes(range(256)) * 2_000


def raw_deflate(content: bytes) -> bytes:
    compressing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressing.compress(content) + compressing.flush()


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("X-GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli.compress),
    ("identity, br, gzip", lambda content: gzip.compress(brotli.compress(content))),
]


@pytest.mark.parametrize("size", [1, 2, 1_000, 1_000_000])
@pytest.mark.parametrize(("name", "encode"), ENCODERS)
def test_a_body_is_decoded_however_it_is_split(
    name: str, encode: Callable[[bytes], bytes], size: int
) -> None:
    encoded = encode(TEXT)
    decoding = decoder(name)
    assert decoding
    parts = (encoded[start : start + size] for start in range(0, len(encoded), size))
    assert b"".join(block for part in parts for block in decoding.decode(part)) == TEXT


@pytest.mark.parametrize(("name", "encode"), ENCODERS[:5])
def test_a_small_body_that_becomes_large_is_decoded_block_by_block(
    name: str, encode: Callable[[bytes], bytes]
) -> None:
    decoding = decoder(name)
    assert decoding
    blocks = decoding.decode(encode(bytes(20_000_000)))
    # Brotli takes the limit for a hint.
    assert len(next(blocks)) <= 2 * BLOCK


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 131_072, 131_073])
@pytest.mark.parametrize(("name", "encode"), ENCODERS)
def test_no_byte_is_lost_at_the_end_of_a_block(
    name: str, encode: Callable[[bytes], bytes], length: int
) -> None:
    decoding = decoder(name)
    assert decoding
    assert b"".join(decoding.decode(encode(b"a" * length))) == b"a" * length


def test_gzip_may_have_several_members_and_padding() -> None:
    decoding = decoder("gzip")
    assert decoding
    encoded = gzip.compress(b"one ") + gzip.compress(b"two") + bytes(16)
    parts = (encoded[start : start + 3] for start in range(0, len(encoded), 3))
    assert b"".join(block for part in parts for block in decoding.decode(part)) == b"one two"


@pytest.mark.parametrize("name", ["gzip", "br"])
def test_what_is_not_encoded_so_is_refused(name: str) -> None:
    decoding = decoder(name)
    assert decoding
    with pytest.raises(UnknownEncoding):
        list(decoding.decode(b'{"this": "is JSON and nothing else"}'))


def test_unknown_encodings_are_refused_and_none_needs_no_decoder() -> None:
    assert decoder("identity") is None
    with pytest.raises(UnknownEncoding):
        decoder("zstd")
