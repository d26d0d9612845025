"""What the pages show and do: figures, keys, requests, providers, audit; and to whom."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until
from tests.support.visitor import Visitor, text_of

MIA = {"username": "mia", "password": "mia's password"}


@pytest.fixture(params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest, start_weir: MakeWeir, fresh_database: str, provider: Provider
) -> Weir:
    settings: dict[str, object] = {
        **SETTINGS,
        "PROVIDER_OTHER_TYPE": "openai",
        "PROVIDER_OTHER_BASE_URL": provider.base_url,
        "OPENAI_BASE_URL": provider.base_url,
        "MODEL_PRICES": PRICES,
        "MODEL_ROUTES": "default=openai/first>openai/second;other=other/unpriced",
        "LLM_MAX_RETRIES": "0",
        "TIERS": "free=5/minute;premium=1000/minute;enterprise=100000/minute",
    }
    if request.param == "postgresql":
        settings["DATABASE_URL"] = fresh_database
    return start_weir(**settings)


@pytest.fixture
def admin(weir: Weir) -> Visitor:
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
    found = re.search(rf"<dt>{title}</dt><dd>([^<]*)</dd>", page)
    assert found, text_of(page)
    return found.group(1)


def test_from_the_first_visit_to_the_first_request(weir: Weir, admin: Visitor) -> None:
    empty = admin.get("/dashboard/").text
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


def test_figures_equal_those_of_the_api_in_every_range(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("shop")
    for number in range(6):
        ask(weir, secret, f"message {number % 4}")
    provider.fault(status=500)
    ask(weir, secret, "fails")
    stats = weir.get("/stats", key=secret).json()
    usage = Administrator(weir).get("/admin/usage").json()["total"]
    for span in ("1h", "24h", "7d", "30d"):
        page = admin.get(f"/dashboard/?range={span}").text
        assert tile(page, "Requests") == str(stats["total_requests"]) == "7"
        looked_up = stats["cache_hits"] + stats["cache_misses"]
        assert tile(page, "Cache hit rate") == f"{stats['cache_hits'] / looked_up * 100:.1f} %"
        assert float(tile(page, "Cost").strip("$")) == pytest.approx(stats["cost_usd"], rel=0.05)
        assert stats["cost_usd"] == usage["cost_usd"]
        assert float(tile(page, "Cache savings").strip("$")) == pytest.approx(
            stats["saved_usd"], rel=0.05
        )
        tokens = usage["input_tokens"] + usage["output_tokens"]
        assert tile(page, "Billed tokens") == str(stats["tokens"]) == str(tokens)
        assert tile(page, "Error rate") == f"{100 / 7:.1f} %"
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
    audit = text_of(admin.get("/dashboard/audit").text)
    for action in ("key.create", "key.change", "key.rotate", "key.revoke"):
        assert action in audit
    assert first not in audit
    assert second not in audit


def test_bars_move_with_traffic(weir: Weir, admin: Visitor) -> None:
    secret = admin.create_key("shop", "free", **{"limits.usd_per_day": "0.01"})
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    assert "0 of 5" in text_of(admin.get(key).text)
    for number in range(5):
        ask(weir, secret, f"message {number}", max_tokens=10)
    wait_until(lambda: "5 of 5" in text_of(admin.get(key).text))
    page = admin.get(key).text
    assert 'class="full"' in page
    assert re.search(r"USD per day \$0\.\d+ of \$0\.01", text_of(page))


def test_budgets_are_raised_for_a_while(weir: Weir, admin: Visitor) -> None:
    admin.create_key("shop", **{"limits.usd_per_day": "0.01"})
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
    admin.create_key("shop")
    key = f"/dashboard/keys/{max(admin.ids_of_keys())}"
    edit = f"{key}/edit"
    engine = Books(weir).engine
    with engine.begin() as connection:
        past = text("UPDATE api_keys SET expires_at = '2020-01-01 00:00:00' WHERE name = 'shop'")
        connection.execute(past)
    engine.dispose()
    fields = {"name": "shop", "tier": "free", "expires_at": "2020-01-01T00:00"}
    page = admin.post(edit, **fields)
    assert (page.status_code, page.url.endswith(key)) == (200, True)
    assert "Tier free" in text_of(page.text)
    wrong = admin.post(edit, **fields | {"expires_at": "2021-01-01T00:00"})
    assert (wrong.status_code, "Must be in the future" in wrong.text) == (422, True)
    assert "Active" in text_of(admin.post(edit, **fields | {"expires_at": ""}).text)


def test_a_provider_that_hangs_holds_no_page_up(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url)
    admin = Visitor(weir)
    admin.sign_in()
    provider.fault(hang=True)
    admin.get("/dashboard/")
    assert provider.calls("/v1/models") == []


def test_requests_are_found_by_what_became_of_them(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret, other = admin.create_key("shop"), admin.create_key("store")
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
    assert found("outcome=failed") == {bad, failed}
    assert found("outcome=ok") == {good, hit, theirs}
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
    assert found("status=abc&before=-1&key=x&since=never") == everything
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


def test_prompts_are_kept_only_where_the_operator_says_so(
    start_weir: MakeWeir, provider: Provider
) -> None:
    prompt = "tell <b>nobody</b>"
    for kept in (False, True):
        weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, LOG_PROMPTS=kept)
        admin = Visitor(weir)
        admin.sign_in()
        plain = ask(weir, "prod_key_456", prompt)
        events = weir.stream("/v1/chat/completions", {
            "model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True,
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
    secret = admin.create_key("shop")
    ids = [ask(weir, secret, "the same") for _ in range(60)]
    first = admin.get("/dashboard/requests").text
    [older] = re.findall(r'href="(\?before=\d+)"', first)
    second = admin.get(f"/dashboard/requests{older}").text
    pages = [re.findall(r'href="/dashboard/requests/([\w-]+)"', page) for page in (first, second)]
    assert pages[0] + pages[1] == ids[::-1]


def test_providers_show_breakers_and_models_without_a_price(
    weir: Weir, admin: Visitor, provider: Provider
) -> None:
    secret = admin.create_key("shop")
    ask(weir, secret, "good")
    ask(weir, secret, "unpriced", model="other")
    provider.fault(status=500, model="first")
    for number in range(5):
        ask(weir, secret, f"fails {number}")
    page = text_of(admin.get("/dashboard/providers").text)
    assert "default : openai/first closed, open for 1 key → openai/second" in page
    ask(weir, admin.create_key("another shop"), "fails for two")
    page = text_of(admin.get("/dashboard/providers").text)
    assert "openai openai" in page
    assert "open" in page
    assert "other unpriced Unpriced 1" in page
    assert "openai second Priced" in page
    assert "default : openai/first open → openai/second" in page


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


def test_without_a_database_pages_say_so(
    start_weir: MakeWeir, fresh_database: str, postgres: object
) -> None:
    weir = start_weir(**SETTINGS, DATABASE_URL=fresh_database)
    admin = Visitor(weir)
    admin.sign_in()
    postgres.stop()  # type: ignore[attr-defined]
    page = admin.get("/dashboard/")
    assert page.status_code == 503
    assert "Database unavailable" in page.text
