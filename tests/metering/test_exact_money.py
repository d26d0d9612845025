"""What a call is booked at, to the token: every kind of token, tier and fee, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.scripted import ScriptedProvider
from tests.support.servers import Weir, wait_until
from webapp.llm.cached import CachedAnswer, CachedStream, to_entry
from webapp.llm.messages import Answer, CacheState, FinalAnswer, Usage

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "MODEL_PRICES": "openai/*: input=1, cached_input=0.1, cache_write_5m=1.25, cache_write_1h=2, "
    "output=10, audio_input=40, audio_output=80, web_search=0.01, priority.input=2, flex.input=0.5,"
    " priority.output=20, flex.output=5, flex.cached_input=0.05, max_output=8000, context=100000",
    "LLM_MAX_RETRIES": 0,
}
HI = {"content": "Hi"}
ARGUMENTS = json.dumps({"query": "Fluss " * 900})
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
CALLS = {
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "index": 0,
            "function": {"name": "search", "arguments": ARGUMENTS},
        }
    ],
}


@dataclass(frozen=True)
class Case:
    """A call: the usage that the provider reports, and what is booked, in tokens and nano-USD."""

    usage: Any
    tokens: tuple[int, int]
    nano: int
    cached: int = 0
    written: int = 0
    tier: str | None = None
    messages: tuple[dict[str, Any], ...] = (HI,)
    model: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


CASES = {
    "plain": Case({"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 62_000),
    "reasoning beside the completion (c13)": Case(
        {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
         "completion_tokens_details": {"reasoning_tokens": 94}},
        (32, 103), 1_062_000,
    ),
    "reasoning in the completion (c13)": Case(
        {"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135,
         "completion_tokens_details": {"reasoning_tokens": 94}},
        (32, 103), 1_062_000,
    ),
    "the rest of the total": Case(
        {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, (32, 103), 1_062_000
    ),
    "cached": Case(
        {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005,
         "prompt_tokens_details": {"cached_tokens": 800}},
        (1000, 5), 200_000 + 80_000 + 50_000, cached=800,
    ),
    "cache writes as OpenRouter tells them": Case(
        {"prompt_tokens": 1000, "completion_tokens": 5,
         "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 600}},
        (1000, 5), 300_000 + 10_000 + 750_000 + 50_000, cached=100, written=600,
    ),
    "cache writes as LiteLLM tells them": Case(
        {"prompt_tokens": 1000, "completion_tokens": 5, "cache_read_input_tokens": 100,
         "cache_creation_input_tokens": 600,
         "prompt_tokens_details": {"cached_tokens": 100, "cache_creation_tokens": 600}},
        (1000, 5), 300_000 + 10_000 + 750_000 + 50_000, cached=100, written=600,
    ),
    "cache writes as Anthropic tells them": Case(
        {"input_tokens": 300, "output_tokens": 5, "cache_read_input_tokens": 100,
         "cache_creation_input_tokens": 600,
         "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 100}},
        (1000, 5), 300_000 + 10_000 + 625_000 + 200_000 + 50_000, cached=100, written=600,
    ),
    "cache writes for an hour, as asked for": Case(
        {"prompt_tokens": 1000, "completion_tokens": 5,
         "prompt_tokens_details": {"cache_write_tokens": 600}},
        (1000, 5), 400_000 + 1_200_000 + 50_000, written=600,
        body={"messages": [{"role": "user", "content": [
            {"type": "text", "text": "cached", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        ]}]},
    ),
    "audio": Case(
        {"prompt_tokens": 100, "completion_tokens": 50,
         "prompt_tokens_details": {"audio_tokens": 60},
         "completion_tokens_details": {"audio_tokens": 30}},
        (100, 50), 40_000 + 2_400_000 + 200_000 + 2_400_000,
    ),
    "two choices": Case(
        {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}, (5, 6), 65_000,
        messages=(HI, {"content": "Hello"}), body={"n": 2},
    ),
    "a dearer tier that was asked for": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 124_000, tier="priority",
        body={"service_tier": "priority"}, fields={"service_tier": "priority"},
    ),
    "a tier that the answer does not name": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 124_000,
        body={"service_tier": "priority"},
    ),
    "any tier, which the answer does not name": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 124_000,
        body={"service_tier": "auto"},
    ),
    "a tier of the future, which the answer does not name": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 124_000,
        body={"service_tier": "ultrafast"},
    ),
    "the standard tier, which the answer does not name": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 62_000,
        body={"service_tier": "default"},
    ),
    "a tier that was asked for in vain": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 62_000, tier="standard",
        body={"service_tier": "priority"}, fields={"service_tier": "default"},
    ),
    "a cheaper tier": Case(
        {"prompt_tokens": 12, "completion_tokens": 5,
         "prompt_tokens_details": {"cached_tokens": 2}},
        (12, 5), 5_000 + 100 + 25_000, cached=2, tier="flex",
        body={"service_tier": "flex"}, fields={"service_tier": "flex"},
    ),
    "a tier that nobody knows": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 124_000, tier="scale",
        body={"service_tier": "auto"}, fields={"service_tier": "scale"},
    ),
    "web searches that are told": Case(
        {"prompt_tokens": 12, "completion_tokens": 5,
         "server_tool_use": {"web_search_requests": 2}},
        (12, 5), 62_000 + 20_000_000,
        body={"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]},
    ),
    "web searches that are not told": Case(
        {"prompt_tokens": 12, "completion_tokens": 5}, (12, 5), 62_000 + 10_000_000,
        body={"web_search_options": {}},
    ),
    "web searches of a model that always makes them": Case(
        {"prompt_tokens": 12, "completion_tokens": 10}, (12, 10), 112_000 + 20_000_000,
        messages=(HI, HI), body={"n": 2}, model="-search-preview",
    ),
    "numbers as texts and floats": Case(
        {"prompt_tokens": 12.0, "completion_tokens": "5", "total_tokens": "17"}, (12, 5), 62_000
    ),
    "null details, and counts that are none": Case(
        {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": -1,
         "prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}},
        (12, 5), 62_000,
    ),
    "costs and queries of others": Case(
        {"prompt_tokens": 12, "completion_tokens": 5, "num_search_queries": 9, "cost": 0.9},
        (12, 5), 62_000,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    scripted: ScriptedProvider,
    fresh_shared_database: str,
) -> Weir:
    database = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    return start_shared_weir(**SETTINGS, **database, OPENAI_BASE_URL=scripted.base_url)


def rows_of(weir: Weir, model: str) -> list[dict[str, Any]]:
    """The rows of a model, once they are settled."""

    def settled() -> list[dict[str, Any]]:
        rows = Books(weir).rows(f"SELECT * FROM ledger WHERE model = '{model}' ORDER BY id")
        return [] if any(row["state"] == "reserved" for row in rows) else rows

    return wait_until(settled, 10, f"the settling of {model}")


def row_of(weir: Weir, model: str) -> dict[str, Any]:
    [row] = rows_of(weir, model)
    return row


def model_of(name: str, *more: object) -> str:
    return "-".join([*"".join(c if c.isalnum() else " " for c in name).split(), *map(str, more)])


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_booked_to_the_token(
    weir: Weir, scripted: ScriptedProvider, name: str, streamed: bool
) -> None:
    case = CASES[name]
    model = model_of(name, streamed) + case.model
    scripted.answers(*case.messages, usage=case.usage, **case.fields)
    said = {"messages": [{"role": "user", "content": "hello"}], **case.body}
    answer = weir.post(OPENAI, key=KEY, json={"model": model, **said, "stream": streamed})
    assert answer.status_code == 200
    row = row_of(weir, model)
    assert (row["input_tokens"], row["output_tokens"]) == case.tokens
    assert (row["cached_input_tokens"], row["cache_write_tokens"]) == (case.cached, case.written)
    assert row["cost_nano"] == case.nano
    assert row["cost_nano"] <= row["ceiling_nano"]
    assert (row["service_tier"], row["answered_model"]) == (case.tier, model)
    assert (row["state"], bool(row["estimated"])) == ("settled", False)
    usd = f"{case.nano / 1e9:.9f}".rstrip("0")
    if streamed:
        assert answer.text.endswith(f"\n\n: x-weir-cost-usd={usd}\n\ndata: [DONE]\n\n")
    else:
        assert answer.headers["X-Weir-Cost-USD"] == usd


def test_what_was_booked_is_what_the_budgets_say(weir: Weir) -> None:
    spent = weir.get("/v1/key", key=KEY).json()["spend_usd"]["day"]
    [booked] = Books(weir).rows("SELECT sum(cost_nano) AS nano FROM ledger")
    assert round(spent * 1e9) == int(booked["nano"]) > 0


def test_a_native_answer_counts_all_tokens(weir: Weir, scripted: ScriptedProvider) -> None:
    # c13
    scripted.answers(HI, usage={"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135})
    answer = weir.post("/chat", key=KEY, json={"message": "c", "model": "native"}).json()
    assert answer["tokens_used"] == 135
    assert answer["cost_usd"] == 0.001062


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("name", "usage"),
    [("none", None), ("zeros", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
     ("no numbers", {"prompt_tokens": "many", "completion_tokens": -5}), ("a list", [1, 2])],
)  # fmt: skip
def test_arguments_of_tools_are_counted_where_there_is_no_usage(
    weir: Weir, scripted: ScriptedProvider, name: str, usage: Any, streamed: bool
) -> None:
    model = model_of(f"tools-{name}", streamed)
    thinks = {"content": None, "reasoning_content": "I think so."}
    scripted.answers(CALLS, thinks, **({} if name == "none" else {"usage": usage}))
    tool = TOOL | {"description": "looks into " + "words " * 100}
    said = {"messages": [{"role": "user", "content": "search"}], "tools": [tool], "n": 2}
    weir.post(OPENAI, key=KEY, json={"model": model, **said, "stream": streamed})
    row = row_of(weir, model)
    assert row["estimated"]
    assert 1_000 < row["input_tokens"] <= row["ceiling_input_tokens"]
    assert 900 < row["output_tokens"] < len(ARGUMENTS)


@pytest.mark.parametrize(
    ("usage", "said"),
    [({"prompt_tokens": 1234}, {}), ({"completion_tokens": 123}, {"max_tokens": 50})],
    ids=["input", "output"],
)
def test_the_missing_half_of_a_usage_is_counted(
    weir: Weir, scripted: ScriptedProvider, usage: dict[str, int], said: dict[str, int]
) -> None:
    scripted.answers({"content": "one two three"}, usage=usage)
    model = model_of("half", *usage)
    messages = [{"role": "user", "content": "hello"}]
    weir.post(OPENAI, key=KEY, json={"model": model, "messages": messages, **said})
    row = row_of(weir, model)
    assert row["estimated"]
    if "prompt_tokens" in usage:
        assert row["input_tokens"] == 1234
        assert 3 <= row["output_tokens"] <= 13
    else:
        assert 0 < row["input_tokens"] <= row["ceiling_input_tokens"]
        assert row["output_tokens"] == 123, "more than was asked for"


def test_images_that_are_not_reported_are_counted_at_no_more_than_the_window(
    weir: Weir, scripted: ScriptedProvider
) -> None:
    scripted.answers(HI)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    said = {"model": "images", "messages": [{"role": "user", "content": [image] * 3}]}
    assert weir.post(OPENAI, key=KEY, json=said).status_code == 200
    row = row_of(weir, "images")
    assert row["input_tokens"] == row["ceiling_input_tokens"] == 100_000


@pytest.mark.parametrize("told", [True, False, 0], ids=["told", "untold", "zeros"])
@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [([[57668, 53901], [1, 2, 3]], 5), ([57668, 53901], 2)],
    ids=["arrays", "array"],
)
def test_arrays_of_tokens_cost_their_number(
    weir: Weir, scripted: ScriptedProvider, inputs: Any, tokens: int, told: bool | int
) -> None:
    # c30
    model = f"embedded-{tokens}-{told}"
    usage = {"prompt_tokens": tokens * told, "total_tokens": tokens * told}
    scripted.answers(**({} if told is False else {"usage": usage}))
    body = {"model": model, "input": inputs, "encoding_format": "base64", "dimensions": 4}
    assert weir.post("/v1/embeddings", key=KEY, json=body).status_code == 200
    row = row_of(weir, model)
    assert row["ceiling_input_tokens"] == row["input_tokens"] == tokens
    assert (row["ceiling_output_tokens"], row["output_tokens"]) == (0, 0)
    assert bool(row["estimated"]) != bool(told)


def test_a_cached_and_a_joined_answer_cost_nothing(weir: Weir, scripted: ScriptedProvider) -> None:
    scripted.answers(HI, usage={"prompt_tokens": 12, "completion_tokens": 5})
    body = {"model": "twice", "messages": [{"role": "user", "content": "hello"}]}
    for state, cost in (("MISS", "0.000062"), ("HIT", "0")):
        answer = weir.post(OPENAI, key=KEY, json=body)
        assert (answer.headers["X-Cache"], answer.headers["X-Weir-Cost-USD"]) == (state, cost)
    streamed = weir.post(OPENAI, key=KEY, json={**body, "stream": True})
    again = weir.post(OPENAI, key=KEY, json={**body, "stream": True})
    assert ": x-weir-cost-usd=0.000062\n\n" in streamed.text
    assert ": x-weir-cost-usd=0\n\ndata: [DONE]" in again.text


def test_words_of_a_provider_that_no_database_holds_do_not_stop_the_settlement(
    weir: Weir, scripted: ScriptedProvider
) -> None:
    name = "m\0" + "\ud800" + "x" * 300
    usage = {"prompt_tokens": 12, "completion_tokens": 5}
    scripted.answers(HI, usage=usage, model=name, service_tier="a\0\ud800")
    said = {"model": "odd-name", "messages": [{"role": "user", "content": "hello"}]}
    weir.post(OPENAI, key=KEY, json=said)
    row = row_of(weir, "odd-name")
    assert row["state"] == "settled"
    assert row["answered_model"].startswith("m?x")
    assert row["service_tier"] == "unknown"


FAILED = {
    "in its body": {"error": {"message": "The engine fell over", "code": 502}},
    "in a choice (c04)": {
        "choices": [
            {"index": 0, "message": HI, "delta": HI, "finish_reason": "error",
             "error": {"code": 502, "message": "Provider disconnected"}}
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
@pytest.mark.parametrize("name", FAILED)
def test_an_error_with_status_200_costs_only_what_it_says(
    weir: Weir, scripted: ScriptedProvider, name: str, told: bool, streamed: bool
) -> None:
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}
    scripted.answers(HI, **FAILED[name], **(usage if told else {}))
    model = model_of(f"failed {name}", told, streamed)
    said = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": streamed}
    assert weir.post(OPENAI, key=KEY, json=said).status_code == 502
    row = row_of(weir, model)
    assert (row["error"], row["provider_status"]) == ("ProviderFailed", 502)
    assert row["provider_message"]
    if told:
        assert (row["state"], bool(row["estimated"])) == ("cut", False)
        assert (row["input_tokens"], row["output_tokens"], row["cost_nano"]) == (9, 2, 29_000)
    else:
        assert (row["state"], row["cost_nano"], row["output_tokens"]) == ("failed", 0, 0)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_send_that_was_lost_costs_what_can_have_been_generated_until_then(
    weir: Weir, scripted: ScriptedProvider, streamed: bool
) -> None:
    # c11
    scripted.answers(HI, usage={"prompt_tokens": 12, "completion_tokens": 5})
    said = {"model": model_of("lost", streamed), "stream": streamed}
    scripted.drops_reused = True
    try:
        for text in ("one", "two"):
            body = {**said, "messages": [{"role": "user", "content": text}]}
            assert weir.post(OPENAI, key=KEY, json=body).status_code == 200
    finally:
        scripted.drops_reused = False
    rows = rows_of(weir, said["model"])
    lost = [row for row in rows if row["error"]]
    assert len(lost) >= 1
    for row in lost:
        assert (row["state"], bool(row["estimated"])) == ("cut", True)
        assert 64 <= row["output_tokens"] < 4_000 < row["ceiling_output_tokens"]
    settled = [row["cost_nano"] for row in rows if not row["error"]]
    assert settled == [62_000, 62_000]


def test_a_tier_without_a_price_that_nobody_asked_for_costs_as_the_dearest(
    weir: Weir, scripted: ScriptedProvider
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 5}
    scripted.answers(HI, usage=usage, service_tier="ultrafast")
    said = {"model": "ultrafast", "messages": [{"role": "user", "content": "hello"}]}
    answer = weir.post(OPENAI, key=KEY, json=said)
    assert answer.headers["X-Weir-Cost-USD"] == "0.000124"


def test_a_cost_is_written_without_an_exponent(weir: Weir, scripted: ScriptedProvider) -> None:
    details = {"cached_tokens": 1}
    usage = {"prompt_tokens": 1, "completion_tokens": 0, "prompt_tokens_details": details}
    scripted.answers({"content": ""}, usage=usage)
    said = {"model": "cheap", "messages": [{"role": "user", "content": "hello"}]}
    answer = weir.post(OPENAI, key=KEY, json=said)
    assert answer.headers["X-Weir-Cost-USD"] == "0.0000001"


def test_entries_of_either_version_are_read() -> None:
    usage = Usage(7, 3, 2, True, cache_write_5m_tokens=1, service_tier="priority")
    assert Usage(*json.loads(json.dumps(usage.totals))) == Usage(7, 3, 2, True)
    entry = to_entry(Answer("Hi", "m1", "openai", usage, 0.5), "m1", [], native=True)
    assert len(entry["usage"]) == 4, "an older version reads no more"
    stream = CachedStream(CachedAnswer(entry, 0.0), CacheState.HIT, "m1", False)
    final = [stream.next(0), stream.next(0)][-1]
    assert isinstance(final, FinalAnswer)
    assert final.answer.usage == Usage(7, 3, 2, True)
