"""Takes the screenshots of docs/images from a real server with generated data.

make pictures
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from sqlalchemy import Connection, create_engine, insert

from tests.support.administrator import PASSWORD, SETTINGS
from tests.support.batches import BatchClient, line
from tests.support.servers import Provider, Weir
from tests.support.visitor import Visitor
from webapp.metering.activity import DAY, HALF_HOUR, activity
from webapp.metering.target_activity import target_activity
from webapp.metering.target_latency import FIRST_TOKEN, TOTAL, bucket_of, target_latency
from webapp.metering.traffic import traffic
from webapp.metering.usage import usage

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
MODELS = {"gpt-4o-mini": 600, "gpt-4o": 10_000}  # approximate nano-USD per token
SHARES = {"gpt-4o-mini": 0.75, "gpt-4o": 0.25}  # of all requests
LATENCIES = {"gpt-4o-mini": 900, "gpt-4o": 2_200}  # ms
PLACE = {"provider": "openai", "endpoint": "/chat"}
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
    prices = "openai/*: input=0.15, output=0.6, max_output=16384"
    return {
        **SETTINGS,
        "OPENAI_BASE_URL": provider.base_url,
        "MODEL_PRICES": prices,
        "MODEL_ROUTES": "default=openai/gpt-4o-mini>openai/gpt-4o;large=openai/gpt-4o",
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
            provider.fault(status=500, model="gpt-4o-mini")
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
    for at in range(this - 95 * HALF_HOUR, this, HALF_HOUR):
        busy = 1.2 + math.sin((at % DAY) / DAY * 2 * math.pi - 2)
        for place, key_id in enumerate(ids):
            of_key = Counter[str]()
            for model, share in SHARES.items():
                row = counted(busy * 120 * share / (place + 1))
                calls = called(row["misses"], model)
                target = {"span": HALF_HOUR, "start": at, "key_id": key_id, "model": model}
                connection.execute(insert(target_activity).values(target | PLACE | row | calls))
                tokens = calls["input_tokens"] + calls["output_tokens"]
                of_key.update(row | {"tokens": tokens, "cost_nano": calls["cost_nano"]})
            row = {"span": HALF_HOUR, "start": at, "key_id": key_id, **of_key}
            connection.execute(insert(activity).values(row))
        measured(connection, HALF_HOUR, at, busy * 20)
    today = this - this % DAY
    for at in range(today - 59 * DAY, today, DAY):
        day = datetime.fromtimestamp(at, UTC).date()
        growth = (at - today + 70 * DAY) / (70 * DAY) * (0.5 if day.weekday() > 4 else 1)
        for place, key_id in enumerate(ids):
            of_key = Counter[str]()
            for model, share in SHARES.items():
                row = counted(growth * 5_000 * share / (place + 1))
                of_key.update(row)
                target = {"span": DAY, "start": at, "key_id": key_id, "model": model}
                connection.execute(insert(target_activity).values(target | PLACE | row))
                used = called(row["misses"], model)
                used |= {"failed": used.pop("failed_calls"), "estimated": 0, "unpriced": 0}
                used |= {"day": day, "key_id": key_id, "model": model}
                connection.execute(insert(usage).values(used | PLACE))
            row = {"day": day, "key_id": key_id, "tokens": 0, "saved_tokens": 0, **of_key}
            connection.execute(insert(traffic).values(row))
        measured(connection, DAY, at, growth * 500)


def counted(about: float) -> dict[str, int]:
    """Counters of about so many requests; about a third are cache hits."""
    requests = int(about * random.uniform(0.8, 1.2))
    hits = int(requests * random.uniform(0.25, 0.4))
    errors = int(requests * random.uniform(0, 0.02))
    return {
        "requests": requests, "hits": hits, "misses": requests - hits, "errors": errors,
        "saved_nano": hits * 700 * 400, "refused_rate": int(requests * random.uniform(0, 0.03)),
    }  # fmt: skip


def called(calls: int, model: str) -> dict[str, int]:
    """What so many calls used."""
    return {
        "calls": calls, "failed_calls": calls // 90, "input_tokens": calls * 500,
        "cached_input_tokens": calls * 180, "output_tokens": calls * 200,
        "cost_nano": calls * 700 * MODELS[model],
    }  # fmt: skip


def measured(connection: Connection, span: int, at: int, busy: float) -> None:
    """Insert latencies of each model, most of them about its own."""
    rows = [
        {
            "span": span, "start": at, "provider": "openai", "model": model, "kind": kind,
            "bucket": bucket_of(milliseconds * share) + off,
            "requests": 1 + int(busy * math.exp(-((off / 25) ** 2))),
        }
        for model, milliseconds in LATENCIES.items()
        for kind, share in ((TOTAL, 1), (FIRST_TOKEN, 0.3))
        for off in range(-60, 90, 5)
    ]  # fmt: skip
    connection.execute(insert(target_latency), rows)


if __name__ == "__main__":
    main()
