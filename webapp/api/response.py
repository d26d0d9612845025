"""The response of every endpoint and page: with headers that are added when it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import flask

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment


class Response(flask.Response):
    """`added` are headers whose values Weir has made itself.

    Werkzeug checks, copies and compares each header twice: twenty of them took 3 % of a request.
    """

    added: Sequence[tuple[str, str]] = ()

    def get_wsgi_response(
        self, environ: WSGIEnvironment
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        body, status, headers = super().get_wsgi_response(environ)
        return body, status, [*headers, *self.added]
