"""What deploy/observability ships is right: configuration, rules, dashboard, runbook."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, Administrator
from tests.support.prometheus import (
    RULES,
    SHIPPED,
    Prometheus,
    alerts,
    dashboard,
    expressions,
    metric_names,
    panels,
    write_config,
)
from tests.support.servers import REPOSITORY, Postgres, Provider, Valkey, Weir, wait_until
from webapp import errors
from webapp.observability import metrics
from webapp.observability.gauges import BatchFigures, BudgetUse, Gauges
from webapp.observability.metrics import ModelLabels

BINARIES = Path(sys.executable).parent
OPERATING = (REPOSITORY / "docs" / "operating.md").read_text()
TESTS_OF_RULES = yaml.safe_load((SHIPPED / "rules_test.yml").read_text())["tests"]
# On a machine that checks submissions it must be there: .ci/run installs it.
needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="there is no promtool (Debian: apt-get install prometheus)",
)

TOKEN = "a-token-that-prometheus-sends"
KEY, SMALL_KEY = "a-key-for-the-observability-test", "a-key-that-may-not-ask-very-often"


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -- rules --


@needs_prometheus
def test_promtool_has_nothing_to_say_about_the_configuration(tmp_path: Path) -> None:
    promtool("check", "config", "--syntax-only", SHIPPED / "prometheus.yml")
    # With the files that it names.
    promtool("check", "config", write_config(tmp_path, Weir({}), TOKEN, "15s"))
    promtool("check", "rules", RULES)


@needs_prometheus
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", SHIPPED / "rules_test.yml")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_is_tried_both_ways(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    tried = [
        bool(one["exp_alerts"])
        for test in TESTS_OF_RULES
        for one in test["alert_rule_test"]
        if one["alertname"] == name
    ]
    # Beside its own: without traffic, after a fresh start, and where nothing is known, twice each.
    assert tried.count(True) >= 1
    assert tried.count(False) >= 7


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_it_is_and_has_an_entry_in_the_runbook(alert: dict[str, Any]) -> None:
    name, texts = alert["alert"], alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    expected = next(
        one["exp_alerts"][0]["exp_labels"]
        for test in TESTS_OF_RULES
        for one in test["alert_rule_test"]
        if one["alertname"] == name and one["exp_alerts"]
    )
    for label in expected.keys() - {"severity"}:
        assert f"$labels.{label} " in texts["description"], label
    assert texts["summary"]
    page, _, anchor = texts["runbook_url"].partition("#")
    repository = json.loads((REPOSITORY / "app.json").read_text())["repository"]
    assert page == f"{repository}/blob/main/docs/operating.md"
    # As GitHub makes an anchor of a heading of one word.
    assert anchor == name.lower()
    assert f"\n### {name}\n" in OPERATING
    severities = re.findall(rf"\| \[{name}\]\(#{anchor}\) \| (\w+) \|", OPERATING)
    assert severities == [alert["labels"]["severity"]]


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    entries = set(re.findall(r"^### (Weir\w+)$", OPERATING, re.MULTILINE))
    assert entries == {alert["alert"] for alert in alerts()}


def all_expressions() -> list[str]:
    asked = [expression for panel in panels() for expression in expressions(panel)]
    return asked + [alert["expr"] for alert in alerts()]


def test_rules_and_panels_know_every_error_that_is_a_fault() -> None:
    faults = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.WeirError) and kind.status >= 500
    } - {"WeirError", "ProviderError"}  # never sent as such
    named = [
        set(names.split("|"))
        for expression in all_expressions()
        for names in re.findall(r'error=~"([^"]+)"', expression)
    ]
    assert named
    assert all(names == faults for names in named)


# -- the dashboard --


def test_every_panel_has_what_a_reader_needs() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        title = panel["title"]
        assert title, panel["id"]
        assert panel["description"].endswith("."), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        # An empty installation shows this, in no alarming colour.
        assert panel["fieldConfig"]["defaults"]["noValue"], title
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)), title


def test_no_panel_covers_another() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard()["panels"]]
    for title, place in places:
        assert place["x"] + place["w"] <= 24, title
    for (one, a), (other, b) in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{one} covers {other}"


def test_every_variable_is_declared_and_used() -> None:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    used = {name for text in asked for name in re.findall(r"\$(\w+)", text)}
    declared = {variable["name"] for variable in dashboard()["templating"]["list"]}
    assert used | {"datasource"} == declared | {"__rate_interval"}
    for variable in dashboard()["templating"]["list"]:
        # With nothing to choose from yet, everything is meant.
        assert variable["name"] == "datasource" or variable["allValue"]


def test_the_dashboard_is_found_where_grafana_is_told() -> None:
    assert (dashboard()["uid"], dashboard()["schemaVersion"]) == ("weir", 39)
    [source] = yaml.safe_load(
        (SHIPPED / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    [folder] = yaml.safe_load((SHIPPED / "grafana/provisioning/dashboards/weir.yml").read_text())[
        "providers"
    ]
    mounts = compose()["services"]["grafana"]["volumes"]
    assert f"./observability/grafana/dashboards:{folder['options']['path']}:ro" in mounts
    assert source["url"] == "http://prometheus:9090"


# -- compose --


def compose() -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load((SHIPPED / "docker-compose.yml").read_text())
    return described


def test_the_compose_file_has_the_format_of_compose() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    command = [BINARIES / "check-jsonschema", *schema, SHIPPED / "docker-compose.yml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_runs_fixed_versions_with_files_that_exist() -> None:
    for name in ("prometheus", "grafana"):
        service = compose()["services"][name]
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for mount in service["volumes"]:
            source, *_ = mount.split(":")
            if source.startswith("."):
                # Paths are as seen from the folder of the first compose file.
                assert (REPOSITORY / "deploy" / source).exists(), source
            else:
                assert source in compose()["volumes"]


def test_prometheus_gets_the_token_that_weir_expects() -> None:
    assert re.fullmatch(
        r"\$\{METRICS_TOKEN:\?[^}]+\}",
        compose()["services"]["weir"]["environment"]["METRICS_TOKEN"],
    )
    assert compose()["secrets"] == {"metrics_token": {"environment": "METRICS_TOKEN"}}
    assert compose()["services"]["prometheus"]["secrets"] == ["metrics_token"]
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
    assert job["static_configs"] == [{"targets": ["weir:8000"]}]


# -- the table of metrics --


class _Double(SimpleNamespace):
    """Whatever the gauges ask of the state of things."""


def gauge_families(tmp_path: Path) -> Iterator[Any]:
    breakers = _Double(states=lambda: {"openai/gpt-4o": {"state": "closed"}})
    collector: Any = Gauges(
        database=_Double(unavailable=False),  # type: ignore[arg-type]
        redis=_Double(unavailable=False),  # type: ignore[arg-type]
        breakers=breakers,  # type: ignore[arg-type]
        labels=ModelLabels([]),
        drift=lambda: 0,
        budgets=lambda: [BudgetUse("shop (4)", "month", 0.5)],
        batches=lambda: BatchFigures({"validating": 1}, 1, 1.0, 1, {"failed": 1}, 1, 1),
        stale_secrets=lambda: None,
        data_dir=tmp_path,
    )
    yield from collector.collect()


def table_of_metrics(tmp_path: Path) -> list[str]:
    """The lines that docs/operating.md must have, in the order of the code."""
    rows = []
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            rows.append((name, metric._type, metric._labelnames, metric._documentation))
    for family in gauge_families(tmp_path):
        name = family.name + {"info": "_info", "counter": "_total"}.get(family.type, "")
        kind = "counter" if family.type == "counter" else "gauge"
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
        rows.append((name, kind, tuple(labels), family.documentation))
    return [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
        for name, kind, labels, meaning in rows
    ]


def test_the_table_of_metrics_is_that_of_the_code(tmp_path: Path) -> None:
    written = re.findall(r"^\| `weir_.*\|$", OPERATING, re.MULTILINE)
    expected = table_of_metrics(tmp_path)
    assert written == expected, "the table must be:\n" + "\n".join(expected)


# -- live --


@pytest.fixture(scope="module")
def watched(
    start_shared_weir: MakeWeir,
    fresh_shared_database: str,
    fresh_shared_valkey: Valkey,
    postgres: Postgres,
    provider: Provider,
) -> Weir:
    """A Weir in production, with two workers."""
    provider.reset()
    return start_shared_weir(
        APP_ENV="production",
        HOST="127.0.0.1",
        SECRET_KEY="a-secret-for-the-observability-test",
        ADMIN_PASSWORD=PASSWORD,
        METRICS_TOKEN=TOKEN,
        API_KEYS=f"Watched:enterprise:{KEY},Small:free:{SMALL_KEY}",
        DATABASE_URL=fresh_shared_database,
        REDIS_URL=fresh_shared_valkey.url,
        WEB_CONCURRENCY=2,
        OPENAI_BASE_URL=provider.base_url,
        OPENAI_PRICES="maker",
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=2,
    )


@pytest.fixture(scope="module")
def budgeted_key(watched: Weir) -> str:
    made = Administrator(watched).post(
        "/admin/keys",
        {"name": "budgeted", "tier": "enterprise", "limits": {"usd_per_day": 0.001}},
    )
    assert made.status_code == 201, made.text
    secret: str = made.json()["secret"]
    return secret


rounds = itertools.count()


def ask_everything(weir: Weir, budgeted_key: str) -> None:
    """Every endpoint, streams, the cache, a prediction, failures, refusals, money."""
    turn = next(rounds)
    body = {"message": f"Question {turn}", "model": "gpt-4o-mini", "max_tokens": 100}
    messages = [{"role": "user", "content": f"A question {turn}"}]
    openai = {"model": "gpt-4o-mini", "messages": messages, "max_tokens": 100}
    text = "A weir is a barrier across a river. It raises the water. Boats pass by a lock. " * 3
    features: dict[str, Any] = {"features": [turn, 2, 3]}
    for version in ("", "/v1"):
        for path, asked in (
            ("/chat", body),
            ("/generate", {"prompt": f"Write {turn}", "model": "gpt-4o-mini"}),
            ("/summarize", {"text": f"{text} {turn}", "model": "gpt-4o-mini"}),
            ("/predict", features),
            ("/batch-predict", {"requests": [features, {"features": [turn, 5, 6]}]}),
        ):
            # The first ask is a miss, the second (of the other address) a hit.
            answer = weir.post(version + path, key=KEY, json=asked)
            assert answer.status_code == 200, answer.text
    assert weir.post("/v1/chat/completions", key=KEY, json=openai).ok
    embedded = {"model": "text-embedding-3-small", "input": f"Text {turn}"}
    assert weir.post("/v1/embeddings", key=KEY, json=embedded).ok
    for number in range(3):
        streamed = {
            **body,
            "message": f"Stream {turn} {number}, and some more words",
            "stream": True,
        }
        assert list(weir.stream("/chat", streamed, key=KEY))[-1] == "[DONE]"
    assert weir.post("/chat", key=KEY, json=body, headers={"Cache-Control": "no-cache"}).ok
    assert weir.post("/chat", key=KEY, json={"message": f"Unpriced {turn}", "model": "secret-1"}).ok
    together(weir, {**body, "message": f"Together {turn} [[fault:slow=0.5]]"})
    assert weir.post("/chat", key=budgeted_key, json={**body, "message": f"Mine {turn}"}).ok
    for key in (KEY, SMALL_KEY):
        # Of a model of its own, whose breaker opens for everybody, as two keys failed.
        failing = {"message": f"Fail {turn} [[fault:status=500]]", "model": "gpt-4o"}
        assert weir.post("/chat", key=key, json=failing).status_code in {429, 502, 503}
    too_dear = {**body, "message": f"Too dear {turn}", "max_tokens": 4000}
    assert weir.post("/chat", key=budgeted_key, json=too_dear).status_code == 429
    refused = [weir.post("/predict", key=SMALL_KEY, json=features).status_code for _ in range(6)]
    assert 429 in refused
    assert weir.post("/chat", key="no key at all", json=body).status_code == 403


def together(weir: Weir, body: dict[str, Any]) -> None:
    """The same request twice at once: the second one shares the first one's call."""
    askers = [
        threading.Thread(target=weir.post, args=("/chat",), kwargs={"key": KEY, "json": body})
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()


@pytest.fixture(scope="module")
def prometheus(watched: Weir, budgeted_key: str) -> Iterator[Prometheus]:
    """It has seen everything asked twice: rates need a counter that was there before."""
    with Prometheus(watched, TOKEN) as server:
        wait_until(lambda: server.query('up{job="weir"} == 1'), 20, "a first scrape")
        ask_everything(watched, budgeted_key)
        # Budgets are looked up every 15 s.
        wait_until(lambda: server.query("weir_budget_spent_ratio > 0"), 40, "a spent budget")
        ask_everything(watched, budgeted_key)
        asked = time.time()
        wait_until(lambda: scraped_since(server, asked), 20, "two scrapes of all that was asked")
        yield server


def scraped_since(server: Prometheus, moment: float) -> bool:
    """Whether Weir was read twice since then: the first reading may have begun before."""
    seconds = int(time.time() - moment)
    if not seconds:
        return False
    counted = server.query(f'count_over_time(up{{job="weir"}}[{seconds}s])')
    return bool(counted) and float(counted[0]["value"][1]) >= 2


def live_names(weir: Weir) -> set[str]:
    answer = weir.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    return {sample.name for family in families for sample in family.samples}


@needs_prometheus
def test_every_metric_that_is_named_exists(watched: Weir, prometheus: Prometheus) -> None:
    live = live_names(watched)
    for expression in all_expressions():
        missing = metric_names(expression) - live
        assert not missing, expression
    # And what the code and the table of metrics know is there, too.
    documented = set(re.findall(r"^\| `(weir_\w+)`", OPERATING, re.MULTILINE))
    assert documented
    assert documented <= live | {name.removesuffix("_bucket") for name in live}


@needs_prometheus
def test_prometheus_reads_weir_with_the_shipped_configuration(prometheus: Prometheus) -> None:
    [target] = prometheus.targets()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"]["job"] == "weir"


@needs_prometheus
@pytest.mark.parametrize("panel", panels(), ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_every_panel_shows_something(prometheus: Prometheus, panel: dict[str, Any]) -> None:
    for expression in expressions(panel, rate_interval="1m"):
        found = prometheus.query(expression)
        figures = [float(one["value"][1]) for one in found]
        assert [one for one in figures if not math.isnan(one)], expression


def queries_of_the_runbook() -> list[str]:
    blocks = re.findall(r"^```promql\n(.*?)^```", OPERATING, re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@needs_prometheus
@pytest.mark.parametrize("query", queries_of_the_runbook())
def test_every_query_of_the_runbook_is_answered(prometheus: Prometheus, query: str) -> None:
    assert prometheus.query(query)


@needs_prometheus
def test_every_rule_can_be_evaluated_and_fires_for_what_was_done(prometheus: Prometheus) -> None:
    def all_evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in prometheus.rules())

    wait_until(all_evaluated, 70, "an evaluation of every rule")
    for alert in alerts():
        prometheus.query(alert["expr"])
    states = {rule["name"]: rule["state"] for rule in prometheus.rules()}
    # The model that fails has its breaker open; a minute is not long enough to wake anybody.
    assert states["WeirBreakerOpen"] == "pending"
    for name in ("WeirDown", "WeirLedgerDrift", "WeirDatabaseAway", "WeirCacheHitRateCollapsed"):
        assert states[name] == "inactive", name


@needs_prometheus
def test_rules_and_panels_know_every_door_that_answers(watched: Weir) -> None:
    paths = watched.get("/openapi.json").json()["paths"]
    endpoints = {
        path
        for path, verbs in paths.items()
        if "post" in verbs
        # What is answered later is counted by lines, and what is kept needs no model.
        and not path.startswith(
            ("/admin", "/v1/batches", "/v1/files", "/v1/jobs", "/v1/responses/")
        )
        and path not in {"/token", "/v1/explain"}
    }
    for expression in all_expressions():
        for pattern in re.findall(r'endpoint=~"([^"]+)"', expression):
            assert {path for path in paths if re.fullmatch(pattern, path)} == endpoints
