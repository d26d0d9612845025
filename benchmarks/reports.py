"""Reports and pages on a ledger of five million calls, on SQLite and on PostgreSQL.

Runs only with `--only reports`, as filling the ledgers takes minutes.
"""

from __future__ import annotations

import re
import statistics
import time
from datetime import UTC, datetime, timedelta

import requests
from sqlalchemy import Engine, create_engine, text

from benchmarks.processes import Server
from benchmarks.run import Run, tell
from benchmarks.table import Figure, milliseconds, number
from tests.support.servers import Postgres
from webapp.metering.activity import DAY as DAY_SPAN
from webapp.metering.activity import RETENTION
from webapp.metering.histogram import of_one, to_bytes
from webapp.metering.rollup_writer import RollupWriter
from webapp.storage.database import Database

CALLS, DAYS, KEYS, MODELS = 5_000_000, 400, 200, 30
MODELS_PER_KEY = 3
MAX_REPORT_TIME = 300.0  # ms
PASSWORD = "the benchmark's password"
TRIES = 5
REPORTS = {
    "30 days by day": "/admin/usage?by=day",
    "30 days by key": "/admin/usage?by=key",
    "30 days by model": "/admin/usage?by=model",
    "30 days by day, key and model": "/admin/usage?by=day,key,model",
    "one key's 30 days by model": "/admin/usage?by=model&key=101",
    "400 days by provider": "/admin/usage?by=provider&since={first}",
    "all figures of /stats": "/stats",
    "the newest calls": "/admin/ledger",
    "the newest calls of one key": "/admin/ledger?key=101",
}
MAX_PAGE_TIME = 100.0  # ms
PAGES = {
    "overview of 1 hour": "/dashboard/?range=1h",
    "overview of 24 hours": "/dashboard/?range=24h",
    "overview of 30 days": "/dashboard/?range=30d",
    "overview of 24 hours by provider": "/dashboard/?range=24h&by=provider&metric=tokens",
    "overview of 24 hours of one model": "/dashboard/?range=24h&provider=openai&model=model-1",
    "overview of 24 hours of one key": "/dashboard/?range=24h&key=101",
    "overview of yesterday": "/dashboard/?range=yesterday",
    "keys": "/dashboard/keys",
    "keys by cost": "/dashboard/keys?sort=-cost",
    "keys by tightest limit": "/dashboard/keys?sort=-limit",
    "one key": "/dashboard/keys/101",
    "requests": "/dashboard/requests",
    "failed requests": "/dashboard/requests?outcome=error",
    "requests of one key": "/dashboard/requests?key=101",
    "one request": f"/dashboard/requests/request-{CALLS - 1}",
    "providers": "/dashboard/providers",
    "accounts": "/dashboard/accounts",
    "audit": "/dashboard/audit",
}
NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers "
    f"WHERE i < {CALLS - 1})",
    "postgresql": f"WITH numbers AS (SELECT i FROM generate_series(0, {CALLS - 1}) AS i)",
}
# The day of a call, by its number. The first ones are the oldest.
DAY = {
    "sqlite": f"date('now', '-' || ({DAYS} - 1 - i * {DAYS} / {CALLS}) || ' days')",
    "postgresql": "(now() AT TIME ZONE 'UTC')::date - "
    f"({DAYS} - 1 - (i::bigint * {DAYS} / {CALLS})::int)",
}
# How bytes are written as hexadecimal digits.
HEX = {"sqlite": ("X'", "'"), "postgresql": ("'\\x", "'")}
FILL = """
INSERT INTO ledger (id, worker_id, key_id, request_id, endpoint, route, provider, model, attempt,
  state, day, reserved_at, settled_at, ceiling_nano, ceiling_input_tokens, ceiling_output_tokens,
  cost_nano, input_tokens, cached_input_tokens, output_tokens, estimated)
{numbers}
SELECT 4294967296 + i, 1, 100 + i * 7 % {keys}, 'request-' || i, '/chat', 'openai/m', 'openai',
  'model-' || (i * 11 % {models}), 1, 'settled', {day}, {first} + i * {days} * 86400.0 / {calls},
  {first} + i * {days} * 86400.0 / {calls} + 1, 2000000, 1000, 1000,
  i % 1000 * 1000, i % 1000, 0, i % 500, {false}
FROM numbers
"""
# For the dashboard: a request for each call, and the activity of each key in each span.
REQUESTS = """
INSERT INTO requests (id, at, request_id, key_id, endpoint, status, cache, provider, model, tokens,
  cost_nano, milliseconds)
{numbers}
SELECT i + 1, {first} + i * {days} * 86400.0 / {calls}, 'request-' || i, 100 + i * 7 % {keys},
  '/chat', CASE WHEN i % 100 = 0 THEN 502 ELSE 200 END, 'MISS', 'openai',
  'model-' || (i * 11 % {models}), 1000, i % 1000 * 1000, i % 500
FROM numbers
"""
TRAFFIC = """
INSERT INTO traffic (day, key_id, requests, hits, misses, errors, tokens, saved_tokens, saved_nano)
SELECT day, key_id, sum(calls), 0, sum(calls), 0, sum(input_tokens), 0, 0
FROM usage GROUP BY day, key_id
"""
ACTIVITY = """
INSERT INTO activity (span, start, key_id, requests, hits, misses, errors, tokens, cost_nano,
  saved_nano)
{numbers}
SELECT {span}, ({now} / {span} - i / {keys}) * {span}, 100 + i % {keys}, 10, 5, 5, 0, 1000, 1000000,
  1000
FROM numbers WHERE i < {keys} * {spans}
"""
# Each key asks MODELS_PER_KEY models in each step.
TARGETS = """
INSERT INTO target_activity (span, start, key_id, endpoint, provider, model, requests, hits, misses,
  calls, input_tokens, cached_input_tokens, output_tokens, cost_nano)
{numbers}
SELECT {span}, ({now} / {span} - i / ({keys} * {per_key})) * {span}, 100 + i % {keys}, '/chat',
  'openai', 'model-' || ((i % {keys} + i / {keys} % {per_key}) % {models}), 4, 2, 2, 2, 500, 100,
  500, 400000
FROM numbers WHERE i < {keys} * {per_key} * {spans}
"""
# Each model, and then all of them together.
TIMINGS = """
INSERT INTO target_latency (span, start, provider, model, total, first_token)
{numbers}
SELECT {span}, ({now} / {span} - i / ({models} + 1)) * {span},
  CASE WHEN i % ({models} + 1) = {models} THEN '*' ELSE 'openai' END,
  CASE WHEN i % ({models} + 1) = {models} THEN '*' ELSE 'model-' || (i % ({models} + 1)) END,
  {histogram}, {histogram}
FROM numbers WHERE i < ({models} + 1) * {spans}
"""
ROLL_UP = """
INSERT INTO usage (day, key_id, provider, model, endpoint, calls, failed, estimated, unpriced,
  input_tokens, cached_input_tokens, output_tokens, cost_nano)
SELECT day, key_id, provider, model, endpoint, count(*), 0, 0, 0,
  sum(input_tokens), 0, sum(output_tokens), sum(cost_nano)
FROM ledger GROUP BY day, key_id, provider, model, endpoint
"""
KEYS_OF = """
INSERT INTO api_keys (id, name, tier, mask, origin, overrides, created_at)
{numbers} SELECT 100 + i, 'key ' || i, 'free', 'key***' || i, 'operator', '{{}}', CURRENT_TIMESTAMP
FROM numbers WHERE i < {keys}
"""


def reports(run: Run) -> list[Figure]:
    """The response times of reports and of the dashboard's pages."""
    path = run.place.folder / "reports"
    figures = _measured(run, "sqlite", f"sqlite:///{path}/weir.db", {})
    with Postgres() as postgres:
        url = postgres.create_database("reports")
        engine_url = url.replace("postgresql://", "postgresql+psycopg://")
        return figures + _measured(run, "postgresql", engine_url, {"DATABASE_URL": url})


def _measured(run: Run, store: str, url: str, database: dict[str, str]) -> list[Figure]:
    settings = {
        "ADMIN_PASSWORD": PASSWORD,
        "LEDGER_RETENTION": "0",
        "REQUEST_LOG_RETENTION": "400",
        **database,
    }
    with run.weir("reports", settings=settings):
        pass  # it creates its tables
    engine = create_engine(url)
    _fill(engine, store)
    engine.dispose()
    _roll_up(url)
    with run.weir("reports", settings=settings) as weir, _administrator(weir) as session:
        visitor = _visitor(weir)
        return [
            Figure(f"calls in the ledger, {store}", CALLS, number),
            *(
                Figure(
                    f"{name}, {store}",
                    _took(session, weir, path),
                    milliseconds,
                    most=MAX_REPORT_TIME,
                )
                for name, path in REPORTS.items()
            ),
            *(
                Figure(
                    f"page {name}, {store}",
                    _took(visitor, weir, path),
                    milliseconds,
                    most=MAX_PAGE_TIME,
                )
                for name, path in PAGES.items()
            ),
        ]


def _fill(engine: Engine, store: str) -> None:
    began = time.monotonic()
    now = time.time()
    values = {
        "numbers": NUMBERS[store],
        "day": DAY[store],
        "first": now - DAYS * 86_400,
        "false": "0" if store == "sqlite" else "false",
        "keys": KEYS,
        "models": MODELS,
        "per_key": MODELS_PER_KEY,
        "histogram": f"{HEX[store][0]}{_histogram()}{HEX[store][1]}",
        "days": DAYS,
        "calls": CALLS,
        "now": int(now),
    }
    filling = [part.format(**values) for part in (KEYS_OF, FILL, ROLL_UP, REQUESTS, TRAFFIC)]
    for span, seconds in (*RETENTION.items(), (DAY_SPAN, DAYS * DAY_SPAN)):
        values |= {"span": span, "spans": seconds // span}
        of_span = (TARGETS, TIMINGS) if span == DAY_SPAN else (ACTIVITY, TARGETS, TIMINGS)
        filling += [part.format(**values) for part in of_span]
    for statement in (*filling, "ANALYZE"):
        with engine.begin() as connection:
            connection.execute(text(statement))
    tell(f"Filled {store} in {time.monotonic() - began:.0f} s")


def _roll_up(url: str) -> None:
    """As workers do in the background."""
    began = time.monotonic()
    database = Database(url)
    writer = RollupWriter(database)
    while not writer.tick():
        pass
    database.engine.dispose()
    tell(f"Rolled up in {time.monotonic() - began:.0f} s")


def _histogram() -> str:
    """Answers from the cache in 1 to 2 ms and of a model in 1 to 10 s, as hexadecimal digits."""
    took = (*(1 + n / 10 for n in range(10)), *(1_000 * 1.03**n for n in range(78)))
    return to_bytes(sum(map(of_one, took))).hex()


def _administrator(weir: Server) -> requests.Session:
    session = requests.Session()
    log_in = {"username": "admin", "password": PASSWORD}
    answer = session.post(f"{_base(weir)}/token", json=log_in, timeout=30)
    answer.raise_for_status()
    session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return session


def _visitor(weir: Server) -> requests.Session:
    session = requests.Session()
    form = session.get(f"{_base(weir)}/dashboard/sign-in", timeout=30)
    [token] = re.findall(r'name="csrf_token" value="([^"]+)"', form.text)[:1]
    fields = {"username": "admin", "password": PASSWORD, "csrf_token": token}
    session.post(form.url, data=fields, timeout=30).raise_for_status()
    return session


def _base(weir: Server) -> str:
    return f"http://127.0.0.1:{weir.port}"


def _took(session: requests.Session, weir: Server, path: str) -> float:
    """Milliseconds of the whole response, as the median of several tries."""
    first = datetime.now(UTC).date() - timedelta(days=DAYS - 1)
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        answer = session.get(_base(weir) + path.format(first=first), timeout=120)
        took.append((time.perf_counter() - began) * 1000)
        answer.raise_for_status()
    return statistics.median(took)
