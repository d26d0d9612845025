"""Names of models: 1 to 256 visible ASCII characters, wherever a name goes."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, Administrator
from tests.support.recording_provider import RecordingProvider
from tests.support.servers import Weir, wait_until
from tests.support.visitor import Visitor
from webapp import setting_parsers as parse
from webapp.allowance import parse_text
from webapp.model_names import matches, quoted

KEY = "test_key_0123456789"
LLAMA = "@cf/meta/llama-3.1-8b-instruct"
GGUF = "/models/x.gguf"
LONG = "m" * 200 + "/" + "x" * 55
EVERY = "".join(map(chr, range(0x21, 0x7F)))
ODD = "~a;b>c=d*e|f,g\"h'i<j&k%2Fl?m#n"
NAMES = (LLAMA, GGUF, LONG, EVERY, ODD, "x/", "..", "-")


@pytest.fixture(scope="module")
def server() -> Iterator[RecordingProvider]:
    with RecordingProvider(models=NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def weir(
    start_shared_weir: MakeWeir, server: RecordingProvider, fresh_shared_database: str
) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY},limited:limited:limited_0123456789",
        TIERS="enterprise=9999/minute;limited=9999/minute",
        TIER_LIMITED=f"models=gpt-4o-mini*|@cf/*|{quoted(ODD)}",
        ADMIN_PASSWORD=PASSWORD,
        DATABASE_URL=fresh_shared_database,
        OPENAI_BASE_URL=f"http://127.0.0.1:{server.port}/v1",
        MODEL_PRICES=f"openai/@cf/*: input=100, output=100; {quoted('openai/' + ODD)}: input=200",
    )


def complete(weir: Weir, model: str, said: str = "hello", key: str = KEY) -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": said}]}
    return weir.post("/v1/chat/completions", key=key, json=body)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_may_have_any_name_of_visible_characters(
    weir: Weir, server: RecordingProvider, name: str
) -> None:  # c31
    answers = [
        complete(weir, name),
        weir.post("/chat", key=KEY, json={"message": "hello", "model": name}),
        weir.post("/v1/embeddings", key=KEY, json={"input": "hello", "model": name}),
    ]
    if len(name) <= 256 - len("openai/"):
        answers.append(complete(weir, f"openai/{name}", "prefixed"))
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert {call.model for call in server.calls[-len(answers) :]} == {name}
    assert {answer.headers["X-Weir-Route"] for answer in answers} == {f"openai/{name}"}
    # The path as clients write it, and encoded as a whole.
    for path in (quote(name, safe="/@"), quote(name, safe="")):
        if name == "..":
            continue  # requests takes it for the folder above
        found = weir.get(f"/v1/models/{path}", key=KEY)
        assert (found.status_code, found.json().get("id")) == (200, name)


@pytest.mark.parametrize("name", ["", "m" * 257, "a b", "é", "a\n", "\u007f"])
def test_what_is_no_name_is_refused(weir: Weir, name: str) -> None:
    refused = complete(weir, name)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    refused = weir.post("/chat", key=KEY, json={"message": "hello", "model": name})
    assert (refused.status_code, list(refused.json()["details"])) == (422, ["model"])


@pytest.mark.parametrize("name", [LONG, EVERY, LLAMA])
def test_the_figures_and_the_pages_hold_a_name_whole(weir: Weir, name: str) -> None:
    answer = complete(weir, name, "to be counted")
    request_id = answer.headers["X-Request-ID"]
    assert weir.log_of(answer)["model"] == name
    admin = Administrator(weir)
    query = f"by=model,endpoint&model={quote(name, safe='')}"

    def counted() -> list[tuple[str, str]]:
        rows = admin.get(f"/admin/usage?{query}").json()["rows"]
        return [(row["model"], row["endpoint"]) for row in rows]

    wait_until(lambda: (name, "/v1/chat/completions") in counted(), what="The usage")
    [call] = admin.get(f"/admin/ledger?request_id={request_id}").json()["calls"]
    assert (call["model"], call["route"]) == (name, f"openai/{name}")
    assert "ledger" in admin.get("/admin/ledger?format=csv").headers["Content-Disposition"]
    visitor = Visitor(weir)
    visitor.sign_in()
    wait_until(lambda: visitor.get(f"/dashboard/requests/{request_id}").status_code == 200)
    for path in (f"/dashboard/requests/{request_id}", "/dashboard/", "/dashboard/providers"):
        assert visitor.get(path).status_code == 200
    found = visitor.get("/dashboard/requests", params={"model": name})
    assert request_id in found.text
    none = visitor.get("/dashboard/requests", params={"model": f"{name}-other"})
    assert request_id not in none.text


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("gpt-4o-mini", 200),
        ("gpt-4o-mini-2024", 200),
        (LLAMA, 200),
        (ODD, 200),
        ("gpt-4", 403),
        ("gpt-4o-mini/../gpt-4", 403),
        ("gpt-4o-mini/%2e%2e/gpt-4", 403),
        ("gpt-4o-mini\\..\\gpt-4", 403),
        ("openai/gpt-4o-mini/../gpt-4", 403),
        (GGUF, 403),
    ],
)
def test_an_allow_list_passes_no_other_model(weir: Weir, name: str, status: int) -> None:
    answer = complete(weir, name, key="limited_0123456789")
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["error"]["code"] == "model_not_allowed"


def test_a_name_that_only_a_client_has_sent_is_shown_to_nobody_else(
    weir: Weir, server: RecordingProvider
) -> None:
    secret = "sk-live-sent-as-a-model-by-mistake"
    assert complete(weir, secret).status_code == 200
    assert weir.post("/v1/embeddings", key=KEY, json={"input": "x", "model": secret}).ok
    assert complete(weir, LLAMA, "listed").status_code == 200
    detailed = weir.get("/health/detailed", key="limited_0123456789")
    for answer in (detailed, weir.get("/health/detailed")):
        assert secret not in answer.text
        breakers = answer.json()["breakers"]
        assert {f"openai/{LLAMA}", "openai/other", "openai/other embeddings"} <= breakers.keys()
        assert breakers["openai/other"] == {"state": "closed"}
    for path in ("/health", "/stats", "/v1/models", "/v1/key"):
        assert secret not in weir.get(path, key="limited_0123456789").text, path
    admin = Administrator(weir)
    assert secret in admin.get("/health/detailed").text
    account = {"username": "reader", "password": PASSWORD, "tier": "enterprise", "role": "member"}
    assert admin.post("/admin/accounts", account).status_code == 201
    reader = Visitor(weir)
    reader.sign_in("reader", PASSWORD)
    for path in ("/dashboard/", "/dashboard/requests", "/dashboard/playground"):
        page = reader.get(path)
        assert page.status_code == 200, path
        assert secret not in page.text, path


def test_a_key_s_own_list_takes_any_name_and_the_form_keeps_it(weir: Weir) -> None:
    visitor = Visitor(weir)
    visitor.sign_in()
    secret = visitor.create_key("by form", "enterprise", **{"limits.models": f"{ODD}\n{GGUF}"})
    assert complete(weir, ODD, key=secret).status_code == 200
    assert complete(weir, GGUF, key=secret).status_code == 200
    assert complete(weir, LLAMA, key=secret).status_code == 403


def test_prices_hold_for_the_names_they_are_given_for(weir: Weir) -> None:
    priced = weir.post("/chat", key=KEY, json={"message": "price", "model": LLAMA})
    assert priced.json()["cost_usd"] == pytest.approx(2 * 100e-6)
    priced = weir.post("/chat", key=KEY, json={"message": "price", "model": ODD})
    assert priced.json()["cost_usd"] == pytest.approx(200e-6)
    free = weir.post("/chat", key=KEY, json={"message": "price", "model": "@cf/../gpt"})
    assert free.json()["cost_usd"] is None


@pytest.fixture
def routed(start_weir: MakeWeir, server: RecordingProvider) -> Weir:
    url = f"http://127.0.0.1:{server.port}/v1"
    longest = f"a{'b' * 31}"
    routes = [
        f"cf=openai/{LLAMA}",
        f"{quoted(ODD)}={quoted('openai/' + ODD)}*3>openai/{GGUF}",
        '"five*"="openai/five*5"',
        f"{'r' * 256}={longest}/{LONG}",
    ]
    return start_weir(**{
        "API_KEYS": f"test:enterprise:{KEY}",
        "OPENAI_BASE_URL": url,
        f"PROVIDER_{longest.upper()}_BASE_URL": url,
        "MODEL_ROUTES": ";".join(routes),
        "MODEL_PRICES": "openai/@cf/*: input=0.1, output=0.1",
    })  # fmt: skip


def test_routes_may_have_any_names_too(routed: Weir, server: RecordingProvider) -> None:
    listed = [model["id"] for model in routed.get("/v1/models", key=KEY).json()["data"]]
    assert listed == ["cf", ODD, "five*", "r" * 256]
    asked = {"cf": LLAMA, ODD: ODD, "five*": "five*5", "r" * 256: LONG}
    for route, model in asked.items():
        answer = complete(routed, route)
        assert (answer.status_code, answer.headers["X-Weir-Route"]) == (200, route)
        assert server.calls[-1].model == model
        path = f"/v1/models/{quote(route, safe='')}"
        assert routed.get(path, key=KEY).json()["id"] == route


@pytest.mark.parametrize(
    "routes", ["a=openai/x=y", 'a="openai/x', "a;b=openai/x", "a=openai/x**2", 'a"b=openai/x']
)
def test_separators_in_names_are_quoted(routes: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse.routes(routes)


def test_quotes_keep_a_name_in_one_piece() -> None:
    assert parse.routes('a="openai/x*2"*3')["a"][0][1:] == ("x*2", 3)
    assert parse.routes('"a=b"=openai/x')["a=b"][0].model == "x"
    assert parse.routes('a=openai/"say""hi"')["a"][0].model == 'say"hi'
    assert list(parse.prices('"openai/a;b": input=1')) == ["openai/a;b"]
    assert parse_text('models="a|b,c"|d,usd_per_day=1')["models"] == ["a|b,c", "d"]
    for name in NAMES:
        if "*" not in name:
            assert parse_text(f"models={quoted(name)}")["models"] == [name]


def test_a_default_model_that_is_no_name_is_refused() -> None:
    assert parse.model_name(f" {LLAMA} ") == LLAMA
    with pytest.raises(ValueError, match="visible ASCII"):
        parse.model_name("gpt 4")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "anything/at all", True),
        ("a*b", "ab", True),
        ("a*a", "a", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("*mini", "gpt-4o-mini", True),
        ("[ab]?", "a1", False),
        ("[ab]?", "[ab]?", True),
        ("a..b", "a..b", True),
        ("*", "a/..", False),
        ("a*" * 60 + "b", "a" * 250, False),
    ],
)
def test_only_a_star_has_a_meaning_in_a_pattern(pattern: str, name: str, fits: bool) -> None:
    assert matches(name, pattern) is fits
