"""The ledger equals what the provider served; every call has its row, and its rule."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import INPUT, OUTPUT, PRICES, Books
from tests.support.servers import Provider, Weir, wait_until

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
    "LLM_TIMEOUT": 2,
    "BREAKER_FAILURES": 1_000_000,
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
) -> Weir:
    database = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    return start_shared_weir(**SETTINGS, **database, OPENAI_BASE_URL=provider.base_url)


@pytest.fixture(scope="module")
def retrying_weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    """On SQLite: one that tries again, and knows no price but that of one model."""
    settings = SETTINGS | {
        "API_KEYS": f"test:enterprise:{KEY},poor:free:{KEY}x",
        "TIERS": "enterprise=99/minute;free=99/minute",
        "TIER_FREE": "usd_per_day=1",
        "MODEL_PRICES": PRICES.replace("*", "retried"),
        "LLM_MAX_RETRIES": 2,
    }
    return start_shared_weir(**settings, OPENAI_BASE_URL=provider.base_url)


@pytest.fixture
def books(weir: Weir) -> Books:
    return Books(weir)


def body(model: str, said: str = "one two three", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": said}], **fields}


def rows_of(books: Books, model: str) -> list[dict[str, Any]]:
    """The rows of a model, once they are settled."""

    def settled() -> list[dict[str, Any]]:
        rows = books.rows(f"SELECT * FROM ledger WHERE model = '{model}' ORDER BY id")
        return [] if any(row["state"] == "reserved" for row in rows) else rows

    return wait_until(settled, 10, f"the settling of {model}")


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_an_answer_is_written_with_the_tokens_that_the_provider_tells(
    weir: Weir, books: Books, provider: Provider, streamed: bool
) -> None:
    model = f"told-{streamed}"
    answer = weir.post(OPENAI, key=KEY, json=body(model, max_tokens=50, stream=streamed))
    assert answer.status_code == 200
    [row] = rows_of(books, model)
    [call] = provider.completions()
    assert (row["input_tokens"], row["output_tokens"]) == tuple(call["served"])
    assert row["state"] == "settled"
    assert not row["estimated"]
    assert row["cost_nano"] == call["served"][0] * INPUT + call["served"][1] * OUTPUT
    assert row["ceiling_nano"] >= row["cost_nano"]
    assert row["ceiling_output_tokens"] == 50
    assert row["request_id"] == answer.headers["X-Request-ID"]
    assert (row["endpoint"], row["attempt"], row["provider"]) == (OPENAI, 1, "openai")


def test_who_reads_from_the_cache_or_joins_a_call_gets_no_row(
    weir: Weir, books: Books, provider: Provider
) -> None:
    provider.fault(slow=0.5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: weir.post(OPENAI, key=KEY, json=body("shared")), range(8))
        )
    assert {answer.headers["X-Cache"] for answer in answers} == {"MISS", "COALESCED"}
    assert weir.post(OPENAI, key=KEY, json=body("shared")).headers["X-Cache"] == "HIT"
    assert len(rows_of(books, "shared")) == 1


# Of each fault: what the row says of the call, and whether its tokens are an estimate.
FAULTS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "500": ({"status": 500}, "failed", False),
    "429": ({"status": 429}, "failed", False),
    "400": ({"status": 400}, "failed", False),
    "hangs": ({"hang": True}, "cut", True),
    "garbage": ({"garbage": True}, "cut", True),
    "cut": ({"cut": True}, "cut", True),
    "cut before": ({"cut_before": True}, "cut", True),
    "no usage": ({"no_usage": True}, "settled", True),
    "usage on a choice": ({"usage_on_choice": True}, "settled", False),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_each_fault_has_its_rule(
    weir: Weir, books: Books, provider: Provider, fault: str, streamed: bool
) -> None:
    settings, state, estimated = FAULTS[fault]
    model = f"{fault.replace(' ', '-')}-{streamed}"
    provider.fault(**settings)
    weir.post(OPENAI, key=KEY, json=body(model, max_tokens=70, stream=streamed))
    [row] = rows_of(books, model)
    assert (row["state"], bool(row["estimated"])) == (state, estimated)
    [call] = provider.completions()
    if state == "failed":
        assert (row["cost_nano"], row["output_tokens"]) == (0, 0)
    else:
        assert row["input_tokens"] >= call["served"][0]
        assert call["served"][1] <= row["output_tokens"] <= 70
    assert row["error"] or state == "settled"


def test_a_cut_stream_is_settled_by_what_came_of_it(
    weir: Weir, books: Books, provider: Provider
) -> None:
    provider.fault(cut=True, pieces=40)
    weir.post(OPENAI, key=KEY, json=body("cut-short", max_tokens=900, stream=True))
    [row] = rows_of(books, "cut-short")
    assert row["output_tokens"] < 100


def test_a_cancelled_stream_is_settled_by_what_came_and_what_was_on_its_way(
    weir: Weir, books: Books, provider: Provider
) -> None:
    provider.fault(gap=0.05, pieces=400)
    with weir.stream(OPENAI, body("cancelled", max_tokens=900, stream=True), KEY) as stream:
        for _ in range(5):
            next(stream)
    [row] = rows_of(books, "cancelled")
    [call] = provider.completions()
    assert (row["state"], bool(row["estimated"])) == ("cancelled", True)
    assert call["served"][1] <= row["output_tokens"] < 900


def test_a_call_that_never_reached_a_provider_costs_nothing(
    weir: Weir, books: Books, provider: Provider
) -> None:
    provider.stop()
    assert weir.post(OPENAI, key=KEY, json=body("unreached")).status_code == 502
    [row] = rows_of(books, "unreached")
    assert (row["state"], row["cost_nano"], row["error"]) == ("failed", 0, "ProviderFailed")


def test_every_attempt_has_a_row(retrying_weir: Weir, provider: Provider) -> None:
    books = Books(retrying_weir)
    books.forget()
    provider.fault(status=500, times=2)
    answer = retrying_weir.post("/chat", key=KEY, json={"message": "again", "model": "retried"})
    assert answer.headers["X-Weir-Attempts"] == "3"
    rows = rows_of(books, "retried")
    assert [(row["attempt"], row["state"]) for row in rows] == [
        (1, "failed"), (2, "failed"), (3, "settled"),
    ]  # fmt: skip
    assert {row["request_id"] for row in rows} == {answer.headers["X-Request-ID"]}
    assert answer.json()["cost_usd"] == pytest.approx(rows[-1]["cost_nano"] / 1e9)
    books.check(provider)


def test_embeddings_and_long_summaries_are_written_too(
    weir: Weir, books: Books, provider: Provider
) -> None:
    embeddings = {"model": "embedder", "input": "some words to embed"}
    assert weir.post("/v1/embeddings", key=KEY, json=embeddings).status_code == 200
    [row] = rows_of(books, "embedder")
    assert (row["input_tokens"], row["output_tokens"]) == (4, 0)
    paragraph = "It says that the water rises and falls. " * 40
    text = "\n\n".join(f"Paragraph {number}. {paragraph}" for number in range(12))
    summary = weir.post("/summarize", key=KEY, json={"text": text, "model": "summarizer"})
    rows = rows_of(books, "summarizer")
    assert len(rows) == len(provider.completions()) > 1
    assert summary.json()["cost_usd"] == pytest.approx(sum(r["cost_nano"] for r in rows) / 1e9)


def test_the_model_s_maximum_is_sent_where_the_client_names_none(
    weir: Weir, provider: Provider
) -> None:
    weir.post(OPENAI, key=KEY, json=body("uncapped"))
    weir.post(OPENAI, key=KEY, json=body("capped", max_completion_tokens=7))
    uncapped, capped = (call["body"] for call in provider.completions())
    assert uncapped["max_tokens"] == 1000
    assert "max_tokens" not in capped


def test_a_model_without_a_price_is_never_free(retrying_weir: Weir, provider: Provider) -> None:
    weir = retrying_weir
    answer = weir.post("/chat", key=KEY, json={"message": "hi", "model": "unpriced"})
    assert answer.json()["cost_usd"] is None
    [row] = rows_of(Books(weir), "unpriced")
    assert row["cost_nano"] is row["ceiling_nano"] is None
    refused = weir.post("/chat", key=f"{KEY}x", json={"message": "ho", "model": "unpriced"})
    assert (refused.status_code, refused.json()["error"]) == (403, "ModelNotPriced")
    assert "openai/unpriced" in json.dumps(refused.json())
