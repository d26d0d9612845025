"""The cache key: a digest over all that shapes an answer, and nothing else."""

from __future__ import annotations

import hashlib

from webapp import json_codec
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import Route

# Raised when prompts or the shape of what is stored change, so that old entries are left behind.
VERSION = 2


def cache_key(request: ModelRequest, route: Route, scope: str | None) -> str:
    """SHA-256 of the canonical JSON of the request as its targets see it.

    Of a native request it does not matter how the answer is delivered; the chunks of any other
    stream are kept as they were, apart from plain answers.
    """
    endpoint = "native" if request.native else f"{request.operation} {request.stream}"
    shape = [VERSION, endpoint, scope, route.identity, request.body]
    return hashlib.sha256(json_codec.dumps(shape, sort_keys=True)).hexdigest()
