"""Reads a form with one file (multipart/form-data) as a stream: no more than a block is in memory.

Werkzeug's own parsing of forms would first write the whole file to a temporary one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import IO

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from webapp.errors import (
    MalformedRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationError,
)

BLOCK = 256 * 1024  # bytes read at once
# Of a field that is no file, of all headers of a part, and of the whole form around the file.
MAX_FIELD = 1024
MAX_PART_HEAD = 16 * 1024
MAX_AROUND = 64 * 1024
MAX_PARTS = 16
MAX_BOUNDARY = 200  # RFC 2046 allows 70


class FileForm:
    """A form whose `fields` are texts, except for one that is a file. Others are ignored.

    First open_file(), then file(): the fields may come before and behind it, and are complete once
    file() has ended. Raises MalformedRequest, PayloadTooLarge, ValidationError.
    """

    def __init__(
        self, request: Request, *, file_field: str, fields: Collection[str], max_bytes: int
    ) -> None:
        if request.mimetype != "multipart/form-data":
            raise UnsupportedMediaType("Send a form, with Content-Type: multipart/form-data.")
        boundary = request.mimetype_params.get("boundary", "").encode()
        if not 0 < len(boundary) <= MAX_BOUNDARY:
            raise MalformedRequest(
                f"The Content-Type names no boundary of 1 to {MAX_BOUNDARY} characters."
            )
        self._too_large = f"The file is larger than {max_bytes:,} bytes."
        # MAX_BODY_BYTES is for bodies that are held in memory.
        request.max_content_length = max_bytes + MAX_AROUND
        if (request.content_length or 0) > request.max_content_length:
            raise PayloadTooLarge(self._too_large)
        self.fields: dict[str, str] = {}
        self._file_field = file_field
        self._known = fields
        self._stream: IO[bytes] = request.stream
        self._decoder = MultipartDecoder(
            boundary, max_form_memory_size=BLOCK + MAX_PART_HEAD, max_parts=MAX_PARTS
        )
        self._size = 0

    def open_file(self) -> str:
        """Read up to the file. Returns the name that the client has given it."""
        file = self._next_file()
        if file is None:
            raise _invalid(self._file_field, "Send the file here, with a file name.")
        return file.filename

    def file(self) -> Iterator[bytes]:
        """The file's bytes, then the rest of the form."""
        yield from self._data()
        if not self._size:
            raise _invalid(self._file_field, "The file is empty.")
        if self._next_file() is not None:
            raise _invalid(self._file_field, "Send one file only.")

    def _next_file(self) -> File | None:
        """Read fields until a file begins; None if the form ends before."""
        while not isinstance(event := self._next(), Epilogue):
            if isinstance(event, Field):
                self._read_field(event.name)
            elif isinstance(event, File):
                if event.name != self._file_field:
                    raise _invalid(event.name, f"Send the file as {self._file_field!r}.")
                return event
        return None

    def _read_field(self, name: str) -> None:
        value = b""
        more = True
        while more:
            data = self._next()
            assert isinstance(data, Data)
            more = data.more_data
            if name in self._known:
                value += data.data
            if len(value) > MAX_FIELD:
                raise _invalid(name, f"Longer than {MAX_FIELD} bytes.")
        if name not in self._known:
            return
        if name in self.fields:
            raise _invalid(name, "It is given twice.")
        try:
            self.fields[name] = value.decode()
        except UnicodeDecodeError:
            raise _invalid(name, "Not UTF-8.") from None

    def _data(self) -> Iterator[bytes]:
        more = True
        while more:
            data = self._next()
            assert isinstance(data, Data)
            more = data.more_data
            if data.data:
                self._size += len(data.data)
                yield data.data

    def _next(self) -> Event:
        """The next event that is not a lack of data."""
        while isinstance(event := self._decoded(), NeedData):
            block = self._read_block()
            try:
                self._decoder.receive_data(block or None)
            except RequestEntityTooLarge:
                raise MalformedRequest("The headers of a part of the form are too long.") from None
        return event

    def _decoded(self) -> Event:
        try:
            return self._decoder.next_event()
        except RequestEntityTooLarge:
            raise MalformedRequest(f"The form has more than {MAX_PARTS} parts.") from None
        except ValueError:
            raise MalformedRequest(
                "The form is not well-formed multipart/form-data, or it was cut."
            ) from None

    def _read_block(self) -> bytes:
        try:
            return self._stream.read(BLOCK)
        except RequestEntityTooLarge:
            # Only here, where a chunked body has no length to check beforehand.
            raise PayloadTooLarge(self._too_large) from None


def _invalid(field: str | None, reason: str) -> ValidationError:
    name = field or "(without a name)"
    return ValidationError(f"{name}: {reason}", details={name: [reason]})
