"""The cache key: a digest over all that shapes an answer, and nothing else."""

from __future__ import annotations

import hashlib
import json

from webapp.llm.messages import ChatRequest
from webapp.llm.routing import Target

# Raised when prompts or the shape of what is stored change, so that old entries are left behind.
VERSION = 1


def cache_key(request: ChatRequest, target: Target, scope: str | None) -> str:
    """SHA-256 of the canonical JSON of the request as its target sees it.

    How the answer is delivered (streamed or not) is no part of it.
    """
    shape = {
        "version": VERSION,
        "door": "native",
        "scope": scope,
        "targets": [[target.provider.identity, target.model]],
        "messages": [[message.role, message.content] for message in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }
    canonical = json.dumps(shape, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
