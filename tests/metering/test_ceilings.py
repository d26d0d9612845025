"""What is reserved before a call, and what is refused because it has no price."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.scripted import ScriptedProvider
from tests.support.servers import Weir
from webapp.llm.accounting import AnsweredTiers
from webapp.llm.routing import Target
from webapp.metering.price import make_price
from webapp.providers.offline import OfflineProvider

FREE, BUDGETED, LIMITED = "free_key_0123456789", "paid_key_0123456789", "slow_key_0123456789"
OPENAI = "/v1/chat/completions"
INPUT, OUTPUT = 1_000, 10_000  # nano-USD per token
CONTEXT, MAX_OUTPUT = 100_000, 8_000
PRICES = {
    # The tokens of audio and of cache writes differ in their prices from all others.
    "openai/full*": "input=1, output=10, cache_write_1h=4, audio_input=40, audio_output=80, "
    f"web_search=0.01, priority.input=2, priority.output=20, flex.input=0.5, flex.output=5, "
    f"max_output={MAX_OUTPUT}, context={CONTEXT}",
    "openai/bare*": "input=1, output=10",
    "openai/gratis": "input=0, output=0",
}
USAGE = {"prompt_tokens": 12, "completion_tokens": 5}
SAID = [{"role": "user", "content": "hello"}]
URL = "https://example.org/a"


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, scripted: ScriptedProvider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"free:enterprise:{FREE},paid:paid:{BUDGETED},slow:slow:{LIMITED}",
        TIERS="enterprise=99999/minute;paid=99999/minute;slow=99999/minute",
        TIER_PAID="usd_per_month=1000",
        TIER_SLOW="tokens_per_minute=60000",
        MODEL_PRICES="; ".join(f"{name}: {price}" for name, price in PRICES.items()),
        OPENAI_BASE_URL=scripted.base_url,
        LLM_MAX_RETRIES=0,
    )


def body(model: str = "full", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": SAID, "max_tokens": 100, **fields}


def parts(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def calling(call: dict[str, Any]) -> dict[str, Any]:
    """The turn of an assistant that calls a tool."""
    calls = [{"id": "call_1", **call}]
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}


def explained(weir: Weir, key: str = FREE, **fields: Any) -> requests.Response:
    return weir.post("/v1/explain", key=key, json=body(**fields))


def ceiling(weir: Weir, **fields: Any) -> int:
    """The ceiling in nano-USD."""
    answer = explained(weir, **fields)
    assert answer.status_code == 200, answer.text
    return round(answer.json()["cost_ceiling_usd"] * 1e9)


def code(answer: requests.Response) -> str:
    return str(answer.json()["error"]["code"])


# Texts: what may be read as input is at least a token for each byte.
LONG = "word " * 2_000
TEXTS: dict[str, dict[str, Any]] = {
    "a message": {"messages": [{"role": "user", "content": LONG}]},
    "a name": {"messages": [{"role": "user", "content": "hi", "name": LONG}]},
    "arguments of tools": calling(
        {"type": "function", "function": {"name": "f", "arguments": LONG}}
    ),
    "input of a custom tool": calling({"type": "custom", "custom": {"name": "f", "input": LONG}}),
    "an agent's second turn": {
        "messages": [
            *SAID,
            *calling(
                {"type": "function", "function": {"name": "weather", "arguments": '{"in": "Bonn"}'}}
            )["messages"],
            {"role": "tool", "tool_call_id": "call_1", "content": LONG},
        ]
    },
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
    "functions": {"functions": [{"name": "f", "description": LONG}]},
    "a schema": {"response_format": {"type": "json_schema", "json_schema": {"name": LONG}}},
    "documents": {"documents": [{"title": "a", "text": LONG}]},
    "an unknown field": {"x_extra": [{"deep": {"er": LONG}}]},
    "names of fields": {"x_extra": {LONG: 1}},
    "names of fields in a message": parts({"type": "text", "text": "a", "x": {LONG: 1}}),
    "names of fields beside media": parts(
        {"type": "image_url", "image_url": {"url": "a", LONG: 1}}
    ),
    "names in arguments": calling({"type": "function", "function": {"arguments": {LONG: 1}}}),
    "a role in arguments": calling({"type": "function", "function": {"arguments": {"role": LONG}}}),
    "many empty values": calling(
        {"type": "function", "function": {"arguments": [{"text": ""}] * 1_000}}
    ),
    "a long role": {"messages": [{"role": LONG, "content": "a"}]},
    "other scripts": {"messages": [{"role": "user", "content": "ж" * 5_000}]},
    "a text at the place of an image": parts({"type": "image_url", "image_url": {"url": LONG}}),
    "a text file": parts(
        {"type": "file", "file": {"file_data": "data:text/plain;base64," + LONG.replace(" ", "=")}}
    ),
    "reasoning of an earlier answer": {
        "messages": [{"role": "assistant", "reasoning_content": LONG, "content": "a"}]
    },
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_string_of_a_body_counts(weir: Weir, name: str) -> None:
    least = ceiling(weir) + 9_990 * INPUT
    assert least <= ceiling(weir, **TEXTS[name]) < least + 5_000 * INPUT


def test_what_no_model_reads_does_not_count(weir: Weir) -> None:
    schema = {"type": "object", "properties": {"thread_id": {"type": "string"}}}
    assert ceiling(weir, functions=[{"name": "f", "parameters": schema}]) < 2_000 * INPUT
    fields = {"user": LONG, "metadata": {"a": LONG}, "prompt_cache_key": LONG}
    assert ceiling(weir, **fields) == ceiling(weir)


PREDICTED = {"type": "content", "content": LONG}
# Fields whose tokens only the provider can count.
HIDDEN: dict[str, dict[str, Any]] = {
    "an image's address": parts({"type": "image_url", "image_url": {"url": URL}}),
    "an image's address in low detail": parts(
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}
    ),
    "an input image": parts({"type": "input_image", "image_url": URL}),
    "an image of Anthropic's": parts({"type": "image", "source": {"type": "url", "url": URL}}),
    "a file's id": parts({"type": "file", "file": {"file_id": "file-1"}}),
    "an input file's address": parts({"type": "input_file", "file_url": URL}),
    "a video's address": parts({"type": "video_url", "video_url": {"url": URL}}),
    "a sound's address": parts({"type": "audio_url", "audio_url": {"url": URL}}),
    "a part without a type": parts({"video_url": {"url": URL}}),
    "a file in a cloud": parts({"type": "media", "fileUri": "gs://bucket/a.mp4"}),
    "an earlier spoken answer": {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
    "an earlier response": {"previous_response_id": "resp_1"},
    "a conversation": {"conversation": "conv_1"},
    "a stored prompt": {"prompt": {"id": "pmpt_1"}},
    "a template": {"chat_template": "{% for i in range(9999999) %}word {% endfor %}"},
    "a nested cache": {"extra_body": {"google": {"cached_content": "cachedContents/a"}}},
    "a nested conversation": {"x_more": [{"conversation": {"id": "conv_1"}}]},
    "a nested file": {"x_files": [{"file_uri": "abc"}]},
    "an address in an unknown field": {"x_videos": [URL]},
    "a PDF": parts({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg=="}}),
    "a document": parts(
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf",
                                        "data": "JVBERg=="}}
    ),
    "a video": parts({"type": "input_video", "input_video": {"data": "AAAA"}}),
    "media of the future": parts({"type": "hologram", "hologram": {"data": "AAAA"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_weir_cannot_see_is_reserved_at_the_context_window(weir: Weir, name: str) -> None:
    # The dearest of it may be audio.
    assert ceiling(weir, **HIDDEN[name]) == CONTEXT * 40_000 + 100 * OUTPUT


@pytest.mark.parametrize("name", ["an image's address", "a file's id", "an earlier response"])
def test_without_a_known_window_it_has_no_price(weir: Weir, name: str) -> None:
    refused = explained(weir, BUDGETED, model="bare", **HIDDEN[name])
    assert (refused.status_code, code(refused)) == (403, "model_not_priced")
    assert "no known limit" in refused.json()["error"]["message"]
    assert explained(weir, model="bare", **HIDDEN[name]).json()["cost_ceiling_usd"] is None
    assert explained(weir, BUDGETED, model="gratis", **HIDDEN[name]).status_code == 200


def test_a_limit_on_tokens_counts_it_as_an_image(weir: Weir, scripted: ScriptedProvider) -> None:
    scripted.answers({"content": "Hi"}, usage=USAGE)
    asked = body(**HIDDEN["an image's address"])
    assert weir.post(OPENAI, key=LIMITED, json=asked).status_code == 200
    two = parts(*[{"type": "image_url", "image_url": {"url": f"{URL}{n}"}} for n in range(2)])
    assert code(weir.post(OPENAI, key=LIMITED, json=body(**two))) == "rate_limit_exceeded"


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_images_and_sounds_that_are_sent_have_a_bound(weir: Weir) -> None:
    plain = ceiling(weir)
    data = base64.b64encode(b"x" * 30_000).decode()
    image = {"url": f"data:image/png;base64,{data}"}
    for sent, tokens in (
        ({"type": "image_url", "image_url": image}, 50_000),
        ({"type": "image_url", "image_url": {**image, "detail": "low"}}, 5_000),
        ({"type": "image_url", "detail": "low", "image_url": {**image, "detail": "high"}}, 50_000),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
         50_000),
    ):  # fmt: skip
        assert 0 < ceiling(weir, **parts(sent)) - plain - tokens * INPUT < 200 * INPUT
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    assert 0 < ceiling(weir, **parts(sound)) - plain - 40_000 * 40_000 < 200 * INPUT


@pytest.mark.parametrize(
    "sent",
    [[IMAGE] * 3, [{"type": "image_url", "image_url": {"url": URL}}, IMAGE, IMAGE]],
    ids=["seen", "partly seen"],
)
def test_media_never_take_more_than_the_window(weir: Weir, sent: list[dict[str, Any]]) -> None:
    rate = 40_000 if URL in str(sent) else INPUT
    assert ceiling(weir, **parts(*sent)) == CONTEXT * rate + 100 * OUTPUT
    text = {"type": "text", "text": "word " * 30_000}
    assert ceiling(weir, **parts(*sent, text)) > 150_000 * rate


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"max_completion_tokens": 1, "max_tokens": 1000}, 1000),
        ({"max_completion_tokens": 1000, "max_tokens": 1}, 1000),
        ({"n": 50}, 5000),
        ({"best_of": 50}, 5000),
        ({"n_predict": 700}, 700),
        ({"max_tokens": None}, MAX_OUTPUT),
        ({"max_tokens": None, "n": 2}, 2 * MAX_OUTPUT),
        ({"max_tokens": None, "n_predict": 1}, MAX_OUTPUT),
    ],
)
def test_the_largest_output_is_reserved(weir: Weir, fields: dict[str, Any], output: int) -> None:
    assert ceiling(weir, **fields) - ceiling(weir) == (output - 100) * OUTPUT


def test_a_predicted_output_may_be_charged_as_output(weir: Weir) -> None:
    assert ceiling(weir, prediction=PREDICTED) - ceiling(weir) >= len(LONG) * OUTPUT


def test_cache_writes_are_reserved_at_their_own_price(weir: Weir) -> None:
    for ttl, rate in (({"ttl": "1h"}, 4_000), ({}, 1_000)):
        marked = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", **ttl}}
        cost = ceiling(weir, **parts(marked)) - 100 * OUTPUT
        assert len(LONG) * rate < cost < (len(LONG) + 200) * rate


def test_spoken_answers_are_reserved_at_their_own_price(weir: Weir) -> None:
    spoken = ceiling(weir, modalities=["text", "audio"], audio={"voice": "alloy"})
    assert spoken - ceiling(weir) == 100 * (80_000 - OUTPUT)


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("fields", "searches"),
    [
        ({"web_search_options": {}}, 1),
        ({"model": "full-search-preview-1"}, 1),
        ({"model": "full-search-api", "n": 2}, 2),
        ({"model": "full-search-preview", "web_search_options": {}}, 1),
        ({"tools": [{**SEARCH, "max_uses": 3}]}, 3),
        ({"tools": [SEARCH], "max_tool_calls": 2}, 2),
        ({"tools": [{**SEARCH, "max_uses": 3}], "max_tool_calls": 2}, 2),
        ({"tools": [{**SEARCH, "max_uses": 3}], "n": 2}, 6),
    ],
)
def test_searches_are_reserved_at_their_number_and_with_what_they_find(
    weir: Weir, fields: dict[str, Any], searches: int
) -> None:
    output = 100 * fields.get("n", 1)
    expected = CONTEXT * 40_000 + output * OUTPUT + searches * 10_000_000
    assert ceiling(weir, **fields) == expected


UNPRICED: dict[str, dict[str, Any]] = {
    "searches without a bound": {"tools": [SEARCH]},
    "a code interpreter": {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    "a tool of Gemini's": {"tools": [{"google_search": {}}]},
    "plugins": {"plugins": [{"id": "web"}]},
    "searches of xAI": {"search_parameters": {"mode": "on"}},
    "other models": {"models": ["openai/o1-pro"]},
    "a remote server of tools": {"mcp_servers": [{"url": URL}]},
    "generated images": {"modalities": ["text", "image"]},
    "a tier without a price": {"model": "bare", "service_tier": "priority"},
    "sound without a price": {
        "model": "bare",
        **parts({"type": "input_audio", "input_audio": {"data": "AAAA"}}),
    },
    "spoken answers without a price": {"model": "bare", "modalities": ["text", "audio"]},
    "searches without a price": {"model": "bare", "web_search_options": {}},
    "searches that nobody asked for": {"model": "bare-search-api"},
}


@pytest.mark.parametrize("name", UNPRICED)
def test_what_has_no_price_is_refused_only_where_a_budget_applies(
    weir: Weir, scripted: ScriptedProvider, name: str
) -> None:
    scripted.answers({"content": "Hi"}, usage=USAGE)
    fields = UNPRICED[name]
    refused = weir.post(OPENAI, key=BUDGETED, json=body(**fields))
    assert (refused.status_code, code(refused)) == (403, "model_not_priced")
    assert not scripted.bodies
    answer = weir.post(OPENAI, key=FREE, json=body(**fields))
    assert answer.status_code == 200
    assert scripted.bodies == [body(**fields)], "it reaches the provider untouched"
    request_id = answer.headers["X-Request-ID"]
    [row] = Books(weir).settled_of(request_id)
    assert row["ceiling_nano"] is None
    assert row["cost_nano"] is None
    assert "X-Weir-Cost-USD" not in answer.headers


@pytest.mark.parametrize(
    ("named", "rate"),
    [(None, 1), ("default", 1), ("flex", 1), ("priority", 2), ("auto", 2), ("tomorrow", 2)],
)
def test_a_tier_is_reserved_at_the_dearest_that_may_serve_it(
    weir: Weir, named: str | None, rate: int
) -> None:
    fields = {} if named is None else {"service_tier": named}
    assert ceiling(weir, model="full-tiers", **fields) == rate * ceiling(weir, model="full-tiers")


def test_a_target_that_answered_at_a_dearer_tier_is_reserved_at_that_from_then_on(
    weir: Weir, scripted: ScriptedProvider
) -> None:
    before = ceiling(weir, model="full-late")
    scripted.answers({"content": "Hi"}, usage=USAGE, service_tier="priority")
    asked = body("full-late", service_tier="priority")
    assert weir.post(OPENAI, key=FREE, json=asked).status_code == 200
    assert ceiling(weir, model="full-late") == before, "it was asked for"
    answer = weir.post(OPENAI, key=FREE, json=body("full-late"))
    assert answer.headers["X-Weir-Cost-USD"] == "0.000124"
    assert ceiling(weir, model="full-late") == 2 * before
    assert ceiling(weir, model="full-late", service_tier="default") == before
    assert ceiling(weir, model="full") < 2 * before, "another target"


def test_tiers_of_any_name_are_remembered_as_one() -> None:
    price = make_price({"input": 10**9, "priority.input": 2 * 10**9}, "test")
    answered, target = AnsweredTiers(), Target(OfflineProvider(1.0), "m1")
    for tier in ("standard", "priority", "flex", *(f"tier-{number}" for number in range(1_000))):
        answered.add(target, tier, price)
    assert set(answered.of(target)) == {"priority", "flex", "unknown"}


@pytest.mark.parametrize("value", ["50", 50.0, True, [50], {}])
@pytest.mark.parametrize(
    "name", ["n", "max_tokens", "max_completion_tokens", "best_of", "max_tool_calls"]
)
def test_a_number_that_is_none_is_refused_by_its_name(
    weir: Weir, scripted: ScriptedProvider, name: str, value: Any
) -> None:
    scripted.answers({"content": "Hi"}, usage=USAGE)
    refused = weir.post(OPENAI, key=BUDGETED, json=body(**{name: value}))
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert not scripted.bodies


def test_a_number_beyond_any_column_is_only_too_much_for_a_budget(
    weir: Weir, scripted: ScriptedProvider
) -> None:
    scripted.answers({"content": "Hi"}, usage=USAGE)
    asked = body(max_tokens=10**30, n=10**6)
    assert code(weir.post(OPENAI, key=BUDGETED, json=asked)) == "budget_exceeded"
    answer = weir.post(OPENAI, key=FREE, json=asked)
    assert (answer.status_code, answer.headers["X-Weir-Cost-USD"]) == (200, "0.000062")


@pytest.mark.parametrize("name", ["n", "max_tokens"])
def test_no_limit_is_refused_only_where_a_budget_applies(
    weir: Weir, scripted: ScriptedProvider, name: str
) -> None:
    scripted.answers({"content": "Hi"}, usage=USAGE)
    for value in (-1, 0):
        asked = body(**{name: value, "seed": value})
        assert weir.post(OPENAI, key=BUDGETED, json=asked).json()["error"]["param"] == name
        assert weir.post(OPENAI, key=FREE, json=asked).status_code == 200
        assert scripted.bodies[-1] == asked


@pytest.mark.parametrize(
    ("model", "said", "cap"),
    [
        ("full", "hello", MAX_OUTPUT),
        ("bare", "hello", 16_384),
        ("gratis", "hello", None),
        # Of 95,000 bytes, 23,750 tokens as estimated leave room for all of it.
        ("full", "long " * 19_000, MAX_OUTPUT),
        ("full", "i " * 96_000, 4_000),
    ],
)
def test_a_call_of_a_key_with_a_budget_always_has_a_limit(
    weir: Weir, scripted: ScriptedProvider, model: str, said: str, cap: int | None
) -> None:
    scripted.answers({"content": "Hi"}, usage=USAGE)
    asked = {"model": model, "messages": [{"role": "user", "content": said}]}
    assert weir.post(OPENAI, key=BUDGETED, json=asked).status_code == 200
    assert scripted.bodies[-1].get("max_tokens") == cap
    assert weir.post(OPENAI, key=FREE, json=asked | {"seed": 1}).status_code == 200
    fits = model == "full" and len(said) < 90_000
    assert scripted.bodies[-1].get("max_tokens") == (MAX_OUTPUT if fits else None)


def test_a_budget_is_not_passed_by_how_a_body_is_read(
    start_weir: MakeWeir, scripted: ScriptedProvider
) -> None:
    """Each of these was allowed for 0.005 USD, and cost up to 0.3 USD."""
    weir = start_weir(
        API_KEYS=f"paid:paid:{BUDGETED}",
        TIERS="paid=99999/minute",
        TIER_PAID="usd_per_month=0.005",
        MODEL_PRICES="openai/*: input=1, output=300",
        OPENAI_BASE_URL=scripted.base_url,
    )
    scripted.answers({"content": "Hi"}, usage=USAGE)
    for fields in (
        {"max_completion_tokens": 1, "max_tokens": 1000},
        {"max_tokens": 1, "n": "50"},
        {"max_tokens": 1, "n": 50.0},
        {"max_tokens": "100000"},
        {"max_tokens": 1, **HIDDEN["a video's address"]},
        {"max_tokens": 1, "documents": [LONG]},
        {"max_tokens": 1, "prediction": PREDICTED},
        {},
    ):
        refused = weir.post(OPENAI, key=BUDGETED, json={"model": "m", "messages": SAID, **fields})
        assert refused.status_code in {400, 403, 429}, fields
    assert not scripted.bodies
