"""/metrics: right across workers, bounded whatever clients send, there when the stores are not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.scrape import Scrape, scrape
from tests.support.servers import Postgres, Provider, Valkey, Weir, wait_until

KEY = "test_key_0123456789"
FREE = "free_key_0123456789"
DEAR = "dear_key_0123456789"
FULL = "full_key_0123456789"
TOKEN = "metrics-token-0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS: dict[str, object] = {
    "API_KEYS": f"test:enterprise:{KEY},free:free:{FREE},dear:dear:{DEAR},full:full:{FULL}",
    "TIERS": "free=5/minute;enterprise=9999/minute;dear=99/minute;full=99/minute",
    "TIER_FREE": "tokens_per_minute=5",
    "TIER_DEAR": "usd_per_day=0.0000001,usd_per_month=5",
    "TIER_FULL": "usd_per_month=0.01",
    "DEFAULT_MODEL": "stand-in-1",
    # What has a price of its own has a label of its own: models of a single test.
    "MODEL_PRICES": ";".join([PRICES, *(PRICES.replace("*", m) for m in ("metered", "breaking"))]),
    "LLM_MAX_RETRIES": 0,
}
PRODUCTION = {
    "APP_ENV": "production", "HOST": "127.0.0.1", "SECRET_KEY": "0123456789abcdef0",
    "ADMIN_PASSWORD": "0123456789abcdef",
}  # fmt: skip


@pytest.fixture(scope="module")
def shared_weir(
    start_shared_weir: MakeWeir,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
    provider: Provider,
) -> Weir:
    """Two workers on PostgreSQL and Redis."""
    return start_shared_weir(
        **SETTINGS, DATABASE_URL=fresh_shared_database, REDIS_URL=fresh_shared_valkey.url,
        WEB_CONCURRENCY=2, OPENAI_BASE_URL=provider.base_url,
    )  # fmt: skip


@pytest.fixture
def weir(shared_weir: Weir) -> Weir:
    """Each test waits until its calls of /chat have been counted, so that the next one does not
    count them."""
    return shared_weir.start()


@pytest.fixture(scope="module")
def small_weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    """In production: one worker on SQLite. FULL has spent something before the first scrape, as
    how full budgets are is remembered for a while."""
    weir = start_shared_weir(
        **SETTINGS, **PRODUCTION, OPENAI_BASE_URL=provider.base_url, METRICS_TOKEN=TOKEN,
        BREAKER_FAILURES=2, TRUSTED_PROXIES=1,
    )  # fmt: skip
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 500, "model": "fills"}
    provider.reset()
    assert weir.post(OPENAI, key=FULL, json=body).ok
    Books(weir).settled(1)
    return weir


def chat(weir: Weir, message: str, key: str = KEY, **kwargs: Any) -> int:
    return post(weir, {"message": message}, key, **kwargs)


def post(weir: Weir, body: dict[str, Any], key: str = KEY, **kwargs: Any) -> int:
    return weir.post("/chat", key=key, json=body, **kwargs).status_code


def scraped(weir: Weir) -> Scrape:
    token = {"Authorization": f"Bearer {TOKEN}"} if "METRICS_TOKEN" in weir.env else {}
    return scrape(weir, **token)


def counted(
    weir: Weir, name: str, least: float, since: Scrape | None = None, **labels: str
) -> Scrape:
    """The metrics, once a counter has come so far: a request is counted after its answer."""
    before = since.value(name, **labels) if since else 0

    def look() -> Scrape | None:
        seen = scraped(weir)
        return seen if seen.value(name, **labels) >= before + least else None

    seen = wait_until(look, what=f"{name} {labels} of {before} + {least}", pause=0.03)
    assert seen is not None
    return seen


def growth(before: Scrape, after: Scrape) -> Callable[..., float]:
    """`grew(name, **labels)` is how much a counter has grown."""
    return lambda name, **labels: after.value(name, **labels) - before.value(name, **labels)


def metrics_folders(weir: Weir) -> set[Path]:
    """Where its workers count."""
    maps = (Path(f"/proc/{pid}/maps").read_text() for pid in weir.pids())
    return {Path(found).parent for text in maps for found in re.findall(r"/\S+_\d+\.db", text)}


def test_each_answer_counts_with_the_part_of_the_cache(weir: Weir, provider: Provider) -> None:
    before = scraped(weir)
    chat(weir, "kept")
    chat(weir, "kept")
    chat(weir, "kept", headers={"Cache-Control": "no-store"})
    provider.fault(slow=0.5)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: chat(weir, "together"), range(4))) == {200}
    grew = growth(before, counted(weir, "weir_requests_total", 7, before, endpoint="/chat"))
    found = {r: grew("weir_cache_answers_total", result=r) for r in ("hit", "miss", "bypass")}
    together = grew("weir_cache_answers_total", result="coalesced")
    # Who comes late finds the answer kept.
    assert found["bypass"] == 1
    assert found["miss"] == 2
    assert found["hit"] + together == 4
    assert grew("weir_saved_usd_total") > 0


def test_a_slow_provider_is_not_taken_for_a_slow_weir(weir: Weir, provider: Provider) -> None:
    start = scraped(weir)
    chat(weir, "imports what the first call needs")
    chat(weir, "and on the other worker")
    before = counted(weir, "weir_overhead_seconds_count", 2, start, cache="miss")
    provider.fault(slow=0.5)
    for number in range(3):
        chat(weir, f"slow {number}")
    with weir.stream("/chat", {"message": "slow stream", "stream": True}, KEY) as stream:
        list(stream)
    grew = growth(before, counted(weir, "weir_overhead_seconds_count", 4, before, cache="miss"))
    assert grew("weir_overhead_seconds_count") == 4
    assert grew("weir_overhead_seconds_sum") < 1.0
    assert grew("weir_provider_duration_seconds_sum", model="stand-in-1") > 2.0
    assert grew("weir_request_duration_seconds_sum", endpoint="/chat") > 2.0
    assert grew("weir_time_to_first_token_seconds_sum") > 0.5


def test_tokens_and_cost_are_what_the_ledger_says(weir: Weir, provider: Provider) -> None:
    before = scraped(weir)
    model = {"model": "metered"}
    post(weir, {"message": "one", **model})
    with weir.stream("/chat", {"message": "two", "stream": True, **model}, KEY) as stream:
        list(stream)
    provider.fault(cut=True)
    said = {"messages": [{"role": "user", "content": "x"}]}
    weir.post(OPENAI, key=KEY, json={**said, "stream": True, **model})
    provider.fault(status=500)
    post(weir, {"message": "three", **model})
    rows = [row for row in Books(weir).settled(4) if row["model"] == "metered"]
    assert len(rows) == 4
    labels = {"provider": "openai", **model}
    counted(weir, "weir_requests_total", 3, before, endpoint="/chat")
    seen = counted(weir, "weir_provider_attempts_total", 4, **labels)
    for kind in ("input", "output"):
        total = sum(row[f"{kind}_tokens"] for row in rows)
        assert total > 0
        assert seen.value("weir_tokens_total", type=kind, **labels) == total
    cost = sum(row["cost_nano"] for row in rows) / 1e9
    assert seen.value("weir_cost_usd_total", **labels) == pytest.approx(cost)
    assert seen.value("weir_provider_errors_total", error="ProviderFailed", **labels) == 2
    assert seen.value("weir_ledger_drift_usd") == 0
    assert seen.value("weir_time_between_tokens_seconds_count", **labels) > 0


def test_refusals_say_which_limit_refused(small_weir: Weir, provider: Provider) -> None:
    before = scraped(small_weir)
    for number in range(7):  # the first one fits; the tier allows five requests
        chat(small_weir, f"number {number}", FREE)
    chat(small_weir, "too dear", DEAR)
    elsewhere = {"X-Forwarded-For": "10.9.8.7"}
    for _ in range(31):
        chat(small_weir, "nobody", "no_such_key_0123456789", headers=elsewhere)
    grew = growth(before, counted(small_weir, "weir_refusals_total", 8, before))
    assert grew("weir_refusals_total", limit="tokens_per_minute", tier="free") == 4
    assert grew("weir_refusals_total", limit="requests", tier="free") == 2
    assert grew("weir_refusals_total", limit="usd_per_day", tier="dear") == 1
    assert grew("weir_refusals_total", limit="credentials", tier="none") == 1
    assert grew("weir_errors_total", error="BudgetExceeded") == 1


def test_how_full_budgets_are_is_told_by_key(small_weir: Weir) -> None:
    [row] = [row for row in Books(small_weir).rows() if row["model"] == "fills"]
    told = scraped(small_weir).samples["weir_budget_spent_ratio"]
    [(labels, ratio)] = [one for one in told if one[0]["key"].startswith("full (")]
    assert labels["period"] == "month"
    assert ratio == pytest.approx(row["cost_nano"] / 1e9 / 0.01)


def test_an_open_breaker_shows(small_weir: Weir, provider: Provider) -> None:
    provider.fault(status=500)
    for key in (KEY, FULL):
        post(small_weir, {"message": "failing", "model": "breaking"}, key)
    seen = scraped(small_weir)
    labels = {"provider": "openai", "model": "breaking"}
    assert seen.value("weir_breaker_state", state="open", **labels) == 1
    assert seen.value("weir_breaker_state", state="closed", **labels) == 0


def test_batches_and_their_workers_are_told_by_every_worker(weir: Weir) -> None:
    books = Books(weir)
    with books.engine.begin() as connection:
        # Its line waits for an hour, so that nobody begins it.
        connection.execute(
            text(
                "INSERT INTO batches (id, kind, key_id, endpoint, state, completion_window, mode, "
                "on_lost, total, succeeded, failed, request_id, callback_attempts, created_at, "
                "expires_at) SELECT 'batch_seen', 'batch', min(id), '/v1/embeddings', "
                "'in_progress', '24h', 'direct', 'retry', 3, 1, 1, 'r', 0, :now - 500, :now + 500 "
                "FROM api_keys"
            ),
            {"now": time.time()},
        )
        connection.execute(
            text(
                "INSERT INTO batch_lines (batch_id, number, custom_id, state, position, length, "
                "tries, lost, not_before) "
                "VALUES ('batch_seen', 3, 'c', 'waiting', 0, 1, 0, 0, :now + 3600)"
            ),
            {"now": time.time()},
        )
        connection.execute(
            text(
                "INSERT INTO batch_totals VALUES ('succeeded', 30), ('failed', 2), ('lost', 1), "
                "('cost_nano', 1500000000)"
            )
        )
    books.engine.dispose()
    for _ in range(5):  # whichever worker answers
        seen = scraped(weir)
        assert seen.value("weir_batch_waiting_lines") == 1
        assert 500 <= seen.value("weir_batch_oldest_waiting_seconds") < 600
        assert seen.value("weir_batches", state="in_progress") == 1
        assert seen.value("weir_batch_lines_total", state="succeeded") == 30
        assert seen.value("weir_batch_lines_total", state="failed") == 2
        assert seen.value("weir_batch_lines_lost_total") == 1
        assert seen.value("weir_batch_cost_usd_total") == 1.5
        assert seen.value("weir_batch_workers") == 0
    with books.engine.begin() as connection:
        for table in ("batches", "batch_lines", "batch_totals"):
            connection.execute(text(f"DELETE FROM {table}"))
    books.engine.dispose()


def test_in_production_only_the_token_reads_them(small_weir: Weir, start_weir: MakeWeir) -> None:
    for path in ("/metrics", "/v1/metrics"):
        assert small_weir.get(path).status_code == 403
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert small_weir.get(path, headers=right).status_code == 200
    wrong = {"Authorization": "Bearer wrong"}
    refused = small_weir.get("/metrics", headers=wrong)
    challenge = refused.headers["WWW-Authenticate"]
    assert (refused.status_code, challenge) == (401, 'Bearer realm="weir"')
    basic = small_weir.get("/metrics", headers={"Authorization": f"Basic {TOKEN}"})
    assert basic.status_code == 401
    statuses = [small_weir.get("/metrics", headers=wrong).status_code for _ in range(30)]
    assert statuses[-1] == 429
    assert scraped(small_weir).value("weir_workers") == 1
    assert TOKEN not in small_weir.raw_logs()

    closed = start_weir(**PRODUCTION)
    assert closed.get("/metrics").status_code == 403
    for sent in ("Bearer", "Bearer ", "Bearer x"):
        assert closed.get("/metrics", headers={"Authorization": sent}).status_code == 401


@pytest.mark.skipif(
    not shutil.which("promtool") and "CI" not in os.environ, reason="promtool is not installed"
)
def test_names_units_and_texts_are_as_prometheus_wants_them(weir: Weir) -> None:
    before = scraped(weir)
    chat(weir, "x")
    weir.post("/predict", key=KEY, json={"features": [1, 2]})
    counted(weir, "weir_requests_total", 1, before, endpoint="/chat")
    text = counted(weir, "weir_prediction_batch_size_count", 1).text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_stores_that_are_away_show_and_hide_nothing_else(
    weir: Weir, postgres: Postgres, valkey: Valkey
) -> None:
    asked: list[int] = []

    def ask(message: str) -> int:
        asked.append(chat(weir, message))
        return asked[-1]

    before = scraped(weir)
    ask("before")
    counted(weir, "weir_requests_total", 1, before, endpoint="/chat")
    valkey.stop()
    postgres.stop()

    def both_down() -> bool:
        seen = scraped(weir)
        states = [seen.value("weir_store_up", store=store) for store in ("database", "redis")]
        return states == [0, 0]

    # Each worker finds out by itself; the one that answers says what it knows.
    wait_until(lambda: ask("unknown") and both_down(), 30, pause=0.05)
    grew = growth(before, scraped(weir))
    assert grew("weir_store_errors_total", store="database") > 0
    assert grew("weir_store_errors_total", store="redis") > 0
    assert grew("weir_requests_total", endpoint="/chat", status="200") >= 1
    valkey.start()
    postgres.start()
    wait_until(lambda: scraped(weir).value("weir_store_up") == 2, 30, pause=0.05)

    def all_answer() -> bool:
        with ThreadPoolExecutor(8) as pool:
            return set(pool.map(lambda n: ask(f"after {n}"), range(16))) == {200}

    wait_until(all_answer, 30, "the recovery of both workers")
    counted(weir, "weir_requests_total", len(asked), before, endpoint="/chat")


def test_no_count_is_lost_or_doubled_when_a_worker_is_replaced(weir: Weir) -> None:
    def ask(count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda n: chat(weir, f"number {n}"), range(count))) == {200}

    start = scraped(weir)
    ask(20)
    counted(weir, "weir_requests_total", 20, start, endpoint="/chat")
    before = weir.pids()
    with weir.stream(
        "/chat", {"message": "[[fault:gap=0.2,pieces=20]] x", "stream": True}, KEY
    ) as s:
        next(s)
        counted(weir, "weir_streams_open", 1)
        for number, pid in enumerate(before):
            os.kill(pid, signal.SIGKILL if number else signal.SIGTERM)
        wait_until(lambda: are_new(weir.pids(), before), 40, pause=0.1)
        wait_until(lambda: scraped(weir).value("weir_workers") == 2, pause=0.1)
    ask(20)
    seen = counted(weir, "weir_requests_total", 40, start, endpoint="/chat", tier="enterprise")
    grew = growth(start, seen)
    assert grew("weir_requests_total", endpoint="/chat", status="200") in {40, 41}
    assert grew("weir_cache_answers_total") in {40, 41}
    assert grew("weir_request_duration_seconds_count", endpoint="/chat") in {40, 41}
    assert seen.value("weir_streams_open") == 0
    [folder] = metrics_folders(weir)
    owners = {file.stem.rpartition("_")[2] for file in folder.glob("*.db")}
    # A new worker has a file once it has counted something.
    assert owners <= {"0", *map(str, weir.pids())}, "those of the dead are added up in one"
    workers = {scraped(weir).value("weir_requests_total", endpoint="/chat") for _ in range(10)}
    assert len(workers) == 1, "whichever worker is asked says the same"


def are_new(pids: list[int], before: list[int]) -> bool:
    return len(pids) == 2 and not set(before) & set(pids)


def test_label_values_are_bounded_whatever_clients_send(weir: Weir, provider: Provider) -> None:
    chat(weir, "first")
    before = scraped(weir)
    errors = before.labels("weir_errors_total", "error")
    # More than the 100 that two workers give a label; more than the 50 of which a state is told.
    answered, failing, others = 150, 60, 30

    def answer(number: int) -> None:
        post(weir, {"message": "x", "model": f"made-up-{number}"})

    def fail(number: int) -> None:
        post(weir, {"message": f"[[fault:status=500]] {number}", "model": f"bad-{number}"})

    def strange(number: int) -> None:
        weir.get(f"/nowhere/{number}", key=KEY)
        weir.request(f"METHOD{number}", "/chat", key=KEY)
        chat(weir, "x", headers={"X-Cache": f"c{number}"})
        weir.post("/predict", key=KEY, json={"features": [1], "model": f"none-{number}"})
        weir.post(f"/v1/models/{number}", key=f"key_{number}_0123456789")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(answered)))
        list(pool.map(fail, range(failing)))
        list(pool.map(strange, range(others)))
    counted(weir, "weir_requests_total", others, before, endpoint="(unknown)")
    chats = answered + failing + others
    seen = counted(weir, "weir_requests_total", chats, before, endpoint="/chat")
    # 50 of each of two workers, the default one and `metered`, and the one that is no name.
    models = seen.labels("weir_provider_attempts_total", "model")
    assert "other" in models
    assert len(models) <= 103
    assert not any(model.startswith("bad") for model in models)
    for labels in ({"model": "other"}, {"provider": "openai"}):
        assert seen.value("weir_provider_attempts_total", **labels) > 0
    assert len(seen.labels("weir_breaker_state", "model")) <= 53
    assert len(seen.labels("weir_requests_total", "endpoint")) < 10
    assert seen.labels("weir_errors_total", "error") == errors
    predictions = "weir_prediction_duration_seconds_count"
    assert seen.labels(predictions, "model") == before.labels(predictions, "model")


def test_the_folder_of_the_counts_goes_with_the_weir(weir: Weir) -> None:
    """Ends it: the last one."""
    [folder] = metrics_folders(weir)
    assert weir.terminate() == 0
    assert not folder.exists()
