"""Paths as clients write them: slashes doubled or trailing, /v1 twice.

They are served, as many clients lose the method or the credentials at a redirect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.routing import PathConverter

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

DASHBOARD = "/dashboard"
DOUBLED = re.compile(r"//+")
REPEATED_VERSION = re.compile(r"^/v1(?:/v1)+(?=/|$)")
# What follows is a model's name, which may begin and end with slashes.
MODEL = re.compile(r"/+(?:v1/+)+models/(?=/*[^/])")


def register(app: Flask) -> None:
    app.url_map.merge_slashes = False
    app.url_map.converters["model_name"] = NameConverter
    app.wsgi_app = CanonicalPaths(app.wsgi_app)  # type: ignore[method-assign]


class NameConverter(PathConverter):
    """A model's name in a path, whatever it begins with."""

    regex = ".+"
    part_isolating = False


class CanonicalPaths:
    """WSGI middleware that writes each path as the endpoint's rule has it."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.endswith("/") or "//" in path or path.startswith("/v1/v1") or path == DASHBOARD:
            environ["PATH_INFO"] = canonical(path)
        return self._app(environ, start_response)


def canonical(path: str) -> str:
    if model := MODEL.match(path):
        return "/v1/models/" + path[model.end() :]
    path = DOUBLED.sub("/", path).rstrip("/")
    if path == DASHBOARD:
        return f"{DASHBOARD}/"
    return REPEATED_VERSION.sub("/v1", path) or "/"
