"""What an operator sees of each request: its target, its models, the provider's words, refusals."""

from __future__ import annotations

import csv
import io
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.raw_provider import RawProvider, Reply
from tests.support.servers import Valkey, Weir, wait_until
from tests.support.visitor import Visitor, text_of

KEY, LIMITED = "weir_key_0123456789", "chat_only_0123456789"
SECRET = "private-provider-key-0123456789"
DATED = "m1-2026-01-01"
MESSAGE = {"role": "assistant", "content": "Hello there."}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = {
    "id": "a", "object": "chat.completion", "created": 1, "model": DATED, "usage": USAGE,
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
}  # fmt: skip
CHUNK = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": DATED}
WORDS = "image input is not supported <b>here</b>"
OPENAI = "/v1/chat/completions"
ROUTES = (
    "default=openai/m1;alias=openai/m1;two=openai/first>openai/second;gone=other/gone>openai/m1"
)


@pytest.fixture(scope="module")
def raw() -> Iterator[RawProvider]:
    with RawProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def weir(
    start_shared_weir: MakeWeir,
    raw: RawProvider,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> Weir:
    return start_shared_weir(
        **SETTINGS, DATABASE_URL=fresh_shared_database, REDIS_URL=fresh_shared_valkey.url,
        API_KEYS=f"shop:enterprise:{KEY},chat:chat:{LIMITED}", TIER_CHAT="models=alias",
        TIERS="free=5/minute;premium=1000/minute;enterprise=100000/minute;chat=1000/minute",
        OPENAI_BASE_URL=f"{raw.url}/v1", OPENAI_API_KEY=SECRET, PROVIDER_OTHER_TYPE="openai",
        PROVIDER_OTHER_BASE_URL=f"{raw.url}/other/v1", MODEL_ROUTES=ROUTES,
        MODEL_PRICES=PRICES, WEB_CONCURRENCY=1, LLM_MAX_RETRIES=0, BREAKER_FAILURES=1000,
        LOG_REDACT=r"\b\d{3}-\d{2}-\d{4}\b",
    )  # fmt: skip


@pytest.fixture(scope="module")
def admin(weir: Weir) -> Visitor:
    visitor = Visitor(weir)
    visitor.sign_in()
    return visitor


def body(marker: str, model: str | None = "alias", **more: object) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return named | {"messages": [{"role": "user", "content": marker}], **more}


def logged(weir: Weir, answer: requests.Response) -> dict[str, Any]:
    """The log line of a request, after its row has been written."""
    line = weir.log_of(answer)
    wait_until(lambda: row_of(weir, answer))
    return line


def row_of(weir: Weir, answer: requests.Response) -> dict[str, Any] | None:
    request_id = answer.headers["X-Request-ID"]
    rows = Books(weir).rows(f"SELECT * FROM requests WHERE request_id = '{request_id}'")
    return rows[0] if rows else None


def seen(weir: Weir, answer: requests.Response) -> tuple[Any, Any, Any, Any]:
    """Provider and model of a request in the log; and both in the request log."""
    line = logged(weir, answer)
    row = row_of(weir, answer)
    assert row
    return line["provider"], line["model"], row["provider"], row["model"]


def listed(admin: Visitor, query: str) -> set[str]:
    page = admin.get(f"/dashboard/requests?{query}").text
    return set(re.findall(r'href="/dashboard/requests/([\w.-]+)"', page))


def test_ledger_usage_list_log_and_provider_name_the_same_model(
    weir: Weir, raw: RawProvider, admin: Visitor
) -> None:
    marker = raw.register(Reply.json(ANSWER))
    answer = weir.post(OPENAI, key=KEY, json=body(marker))
    again = weir.post(OPENAI, key=KEY, json=body(marker))
    assert (answer.headers["X-Cache"], again.headers["X-Cache"]) == ("MISS", "HIT")
    assert answer.json()["model"] == again.json()["model"] == DATED
    [call] = raw.calls(marker)
    [row] = Books(weir).settled_of(answer.headers["X-Request-ID"])
    assert (row["route"], row["model"], row["answered_model"]) == ("alias", "m1", DATED)
    assert call["model"] == row["model"]
    for one in (answer, again):
        line, kept = logged(weir, one), row_of(weir, one)
        assert kept
        assert (line["provider"], line["model"]) == ("openai", "m1")
        assert (line["asked_model"], line["answered_model"]) == ("alias", DATED)
        assert (kept["provider"], kept["model"]) == ("openai", "m1")
        assert (kept["asked_model"], kept["answered_model"]) == ("alias", DATED)
        for name in ("alias", "m1", DATED):
            assert one.headers["X-Request-ID"] in listed(admin, f"model={name}"), name
        page = text_of(admin.get(f"/dashboard/requests/{one.headers['X-Request-ID']}").text)
        assert f"Model alias → m1 → {DATED}" in page
    api = Administrator(weir)
    request_id = answer.headers["X-Request-ID"]
    [shown] = api.get(f"/admin/ledger?request_id={request_id}").json()["calls"]
    assert (shown["model"], shown["answered_model"]) == ("m1", DATED)
    text = api.get(f"/admin/ledger?request_id={request_id}&format=csv").text
    [exported] = csv.DictReader(io.StringIO(text))
    assert (exported["model"], exported["answered_model"]) == ("m1", DATED)
    used = api.get("/admin/usage?by=provider,model&model=m1").json()["rows"]
    assert [(one["provider"], one["model"]) for one in used] == [("openai", "m1")]


def test_a_request_without_a_model_has_the_one_it_was_routed_to(
    weir: Weir, raw: RawProvider
) -> None:
    marker = raw.register(Reply.json(ANSWER))
    answer = weir.post(OPENAI, key=KEY, json=body(marker, None))
    assert seen(weir, answer) == ("openai", "m1", "openai", "m1")
    row = row_of(weir, answer)
    assert row
    assert (row["asked_model"], row["answered_model"]) == (None, DATED)
    assert "asked_model" not in weir.log_of(answer)


def test_a_failed_request_has_the_last_target_and_all_the_words(
    weir: Weir, raw: RawProvider, admin: Visitor
) -> None:
    marker = raw.register(Reply.json({"detail": WORDS}, 500))
    for stream in (False, True):
        answer = weir.post(OPENAI, key=KEY, json=body(marker, "two", stream=stream))
        assert answer.status_code == 502
        assert seen(weir, answer) == ("openai", "second", "openai", "second")
        request_id = answer.headers["X-Request-ID"]
        assert request_id in listed(admin, "outcome=failed&provider=openai&model=second")
        assert request_id in listed(admin, "model=two")
        assert request_id not in listed(admin, "model=m1")
        failed = [
            {
                "target": f"openai/{name}", "state": "failed", "error": "ProviderFailed",
                "status": 500, "message": WORDS,
            }
            for name in ("first", "second")
        ]  # fmt: skip
        assert weir.log_of(answer)["attempts"] == failed
        Books(weir).settled_of(request_id)
        page = admin.get(f"/dashboard/requests/{request_id}").text
        assert text_of(page).count(f"The provider answered 500: {WORDS}") == 2
        assert "<b>here" not in page


def test_words_of_a_try_that_another_target_made_good_are_kept(
    weir: Weir, raw: RawProvider, admin: Visitor
) -> None:
    missing = Reply.json({"error": {"message": "model 'gone' not found", "code": None}}, 404)
    marker = raw.register({"/other/v1/chat/completions": missing, "": Reply.json(ANSWER)})
    answer = weir.post(OPENAI, key=KEY, json=body(marker, "gone"))
    assert answer.status_code == 200, answer.text
    assert seen(weir, answer) == ("openai", "m1", "openai", "m1")
    [attempt] = weir.log_of(answer)["attempts"]
    assert (attempt["target"], attempt["status"]) == ("other/gone", 404)
    assert attempt["message"] == "model 'gone' not found"
    Books(weir).settled_of(answer.headers["X-Request-ID"])
    page = text_of(admin.get(f"/dashboard/requests/{answer.headers['X-Request-ID']}").text)
    assert "The provider answered 404: model 'gone' not found" in page


def test_no_credential_and_nothing_that_is_redacted_is_in_the_words(
    weir: Weir, raw: RawProvider, admin: Visitor
) -> None:
    said = f"Key {SECRET} or weir_{'a' * 12}_{'b' * 43} is wrong, of 123-45-6789. " + "x" * 2_000
    marker = raw.register(Reply.json({"error": {"message": said}}, 401))
    answer = weir.post(OPENAI, key=KEY, json=body(marker))
    assert "is wrong" not in answer.text, "the client is not told"
    request_id = answer.headers["X-Request-ID"]
    [attempt] = weir.log_of(answer)["attempts"]
    [row] = Books(weir).settled_of(request_id)
    page = text_of(admin.get(f"/dashboard/requests/{request_id}").text)
    assert (row["provider_status"], row["provider_message"]) == (401, attempt["message"])
    assert len(attempt["message"]) <= 1_000
    for text in (attempt["message"], page):
        assert "is wrong, of [redacted]." in text
        for private in (SECRET, "b" * 43, "123-45-6789"):
            assert private not in text


def test_what_a_provider_says_of_weir_s_account_is_for_administrators(
    weir: Weir, raw: RawProvider, admin: Visitor
) -> None:
    admin.post("/dashboard/accounts", role="member", tier="premium", username="mia",
               password="mia's password")  # fmt: skip
    member = Visitor(weir)
    member.sign_in("mia", "mia's password")
    secret = admin.create_key("mia's", owner="mia")
    for status, reply in ((401, "the account of the company"), (500, "out of memory")):
        marker = raw.register(Reply.json({"error": {"message": reply}}, status))
        answer = weir.post(OPENAI, key=secret, json=body(marker))
        Books(weir).settled_of(answer.headers["X-Request-ID"])
        path = f"/dashboard/requests/{answer.headers['X-Request-ID']}"
        assert reply in admin.get(path).text
        shown = member.get(path).text
        assert f"The provider answered {status}" in text_of(shown)
        assert (reply in shown) == (status == 500)


def test_a_stream_that_ends_badly_has_its_target(weir: Weir, raw: RawProvider) -> None:
    delta = {"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}
    begun = CHUNK | {"choices": [delta]}
    error = {"error": {"message": "the card ran out of memory", "code": 500}}
    marker = raw.register(Reply.events(begun, error))
    answer = weir.post(OPENAI, key=KEY, json=body(marker, "two", stream=True))
    assert (answer.status_code, "ran out of memory" in answer.text) == (200, True)
    assert seen(weir, answer) == ("openai", "first", "openai", "first")
    line = weir.log_of(answer)
    assert (line["error"], line["attempts"][0]["message"]) == (
        "ProviderFailed", "the card ran out of memory",
    )  # fmt: skip


def test_a_request_that_is_refused_has_the_target_that_it_would_have_had(
    weir: Weir, raw: RawProvider, admin: Visitor
) -> None:
    marker = raw.register(Reply.json(ANSWER))
    not_allowed = weir.post(OPENAI, key=LIMITED, json=body(marker, "two"))
    assert not_allowed.status_code == 403
    assert seen(weir, not_allowed) == ("openai", "first", "openai", "first")
    poor = admin.create_key("poor", **{"limits.usd_per_day": "0.000001"})
    over_budget = weir.post(OPENAI, key=poor, json=body(marker))
    assert over_budget.status_code == 429
    assert seen(weir, over_budget) == ("openai", "m1", "openai", "m1")
    unknown = weir.post(OPENAI, key=KEY, json=body(marker, "nobody-knows"))
    assert unknown.status_code == 404
    assert seen(weir, unknown) == (None, "nobody-knows", None, "nobody-knows")
    assert raw.calls(marker) == []


REFUSALS = {
    "refused_rate": {"limits.requests_per_minute": "1"},
    "refused_tokens": {"limits.tokens_per_minute": "20"},
    "refused_budget": {"limits.usd_per_day": "0.000001"},
    "refused_parallel": {"limits.parallel_requests": "1"},
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_is_counted_by_key_and_kind_and_is_no_request(
    weir: Weir, raw: RawProvider, admin: Visitor, kind: str
) -> None:
    secret = admin.create_key(kind, **REFUSALS[kind])
    key_id = max(admin.ids_of_keys())
    marker = raw.register(Reply.json(ANSWER))
    requests_before = weir.get("/stats").json()["total_requests"]
    asked = body(marker, max_tokens=1_000)
    answered = 0
    if kind == "refused_rate":
        assert weir.post(OPENAI, key=secret, json=asked).status_code == 200
        answered = 1
    if kind == "refused_parallel":
        # A body that never ends keeps the first request running.
        with Unfinished(weir, secret):
            wait_until(lambda: weir.post(OPENAI, key=secret, json=asked).status_code == 429)
        answered = None
    else:
        assert weir.post(OPENAI, key=secret, json=asked).status_code == 429

    def counts(table: str) -> dict[str, Any]:
        columns = "sum(requests) AS requests, sum(errors) AS errors, " + ", ".join(
            f"sum({name}) AS {name}" for name in REFUSALS
        )
        where = f"key_id = {key_id}" + ("" if table == "traffic" else " AND span = 60")
        [row] = Books(weir).rows(f"SELECT {columns} FROM {table} WHERE {where}")
        return {name: int(value or 0) for name, value in row.items()}

    wait_until(lambda: counts("traffic")[kind])
    for table in ("traffic", "activity", "target_activity"):
        found = counts(table)
        assert found[kind] == 1, table
        assert sum(found[name] for name in REFUSALS) == 1
        assert found["errors"] == 0
        if answered is not None:
            assert found["requests"] == answered
    if answered is not None:
        assert weir.get("/stats").json()["total_requests"] == requests_before + answered
    name = kind.removeprefix("refused_")
    overview = text_of(admin.get("/dashboard/").text)
    assert re.search(rf" Refused \d+ [^A-Z]*\d+ by {name}", overview)
    page = text_of(admin.get(f"/dashboard/keys/{key_id}").text)
    assert f"Refused in the last 30 days: 1 (1 {name})" in page


class Unfinished:
    """A request whose body does not end before the context does."""

    def __init__(self, weir: Weir, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", weir.port))
        head = f"POST {OPENAI} HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer {key}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        self._socket.sendall(head.encode())

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
def test_a_coalesced_request_has_the_target_of_the_one_that_led(
    weir: Weir, raw: RawProvider, fails: bool
) -> None:
    failed = Reply.json({"error": {"message": "down"}}, 500)
    marker = raw.register(failed if fails else Reply.json(ANSWER))
    with ThreadPoolExecutor(4) as pool:
        ask = lambda _: weir.post(OPENAI, key=KEY, json=body(marker, "two"))  # noqa: E731
        answers = list(pool.map(ask, range(4)))
    model = "second" if fails else "first"
    for answer in answers:
        assert seen(weir, answer) == ("openai", model, "openai", model)
