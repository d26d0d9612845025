"""The tables in docs/faults.md are true, line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir, free_port

KEY = "test_key_0123456789"
OPENAI, ANTHROPIC, RESPONSES = ENDPOINTS = (
    "/v1/chat/completions", "/v1/messages", "/v1/responses",
)  # fmt: skip
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/faults.md"
STOPPED = "*(stopped)*"


@dataclass(frozen=True)
class Line:
    """One line of a table for one kind of request."""

    endpoint: str
    title: str
    fault: str
    streamed: bool
    outcome: str
    calls: int

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.title}, {'streamed' if self.streamed else 'plain'}"


def table() -> list[Line]:
    """The lines of all tables."""
    parts = re.split(r"^## At `.+`$", DOCUMENT.read_text(), flags=re.MULTILINE)
    tables = zip(ENDPOINTS, parts, strict=True)
    return [line for endpoint, part in tables for line in lines_of(endpoint, part)]


def lines_of(endpoint: str, text: str) -> Iterator[Line]:
    for row in re.findall(r"^\| (?!the provider|-)(.+) \|$", text, re.MULTILINE):
        title, fault, plain, plain_calls, streamed, streamed_calls = row.split(" | ")
        yield Line(endpoint, title, fault.strip("`"), False, plain, int(plain_calls))
        yield Line(endpoint, title, fault.strip("`"), True, streamed, int(streamed_calls))


@pytest.fixture(scope="module")
def answers(start_shared_weir: MakeWeir, provider: Provider) -> dict[Line, requests.Response]:
    """What came of each line, all of them tried at the same time."""
    weir = start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        PROVIDER_GONE_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
        **anthropics(provider),
        PROVIDER_GONE_CLAUDE_TYPE="anthropic",
        PROVIDER_GONE_CLAUDE_BASE_URL=f"http://127.0.0.1:{free_port()}",
        LLM_TIMEOUT=1.5,
        BREAKER_FAILURES=1_000_000,
    )
    # The first call of a worker takes long by itself.
    ask(weir, Line(OPENAI, "warm up", "", False, "200", 1))
    with ThreadPoolExecutor(12) as pool:
        lines = table()
        return dict(zip(lines, pool.map(lambda line: ask(weir, line), lines), strict=True))


def anthropics(provider: Provider) -> dict[str, str]:
    return {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": provider.anthropic_url}


def ask(weir: Weir, line: Line) -> requests.Response:
    stopped = line.fault == STOPPED
    directive = "" if stopped or not line.fault else f" [[fault:{line.fault}]]"
    said = f"a few words for {line}{directive}"
    messages = [{"role": "user", "content": said}]
    if line.endpoint == OPENAI:
        body = {"model": "gone/any" if stopped else "stand-in-1", "messages": messages}
    elif line.endpoint == ANTHROPIC:
        model = "gone_claude/any" if stopped else "stand-in-claude"
        body = {"model": model, "messages": messages, "max_tokens": 10_000_000}
    else:
        # A model of its own: what it learns of the server is not for other lines.
        model = "gone/any" if stopped else re.sub(r"\W+", "-", f"of {line}")
        body = {"model": model, "input": said, "store": False}
    return weir.post(line.endpoint, key=KEY, json=body | {"stream": line.streamed})


def test_the_table_is_complete() -> None:
    for endpoint in ENDPOINTS:
        faults = " ".join(line.fault for line in table() if line.endpoint == endpoint)
        for wanted in (
            "stopped", "hang", "status=429", "retry_after", "status=500", "status=503", "garbage",
            "wrong_json", "slow", "cut_before", "cut,", "no_finish", "error_event", "empty",
            "big=10000000",
        ):  # fmt: skip
            assert wanted in faults


@pytest.mark.parametrize("line", table(), ids=str)
def test_a_line_of_the_table(answers: dict[Line, requests.Response], line: Line) -> None:
    answer = answers[line]
    assert int(answer.headers["X-Weir-Attempts"]) == line.calls
    if line.outcome == "200":
        assert answer.status_code == 200
        check_good(answer, line)
    elif line.outcome.startswith("chunks, then"):
        assert answer.status_code == 200
        *chunks, error = events(answer, line)
        assert len(chunks) >= 2
        assert all("error" not in chunk for chunk in chunks)
        check_error(error, line)
    else:
        assert answer.status_code == int(line.outcome[:3])
        assert ("Retry-After" in answer.headers) == (answer.status_code in {503, 529})
        check_error(answer.json(), line)


def check_good(answer: requests.Response, line: Line) -> None:
    if line.endpoint == ANTHROPIC:
        content = content_of_message(answer, line)
    elif line.endpoint == RESPONSES:
        content = content_of_response(answer, line)
    elif line.streamed:
        chunks = events(answer, line)
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        content = "".join(choice["delta"].get("content") or "" for choice in choices)
        assert choices[-1]["finish_reason"] == "stop"
        assert all("usage" not in chunk for chunk in chunks)
    else:
        content = answer.json()["choices"][0]["message"]["content"]
    if "big" in line.fault:
        assert len(content) == 10_000_000
    elif line.fault == "empty":
        assert content == ""
    else:
        assert content.startswith("echo: a few words")


def content_of_message(answer: requests.Response, line: Line) -> str:
    if not line.streamed:
        return "".join(block["text"] for block in answer.json()["content"])
    told = events(answer, line)
    assert told[-1]["type"] == "message_stop"
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    return "".join(delta["text"] for delta in deltas)


def content_of_response(answer: requests.Response, line: Line) -> str:
    response = answer.json() if not line.streamed else events(answer, line)[-1]["response"]
    assert response["status"] == "completed"
    texts = [part["text"] for item in response["output"] for part in item["content"]]
    return "".join(texts)


def check_error(body: dict[str, Any], line: Line) -> None:
    if body.get("type") == "response.failed":
        assert body["response"]["status"] == "failed"
        assert body["response"]["error"]["code"] in line.outcome
        assert "127.0.0.1" not in str(body["response"]["error"])
        return
    error = body["error"]
    named = re.findall(r"`(\w+)`", line.outcome)[0]
    assert "127.0.0.1" not in str(error["message"])
    if line.endpoint == ANTHROPIC:
        assert set(body) == {"type", "error", "request_id"}
        assert set(error) - {"provider"} == {"type", "message"}
        assert error["type"] == named
        return
    assert set(error) - {"provider"} == {"message", "type", "param", "code"}
    assert str(error["code"]).replace("_", "") == named.lower().replace("_", "")


def events(answer: requests.Response, line: Line) -> list[dict[str, Any]]:
    """The events of a stream. Only OpenAI's end with `[DONE]`."""
    told = [one[6:] for one in answer.text.splitlines() if one.startswith("data: ")]
    if line.endpoint == OPENAI:
        assert told.pop() == "[DONE]"
    return [json.loads(one) for one in told]


def test_nothing_that_failed_is_kept(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        **anthropics(provider),
        LLM_TIMEOUT=0.5,
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )
    for line in table():
        if line.fault == STOPPED or line.outcome == "200":
            continue
        # The fault by the control endpoint, so that the same request is asked again without it.
        asked = Line(line.endpoint, line.title, "", line.streamed, "", 0)
        settings = (part.partition("=") for part in line.fault.split(","))
        provider.fault(**{name: value if equals else True for name, equals, value in settings})
        ask(weir, asked)
        provider.fault()
        assert ask(weir, asked).headers["X-Cache"] == "MISS", line
