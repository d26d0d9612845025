"""What a request leaves in memory once it is over: nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir, wait_until

KEY = "test_key_0123456789"
MEBIBYTE = 1024 * 1024
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "DEFAULT_MODEL": "stand-in-1",
    "WEB_CONCURRENCY": 1,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000,
}
numbers = count()


def chat(weir: Weir, fault: str = "", **more: object) -> requests.Response:
    message = f"request {next(numbers)}" + (f" [[fault:{fault}]]" if fault else "")
    body = {"messages": [{"role": "user", "content": message}], "model": "stand-in-1"}
    return weir.post("/v1/chat/completions", key=KEY, json=body | more)


def native(weir: Weir, **more: object) -> requests.Response:
    return weir.post("/chat", key=KEY, json={"message": f"request {next(numbers)}", **more})


def left(weir: Weir, fault: str, **more: object) -> None:
    """A request whose client leaves before the end."""
    message = f"request {next(numbers)} [[fault:{fault}]]"
    body = {"messages": [{"role": "user", "content": message}], **more}
    with pytest.raises(requests.RequestException):
        weir.post("/v1/chat/completions", key=KEY, json=body, timeout=0.5)


def unread(weir: Weir, fault: str) -> None:
    """A stream whose client leaves after a part of it."""
    body = {"message": f"request {next(numbers)} [[fault:{fault}]]", "stream": True}
    with weir.stream("/chat", body, KEY) as events:
        next(events)


def coalesced(weir: Weir, fault: str) -> None:
    body = {"message": f"request {next(numbers)} [[fault:slow=0.2,{fault}]]"}
    with ThreadPoolExecutor() as pool:
        for _ in range(5):
            pool.submit(weir.post, "/chat", key=KEY, json=body)


def embeddings(weir: Weir, texts: int = 10, dimensions: int = 16) -> requests.Response:
    body = {"input": [f"text {next(numbers)}" for _ in range(texts)], "dimensions": dimensions}
    return weir.post("/v1/embeddings", key=KEY, json=body | {"model": "stand-in-1"})


def messages(
    weir: Weir, fault: str = "", path: str = "/v1/messages", **more: object
) -> requests.Response:
    said = f"request {next(numbers)}" + (f" [[fault:{fault}]]" if fault else "")
    body = {"messages": [{"role": "user", "content": said}], "max_tokens": 9_999_999, **more}
    return weir.post(path, key=KEY, json={"model": "anthropic/stand-in-claude", **body})


def response(weir: Weir, fault: str = "", **more: object) -> requests.Response:
    said = f"request {next(numbers)}" + (f" [[fault:{fault}]]" if fault else "")
    return weir.post(
        "/v1/responses", key=KEY, json={"model": "openai/stand-in-1", "input": said, **more}
    )


# -- cycles: objects that stay until the garbage collector finds them, which it rarely looks for --

REQUESTS: dict[str, Callable[[Weir], object]] = {
    "plain": chat,
    "streamed": lambda weir: chat(weir, stream=True),
    "native": native,
    "native and streamed": lambda weir: native(weir, stream=True),
    "embeddings": embeddings,
    "cached": lambda weir: weir.post("/chat", key=KEY, json={"message": "the same"}),
    "coalesced": lambda weir: coalesced(weir, "big=100"),
    "coalesced and failed": lambda weir: coalesced(weir, "status=500"),
    "explained": lambda weir: weir.post(
        "/v1/explain", key=KEY, json={"messages": [{"role": "user", "content": "x"}]}
    ),
    "invalid": lambda weir: native(weir, message=3),
    "without a key": lambda weir: weir.post("/chat", json={"message": "x"}),
    "not JSON": lambda weir: weir.post("/chat", key=KEY, data="{"),
    "unknown": lambda weir: weir.get("/nothing"),
    "refused by the provider": lambda weir: chat(weir, "status=400"),
    "failed": lambda weir: chat(weir, "status=500"),
    "failed stream": lambda weir: chat(weir, "status=500", stream=True),
    "cut": lambda weir: chat(weir, "cut"),
    "cut stream": lambda weir: chat(weir, "cut", stream=True),
    "not understood": lambda weir: chat(weir, "garbage"),
    "left": lambda weir: left(weir, "hang"),
    "left stream": lambda weir: left(weir, "gap=5,pieces=9", stream=True),
    "unread stream": lambda weir: unread(weir, "gap=0.1,pieces=99"),
    "message": messages,
    "message of another family": lambda weir: messages(weir, model="openai/stand-in-1"),
    "streamed message": lambda weir: messages(weir, stream=True),
    "streamed message of another family": lambda weir: messages(
        weir, stream=True, model="openai/stand-in-1"
    ),
    "failed message": lambda weir: messages(weir, "status=500"),
    "failed stream of a message": lambda weir: messages(weir, "error_event,pieces=5", stream=True),
    "response": response,
    "streamed response": lambda weir: response(weir, stream=True),
    "failed response": lambda weir: response(weir, "status=500"),
    "failed stream of a response": lambda weir: response(weir, "error_event,pieces=5", stream=True),
    "response of a server without them": lambda weir: response(
        weir, "status=405", model=f"openai/chat-{next(numbers)}", stream=True
    ),
    "unknown response": lambda weir: weir.get("/v1/responses/resp_nothing", key=KEY),
    "counted": lambda weir: messages(weir, path="/v1/messages/count_tokens"),
    "not counted": lambda weir: messages(weir, "status=500", path="/v1/messages/count_tokens"),
}
# What a cycle of Weir's own always has. Werkzeug and SQLAlchemy make a few without them (Jinja,
# with them: its macros refer to their context).
KEPT = re.compile(r"webapp\..*|builtins\.(frame|traceback|generator)|.*\.[gG]reenlet.*|flask\..*")


def providers(provider: Provider) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": provider.base_url,
        "ANTHROPIC_API_KEY": "any",
        "ANTHROPIC_BASE_URL": provider.anthropic_url,
    }


@pytest.fixture(scope="module")
def watched(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS,
        **providers(provider),
        FILES_URL="database://",
        app="tests.support.garbage:app",
    )


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_leaves_no_cycle_behind(watched: Weir, provider: Provider, kind: str) -> None:
    REQUESTS[kind](watched)  # what is made once is no garbage
    garbage(watched, provider)
    for _ in range(3):
        REQUESTS[kind](watched)
    found = garbage(watched, provider)
    assert {name: number for name, number in found.items() if KEPT.fullmatch(name)} == {}


def garbage(weir: Weir, provider: Provider) -> dict[str, int]:
    """What is garbage since the last look, by type, once all calls are over."""
    all_over(provider)
    found: dict[str, int] = weir.get("/garbage").json()
    return found


def all_over(provider: Provider) -> None:
    wait_until(lambda: all(call["ended"] or call["hung_up"] for call in provider.calls()))


# -- memory --

LARGE: dict[str, Callable[[Weir], object]] = {
    "plain": lambda weir: chat(weir, "big=5000000"),
    "streamed": lambda weir: chat(weir, "big=5000000", stream=True),
    "streamed message": lambda weir: messages(weir, "big=5000000", stream=True),
    "unread stream": lambda weir: unread(weir, "big=5000000"),
    "failed": lambda weir: chat(weir, "cut,big=5000000"),
    "failed stream": lambda weir: chat(weir, "no_finish,big=5000000", stream=True),
    "coalesced": lambda weir: coalesced(weir, "big=5000000"),
    "embeddings": lambda weir: embeddings(weir, 100, 1536),
    "invalid": lambda weir: native(weir, message=["x" * 5_000_000]),
}
TIMES = 12


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(**SETTINGS, **providers(provider), CACHE_TTL=0)


def test_a_long_stream_of_events_with_thinking_takes_little_memory(weir: Weir) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    messages(weir, "pieces=100", stream=True, thinking=thinking)  # what is made once
    before = memory(weir)
    forget_peak(weir)
    answer = messages(weir, "pieces=10000", stream=True, thinking=thinking)
    assert answer.text.count("event: content_block_delta") >= 10_000
    assert "thinking_delta" in answer.text
    assert peak(weir) - before < 16 * MEBIBYTE


@pytest.mark.parametrize("kind", LARGE)
def test_large_answers_do_not_stay_in_memory(weir: Weir, provider: Provider, kind: str) -> None:
    for _ in range(3):
        LARGE[kind](weir)
    all_over(provider)
    before = memory(weir)
    for _ in range(TIMES):
        LARGE[kind](weir)
    all_over(provider)
    # Kept, the answers would take 100 MB or more.
    assert memory(weir) - before < 40 * MEBIBYTE


def memory(weir: Weir) -> int:
    """The memory of its only worker, in bytes."""
    [worker] = weir.pids()
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


FILE_SIZE = 40 * MEBIBYTE


@pytest.mark.parametrize("name", ["weir", "watched"])
def test_a_file_passes_in_small_chunks(name: str, request: pytest.FixtureRequest) -> None:
    """Through a folder and through the database; benchmarks/files.py does it with 200 MB."""
    weir: Weir = request.getfixturevalue(name)
    pass_file(weir, MEBIBYTE)  # what is made once
    before = memory(weir)
    forget_peak(weir)
    pass_file(weir, FILE_SIZE)
    assert peak(weir) - before < 16 * MEBIBYTE


def pass_file(weir: Weir, size: int) -> None:
    """Upload, download and delete a file."""
    given = {"files": {"file": ("in.jsonl", bytes(size))}, "data": {"purpose": "batch"}}
    path = f"/v1/files/{weir.post('/v1/files', key=KEY, **given).json()['id']}"
    with weir.get(f"{path}/content", key=KEY, stream=True) as answer:
        assert sum(map(len, answer.iter_content(MEBIBYTE))) == size
    assert weir.request("DELETE", path, headers={"X-API-Key": KEY}).status_code == 200


def forget_peak(weir: Weir) -> None:
    [worker] = weir.pids()
    Path(f"/proc/{worker}/clear_refs").write_text("5")


def peak(weir: Weir) -> int:
    """The most memory that its only worker has had since then, in bytes."""
    [worker] = weir.pids()
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
