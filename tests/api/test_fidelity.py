"""What an OpenAI-family provider says reaches the client equal in every field, and back."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir, wait_until

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def messages(text: Any = "hello") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


BODIES: dict[str, dict[str, Any]] = {
    "plain": messages(),
    "tools": messages("weather and time") | {"tools": TOOLS, "parallel_tool_calls": True},
    "json schema": messages()
    | {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}},
        }
    },
    "logprobs": messages() | {"logprobs": True, "top_logprobs": 2},
    "several choices": messages() | {"n": 3},
    "images": messages([{"type": "text", "text": "what is it"}, IMAGE, IMAGE]),
    "seed and more": messages()
    | {"seed": 7, "user": "u", "metadata": {"a": "b"}, "store": False, "logit_bias": {"1": -1.5}},
    "fields that nobody knows": messages()
    | {"x_new": {"deep": [1, 2.5, None, "ü\u2028😀", 12345678901234567890, 1e-07, 1.0]}},
    "half a surrogate pair": messages("\ud83d"),
    "null fields": messages() | {"temperature": None, "tools": None},
    "audio, files, video and newer parameters": {  # c28
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "name": "alex",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERg=="}},
                    {"type": "input_video", "input_video": {"data": "AAAA"}},
                    IMAGE,
                ],
            },
        ],
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "wav"},
        "max_completion_tokens": 64,
        "reasoning_effort": "low",
        "verbosity": "low",
        "service_tier": "flex",
        "prompt_cache_key": "k1",
        "safety_identifier": "s1",
        "metadata": {"weird key é \u0000": "v"},
        "prediction": {"type": "content", "content": "x"},
    },
}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY},free:free:free_key_0123456789",
        TIERS="enterprise=99999/minute;free=2/minute",
        OPENAI_BASE_URL=provider.base_url,
        DEFAULT_MODEL="stand-in-1",
    )


def data(response: requests.Response) -> list[Any]:
    lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def directly(provider: Provider, body: dict[str, Any]) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{provider.base_url}/chat/completions", json=body)


@pytest.mark.parametrize("name", BODIES)
def test_a_plain_answer_is_the_provider_s_own(weir: Weir, provider: Provider, name: str) -> None:
    body = BODIES[name] | {"model": "stand-in-1"}
    for state in ("MISS", "HIT"):
        answer = weir.post(OPENAI, key=KEY, json=body)
        assert answer.headers["X-Cache"] == state
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == directly(provider, body).json()
    assert provider.completions()[0]["body"] == body


@pytest.mark.parametrize("usage", [None, {"include_usage": True}, {"include_usage": False}])
@pytest.mark.parametrize("name", BODIES)
def test_a_stream_has_the_provider_s_own_chunks(
    weir: Weir, provider: Provider, name: str, usage: dict[str, bool] | None
) -> None:
    body = BODIES[name] | {"model": "stand-in-1", "stream": True}
    if usage is not None:
        body["stream_options"] = usage
    expected = data(directly(provider, body))
    for state in ("MISS", "HIT"):
        answer = weir.post(OPENAI, key=KEY, json=body)
        assert answer.headers["X-Cache"] == state
        assert data(answer) == expected
    # Weir asks for usage always, and for what else the client asked.
    assert provider.completions()[1]["body"] == body | {"stream_options": {"include_usage": True}}


def test_usage_that_comes_unasked_is_hidden_and_counted(weir: Weir, provider: Provider) -> None:
    provider.fault(usage_on_choice=True)
    body = messages("usage on a choice") | {"stream": True}
    unasked = weir.post(OPENAI, key=KEY, json=body)
    assert all("usage" not in chunk for chunk in data(unasked))
    wanted = body | {"stream_options": {"include_usage": True}}
    asked = weir.post(OPENAI, key=KEY, json=wanted)
    [usage] = [chunk["usage"] for chunk in data(asked) if chunk.get("usage")]
    for answer in (unasked, asked):
        assert weir.log_of(answer)["tokens"] == usage["total_tokens"]


@pytest.mark.parametrize(
    "body",
    [
        {"input": "one"},
        {"input": ["one", "two"], "dimensions": 4},
        {"input": [[1, 2], [3]], "encoding_format": "base64"},
        {"input": [1, 2, 3], "user": "u", "x_new": [1]},
        {"input": ["a", ""], "encoding_format": "float", "dimensions": 4},
        {"input": ["a", ""], "encoding_format": "base64", "dimensions": 4},
    ],
    ids=str,
)
def test_embeddings_are_the_provider_s_own(
    weir: Weir, provider: Provider, body: dict[str, Any]
) -> None:
    body = body | {"model": "stand-in-embeddings"}
    answers = [weir.post("/v1/embeddings", key=KEY, json=body) for _ in range(2)]
    assert [answer.headers["X-Cache"] for answer in answers] == ["MISS", "HIT"]
    with requests.Session() as session:
        session.trust_env = False
        expected = session.post(f"{provider.base_url}/embeddings", json=body).json()
    assert answers[0].json() == answers[1].json() == expected
    assert [call["body"] for call in provider.calls("/v1/embeddings")] == [body] * 2


def test_streamed_and_plain_answers_are_kept_apart(weir: Weir) -> None:
    body = messages("kept apart")
    states = [
        weir.post(OPENAI, key=KEY, json=body | {"stream": stream}).headers["X-Cache"]
        for stream in (False, True, False, True)
    ]
    assert states == ["MISS", "MISS", "HIT", "HIT"]


def test_the_order_of_fields_does_not_matter_to_the_cache(weir: Weir) -> None:
    body = messages("order") | {"temperature": 0.5, "seed": 3}
    assert weir.post(OPENAI, key=KEY, json=body).headers["X-Cache"] == "MISS"
    turned = dict(reversed(body.items()))
    assert weir.post(OPENAI, key=KEY, json=turned).headers["X-Cache"] == "HIT"
    assert weir.post(OPENAI, key=KEY, json=body | {"seed": 4}).headers["X-Cache"] == "MISS"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        (messages() | {"model": 5}, "model"),
        (messages() | {"model": "a b"}, "model"),
        (messages() | {"stream": "yes"}, "stream"),
        (messages() | {"stream": True, "stream_options": 1}, "stream_options"),
    ],
    ids=str,
)
def test_what_weir_itself_needs_is_validated(
    weir: Weir, provider: Provider, body: dict[str, Any], param: str
) -> None:
    answer = weir.post(OPENAI, key=KEY, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert set(error) == {"message", "type", "param", "code"}
    assert provider.completions() == []


@pytest.mark.parametrize(
    ("method", "path", "key", "status", "code"),
    [
        ("POST", OPENAI, None, 401, "not_authenticated"),
        ("POST", OPENAI, "wrong_key_0123456789", 401, "not_authenticated"),
        ("GET", "/v1/models", None, 401, "not_authenticated"),
        ("GET", "/v1/key", "wrong_key_0123456789", 401, "not_authenticated"),
        ("GET", OPENAI, KEY, 405, "method_not_allowed"),
        ("POST", "/v1/models/x", KEY, 405, "method_not_allowed"),
        ("POST", "/v1/images/generations", KEY, 404, "not_found"),
        ("GET", "/v1/models/no/such/model", KEY, 404, "model_not_found"),
        ("POST", "/v1/explain?endpoint=/nowhere", KEY, 400, "validation_error"),
    ],
)
def test_every_error_has_openai_s_envelope(
    weir: Weir, method: str, path: str, key: str | None, status: int, code: str
) -> None:
    answer = weir.request(method, path, key=key, json={})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b'{"messages": NaN}', {"Content-Type": "application/json"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b" " * (20 * 1024 * 1024 + 1), {"Content-Type": "application/json"}, 413),
        (b"{}", {"Content-Type": "application/json", "Authorization": "Bearer other"}, 400),
    ],
    ids=["cut", "NaN", "type", "large", "two keys"],
)
def test_bodies_that_cannot_be_read_have_openai_s_envelope(
    weir: Weir, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = weir.post(OPENAI, key=KEY, data=content, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_native_doors_under_v1_keep_their_envelope(weir: Weir) -> None:
    for answer in (weir.get("/v1/chat"), weir.post("/v1/chat", json={}), weir.get("/nowhere")):
        assert {"error", "message", "path"} <= set(answer.json())


def test_limits_are_told_as_openai_tells_them(weir: Weir) -> None:
    key = "free_key_0123456789"
    looked = [weir.get(path, key=key) for path in ("/v1/key", "/v1/models", "/v1/key")]
    explained = weir.post("/v1/explain", key=key, json=messages("explained"))
    assert {one.headers["x-ratelimit-remaining-requests"] for one in [*looked, explained]} == {"2"}
    assert looked[0].json()["limits"][0]["remaining"] == 2
    answers = [weir.post(OPENAI, key=key, json=messages("limited")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == [
        "1",
        "0",
        "0",
    ]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[2].headers["x-ratelimit-reset-requests"].endswith("s")
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    error = answers[2].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    refused = weir.post("/v1/explain", key=key, json=messages("explained"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert weir.get("/v1/key", key=key).json()["limits"][0]["used"] == 2


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/chat", {"message": "explained"}),
        ("/generate", {"prompt": "explained"}),
        ("/summarize", {"text": "A text that is long enough to be explained."}),
        ("/v1/chat/completions", messages("explained")),
        ("/v1/embeddings", {"input": "explained"}),
    ],
)
def test_every_door_can_be_explained(
    weir: Weir, provider: Provider, endpoint: str, body: dict[str, Any]
) -> None:
    def cache() -> str:
        said = weir.post(f"/v1/explain?endpoint={endpoint}", key=KEY, json=body)
        assert said.status_code == 200, said.text
        assert set(said.json()) == {
            "route", "targets", "cache", "would_coalesce", "limits", "budget", "cost_ceiling_usd",
            "price_source", "input_tokens",
        }  # fmt: skip
        assert said.json()["targets"] == ["openai/stand-in-1"]
        state: str = said.json()["cache"]
        return state

    assert cache() == "MISS"
    assert provider.completions() == []
    assert weir.post(endpoint, key=KEY, json=body).status_code == 200
    assert cache() == "HIT"


def test_an_idle_stream_is_kept_alive_and_cancelled_when_the_client_leaves(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        OPENAI_BASE_URL=provider.base_url,
        STREAM_HEADERS_AFTER=0.2,
    )
    provider.fault(hang=True)
    body = json.dumps(messages("idle") | {"stream": True, "model": "stand-in-1"})
    with socket.create_connection(("127.0.0.1", weir.port), timeout=5) as client:
        client.sendall(
            f"POST {OPENAI} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: "
            f"application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b""
        while b": ping\n\n" not in received:
            received += client.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")
    wait_until(lambda: provider.completions()[0]["hung_up"], 5, "the end of the provider's call")
