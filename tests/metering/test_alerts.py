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

# A key for each test, whose budget is for so many answers of ten words.
KEYS = ("told", "again", "gone")
BUDGET = 20


def key_of(name: str) -> str:
    return f"{name}_key_0123456789"


@pytest.fixture(scope="module")
def shared_receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver) -> Receiver:
    """The receiver of all webhooks, without earlier ones: each test awaits the end of its own."""
    shared_receiver.received.clear()
    shared_receiver.statuses.clear()
    return shared_receiver


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weirs(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    shared_receiver: Receiver,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> list[Weir]:
    """One Weir on SQLite or two with two workers each on PostgreSQL."""
    settings: dict[str, Any] = {
        "API_KEYS": ",".join(f"{name}:enterprise:{key_of(name)}" for name in KEYS),
        "TIERS": "enterprise=99999/minute",
        "TIER_ENTERPRISE": f"usd_per_month={BUDGET * 10 * OUTPUT / 1e9:.7f}",
        "MODEL_PRICES": PRICES.replace("input=1", "input=0"),
        "CACHE_TTL": 0,
        "OPENAI_BASE_URL": provider.base_url,
        "ALERT_WEBHOOK_URL": shared_receiver.url,
        "ALERT_WEBHOOK_SECRET": SECRET,
    }
    if request.param == "sqlite":
        return [start_shared_weir(**settings)]
    settings |= {"DATABASE_URL": fresh_shared_database, "REDIS_URL": fresh_shared_valkey.url}
    return [start_shared_weir(**settings, WEB_CONCURRENCY=2) for _ in range(2)]


def spend(weirs: list[Weir], name: str, share: float) -> None:
    """Ask for answers of ten words: so much of the budget of a key."""
    for number in range(int(share * BUDGET)):
        weir = weirs[number % len(weirs)]
        message = f"nine words follow the one that comes before {number}"
        body = {"message": message, "model": "stand-in-1", "max_tokens": 12}
        weir.post("/chat", key=key_of(name), json=body)


def alerts(books: Books, name: str) -> list[dict[str, Any]]:
    """The alerts of a key; `pause` is from the making to the next attempt, in seconds."""
    return books.rows(
        "SELECT alerts.*, next_attempt_at - alerts.created_at AS pause FROM alerts "
        f"JOIN api_keys ON api_keys.id = key_id WHERE name = '{name}'"
    )


def test_each_threshold_is_told_once(
    weirs: list[Weir], receiver: Receiver, provider: Provider
) -> None:
    spend(weirs, "told", 1.3)
    wait_until(lambda: len(receiver.received) >= 3, 20, "three alerts")
    data = [event["data"] for _, event in receiver.received]
    assert sorted(one["percent"] for one in data) == [50, 80, 100]
    half = next(one for one in data if one["percent"] == 50)
    assert (half["key_name"], half["period"]) == ("told", "month")
    assert half["api_key"] == "told***6789"
    assert half["limit_usd"] / 2 <= half["spent_usd"] < half["limit_usd"] * 0.8
    assert half["resets_at"].endswith("-01T00:00:00+00:00")
    books = Books(weirs[0])
    wait_until(lambda: all(alert["delivered_at"] for alert in alerts(books, "told")))
    assert len(alerts(books, "told")) == len(receiver.received) == 3


def test_an_alert_that_was_not_taken_is_sent_again(
    weirs: list[Weir], receiver: Receiver, provider: Provider
) -> None:
    receiver.statuses = [500, 500]
    spend(weirs, "again", 0.6)
    books = Books(weirs[0])
    due = "UPDATE alerts SET next_attempt_at = created_at WHERE next_attempt_at IS NOT NULL"
    for tries in (1, 2):
        wait_until(lambda tries=tries: len(receiver.received) == tries, 15)
        # The claim of the one that sends it is longer than the pause after it failed.
        wait_until(lambda: 0 < alerts(books, "again")[0]["pause"] < 50, 15, pause=0.05)
        with books.engine.begin() as connection:
            connection.execute(text(due))
    wait_until(lambda: len(receiver.received) == 3, 15)
    assert len({event_id for event_id, _ in receiver.received}) == 1, "receivers tell by the id"
    wait_until(lambda: alerts(books, "again")[0]["delivered_at"])
    assert len(alerts(books, "again")) == 1


def test_a_webhook_that_is_gone_is_left_alone(
    weirs: list[Weir], receiver: Receiver, provider: Provider
) -> None:
    receiver.statuses = [410]
    spend(weirs, "gone", 0.6)
    books = Books(weirs[0])

    def given_up() -> bool:
        [row] = alerts(books, "gone") or [{"next_attempt_at": 1}]
        return row["next_attempt_at"] is None and row["delivered_at"] is None

    wait_until(given_up, 15, pause=0.05)


def test_a_url_without_a_good_secret_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = {"DATA_DIR": str(tmp_path), "ALERT_WEBHOOK_URL": "https://example.com/hook"}
    with pytest.raises(SettingsError, match="ALERT_WEBHOOK_SECRET must be set"):
        load(settings)
    with pytest.raises(SettingsError, match="ALERT_WEBHOOK_SECRET must be whsec_"):
        load(settings | {"ALERT_WEBHOOK_SECRET": "whsec_x"})
