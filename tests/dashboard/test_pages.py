"""What the pages show and do: figures, keys, requests, providers, audit; and to whom."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.servers import Postgres, Provider, Weir, wait_until
from tests.support.visitor import Visitor, text_of

MIA = {"username": "mia", "password": "mia's password"}


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
    found = re.search(rf'<dt>{title}</dt><dd>(?:<span title="([^"]+)">.*?|([^<]*))</dd>', page)
    assert found, text_of(page)
    return found.group(1) or found.group(2)


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
    provider.fault(status=500)
    ask(weir, secret, "fails")
    stats = weir.get("/stats", key=secret).json()
    usage = Administrator(weir).get("/admin/usage").json()["total"]
    for span in ("1h", "24h", "7d", "30d"):
        page = admin.get(f"/dashboard/?range={span}").text
        assert tile(page, "Requests") == str(stats["total_requests"]) == "8"
        looked_up = stats["cache_hits"] + stats["cache_misses"]
        assert tile(page, "Cache hit rate") == f"{stats['cache_hits'] / looked_up * 100:.1f} %"
        assert float(tile(page, "Cost").strip("$")) == pytest.approx(stats["cost_usd"], rel=0.05)
        assert stats["cost_usd"] == usage["cost_usd"]
        assert float(tile(page, "Cache savings").strip("$")) == pytest.approx(
            stats["saved_usd"], rel=0.05
        )
        tokens = usage["input_tokens"] + usage["output_tokens"]
        assert tile(page, "Billed tokens") == str(stats["tokens"]) == str(tokens)
        assert tile(page, "Error rate") == f"{100 / 8:.1f} %"
        values = re.findall(r'<td class="n" data-value="(\d+)">', page.split('id="hit-rate"')[0])
        hits, misses, errors = (sum(map(int, values[column::4])) for column in range(3))
        assert (hits, misses, errors) == (
            stats["cache_hits"],
            stats["cache_misses"],
            stats["errors"],
        )


def test_the_life_of_a_key(weir: Weir, admin: Visitor) -> None:
    wrong = admin.post(
        "/dashboard/keys/new", name="shop", tier="premium", **{"limits.models": "a b"}
    )
    assert wrong.status_code == 422
    assert "models" in text_of(wrong.text)
    assert 'name="name" required maxlength="100" value="shop"' in wrong.text
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
    for number in range(5):
        ask(weir, secret, f"bar {number}", max_tokens=10)
    wait_until(lambda: "5 of 5" in text_of(admin.get(key).text))
    page = admin.get(key).text
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
    assert admin.post(f"{key}/budget", on=key, usd="much", days="7").status_code == 422
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
    assert page.index("1 openai first") < page.index("2 openai second")
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

    def two_pages(query: str) -> list[str]:
        pages = [admin.get(f"/dashboard/requests{query}").text]
        [older] = map(html.unescape, re.findall(r'href="([^"]*before=\d+[^"]*)"', pages[0]))
        pages.append(admin.get(older).text)
        return re.findall(r'href="/dashboard/requests/([\w-]+)"', "".join(pages))

    # A row may still be on its way into the database.
    wait_until(lambda: set(ids) <= set(two_pages("")))
    assert two_pages("")[:60] == ids[::-1], "those of other tests come after these"
    assert two_pages(f"?key={key}") == ids[::-1]


def test_providers_show_breakers_and_models_without_a_price(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("breaks")
    ask(weir, secret, "good", model="broken")
    ask(weir, secret, "unpriced", model="other")
    provider.fault(status=500, model="broken")
    for number in range(5):
        ask(weir, secret, f"fails {number}", model="broken")
    page = text_of(admin.get("/dashboard/providers").text)
    assert "broken : openai/broken closed, open for 1 key → openai/spare" in page
    ask(weir, admin.create_key("breaks, too"), "fails for two", model="broken")
    page = text_of(admin.get("/dashboard/providers").text)
    assert "openai openai" in page
    assert "open" in page
    assert "other unpriced Unpriced 1" in page
    assert "openai spare Priced" in page
    assert "broken : openai/broken open → openai/spare" in page


def test_a_member_sees_nothing_of_others(weir: Weir, admin: Visitor, member: Visitor) -> None:
    secret = admin.create_key("secret project")
    theirs = max(admin.ids_of_keys())
    request = ask(weir, secret, "hello")
    mine = admin.create_key("mine", owner="mia")
    own = max(admin.ids_of_keys())
    seen = ask(weir, mine, "mine")
    assert member.ids_of_keys() == {own}
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
    assert request not in member.get(f"/dashboard/requests?key={theirs}").text
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
    """The rows of the table of prompt caches."""
    table = page.split('aria-label="Provider prompt caches"')[1].split("</table>")[0]
    rows = re.findall(r"<tr>(<td.*?)</tr>", table, re.DOTALL)
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]


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
    account = {"username": "olga", "password": "olga's password"}
    page = admin.post("/dashboard/accounts", role="member", tier="premium", **account)
    assert "Account saved." in page.text

    def row() -> str:
        found = admin.get("/dashboard/accounts?q=OLG").text
        assert found.count("<tr>") == 2
        return text_of(found.split("<tbody>")[1])

    assert re.search(r"olga member premium Enabled Never 0 \$0\.00", row())
    secret = admin.create_key("olga's key", owner="olga")
    token = weir.post("/token", json=account).json()["access_token"]
    wait_until(lambda: "olga member premium Enabled just now 1" in row())
    ask(weir, secret, "olga asks")
    headers = {"Authorization": f"Bearer {token}"}
    weir.post("/chat", headers=headers, json={"message": "olga's token asks"})
    wait_until(lambda: "$0.00 20" not in row())
    usage = Administrator(weir).get("/admin/usage?by=key").json()["rows"]
    cost = sum(one["cost_usd"] for one in usage if one["key"] in {"olga's key", "olga"})
    shown = admin.get("/dashboard/accounts?q=olga").text
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
