"""Identical concurrent requests: how often the provider is called for them."""

from __future__ import annotations

import asyncio
import uuid

from benchmarks.answers import Protocol
from benchmarks.exchange import TIMEOUT, Exchange, all_at_once
from benchmarks.processes import Server, get_json
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, Run
from benchmarks.table import Figure, number, seconds
from benchmarks.upstream import MODEL, SLOW_MODEL
from benchmarks.workplace import KEY

WORKERS = (1, 2)
IDENTICAL = 200
WARM_UP_REQUESTS = 64
MAX_CALLS = 1
MAX_SECONDS = 2.5


def flights(run: Run) -> list[Figure]:
    """Identical requests, plain and streamed, to a model that takes 2 s to answer."""
    return [figure for workers in WORKERS for figure in _flights(run, workers)]


def _flights(run: Run, workers: int) -> list[Figure]:
    with run.weir(workers=workers) as weir:
        asyncio.run(_exchanges(_request(weir, MODEL, NUMBER), WARM_UP_REQUESTS))
        return [
            *_figures(run, _request(weir, SLOW_MODEL), workers, stream=False),
            *_figures(run, _request(weir, SLOW_MODEL, stream=True), workers, stream=True),
        ]


def _figures(run: Run, request: Request, workers: int, *, stream: bool) -> list[Figure]:
    calls_before = get_json(run.upstream.port, "/calls")
    began, exchanges = asyncio.run(_exchanges(request, IDENTICAL))
    calls = get_json(run.upstream.port, "/calls") - calls_before
    slowest = max(e.over_at - began if e.over_at else TIMEOUT for e in exchanges)
    is_good = Protocol.OPENAI.is_good_stream if stream else Protocol.OPENAI.is_good
    failed = sum(not is_good(exchange) for exchange in exchanges)
    what = "streams" if stream else "requests"
    name = f"{IDENTICAL} identical {what}, {workers} {'workers' if workers > 1 else 'worker'}"
    return [
        Figure(f"{name}, provider calls", calls, number, most=MAX_CALLS),
        Figure(f"{name}, the slowest", slowest, seconds, most=MAX_SECONDS),
        Figure(f"{name}, failures", failed, number, most=0),
    ]


def _request(weir: Server, model: str, number: str = "", *, stream: bool = False) -> Request:
    question = f"{QUESTION}{uuid.uuid4().hex}{number}"
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "stream": stream}
    headers = {"Authorization": f"Bearer {KEY}"}
    return post(weir.port, "/v1/chat/completions", headers, body)


async def _exchanges(request: Request, count: int) -> tuple[float, list[Exchange]]:
    exchanges = [Exchange(request.content(each, last=True)) for each in range(count)]
    return await all_at_once(request.port, exchanges), exchanges
