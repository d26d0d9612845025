"""Anthropic's endpoints: what is passed on, what is Weir's own, and the errors."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.servers import Provider, Weir, wait_until

KEY, POOR, BOUND, CAPPED = (
    f"{name}_key_0123456789" for name in ("test", "poor", "bound", "capped")
)
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
ASKED = "/anthropic/v1/messages"
VERSION = {"anthropic-version": "2023-06-01"}
BODY = {"model": "stand-in-claude", "max_tokens": 64}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY},poor:free:{POOR},bound:bound:{BOUND},"
        f"capped:capped:{CAPPED}",
        TIERS="enterprise=99999/minute;free=99999/minute;bound=99999/minute;capped=99999/minute",
        TIER_CAPPED="usd_per_day=100",
        TIER_BOUND="models=stand-in-claude",
        TIER_ENTERPRISE="tokens_per_minute=99999999",
        TIER_FREE="usd_per_day=0.000001",
        OPENAI_BASE_URL=provider.base_url,
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        MODEL_PRICES="anthropic/stand-in-claude: input=1, output=5, context=200000, "
        "max_output=64000",
        LLM_TIMEOUT=2,
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )


def said(words: str, **fields: Any) -> dict[str, Any]:
    return BODY | {"messages": [{"role": "user", "content": words}]} | fields


def ask(weir: Weir, words: str, path: str = MESSAGES, **fields: Any) -> requests.Response:
    return weir.post(path, key=KEY, json=said(words, **fields), headers=VERSION)


def check_error(answer: requests.Response, status: int, kind: str) -> str:
    """That it is an error of Anthropic's; returns the message."""
    assert answer.status_code == status
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["X-Request-ID"]
    message: str = body["error"]["message"]
    return message


def events(answer: requests.Response) -> list[tuple[str, str]]:
    """The events of a stream, without comments: their names and data."""
    blocks = [block for block in answer.text.split("\n\n") if block and block[0] != ":"]
    found = [re.fullmatch(r"event: (\w+)\ndata: (.+)", block) for block in blocks]
    return [(one[1], one[2]) for one in found if one]


# -- errors --


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", MESSAGES, 405, "invalid_request_error"),
        ("DELETE", COUNT, 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages/batches", 404, "not_found_error"),
    ],
)
def test_unknown_paths_and_methods_have_errors_of_anthropic_s(
    weir: Weir, method: str, path: str, status: int, kind: str
) -> None:
    check_error(weir.request(method, path, key=KEY), status, kind)


def test_an_unknown_path_answers_in_the_dialect_of_the_client(weir: Weir) -> None:
    assert weir.get("/v1/nothing", key=KEY).json()["error"]["code"] == "not_found"
    check_error(weir.get("/v1/nothing", key=KEY, headers=VERSION), 404, "not_found_error")
    check_error(weir.post("/v1/models", key=KEY, headers=VERSION), 405, "invalid_request_error")


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_credentials(weir: Weir, path: str) -> None:
    body = said("hello")
    for headers in ({}, {"x-api-key": "wrong_key"}, {"Authorization": "Bearer wrong_key"}):
        check_error(weir.post(path, json=body, headers=headers), 401, "authentication_error")
    two = {"x-api-key": KEY, "Authorization": "Bearer another"}
    check_error(weir.post(path, json=body, headers=two), 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (MESSAGES, {"max_tokens": 1}, "messages: "),
        (MESSAGES, {"max_tokens": 1, "messages": []}, "messages: "),
        (MESSAGES, {"max_tokens": 1, "messages": "hello"}, "messages: "),
        (MESSAGES, {"max_tokens": 1, "messages": [{}], "stream": "yes"}, "stream: "),
        (MESSAGES, {"messages": [{}]}, "max_tokens: "),
        (MESSAGES, {"messages": [{}], "max_tokens": 1.5}, "max_tokens: "),
        (MESSAGES, {"max_tokens": 1, "messages": [{}], "model": 7}, "model: "),
        (COUNT, {}, "messages: "),
        (COUNT, {"messages": [{}], "model": 7}, "model: "),
    ],
)
def test_an_invalid_body_is_a_400_that_names_the_field(
    weir: Weir, path: str, body: Any, named: str
) -> None:
    answer = weir.post(path, key=KEY, json=body)
    assert check_error(answer, 400, "invalid_request_error").startswith(named)


def test_a_body_that_is_no_json_or_too_large(weir: Weir) -> None:
    headers = {"Content-Type": "application/json"}
    broken = weir.post(MESSAGES, key=KEY, data="{", headers=headers)
    check_error(broken, 400, "invalid_request_error")
    text = weir.post(MESSAGES, key=KEY, data="{}", headers={"Content-Type": "text/plain"})
    check_error(text, 415, "invalid_request_error")
    huge = weir.post(MESSAGES, key=KEY, data=b" " * (32 * 1024 * 1024 + 1), headers=headers)
    check_error(huge, 413, "request_too_large")


def test_a_header_for_the_provider_must_be_printable(weir: Weir) -> None:
    headers = {"anthropic-beta": "x" * 5000}
    answer = weir.post(MESSAGES, key=KEY, json=said("hello"), headers=headers)
    assert "anthropic-beta" in check_error(answer, 400, "invalid_request_error")


def test_over_budget_is_a_429_that_is_not_to_be_tried_again(weir: Weir) -> None:
    answer = weir.post(MESSAGES, key=POOR, json=said("too dear"))
    message = check_error(answer, 429, "rate_limit_error")
    assert "budget" in message.lower()
    assert answer.headers["x-should-retry"] == "false"


# -- limits --


def test_the_limits_are_in_anthropic_s_headers(weir: Weir) -> None:
    answer = ask(weir, "limits", COUNT)
    told = {
        name.removeprefix("anthropic-ratelimit-"): value
        for name, value in answer.headers.items()
        if name.startswith("anthropic-ratelimit-")
    }
    assert set(told) == {
        f"{what}-{figure}"
        for what in ("requests", "tokens")
        for figure in ("limit", "remaining", "reset")
    }
    assert told["requests-limit"] == answer.headers["X-RateLimit-Limit"] == "99999"
    reset = datetime.strptime(told["requests-reset"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert 0 <= (reset - datetime.now(UTC)).total_seconds() + 2 <= 63
    assert not [name for name in answer.headers if name.startswith("x-ratelimit-limit-")]


# -- models --


def test_models_are_listed_as_anthropic_lists_them(weir: Weir) -> None:
    page = weir.get("/v1/models", key=KEY, headers=VERSION).json()
    names = [model["id"] for model in page["data"]]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, names[0], names[-1])
    # A bare name means the provider of Anthropic's family here.
    assert "stand-in-claude" in names
    assert "openai/stand-in-1" in names
    model = weir.get("/v1/models/stand-in-claude", key=KEY, headers=VERSION).json()
    assert model == next(one for one in page["data"] if one["id"] == "stand-in-claude")
    assert (model["type"], model["lifecycle"]) == ("model", "active")
    assert (model["max_input_tokens"], model["max_tokens"]) == (200_000, 64_000)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", model["created_at"])


def test_pages_of_models(weir: Weir) -> None:
    def page(**query: Any) -> dict[str, Any]:
        answer = weir.get("/v1/models", key=KEY, headers=VERSION, params=query)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    names = [model["id"] for model in page()["data"]]
    assert len(names) >= 3
    forwards, answer = [], page(limit=1)
    while answer["data"]:
        forwards.append(answer["first_id"])
        assert answer["has_more"] == (len(forwards) < len(names))
        answer = page(limit=1, after_id=answer["last_id"])
    assert forwards == names
    before = page(limit=2, before_id=names[-1])
    assert [model["id"] for model in before["data"]] == names[-3:-1]
    assert before["has_more"] == (len(names) > 3)
    for query in ({"limit": 0}, {"limit": "x"}, {"after_id": "nothing"}):
        answer = weir.get("/v1/models", key=KEY, headers=VERSION, params=query)
        check_error(answer, 400, "invalid_request_error")


def test_models_say_their_limits_to_openai_s_clients_too(weir: Weir) -> None:
    listed = {one["id"]: one for one in weir.get("/v1/models", key=KEY).json()["data"]}
    claude = listed["anthropic/stand-in-claude"]
    assert (claude["context_window"], claude["max_output_tokens"]) == (200_000, 64_000)
    assert "context_window" not in listed["stand-in-1"]


def test_a_model_that_is_none_is_an_error_of_anthropic_s(weir: Weir) -> None:
    answer = weir.get("/v1/models/nothing", key=KEY, headers=VERSION)
    check_error(answer, 404, "not_found_error")


# -- messages --


def last_call(provider: Provider, path: str = ASKED) -> dict[str, Any]:
    call: dict[str, Any] = provider.calls(path)[-1]
    return call


def test_request_and_answer_pass_as_they_are(weir: Weir, provider: Provider) -> None:
    fields = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "metadata": {"user_id": "someone"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 2048,
    }
    sent = said("as it is", **fields)
    headers = VERSION | {"anthropic-beta": "one-2026,two-2026"}
    answer = weir.post(f"{MESSAGES}?beta=true", key=KEY, json=sent, headers=headers)
    call = last_call(provider)
    assert call["body"] == sent
    assert call["headers"]["anthropic-beta"] == "one-2026,two-2026"
    assert call["headers"]["anthropic-version"] == "2023-06-01"
    assert call["headers"]["x-api-key"] == "sk-ant-secret-0123456789"
    direct = requests.post(
        f"{provider.anthropic_url}/v1/messages", json=sent, headers=VERSION | {"x-api-key": "any"}
    )
    assert (answer.status_code, answer.content) == (200, direct.content)
    assert answer.headers["X-Cache"] == "MISS"
    assert answer.headers["X-Weir-Route"] == "anthropic/stand-in-claude"
    assert float(answer.headers["X-Weir-Cost-USD"]) > 0


def test_events_pass_as_they_are_and_the_cost_comes_before_the_last(
    weir: Weir, provider: Provider
) -> None:
    sent = said("event by event", stream=True)
    answer = weir.post(MESSAGES, key=KEY, json=sent, headers=VERSION)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    direct = requests.post(
        f"{provider.anthropic_url}/v1/messages", json=sent, headers=VERSION | {"x-api-key": "any"}
    )
    comment = re.search(r": x-weir-cost-usd=[\d.]+\n\n(?=event: message_stop\n)", answer.text)
    assert comment
    assert answer.text.replace(comment[0], "") == direct.text
    again = weir.post(MESSAGES, key=KEY, json=sent, headers=VERSION)
    assert again.headers["X-Cache"] == "HIT"
    assert events(again) == events(answer)
    assert ": x-weir-cost-usd=0\n\nevent: message_stop\n" in again.text


def test_version_and_beta_are_part_of_the_cache_key(weir: Weir) -> None:
    def state(**headers: str) -> str:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return weir.post(MESSAGES, key=KEY, json=said("keyed"), headers=names).headers["X-Cache"]

    version = {"anthropic_version": "2023-06-01"}
    assert state(**version) == "MISS"
    assert state(**version) == "HIT"
    assert state(**version, anthropic_beta="some-beta") == "MISS"
    assert state(anthropic_version="2024-01-01") == "MISS"


def test_a_stream_that_fails_ends_with_an_error_and_without_done(weir: Weir) -> None:
    fault = "[[fault:error_event,pieces=5]]"
    answer = ask(weir, f"it breaks {fault}", stream=True)
    assert answer.status_code == 200
    *before, (name, data) = events(answer)
    assert before[0][0] == "message_start"
    assert (name, json.loads(data)["type"]) == ("error", "error")
    assert json.loads(data)["request_id"] == answer.headers["request-id"]
    assert "[DONE]" not in answer.text
    assert "message_stop" not in answer.text


def test_a_stream_that_is_cut_is_booked_with_the_input_that_its_beginning_told(weir: Weir) -> None:
    marked = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    for fault in ("cut", "error_event"):
        words = f"one two [[fault:{fault},pieces=5]]"
        answer = ask(weir, words, stream=True, system=marked)
        assert "event: error" in answer.text
        books = Books(weir)
        books.settled(1)
        [row] = [r for r in books.rows() if r["request_id"] == answer.headers["X-Request-ID"]]
        assert (row["state"], row["estimated"]) == ("cut", 1)
        assert (row["input_tokens"], row["cached_input_tokens"]) == (5, 2)
        assert row["cost_nano"] == 3 * 1_000 + 2 * 1_000 + row["output_tokens"] * 5_000
    # That cannot be all of it, as some servers begin with a number that stands for nothing.
    marked[0]["text"] = "word " * 2_000
    answer = ask(weir, "one two [[fault:cut,pieces=5]]", stream=True, system=marked)
    books.settled(1)
    [row] = [r for r in books.rows() if r["request_id"] == answer.headers["X-Request-ID"]]
    assert row["input_tokens"] > 10_000


def test_silence_is_filled_with_pings(routed: Weir) -> None:
    answer = ask(routed, "late [[fault:slow=1]]", model="both", stream=True)
    assert answer.text.startswith('event: ping\ndata: {"type": "ping"}\n\nevent: message_start\n')


def test_a_repeated_request_gets_the_first_answer(weir: Weir, provider: Provider) -> None:
    for stream in (False, True):
        headers = VERSION | {"Idempotency-Key": f"once-{stream}", "Cache-Control": "no-store"}
        sent = said(f"only once {stream}", stream=stream)
        first, second = (weir.post(MESSAGES, key=KEY, json=sent, headers=headers) for _ in range(2))
        assert first.content == second.content
        assert second.headers["Idempotency-Replayed"] == "true"
        assert len([c for c in provider.calls(ASKED) if f"only once {stream}" in str(c)]) == 1


def test_a_bare_name_means_the_provider_of_anthropic_s_family(
    weir: Weir, provider: Provider
) -> None:
    assert ask(weir, "bare").headers["X-Weir-Provider"] == "anthropic"
    answer = ask(weir, "bare", model="stand-in-1")
    assert answer.headers["X-Weir-Provider"] == "anthropic"
    answer = ask(weir, "named", model="openai/stand-in-1")
    assert answer.headers["X-Weir-Provider"] == "openai"
    assert answer.json()["type"] == "message"
    answer = ask(weir, "unknown [[fault:status=404,code=model_not_found]]")
    check_error(answer, 404, "not_found_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_is_logged_and_metered(routed: Weir, stream: bool) -> None:
    answer = ask(routed, f"in the log {stream}", model="both", stream=stream)
    line = routed.log_of(answer)
    assert line["endpoint"] == MESSAGES
    assert (line["provider"], line["model"]) == ("anthropic", "stand-in-claude")
    assert line["tokens"] > 0
    assert "in the log" in line["prompt"]
    assert "in the log" in line["answer"]
    metrics = routed.get("/metrics").text
    assert f'endpoint="{MESSAGES}"' in metrics


def test_explain_knows_the_endpoint(weir: Weir, provider: Provider) -> None:
    path = f"/v1/explain?endpoint={MESSAGES}"
    sent = said("explain me", system="a few words more", max_tokens=100)
    told = weir.post(path, key=KEY, json=sent, headers=VERSION).json()
    assert told["route"] == "anthropic/stand-in-claude"
    assert told["cache"] == "MISS"
    assert told["input_tokens"] >= 6
    assert told["cost_ceiling_usd"] >= 100 * 5 / 1e6
    assert not [call for call in provider.calls(ASKED) if "explain me" in str(call)]
    weir.post(MESSAGES, key=KEY, json=sent, headers=VERSION)
    assert weir.post(path, key=KEY, json=sent, headers=VERSION).json()["cache"] == "HIT"


@pytest.mark.parametrize("key", [KEY, CAPPED], ids=["", "a budget"])
def test_a_request_that_only_fills_the_prompt_cache_always_reaches_the_provider(
    weir: Weir, provider: Provider, key: str
) -> None:
    words = f"warm up for {key}"
    for _ in range(2):
        answer = weir.post(MESSAGES, key=key, json=said(words, max_tokens=0), headers=VERSION)
        assert (answer.status_code, answer.headers["X-Cache"]) == (200, "BYPASS")
        assert answer.json()["stop_reason"] == "max_tokens"
    assert len([call for call in provider.calls(ASKED) if words in str(call)]) == 2
    sent = said(words, max_tokens=0)
    told = weir.post(f"/v1/explain?endpoint={MESSAGES}", key=key, json=sent).json()
    assert told["cost_ceiling_usd"] < 0.001  # there is no output
    answer = ask(weir, "warm up", model="openai/stand-in-1", max_tokens=0)
    assert "max_tokens" in check_error(answer, 400, "invalid_request_error")


@pytest.mark.parametrize("field", [{"container": "one"}, {"thread": {"type": "create"}}])
def test_what_has_state_on_the_server_is_not_kept(weir: Weir, field: dict[str, Any]) -> None:
    explained = weir.post(
        f"/v1/explain?endpoint={MESSAGES}", key=KEY, json=said("state", **field), headers=VERSION
    )
    assert (explained.json()["cache"], explained.json()["would_coalesce"]) == ("BYPASS", False)


def test_the_details_of_a_refusal_reach_the_client(weir: Weir) -> None:
    answer = ask(weir, "in a thread", thread={"type": "create"})
    check_error(answer, 400, "invalid_request_error")
    assert answer.json()["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["stand_in"],
    }


def test_a_refusal_is_told_in_the_words_of_the_provider(weir: Weir) -> None:
    answer = ask(weir, "too long [[fault:status=400]]")
    message = check_error(answer, 400, "invalid_request_error")
    assert message == "The stand-in was told to answer 400."
    # Those of a moderation are for the operator.
    answer = ask(weir, "immoral [[fault:refusal=moderation]]")
    assert "moderation" in check_error(answer, 400, "invalid_request_error")


def test_fallbacks_to_models_that_a_key_may_not_use_are_refused(weir: Weir) -> None:
    for fallbacks in ([{"model": "stand-in-claude"}, {"model": "dearer"}], "default"):
        sent = said("fall back", fallbacks=fallbacks)
        answer = weir.post(MESSAGES, key=BOUND, json=sent, headers=VERSION)
        assert "fallbacks" in check_error(answer, 403, "permission_error")
    assert weir.post(MESSAGES, key=BOUND, json=said("no fall"), headers=VERSION).status_code == 200


def test_a_tool_that_is_a_model_is_refused_to_keys_that_may_not_use_it(weir: Weir) -> None:
    tool = {"type": "advisor_20260301", "name": "advisor", "model": "dearer"}
    answer = weir.post(MESSAGES, key=BOUND, json=said("advise", tools=[tool]), headers=VERSION)
    assert "tools" in check_error(answer, 403, "permission_error")


@pytest.mark.parametrize(
    "field", [{"speed": "fast"}, {"inference_geo": "mars"}, {"fallbacks": "default"}]
)
def test_what_costs_more_has_no_price(weir: Weir, field: dict[str, Any]) -> None:
    sent = said("dearer", **field)
    answer = weir.post(MESSAGES, key=POOR, json=sent, headers=VERSION)
    check_error(answer, 403, "permission_error")


# -- targets of another family --


def test_a_request_is_translated_for_a_target_of_another_family(
    weir: Weir, provider: Provider
) -> None:
    answer = ask(weir, "for another", model="openai/stand-in-1", system="Be brief.")
    message = answer.json()
    assert (message["type"], message["role"], message["stop_reason"]) == (
        "message",
        "assistant",
        "end_turn",
    )
    assert "for another" in message["content"][0]["text"]
    sent = last_call(provider, "/v1/chat/completions")["body"]["messages"]
    assert [one["role"] for one in sent] == ["system", "user"]
    stream = ask(weir, "for another", model="openai/stand-in-1", stream=True)
    names = [name for name, _ in events(stream)]
    assert (names[0], names[-1]) == ("message_start", "message_stop")
    assert ": x-weir-cost-usd=" not in stream.text  # it has no price
    again = ask(weir, "for another", model="openai/stand-in-1", stream=True)
    assert (again.headers["X-Cache"], events(again)) == ("HIT", events(stream))


def test_what_cannot_be_carried_over_is_named(weir: Weir) -> None:
    answer = ask(weir, "deep", model="openai/stand-in-1", top_k=5)
    assert "top_k" in check_error(answer, 400, "invalid_request_error")
    # The SDKs go on without a thread.
    answer = ask(weir, "in a thread", model="openai/stand-in-1", thread={"type": "create"})
    check_error(answer, 400, "invalid_request_error")
    assert answer.json()["error"]["details"]["error_code"] == "thread_unsupported_request"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/chat"])
def test_a_route_over_both_families_fails_over(
    routed: Weir, provider: Provider, path: str, stream: bool
) -> None:
    sent: dict[str, Any] = {"model": "both", "max_tokens": 50, "stream": stream}
    if path == "/chat":
        sent |= {"message": f"over {path} {stream}"}
    else:
        sent |= {"messages": [{"role": "user", "content": f"over {path} {stream}"}]}
    provider.fault(status=529, path=ASKED)
    answer = routed.post(path, key=KEY, json=sent)
    assert answer.status_code == 200
    assert answer.headers["X-Weir-Provider"] == "openai"
    assert answer.headers["X-Weir-Route"] == "both"
    assert answer.headers["X-Weir-Attempts"] == "2"
    assert "over" in answer.text
    provider.fault()
    answer = routed.post(path, key=KEY, json=sent, headers={"Cache-Control": "no-store"})
    assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "anthropic")


@pytest.fixture(scope="module")
def routed(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        MODEL_ROUTES="both=anthropic/stand-in-claude>openai/stand-in-1",
        STREAM_HEADERS_AFTER=0.2,
        LOG_PROMPTS="true",
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )


# -- tokens --


def test_tokens_are_counted_by_the_provider(weir: Weir, provider: Provider) -> None:
    sent = {"model": "stand-in-claude", "messages": [{"role": "user", "content": "one two three"}]}
    before = weir.get("/stats").json()["total_requests"]
    for _ in range(2):
        answer = weir.post(COUNT, key=KEY, json=sent, headers=VERSION | {"anthropic-beta": "b"})
        assert (answer.status_code, answer.json()) == (200, {"input_tokens": 3})
        assert answer.headers["X-Weir-Provider"] == "anthropic"
        assert answer.headers["X-Weir-Cost-USD"] == "0"
        assert "X-Cache" not in answer.headers
    calls = provider.calls(f"{ASKED}/count_tokens")
    assert [call["body"] for call in calls] == [sent, sent]
    assert calls[0]["headers"]["anthropic-beta"] == "b"
    wait_until(lambda: weir.get("/stats").json()["total_requests"] == before + 2)


def test_tokens_are_estimated_where_the_provider_does_not_count(weir: Weir) -> None:
    few = ask(weir, "one two three", COUNT, model="openai/stand-in-1")
    assert 3 <= few.json()["input_tokens"] <= 10
    assert "X-Weir-Provider" not in few.headers
    tool = {"name": "look", "description": "It looks at things. " * 20, "input_schema": {}}
    more = ask(
        weir, "one two three", COUNT, model="openai/stand-in-1", system="word " * 50, tools=[tool]
    )
    assert more.json()["input_tokens"] > few.json()["input_tokens"] + 100


def test_thinking_that_nobody_signed_is_not_counted(weir: Weir, provider: Provider) -> None:
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    sent = said("one", max_tokens=None)["messages"]
    thought = {"role": "assistant", "content": [unsigned, {"type": "text", "text": "two"}]}
    body = {"model": "stand-in-claude", "messages": [*sent, thought, *sent]}
    answer = weir.post(COUNT, key=KEY, json=body, headers=VERSION)
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 3})


def test_errors_of_counting(weir: Weir) -> None:
    answer = ask(weir, "one [[fault:status=400]]", COUNT)
    check_error(answer, 400, "invalid_request_error")
    answer = ask(weir, "one [[fault:status=500]]", COUNT)
    check_error(answer, 502, "api_error")
    answer = ask(weir, "one [[fault:status=429]]", COUNT)
    check_error(answer, 529, "overloaded_error")
    # A server that has Messages alone.
    answer = ask(weir, "one two [[fault:status=404]]", COUNT)
    assert answer.json()["input_tokens"] > 0
