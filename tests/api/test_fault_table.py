"""The table in docs/faults.md is true, line by line."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir, free_port

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/faults.md"
STOPPED = "*(stopped)*"


@dataclass(frozen=True)
class Line:
    """One line of the table for one kind of request."""

    title: str
    fault: str
    streamed: bool
    outcome: str
    calls: int

    def __str__(self) -> str:
        return f"{self.title}, {'streamed' if self.streamed else 'plain'}"


def table() -> list[Line]:
    lines: list[Line] = []
    for row in re.findall(r"^\| (?!the provider|-)(.+) \|$", DOCUMENT.read_text(), re.MULTILINE):
        title, fault, plain, plain_calls, streamed, streamed_calls = row.split(" | ")
        lines.append(Line(title, fault.strip("`"), False, plain, int(plain_calls)))
        lines.append(Line(title, fault.strip("`"), True, streamed, int(streamed_calls)))
    return lines


@pytest.fixture(scope="module")
def answers(start_shared_weir: MakeWeir, provider: Provider) -> dict[Line, requests.Response]:
    """What came of each line, all of them tried at the same time."""
    weir = start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        PROVIDER_GONE_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
        LLM_TIMEOUT=1.5,
        BREAKER_FAILURES=1_000_000,
    )
    # The first call of a worker takes long by itself.
    ask(weir, Line("warm up", "", False, "200", 1))
    with ThreadPoolExecutor(12) as pool:
        lines = table()
        return dict(zip(lines, pool.map(lambda line: ask(weir, line), lines), strict=True))


def ask(weir: Weir, line: Line) -> requests.Response:
    model = "gone/any" if line.fault == STOPPED else "stand-in-1"
    directive = "" if line.fault in {"", STOPPED} else f" [[fault:{line.fault}]]"
    said = f"a few words for {line}{directive}"
    body = {"model": model, "messages": [{"role": "user", "content": said}]}
    return weir.post(OPENAI, key=KEY, json=body | {"stream": line.streamed})


def test_the_table_is_complete() -> None:
    faults = " ".join(line.fault for line in table())
    for wanted in (
        "stopped", "hang", "status=429", "retry_after", "status=500", "status=503", "garbage",
        "wrong_json", "slow", "cut_before", "cut,", "no_finish", "error_event", "usage_on_choice",
        "empty", "big=10000000",
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
        *pieces, error, end = events(answer)
        assert (len(pieces) >= 2, end) == (True, "[DONE]")
        assert all("error" not in json.loads(piece) for piece in pieces)
        check_error(json.loads(error), line)
    else:
        assert answer.status_code == int(line.outcome[:3])
        assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
        check_error(answer.json(), line)


def check_good(answer: requests.Response, line: Line) -> None:
    if line.streamed:
        *pieces, end = events(answer)
        assert end == "[DONE]"
        choices = [choice for piece in pieces for choice in json.loads(piece)["choices"]]
        content = "".join(choice["delta"].get("content") or "" for choice in choices)
        assert choices[-1]["finish_reason"] == "stop"
        assert all("usage" not in json.loads(piece) for piece in pieces)
    else:
        content = answer.json()["choices"][0]["message"]["content"]
    if "big" in line.fault:
        assert len(content) == 10_000_000
    elif line.fault == "empty":
        assert content == ""
    else:
        assert content.startswith("echo: a few words")


def check_error(body: dict[str, dict[str, object]], line: Line) -> None:
    error = body["error"]
    assert set(error) - {"provider"} == {"message", "type", "param", "code"}
    named = re.findall(r"`(\w+)`", line.outcome)[0]
    assert str(error["code"]).replace("_", "") == named.lower().replace("_", "")
    assert "127.0.0.1" not in str(error["message"])


def events(answer: requests.Response) -> list[str]:
    return [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]


def test_nothing_that_failed_is_kept(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        LLM_TIMEOUT=0.5,
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )
    for line in table():
        if line.fault == STOPPED or line.outcome == "200":
            continue
        # The fault by the control endpoint, so that the same request is asked again without it.
        asked = Line(line.title, "", line.streamed, "", 0)
        settings = (part.partition("=") for part in line.fault.split(","))
        provider.fault(**{name: value if equals else True for name, equals, value in settings})
        ask(weir, asked)
        provider.fault()
        assert ask(weir, asked).headers["X-Cache"] == "MISS", line
