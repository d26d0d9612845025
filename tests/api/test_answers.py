"""The answering endpoints with a provider: fields, cache, models, streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Valkey, Weir
from webapp.settings import DEMO_KEYS

KEY = "test_key_0123456789"
SETTINGS = {"API_KEYS": f"test:enterprise:{KEY}"}
TAIL = {"tokens_used", "cached", "model", "provider", "usage", "cost_usd", "request_id"}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, fresh_shared_valkey: Valkey, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS, REDIS_URL=fresh_shared_valkey.url, OPENAI_BASE_URL=provider.base_url
    )


@pytest.fixture(scope="module")
def offline(start_shared_weir: MakeWeir, fresh_shared_valkey: Valkey) -> Weir:
    """Without a provider, with the demo keys too, and with the same Valkey."""
    keys = f"{SETTINGS['API_KEYS']},{DEMO_KEYS}"
    return start_shared_weir(API_KEYS=keys, REDIS_URL=fresh_shared_valkey.url)


def ask(weir: Weir, message: str, path: str = "/chat", **more: Any) -> dict[str, Any]:
    response = weir.post(path, key=KEY, json={"message": message, **more})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def events(weir: Weir, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The joined pieces of a stream, and its last event."""
    with weir.stream(path, body | {"stream": True}, KEY) as stream:
        *pieces, done, end = list(stream)
    assert end == "[DONE]"
    return "".join(json.loads(piece)["content"] for piece in pieces), json.loads(done)


def test_chat_has_every_field_of_the_contract(weir: Weir) -> None:
    answer = ask(weir, "fields")
    assert set(answer) == TAIL | {"response"}
    assert answer["response"] == "echo: fields"
    assert answer["provider"] == "openai"
    assert answer["model"] == "stand-in-1"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert answer["tokens_used"] == usage["total_tokens"]
    assert answer["cost_usd"] is None


def test_generate_has_every_field_of_the_contract(weir: Weir) -> None:
    answer = weir.post("/generate", key=KEY, json={"prompt": "fields of generate"}).json()
    assert set(answer) == {
        "content", "model", "usage", "latency_ms", "cached", "provider", "cost_usd", "request_id",
    }  # fmt: skip
    assert set(answer["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_the_provider_sees_what_was_asked(weir: Weir, provider: Provider) -> None:
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ask(weir, "seen", system="Be brief.", history=history, max_tokens=7)
    sent = provider.completions()[0]["body"]
    roles = [message["role"] for message in sent["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert sent["temperature"] == 0.7
    assert sent["max_tokens"] == 7


def test_the_second_identical_request_is_cached_and_reaches_no_provider(
    weir: Weir, provider: Provider
) -> None:
    first = weir.post("/chat", key=KEY, json={"message": "twice", "max_tokens": 5})
    second = weir.post("/v1/chat", key=KEY, json={"max_tokens": 5, "message": "twice"})
    assert first.headers["X-Cache"] == "MISS"
    assert second.headers["X-Cache"] == "HIT"
    assert int(second.headers["Age"]) >= 0
    assert second.json()["cached"] is True
    assert second.json()["cost_usd"] == 0
    assert second.json()["response"] == first.json()["response"]
    assert len(provider.completions()) == 1


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False)])
def test_streamed_and_plain_share_the_cache(
    weir: Weir, provider: Provider, first: bool, second: bool
) -> None:
    message = f"shared {first}"
    texts = []
    for streamed in (first, second):
        if streamed:
            text, done = events(weir, "/chat", {"message": message})
            assert done["response"] == text
            assert done["done"] is True
            assert set(done) == TAIL | {"response", "done"}
        else:
            text = ask(weir, message)["response"]
        texts.append(text)
    assert texts[0] == texts[1]
    assert len(provider.completions()) == 1


@pytest.mark.parametrize(
    ("control", "states"),
    [
        ("no-cache", ["BYPASS", "BYPASS", "HIT"]),
        ("no-store", ["BYPASS", "BYPASS", "MISS"]),
        ("max-age=100", ["MISS", "HIT", "HIT"]),
    ],
)
def test_cache_control_of_the_request_is_obeyed(
    weir: Weir, control: str, states: list[str]
) -> None:
    body = {"message": f"controlled by {control}"}
    headers = [{"Cache-Control": control}, {"Cache-Control": control}, {}]
    seen = [weir.post("/chat", key=KEY, json=body, headers=each) for each in headers]
    assert [response.headers["X-Cache"] for response in seen] == states


def test_a_model_is_named_with_or_without_its_provider(weir: Weir, provider: Provider) -> None:
    ask(weir, "which", model="stand-in-2")
    ask(weir, "which", model="openai/stand-in-2")
    ask(weir, "which", model="other/stand-in-2")
    asked = [call["body"]["model"] for call in provider.completions()]
    assert asked == ["stand-in-2", "other/stand-in-2"]


def test_a_long_text_is_summarized_in_pieces_and_cached_as_a_whole(
    weir: Weir, provider: Provider
) -> None:
    body = {"text": "A sentence about rivers and weirs. " * 1200, "length": "short"}
    first = weir.post("/summarize", key=KEY, json=body)
    assert first.status_code == 200, first.text
    calls = len(provider.completions())
    assert calls > 2
    answer = first.json()
    assert set(answer) == TAIL | {"summary", "original_length", "summary_length"}
    assert answer["original_length"] == len(body["text"])
    assert answer["summary_length"] == len(answer["summary"])
    second = weir.post("/summarize", key=KEY, json=body)
    assert second.headers["X-Cache"] == "HIT"
    assert second.json()["summary"] == answer["summary"]
    text, done = events(weir, "/summarize", body)
    assert text == answer["summary"] == done["summary"]
    assert done["cached"] is True
    assert len(provider.completions()) == calls


def test_keys_do_not_share_answers_where_the_scope_is_key(
    start_weir: MakeWeir, provider: Provider
) -> None:
    keys = {"API_KEYS": f"a:enterprise:{KEY}a,b:enterprise:{KEY}b"}
    weir = start_weir(**keys, OPENAI_BASE_URL=provider.base_url, CACHE_SCOPE="key")
    answers = [
        weir.post("/chat", key=KEY + owner, json={"message": "mine"}).json()["cached"]
        for owner in "aba"
    ]
    assert answers == [False, False, True]


def test_an_offline_answer_does_not_survive_the_configuration_of_a_provider(
    offline: Weir, weir: Weir
) -> None:
    message = "hello, whoever answers"
    assert ask(offline, message)["provider"] == "offline"
    assert ask(offline, message)["cached"] is True
    answer = ask(weir, message)
    assert (answer["provider"], answer["cached"]) == ("openai", False)


def test_texts_are_as_long_as_the_tier_allows(offline: Weir) -> None:
    for key, longest in (("dev_key_123", 5_000), ("prod_key_456", 50_000)):
        fits = offline.post("/summarize", key=key, json={"text": "Word. " * (longest // 6)})
        too_long = offline.post("/summarize", key=key, json={"text": "x" * (longest + 1)})
        assert fits.status_code == 200, fits.text
        assert too_long.status_code == 422
        assert list(too_long.json()["details"]) == ["text"]


def test_offline_summaries_grow_with_their_length(offline: Weir) -> None:
    text = " ".join(f"Sentence {n} tells of weir {n % 7} and river {n % 5}." for n in range(60))
    summaries = [
        offline.post("/summarize", key=KEY, json={"text": text, "length": length}).json()["summary"]
        for length in ("short", "medium", "long")
    ]
    lengths = [len(summary) for summary in summaries]
    assert 0 < lengths[0] <= lengths[1] <= lengths[2] <= len(text)
