"""What the pages show and do: figures, keys, requests, providers, audit; and to whom."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.servers import Postgres, Provider, Weir, wait_until
from tests.support.visitor import Visitor, text_of
from webapp.dashboard.formatting import nano
from webapp.version import VERSION

MIA = {"username": "mia", "password": "mia's password"}
COUNTED = "outcome=success,error,invalid"
# The links of numbers in a table.
NUMBERS = re.compile(r'<a href="([^"]+)">(\d+)</a></td>')


def settings(provider: Provider) -> dict[str, object]:
    return {
        **SETTINGS,
        "PROVIDER_OTHER_TYPE": "openai",
        "PROVIDER_OTHER_BASE_URL": provider.base_url,
        "OPENAI_BASE_URL": provider.base_url,
        "MODEL_PRICES": f"{PRICES}; other/cached: input=2, cached_input=0.5, output=8",
        "MODEL_ROUTES": "default=openai/first>openai/second;other=other/unpriced;"
        "broken=openai/broken>openai/spare",
        "LLM_MAX_RETRIES": "0",
        "TIERS": "free=5/minute;premium=1000/minute;enterprise=100000/minute",
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    fresh_shared_database: str,
    provider: Provider,
) -> Weir:
    more = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    return start_shared_weir(**settings(provider), **more)


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Visitor:
    """Signed in once, as a username may try ten times a minute."""
    return signed_in(weir)


def signed_in(weir: Weir) -> Visitor:
    visitor = Visitor(weir)
    visitor.sign_in()
    return visitor


@pytest.fixture
def member(weir: Weir, admin: Visitor) -> Visitor:
    admin.post("/dashboard/accounts", role="member", tier="free", **MIA)
    visitor = Visitor(weir)
    visitor.sign_in(**MIA)
    return visitor


def ask(weir: Weir, secret: str, message: str, **more: object) -> str:
    """The id of a request."""
    answer = weir.post("/chat", key=secret, json={"message": message, **more})
    return answer.headers["X-Request-ID"]


def tile(page: str, title: str) -> str:
    """The figure of a tile; of a rounded one, the exact one that it has as its title."""
    found = re.search(rf"<dt>(?:<a[^>]*>)?{title}(?:</a>)?</dt><dd>(.*?)</dd>", page)
    assert found, text_of(page)
    return shown(found.group(1))


def shown(figure: str) -> str:
    """The text of a figure; of a rounded one, the exact one."""
    exact = re.match(r'<span title="([^"]+)">', figure)
    return exact.group(1) if exact else text_of(figure).strip()


def note(page: str, title: str) -> str:
    """The change and the note of a tile."""
    found = re.search(rf'{title}(?:</a>)?</dt>.*?<dd class="quiet">(.*?)</dd>', page, re.DOTALL)
    assert found, text_of(page)
    return text_of(found.group(1)).strip()


def link_of_tile(page: str, title: str) -> str:
    return re.findall(rf'<dt><a href="([^"]+)">{title}</a>', page)[0]


def table(page: str, name: str) -> list[list[str]]:
    """The rows of a table by its accessible name."""
    found = re.search(rf'aria-label="{name}">\s*<table.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert found, text_of(page)
    rows = re.findall(r"<tr>(.*?)</tr>", found.group(1), re.DOTALL)
    cells = [re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[shown(cell) for cell in row] for row in cells]


def dollars(amount: str) -> float:
    return float(amount.strip("$"))


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_from_the_first_visit_to_figures_that_equal_those_of_the_api_in_every_range(
    start_weir: MakeWeir, fresh_database: str, provider: Provider, store: str
) -> None:
    more = {"DATABASE_URL": fresh_database} if store == "postgresql" else {}
    weir = start_weir(**settings(provider), **more)
    admin = signed_in(weir)

    # A provider that hangs holds no page up: not even before its first call is it asked.
    provider.fault(hang=True)
    empty = admin.get("/dashboard/").text
    assert provider.calls("/v1/models") == []
    provider.fault()

    assert "Get started" in empty
    assert 'href="/dashboard/keys/new"' in empty
    assert "No requests yet" in admin.get("/dashboard/requests").text
    secret = admin.create_key("shop")
    shown = admin.get("/dashboard/keys").text
    assert "shop" in shown
    assert secret not in shown
    assert weir.post("/chat", key=secret, json={"message": "hello"}).status_code == 200
    wait_until(lambda: "just now" in admin.get("/dashboard/keys").text)
    page = admin.get("/dashboard/").text
    assert "Get started" not in page
    assert tile(page, "Requests") == "1"
    assert ">shop</a>" in page

    for number in range(6):
        ask(weir, secret, f"message {number % 4}")
    ask(weir, secret, "another model", model="broken")
    weir.post("/predict", key=secret, json={"features": [1]})
    ask(weir, secret, "no model", model="nothing")
    provider.fault(status=500)
    ask(weir, secret, "fails")
    provider.fault()
    refused = refuse_each_kind(weir, admin, provider)
    administrator = Administrator(weir)
    # The last call is settled a moment after its answer.
    wait_until(
        lambda: all(
            call["settled_at"] for call in administrator.get("/admin/ledger").json()["calls"]
        )
    )
    stats = weir.get("/stats", key=secret).json()
    usage = administrator.get("/admin/usage?by=provider,model").json()
    total = usage["total"]
    for span in ("1h", "24h", "7d", "30d"):
        page = admin.get(f"/dashboard/?range={span}").text
        assert tile(page, "Requests") == str(stats["total_requests"])
        looked_up = stats["cache_hits"] + stats["cache_misses"]
        assert tile(page, "Cache hit rate") == f"{stats['cache_hits'] / looked_up * 100:.1f} %"
        assert dollars(tile(page, "Cost")) == pytest.approx(stats["cost_usd"], rel=0.05)
        assert stats["cost_usd"] == total["cost_usd"]
        assert dollars(tile(page, "Cache savings")) == pytest.approx(stats["saved_usd"], rel=0.05)
        tokens = total["input_tokens"] + total["output_tokens"]
        assert tile(page, "Billed tokens") == str(stats["tokens"]) == str(tokens)
        in_out = f"{total['input_tokens']} in, {total['output_tokens']} out"
        assert in_out in note(page, "Billed tokens")
        error_rate = f"{stats['errors'] / stats['total_requests'] * 100:.1f} %"
        assert tile(page, "Error rate") == error_rate
        assert tile(page, "Refused") == str(sum(refused.values()))
        for kind, count in refused.items():
            assert f"{count} by {kind}" in note(page, "Refused")
        for title in ("Latency p50", "Latency p95", "Latency p99", "First token p50"):
            assert re.fullmatch(r"[\d.]+ m?s", tile(page, title)), title

        # The charts' figures add up to the same.
        steps = table(page, "Data of the charts")
        hits, provided, errors, refusals = (
            sum(int(step[column].replace(",", "")) for step in steps) for column in (1, 2, 3, 4)
        )
        assert (hits, errors) == (stats["cache_hits"], stats["errors"])
        assert (hits + provided + errors, refusals) == (
            stats["total_requests"],
            sum(refused.values()),
        )
        models = {row[0]: row for row in table(page, "By model")}
        assert len(models) == len(table(page, "By model")), "each model once"
        assert models["forecast"][1] == "1"
        for row in usage["rows"]:
            _, _, _, _, input_tokens, _, output_tokens, cost, share, *_ = models[row["model"]]
            assert (input_tokens, output_tokens) == (
                str(row["input_tokens"]),
                str(row["output_tokens"]),
            )
            assert dollars(cost) == pytest.approx(row["cost_usd"], rel=0.05)
            assert share == f"{row['cost_usd'] / total['cost_usd'] * 100:.1f} %"
    by_provider = table(admin.get("/dashboard/?range=7d&by=provider").text, "By provider")
    assert dollars({row[0]: row[7] for row in by_provider}["openai"]) == pytest.approx(
        total["cost_usd"], rel=0.05
    )
    yesterday = admin.get("/dashboard/?range=yesterday").text
    assert (tile(yesterday, "Requests"), tile(yesterday, "Refused")) == ("0", "0")


def refuse_each_kind(weir: Weir, admin: Visitor, provider: Provider) -> dict[str, int]:
    """Have requests refused: how many, by the kind of limit."""
    limits = {"rate": "requests_per_day", "tokens": "tokens_per_minute", "budget": "usd_per_day"}
    refused = {}
    for place, (kind, limit) in enumerate(limits.items(), 1):
        size = {"rate": "1", "tokens": "1", "budget": "0.0000001"}[kind]
        secret = admin.create_key(f"few {kind}", **{f"limits.{limit}": size})
        statuses = [
            weir.post("/chat", key=secret, json={"message": f"{kind} {number}"}).status_code
            for number in range(place + 1)
        ]
        refused[kind] = sum(status in {402, 429} for status in statuses)
    secret = admin.create_key("one at a time", **{"limits.parallel_requests": "1"})
    body = {"messages": [{"role": "user", "content": "long"}], "stream": True}
    provider.fault(gap=0.3, pieces=3)
    stream = weir.stream("/v1/chat/completions", body, key=secret)
    next(stream)
    busy = weir.post("/chat", key=secret, json={"message": "too many"})
    list(stream)
    provider.fault()
    assert busy.status_code == 429
    assert all(refused.values()), refused
    return refused | {"parallel": 1}


def test_tiles_models_keys_and_steps_lead_to_the_requests_behind_them(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("followed", **{"limits.requests_per_day": "4"})
    key = max(admin.ids_of_keys())
    good, hit, other = (
        ask(weir, secret, message, model=model)
        for message, model in (("one", "default"), ("one", "default"), ("one", "broken"))
    )
    provider.fault(status=500)
    failed = ask(weir, secret, "one that fails")
    provider.fault()
    refused = ask(weir, secret, "one too many")
    wait_until(lambda: refused in admin.get(f"/dashboard/requests?key={key}").text)

    def listed(href: str) -> set[str]:
        page = admin.get(html.unescape(href)).text
        return set(re.findall(r'href="/dashboard/requests/([\w-]+)"', page))

    page = admin.get(f"/dashboard/?range=1h&key={key}").text
    assert "Degraded. Providers: openai: ProviderFailed" in text_of(page)
    assert listed(link_of_tile(page, "Requests")) == {good, hit, other, failed}
    assert listed(link_of_tile(page, "Cache hit rate")) == {hit}
    assert listed(link_of_tile(page, "Error rate")) == {failed}
    assert listed(link_of_tile(page, "Refused")) == {refused}
    [row] = re.findall(r'<tr><th scope="row"><a[^>]*>broken</a>.*?</tr>', page, re.DOTALL)
    [of_model, of_requests] = re.findall(r'href="([^"]+)"', row)[:2]
    assert listed(of_requests) == {other}
    assert tile(admin.get(html.unescape(of_model)).text, "Requests") == "1"
    errors = re.findall(r'href="([^"]*outcome=error[^"]*)"', page.split('id="top"')[1])
    assert listed(errors[0]) == {failed}
    steps = re.findall(r'<tr><th scope="row"><a href="([^"]+since=[^"]+)"', page)
    assert len(steps) == 60
    found = [listed(step) for step in steps[-3:]]
    assert set().union(*found) == {good, hit, other, failed, refused}
    assert sum(map(len, found)) == 5, "each in one step"
    only_errors = admin.get(f"/dashboard/?range=1h&key={key}&outcome=error").text
    assert tile(only_errors, "Requests") == "1"
    assert (tile(only_errors, "Cost"), note(only_errors, "Cost")) == ("–", "not split by outcome")
    assert admin.get("/dashboard/?until=2999-01-01T00:00").status_code == 200
    only_refused = admin.get("/dashboard/?range=1h&outcome=refused").text
    top, by_model = table(only_refused, "Top keys"), table(only_refused, "By model")
    assert all(int(row[3]) for row in top)
    assert [row[3] for row in top] == sorted((row[3] for row in top), key=int, reverse=True)
    assert sum(int(row[1]) for row in by_model) == int(tile(only_refused, "Refused"))
    for nonsense in ("since=2999-01-01T00:00", "since=2026-11-02T00:00&until=2026-11-01T00:00"):
        wrong = admin.get(f"/dashboard/?{nonsense}")
        assert wrong.status_code == 422
        assert re.search(
            r"(From: .* past|To: .* beginning)\. Showing 24 hours", text_of(wrong.text)
        )


def test_a_number_is_that_of_the_requests_it_leads_to(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    """A miss, hits, those that bypass the cache or need none, an error, refusals."""
    secret = admin.create_key("numbered", **{"limits.requests_per_day": "9"})
    key = max(admin.ids_of_keys())

    def send(message: str, control: str = "", **more: object) -> str:
        headers = {"Cache-Control": control} if control else {}
        body = {"message": message, **more}
        return weir.post("/chat", key=secret, json=body, headers=headers).headers.get("X-Cache", "")

    states = [send("numbered"), send("numbered"), send("numbered", "no-cache")]
    provider.fault(status=500)
    states += [send("fails", model="broken")]
    provider.fault(status=400)
    states += [send("the provider refuses")]
    provider.fault()
    assert states == ["MISS", "HIT", "BYPASS", "", ""]
    send("")
    weir.post("/predict", key=secret, json={"features": [1]})
    repeated = {"Idempotency-Key": "numbered"}
    for _ in range(4):
        weir.post("/chat", key=secret, json={"message": "numbered"}, headers=repeated)
    wait_until(lambda: "11 requests" in text_of(admin.get(f"/dashboard/requests?key={key}").text))

    def listed(href: str) -> int:
        page = text_of(admin.get(html.unescape(href)).text)
        found = re.search(r" (\d+) requests? ", page)
        return int(found[1]) if found else 0

    for outcome, expected in (
        ("", {"Requests": 9, "Cached": 2, "Uncached": 6, "Errors": 1, "Refused": 2}),
        ("&outcome=success", {"Requests": 8, "Cached": 2, "Uncached": 6}),
        ("&outcome=error", {"Requests": 1, "Errors": 1}),
        ("&outcome=refused", {"Refused": 2}),
    ):
        page = admin.get(f"/dashboard/?range=1h&key={key}{outcome}").text
        steps = table(page, "Data of the charts")
        series = ("Cached", "Uncached", "Errors", "Refused")
        numbers = {
            name: sum(int(step[place]) for step in steps) for place, name in enumerate(series, 1)
        } | {"Requests": int(tile(page, "Requests"))}
        assert {name: number for name, number in numbers.items() if number} == expected
        legend = page.split('id="requests-legend"')[1].split("</ul>")[0]
        links = {name: link for link, name in re.findall(r'<a href="([^"]+)">(\w+)<', legend)}
        links["Requests"] = link_of_tile(page, "Requests") if numbers["Requests"] else ""
        for name, number in expected.items():
            assert listed(links[name]) == number, (outcome, name)
        for title, name in (("Error rate", "Errors"), ("Refused", "Refused")):
            if name in expected:
                assert listed(link_of_tile(page, title)) == expected[name], (outcome, title)
        [top] = re.findall(r"<tr>(?:(?!<tr>).)*>numbered</a>.*?</tr>", page, re.DOTALL)
        for number, link in ((cell, link) for link, cell in NUMBERS.findall(top)):
            assert listed(link) == int(number), (outcome, link)
        by_provider = admin.get(f"/dashboard/?range=1h&key={key}&by=provider{outcome}").text
        rows = by_provider.split('id="breakdown"')[1].split("</section>")[0]
        for link, cell in NUMBERS.findall(rows):
            assert listed(link) == int(cell), (outcome, link)
    page = admin.get(f"/dashboard/?range=1h&key={key}").text
    assert "2 from cache" in note(page, "Cache hit rate")
    assert listed(link_of_tile(page, "Cache hit rate")) == 2
    # The requests that a limit refused have no provider.
    refused = {row[0]: row[3] for row in table(page, "By model")}
    assert refused["No model"] == "2"
    [row] = re.findall(r'<tr><th scope="row">No model</th>.*?</tr>', page, re.DOTALL)
    assert [listed(link) for link, cell in NUMBERS.findall(row)] == [2]
    of_none = admin.get(f"/dashboard/?range=1h&key={key}&provider=(none)").text
    assert (tile(of_none, "Requests"), tile(of_none, "Refused")) == ("3", "2")
    listed_key = admin.get("/dashboard/keys?q=numbered").text
    [row] = re.findall(r"<tr>(?:(?!<tr>).)*>numbered</a>.*?</tr>", listed_key, re.DOTALL)
    assert [(listed(link), cell) for link, cell in NUMBERS.findall(row)] == [(9, "9"), (2, "2")]


def test_keys_and_accounts_lead_to_their_pages(weir: Weir, admin: Visitor) -> None:
    account = {"username": "lena", "password": "lena's password"}
    admin.post("/dashboard/accounts", role="member", tier="free", **account)
    member = Visitor(weir)
    member.sign_in(**account)
    secret = admin.create_key("of lena", owner="lena")
    key = max(admin.ids_of_keys())
    ask(weir, secret, "by lena's key")
    token = weir.post("/token", json=account).json()["access_token"]
    for number in range(3):
        body = {"message": f"by her token {number}"}
        weir.post("/chat", headers={"Authorization": f"Bearer {token}"}, json=body)
    found_accounts = admin.get("/dashboard/accounts?q=lena").text
    [page_of_account] = re.findall(r'href="(/dashboard/accounts/\d+)">lena<', found_accounts)

    def found(visitor: Visitor, path: str) -> set[str]:
        page = visitor.get(path).text
        return set(re.findall(r'<a href="([^"]+)">(account lena|of lena)</a>', page))

    wait_until(lambda: len(found(member, "/dashboard/requests")) == 2)
    own = {(f"/dashboard/keys/{key}", "of lena"), ("/dashboard/me", "account lena")}
    for path in ("/dashboard/?range=1h", "/dashboard/requests"):
        assert found(member, path) == own
        assert all(member.get(link).status_code == 200 for link, _ in own)
    assert (page_of_account, "account lena") in found(admin, "/dashboard/requests")
    mine = f"/dashboard/?range=1h&key={account_key(member)}"
    assert found(admin, mine) == {(page_of_account, "account lena")}


def account_key(visitor: Visitor) -> int:
    """The id of the key of the account's tokens."""
    page = visitor.get("/dashboard/requests").text
    return int(re.findall(r'<option value="(\d+)">account ', page)[0])


def test_the_life_of_a_key(weir: Weir, admin: Visitor) -> None:
    wrong = admin.post(
        "/dashboard/keys/new", name="shop", tier="premium", **{"limits.models": "a b"}
    )
    assert wrong.status_code == 422
    assert "models" in text_of(wrong.text)
    assert 'required maxlength="100" value="shop"' in wrong.text
    first = admin.create_key("shop", **{"limits.usd_per_month": "5"})
    again = admin.post("/dashboard/keys/new", name="shop", tier="premium")
    assert (again.status_code, "already exists" in text_of(again.text)) == (409, True)
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    assert "USD per month" in text_of(admin.get(key).text)
    changed = admin.post(
        f"{key}/edit", name="store", tier="enterprise", **{"limits.requests_per_day": "7"}
    )
    facts = text_of(changed.text)
    assert changed.url.endswith(key)
    assert "store" in facts
    assert "Requests per day 7" in facts
    assert "USD per month" not in facts
    rotated = admin.post(f"{key}/rotate", on=key, grace="3600")
    [second] = re.findall(r'id="secret"><code>(weir_\S+)</code>', rotated.text)
    for secret in (first, second):
        assert weir.post("/chat", key=secret, json={"message": "x"}).status_code == 200
    assert "This cannot be undone" in admin.get(f"{key}/revoke").text
    revoked = admin.post(f"{key}/revoke")
    assert "Revoked" in text_of(revoked.text)
    wait_until(lambda: weir.post("/chat", key=second, json={"message": "x"}).status_code == 403, 6)
    for query in ("", f"?target=key-{key.rpartition('/')[2]}"):
        audit = text_of(admin.get(f"/dashboard/audit{query}").text)
        for action in ("key.create", "key.change", "key.rotate", "key.revoke"):
            assert action in audit
        assert first not in audit
        assert second not in audit


def names(page: str) -> list[str]:
    """The keys of a list, in its order."""
    return re.findall(r'<th scope="row"><a href="/dashboard/keys/\d+">([^<]*)</a>', page)


def test_keys_are_searched_filtered_and_sorted(weir: Weir, admin: Visitor) -> None:
    administrator = Administrator(weir)
    administrator.post("/admin/accounts", {"username": "petra", "password": "petra's password"})
    busy = admin.create_key("Sorted C", "premium", **{"limits.usd_per_day": "0.001"})
    quiet = admin.create_key("sorted b", "premium", owner="petra")
    admin.create_key("Sorted A & co", "free")
    for number in range(3):
        ask(weir, busy, f"sorted {number}", max_tokens=100)
    ask(weir, quiet, "sorted 0", max_tokens=100)  # from the cache

    def found(query: str) -> list[str]:
        return names(admin.get(f"/dashboard/keys?q=SORTED&{query}").text)

    first, second, third = "Sorted A &amp; co", "sorted b", "Sorted C"
    wait_until(lambda: found("sort=-last_used") == [second, third, first])
    assert found("") == found("sort=name") == found("sort=secret&page=x") == [first, second, third]
    assert found("sort=-name") == [third, second, first]
    wait_until(lambda: found("sort=-requests") == [third, second, first])
    assert found("sort=requests") == [first, second, third]
    wait_until(lambda: found("sort=-cost")[0] == third)
    assert found("sort=-limit")[0] == third
    assert found("tier=free") == [first]
    assert found("owner=petra") == [second]
    assert found("owner=(none)") == [first, third]
    assert found("state=works") == [first, second, third]
    assert found("state=revoked") == []
    assert found("tier=%00&owner=nobody&state=tired") == [first, second, third]
    assert names(admin.get(f"/dashboard/keys?q={busy[-4:]}").text) == [third], "by its mask"
    assert found("page=9") == [first, second, third]

    page = admin.get("/dashboard/keys?q=sorted&sort=-requests&tier=premium").text
    assert "2 keys" in text_of(page)
    assert page.count("aria-sort") == page.count('aria-sort="descending"') == 1
    assert 'href="/dashboard/keys?q=sorted&amp;tier=premium&amp;sort=requests"' in page
    assert 'href="/dashboard/keys?q=sorted&amp;tier=premium&amp;sort=-cost"' in page
    assert "last 30 days: at most 3, today 3" in page
    [row] = [row for row in page.split("<tr>") if third in row]
    usage = administrator.get("/admin/usage?by=key").json()["rows"]
    [cost] = [one["cost_usd"] for one in usage if one["key"] == third]
    assert f'value="{cost / 0.001:.4f}" aria-label="USD per day: ' in row
    assert re.search(r"USD per day .* of \$0\.001 Resets in \d+ (hour|minute)", text_of(row))
    key_id = key_of(admin, third)
    assert f'href="/dashboard/requests?key={key_id}&amp;range=30d&amp;{COUNTED}">3</a>' in row
    assert "No matching keys" in admin.get("/dashboard/keys?q=nothing+like+it").text


def key_of(visitor: Visitor, name: str) -> int:
    page = visitor.get("/dashboard/keys", params={"q": name}).text
    [found] = re.findall(rf'href="/dashboard/keys/(\d+)">{re.escape(name)}<', page)
    return int(found)


def test_keys_are_listed_while_the_first_request_of_one_is_counted(
    weir: Weir, admin: Visitor
) -> None:
    if "DATABASE_URL" not in weir.env:
        pytest.skip("SQLite's readers wait for nobody")
    admin.create_key("counted meanwhile")
    key = key_of(admin, "counted meanwhile")
    counters = "requests, hits, misses, errors, tokens, saved_tokens, saved_nano"
    counted = f"INSERT INTO traffic (day, key_id, {counters}) VALUES (:today, {key}, 7{', 0' * 6})"
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'budgets'::regclass"
    books = Books(weir)
    with ThreadPoolExecutor() as pool, books.engine.begin() as connection:
        # The page reads the budgets after the totals and before the requests of each day.
        connection.execute(text("LOCK TABLE budgets"))
        page = pool.submit(admin.get, "/dashboard/keys?q=counted meanwhile")
        books.wait_for(waits, 10, "the page's look at the budgets")
        connection.execute(text(counted), {"today": datetime.now(UTC).date()})
        connection.commit()
        listed = page.result()
    assert listed.status_code == 200, text_of(listed.text)
    later = admin.get("/dashboard/keys?q=counted meanwhile").text
    assert re.search(r'aria-label="Requests per day[^"]*today 7"', later)
    books.write(f"DELETE FROM traffic WHERE key_id = {key}")


def test_the_pages_of_a_list_keep_its_filters_and_order(weir: Weir, admin: Visitor) -> None:
    books = Books(weir)
    columns = "name, tier, mask, origin, overrides, created_at"
    row = "'premium', 'x***y', 'operator', '{}', '2026-01-01'"
    rows = ", ".join(f"('paged {number:02}', {row})" for number in range(60))
    books.write(f"INSERT INTO api_keys ({columns}) VALUES {rows}")
    try:
        first = admin.get("/dashboard/keys?q=paged&sort=-name&state=works").text
        assert "60 keys, showing 1 to 50" in text_of(first)
        [following] = re.findall(r'href="([^"]*)" rel="next"', first)
        second = admin.get(html.unescape(following)).text
        assert names(first) + names(second) == [f"paged {number:02}" for number in range(60)][::-1]
        [back] = re.findall(r'href="([^"]*)" rel="prev"', second)
        assert names(admin.get(html.unescape(back)).text) == names(first)
    finally:
        books.write("DELETE FROM api_keys WHERE name LIKE 'paged %'")


def test_the_form_of_a_key_speaks_the_language_of_its_fields(weir: Weir, admin: Visitor) -> None:
    new = admin.get("/dashboard/keys/new").text
    assert re.search(r'name="limits.requests_per_minute"[^>]*placeholder="5"', new)
    assert re.search(r'name="limits.max_text"[^>]*placeholder="5,000"', new)
    assert re.search(r'name="limits.usd_per_day"[^>]*placeholder="No limit"', new)
    assert re.search(r'type="checkbox" name="limits.models" value="broken">', new)
    fields: dict[str, Any] = {
        "limits.models": ["broken", "anthropic/*\r\n odd,name|x \r\n"],
        "limits.networks": "10.0.0.0/8\r\n192.0.2.7",
        "limits.own_cache": "true",
        "limits.usd_per_day": "0.5",
    }
    admin.create_key("worded", **fields)
    path = f"/admin/keys/{key_of(admin, 'worded')}"
    administrator = Administrator(weir)
    limits = {
        "models": ["broken", "anthropic/*", "odd,name|x"],
        "networks": ["10.0.0.0/8", "192.0.2.7/32"],
        "own_cache": True,
        "usd_per_day": 0.5,
    }
    assert administrator.get(path).json()["limits"] == limits
    key = path.replace("/admin", "/dashboard")
    assert "Private cache On" in text_of(admin.get(key).text)
    edit = admin.get(f"{key}/edit").text
    assert 'value="broken" checked>' in edit
    assert ">anthropic/*\nodd,name|x</textarea>" in edit
    assert ">10.0.0.0/8\n192.0.2.7/32</textarea>" in edit
    assert '<option value="true" selected>On' in edit
    assert 'value="0.50"' in edit
    admin.post(f"{key}/edit", name="worded", tier="free", **{"limits.own_cache": "false"})
    assert administrator.get(path).json()["limits"] == {"own_cache": False}


def test_who_saves_a_key_that_changed_meanwhile_is_told(weir: Weir, admin: Visitor) -> None:
    admin.create_key("of two")
    edit = f"/dashboard/keys/{key_of(admin, 'of two')}/edit"
    mine = {"name": "of two", "tier": "premium", "limits.usd_per_day": "7"}

    def version(page: str) -> str:
        return re.findall(r'name="key_version" value="(\w+)"', page)[0]

    opened = version(admin.get(edit).text)
    theirs = {"name": "of two", "tier": "free", "key_version": opened}
    assert admin.post(edit, **theirs).url.endswith(edit.removesuffix("/edit"))
    refused = admin.post(edit, **mine, key_version=opened)
    assert refused.status_code == 409
    assert "This key was changed after you opened" in refused.text
    assert f"Weir {VERSION} " in text_of(refused.text)
    assert 'value="7"' in refused.text
    saved = admin.post(edit, **mine, key_version=version(refused.text))
    assert "Tier premium" in text_of(saved.text)
    assert "USD per day $7.00" in text_of(saved.text)


def test_each_error_of_a_key_is_told_at_its_field(weir: Weir, admin: Visitor) -> None:
    path = "/dashboard/keys/new"
    sent: dict[str, Any] = {
        "limits.requests_per_day": "0",
        "limits.usd_per_day": "-1",
        "limits.models": ["broken", "a b"],
        "limits.networks": "10.0.0.1/8",
        "expires_at": "soon",
    }
    page = admin.post(path, name="   ", tier="gold", **sent)
    assert (page.status_code, "Error: Create key" in page.text) == (422, True)
    wrong = ["name", "expires_at", *(name for name in sent if name.startswith("limits."))]
    for name in wrong:
        [field] = re.findall(rf'<(?:input|textarea) id="field-{name}"[^>]*>', page.text)
        assert f'aria-invalid="true" aria-describedby="error-{name}' in field
        assert f'id="error-{name}">Must' in page.text
        assert f'<a href="#field-{name}">' in page.text
    assert page.text.count("autofocus") == 1
    assert 'id="field-name" name="name" aria-invalid="true"' in page.text
    assert "Name: Must not be blank." in text_of(page.text)
    assert 'value="broken" checked>' in page.text
    assert ">a b</textarea>" in page.text
    unknown = admin.post(path, name="x", tier="gold")
    assert (unknown.status_code, 'id="error-tier">Must be one of' in unknown.text) == (422, True)
    admin.create_key("taken")
    taken = admin.post(path, name="taken", tier="free")
    assert (taken.status_code, 'id="error-name">A key' in taken.text) == (409, True)


def test_a_key_names_each_target_once_and_leads_to_its_requests(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    created = admin.post("/dashboard/keys/new", name="linked", tier="premium").text
    [secret] = re.findall(r'id="secret"><code>(weir_\S+)</code>', created)
    assert f'base_url="{weir.url}/v1",\n    api_key="{secret}",' in html.unescape(created)
    provider.fault(status=500, model="first")
    served = ask(weir, secret, "by the second")
    provider.fault()
    key_id = key_of(admin, "linked")
    key = f"/dashboard/keys/{key_id}"
    wait_until(lambda: "openai/second" in admin.get(key).text)
    page = admin.get(key).text
    assert '<nav aria-label="Breadcrumb" class="breadcrumb">' in page
    assert "Last used just now" in text_of(page)
    rows = {
        row["model"]: [str(row["calls"]), str(row["failed"])]
        for row in Administrator(weir).get(f"/admin/usage?by=model&key={key_id}").json()["rows"]
    }
    table = page.split('aria-label="By model"')[1].split("</table>")[0]
    assert re.findall(r">openai/(\w+)</a>", table) == sorted(rows) == ["first", "second"]
    for model, figures in rows.items():
        row = table.split(f">openai/{model}</a>")[1].split("</tr>")[0]
        assert re.findall(r"<td[^>]*>([^<]*)</td>", row)[:2] == figures
    [link] = re.findall(r'href="([^"]*)">openai/second<', table)
    assert served in admin.get(html.unescape(link)).text


def test_a_key_of_a_disabled_account_is_shown_as_disabled(weir: Weir, admin: Visitor) -> None:
    account = {"username": "ned", "password": "ned's password"}
    made = Administrator(weir).post("/admin/accounts", account).json()
    admin.create_key("ned's key", owner="ned")
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    assert "ned's key Active" in text_of(admin.get(key).text)
    path = f"/dashboard/accounts/{made['id']}"
    admin.post(path, role="member", tier="free", disabled="on")
    page = text_of(admin.get(key).text)
    assert "ned's key Disabled" in page
    assert "Owner ned disabled: the key is refused" in page
    for state, listed in (("disabled", True), ("works", False)):
        assert ("ned's key" in text_of(admin.get(f"/dashboard/keys?state={state}").text)) is listed
    admin.post(path, role="member", tier="free")
    assert "ned's key Active" in text_of(admin.get(key).text)


def test_bars_move_with_traffic(weir: Weir, admin: Visitor) -> None:
    secret = admin.create_key("kiosk", "free", **{"limits.usd_per_day": "0.01"})
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    assert "0 of 5" in text_of(admin.get(key).text)
    assert "Resets" not in text_of(admin.get(key).text)
    for number in range(5):
        ask(weir, secret, f"bar {number}", max_tokens=10)
    wait_until(lambda: "5 of 5" in text_of(admin.get(key).text))
    page = admin.get(key).text
    assert re.search(r"5 of 5 Resets in (\d+ s|1 minute)", text_of(page))
    assert 'class="full"' in page
    assert re.search(r"USD per day <?\$0\.0\d+ (\(exactly \$0\.0\d+\) )?of \$0\.01", text_of(page))


def test_a_key_shows_its_sessions_and_what_they_took(weir: Weir, admin: Visitor) -> None:
    limits = {"limits.requests_per_session": "2", "limits.usd_per_session": "1.5"}
    secret = admin.create_key("runaway", **limits)
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    assert "Requests per session 2" in text_of(admin.get(key).text)
    assert "USD per session $1.50" in text_of(admin.get(key).text)
    assert "last 24 hours" not in text_of(admin.get(key).text)
    for name, statuses in (("0199a1b2-6c1d-7d0e-9a55", (200, 200, 429)), (None, (200,))):
        headers = {} if name is None else {"X-Weir-Session": name}
        for number, status in enumerate(statuses):
            said = {"message": f"{name} {number}"}
            assert weir.post("/chat", key=secret, json=said, headers=headers).status_code == status
    wait_until(lambda: text_of(admin.get(key).text).count("just now") >= 2)
    page = text_of(admin.get(key).text)
    assert re.search(r"0199a1b2…9a55 just now 2 <?\$0\.0\d+", page)
    assert re.search(r"of this key just now 1 <?\$0\.0\d+", page)
    assert "6c1d" not in page


def test_budgets_are_raised_for_a_while(weir: Weir, admin: Visitor) -> None:
    admin.create_key("stall", **{"limits.usd_per_day": "0.01"})
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    assert "$0.00 of $0.01" in text_of(admin.get(key).text)
    page = admin.post(f"{key}/budget", on=key, usd="2.5", days="7")
    assert "$0.00 of $2.51" in text_of(page.text)
    assert "Budget increase $2.50 until" in text_of(page.text)
    for usd, told in (("much", "Must be an amount in USD."), ("1e10", "from 0 to 1000000000.")):
        refused = admin.post(f"{key}/budget", on=key, usd=usd, days="7")
        assert refused.status_code == 422
        assert re.search(rf'class="problem" id="error-usd">[^<]*{told}</span>', refused.text)
        assert f'value="{usd}"' in refused.text
    page = admin.post(f"{key}/budget", on=key, usd="0", days="1")
    assert "Budget increase $" not in text_of(page.text)


def test_a_key_that_has_expired_is_changed_without_touching_its_expiry(
    weir: Weir, admin: Visitor
) -> None:
    admin.create_key("market")
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    edit = f"{key}/edit"
    engine = Books(weir).engine
    with engine.begin() as connection:
        past = text("UPDATE api_keys SET expires_at = '2020-01-01 00:00:00' WHERE name = 'market'")
        connection.execute(past)
    engine.dispose()
    fields = {"name": "market", "tier": "free", "expires_at": "2020-01-01T00:00"}
    page = admin.post(edit, **fields)
    assert (page.status_code, page.url.endswith(key)) == (200, True)
    assert "Tier free" in text_of(page.text)
    wrong = admin.post(edit, **fields | {"expires_at": "2021-01-01T00:00"})
    assert (wrong.status_code, "Must be in the future" in wrong.text) == (422, True)
    assert "Active" in text_of(admin.post(edit, **fields | {"expires_at": ""}).text)


def test_requests_are_found_by_what_became_of_them(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret, other = admin.create_key("found"), admin.create_key("theirs")
    good = ask(weir, secret, "good")
    hit = ask(weir, secret, "good")
    theirs = ask(weir, other, "theirs")
    bad = ask(weir, secret, "")
    provider.fault(status=500)
    failed = ask(weir, secret, "fails")
    everything = {good, hit, theirs, bad, failed}

    def found(query: str) -> set[str]:
        page = admin.get(f"/dashboard/requests?{query}").text
        return set(re.findall(r'href="/dashboard/requests/([\w-]+)"', page)) & everything

    assert found("") == everything
    assert found("outcome=success") == {good, hit, theirs}
    assert found("outcome=error") == {failed}
    assert found("outcome=invalid") == {bad}
    assert found("outcome=refused") == set()
    assert found("range=1h") == everything
    assert found("range=1h&outcome=error&status=502") == {failed}
    assert found("range=1h&since=2999-01-01T00:00") == set(), "times go before a range"
    assert found("status=422") == {bad}
    assert found("cache=HIT") == {hit}
    assert found("model=first") >= {good}
    assert found("model=second") == {failed}
    assert found("provider=openai") == everything - {bad}
    assert found("provider=other") == set()
    assert found("endpoint=%2Fchat") == everything
    assert found(f"key={max(admin.ids_of_keys())}") == {theirs}
    assert found("since=2999-01-01T00:00") == set()
    assert found("until=2000-01-01T00:00") == set()
    assert found("status=abc&before=-1&key=x&since=never&range=x&outcome=x&cache=x") == everything
    assert found("before=999999999999999999") == everything
    assert found("key=99999999999") == set()
    for odd in ("status=99999999999", "endpoint=%00", "model=%00", "key=" + "9" * 2000):
        assert admin.get(f"/dashboard/requests?{odd}").status_code == 200, odd
    assert admin.get("/dashboard/audit?target=%00&before=99999999999999999999").status_code == 200
    for odd in ("%00", "x%20y", "x" * 200):
        assert admin.get(f"/dashboard/requests/{odd}").status_code == 404, odd
    page = text_of(admin.get(f"/dashboard/requests/{failed}").text)
    assert "502 ProviderFailed" in page
    assert page.index("1. openai/first failed") < page.index("2. openai/second failed")
    assert "The provider answered 500: The stand-in was told to answer 500." in page
    assert "MISS" in text_of(admin.get(f"/dashboard/requests/{good}").text)
    assert admin.get("/dashboard/requests/unknown").status_code == 404


def test_prompts_are_kept_only_where_the_operator_says_so(weir: Weir, admin: Visitor) -> None:
    check_prompts(weir, admin, kept=False)


def test_prompts_are_kept_where_the_operator_says_so(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, LOG_PROMPTS=True)
    check_prompts(weir, signed_in(weir), kept=True)


def check_prompts(weir: Weir, admin: Visitor, *, kept: bool) -> None:
    prompt = "tell <b>nobody</b>"
    plain = ask(weir, "prod_key_456", prompt)
    events = weir.stream("/v1/chat/completions", {
        "messages": [{"role": "user", "content": prompt}], "stream": True,
    }, key="prod_key_456")  # fmt: skip
    streamed = events.headers["X-Request-ID"]
    list(events)
    for request_id in (plain, streamed):
        wait_until(lambda: admin.get(f"/dashboard/requests/{request_id}").status_code == 200)  # noqa: B023
        page = admin.get(f"/dashboard/requests/{request_id}").text
        assert ("tell &lt;b&gt;nobody&lt;/b&gt;" in page) == kept
        assert ("LOG_PROMPTS</code> is on" in page) == kept
    assert (prompt in weir.raw_logs()) == kept
    assert prompt not in admin.get("/dashboard/requests").text


def test_pages_of_requests_follow_each_other(weir: Weir, admin: Visitor) -> None:
    ask(weir, admin.create_key("before the pages"), "the same")
    secret = admin.create_key("pages")
    key = max(admin.ids_of_keys())
    ids = [ask(weir, secret, "the same") for _ in range(60)]

    def page(path: str) -> tuple[list[str], dict[str, str]]:
        """The ids on a page, and its links to others."""
        text = admin.get(path).text
        links = re.findall(r'<a class="button"[^>]* href="([^"]*)">(Newest|Newer|Older)<', text)
        return rows_of(text), {name: html.unescape(link) for link, name in links}

    def two_pages(query: str) -> list[str]:
        newest, links = page(f"/dashboard/requests{query}")
        return newest + (page(links["Older"])[0] if "Older" in links else [])

    # A row may still be on its way into the database.
    wait_until(lambda: set(ids) <= set(two_pages("")))
    assert two_pages("")[:60] == ids[::-1], "those of other tests come after these"
    assert two_pages(f"?key={key}") == ids[::-1]
    newest, links = page(f"/dashboard/requests?key={key}")
    assert (newest, links.keys()) == (ids[:9:-1], {"Older"})
    assert "60 requests" in text_of(admin.get(f"/dashboard/requests?key={key}").text)
    _, back = page(links["Older"])
    assert back.keys() == {"Newest", "Newer"}
    assert [page(link)[0] for link in back.values()] == [newest, newest]


def rows_of(page: str) -> list[str]:
    """The ids of the requests that a page lists."""
    return re.findall(r'href="/dashboard/requests/([\w-]+)"', page)


def test_a_request_is_found_by_its_id_or_the_beginning_of_it(
    weir: Weir, admin: Visitor, member: Visitor
) -> None:
    secret = admin.create_key("searched")
    ids = ["found-by-its-beginning-1", "found-by-its-beginning-2"]
    for request_id in ids:
        headers = {"X-Request-ID": request_id}
        weir.post("/chat", key=secret, json={"message": "x"}, headers=headers)

    def search(text: str, visitor: Visitor = admin) -> requests.Response:
        return visitor.get("/dashboard/requests", params={"id": text})

    wait_until(lambda: search(ids[1]).url.endswith(f"/{ids[1]}"))
    wait_until(lambda: search(f" {ids[0]} ").url.endswith(f"/{ids[0]}"))
    listed = search("found-by").text
    assert sorted(rows_of(listed)) == ids
    assert "2 requests whose ID begins with found-by" in text_of(listed)
    assert rows_of(search(ids[0][:-1]).text) == ids
    for odd in ("found-b", "FOUND-BY", "found-by%", "' OR 1=1", "x" * 300):
        assert rows_of(search(odd).text) == [], odd
    assert "at least its first 8 characters" in text_of(search("found-b").text)
    for theirs in ("found-by", ids[0]):
        assert rows_of(search(theirs, member).text) == []


def admin_cost(weir: Weir, key: int) -> float:
    """What a key has cost, as the API says."""
    rows = Administrator(weir).get("/admin/usage?by=key").json()["rows"]
    return float(next(row["cost_usd"] for row in rows if row["key_id"] == key))


def test_what_is_filtered_is_exported(
    weir: Weir, admin: Visitor, member: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("=HYPERLINK(1)")
    key = max(admin.ids_of_keys())
    good = ask(weir, secret, "exported")
    ask(weir, secret, "exported", model="=1+1")
    provider.fault(status=500)
    failed = ask(weir, secret, "exported, fails")
    provider.fault(garbage=True)
    charged = ask(weir, secret, "exported, charged")

    def export(query: str, visitor: Visitor = admin) -> list[dict[str, str]]:
        answer = visitor.get(f"/dashboard/requests.csv?{query}")
        assert answer.headers["Content-Type"].startswith("text/csv")
        return list(csv.DictReader(io.StringIO(answer.text)))

    def all_are_settled() -> bool:
        return not Books(weir).rows("SELECT id FROM ledger WHERE state = 'reserved'")

    wait_until(lambda: len(export(f"key={key}")) == 4 and all_are_settled())
    rows = {row["request_id"]: row for row in export(f"key={key}")}
    cost = admin_cost(weir, key)
    assert cost > float(rows[good]["cost_usd"]), "a failed request has cost something"
    assert sum(float(row["cost_usd"] or 0) for row in rows.values()) == pytest.approx(cost)
    assert float(rows[failed]["cost_usd"]) == 0
    html_page = admin.get(f"/dashboard/requests/{charged}").text
    cost_nano = round(float(rows[charged]["cost_usd"]) * 1e9)
    assert f"<dt>Cost</dt><dd>{nano(cost_nano)}</dd>" in html_page
    [answer] = Books(weir).rows(f"SELECT * FROM requests WHERE request_id = '{good}'")
    assert rows[good]["tokens"] == str(answer["tokens"])
    assert float(rows[good]["cost_usd"]) == answer["cost_nano"] / 1e9
    assert rows[good]["client"].startswith("python-requests/")
    assert {row["key"] for row in rows.values()} == {"'=HYPERLINK(1)"}
    assert "'=1+1" in {row["asked_model"] for row in rows.values()}
    assert {row["request_id"] for row in export(f"key={key}&outcome=error")} == {failed, charged}
    assert export(f"key={key}&status=418") == []
    assert export(f"key={key}", member) == []


def test_a_request_says_what_became_of_it(weir: Weir, admin: Visitor, provider: Provider) -> None:
    secret = admin.create_key("told", "free")
    key = max(admin.ids_of_keys())
    headers = {"Idempotency-Key": "told"}
    body = {"message": "told"}
    first, replayed = (
        weir.post("/chat", key=secret, json=body, headers=headers).headers["X-Request-ID"]
        for _ in range(2)
    )
    hit = ask(weir, secret, "told")
    unknown = ask(weir, secret, "told", model="nothing")
    provider.fault(gap=0.05, pieces=5)
    events = weir.stream(
        "/chat", {"message": "streamed", "stream": True}, key=secret,
        headers={"User-Agent": "caf\u00e9/1 \t<b>" + "x" * 300},
    )  # fmt: skip
    streamed = events.headers["X-Request-ID"]
    list(events)
    refused = ask(weir, secret, "told")

    def page(request_id: str) -> str:
        answer = wait_until(
            lambda: [a for a in [admin.get(f"/dashboard/requests/{request_id}")] if a.ok]
        )[0]
        return text_of(answer.text)

    assert "1. openai/first" in page(first)
    assert "Replayed by its idempotency key" in page(replayed)
    assert "Answered from the cache." in page(hit)
    assert "The model was not found." in page(unknown)
    assert "Refused by the request rate limit." in page(refused)
    assert re.search(r"Time to first token [\d.]+ ms", page(streamed))
    assert "Time to first token –" in page(first)
    assert re.search(r"Client \S+/1 <b>x+", page(streamed))
    [row] = Books(weir).rows(f"SELECT * FROM requests WHERE request_id = '{streamed}'")
    [call] = Books(weir).rows(f"SELECT * FROM ledger WHERE request_id = '{streamed}'")
    assert 0 < row["first_token_milliseconds"] < row["milliseconds"] - 150
    assert call["settled_at"] <= row["at"], "a call ends in its request, however late it is written"
    seconds = (row["milliseconds"] - row["first_token_milliseconds"]) / 1000
    assert f" {call['output_tokens'] / seconds:.1f} $" in page(streamed)
    assert len(row["client"]) in {199, 200}, "cut before or after its tab was removed"
    [row] = Books(weir).rows(f"SELECT * FROM requests WHERE request_id = '{refused}'")
    assert row["refused_by"] == "requests"
    html_page = admin.get(f"/dashboard/requests/{first}").text
    assert f'<a href="/dashboard/keys/{key}">told</a>' in html_page
    assert "style=" not in html_page


def test_providers_show_breakers_and_models_without_a_price(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("breaks")
    ask(weir, secret, "good", model="broken")
    ask(weir, secret, "unpriced", model="other")
    provider.fault(status=500, model="broken")
    for number in range(5):
        ask(weir, secret, f"fails {number}", model="broken")
    target = r"broken 1 openai/broken – (.*) Priced broken 2 openai/spare"

    def breaker() -> str:
        page = text_of(admin.get("/dashboard/providers").text)
        found = re.search(target, page)
        assert found, page
        assert found[1].replace("Open ", "Open broken ") in page, "the provider's card has it too"
        return found[1]

    assert re.fullmatch(r"Open chat for breaks alone, next probe in \d+ s", breaker())
    ask(weir, admin.create_key("breaks, too"), "fails for two", model="broken")
    assert re.fullmatch(r"Open chat, next probe in \d+ s", breaker())
    page = text_of(admin.get("/dashboard/providers?model=UNPR").text)
    assert re.search(r"unpriced other – – – Unpriced \d+ 0.0 %", page)
    overview = admin.get("/dashboard/?range=1h&provider=other&model=unpriced").text
    assert [row[7] for row in table(overview, "By model")] == ["Unpriced"], "it is not free"
    assert "without unpriced models" in note(overview, "Cost")
    overview = admin.get("/dashboard/?range=1h&provider=openai").text
    assert "unpriced" not in note(overview, "Cost")
    assert "cached other $" not in page
    page = text_of(admin.get("/dashboard/providers").text)
    assert re.search(r"spare openai \$1.00 \$1.00 \$2.00 MODEL_PRICES \d", page)


def test_providers_show_their_calls_as_the_ledger_has_them(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("calls")
    ask(weir, secret, "to the other", model="other")
    provider.fault(status=429, model="unpriced", retry_after="1", code="slow_down")
    failed = ask(weir, secret, "to the other again", model="other")
    Books(weir).settled_of(failed)
    page = admin.get("/dashboard/providers").text
    [card] = re.findall(r'<section class="card provider".*?>other <.*?</section>', page, re.DOTALL)
    card = "<" + card.rpartition("<section")[2]
    [row] = Administrator(weir).get("/admin/usage?by=provider&provider=other").json()["rows"]
    assert f"Calls, 24 h {row['calls']} " in text_of(card)
    assert f"Error rate {row['failed'] / row['calls'] * 100:.1f} %" in text_of(card)
    assert "other Failing" in text_of(card)
    query = "SELECT settled_at - reserved_at AS seconds FROM ledger WHERE provider = 'other'"
    rows = Books(weir).rows(f"{query} AND state = 'settled' ORDER BY seconds")
    slowest = rows[math.ceil(0.95 * len(rows)) - 1]["seconds"] * 1000
    shown = re.search(r"p95 latency ([\d.]+) ms", text_of(card))
    assert shown, text_of(card)
    assert float(shown[1]) == pytest.approx(slowest, abs=0.6)
    assert "Last success just now" in text_of(card)
    assert "Last error Status 429: The stand-in" in text_of(card)
    assert f'href="/dashboard/requests/{failed}"' in card
    assert f"Base URL {provider.base_url} API key No key" in text_of(card)
    provider.fault()
    ask(weir, secret, "once more", model="other")
    wait_until(lambda: "other OK" in text_of(admin.get("/dashboard/providers").text))


@pytest.mark.parametrize("weir", ["sqlite"], indirect=True)
def test_a_connection_is_tested_by_a_free_call_and_not_too_often(
    weir: Weir, admin: Visitor, member: Visitor, provider: Provider
) -> None:
    path = "/dashboard/providers/other/test"

    def result() -> str:
        page = text_of(admin.post(path, on="/dashboard/providers").text)
        assert " Routes " in page
        return page.partition("Providers other :")[2][:200].strip()

    before = len(provider.completions())
    assert re.match(r"Connection OK: \d+ models listed in [\d.]+ m?s\.", result())
    assert "Connection OK" not in admin.get("/dashboard/providers").text
    provider.fault(status=401)
    assert result().startswith("Connection failed. Status 401: The stand-in")
    words = "Last error Weir's credentials were rejected, or its quota is exhausted just now"
    assert words in text_of(admin.get("/dashboard/providers").text)
    provider.fault(hang=True)
    assert result().startswith("Connection failed. No answer in time")
    provider.fault()
    refused = [result() for _ in range(4)][-1]
    assert re.match(r"Connection failed\. Too many tests .* Try again in \d+ s\.", refused)
    assert len(provider.completions()) == before
    assert len(provider.calls("/v1/models")) >= 3
    assert admin.session.post(weir.url + path).status_code == 403, "without a CSRF token"
    assert member.post(path, on="/dashboard/me").status_code == 404
    assert admin.post("/dashboard/providers/none/test", on="/dashboard/me").status_code == 404


def test_a_member_sees_nothing_of_others(weir: Weir, admin: Visitor, member: Visitor) -> None:
    secret = admin.create_key("secret project")
    theirs = max(admin.ids_of_keys())
    request = ask(weir, secret, "hello")
    mine = admin.create_key("mine", owner="mia")
    own = max(admin.ids_of_keys())
    seen = ask(weir, mine, "mine")
    assert member.ids_of_keys() == {own}
    assert names(member.get("/dashboard/keys?q=secret").text) == []
    assert names(member.get("/dashboard/keys?owner=(none)&sort=-limit").text) == ["mine"]
    for page in ("", "keys", "requests", "playground", "me", f"keys/{own}", f"requests/{seen}"):
        answer = member.get(f"/dashboard/{page}")
        assert answer.status_code == 200, page
        assert "secret project" not in answer.text
        assert request not in answer.text
    assert tile(member.get("/dashboard/").text, "Requests") == "1"
    for page in (
        "accounts", "accounts/1", "audit", "providers", f"keys/{theirs}", f"keys/{theirs}/revoke",
        f"requests/{request}", "keys/999999999999999999999",
    ):  # fmt: skip
        assert member.get(f"/dashboard/{page}").status_code == 404, page
    for page in ("keys/new", f"keys/{own}/edit"):
        assert member.get(f"/dashboard/{page}").status_code == 403, page
    for path in ("requests", "requests.csv"):
        assert request not in member.get(f"/dashboard/{path}?key={theirs}").text
        assert request not in member.get(f"/dashboard/{path}").text
        assert seen in member.get(f"/dashboard/{path}").text
    on = "/dashboard/me"
    for form in (f"keys/{theirs}/rotate", f"keys/{theirs}/revoke", "accounts", "accounts/1"):
        assert member.post(f"/dashboard/{form}", on=on).status_code == 404, form
    for form in ("keys/new", f"keys/{own}/edit"):
        assert member.post(f"/dashboard/{form}", on=on, name="x").status_code == 403, form
    assert member.post(f"/dashboard/playground/{theirs}", on=on).status_code == 404
    assert member.get(f"/dashboard/playground/{theirs}/bars").text.strip() == (
        '<span class="quiet">No limits</span>'
    )
    assert "Rotate" in member.get(f"/dashboard/keys/{own}").text


def test_the_playground_offers_the_routes_that_a_key_may_use(
    admin: Visitor, member: Visitor
) -> None:
    admin.create_key("narrow", owner="mia", **{"limits.models": "other"})
    key = max(admin.ids_of_keys())
    page = member.get("/dashboard/playground").text
    [routes] = re.findall(r'<optgroup label="Routes">(.*?)</optgroup>', page)
    assert re.findall(r'<option( selected)? value="(\w+)"', routes) == [
        (" selected", "default"),
        ("", "other"),
        ("", "broken"),
    ]
    assert "Other…" not in page, "clients can name nothing but routes"
    bars = member.get(f"/dashboard/playground/{key}/bars").text
    [refused] = re.findall(r'data-refused="([^"]*)"', bars)
    assert json.loads(html.unescape(refused)) == ["default", "broken"]


def used(weir: Weir, key_id: int, model: str, tokens: int, cached: int, *, days_ago: int) -> None:
    """Write what calls of a key to a model used, on a UTC day."""
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    counters = {"calls": 1, "input_tokens": tokens, "cached_input_tokens": cached}
    others = ("failed", "estimated", "unpriced", "cache_write_tokens", "output_tokens", "cost_nano")
    row = {"key_id": key_id, **counters, **dict.fromkeys(others, 0)}
    names, values = ", ".join(row), ", ".join(map(str, row.values()))
    texts = f"'{day}', 'other', '{model}', '/chat'"
    Books(weir).write(
        f"INSERT INTO usage (day, provider, model, endpoint, {names}) VALUES ({texts}, {values})"
    )


def cached(page: str) -> list[list[str]]:
    return table(page, "Provider prompt caches")


def test_prompt_caches_show_what_they_knew_and_saved(
    weir: Weir, admin: Visitor, member: Visitor
) -> None:
    admin.create_key("agents", owner="mia")
    key_id = max(admin.ids_of_keys())
    assert "Provider prompt caches" not in admin.get(f"/dashboard/keys/{key_id}").text
    used(weir, key_id, "cached", 4_000_000, 3_000_000, days_ago=0)
    used(weir, key_id, "cached", 1_000_000, 0, days_ago=3)
    used(weir, key_id, "unpriced", 3_000_000, 3_000_000, days_ago=3)
    # 3 million tokens for 0.50 instead of 2 USD a million.
    today = ["other/cached", "4,000,000", "3,000,000", "75.0 %", "$4.50"]
    of_month = [
        ["other/cached", "5,000,000", "3,000,000", "60.0 %", "$4.50"],
        ["other/unpriced", "3,000,000", "3,000,000", "100.0 %", "Unpriced"],
        ["All", "8,000,000", "6,000,000", "75.0 %", "$4.50"],
    ]
    assert cached(admin.get(f"/dashboard/keys/{key_id}").text) == of_month
    # Others of this member's keys may have used little.
    assert cached(member.get("/dashboard/?range=24h").text)[0] == today
    for span in ("7d", "30d"):
        assert cached(member.get(f"/dashboard/?range={span}").text)[:2] == of_month[:2]
    used(weir, 999, "hidden", 9, 9, days_ago=0)
    assert "other/hidden" not in member.get("/dashboard/").text
    assert "other/hidden" in admin.get("/dashboard/").text


@pytest.mark.parametrize("weir", ["postgresql"], indirect=True)
def test_without_a_database_pages_say_so(weir: Weir, admin: Visitor, postgres: Postgres) -> None:
    postgres.stop()
    page = admin.get("/dashboard/")
    assert page.status_code == 503
    assert "Database unavailable" in page.text
    postgres.start()
    wait_until(lambda: admin.get("/dashboard/").status_code == 200, 20)


def test_the_audit_log_is_filtered_and_names_keys_and_accounts(weir: Weir, admin: Visitor) -> None:
    admin.create_key("audited")
    key = max(admin.ids_of_keys())
    Administrator(weir).patch(f"/admin/keys/{key}", {"tier": "free"})

    def events(query: str) -> list[str]:
        page = admin.get(f"/dashboard/audit?{query}").text
        return re.findall(r'<td data-label="Action">([\w.]+)</td>', page)

    assert events("target=audited") == events(f"target=key-{key}") == ["key.change", "key.create"]
    assert events("target=audited&action=key.create") == ["key.create"]
    assert events("target=audited&actor=admin") == ["key.change", "key.create"]
    assert events("target=audited&actor=cli") == []
    assert events("target=audited&range=1h") == ["key.change", "key.create"]
    assert events("target=audited&since=2999-01-01T00:00") == []
    assert events("target=audited&until=2000-01-01T00:00") == []
    shown = admin.get("/dashboard/audit?target=audited").text
    assert f'key <a href="/dashboard/keys/{key}">audited</a>' in shown
    assert f"(key-{key})" in shown
    assert re.search(r'"Actor"><a href="/dashboard/accounts/\d+">admin</a>', shown)
    assert "No matching events" in admin.get("/dashboard/audit?actor=nobody").text
    older = f"/dashboard/audit?target=audited&actor=admin&before={id_of_newest(weir, key)}"
    assert "key.create" in admin.get(older).text
    assert "key.change</td>" not in admin.get(older).text
    assert 'href="/dashboard/audit?actor=admin&amp;target=audited"' in admin.get(older).text


def id_of_newest(weir: Weir, key: int) -> int:
    return int(Administrator(weir).get(f"/admin/audit?target=key-{key}").json()["events"][0]["id"])


def test_accounts_show_their_last_sign_in_their_keys_and_what_these_cost(
    weir: Weir, admin: Visitor
) -> None:
    account = {"username": "opal", "password": "opal's password"}
    page = admin.post("/dashboard/accounts", role="member", tier="premium", **account)
    assert "Account saved." in page.text

    def row() -> str:
        found = admin.get("/dashboard/accounts?q=OPA").text
        assert found.count("<tr>") == 2
        return text_of(found.split("<tbody>")[1])

    assert re.search(r"opal member premium Enabled Never 0 \$0\.00", row())
    secret = admin.create_key("opal's key", owner="opal")
    token = weir.post("/token", json=account).json()["access_token"]
    wait_until(lambda: "opal member premium Enabled just now 1" in row())
    ask(weir, secret, "opal asks")
    headers = {"Authorization": f"Bearer {token}"}
    weir.post("/chat", headers=headers, json={"message": "opal's token asks"})
    wait_until(lambda: "$0.00 20" not in row())
    usage = Administrator(weir).get("/admin/usage?by=key").json()["rows"]
    cost = sum(one["cost_usd"] for one in usage if one["key"] in {"opal's key", "opal"})
    shown = admin.get("/dashboard/accounts?q=opal").text
    exact = re.search(r'data-label="Cost \(30 days\)" class="n"><span title="\$([\d.]+)"', shown)
    assert exact
    assert float(exact[1]) == pytest.approx(cost)
    assert "No matching accounts" in admin.get("/dashboard/accounts?q=%25").text


def test_what_is_wrong_with_an_account_is_said_at_its_field(admin: Visitor) -> None:
    taken = {"username": "admin", "password": "long enough", "role": "member", "tier": "free"}
    for field, change, status in (
        ("username", {}, 409),
        ("username", {"username": "  "}, 422),
        ("username", {"username": "two words"}, 422),
        ("password", {"username": "new", "password": "short"}, 422),
        ("tier", {"username": "new", "tier": "none"}, 422),
    ):
        refused = admin.post("/dashboard/accounts", **taken | change)
        assert refused.status_code == status
        assert re.findall(r'id="error-(\w+)"', refused.text) == [field], change
