"""Counts tokens where a provider does not report them: with tiktoken if possible, else estimated.

tiktoken downloads its tables on first use (TIKTOKEN_CACHE_DIR stores them). No request waits for
that: until a table is available, tokens are estimated.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent

from webapp.llm.messages import ModelRequest, Usage
from webapp.llm.tokens import estimate_tokens, texts_of
from webapp.threads import run_in_thread

log = logging.getLogger(__name__)

LOAD_RETRY_DELAY = 3600.0
LONG = 2_000  # characters; counting more than that in the event loop would stall streams

_encodings: dict[str, Any] = {}
_tried_at: dict[str, float] = {}


def count(request: ModelRequest, model: str, content: str) -> Usage:
    """The usage of a call, counted by Weir."""
    inputs = texts_of(request.body.get("messages") or request.body.get("input"))
    encoding = _encoding(model)
    return Usage(_tokens(encoding, inputs), _tokens(encoding, [content]), estimated=True)


def _tokens(encoding: Any, texts: list[str]) -> int:
    def work() -> int:
        if encoding is None:
            return sum(map(estimate_tokens, texts))
        return sum(len(encoding.encode_ordinary(text)) for text in texts)

    return run_in_thread(work) if sum(map(len, texts)) > LONG else work()


def _encoding(model: str) -> Any:
    """tiktoken's encoding of a model, if it is one of OpenAI's and its table is available."""
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None
    if name not in _encodings and time.monotonic() >= _tried_at.get(name, 0.0):
        _tried_at[name] = time.monotonic() + LOAD_RETRY_DELAY
        gevent.spawn(_load, name)
    return _encodings.get(name)


def _load(name: str) -> None:
    import tiktoken

    try:
        _encodings[name] = run_in_thread(lambda: tiktoken.get_encoding(name))
    except Exception as error:  # noqa: BLE001 any failure of the download
        log.warning(
            "tiktoken encoding %s is unavailable (%s); tokens are estimated",
            name,
            type(error).__name__,
        )
