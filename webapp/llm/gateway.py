"""The whole story of an answer on one page: cache, then provider, then store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from webapp.errors import StoreUnavailable
from webapp.llm.cache_key import cache_key
from webapp.llm.messages import Answer, CacheState, ChatRequest, Opening, Part, Reply, Usage
from webapp.llm.ports import AnswerCache, Terms
from webapp.llm.relay import attend
from webapp.llm.routing import Router

REPLAYED_PIECE = 64  # characters of each piece when a kept answer is streamed


class Gateway:
    """Answers requests. Both verbs block, and raise WeirError."""

    def __init__(self, router: Router, cache: AnswerCache) -> None:
        self._router = router
        self._cache = cache

    def piece_tokens(self, model: str | None) -> int | None:
        """The longest text, in tokens, that the model's provider takes in one piece."""
        return self._router.resolve(model).provider.piece_tokens

    def answer(self, request: ChatRequest, terms: Terms) -> Reply:
        target = self._router.resolve(request.model)
        key = cache_key(request, target, terms.scope)
        kept = self._kept(key, terms)
        if kept:
            return kept
        answer = attend(lambda: target.provider.answer(request, target.model), terms)
        return self._fresh(key, answer, terms)

    def stream(self, request: ChatRequest, terms: Terms) -> Iterator[Part]:
        """An Opening, pieces of text as they come, at last the Reply."""
        target = self._router.resolve(request.model)
        key = cache_key(request, target, terms.scope)
        kept = self._kept(key, terms)
        if kept:
            yield from _replay(kept)
            return
        opened = False
        for piece in target.provider.stream(request, target.model):
            if not opened:
                opened = True
                yield Opening(terms.missed)
            yield self._fresh(key, piece, terms) if isinstance(piece, Answer) else piece

    def _kept(self, key: str, terms: Terms) -> Reply | None:
        """The reply from the cache, if the terms let it be read and it is young enough."""
        entry = self._cache.get(key) if terms.read_cache else None
        age = max(0.0, time.time() - entry["stored_at"]) if entry else 0.0
        if entry and (terms.max_age is None or age <= terms.max_age):
            return Reply(_restore(entry), CacheState.HIT, age)
        if terms.only_cached:
            raise StoreUnavailable
        return None

    def _fresh(self, key: str, answer: Answer, terms: Terms) -> Reply:
        if terms.write_cache:
            self._cache.put(key, _keep(answer))
        return Reply(answer, terms.missed)


def _replay(kept: Reply) -> Iterator[Part]:
    """A kept answer as a stream."""
    yield Opening(kept.cache, kept.age)
    content = kept.answer.content
    for start in range(0, len(content), REPLAYED_PIECE):
        yield content[start : start + REPLAYED_PIECE]
    yield kept


def _keep(answer: Answer) -> dict[str, Any]:
    return {
        "stored_at": time.time(),
        "content": answer.content,
        "model": answer.model,
        "provider": answer.provider,
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
        "cost_usd": answer.cost_usd,
    }


def _restore(entry: dict[str, Any]) -> Answer:
    return Answer(
        content=entry["content"],
        model=entry["model"],
        provider=entry["provider"],
        usage=Usage(entry["input_tokens"], entry["output_tokens"]),
        cost_usd=entry["cost_usd"],
    )
