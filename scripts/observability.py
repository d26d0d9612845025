"""Draws the picture of the Grafana dashboard in docs/operating.md, under a real load.

make observability

It runs a real Prometheus (Debian's package) with the included rules. Every panel is drawn from the
results of the dashboard's own queries, without Grafana.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import sync_playwright

from tests.support.administrator import PASSWORD, Administrator
from tests.support.prometheus import Prometheus, dashboard, filled_in
from tests.support.servers import REPOSITORY, Postgres, Provider, Valkey, Weir

TARGET = REPOSITORY / "docs" / "images" / "observability.png"
TEMPLATE = Path(__file__).with_suffix(".html")
UPLOT = REPOSITORY / "scripts" / "vendor" / "uplot"
TOKEN = "a-token-that-prometheus-sends"  # noqa: S105

SECONDS = 180.0
RATE = 30.0  # requests per second, on average
CLIENTS = 24
# The fraction of the run in which the provider's large model fails: start and end.
FAILING = (0.4, 0.62)
SCRAPED_EVERY = 5  # seconds; the included 15 would give too few points in such a short run
STEP = 2
QUESTIONS = 400

Request = tuple[str, str, dict[str, Any]]  # a key's name, a path, a body


def main() -> None:
    """Run the load, run the queries of all panels, and draw the results."""
    random.seed(11)
    with (
        Valkey() as valkey,
        Postgres() as postgres,
        Provider() as provider,
        Weir(settings(valkey, postgres.create_database("watched"), provider)) as weir,
        Prometheus(weir, TOKEN, f"{SCRAPED_EVERY}s") as prometheus,
    ):
        # As in the Docker image: without the folder there would be no metrics of its disk.
        weir.data_dir.mkdir(exist_ok=True)
        load = Load(weir, make_keys(weir))
        began = time.time()
        load.run()
        time.sleep(SCRAPED_EVERY)
        shown = picture(prometheus, began, time.time())
        print(f"{sum(load.statuses.values())} requests: {dict(sorted(load.statuses.items()))}")
    shoot(shown)


def settings(valkey: Valkey, database: str, provider: Provider) -> dict[str, object]:
    return {
        "APP_ENV": "production",
        "HOST": "127.0.0.1",
        "SECRET_KEY": "a-secret-for-the-picture-of-metrics",
        "ADMIN_PASSWORD": PASSWORD,
        "METRICS_TOKEN": TOKEN,
        "DATABASE_URL": database,
        "REDIS_URL": valkey.url,
        "WEB_CONCURRENCY": 2,
        "OPENAI_BASE_URL": provider.base_url,
        "OPENAI_PRICES": "maker",
        "MODEL_ROUTES": (
            "small=openai/gpt-4o-mini;large=openai/gpt-4o;"
            "safe=openai/gpt-4o>openai/gpt-4o-mini;own=openai/our-own-model;"
            "embed=openai/text-embedding-3-small"
        ),
        "TIERS": "free=5/minute;premium=600/minute;enterprise=6000/minute",
        "LLM_MAX_RETRIES": 1,
    }


def make_keys(weir: Weir) -> dict[str, str]:
    """Create keys, and return their secrets by name."""
    admin = Administrator(weir)
    wanted = {
        "shop": ("enterprise", {"usd_per_month": 0.15}),
        "assistant": ("premium", {"usd_per_day": 0.05}),
        "reports": ("premium", {"usd_per_day": 0.032}),
        "intranet": ("premium", {}),
        "trial": ("free", {}),
    }
    secrets = {}
    for name, (tier, limits) in wanted.items():
        made = admin.post("/admin/keys", {"name": name, "tier": tier, "limits": limits})
        secrets[name] = made.json()["secret"]
    return secrets


class Load:
    """Clients that send about RATE requests per second, of different kinds."""

    def __init__(self, weir: Weir, keys: dict[str, str]) -> None:
        self._weir = weir
        self._keys = keys
        self._began = time.time()
        self._numbers = itertools.count()
        self.statuses: dict[int, int] = {}

    def run(self) -> None:
        self._began = time.time()
        clients = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    @property
    def _part(self) -> float:
        """The elapsed fraction of the run."""
        return (time.time() - self._began) / SECONDS

    def _send(self, number: int) -> None:
        chosen = random.Random(number)  # noqa: S311
        with requests.Session() as session:
            session.trust_env = False
            while self._part < 1:
                # A wave, so that the curves are not flat.
                rate = RATE * (1 + 0.35 * math.sin(self._part * 9)) / CLIENTS
                time.sleep(chosen.expovariate(rate))
                key, path, body = self._request(chosen)
                headers = {"X-API-Key": self._keys.get(key, "a key that does not exist")}
                if chosen.random() < 0.03:
                    headers["Cache-Control"] = "no-cache"
                status = self._status(session, path, body, headers)
                self.statuses[status] = self.statuses.get(status, 0) + 1

    def _status(
        self, session: requests.Session, path: str, body: Any, headers: dict[str, str]
    ) -> int:
        """The status of the response; 0 if there is none."""
        try:
            return session.post(
                self._weir.url + path, json=body, headers=headers, timeout=60
            ).status_code
        except requests.RequestException:
            return 0

    def _request(self, chosen: random.Random) -> Request:
        kinds: list[tuple[int, Callable[[random.Random], Request]]] = [
            (46, self._chat),
            (20, self._stream),
            (6, self._hot),
            (9, self._predict),
            (4, self._batch),
            (4, self._embed),
            (4, self._summarize),
            (3, self._unpriced),
            (3, self._report),
            (2, self._trial),
            (1, self._wrong),
        ]
        weights, makers = zip(*kinds, strict=True)
        [make] = chosen.choices(makers, weights)
        return make(chosen)

    def _chat(self, chosen: random.Random) -> Request:
        model = chosen.choices(["small", "large", "safe"], [6, 2, 2])[0]
        message = self._question(chosen, model)
        body = {"message": message, "model": model, "max_tokens": 400}
        return chosen.choice(["shop", "shop", "assistant"]), "/chat", body

    def _stream(self, chosen: random.Random) -> Request:
        model = chosen.choices(["small", "large"], [3, 1])[0]
        messages = [{"role": "user", "content": self._question(chosen, model)}]
        body = {"model": model, "messages": messages, "max_tokens": 400, "stream": True}
        return chosen.choice(["shop", "assistant"]), "/v1/chat/completions", body

    def _question(self, chosen: random.Random, model: str) -> str:
        """A question, often a repeated one. It controls the delays and faults of the stand-in."""
        if model != "small" and FAILING[0] < self._part < FAILING[1]:
            return f"Question {next(self._numbers)} [[fault:status=500]]"
        number = int(QUESTIONS * chosen.random() ** 2)
        # The same delays for the same question, so that it can be cached.
        taking = random.Random(number)  # noqa: S311
        slow, gap = 0.1 + taking.expovariate(5), 0.004 + taking.random() * 0.03
        pieces = taking.randrange(20, 120)
        longer = 1.6 if model != "small" else 1
        return (
            f"What about {number}? "
            f"[[fault:slow={slow * longer:.2f},gap={gap * longer:.3f},pieces={pieces}]]"
        )

    def _hot(self, chosen: random.Random) -> Request:
        """A question that several clients send at the same time, so that they share one call."""
        moment = int((time.time() - self._began) / 4)
        message = f"News of {moment} [[fault:slow=1.5,pieces=60]]"
        return "shop", "/chat", {"message": message, "model": "small", "max_tokens": 200}

    def _predict(self, chosen: random.Random) -> Request:
        return "shop", "/predict", {"features": [chosen.random() for _ in range(20)]}

    def _batch(self, chosen: random.Random) -> Request:
        rows = chosen.randrange(2, 40)
        asked = [{"features": [chosen.random() for _ in range(20)]} for _ in range(rows)]
        return "shop", "/batch-predict", {"requests": asked}

    def _embed(self, chosen: random.Random) -> Request:
        text = f"Text {chosen.randrange(200)}"
        return "assistant", "/v1/embeddings", {"model": "embed", "input": text}

    def _summarize(self, chosen: random.Random) -> Request:
        text = f"Report {chosen.randrange(60)}. A weir raises the water of a river. " * 5
        return "assistant", "/summarize", {"text": text, "model": "small"}

    def _unpriced(self, chosen: random.Random) -> Request:
        return "intranet", "/chat", {"message": f"Ours {next(self._numbers)}", "model": "own"}

    def _report(self, chosen: random.Random) -> Request:
        message = f"Report {next(self._numbers)} [[fault:slow=0.3,pieces=200]]"
        return "reports", "/chat", {"message": message, "model": "large", "max_tokens": 300}

    def _trial(self, chosen: random.Random) -> Request:
        return "trial", "/predict", {"features": [1, 2, 3]}

    def _wrong(self, chosen: random.Random) -> Request:
        key = chosen.choice(["shop", "nobody's"])
        return key, "/chat", {"message": "", "model": "small"}


def picture(prometheus: Prometheus, start: float, end: float) -> dict[str, Any]:
    """Every panel with the answers to its questions about the time from start to end."""
    rules = [rule for rule in prometheus.rules() if rule["state"] != "inactive"]
    print("alerts:", {rule["name"]: rule["state"] for rule in rules})
    about = (
        f"{(end - start) / 60:.0f} minutes of load, drawn from Prometheus's answers to the "
        "dashboard's queries. Not a picture of Grafana."
    )
    drawn = [panel_with_answers(prometheus, panel, start, end) for panel in dashboard()["panels"]]
    return {"about": about, "start": start, "end": end, "panels": drawn}


def panel_with_answers(
    prometheus: Prometheus, panel: dict[str, Any], start: float, end: float
) -> dict[str, Any]:
    drawn = {name: panel[name] for name in ("type", "title", "gridPos")}
    if panel["type"] == "row":
        return drawn
    series = []
    for target in panel["targets"]:
        expression = filled_in(target["expr"], f"{4 * SCRAPED_EVERY}s")
        if target["instant"]:
            answers = prometheus.query(expression, end)
            rows = [(one["metric"], [one["value"]]) for one in answers]
        else:
            answers = prometheus.query_range(expression, start, end, STEP)
            rows = [(one["metric"], one["values"]) for one in answers]
        for metric, values in rows:
            label = named(target["legendFormat"], metric)
            series.append((label, {float(at): float(value) for at, value in values}))
    times = sorted({at for _, values in series for at in values})
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    custom = defaults.get("custom", {})
    shown = [
        {"label": label, "values": [_number(values.get(at)) for at in times]}
        for label, values in series
    ]
    shown = [one for one in shown if any(value is not None for value in one["values"])]
    if not shown:
        print(f"no data: {panel['title']}")
    return drawn | {
        "defaults": defaults,
        "unit": defaults["unit"],
        "textMode": options.get("textMode", ""),
        "stacked": custom.get("stacking", {}).get("mode") == "normal",
        "stepped": custom.get("lineInterpolation") == "stepAfter",
        "times": times,
        "series": shown,
    }


def named(legend: str, metric: dict[str, str]) -> str:
    """The name of a curve: {{label}} is replaced by the value of a label."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: metric.get(found[1], ""), legend)


def _number(value: float | None) -> float | None:
    """The value, or None if JSON cannot represent it."""
    return value if value is not None and math.isfinite(value) else None


def shoot(shown: dict[str, Any]) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = chromium.new_page(viewport={"width": 1600, "height": 1000}, color_scheme="light")
        page.set_content(TEMPLATE.read_text())
        page.add_style_tag(path=UPLOT / "uPlot.min.css")
        page.add_script_tag(path=UPLOT / "uPlot.iife.min.js")
        page.evaluate("shown => draw(shown)", json.loads(json.dumps(shown)))
        page.wait_for_timeout(500)
        page.screenshot(path=TARGET, full_page=True)
        chromium.close()
    print(f"{TARGET} ({TARGET.stat().st_size / 1024:.0f} KB)")


if __name__ == "__main__":
    main()
