"""Decodes compressed bodies, which some servers send though nobody asked for them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import brotli

BLOCK = 64 * 1024
ZLIB_HEADER = 2  # bytes


class UnknownEncoding(ValueError):
    """The Content-Encoding is unknown, or the body does not have it."""


class Decoder(Protocol):
    """Decodes a body as it arrives."""

    def decode(self, part: bytes) -> Iterator[bytes]:
        """What can be decoded with this part, in blocks of limited size. Raises UnknownEncoding."""
        ...


def decoder(content_encoding: str) -> Decoder | None:
    """The decoder of a Content-Encoding header (RFC 9110, section 8.4); None if there is nothing
    to decode. Raises UnknownEncoding."""
    names = [name.strip().lower() for name in content_encoding.split(",")]
    chain = [_decoder(name) for name in reversed(names) if name not in {"", "identity"}]
    return _Chain(chain) if chain else None


def _decoder(name: str) -> Decoder:
    made = DECODERS.get(name)
    if made is None:
        raise UnknownEncoding(f"content encoding {name[:20]!r}")
    return made()


class _Chain:
    """Several encodings, the last applied first."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def decode(self, part: bytes) -> Iterator[bytes]:
        return self._through(self._decoders, part)

    def _through(self, decoders: list[Decoder], part: bytes) -> Iterator[bytes]:
        if not decoders:
            yield part
            return
        for decoded in decoders[0].decode(part):
            yield from self._through(decoders[1:], decoded)


class _Zlib:
    """gzip, and deflate with or without its header: servers send both (RFC 9110, 8.4.1.2)."""

    def __init__(self, bits: int, *, may_be_raw: bool = False) -> None:
        self._bits, self._ended = bits, False
        self._object = zlib.decompressobj(bits)
        self._may_be_raw = may_be_raw
        self._head = b""

    def decode(self, part: bytes) -> Iterator[bytes]:
        if self._may_be_raw:
            part = self._head = self._head + part
            if len(part) < ZLIB_HEADER:
                return
            self._may_be_raw = False
            # The header of zlib is a multiple of 31 (RFC 1950).
            if int.from_bytes(part[:ZLIB_HEADER]) % 31:
                self._object = zlib.decompressobj(-zlib.MAX_WBITS)
        decoded = b""
        # A full block may not be all that zlib holds.
        while part or len(decoded) == BLOCK:
            try:
                decoded = self._object.decompress(part, BLOCK)
            except zlib.error as error:
                if self._ended:
                    return  # what follows a complete body is padding
                raise UnknownEncoding("the body does not match its encoding") from error
            part = self._object.unconsumed_tail
            if self._object.eof:
                # gzip may go on with another member (RFC 1952, 2.2).
                self._ended, part = True, self._object.unused_data
                self._object = zlib.decompressobj(self._bits)
            if decoded:
                yield decoded


class _Brotli:
    def __init__(self) -> None:
        self._object = brotli.Decompressor()

    def decode(self, part: bytes) -> Iterator[bytes]:
        try:
            decoded = self._object.process(part, output_buffer_limit=BLOCK)
            while decoded or not self._object.can_accept_more_data():
                yield decoded
                decoded = self._object.process(b"", output_buffer_limit=BLOCK)
        except brotli.error as error:
            raise UnknownEncoding("the body does not match its encoding") from error


_gzip = partial(_Zlib, zlib.MAX_WBITS | 16)
DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": partial(_Zlib, zlib.MAX_WBITS, may_be_raw=True),
    "br": _Brotli,
}
