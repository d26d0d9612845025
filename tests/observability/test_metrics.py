"""/metrics: right across workers, bounded whatever clients send, there when the stores are not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.scrape import Scrape, scrape
from tests.support.servers import Postgres, Provider, Valkey, Weir, wait_until

KEY = "test_key_0123456789"
FREE = "free_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS: dict[str, object] = {
    "API_KEYS": f"test:enterprise:{KEY},free:free:{FREE}",
    "DEFAULT_MODEL": "stand-in-1",
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
}


@pytest.fixture
def weir(
    start_weir: MakeWeir, fresh_valkey: Valkey, fresh_database: str, provider: Provider
) -> Weir:
    """Two workers on PostgreSQL and Redis."""
    return start_weir(
        **SETTINGS, DATABASE_URL=fresh_database, REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=2,
        OPENAI_BASE_URL=provider.base_url,
    )  # fmt: skip


def chat(weir: Weir, message: str, key: str = KEY, **kwargs: Any) -> int:
    return weir.post("/chat", key=key, json={"message": message}, **kwargs).status_code


def counted(weir: Weir, name: str, least: float, **labels: str) -> Scrape:
    """The metrics, once a counter has come so far: a request is counted after its answer."""

    def look() -> Scrape | None:
        seen = scrape(weir)
        return seen if seen.value(name, **labels) >= least else None

    seen = wait_until(look, what=f"{name} {labels} of {least}")
    assert seen is not None
    return seen


def metrics_folders(weir: Weir) -> set[Path]:
    """Where its workers count."""
    maps = (Path(f"/proc/{pid}/maps").read_text() for pid in weir.pids())
    return {Path(found).parent for text in maps for found in re.findall(r"/\S+_\d+\.db", text)}


def test_no_count_is_lost_or_doubled_when_a_worker_is_replaced(weir: Weir) -> None:
    def ask(count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda n: chat(weir, f"number {n}"), range(count))) == {200}

    ask(40)
    counted(weir, "weir_requests_total", 40, endpoint="/chat")
    before = weir.pids()
    with weir.stream(
        "/chat", {"message": "[[fault:gap=0.2,pieces=50]] x", "stream": True}, KEY
    ) as s:
        next(s)
        counted(weir, "weir_streams_open", 1)
        for number, pid in enumerate(before):
            os.kill(pid, signal.SIGKILL if number else signal.SIGTERM)
        wait_until(lambda: len(weir.pids()) == 2 and not set(before) & set(weir.pids()), 40)
        wait_until(lambda: scrape(weir).value("weir_workers") == 2)
    ask(40)
    seen = counted(weir, "weir_requests_total", 80, endpoint="/chat", tier="enterprise")
    assert seen.value("weir_requests_total", endpoint="/chat", status="200") in {80, 81}
    answers = seen.value("weir_cache_answers_total")
    assert answers in {80, 81}
    assert seen.value("weir_request_duration_seconds_count", endpoint="/chat") in {80, 81}
    assert seen.value("weir_streams_open") == 0
    [folder] = metrics_folders(weir)
    owners = {file.stem.rpartition("_")[2] for file in folder.glob("*.db")}
    # A new worker has a file once it has counted something.
    assert owners <= {"0", *map(str, weir.pids())}, "those of the dead are added up in one"
    workers = {scrape(weir).value("weir_requests_total", endpoint="/chat") for _ in range(10)}
    assert len(workers) == 1, "whichever worker is asked says the same"
    assert weir.terminate() == 0
    assert not folder.exists()


def test_each_answer_counts_with_the_part_of_the_cache(weir: Weir, provider: Provider) -> None:
    chat(weir, "kept")
    chat(weir, "kept")
    chat(weir, "kept", headers={"Cache-Control": "no-store"})
    provider.fault(slow=0.5)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: chat(weir, "together"), range(4))) == {200}
    seen = counted(weir, "weir_requests_total", 7, endpoint="/chat")
    found = {r: seen.value("weir_cache_answers_total", result=r) for r in ("hit", "miss", "bypass")}
    together = seen.value("weir_cache_answers_total", result="coalesced")
    # Who comes late finds the answer kept.
    assert found["bypass"] == 1
    assert found["miss"] == 2
    assert found["hit"] + together == 4
    assert seen.value("weir_saved_usd_total") > 0


def test_a_slow_provider_is_not_taken_for_a_slow_weir(weir: Weir, provider: Provider) -> None:
    chat(weir, "imports what the first call needs")
    chat(weir, "and on the other worker")
    before = counted(weir, "weir_overhead_seconds_count", 2, cache="miss")
    provider.fault(slow=0.5)
    for number in range(3):
        chat(weir, f"slow {number}")
    with weir.stream("/chat", {"message": "slow stream", "stream": True}, KEY) as stream:
        list(stream)
    after = counted(weir, "weir_overhead_seconds_count", 6, cache="miss")

    def grew(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grew("weir_overhead_seconds_count") == 4
    assert grew("weir_overhead_seconds_sum") < 1.0
    assert grew("weir_provider_duration_seconds_sum", model="stand-in-1") > 2.0
    assert grew("weir_request_duration_seconds_sum", endpoint="/chat") > 2.0
    assert grew("weir_time_to_first_token_seconds_sum") > 0.5


def test_tokens_and_cost_are_what_the_ledger_says(weir: Weir, provider: Provider) -> None:
    chat(weir, "one")
    with weir.stream("/chat", {"message": "two", "stream": True}, KEY) as stream:
        list(stream)
    provider.fault(cut=True)
    weir.post(
        OPENAI, key=KEY, json={"messages": [{"role": "user", "content": "x"}], "stream": True}
    )
    provider.fault(status=500)
    chat(weir, "three")
    rows = Books(weir).settled(4)
    seen = counted(weir, "weir_provider_attempts_total", 4)
    labels = {"provider": "openai", "model": "stand-in-1"}
    for kind in ("input", "output"):
        total = sum(row[f"{kind}_tokens"] for row in rows)
        assert total > 0
        assert seen.value("weir_tokens_total", type=kind, **labels) == total
    cost = sum(row["cost_nano"] for row in rows) / 1e9
    assert seen.value("weir_cost_usd_total", **labels) == pytest.approx(cost)
    assert seen.value("weir_provider_errors_total", error="ProviderFailed", **labels) == 2
    assert seen.value("weir_ledger_drift_usd") == 0
    assert seen.value("weir_time_between_tokens_seconds_count", **labels) > 0


def test_refusals_say_which_limit_refused(
    start_weir: MakeWeir, fresh_valkey: Valkey, provider: Provider
) -> None:
    weir = start_weir(
        **SETTINGS, OPENAI_BASE_URL=provider.base_url,
        TIER_ENTERPRISE="usd_per_day=0.0000001,usd_per_month=5",
        TIER_FREE="tokens_per_minute=5",
    )  # fmt: skip
    for number in range(7):  # the first one fits; the tier allows five requests
        chat(weir, f"number {number}", FREE)
    chat(weir, "too dear")
    for _ in range(31):
        chat(weir, "nobody", "no_such_key_0123456789")
    seen = counted(weir, "weir_refusals_total", 8)
    assert seen.value("weir_refusals_total", limit="tokens_per_minute", tier="free") == 4
    assert seen.value("weir_refusals_total", limit="requests", tier="free") == 2
    assert seen.value("weir_refusals_total", limit="usd_per_day", tier="enterprise") == 1
    assert seen.value("weir_refusals_total", limit="credentials", tier="none") == 1
    assert seen.value("weir_errors_total", error="BudgetExceeded") == 1


def test_how_full_budgets_are_is_told_by_key(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(
        **SETTINGS, OPENAI_BASE_URL=provider.base_url, TIER_ENTERPRISE="usd_per_month=0.01"
    )
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 500}
    assert weir.post(OPENAI, key=KEY, json=body).ok
    [row] = Books(weir).settled(1)
    seen = scrape(weir)
    [(labels, ratio)] = seen.samples["weir_budget_spent_ratio"]
    assert labels["key"].startswith("test (")
    assert labels["period"] == "month"
    assert ratio == pytest.approx(row["cost_nano"] / 1e9 / 0.01)


def test_label_values_are_bounded_whatever_clients_send(weir: Weir, provider: Provider) -> None:
    chat(weir, "first")
    errors = scrape(weir).labels("weir_errors_total", "error")

    def strange(number: int) -> None:
        weir.post("/chat", key=KEY, json={"message": "x", "model": f"made-up-{number}"})
        provider_fails = f"[[fault:status=500]] {number}"
        weir.post("/chat", key=KEY, json={"message": provider_fails, "model": f"bad-{number}"})
        weir.get(f"/nowhere/{number}", key=KEY)
        weir.request(f"METHOD{number}", "/chat", key=KEY)
        weir.post("/chat", key=KEY, json={"message": "x"}, headers={"X-Cache": f"c{number}"})
        weir.post("/predict", key=KEY, json={"features": [1], "model": f"none-{number}"})
        weir.post(f"/v1/models/{number}", key=f"key_{number}_0123456789")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(strange, range(150)))
    seen = counted(weir, "weir_requests_total", 150, endpoint="(unknown)")
    # 50 of each of two workers, the default one, and the one that is no name.
    models = seen.labels("weir_provider_attempts_total", "model")
    assert "other" in models
    assert len(models) <= 102
    assert not any(model.startswith("bad") for model in models)
    for labels in ({"model": "other"}, {"provider": "openai"}):
        assert seen.value("weir_provider_attempts_total", **labels) > 0
    assert len(seen.labels("weir_breaker_state", "model")) <= 52
    assert len(seen.labels("weir_requests_total", "endpoint")) < 10
    assert seen.labels("weir_errors_total", "error") == errors
    assert not seen.labels("weir_prediction_duration_seconds_count", "model")


def test_an_open_breaker_shows(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, BREAKER_FAILURES=2)
    provider.fault(status=500)
    for key in (KEY, FREE):
        chat(weir, "failing", key)
    seen = scrape(weir)
    labels = {"provider": "openai"}
    assert seen.value("weir_breaker_state", state="open", **labels) == 1
    assert seen.value("weir_breaker_state", state="closed", **labels) == 0


def test_stores_that_are_away_show_and_hide_nothing_else(
    weir: Weir, postgres: Postgres, valkey: Valkey
) -> None:
    chat(weir, "before")
    counted(weir, "weir_requests_total", 1, endpoint="/chat")
    valkey.stop()
    postgres.stop()

    def both_down() -> bool:
        seen = scrape(weir)
        states = [seen.value("weir_store_up", store=store) for store in ("database", "redis")]
        return states == [0, 0]

    # Each worker finds out by itself; the one that answers says what it knows.
    wait_until(lambda: chat(weir, "unknown") and both_down(), 30)
    seen = scrape(weir)
    assert seen.value("weir_store_errors_total", store="database") > 0
    assert seen.value("weir_store_errors_total", store="redis") > 0
    assert seen.value("weir_requests_total", endpoint="/chat", status="200") >= 1
    valkey.start()
    postgres.start()
    wait_until(lambda: scrape(weir).value("weir_store_up") == 2, 30)


def test_in_production_only_the_token_reads_them(start_weir: MakeWeir) -> None:
    production = {
        "APP_ENV": "production", "HOST": "127.0.0.1", "SECRET_KEY": "0123456789abcdef0",
        "ADMIN_PASSWORD": "0123456789abcdef",
    }  # fmt: skip
    token = "metrics-token-0123456789"
    weir = start_weir(**production, METRICS_TOKEN=token)
    for path in ("/metrics", "/v1/metrics"):
        assert weir.get(path).status_code == 403
        assert weir.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    wrong = weir.get("/metrics", headers={"Authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.headers["WWW-Authenticate"]) == (401, 'Bearer realm="weir"')
    basic = weir.get("/metrics", headers={"Authorization": f"Basic {token}"})
    assert basic.status_code == 401
    statuses = [
        weir.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code
        for _ in range(30)
    ]
    assert statuses[-1] == 429
    assert scrape(weir, Authorization=f"Bearer {token}").value("weir_workers") == 1
    assert token not in weir.raw_logs()

    closed = start_weir(**production)
    assert closed.get("/metrics").status_code == 403
    for sent in ("Bearer", "Bearer ", "Bearer x"):
        assert closed.get("/metrics", headers={"Authorization": sent}).status_code == 401


@pytest.mark.skipif(
    not shutil.which("promtool") and "CI" not in os.environ, reason="promtool is not installed"
)
def test_names_units_and_texts_are_as_prometheus_wants_them(weir: Weir) -> None:
    chat(weir, "x")
    weir.post("/predict", key=KEY, json={"features": [1, 2]})
    text = counted(weir, "weir_prediction_batch_size_count", 1).text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
