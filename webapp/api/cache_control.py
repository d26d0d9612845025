"""How a request uses the cache: its Cache-Control (RFC 9111) and the scope of its key."""

from __future__ import annotations

from flask import g, request

from webapp.admission.identity import Principal
from webapp.llm.calls import CacheUse
from webapp.services import services


def cache_use() -> CacheUse:
    """How the current request uses the cache."""
    principal: Principal = g.principal
    private = services().settings.cache_scope == "key" or principal.allowance.own_cache
    scope = principal.bucket if private else None
    if "Cache-Control" not in request.headers:
        return CacheUse(scope)
    control = request.cache_control
    return CacheUse(
        scope,
        read=not (control.no_cache or control.no_store),
        write=not control.no_store,
        max_age=control.max_age,
    )
