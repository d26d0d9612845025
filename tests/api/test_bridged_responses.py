"""Responses of targets that have none: chat completions (Azure's dated API) and a Claude, by the
openai SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir

KEY = "test_key_0123456789"
CHAT, CLAUDE = "chat", "claude"
NAMES = {CHAT: "my-gpt", CLAUDE: "stand-in-claude"}
SCHEMA = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
TOOL: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
PATCH: Any = {"type": "custom", "name": "apply_patch", "description": "Edits files"}
both = pytest.mark.parametrize("model", [CHAT, CLAUDE])


class City(BaseModel):
    city: str


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        AZURE_OPENAI_ENDPOINT=provider.azure_url,
        AZURE_OPENAI_API_KEY="azure-secret-0123456789",
        OPENAI_API_VERSION="2024-10-21",
        OPENAI_BASE_URL=provider.base_url,
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        MODEL_ROUTES="chat=azure/my-gpt;claude=anthropic/stand-in-claude;"
        "openai=openai/stand-in-1;either=azure/my-gpt>anthropic/stand-in-claude",
        LLM_TIMEOUT=2,
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )


@pytest.fixture(scope="module")
def client(weir: Weir) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{weir.url}/v1", max_retries=0) as client:
        yield client


@both
def test_a_response_is_created_and_streamed(client: openai.OpenAI, model: str) -> None:
    asked: Any = {"model": model, "input": f"the same of {model}", "instructions": "Be brief."}
    created = client.responses.create(**asked)
    assert created.status == "completed"
    assert created.output_text.endswith(f"echo: the same of {model}")
    assert (created.instructions, created.model) == ("Be brief.", NAMES[model])
    assert created.usage
    assert created.usage.input_tokens > 0 < created.usage.output_tokens
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == final.output_text == created.output_text
    assert final.usage == created.usage


@both
def test_a_schema_is_followed(client: openai.OpenAI, model: str) -> None:
    parsed = client.responses.parse(model=model, input="Where?", text_format=City)
    assert isinstance(parsed.output_parsed, City)


@both
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_and_their_results_are_read(
    client: openai.OpenAI, model: str, streamed: bool
) -> None:
    asked: Any = {
        "model": model, "tools": [TOOL, PATCH], "store": False,
        "include": ["reasoning.encrypted_content"],
    }  # fmt: skip
    if model == CLAUDE:  # which wants its signed thinking back
        asked["reasoning"] = {"effort": "low", "summary": "auto"}
    history: list[Any] = [{"role": "user", "content": f"weather and apply_patch {streamed}"}]
    if streamed:
        with client.responses.stream(input=history, **asked) as stream:
            answered: Any = stream.get_final_response()
    else:
        answered = client.responses.create(input=history, **asked)
    kinds = [item.type for item in answered.output]
    assert kinds == [
        *(["reasoning"] if model == CLAUDE else []),
        "function_call",
        "custom_tool_call",
    ]
    *_, call, patch = answered.output
    assert (call.name, patch.name) == ("weather", "apply_patch")
    assert json.loads(call.arguments).keys() == {"city"}
    history += [item.to_dict() for item in answered.output]
    history += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "9 degrees"},
        {"type": "custom_tool_call_output", "call_id": patch.call_id, "output": "patched"},
    ]
    for item in history:
        item.pop("parsed_arguments", None)  # which the SDK adds
    told = client.responses.create(input=history, **asked).output_text
    assert "patched" in told


@both
def test_what_cannot_be_carried_over_is_named(client: openai.OpenAI, model: str) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ]
    for fields, parameter in refused:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(**{"model": model, "input": "hello", **fields})
        assert refusal.value.param == parameter
        assert refusal.value.code == "unsupported_parameter"


@both
def test_nothing_is_kept(client: openai.OpenAI, model: str) -> None:
    created = client.responses.create(model=model, input="keep this", store=True)
    assert created.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created.id)
    with pytest.raises(openai.BadRequestError) as refusal:
        client.responses.create(model=model, input="and?", previous_response_id=created.id)
    assert refusal.value.param == "previous_response_id"


@both
def test_a_stream_that_breaks_has_failed(client: openai.OpenAI, model: str) -> None:
    broken = "it breaks [[fault:cut,pieces=5]]"
    *before, last = client.responses.create(model=model, input=broken, stream=True)
    assert last.type == "response.failed"
    assert before[0].type == "response.created"
    assert last.response.id == before[0].response.id
    assert last.sequence_number == before[-1].sequence_number + 1


@both
def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI, model: str) -> None:
    words = " ".join(["word"] * 40)
    answered = client.responses.create(model=model, input=words, max_output_tokens=16)
    if model == CLAUDE:  # the other stand-in knows no limit
        assert answered.status == "incomplete"
        assert answered.incomplete_details
        assert answered.incomplete_details.reason == "max_output_tokens"


def test_the_limit_has_the_name_that_the_server_knows(
    client: openai.OpenAI, provider: Provider
) -> None:
    client.responses.create(model=CHAT, input="a limited one", max_output_tokens=33)
    [call] = [one for one in provider.calls() if "a limited one" in str(one["body"])]
    assert call["body"]["max_completion_tokens"] == 33
    assert "max_output_tokens" not in call["body"]


def test_openai_goes_on_where_a_claude_has_thought(
    client: openai.OpenAI, provider: Provider
) -> None:
    history: list[Any] = [{"role": "user", "content": "thought of a Claude"}]
    thought = client.responses.create(model=CLAUDE, input=history, reasoning={"effort": "low"})
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    history += [item.to_dict() for item in thought.output]
    history.append({"role": "user", "content": "and now another"})
    client.responses.create(model="openai", input=history)
    [call] = [one for one in provider.calls("/v1/responses") if "and now" in str(one["body"])]
    assert call["body"]["input"] == [item for item in history if item.get("type") != "reasoning"]


@pytest.mark.parametrize("fault", ["status=500", "role_then_cut"])
def test_a_claude_answers_where_a_server_of_chat_completions_fails(
    client: openai.OpenAI, fault: str
) -> None:
    words = f"fails over [[fault:{fault},model=my-gpt]]"
    events: Any = client.responses.create(model="either", input=words, stream=True)
    created, *_, last = events
    assert (created.type, last.type) == ("response.created", "response.completed")
    assert (created.sequence_number, last.response.model) == (0, "stand-in-claude")
    assert created.response.id == last.response.id
    assert last.response.output_text == "echo: fails over"
