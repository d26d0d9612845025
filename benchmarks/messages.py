"""What a request of Anthropic's API costs that is passed through, beside one of OpenAI's."""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.paired import costs_of
from benchmarks.processes import Server
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, Run
from benchmarks.table import Figure, microseconds, percent
from benchmarks.upstream import MODEL
from benchmarks.workplace import KEY

STARTS = 5
MODELS = {"/v1/chat/completions": f"openai/{MODEL}", "/v1/messages": f"anthropic/{MODEL}"}


def messages(run: Run) -> list[Figure]:
    """CPU time of uncached calls at both endpoints, plain and streamed."""
    # Each event arrives by itself, as from a provider, but soon: waiting is not what is measured.
    with run.place.upstream("--seconds", "0.2") as upstream:
        fast = replace(run, upstream=upstream)
        return [*_compared(fast, streamed=False), *_compared(fast, streamed=True)]


def _compared(run: Run, *, streamed: bool) -> list[Figure]:
    paths: dict[int, str] = {}  # by the port of the server that gets them

    def start(path: str) -> Server:
        settings = {
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{run.upstream.port}",
        }
        weir = run.weir(f"messages-{path.count('/')}", settings=settings)
        paths[weir.port] = path
        return weir

    request = partial(_request, paths, streamed)
    costs = costs_of(run, MODELS, start, request, STARTS)
    kind = "streamed in 20 chunks" if streamed else "plain"
    figures = [
        Figure(f"uncached {path}, {kind}, CPU per request", costs.median(path), microseconds)
        for path in MODELS
    ]
    chat, message = MODELS
    more = costs.more(message, than=chat)
    # Two identical servers differ by some percent.
    return [*figures, Figure(f"{message} costs more than {chat}, {kind}", more, percent, most=0.05)]


def _request(paths: dict[int, str], streamed: bool, weir: Server) -> Request:
    path = paths[weir.port]
    body: dict[str, Any] = {
        "model": MODELS[path],
        "max_tokens": 500,
        "messages": [{"role": "user", "content": QUESTION + uuid.uuid4().hex + NUMBER}],
    }
    headers = {"Authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
    return post(weir.port, path, headers, body | ({"stream": True} if streamed else {}))
