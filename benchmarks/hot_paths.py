"""The CPU time of libraries on a path of each request, compared with Weir's own code.

    python -m benchmarks.hot_paths --weir PORT PID --redis redis://… --upstream http://…/v1

One process measures both, in turns of a few milliseconds that alternate with those of a running
Weir. CPU time is measured, so the machine may be busy with other things. Prints JSON: CPU
microseconds by name.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import gevent
from flask import Flask
from flask_limiter import Limiter
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from limits import parse_many
from limits.storage import MemoryStorage
from openai import OpenAI
from redis import Redis
from werkzeug.test import create_environ

from benchmarks.paired import AT_ONCE, MeasuredServer, cached_chat, uncached_chat
from benchmarks.processes import cpu_of_all
from benchmarks.run import QUESTION
from benchmarks.upstream import MODEL
from webapp.admission.limit_states import limits_of
from webapp.admission.limits import STRATEGY, SlidingWindowStrategy
from webapp.admission.parts import EXTENSION
from webapp.admission.rate_limits import RateLimits
from webapp.allowance import Allowance
from webapp.base_url import BaseURL
from webapp.llm.messages import ModelRequest, message
from webapp.providers.openai import OpenAIProvider
from webapp.storage import redis_client
from webapp.storage.redis_client import RedisClient

# Valkey's core may be busy: only CPU time is measured, so a slow answer is no failure.
redis_client.TIMEOUT = 5.0  # seconds
# The first turns are not counted. At least MIN_TURNS more are.
WARM_UP_TURNS = 5
MIN_TURNS = 20
POOL = "pool"
REQUEST = "request"
GREENLETS = 50
LIMITS = {"one limit": "10000000/minute", "two limits": "10000000/minute;1000000/second"}
SDK_HEADERS = {
    "Host": "127.0.0.1:8000",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/Python 2.0.0",
    "Authorization": "Bearer a-key-of-forty-characters-for-the-parser",
    "X-Stainless-Lang": "python",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Runtime": "CPython",
}
BODY = {"messages": [message("user", QUESTION)], "temperature": 0.7, "max_tokens": 100}

Action = Callable[[], Any]
Costs = dict[str, float]
# The action of a turn, and the clock of its CPU time.
Timed = tuple[Action, Callable[[], float]]


def cpu_per_call(
    calls: Mapping[str, Action],
    seconds: float,
    request: Timed | None = None,
    at_once: int = AT_ONCE,
) -> Costs:
    """CPU microseconds of each call, as the median of its turns; REQUEST is a whole request."""
    actions: dict[str, Timed] = {
        name: (_at_once(call, at_once), time.process_time) for name, call in calls.items()
    }
    if request:
        actions[REQUEST] = request
    turns: list[Costs] = []
    deadline = time.perf_counter() + seconds * len(actions)
    while len(turns) < WARM_UP_TURNS + MIN_TURNS or time.perf_counter() < deadline:
        turns.append({})
        for name, (action, clock) in actions.items():
            started = clock()
            action()
            turns[-1][name] = (clock() - started) / at_once * 1e6
    counted = turns[WARM_UP_TURNS:]
    return {name: statistics.median(turn[name] for turn in counted) for name in actions}


def _at_once(call: Action, at_once: int) -> Action:
    return lambda: gevent.joinall([gevent.spawn(call) for _ in range(at_once)], raise_error=True)


# -- limits --


def limits(redis_url: str, seconds: float, request: Timed) -> dict[str, Costs]:
    """What a tier's limits add to a request of an otherwise empty Flask application."""
    rate_limits = RateLimits(RedisClient(redis_url), workers=1)
    figures = {}
    for name, text in LIMITS.items():
        apps = {
            "none": _app(rate_limits, _nothing),
            "script": _app(rate_limits, _strategy_itself(text)),
            "decorator": _app(rate_limits, text, STRATEGY, "memory://"),
            "stock decorator": _app(rate_limits, text, "moving-window", redis_url),
        }
        costs = cpu_per_call({name: _request(app) for name, app in apps.items()}, seconds, request)
        bare = costs.pop("none")
        hit = costs.pop(REQUEST)
        figures[name] = {app: cost - bare for app, cost in costs.items()} | {REQUEST: hit}
    return figures


def _app(
    rate_limits: RateLimits, limit: str | Action, strategy: str = "", storage: str = ""
) -> Flask:
    """An application with one route that is limited by a call or by a decorator."""
    app = Flask(__name__)
    app.extensions[EXTENSION] = SimpleNamespace(rate_limits=rate_limits)
    check = limit
    if not callable(limit):
        options = {"strategy": strategy, "storage_uri": storage, "headers_enabled": False}
        limiter = Limiter(lambda: "bench", app=app, **options)
        # A tier needs a callable limit, on a function that is called after authentication.
        check = limiter.shared_limit(lambda: limit, scope=strategy)(_nothing)

    @app.get("/")
    def limited() -> str:
        check()
        return ""

    return app


def _nothing() -> None:
    """The function that is limited."""


def _strategy_itself(text: str) -> Action:
    allowance = Allowance(windows=tuple(parse_many(text)))
    strategy = SlidingWindowStrategy(MemoryStorage())
    return lambda: strategy.acquire("bench", limits_of(allowance), "request")


def _request(app: Flask) -> Action:
    environ = create_environ("/")

    def respond(status: str, *_: Any) -> None:
        if status != "200 OK":
            raise RuntimeError(status)

    return lambda: b"".join(app(dict(environ), respond))


# -- a provider's client --


def provider_clients(upstream: str, seconds: float, request: Timed) -> Costs:
    """An uncached call: from the fields of a request to a parsed answer that is dumped as JSON."""
    provider = OpenAIProvider("bench", api_key="key", address=BaseURL(upstream), timeout=60)
    model_request = ModelRequest(BODY, native=False)
    sdk = OpenAI(base_url=upstream, api_key="key", max_retries=0, timeout=60)

    def with_sdk() -> str:
        completion = sdk.chat.completions.create(model=MODEL, **BODY)
        return completion.model_dump_json(exclude_unset=True)

    def with_weir() -> str:
        return provider.answer(model_request, MODEL).body

    if json.loads(with_sdk()) != json.loads(with_weir()):
        raise RuntimeError("the two answers differ")
    return cpu_per_call({"SDK": with_sdk, "client": with_weir}, seconds, request)


# -- Gunicorn --


def http_parser(seconds: float, request: Timed) -> Costs:
    """Gunicorn's parser in Python: a head like those of SDKs, and the body below it."""
    config = Config()
    config.set("http_parser", "python")
    body = json.dumps({"model": MODEL, **BODY}).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in SDK_HEADERS.items())
    sent = f"POST /v1/chat/completions HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    connection = SimpleNamespace(recv=lambda _: sent.encode() + body)

    def parse() -> None:
        next(RequestParser(config, connection, ("127.0.0.1", 1))).body.read()

    return cpu_per_call({"parser": parse}, seconds, request)


# -- Redis --


def redis_clients(url: str, seconds: float) -> Costs:
    """A GET by many greenlets at once, and the number of connections that the pool has opened."""
    pool, shared = Redis.from_url(url, client_name=POOL), RedisClient(url)
    pool.set("bench", "x" * 1000)
    gets = {"pool": lambda: pool.get("bench"), "shared": lambda: shared.execute("GET", "bench")}
    costs = cpu_per_call(gets, seconds, at_once=GREENLETS)
    opened = sum(client["name"] == POOL for client in pool.client_list())
    return costs | {"connections": opened}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weir", type=int, nargs=2, required=True, metavar=("PORT", "PID"))
    parser.add_argument("--redis", required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--seconds", type=float, default=3, help="of each figure")
    options = parser.parse_args()
    port, pid = options.weir
    weir = SimpleNamespace(port=port, cpu_seconds=partial(cpu_of_all, pid))
    with ExitStack() as stack:
        hit, call = (
            (MeasuredServer(weir, make(weir), stack).turn, weir.cpu_seconds)
            for make in (cached_chat, uncached_chat)
        )
        figures = {
            "limits": limits(options.redis, options.seconds, hit),
            "provider": provider_clients(options.upstream, options.seconds, call),
            "parser": http_parser(options.seconds, hit),
            "redis": redis_clients(options.redis, options.seconds),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
