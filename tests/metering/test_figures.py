"""The figures of the dashboard agree with the reports and with what was sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until
from tests.support.visitor import Visitor
from webapp.metering.overview import Figures, Overview
from webapp.metering.ranges import RANGES
from webapp.metering.selected import Selected
from webapp.storage.database import Database

KEY, SLOW, POOR = "first_key_0123456789", "slow_key_01234567890", "poor_key_01234567890"
OPENAI = "/v1/chat/completions"
ROUTES = "alpha=openai/alpha;either=openai/broken>openai/spare;"
ALL_KEYS = (
    "SELECT id, CASE WHEN origin = 'account' THEN 'account' ELSE name END AS name FROM api_keys"
)
LOGGED = "SELECT 1 FROM (SELECT count(*) AS logged FROM requests) AS counted WHERE logged >= 13"
# In minutes, half hours and days.
RUNNING = [RANGES["1h"], RANGES["24h"], RANGES["7d"]]


def body(said: str, model: str = "alpha", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": said}], **fields}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
) -> Weir:
    """A miss, a hit, one that failed over, a stream, a failure, two refusals, one of no target, a
    job, and one of an account: of four keys, at two endpoints. A key is named like the account."""
    database = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    weir = start_shared_weir(
        **SETTINGS, **database,
        API_KEYS=f"admin:enterprise:{KEY},slow:slow:{SLOW},poor:poor:{POOR}",
        TIERS="enterprise=9999/minute;slow=1/minute;poor=9/minute",
        TIER_POOR="usd_per_day=0.000000001", MODEL_ROUTES=ROUTES + "default=openai/alpha",
        MODEL_PRICES=PRICES, OPENAI_BASE_URL=provider.base_url, LLM_MAX_RETRIES=0,
    )  # fmt: skip
    sent = [
        (KEY, OPENAI, body("one"), 200),
        (KEY, OPENAI, body("one"), 200),
        (KEY, OPENAI, body("[[fault:status=500,model=broken]] two", "either"), 200),
        (KEY, OPENAI, body("[[fault:status=500]] three"), 502),
        (KEY, OPENAI, body("four", "unknown"), 404),
        (KEY, "/v1/chat", {"message": "five"}, 200),
        (SLOW, "/chat", {"message": "six"}, 200),
        (SLOW, "/chat", {"message": "seven"}, 429),
        (POOR, OPENAI, body("eight"), 429),
    ]  # fmt: skip
    for key, path, sending, status in sent:
        answer = weir.post(path, key=key, json=sending)
        assert answer.status_code == status, answer.text
    with weir.stream(OPENAI, body("nine", stream=True), KEY) as stream:
        list(stream)
    later = weir.post(
        "/chat", key=KEY, json={"message": "ten"}, headers={"Prefer": "respond-async"}
    )
    job = later.headers["Location"]
    wait_until(lambda: weir.get(job, key=KEY).json()["status"] == "completed", 10)
    assert Administrator(weir).post("/chat", {"message": "six"}).json()["cached"]
    Books(weir).settled(8)
    # With the job's own, which is no request that a client sent.
    Books(weir).wait_for(LOGGED, 5, "13 logged requests")
    wait_until(lambda: weir.get("/stats", key=KEY).json()["total_requests"] >= 10, 5)
    return weir


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Administrator:
    return Administrator(weir)


@pytest.fixture(scope="module")
def overview(weir: Weir) -> Iterator[Overview]:
    database = Database(Books(weir).engine.url.render_as_string(hide_password=False))
    yield Overview(database)
    database.engine.dispose()


@pytest.fixture(scope="module")
def ids(weir: Weir) -> dict[str, int]:
    return {row["name"]: row["id"] for row in Books(weir).rows(ALL_KEYS)}


def reported(admin: Administrator, query: str = "") -> dict[tuple[str, str], dict[str, Any]]:
    rows = admin.get(f"/admin/usage?by=model{query}").json()["rows"]
    return {(row["provider"], row["model"]): row for row in rows}


def assert_equal(figures: Figures, report: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The figures of each target are those of the report, to the nano-USD, and so are the sums."""
    called = {(one.provider, one.model): one.total for one in figures.targets if one.total.calls}
    assert called.keys() == report.keys()
    for target, row in report.items():
        totals = called[target]
        assert totals.cost_nano == round(row["cost_usd"] * 1e9) > -1
        assert totals.tokens == row["input_tokens"] + row["output_tokens"]
        assert (totals.calls, totals.failed_calls) == (row["calls"], row["failed"])
        assert (totals.input_tokens, totals.cached_input_tokens, totals.output_tokens) == (
            row["input_tokens"], row["cached_input_tokens"], row["output_tokens"],
        )  # fmt: skip
    for name in ("cost_nano", "tokens", "calls", "requests", "errors", "refused", "hits"):
        total = getattr(figures.now, name)
        assert sum(getattr(one.total, name) for one in figures.targets) == total, name
        assert sum(getattr(totals, name) for _, totals in figures.steps) == total, name
        for one in figures.targets:
            assert sum(getattr(step, name) for step in one.steps) == getattr(one.total, name)


@pytest.mark.parametrize("range_", RUNNING, ids=lambda range_: range_.name)
def test_figures_by_model_are_those_of_the_usage_report(
    overview: Overview, admin: Administrator, ids: dict[str, int], range_: Any
) -> None:
    first = ids["admin"]
    for selected, query in (
        (Selected(), ""),
        (Selected({first}), f"&key={first}"),
        (Selected(endpoint="/chat"), "&endpoint=/chat"),
        (Selected(provider="openai", model="spare"), "&provider=openai&model=spare"),
        (Selected({first}, "/chat", "openai", "alpha"), f"&key={first}&endpoint=/chat&model=alpha"),
        (Selected(set()), "&key=999"),
    ):
        assert_equal(overview.figures(range_, selected), reported(admin, query))


@pytest.mark.parametrize("range_", RUNNING, ids=lambda range_: range_.name)
def test_requests_are_counted_by_target_and_refused_ones_too(
    overview: Overview, admin: Administrator, ids: dict[str, int], range_: Any
) -> None:
    figures = overview.figures(range_)
    stats = admin.get("/stats").json()
    assert figures.now.requests == stats["total_requests"] == 10
    assert (figures.now.errors, figures.now.hits) == (stats["errors"], stats["cache_hits"])
    by_target = {(one.provider, one.model): one.total for one in figures.targets}
    counted = {target: (t.requests, t.errors, t.refused) for target, t in by_target.items()}
    assert counted == {
        # The request that failed over belongs to the target that answered it.
        ("openai", "alpha"): (7, 1, 1), ("openai", "spare"): (1, 0, 0),
        ("openai", "broken"): (0, 0, 0),
        # A job when it is created, a model that does not exist, a refusal by the rate.
        ("", ""): (2, 0, 1),
    }  # fmt: skip
    assert by_target["openai", "broken"].failed_calls == 1
    assert by_target["openai", "alpha"].hits == 2
    [(_, _, slow)] = [top[1:] for top in figures.top_keys if top[0] == ids["slow"]]
    assert (slow.requests, slow.refused_rate) == (1, 1)
    poor = overview.figures(range_, Selected({ids["poor"]}, model="alpha")).now
    assert (poor.requests, poor.refused_budget) == (0, 1)


def test_a_key_that_is_named_like_an_account_is_a_link_and_the_account_s_own_is_none(
    weir: Weir, overview: Overview, ids: dict[str, int]
) -> None:
    top_keys = overview.figures(RANGES["24h"]).top_keys
    named = {key_id: (name, is_account) for key_id, name, is_account, _ in top_keys}
    assert named[ids["admin"]] == ("admin", False)
    assert named[ids["account"]] == ("admin", True)
    visitor = Visitor(weir)
    visitor.sign_in()
    [top] = re.findall(r'id="top".*?</section>', visitor.get("/dashboard/").text, re.DOTALL)
    assert f'/dashboard/keys/{ids["admin"]}"' in top
    assert f'/dashboard/keys/{ids["account"]}"' not in top


def test_latencies_and_first_tokens_are_measured_by_target(
    weir: Weir, overview: Overview, ids: dict[str, int]
) -> None:
    """Those of a key or an endpoint come from the request log, all others were counted."""
    logged = Books(weir).rows("SELECT * FROM requests WHERE refused_by IS NULL")
    admitted = [row for row in logged if not row["request_id"].startswith("job_")]
    times = sorted(row["milliseconds"] for row in admitted)
    [first_token] = [found for row in logged if (found := row["first_token_milliseconds"])]
    of_key = [row for row in logged if (row["key_id"], row["model"]) == (ids["admin"], "alpha")]
    for range_ in RUNNING:
        counted = overview.latencies(range_)
        assert counted.sampled is None
        assert counted.now.p50 == pytest.approx(times[4], rel=0.025)
        assert counted.now.p99 == pytest.approx(times[-1], rel=0.025)
        assert counted.first_token.p50 == pytest.approx(first_token, rel=0.025)
        assert {target[:3] for target in counted.targets} == {
            ("openai", "alpha", 7), ("openai", "spare", 1), ("", "", 2),
        }  # fmt: skip
        of_provider = overview.latencies(range_, Selected(provider="openai"))
        assert counted.providers["openai"] == (of_provider.now, of_provider.first_token)
        assert overview.latencies(range_, Selected(model="spare")).first_token.p50 is None
        sampled = overview.latencies(range_, Selected({ids["admin"]}, model="alpha"))
        assert sampled.sampled == len(of_key) > 4
        assert sampled.now.p99 == max(row["milliseconds"] for row in of_key)
        assert sampled.first_token.p95 == first_token
        assert sampled.providers == {"openai": (sampled.now, sampled.first_token)}
        assert [one for one in sampled.steps if one[1].p50 is not None]
        assert overview.latencies(range_, Selected(endpoint="/chat")).sampled == 5
