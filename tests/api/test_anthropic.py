"""Anthropic's models at OpenAI's endpoints: translated both ways, through a server of its API."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from gunicorn.arbiter import Arbiter

from tests.conftest import MakeWeir
from tests.support.servers import DidNotStart, Provider, Weir, wait_until

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
MESSAGES = "/anthropic/v1/messages"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Tells the {name}",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        PROVIDER_OTHER_BASE_URL=provider.base_url,
        MODEL_ROUTES="claude=anthropic/stand-in-claude;cool=anthropic/stand-in-claude-small;"
        "both=anthropic/stand-in-claude>other/stand-in-1;"
        "backed=other/stand-in-1>anthropic/stand-in-claude",
        DEFAULT_MODEL="claude",
        LLM_TIMEOUT=2,
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )


def ask(weir: Weir, messages: Any, **fields: Any) -> requests.Response:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return weir.post(OPENAI, key=KEY, json={"messages": messages, **fields})


def sent(provider: Provider) -> dict[str, Any]:
    """What Anthropic was asked last."""
    body: dict[str, Any] = provider.calls(MESSAGES)[-1]["body"]
    return body


def chunks(answer: requests.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_has_openai_s_shape(weir: Weir, provider: Provider) -> None:
    answer = ask(weir, "hello there")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["model"]) == ("chat.completion", "stand-in-claude")
    [choice] = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "echo: hello there"
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2
    assert answer.headers["X-Weir-Provider"] == "anthropic"
    assert "sk-ant" not in weir.raw_logs()
    assert ask(weir, "hello there").headers["X-Cache"] == "HIT"


def test_a_stream_has_openai_s_chunks(weir: Weir) -> None:
    answer = ask(weir, "one two three", stream=True, stream_options={"include_usage": True})
    *parts, usage = chunks(answer)
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    content = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    assert content == "echo: one two three"
    reasons = [part["choices"][0]["finish_reason"] for part in parts]
    assert [reason for reason in reasons if reason] == ["stop"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    unasked = chunks(ask(weir, "one two three", stream=True))
    assert all("usage" not in part for part in unasked)


def test_system_prompts_and_history_are_carried_over(weir: Weir, provider: Provider) -> None:
    ask(
        weir,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]},
        ],
        stop=["zzz"],
        max_completion_tokens=77,
        temperature=0.5,
        top_p=0.9,
        user="somebody",
    )
    body = sent(provider)
    system = json.dumps(body["system"])
    assert "Be brief." in system
    assert "Be kind." in system
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][2]["content"][1]["type"] == "image"
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (77, 0.5, 0.9)
    assert body["stop_sequences"] == ["zzz"]
    assert body["metadata"] == {"user_id": "somebody"}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("one two three four", {"max_tokens": 2}, "length"),
        ("one STOP two", {"stop": "STOP"}, "stop"),
        ("the weather", {"tools": TOOLS}, "tool_calls"),
    ],
)
def test_the_reason_to_finish_is_the_right_one(
    weir: Weir, text: str, fields: dict[str, Any], reason: str, streamed: bool
) -> None:
    answer = ask(weir, text, stream=streamed, **fields)
    if streamed:
        choices = [choice for part in chunks(answer) for choice in part["choices"]]
        assert choices[-1]["finish_reason"] == reason
    else:
        assert answer.json()["choices"][0]["finish_reason"] == reason


def test_tools_are_called_and_their_results_told(weir: Weir, provider: Provider) -> None:
    asked = [{"role": "user", "content": "weather and time"}]
    message = ask(weir, asked, tools=TOOLS).json()["choices"][0]["message"]
    assert message["content"] is None
    calls = message["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["weather", "time"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "text"}
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"result {index}"}
        for index, call in enumerate(calls)
    ]
    answer = ask(weir, [*asked, message, *results], tools=TOOLS)
    assert "result 0 result 1" in answer.json()["choices"][0]["message"]["content"]
    assert [tool["name"] for tool in sent(provider)["tools"]] == ["weather", "time"]


def test_tool_calls_are_streamed_as_openai_streams_them(weir: Weir) -> None:
    parts = chunks(ask(weir, "weather and time", tools=TOOLS, stream=True))
    deltas = [
        call
        for part in parts
        for choice in part["choices"]
        for call in choice["delta"].get("tool_calls") or []
    ]
    begun = [delta for delta in deltas if delta.get("id")]
    assert [(one["index"], one["function"]["name"]) for one in begun] == [
        (0, "weather"),
        (1, "time"),
    ]
    for index in (0, 1):
        text = "".join(d["function"].get("arguments") or "" for d in deltas if d["index"] == index)
        assert json.loads(text) == {"city": "text"}


@pytest.mark.parametrize(
    ("choice", "carried"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "time"}}, {"type": "tool", "name": "time"}),
    ],
    ids=str,
)
def test_the_choice_of_a_tool_is_carried_over(
    weir: Weir, provider: Provider, choice: Any, carried: dict[str, str]
) -> None:
    answer = ask(weir, f"choose {carried}", tools=TOOLS, tool_choice=choice)
    assert answer.status_code == 200, answer.text
    assert sent(provider).get("tool_choice", {"type": "auto"}) == carried


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": 1}, "seed"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"x_unknown": 1}, "x_unknown"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
    ],
    ids=str,
)
def test_what_cannot_be_carried_over_is_named(
    weir: Weir, provider: Provider, fields: dict[str, Any], param: str
) -> None:
    for streamed in (False, True):
        answer = ask(weir, **{"messages": "x", "stream": streamed} | fields)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert error["code"] == "unsupported_parameter"
    assert provider.calls(MESSAGES) == []


def said(answer: requests.Response) -> dict[str, Any]:
    """The message of an answer, whole or joined from its chunks."""
    assert answer.status_code == 200, answer.text
    if not answer.text.startswith("data: "):
        message: dict[str, Any] = answer.json()["choices"][0]["message"]
        return message
    joined: dict[str, Any] = {}
    for chunk in chunks(answer):
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if isinstance(value, str) and name != "role":
                    joined[name] = joined.get(name, "") + value
                elif isinstance(value, list):
                    joined[name] = joined.get(name, []) + value
    return joined


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_an_answer_follows_a_schema(weir: Weir, provider: Provider, streamed: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": SCHEMA}}
    answer = ask(weir, "where?", response_format=wanted, stream=streamed)
    assert json.loads(said(answer)["content"]) == {"city": "text"}
    assert sent(provider)["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_thinking_comes_back_signed_with_the_results_of_tools(
    weir: Weir, provider: Provider, streamed: bool
) -> None:
    asked = [{"role": "user", "content": f"the weather {streamed}"}]
    fields = {"tools": TOOLS, "reasoning_effort": "high"}
    message = said(ask(weir, asked, stream=streamed, **fields))
    assert sent(provider)["thinking"] == {"type": "adaptive"}
    assert sent(provider)["output_config"] == {"effort": "high"}
    assert message["reasoning_content"] == "Let me think. "
    [call] = [call for call in message["tool_calls"] if call.get("id")]
    call = {**call, "function": {"name": "weather", "arguments": "{}"}}
    back = {"role": "assistant", **message, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "9 C"}
    answer = ask(weir, [*asked, back, result], **fields)
    assert "The tool says: 9 C" in said(answer)["content"]
    # Without its signature, Anthropic refuses it, and says why.
    del back["thinking_blocks"]
    refused = ask(weir, [*asked, back, result], **fields)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "Expected `thinking`" in refused.json()["error"]["message"]


def test_files_and_marks_for_the_cache_are_carried_over(weir: Weir, provider: Provider) -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
    answer = ask(
        weir,
        [
            {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": mark}]},
            {"role": "user", "content": [{"type": "file", "file": file, "cache_control": mark}]},
        ],
        tools=[{**TOOLS[0], "cache_control": mark}],
        tool_choice="none",
    )
    assert answer.status_code == 200, answer.text
    body = sent(provider)
    assert body["system"] == [{"type": "text", "text": "S", "cache_control": mark}]
    [document] = body["messages"][0]["content"]
    assert (document["type"], document["cache_control"]) == ("document", mark)
    assert document["source"]["media_type"] == "application/pdf"
    assert body["tools"][0]["cache_control"] == mark


def test_a_model_without_a_temperature_is_asked_without_the_usual_one(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(refuses="temperature")
    for message in ("no temperature", "none at all"):
        answer = weir.post("/chat", key=KEY, json={"message": message, "model": "cool"})
        assert answer.status_code == 200, answer.text
    temperatures = ["temperature" in call["body"] for call in provider.calls(MESSAGES)]
    assert temperatures == [True, False, False]
    chosen = weir.post(
        "/chat", key=KEY, json={"message": "chosen", "model": "cool", "temperature": 0.5}
    )
    assert chosen.status_code == 400
    assert "temperature" in chosen.json()["message"]


FAULTS = [
    ({"status": 400}, 400, "provider_refused_request"),
    ({"status": 401}, 502, "provider_refused_weir"),
    ({"status": 429, "retry_after": "9"}, 503, "provider_busy"),
    ({"status": 500}, 502, "provider_failed"),
    ({"status": 529, "retry_after": "9"}, 503, "provider_busy"),
    ({"hang": True}, 504, "provider_timed_out"),
    ({"garbage": True}, 502, "provider_failed"),
    ({"wrong_json": True}, 502, "provider_failed"),
    ({"cut_before": True}, 502, "provider_failed"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(("fault", "status", "code"), FAULTS, ids=str)
def test_its_failures_are_told_as_anybody_s(
    weir: Weir, provider: Provider, fault: dict[str, Any], status: int, code: str, streamed: bool
) -> None:
    provider.fault(**fault)
    answer = ask(weir, f"fail {fault}", stream=streamed)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    if status == 503:
        assert answer.headers["Retry-After"] == "9"


@pytest.mark.parametrize("fault", ["cut", "no_finish", "error_event"])
def test_a_stream_that_breaks_off_says_so(weir: Weir, provider: Provider, fault: str) -> None:
    provider.fault(**{fault: True}, pieces=6)
    *parts, error = chunks(ask(weir, f"break off by {fault}", stream=True))
    assert parts
    # What its event says is that it is overloaded.
    code = "provider_busy" if fault == "error_event" else "provider_failed"
    assert error["error"]["code"] == code
    provider.fault()
    assert ask(weir, f"break off by {fault}", stream=True).headers["X-Cache"] == "MISS"


def test_a_route_fails_over_from_anthropic_to_openai(weir: Weir, provider: Provider) -> None:
    provider.fault(status=529, model="stand-in-claude")
    for streamed in (False, True):
        answer = ask(weir, "fail over", model="both", stream=streamed)
        assert answer.status_code == 200
        assert answer.headers["X-Weir-Provider"] == "other"
        assert answer.headers["X-Weir-Attempts"] == "2"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_target_that_cannot_be_told_a_parameter_hides_no_failure(
    weir: Weir, provider: Provider, streamed: bool
) -> None:
    fields: dict[str, Any] = {"model": "backed", "seed": 1, "stream": streamed}
    assert ask(weir, f"seeded {streamed}", **fields).status_code == 200
    provider.fault(status=500, model="stand-in-1")
    failed = ask(weir, f"seeded and failed {streamed}", **fields)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "provider_failed")
    assert provider.calls(MESSAGES) == []


def test_the_call_ends_when_the_client_leaves(weir: Weir, provider: Provider) -> None:
    provider.fault(gap=0.2, pieces=200)
    body = {"messages": [{"role": "user", "content": "leaving"}], "stream": True}
    with weir.stream(OPENAI, body, KEY) as stream:
        next(stream)
    wait_until(lambda: provider.calls(MESSAGES)[-1]["hung_up"], 5, "the end of the call")


def test_native_doors_reach_it_too(weir: Weir) -> None:
    answer = weir.post("/chat", key=KEY, json={"message": "natively", "system": "Be brief."})
    assert answer.json()["response"] == "system: Be brief. echo: natively"
    assert answer.json()["provider"] == "anthropic"
    with weir.stream("/chat", {"message": "streamed", "stream": True}, KEY) as stream:
        *pieces, done, _ = stream
    assert json.loads(done)["response"] == "echo: streamed"
    assert pieces


def test_embeddings_go_to_targets_that_have_them(weir: Weir) -> None:
    refused = weir.post("/v1/embeddings", key=KEY, json={"input": "x"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "The provider of this model does not support embeddings."
    )
    for route in ("both", "backed"):
        answer = weir.post("/v1/embeddings", key=KEY, json={"model": route, "input": "x"})
        assert answer.ok
        assert weir.log_of(answer)["provider"] == "other"


def test_its_models_are_listed_without_routes(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
    )
    listed = weir.get("/v1/models", key=KEY).json()["data"]
    assert [model["id"] for model in listed] == ["stand-in-claude", "stand-in-claude-small"]
    assert {model["owned_by"] for model in listed} == {"anthropic"}
    answer = ask(weir, "the default")
    assert (answer.status_code, answer.json()["model"]) == (200, "stand-in-claude")
    assert weir.get("/health").json()["checks"]["llm"] == "healthy"


def test_a_langchain_provider_that_is_not_installed_stops_the_start(new_weir: MakeWeir) -> None:
    for kind, said in [
        ("mistralai", "langchain-mistralai"),
        ("nobody", "Unknown LangChain provider"),
    ]:
        with pytest.raises(DidNotStart) as ended:
            new_weir(PROVIDER_X_TYPE=f"langchain:{kind}", PROVIDER_X_API_KEY="k").start()
        assert ended.value.exit_code == Arbiter.APP_LOAD_ERROR
        assert ended.value.output.count(said) == 1
        assert "Traceback" not in ended.value.output
