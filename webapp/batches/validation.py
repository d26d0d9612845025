"""Reads the input file of a batch into lines, and says what is wrong with it, line by line.

The codes of errors are OpenAI's where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent

from webapp.batches.batch import NewLine
from webapp.batches.line_format import LineFormat
from webapp.errors import ModelNotAllowed, ModelNotFound, WeirError

MAX_LINES = 50_000
MAX_ERRORS = 1_000  # that are named
MAX_CUSTOM_ID_LENGTH = 512
INSERTED_TOGETHER = 1_000
LINES_IN_A_TURN = 20  # between two turns of the event loop
BOM = b"\xef\xbb\xbf"

CheckModel = Callable[[str | None], None]


@dataclass(slots=True)
class Validated:
    """What a file holds: how many lines, the models that they name, what is wrong with them."""

    total: int = 0
    models: set[str | None] = field(default_factory=set)
    errors: list[dict[str, Any]] = field(default_factory=list)
    custom_ids: dict[int, str] = field(default_factory=dict)
    """Of the lines with errors, where they have one."""


class InvalidLine(Exception):
    """A line is not valid."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Validation:
    """Validates one file for one endpoint.

    `check_model` raises ModelNotFound and ModelNotAllowed; `insert` gets the valid lines, until
    the first invalid one.
    """

    def __init__(
        self,
        endpoint: str,
        line_format: LineFormat,
        check_model: CheckModel,
        insert: Callable[[list[NewLine]], None],
    ) -> None:
        self._endpoint = endpoint
        self._format = line_format
        self._check_model = check_model
        self._insert = insert
        self._found = Validated()
        self._seen: dict[str, int] = {}
        self._checked: dict[str | None, WeirError | None] = {}

    def run(self, chunks: Iterable[bytes]) -> Validated:
        """Validate the bytes of the file. Raises what `chunks` and `insert` raise."""
        found = self._found
        lines: list[NewLine] = []
        for turn, (number, position, text) in enumerate(_lines(chunks, self._format.max_body)):
            if turn % LINES_IN_A_TURN == 0:
                gevent.sleep(0)
            if found.total >= MAX_LINES:
                self._add_error(
                    None,
                    InvalidLine("too_many_tasks", f"The file has more than {MAX_LINES:,} lines."),
                )
                break
            found.total += 1
            try:
                custom_id = self._validate(number, text)
            except InvalidLine as invalid:
                self._add_error(number, invalid)
                lines.clear()
                continue
            if found.errors:
                continue
            lines.append(NewLine(number, custom_id, position, len(text or b"")))
            if len(lines) == INSERTED_TOGETHER:
                self._insert(lines)
                lines = []
        if not found.total:
            self._add_error(None, InvalidLine("empty_file", "The file has no lines."))
        if lines and not found.errors:
            self._insert(lines)
        return found

    def _add_error(self, number: int | None, invalid: InvalidLine) -> None:
        if len(self._found.errors) < MAX_ERRORS:
            error = {"code": invalid.code, "message": invalid.message, "param": invalid.param}
            self._found.errors.append(error | {"line": number})

    def _validate(self, number: int, text: bytes | None) -> str:
        """The custom_id of a valid line. `text` is None for one that is too long."""
        if text is None:
            most = self._format.max_body
            raise InvalidLine("line_too_large", f"The line has more than {most:,} bytes.")
        try:
            line = self._format.decode(text)
        except UnicodeDecodeError:
            raise InvalidLine("invalid_json_line", "The line is not UTF-8.") from None
        except ValueError as error:
            raise InvalidLine("invalid_json_line", f"The line is not JSON: {error}") from None
        if not isinstance(line, dict):
            raise InvalidLine("invalid_json_line", "The line is not a JSON object.")
        custom_id = self._custom_id(number, line)
        if line.get("method") != "POST":
            raise InvalidLine("invalid_method", "method must be 'POST'.", "method")
        if line.get("url") != self._endpoint:
            raise InvalidLine(
                "mismatched_endpoint",
                f"url must be '{self._endpoint}', the endpoint of this batch.",
                "url",
            )
        body = line.get("body")
        if not isinstance(body, dict):
            raise InvalidLine("missing_required_parameter", "body must be an object.", "body")
        try:
            request = self._format.model_request(self._endpoint, body)
        except WeirError as error:
            param = next(iter(error.details or {}), None)
            name = f"body.{param}" if param else "body"
            raise InvalidLine("invalid_request", f"{name}: {_reason(error)}", name) from None
        self._model(request.model)
        return custom_id

    def _custom_id(self, number: int, line: dict[str, Any]) -> str:
        custom_id = line.get("custom_id")
        if not isinstance(custom_id, str) or not custom_id:
            message = "custom_id must be a text that is not empty."
            raise InvalidLine("missing_required_parameter", message, "custom_id")
        if len(custom_id) > MAX_CUSTOM_ID_LENGTH or not is_storable(custom_id):
            message = f"custom_id must be valid text of at most {MAX_CUSTOM_ID_LENGTH} characters."
            raise InvalidLine("invalid_custom_id", message, "custom_id")
        self._found.custom_ids[number] = custom_id
        first = self._seen.setdefault(custom_id, number)
        if first != number:
            message = f"The custom_id '{custom_id}' is that of line {first}, too."
            raise InvalidLine("duplicate_custom_id", message, "custom_id")
        return custom_id

    def _model(self, model: str | None) -> None:
        if model not in self._checked:
            try:
                self._check_model(model)
                self._checked[model] = None
            except (ModelNotFound, ModelNotAllowed) as refused:
                self._checked[model] = refused
        if error := self._checked[model]:
            code = "model_not_found" if isinstance(error, ModelNotFound) else "model_not_allowed"
            raise InvalidLine(code, error.message, "body.model")
        self._found.models.add(model)


def _lines(chunks: Iterable[bytes], longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(number from 1, position in bytes, text) of each line that is not blank.

    A line's text has no line end. It is None for a line that is longer than `longest`, of which
    no more is kept in memory.
    """
    number, position, size = 1, 0, 0
    begun: list[bytes] = []
    for chunk in chunks:
        parts = chunk.split(b"\n")
        for part in parts[:-1]:
            yield from _line(number, position, begun, part, longest)
            number, position, begun, size = number + 1, position + size + len(part) + 1, [], 0
        size += len(parts[-1])
        # A block more than is allowed is enough to know that it is too long.
        if size - len(parts[-1]) <= longest:
            begun.append(parts[-1])
    yield from _line(number, position, begun, b"", longest)


def _line(
    number: int, position: int, begun: list[bytes], last: bytes, longest: int
) -> Iterator[tuple[int, int, bytes | None]]:
    text = b"".join([*begun, last])
    if number == 1 and text.startswith(BOM):
        text, position = text[len(BOM) :], position + len(BOM)
    stripped = text.rstrip(b"\r \t")
    if stripped:
        yield number, position, stripped if len(stripped) <= longest else None


def _reason(error: WeirError) -> str:
    """What is wrong, in words."""
    reasons = next(iter((error.details or {}).values()), None)
    return str(reasons[0]) if isinstance(reasons, list) and reasons else error.message


def is_storable(text: str) -> bool:
    """Whether a database can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
