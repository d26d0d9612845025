"""Takes the screenshots of docs/images from a real server with generated data.

make pictures
"""

from __future__ import annotations

import math
import random
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from sqlalchemy import Connection, create_engine, delete, insert

from tests.support.administrator import PASSWORD, SETTINGS
from tests.support.batches import BatchClient, line
from tests.support.servers import Provider, Weir
from tests.support.visitor import Visitor
from webapp.metering.activity import DAY, HALF_HOUR, activity, activity_latency
from webapp.metering.histogram import of_one, to_bytes
from webapp.metering.rollups import rollups
from webapp.metering.target_activity import target_activity
from webapp.metering.target_latency import ALL_TARGETS, Timings, target_latency
from webapp.metering.traffic import latency, traffic
from webapp.metering.usage import usage

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# Approximate nano-USD per token, and the share of each in the requests.
TARGETS = {
    "openai/gpt-5.4-mini": 1_500, "openai/gpt-5.4": 6_000, "anthropic/claude-haiku-4-5": 2_000,
    "groq/openai/gpt-oss-20b": 150,
}  # fmt: skip
SHARES = (0.5, 0.1, 0.25, 0.15)
# What is a multiple of the median, and how many requests take so long.
TAIL = ((0.5, 0.2), (0.8, 0.25), (1.0, 0.25), (1.4, 0.15), (2.2, 0.1), (3.5, 0.04), (6.0, 0.01))
APPS = {"shop-assistant": "enterprise", "support-bot": "premium", "nightly-reports": "free"}
PAGES = {
    "overview": "", "month": "?range=30d", "keys": "keys", "new-key": "keys/new",
    "key": "keys/{key}", "requests": "requests", "request": "requests/{request}",
    "batches": "batches", "batch": "batches/{batch}",
    "providers": "providers", "accounts": "accounts", "audit": "audit", "account": "me",
}  # fmt: skip


def main() -> None:
    """Take all screenshots."""
    random.seed(7)
    with Provider() as provider, Weir(settings(provider)) as weir, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        context = chromium.new_context(viewport=WIDE, color_scheme="light")
        page = context.new_page()
        page.goto(f"{weir.url}/dashboard/")
        shoot(page, "sign-in")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("h1:has-text('Overview')")
        shoot(page, "first-visit")
        found = fill(weir, provider)
        for name, path in PAGES.items():
            page.goto(f"{weir.url}/dashboard/{path.format(**found)}")
            shoot(page, name)
        playground(page, weir)
        state = context.storage_state()
        for name, options in {
            "overview-dark": {"viewport": WIDE, "color_scheme": "dark"},
            "overview-phone": {"viewport": PHONE, "color_scheme": "light"},
        }.items():
            page = chromium.new_context(storage_state=state, **options).new_page()
            page.goto(f"{weir.url}/dashboard/")
            shoot(page, name)
        chromium.close()


def settings(provider: Provider) -> dict[str, object]:
    prices = "openai/*: input=0.75, output=4.5, max_output=16384; groq/*: input=0.1, output=0.4"
    return {
        **SETTINGS,
        "OPENAI_BASE_URL": provider.base_url,
        "MODEL_PRICES": prices,
        "PROVIDER_GROQ_BASE_URL": provider.base_url,
        "MODEL_ROUTES": "default=openai/gpt-5.4-mini>groq/openai/gpt-oss-20b;large=openai/gpt-5.4",
        "LLM_MAX_RETRIES": 0,
    }


def shoot(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=TARGET / f"{name}.png", full_page=True)
    print(TARGET / f"{name}.png")


def playground(page: Page, weir: Weir) -> None:
    page.goto(f"{weir.url}/dashboard/playground")
    page.get_by_label("Message").fill("What is a weir?")
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector("#talk .assistant a")
    shoot(page, "playground")


def fill(weir: Weir, provider: Provider) -> dict[str, str]:
    """Create today's traffic by requests, and earlier traffic directly in the tables."""
    visitor = Visitor(weir)
    visitor.sign_in()
    visitor.post(
        "/dashboard/accounts", username="mia", password="mia's password", role="member", tier="free"
    )
    secrets = {
        name: visitor.create_key(name, tier, **{"limits.usd_per_month": "50"})
        for name, tier in APPS.items()
    }
    ids = sorted(visitor.ids_of_keys())[-len(APPS) :]
    request = ""
    for number in range(60):
        name = random.choices(list(APPS), [6, 3, 1])[0]
        body = {"message": f"Question {number % 25}", "model": random.choice(["default", "large"])}
        if number == 50:
            provider.fault(status=500, model="gpt-5.4-mini")
            body = {"message": "A question that fails over", "model": "default"}
        answer = weir.post("/chat", key=secrets[name], json=body)
        request = answer.headers["X-Request-ID"] if number == 50 else request
        provider.fault()
    batch = batches(weir, provider, secrets["shop-assistant"])
    engine = create_engine(f"sqlite:///{weir.data_dir}/weir.db")
    with engine.begin() as connection:
        past(connection, ids)
    return {"key": str(ids[0]), "request": request, "batch": batch}


def batches(weir: Weir, provider: Provider, key: str) -> str:
    """Batches that have ended, that a cap stopped, and that run. Returns the id of the last."""
    client = BatchClient(weir, key)
    reviews, mails, orders = (
        [line(f"{what}-{number}", f"About {what} {number}.", model=model) for number in range(90)]
        for what, model in (("review", "large"), ("mail", "default"), ("order", "default"))
    )
    client.run([*reviews, line("refused", model="large", temperature="high")])
    client.run([line("too-new", model="no-such-model")])
    client.run(mails, weir_cost_cap_usd="0.0001")
    provider.fault(slow=2.0)
    batch = client.begin(orders, weir_cost_cap_usd="5")
    client.progressed(batch, 12)
    return batch


def past(connection: Connection, ids: list[int]) -> None:
    """Insert two days of half hours, and two months of days."""
    this = int(time.time()) // HALF_HOUR * HALF_HOUR
    # The stand-in answers at once: its requests are not to be seen in the running steps.
    connection.execute(delete(target_latency))
    # Of steps that were empty when they were rolled up.
    connection.execute(delete(rollups))
    for span in (HALF_HOUR, DAY):
        insert_latencies(connection, span, this // span * span, 4_000)
    for step in range(1, 96):
        at = this - step * HALF_HOUR
        busy = 1.2 + math.sin((at % DAY) / DAY * 2 * math.pi - 2)
        for place, key_id in enumerate(ids):
            rows = [counted(busy * 120 * share / (place + 1)) for share in SHARES]
            span = {"span": HALF_HOUR, "start": at, "key_id": key_id}
            connection.execute(insert(activity).values(**span, **summed(rows)))
            for target, row in zip(TARGETS, rows, strict=True):
                provider, _, model = target.partition("/")
                row |= called(target, row["misses"])
                where = {"provider": provider, "model": model, "endpoint": "/v1/chat/completions"}
                connection.execute(insert(target_activity).values(**span, **where, **row))
        insert_latencies(connection, HALF_HOUR, at, busy * 60)
        for bucket in range(120, 165, 3):
            timing = {"bucket": bucket, "requests": int(busy * 20)}
            connection.execute(insert(activity_latency).values(span=HALF_HOUR, start=at, **timing))
    today = datetime.now(UTC).date()
    for ago in range(1, 60):
        day = today - timedelta(days=ago)
        at = int(datetime.combine(day, datetime.min.time(), UTC).timestamp())
        growth = (70 - ago) / 70 * (0.5 if day.weekday() > 4 else 1)
        for place, key_id in enumerate(ids):
            rows = [counted(growth * 5_000 * share / (place + 1)) for share in SHARES]
            total = {name: sum(row[name] for row in rows) for name in rows[0]}
            past_traffic = {**total, "tokens": 0, "saved_tokens": 0}
            connection.execute(insert(traffic).values(day=day, key_id=key_id, **past_traffic))
            for target, row in zip(TARGETS, rows, strict=True):
                provider, _, model = target.partition("/")
                where = {
                    "key_id": key_id, "provider": provider, "model": model,
                    "endpoint": "/v1/chat/completions",
                }  # fmt: skip
                calls = called(target, row["misses"])
                calls["failed"] = calls.pop("failed_calls")
                connection.execute(
                    insert(usage).values(day=day, **where, estimated=0, unpriced=0, **calls)
                )
                connection.execute(
                    insert(target_activity).values(span=DAY, start=at, **where, **row)
                )
        insert_latencies(connection, DAY, at, growth * 2_000)
        for bucket in range(120, 165, 3):
            connection.execute(insert(latency).values(day=day, bucket=bucket, requests=100))


def summed(rows: list[dict[str, int]]) -> dict[str, int]:
    """The counters of the activity table for these of targets."""
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    calls = [called(target, row["misses"]) for target, row in zip(TARGETS, rows, strict=True)]
    tokens = sum(call["input_tokens"] + call["output_tokens"] for call in calls)
    return total | {"tokens": tokens, "cost_nano": sum(call["cost_nano"] for call in calls)}


def called(target: str, calls: int) -> dict[str, int]:
    """What so many calls to a target used."""
    return {
        "calls": calls, "failed_calls": calls // 90, "input_tokens": calls * 500,
        "cached_input_tokens": calls * 180, "output_tokens": calls * 200,
        "cost_nano": calls * 700 * TARGETS[target],
    }  # fmt: skip


def counted(about: float) -> dict[str, int]:
    """Counters of about so many requests; about a third are cache hits."""
    requests = int(about * random.uniform(0.8, 1.2))
    hits = int(requests * random.uniform(0.25, 0.4))
    errors = int(requests * random.uniform(0, 0.02))
    return {
        "requests": requests, "hits": hits, "misses": requests - hits, "errors": errors,
        "saved_nano": hits * 700 * 400, "refused_rate": int(requests * random.uniform(0, 0.03)),
        "refused_tokens": 0, "refused_budget": int(requests * random.uniform(0, 0.01)),
        "refused_parallel": 0,
    }  # fmt: skip


def insert_latencies(connection: Connection, span: int, start: int, requests: float) -> None:
    """Histograms of both kinds for each target and for all, with the usual long tail."""
    rows, total = {}, Timings()
    for place, target in enumerate(TARGETS):
        timings = Timings()
        for percent, share in TAIL:
            count, took = max(1, int(requests * share)), (1 + place * 0.6) * percent
            timings.total += count * of_one(900 * took)
            timings.first_token += count * of_one(240 * took)
        total.add(timings)
        rows[tuple(target.split("/", 1))] = timings
    rows[ALL_TARGETS, ALL_TARGETS] = total
    for (provider, model), timings in rows.items():
        where = {"span": span, "start": start, "provider": provider, "model": model}
        stored = {name: to_bytes(getattr(timings, name)) for name in ("total", "first_token")}
        connection.execute(insert(target_latency).values(**where, **stored))


if __name__ == "__main__":
    main()
