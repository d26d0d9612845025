"""Alerts of budgets reach the webhook once each, signed, and again only where that failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.books import OUTPUT, PRICES, Books
from tests.support.servers import Provider, Valkey, Weir, wait_until
from tests.support.webhook import SECRET, Receiver
from webapp.settings import SettingsError, load

KEY = "test_key_0123456789"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(params=["sqlite", "postgresql"])
def weirs(
    request: pytest.FixtureRequest,
    start_weir: MakeWeir,
    provider: Provider,
    receiver: Receiver,
    fresh_valkey: Valkey,
    fresh_database: str,
) -> list[Weir]:
    """One Weir on SQLite or two with two workers each on PostgreSQL; a budget of 100 answers."""
    settings: dict[str, Any] = {
        "API_KEYS": f"test:enterprise:{KEY}",
        "TIERS": "enterprise=99999/minute",
        "TIER_ENTERPRISE": f"usd_per_month={100 * 10 * OUTPUT / 1e9:.6f}",
        "MODEL_PRICES": PRICES.replace("input=1", "input=0"),
        "CACHE_TTL": 0,
        "OPENAI_BASE_URL": provider.base_url,
        "ALERT_WEBHOOK_URL": receiver.url,
        "ALERT_WEBHOOK_SECRET": SECRET,
    }
    if request.param == "sqlite":
        return [start_weir(**settings)]
    shared = {"DATABASE_URL": fresh_database, "REDIS_URL": fresh_valkey.url, "WEB_CONCURRENCY": 2}
    return [start_weir(**settings, **shared) for _ in range(2)]


def spend(weirs: list[Weir], answers: int) -> None:
    """Ask for answers of ten words."""
    for number in range(answers):
        weir = weirs[number % len(weirs)]
        message = f"nine words follow the one that comes before {number}"
        body = {"message": message, "model": "stand-in-1", "max_tokens": 12}
        weir.post("/chat", key=KEY, json=body)


def test_each_threshold_is_told_once(
    weirs: list[Weir], receiver: Receiver, provider: Provider
) -> None:
    spend(weirs, 130)
    wait_until(lambda: len(receiver.received) >= 3, 20, "three alerts")
    data = [event["data"] for _, event in receiver.received]
    assert sorted(one["percent"] for one in data) == [50, 80, 100]
    half = next(one for one in data if one["percent"] == 50)
    assert (half["key_name"], half["period"]) == ("test", "month")
    assert half["api_key"] == "test***6789"
    assert half["limit_usd"] / 2 <= half["spent_usd"] < half["limit_usd"] * 0.8
    assert half["resets_at"].endswith("-01T00:00:00+00:00")
    rows = Books(weirs[0]).rows("SELECT * FROM alerts")
    wait_until(lambda: all(r["delivered_at"] for r in Books(weirs[0]).rows("SELECT * FROM alerts")))
    assert len(rows) == len(receiver.received) == 3


def test_an_alert_that_was_not_taken_is_sent_again(
    weirs: list[Weir], receiver: Receiver, provider: Provider
) -> None:
    receiver.statuses = [500, 500]
    spend(weirs, 60)
    books = Books(weirs[0])
    for tries in (1, 2):
        wait_until(lambda tries=tries: len(receiver.received) == tries, 15)
        # The claim of the one that sends it is longer than the pause after it failed.
        wait_until(lambda: 0 < pause(books) < 50, 15)
        with books.engine.begin() as connection:
            connection.execute(text("UPDATE alerts SET next_attempt_at = created_at"))
    wait_until(lambda: len(receiver.received) == 3, 15)
    assert len({event_id for event_id, _ in receiver.received}) == 1, "receivers tell by the id"
    wait_until(lambda: books.rows("SELECT * FROM alerts")[0]["delivered_at"])


def pause(books: Books) -> float:
    """Seconds from the making of the alert to its next attempt."""
    [row] = books.rows("SELECT next_attempt_at - created_at AS pause FROM alerts")
    return float(row["pause"])


def test_a_webhook_that_is_gone_is_left_alone(
    weirs: list[Weir], receiver: Receiver, provider: Provider
) -> None:
    receiver.statuses = [410]
    spend(weirs, 60)
    books = Books(weirs[0])

    def given_up() -> bool:
        [row] = books.rows("SELECT * FROM alerts") or [{"next_attempt_at": 1}]
        return row["next_attempt_at"] is None and row["delivered_at"] is None

    wait_until(given_up, 15)


def test_a_url_without_a_good_secret_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = {"DATA_DIR": str(tmp_path), "ALERT_WEBHOOK_URL": "https://example.com/hook"}
    with pytest.raises(SettingsError, match="ALERT_WEBHOOK_SECRET must be set"):
        load(settings)
    with pytest.raises(SettingsError, match="ALERT_WEBHOOK_SECRET must be whsec_"):
        load(settings | {"ALERT_WEBHOOK_SECRET": "whsec_x"})
