"""Reports of usage agree with the ledger, as JSON, as CSV and at the command line."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until
from webapp.metering.calls import Calls
from webapp.storage.database import Database

KEYS = ("first_key_0123456789", "other_key_0123456789")
OPENAI = "/v1/chat/completions"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
) -> Weir:
    """A Weir with four calls: three of the first key, of two models, and one of the other."""
    database = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    weir = start_shared_weir(
        **SETTINGS, **database, API_KEYS=f"=first:enterprise:{KEYS[0]},other:enterprise:{KEYS[1]}",
        TIERS="enterprise=9999/minute", MODEL_PRICES=PRICES, OPENAI_BASE_URL=provider.base_url,
        LLM_MAX_RETRIES=0, LEDGER_RETENTION=30,
    )  # fmt: skip
    for key, model, said in (
        (KEYS[0], "alpha", "one"), (KEYS[0], "alpha", "two words"),
        (KEYS[0], "beta", "[[fault:status=500]]"), (KEYS[1], "alpha", "another one of three"),
    ):  # fmt: skip
        body = {"model": model, "messages": [{"role": "user", "content": said}]}
        weir.post(OPENAI, key=key, json=body)
    Books(weir).settled(4)
    return weir


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Administrator:
    return Administrator(weir)


def test_usage_by_every_dimension_sums_up_to_the_ledger(weir: Weir, admin: Administrator) -> None:
    rows = Books(weir).rows()
    cost = sum(row["cost_nano"] for row in rows) / 1e9
    for by in ("day", "key", "provider", "model", "endpoint", "day,key,model,endpoint"):
        report = admin.get(f"/admin/usage?by={by}").json()
        assert sum(row["calls"] for row in report["rows"]) == report["total"]["calls"] == 4
        assert sum(row["cost_usd"] for row in report["rows"]) == pytest.approx(cost)
        assert report["total"]["failed"] == 1
    by_model = admin.get("/admin/usage?by=model").json()["rows"]
    assert [(row["model"], row["calls"], row["failed"]) for row in by_model] == [
        ("alpha", 3, 0), ("beta", 1, 1),
    ]  # fmt: skip
    by_key = admin.get("/admin/usage?by=key&model=alpha").json()["rows"]
    assert [(row["key"], row["calls"]) for row in by_key] == [("=first", 2), ("other", 1)]
    assert weir.get("/stats", key=KEYS[0]).json()["cost_usd"] == pytest.approx(cost)


def test_days_are_chosen_and_bad_parameters_named(admin: Administrator) -> None:
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    assert admin.get(f"/admin/usage?until={yesterday}").json()["total"]["calls"] == 0
    one = admin.get(f"/admin/usage?since={today}&until={today}").json()
    assert one["rows"][0]["day"] == today.isoformat()
    for query, field in (
        ("since=soon", "since"), (f"since={today}&until={yesterday}", "since"),
        ("since=2020-01-01", "since"), ("by=colour", "by"), ("format=xml", "format"),
        ("colour=red", "colour"),
    ):  # fmt: skip
        refused = admin.get(f"/admin/usage?{query}")
        assert (refused.status_code, list(refused.json()["details"])) == (422, [field]), query


def test_csv_is_complete_and_no_formula(weir: Weir, admin: Administrator) -> None:
    answer = admin.get("/admin/usage?by=key&format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["key"] for row in rows] == ["'=first", "other"]
    exported = weir.run_flask("usage", "export", "--by", "key").stdout
    assert list(csv.DictReader(io.StringIO(exported))) == rows
    calls = list(csv.DictReader(io.StringIO(weir.run_flask("usage", "export", "--rows").stdout)))
    assert len(calls) == 4
    assert {row["state"] for row in calls} == {"settled", "failed"}


def test_a_call_is_followed_by_its_request(weir: Weir, admin: Administrator) -> None:
    everything = admin.get("/admin/ledger").json()["calls"]
    assert len(everything) == 4
    assert [call["reserved_at"] for call in everything] == sorted(
        (call["reserved_at"] for call in everything), reverse=True
    )
    one = admin.get(f"/admin/ledger?request_id={everything[2]['request_id']}").json()["calls"]
    assert one == [everything[2]]
    assert {"ceiling_usd", "cost_usd", "state", "attempt", "estimated"} <= set(one[0])
    key = everything[0]["key_id"]
    of_key = admin.get(f"/admin/ledger?key={key}").json()["calls"]
    assert of_key == [everything[0]]
    assert len(admin.get("/admin/ledger?limit=2").json()["calls"]) == 2
    assert weir.get("/admin/ledger", key=KEYS[0]).status_code == 403


def test_drift_is_told_and_is_nothing(weir: Weir, admin: Administrator) -> None:
    assert admin.get("/health/detailed").json()["weir_ledger_drift"] == 0


# Further calls are made last: the tests above count all of them.


@pytest.mark.parametrize("weir", ["postgresql"], indirect=True)
def test_drift_is_nothing_while_calls_are_written(weir: Weir, provider: Provider) -> None:
    url = str(weir.env["DATABASE_URL"])
    database = Database(url.replace("postgresql://", "postgresql+psycopg://"))
    stopped = threading.Event()

    def ask(caller: int) -> None:
        for number in count():
            if stopped.is_set():
                return
            body = {"message": f"{caller} {number}", "model": "more"}
            assert weir.post("/chat", key=KEYS[0], json=body).ok

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask, caller) for caller in range(4)]
        drifts = {Calls(database).drift() for _ in range(300)}
        stopped.set()
        for caller in callers:
            caller.result()
    database.engine.dispose()
    assert Books(weir).settled(14)
    assert drifts == {0}


@pytest.mark.parametrize("weir", ["sqlite"], indirect=True)
def test_old_calls_are_forgotten_and_their_sums_are_not(
    weir: Weir, admin: Administrator, provider: Provider
) -> None:
    for number in range(3):
        weir.post("/chat", key=KEYS[1], json={"message": f"{number}", "model": "more"})
    books = Books(weir)
    more = "SELECT * FROM ledger WHERE model = 'more' ORDER BY id"
    books.settled(7)
    rows = books.rows(more)
    with books.engine.begin() as connection:
        old = {"at": time.time() - 31 * 86_400, "id": rows[0]["id"]}
        connection.execute(text("UPDATE ledger SET reserved_at = :at WHERE id = :id"), old)
    weir.terminate()
    weir.start()
    wait_until(lambda: len(books.rows(more)) == 2, 10, "the old call forgotten")
    usage: Any = admin.get("/admin/usage?model=more").json()
    assert usage["total"]["calls"] == 3, json.dumps(usage)
