"""Whatever a provider sends: an answer or an error in time, nothing failed kept, nothing else paid.

The suite tries a few hundred answers, always the same ones. Run it for longer by hand:

    FUZZ_EXAMPLES=3000 python -m pytest tests/api/test_mutated_answers.py -x
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings

from tests.conftest import MakeWeir
from tests.support import mutations
from tests.support.books import Books
from tests.support.raw_provider import RawProvider, Reply
from tests.support.servers import Weir

KEY = "test_key_0123456789"
HEADERS = {"X-API-Key": KEY}
TIMEOUT = 10.0  # of a request; far above LLM_TIMEOUT
LISTINGS = 24
# Of all that an answer may count, so that each has a cost.
PRICE = "input=1, output=2, audio_input=3, audio_output=4, web_search=0.01, max_output=1000"
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
# The field that an answer's text is in.
TEXTS = {"/chat": "response", "/summarize": "summary", "/generate": "content"}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# All that a provider can do to a request: 500 would be Weir's own.
STATUSES = {200, 400, 404, 413, 422, 502, 503, 504}

fuzzed = settings(
    max_examples=int(EXAMPLES or 120),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)

fuzzed_less = settings(fuzzed, max_examples=max(fuzzed.max_examples // 4, 1))

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
HEAD = {"id": "c1", "created": 1750000000, "model": "m1", "service_tier": "default"}
COMPLETION = HEAD | {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hi there",
                "refusal": None,
                "tool_calls": [CALL],
            },
            "logprobs": {"content": [{"token": "Hi", "logprob": -0.1, "top_logprobs": []}]},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
MODELS = {
    "object": "list",
    "data": [
        {"id": name, "object": "model", "created": 1750000000, "owned_by": "somebody"}
        for name in ("m1", "org/m2", "m3:latest")
    ],
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
    "model": "m1",
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return HEAD | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hi"}),
    chunk({"reasoning_content": "A greeting"}),
    chunk({"tool_calls": [CALL | {"index": 0}]}),
    chunk({"content": " there"}),
    chunk({}, "stop"),
    HEAD | {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
    "[DONE]",
]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [
        {"type": "text", "text": "Hi there"},
        {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}},
    ],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 9,
        "output_tokens": 7,
        "cache_read_input_tokens": 1,
        "cache_creation_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    },
}
EVENTS = [
    {"type": "message_start", "message": MESSAGE | {"content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": MESSAGE["content"][1]},
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'},
    },
    {"type": "content_block_stop", "index": 1},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 7},
    },
    {"type": "message_stop"},
]


class Fuzz:
    """Sends prompts to a Weir whose provider answers with what is mutated, and looks at both.

    `replies` are those to requests that have been sent, by the ids of the requests.
    """

    def __init__(self, weir: Weir, provider: RawProvider) -> None:
        self.weir = weir
        self.provider = provider
        self.books = Books(weir)
        self.client = requests.Session()
        self.client.trust_env = False
        self.replies: dict[str, Reply] = {}

    def send(self, path: str, body: dict[str, Any], reply: Reply) -> requests.Response:
        answer = self.client.post(self.weir.url + path, json=body, headers=HEADERS, timeout=TIMEOUT)
        self.replies[answer.headers["X-Request-ID"]] = reply
        return answer

    def check(self, path: str, body: Callable[[str], dict[str, Any]], reply: Reply) -> None:
        marker = self.provider.register(reply)
        first = self.send(path, body(marker), reply)
        failed = judge(first, path, reply)
        if must_be_understood(path, reply):
            assert not failed, first.text
        calls = len(self.provider.calls(marker))
        second = self.send(path, body(marker), reply)
        assert judge(second, path, reply) == failed, "the same again"
        if failed:
            assert second.headers.get("X-Cache") != "HIT", "a failure was kept"
            assert len(self.provider.calls(marker)) > calls
        elif second.headers["X-Cache"] == "HIT":
            assert said(second, path) == said(first, path), "another answer was kept"

    def check_books(self) -> None:
        """What was booked for all requests so far."""
        assert "Traceback" not in self.weir.raw_logs()
        for row in self.books.settled(0):
            reply = self.replies.get(row["request_id"])
            if reply is None:
                continue
            try:
                check_row(row, reply)
            except AssertionError as wrong:
                raise AssertionError(row, reply) from wrong


def parsed_body(reply: Reply) -> dict[str, Any]:
    """The object that a plain reply with status 200 is, empty if it is none."""
    with suppress(ValueError):
        body = json.loads(b"".join(reply.parts).decode("utf-8-sig"))
        if isinstance(body, dict) and reply.status == 200 and not reply.cut:
            return body
    return {}


def check_row(row: dict[str, Any], reply: Reply) -> None:
    """What was booked for a call that was answered so."""
    cost, tokens = row["cost_nano"], (row["input_tokens"], row["output_tokens"])
    cached, written = row["cached_input_tokens"], row["cache_write_tokens"]
    assert cost >= 0
    assert tokens[1] >= 0
    assert tokens[0] >= cached + written
    assert min(cached, written) >= 0
    if row["estimated"]:
        assert cost <= row["ceiling_nano"]
    body = parsed_body(reply)
    failed = not 200 <= reply.status < 300
    reported = body.get("error") and not body.get("usage")
    if failed or reported:
        assert (row["state"], cost) == ("failed", 0)
    if row["provider"] != "anthropic" and row["state"] == "settled" and body:
        usage = body.get("usage")
        if isinstance(usage, dict) and whole(usage) and not row["estimated"]:
            assert tokens[0] >= usage["prompt_tokens"]
            assert sum(tokens) >= usage["total_tokens"]


def whole(usage: dict[str, Any]) -> bool:
    counts = (usage.get("prompt_tokens"), usage.get("total_tokens"))
    return all(type(count) is int and 0 <= count < 1_000_000_000 for count in counts)


def judge(answer: requests.Response, path: str, reply: Reply) -> bool:
    """Whether the request has failed, as all of it says. Raises AssertionError if that is odd."""
    assert answer.status_code in STATUSES, answer.text
    if answer.status_code != 200:
        body = answer.json()
        check_error(body["error"] if path.startswith("/v1/") else body, path)
        return True
    assert 200 <= reply.status < 300, "an error became an answer"
    if answer.headers["Content-Type"].startswith("text/event-stream"):
        *events, end = events_of(answer)
        assert end == "[DONE]"
        parsed = [json.loads(event) for event in events]
        assert parsed, "a stream without an event"
        failed = isinstance(parsed[-1], dict) and bool(parsed[-1].get("error"))
        if failed:
            check_error(parsed[-1]["error"], path)
        return failed
    body = answer.json()
    if path.startswith("/v1/"):
        if answer.headers["X-Weir-Provider"] != "anthropic":
            check_untouched(body, reply)
            assert not body.get("error")
    else:
        assert isinstance(body[TEXTS[path]], str)
    return False


def must_be_understood(path: str, reply: Reply) -> bool:
    """Whether it is an answer in spite of all that is odd about it."""
    body = parsed_body(reply)
    if body.get("error"):
        return False
    try:
        if path == "/v1/embeddings":
            return isinstance(body["data"][0]["embedding"], list)
        choices = body["choices"]
        return isinstance(choices[0]["message"], dict) and all(
            isinstance(choice, dict) and choice.get("finish_reason") != "error"
            for choice in choices
        )
    except (LookupError, TypeError):
        return False


def check_error(error: dict[str, Any], path: str) -> None:
    message = error["message"]
    assert isinstance(message, str)
    assert not CONTROL.search(message), ascii(message)
    assert len(message) < 1_200
    assert "Internal" not in json.dumps(error)
    if path.startswith("/v1/"):
        assert isinstance(error["code"], str), error


def check_untouched(body: Any, reply: Reply) -> None:
    """A plain answer in OpenAI's protocol reaches the client equal in every field."""
    assert body == json.loads(b"".join(reply.parts).decode("utf-8-sig"))


def events_of(answer: requests.Response) -> list[str]:
    return [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]


def said(answer: requests.Response, path: str) -> Any:
    """What an answer said, whether it came from the cache or not."""
    if not answer.headers["Content-Type"].startswith("text/event-stream"):
        body = answer.json()
        return body if path.startswith("/v1/") else body[TEXTS[path]]
    text = ""
    for event in events_of(answer)[:-1]:
        parsed = json.loads(event)
        if not path.startswith("/v1/"):
            text = parsed.get(TEXTS[path], text)
            continue
        for choice in (isinstance(parsed, dict) and parsed.get("choices")) or []:
            delta = isinstance(choice, dict) and choice.get("delta")
            content = isinstance(delta, dict) and delta.get("content")
            text += content if isinstance(content, str) else ""
    return text


@pytest.fixture(scope="module")
def fuzz(start_shared_weir: MakeWeir) -> Iterator[Fuzz]:
    with RawProvider() as provider:
        weir = start_shared_weir(
            API_KEYS=f"test:enterprise:{KEY}",
            TIERS="enterprise=999999/minute",
            OPENAI_API_KEY="sk-up-0123456789",
            OPENAI_BASE_URL=f"{provider.url}/v1",
            ANTHROPIC_API_KEY="sk-ant-0123456789",
            ANTHROPIC_BASE_URL=provider.url,
            MODEL_ROUTES="m1=openai/m1;claude=anthropic/claude-haiku-4-5",
            MODEL_PRICES=f"openai/*: {PRICE}; anthropic/*: {PRICE}",
            LLM_TIMEOUT=2,
            LLM_MAX_RETRIES=0,
            BREAKER_FAILURES=1_000_000,
            CACHE_STALE_IF_ERROR=0,
        )
        fuzz = Fuzz(weir, provider)
        yield fuzz
        fuzz.client.close()


@pytest.fixture(autouse=True)
def books_after_each_test(fuzz: Fuzz) -> Iterator[None]:
    yield
    fuzz.check_books()


def completion(marker: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m1", "messages": [{"role": "user", "content": marker}]} | fields


@given(mutations.answers(COMPLETION))
@fuzzed
def test_completions(fuzz: Fuzz, reply: Reply) -> None:
    fuzz.check("/v1/chat/completions", completion, reply)


@given(mutations.streams(CHUNKS))
@fuzzed
def test_streamed_completions(fuzz: Fuzz, reply: Reply) -> None:
    options = {"include_usage": True}
    fuzz.check(
        "/v1/chat/completions",
        lambda marker: completion(marker, stream=True, stream_options=options),
        reply,
    )


@given(mutations.spellings(CHUNKS))
@fuzzed
def test_all_spellings_of_a_stream(fuzz: Fuzz, reply: Reply) -> None:
    body = completion(fuzz.provider.register(reply), stream=True)
    answer = fuzz.send("/v1/chat/completions", body, reply)
    assert not judge(answer, "/v1/chat/completions", reply), answer.text
    assert said(answer, "/v1/chat/completions") == "Hi there"


@given(mutations.answers(COMPLETION))
@fuzzed
def test_chat(fuzz: Fuzz, reply: Reply) -> None:
    fuzz.check("/chat", lambda marker: {"message": marker, "model": "m1"}, reply)


@given(mutations.streams(CHUNKS))
@fuzzed
def test_streamed_chat(fuzz: Fuzz, reply: Reply) -> None:
    fuzz.check("/chat", lambda marker: {"message": marker, "model": "m1", "stream": True}, reply)


@pytest.mark.parametrize(("path", "name"), [("/summarize", "text"), ("/generate", "prompt")])
@given(plain=mutations.answers(COMPLETION), streamed=mutations.streams(CHUNKS))
@fuzzed_less
def test_other_tasks(fuzz: Fuzz, path: str, name: str, plain: Reply, streamed: Reply) -> None:
    fuzz.check(path, lambda marker: {name: marker, "model": "m1"}, plain)
    fuzz.check(path, lambda marker: {name: marker, "model": "m1", "stream": True}, streamed)


@given(mutations.answers(EMBEDDINGS))
@fuzzed
def test_embeddings(fuzz: Fuzz, reply: Reply) -> None:
    fuzz.check("/v1/embeddings", lambda marker: {"input": marker, "model": "m1"}, reply)


@given(mutations.answers(MESSAGE))
@fuzzed
def test_claude(fuzz: Fuzz, reply: Reply) -> None:
    fuzz.check("/v1/chat/completions", lambda marker: completion(marker, model="claude"), reply)


@given(mutations.streams(EVENTS))
@fuzzed
def test_streamed_claude(fuzz: Fuzz, reply: Reply) -> None:
    fuzz.check(
        "/v1/chat/completions",
        lambda marker: completion(marker, model="claude", stream=True),
        reply,
    )


def test_listings(fuzz: Fuzz, start_weir: MakeWeir) -> None:
    """One GET asks all providers for their models, each of which lists something else."""
    listings: list[Reply] = []

    @given(mutations.answers(MODELS))
    @settings(fuzzed, max_examples=LISTINGS)
    def collect(reply: Reply) -> None:
        listings.append(reply)

    collect()
    names = [f"p{number}" for number in range(len(listings))]
    for name, reply in zip(names, listings, strict=True):
        fuzz.provider.listings[f"/{name}/v1/models"] = reply
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        LLM_TIMEOUT=2,
        **{f"PROVIDER_{n.upper()}_BASE_URL": f"{fuzz.provider.url}/{n}/v1" for n in names},
    )
    for path in ("/v1/models", "/health/detailed", "/v1/models/nothing"):
        answer = weir.get(path, key=KEY, timeout=3 * TIMEOUT)
        assert answer.status_code in {200, 404, 503}, answer.text
        if path == "/v1/models":
            assert all(isinstance(model["id"], str) for model in answer.json()["data"])
    assert "Traceback" not in weir.raw_logs()
