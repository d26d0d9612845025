"""Writes that wait for SQLite's lock hold up nothing else: Weir's work and look-ups of names have
native threads of their own."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir

KEY = "test_key_0123456789"
OTHER_KEY = "other_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},other:enterprise:{OTHER_KEY}",
    "TIERS": "enterprise=99999/minute",
    "WEB_CONCURRENCY": 1,
}
# More than any pool of native threads in Weir has.
STUCK = 30
# Much less than the 4 s after which a write gives up.
PROMPT = 2.0  # seconds


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    named = provider.base_url.replace("127.0.0.1", "localhost")
    return start_shared_weir(**SETTINGS, OPENAI_BASE_URL=named)


def write(weir: Weir, number: int) -> HTTPConnection:
    """Send a request that writes, and do not wait for its answer."""
    connection = HTTPConnection("127.0.0.1", weir.port, timeout=10)
    headers = {
        "X-API-Key": KEY,
        "Content-Type": "application/json",
        "Idempotency-Key": f"{time.time()}-{number}",
    }
    connection.request("POST", "/generate", json.dumps({"prompt": "Say something."}), headers)
    return connection


ASKED: dict[str, tuple[Callable[[Weir], requests.Response], int, str]] = {
    "a provider by its name": (lambda weir: weir.get("/v1/models", key=KEY), 200, "stand-in-1"),
    "a key that is not remembered": (lambda weir: weir.get("/v1/key", key=OTHER_KEY), 200, "other"),
    "a password": (
        lambda weir: weir.post("/token", json={"username": "nobody", "password": "unknown-12"}),
        401,
        "Wrong username or password.",
    ),
    "the metrics": (lambda weir: weir.get("/metrics"), 200, "weir_budget_spent_ratio"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_stuck_writes_hold_nothing_else_up(weir: Weir, asked: str) -> None:
    ask, status, text = ASKED[asked]
    assert weir.get("/v1/key", key=KEY).ok  # this key is known now, without the database
    with ExitStack() as opened:
        database = opened.enter_context(closing(sqlite3.connect(weir.data_dir / "weir.db")))
        database.execute("BEGIN IMMEDIATE")  # as another process may hold it
        writing = [opened.enter_context(closing(write(weir, one))) for one in range(STUCK)]
        began = time.monotonic()
        answer = ask(weir)
        took = time.monotonic() - began
        assert took < PROMPT, f"{asked} took {took:.1f} s"
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
        database.rollback()
        # They have waited for the lock, and go on now that it is free.
        statuses = [opened.enter_context(one.getresponse()).status for one in writing]
        assert set(statuses) == {200}
