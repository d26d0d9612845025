"""The cache key: a digest of everything that shapes an answer, and nothing else."""

from __future__ import annotations

import hashlib

from webapp import json_codec
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import Route

# Raised when prompts or the stored format change, so that old entries are no longer used.
VERSION = 3


def cache_key(request: ModelRequest, route: Route, scope: str | None) -> str:
    """SHA-256 of the canonical JSON of the request as its targets see it.

    Native requests share a key whether they are streamed or not. Of other requests, streams have
    a key of their own, as their chunks are stored unchanged.
    """
    endpoint = "native" if request.native else f"{request.operation} {request.stream}"
    shape = [VERSION, endpoint, scope, route.identity, request.body]
    if request.headers:
        shape.append(request.headers)
    return hashlib.sha256(json_codec.dumps(shape, sort_keys=True)).hexdigest()
