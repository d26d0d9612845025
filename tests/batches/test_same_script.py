"""One script of the openai SDK at Weir in direct mode, in native mode, and at the provider itself:
it uploads, creates, polls, downloads and cancels, and gets the same everywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.conftest import MakeWeir
from tests.support.batches import CHAT, ENDED, jsonl, line
from tests.support.servers import Provider, Weir, wait_until

KEY = "test_key_0123456789"
TOOLS = [{"type": "function", "function": {"name": "f"}}]
# With a limit on the output: Weir would add one, and the stand-in's ids depend on the body.
LINES = [
    line("first", "one", max_tokens=50),
    line("second", "two", max_tokens=50, temperature=0.5, tools=TOOLS),
    line("refused", "three [[fault:status=400,code=invalid_value]]", max_tokens=50),
]


@dataclass(frozen=True)
class Results:
    """What the script saw: states in order aside, as they pass at different speeds."""

    status: str
    counts: dict[str, int]
    answers: dict[str, Any]
    refused: dict[str, int]
    listed: bool
    cancelled: bool
    deleted: bool


def script(client: openai.OpenAI, metadata: dict[str, str]) -> Results:
    """As a user of OpenAI's Batch API writes it."""
    file = client.files.create(file=("lines.jsonl", jsonl(LINES)), purpose="batch")
    assert client.files.content(file.id).read() == jsonl(LINES)
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata=metadata
    )

    def has_ended() -> bool:
        return client.batches.retrieve(batch.id).status in ENDED

    wait_until(has_ended, 60, "the end of the batch", pause=0.1)
    ended = client.batches.retrieve(batch.id)
    assert ended.metadata == metadata
    assert ended.output_file_id
    assert ended.error_file_id
    assert ended.request_counts
    output = client.files.content(ended.output_file_id).read().splitlines()
    errors = client.files.content(ended.error_file_id).read().splitlines()
    another = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata=metadata
    )
    cancelled = client.batches.cancel(another.id)
    return Results(
        ended.status,
        ended.request_counts.to_dict(),
        {one["custom_id"]: without_ids(one["response"]["body"]) for one in map(json.loads, output)},
        {one["custom_id"]: one["response"]["status_code"] for one in map(json.loads, errors)},
        ended.id in [one.id for one in client.batches.list()],
        cancelled.status in {"cancelling", "cancelled"},
        client.files.delete(file.id).deleted,
    )


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in {"id", "created"}}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        MODEL_PRICES="openai/*: input=1, output=2, max_output=1000, batch.factor=0.5",
        OPENAI_API_KEY="sk-up",
        OPENAI_BASE_URL=provider.base_url,
    )


@pytest.fixture
def expected(provider: Provider) -> Results:
    """What the provider itself gives."""
    with openai.OpenAI(base_url=provider.base_url, api_key="sk-up", max_retries=0) as client:
        return script(client, {"project": "x"})


@pytest.mark.parametrize("mode", ["direct", "native"])
def test_the_script_gets_the_same_as_at_the_provider_itself(
    weir: Weir, expected: Results, mode: str
) -> None:
    metadata = {"project": "x"} if mode == "direct" else {"weir_mode": mode}
    with openai.OpenAI(base_url=f"{weir.url}/v1", api_key=KEY, max_retries=0) as client:
        assert script(client, metadata) == expected
    newest = weir.get("/v1/batches?limit=2", key=KEY).json()["data"][-1]["weir"]
    assert newest["mode"] == mode
