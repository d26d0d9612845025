"""The cache key: what makes two requests the same one."""

from __future__ import annotations

from webapp.llm.cache_key import cache_key
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import Route

BODY = {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
ROUTE = Route("claude", ())


def test_what_is_passed_on_to_the_provider_is_part_of_the_key() -> None:
    def key(*headers: tuple[str, str]) -> str:
        request = ModelRequest(BODY, operation="messages", native=False, headers=dict(headers))
        return cache_key(request, ROUTE, None)

    version, beta = ("anthropic-version", "2023-06-01"), ("anthropic-beta", "a-beta")
    assert key(version, beta) == key(beta, version)
    assert len({key(), key(version), key(beta), key(version, beta)}) == 4


def test_a_body_means_another_thing_in_another_format() -> None:
    keys = {
        cache_key(ModelRequest(BODY, operation=operation, native=False), ROUTE, None)
        for operation in ("chat/completions", "messages")
    }
    assert len(keys) == 2
