"""What requests leave in Redis and PostgreSQL, and what they make both do: for docs/scaling.md.

PostgreSQL is that of the tests: without fsync and without images of full pages in its WAL.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

import redis
from sqlalchemy import Engine, create_engine, text

from benchmarks.gateways import Weir
from benchmarks.load import CONNECTIONS, put_load
from benchmarks.processes import Server, cpu_of_all
from benchmarks.run import Run, warm_up
from benchmarks.table import Figure, bytes_of, decimal, microseconds, number
from tests.support.servers import Postgres

SETTLE_TIMEOUT = 10.0  # seconds
SAMPLES = 500
WINDOW = "weir:window:"
ANSWER = "weir:answer:"
# Seconds in which the request log is written, and PostgreSQL counts.
REQUEST_LOG_DELAY = 2.0


def footprint(run: Run) -> list[Figure]:
    """Redis and PostgreSQL, for each hit and each uncached call."""
    gateway = Weir(run)
    with (
        redis.Redis(port=run.valkey.port) as client,
        Postgres() as postgres,
    ):
        name = f"footprint_{uuid.uuid4().hex[:8]}"
        url = postgres.create_database(name)
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with run.weir(settings={"DATABASE_URL": url}) as weir:
            hits = _of_redis(run, client, gateway, weir, same=True)
            warm_up(lambda: gateway.ask(weir))
            client.flushall()
            _settled(engine)
            before = _of_postgres(engine), cpu_of_all(postgres.process.pid)
            calls = _of_redis(run, client, gateway, weir, same=False)
            _settled(engine)
            time.sleep(REQUEST_LOG_DELAY)
            after = _of_postgres(engine), cpu_of_all(postgres.process.pid)
            kept = _kept(client)
            alone_before = _of_postgres(engine)
            alone = put_load(gateway.ask(weir), run.seconds, 1)
            _settled(engine)
            time.sleep(REQUEST_LOG_DELAY)
            alone_commits = _of_postgres(engine)["commits"] - alone_before["commits"]
        engine.dispose()
    count = calls["answered"]
    written = {name: after[0][name] - before[0][name] for name in after[0]}
    return [
        Figure("cache hit, commands to Redis", hits["commands"], decimal),
        Figure("cache hit, CPU of Redis", hits["cpu"], microseconds),
        Figure("cache hit, bytes to and from Redis", hits["bytes"], bytes_of),
        Figure("uncached call, commands to Redis", calls["commands"], decimal),
        Figure("uncached call, CPU of Redis", calls["cpu"], microseconds),
        Figure("uncached call, bytes to and from Redis", calls["bytes"], bytes_of),
        Figure("an answer in the cache, its JSON", kept["json"], bytes_of),
        Figure("an answer in the cache, memory of Redis", kept["answer"], bytes_of),
        Figure("a request in the log of a limit, memory of Redis", kept["request"], bytes_of),
        Figure("uncached calls measured", count, number),
        Figure("uncached call, transactions of PostgreSQL", written["commits"] / count, decimal),
        Figure(
            "uncached call, one at a time, transactions of PostgreSQL",
            alone_commits / alone.answered,
            decimal,
        ),
        Figure(
            "uncached call, CPU of PostgreSQL", (after[1] - before[1]) / count * 1e6, microseconds
        ),
        Figure("uncached call, bytes of WAL", written["wal"] / count, bytes_of),
        Figure("a call in the ledger, disk", written["ledger"] / written["calls"], bytes_of),
        Figure("a request in the request log, disk", written["requests"] / count, bytes_of),
    ]


def _of_redis(
    run: Run, client: redis.Redis, gateway: Weir, weir: Server, *, same: bool
) -> dict[str, float]:
    """What a request makes Redis do, by its own counters."""
    request = gateway.ask(weir, same=same)
    if same:
        put_load(request, 1, CONNECTIONS)
    before = _counters(client.info())
    load = put_load(request, run.seconds, CONNECTIONS)
    after = _counters(client.info())
    made = {name: (after[name] - before[name]) / load.answered for name in after}
    return made | {"cpu": made["cpu"] * 1e6, "answered": load.answered}


def _counters(info: Mapping[str, Any]) -> dict[str, float]:
    return {
        # Those within scripts count, as they take time.
        "commands": info["total_commands_processed"],
        "cpu": info["used_cpu_user"] + info["used_cpu_sys"],
        "bytes": info["total_net_input_bytes"] + info["total_net_output_bytes"],
    }


def _kept(client: redis.Redis) -> dict[str, float]:
    answers = [key for key, _ in zip(client.scan_iter(f"{ANSWER}*"), range(SAMPLES), strict=False)]
    [window] = client.keys(f"{WINDOW}*minute*") or client.keys(f"{WINDOW}*")[:1]
    return {
        "json": sum(client.strlen(key) for key in answers) / len(answers),
        "answer": sum(client.memory_usage(key) for key in answers) / len(answers),
        "request": client.memory_usage(window, samples=0) / client.llen(window),
    }


def _settled(engine: Engine) -> None:
    """Wait until no call is reserved any more."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if not connection.scalar(text("SELECT count(*) FROM ledger WHERE state = 'reserved'")):
                return
        time.sleep(0.1)
    raise TimeoutError("calls are still reserved")


def _of_postgres(engine: Engine) -> dict[str, float]:
    statement = text(
        "SELECT pg_stat_get_db_xact_commit(oid) AS commits, "
        "pg_total_relation_size('ledger') AS ledger, "
        "pg_total_relation_size('requests') AS requests, "
        "(SELECT count(*) FROM ledger) AS calls, "
        "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS wal "
        "FROM pg_database WHERE datname = current_database()"
    )
    with engine.connect() as connection:
        row = connection.execute(statement).one()
        return {name: float(value) for name, value in row._mapping.items()}
