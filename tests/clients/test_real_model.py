"""A provider that nobody here wrote: llama.cpp's server with a real model, small and on the CPU.

What a client gets through Weir is compared with what the server sends it directly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.environments import CLIENTS, CouldNotInstall, python_environment
from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.servers import Server, Weir, wait_until

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("CI")), reason="The real model is not for CI: 127 MB, and slow on its CPUs."
)

KEYS = ("first_key_0123456789", "other_key_0123456789")
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
TIMEOUT = 120.0
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TOOLS = [{"type": "function", "function": {"name": "get_time", "parameters": SCHEMA}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


class RealModel(Server):
    """llama.cpp's server."""

    def __init__(self, python: Path) -> None:
        super().__init__()
        self._python = python

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=TIMEOUT).json()

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(self.url + path, json={"model": "smollm2"} | body, timeout=TIMEOUT)

    @property
    def is_idle(self) -> bool:
        return not any(slot["is_processing"] for slot in self.get("/slots"))

    def _command(self) -> list[str]:
        return [str(self._python), str(CLIENTS / "real_model" / "serve.py"), str(self.port)]

    def _is_ready(self) -> bool:
        try:
            return bool(self.get("/health")["status"] == "ok")
        except (requests.RequestException, LookupError):
            return False


@pytest.fixture(scope="module")
def model() -> Iterator[RealModel]:
    try:
        python = python_environment("real_model", dependencies=False)
    except CouldNotInstall as error:
        pytest.skip(f"The wheels of the real model cannot be had here: {error}")
    with RealModel(python) as server:
        yield server


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, model: RealModel) -> Weir:
    return start_shared_weir(
        API_KEYS=",".join(f"key{n}:enterprise:{key}" for n, key in enumerate(KEYS)),
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=f"{model.url}/v1",
        LLM_MAX_RETRIES=0,
    )


def ask(weir: Weir, body: Any, path: str = CHAT, key: str = KEYS[0]) -> requests.Response:
    return weir.post(path, key=key, json=body, timeout=TIMEOUT)


def said(text: Any, **fields: Any) -> dict[str, Any]:
    """A request that is answered the same each time: greedily, without the server's own cache."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return body | {"temperature": 0, "cache_prompt": False} | fields


def lasting(body: dict[str, Any]) -> dict[str, Any]:
    """What is the same each time."""
    return {k: v for k, v in body.items() if k not in {"id", "created", "timings"}}


def chunks(answer: requests.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [lasting(json.loads(line)) for line in lines]


PLAIN = {
    "chat": said("Say hi."),
    "history": said("And then?")
    | {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "Two"},
            {"role": "user", "content": [{"type": "text", "text": "Three"}]},
        ]
    },
    "logprobs": said("Name a river.", logprobs=True, top_logprobs=2),
    "json_schema": said(
        "Describe a person.",
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}},
    ),
    "tools": said("What time is it?", tools=TOOLS, tool_choice="auto"),
    "stop": said("Count: 1 2 3", stop=["3", "."]),
    "unknown to OpenAI": said("Say hello.", top_k=1, min_p=0.1, seed=3, n_predict=4),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_answer_is_the_server_s_own(weir: Weir, model: RealModel, name: str) -> None:
    answer = ask(weir, PLAIN[name])
    assert answer.status_code == 200, answer.text
    assert lasting(answer.json()) == lasting(model.post(CHAT, PLAIN[name]).json())
    row = booked(weir, answer)
    usage = answer.json()["usage"]
    assert row["input_tokens"] == usage["prompt_tokens"]
    assert row["output_tokens"] == usage["completion_tokens"]
    assert (row["state"], row["estimated"]) == ("settled", 0)
    if name == "json_schema":
        assert json.loads(answer.json()["choices"][0]["message"]["content"]).keys() == {
            "name",
            "age",
        }


@pytest.mark.parametrize("asked", [False, True], ids=["without-usage", "with-usage"])
@pytest.mark.parametrize("name", ["chat", "logprobs"])
def test_a_stream_is_the_server_s_own(weir: Weir, model: RealModel, name: str, asked: bool) -> None:
    body = PLAIN[name] | {"stream": True}
    if asked:
        body["stream_options"] = {"include_usage": True}
    answer = ask(weir, body)
    assert answer.status_code == 200, answer.text
    assert chunks(answer) == chunks(model.post(CHAT, body))
    assert booked(weir, answer)["estimated"] == 0


def test_several_choices_all_reach_the_client(weir: Weir) -> None:
    plain = ask(weir, said("Two of them.", n=2)).json()
    assert [choice["index"] for choice in plain["choices"]] == [0, 1]
    streamed = chunks(ask(weir, said("Two of them.", n=2, stream=True)))
    ended = [c["index"] for chunk in streamed for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ended) == [0, 1]


@pytest.mark.parametrize(
    "body",
    [
        {"input": "A weir."},
        {"input": ["A weir.", "A river."]},
        {"input": "A weir.", "encoding_format": "base64"},
        {"input": [504, 17]},
    ],
    ids=["text", "texts", "base64", "tokens"],
)
def test_embeddings_are_the_server_s_own(weir: Weir, model: RealModel, body: Any) -> None:
    answer = ask(weir, body, EMBEDDINGS)
    assert answer.status_code == 200, answer.text
    assert answer.json() == model.post(EMBEDDINGS, body).json()
    assert booked(weir, answer)["input_tokens"] == answer.json()["usage"]["prompt_tokens"]


ERRORS = {
    "context overflow": (CHAT, said("word " * 1500)),
    "temperature": (CHAT, said("x", temperature="hot")),
    "role": (CHAT, {"messages": [{"role": "king", "content": 7}]}),
    "schema": (
        CHAT,
        said(
            "x",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "p", "schema": {"type": "nonsense"}},
            },
        ),
    ),
    "image": (CHAT, said([{"type": "text", "text": "What is this?"}, IMAGE])),
    "no input": (EMBEDDINGS, {"input": ""}),
    "input too long": (EMBEDDINGS, {"input": "word " * 1500}),
}


@pytest.mark.parametrize(
    ("name", "streamed"),
    [(name, streamed) for name in ERRORS for streamed in {False, ERRORS[name][0] == CHAT}],
)
def test_an_error_says_what_the_server_says(
    weir: Weir, model: RealModel, name: str, streamed: bool
) -> None:
    path, body = ERRORS[name]
    body = body | ({"stream": True} if streamed else {})
    direct = model.post(path, body)
    answer = ask(weir, body, path, KEYS[1])
    assert answer.status_code == {400: 400, 500: 502}[direct.status_code], answer.text
    error, words = answer.json()["error"], direct.json()["error"]["message"]
    assert words in error["message"]
    assert isinstance(error["code"], str)
    if direct.status_code == 500:
        assert error["provider"] == {"status": 500, "message": words}
    row = booked(weir, answer)
    assert (row["state"], row["input_tokens"], row["output_tokens"]) == ("failed", 0, 0)


def test_what_one_client_cannot_have_does_not_close_the_model(weir: Weir) -> None:
    content = [IMAGE, {"type": "text", "text": "Which one?"}]
    for number in range(6):
        ask(weir, said(content, seed=number), key=KEYS[1])
    assert ask(weir, said("Still there?")).status_code == 200
    assert ask(weir, {"input": "Still there?"}, EMBEDDINGS).status_code == 200


def test_the_model_is_found_and_is_the_default(weir: Weir) -> None:
    listed = weir.get("/v1/models", key=KEYS[0]).json()["data"]
    assert [(one["id"], one["owned_by"]) for one in listed] == [("smollm2", "llamacpp")]
    assert ask(weir, said("Who are you?")).json()["model"] == "smollm2"


def test_native_endpoints_give_its_text(weir: Weir) -> None:
    body = {"message": "Name a colour.", "temperature": 0, "max_tokens": 4}
    plain = ask(weir, body, "/chat").json()
    assert plain["response"]
    assert plain["usage"]["output_tokens"] == 4
    with weir.stream("/chat", body | {"stream": True, "system": "Be kind."}, KEYS[0]) as stream:
        *pieces, done, _ = stream
    assert len(pieces) > 1
    assert json.loads(done)["usage"]["output_tokens"] == 4


def test_the_server_stops_when_the_client_leaves(weir: Weir, model: RealModel) -> None:
    body = said("Tell a long story.", max_tokens=400, stream=True)
    with weir.stream(CHAT, body, KEYS[0]) as stream:
        next(stream)
        assert not model.is_idle
    wait_until(lambda: model.is_idle, 10, "the end of the generation")


def booked(weir: Weir, answer: requests.Response) -> dict[str, Any]:
    """The ledger's row of a request's only call."""
    books = Books(weir)
    books.settled(1)
    request_id = answer.headers["X-Request-ID"]
    [row] = [row for row in books.rows() if row["request_id"] == request_id]
    return row
