"""The dialect of Weir's own endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable

from flask import request

from webapp.api.dialects.dialect import Body, sse_event
from webapp.errors import WeirError
from webapp.llm.messages import Chunk, FinalAnswer
from webapp.observability import request_context
from webapp.observability.request_context import RequestContext

DONE = b"data: [DONE]\n\n"

Describe = Callable[[FinalAnswer, RequestContext], Body]


class NativeDialect:
    """Implements Dialect."""

    def error(self, error: WeirError) -> WeirError:
        return error

    def status(self, error: WeirError) -> int:
        return error.status

    def envelope(self, error: WeirError) -> Body:
        return {
            "error": error.name,
            "message": error.message,
            "details": error.details,
            "path": request.path,
            "request_id": request_context.current().request_id,
        }

    def headers(self) -> list[tuple[str, str]]:
        return []


NATIVE = NativeDialect()


class NativeEvents:
    """Implements Events: the text, and at the end the fields of a whole answer."""

    ping = b": ping\n\n"

    def __init__(self, describe: Describe) -> None:
        self._describe = describe

    def chunk(self, chunk: Chunk) -> bytes:
        # The same as sse_event(), but faster: json.dumps() of a plain string is a single C call.
        return f'data: {{"content": {json.dumps(chunk.text)}}}\n\n'.encode()

    def end(self, final: FinalAnswer, context: RequestContext) -> bytes:
        return sse_event({"done": True, **self._describe(final, context)}) + DONE

    def error(self, error: WeirError) -> bytes:
        told = {"error": error.name, "message": error.message, "details": error.details}
        return sse_event({"error": told}) + DONE
