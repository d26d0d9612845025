"""PostgreSQL behind PgBouncer in transaction mode, as hosters sell it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES
from tests.support.servers import PgBouncer, Postgres, Provider, Weir, wait_until

KEY = "trial_key_0123456789"


@pytest.fixture
def pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    if PgBouncer.program is None and "CI" not in os.environ:
        pytest.skip("PgBouncer is not installed (apt-get install pgbouncer)")
    with PgBouncer(postgres) as server:
        yield server


def settings_of_sessions(url: str) -> set[tuple[str, ...]]:
    """What other clients of the pool find set: on each of the pool's connections."""
    names = ("transaction_timeout", "idle_in_transaction_session_timeout", "search_path")
    shown = ", ".join(f"current_setting('{name}')" for name in names)
    found = {}
    # Open transactions at the same time are on different connections.
    clients = [psycopg.connect(url) for _ in range(PgBouncer.CONNECTIONS)]
    for client in clients:
        backend, *settings = client.execute(f"SELECT pg_backend_pid(), {shown}").fetchall()[0]
        found[backend] = tuple(settings)
    for client in clients:
        client.close()
    assert len(found) == PgBouncer.CONNECTIONS
    return set(found.values())


@pytest.mark.parametrize(
    ("schema", "calls"), [("", 200), ("weir", 20)], ids=["c46", "with a schema of its own"]
)
def test_weir_needs_no_session_and_leaves_nothing_in_one(
    start_weir: MakeWeir,
    provider: Provider,
    pooler: PgBouncer,
    empty_database: str,
    schema: str,
    calls: int,
) -> None:
    url = pooler.url(urlsplit(empty_database).path[1:])
    if schema:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
    before = settings_of_sessions(url)
    weir = start_weir(
        **SETTINGS, API_KEYS=f"trial:enterprise:{KEY}", TIERS="enterprise=99999/minute",
        TIER_ENTERPRISE="usd_per_day=100", MODEL_PRICES=PRICES, OPENAI_BASE_URL=provider.base_url,
        DATABASE_URL=url + (f"?schema={schema}" if schema else ""),
    )  # fmt: skip
    assert Counter(used(weir, calls)) == {200: calls + calls // 4}
    make_and_revoke_keys(weir)
    assert weir.get("/health").json()["checks"]["database"] == "healthy"
    assert weir.get("/readiness").json() == {"ready": True}
    assert "weir_ledger_drift_usd 0.0" in weir.get("/metrics").text
    assert "prepared statement" not in weir.raw_logs()
    assert not [line for line in weir.logs() if line["level"] in {"warning", "error"}]
    assert settings_of_sessions(url) == before
    with psycopg.connect(empty_database) as connection:
        query = f"SELECT count(*), count(DISTINCT state) FROM {schema or 'public'}.ledger"
        assert connection.execute(query).fetchall() == [(calls, 1)]


def used(weir: Weir, calls: int) -> list[int]:
    """The status of many calls, 8 at a time."""

    def chat(number: int) -> int:
        body = {"message": f"Hello {number}", "model": "stand-in-1"}
        headers = {"Cache-Control": "no-store"}
        return weir.post("/chat", key=KEY, json=body, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        asked = [*pool.map(chat, range(calls))]
        return [
            *asked,
            *pool.map(lambda _: weir.get("/v1/key", key=KEY).status_code, range(calls // 4)),
        ]


def make_and_revoke_keys(weir: Weir) -> None:
    administrator = Administrator(weir)
    keys = []
    for name in ("first", "second", "third"):
        made = administrator.post("/admin/keys", {"name": name, "tier": "enterprise"})
        assert made.status_code == 201, made.text
        keys.append(made.json())
    assert {weir.get("/v1/key", key=key["secret"]).status_code for key in keys} == {200}
    for key in keys:
        revoked = administrator.post(f"/admin/keys/{key['id']}/revoke")
        assert revoked.status_code == 200, revoked.text
    for key in keys:
        # Who a key is is remembered for a few seconds.
        wait_until(lambda: weir.get("/v1/key", key=key["secret"]).status_code == 401)  # noqa: B023
