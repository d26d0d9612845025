"""Does with the official Anthropic SDK for Python what its users do, and tells what came of it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import anthropic
from anthropic import Anthropic, AsyncAnthropic, beta_tool
from checks import API_KEY, EXHAUSTED_KEY, asked, failing, fault, run, wait_until
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import SecretStr

MODEL = os.environ["CLAUDE"]
URL = os.environ["ANTHROPIC_URL"]
CLIENT = Anthropic(base_url=URL, api_key=API_KEY, timeout=20)
IMPATIENT = CLIENT.with_options(max_retries=0)
PROVIDER = Anthropic(base_url=os.environ["ANTHROPIC_PROVIDER_URL"], api_key="sk-ant-none")
BOTH = (CLIENT, PROVIDER)
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["place", "days"],
}
WEATHER: Any = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
TIME: Any = {"name": "get_time", "description": "The time of a place.", "input_schema": SCHEMA}


def _asking(text: str, **fields: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "max_tokens": 200, "messages": messages, **fields}


def _error(kind: type[anthropic.APIStatusError], status: int, **request: Any) -> Any:
    """The error of a request that must fail so."""
    client = request.pop("client", IMPATIENT)
    with failing(kind) as failed:
        client.messages.create(**request)
    error = failed.error
    assert (type(error), error.status_code) == (kind, status), repr(error)
    assert error.body["type"] == "error", error.body
    assert error.request_id == error.body["request_id"], error.body
    return error


# -- messages --


def a_message_is_created() -> None:
    message = CLIENT.messages.create(**_asking("a plain message"))
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.content[0].type == "text"
    assert "a plain message" in message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message._request_id


def a_token_is_taken_as_a_key() -> None:
    client = Anthropic(base_url=URL, auth_token=API_KEY, api_key=None)
    assert client.messages.create(**_asking("by a bearer token")).content


def a_message_is_the_provider_s_own_in_every_field() -> None:
    def whole(client: Anthropic) -> Any:
        return client.messages.create(**_asking("what it is")).to_dict()

    assert whole(CLIENT) == whole(PROVIDER)


def events_are_the_provider_s_own() -> None:
    def streamed(client: Anthropic, **fields: Any) -> Any:
        stream = client.messages.create(**_asking("weather and time", stream=True, **fields))
        return [event.to_dict() for event in stream]

    for fields in ({}, {"tools": [WEATHER, TIME]}, {"system": "Be brief."}):
        assert streamed(CLIENT, **fields) == streamed(PROVIDER, **fields)


def events_of_the_helper_are_the_provider_s_own() -> None:
    def streamed(client: Anthropic, **fields: Any) -> Any:
        with client.messages.stream(**_asking("weather in Ulm", **fields)) as stream:
            return [event.to_dict() for event in stream], stream.get_final_message().to_dict()

    for fields in ({}, {"tools": [WEATHER]}):
        assert streamed(CLIENT, **fields) == streamed(PROVIDER, **fields)


def a_cached_stream_is_the_same_stream() -> None:
    def streamed() -> Any:
        return [*CLIENT.messages.create(**_asking("streamed twice", stream=True))]

    assert streamed() == streamed()
    assert len(asked("streamed twice")) == 1


def an_equal_question_is_answered_from_the_cache() -> None:
    def raw(**headers: str) -> Any:
        return CLIENT.messages.with_raw_response.create(
            **_asking("asked twice"), extra_headers=headers
        )

    first, second, beta = raw(), raw(), raw(**{"anthropic-beta": "some-beta-2026-01-01"})
    states = [answer.headers.get("x-cache") for answer in (first, second, beta)]
    assert states == ["MISS", "HIT", "MISS"], states
    assert first.parse() == second.parse()


def every_parameter_and_beta_reaches_the_provider() -> None:
    sent: dict[str, Any] = {
        "max_tokens": 3000,
        "system": [{"type": "text", "text": "Brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "every parameter", "cache_control": None},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGOD"},
                    },
                ],
            }
        ],
        "stop_sequences": ["END"],
        "metadata": {"user_id": "someone"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    CLIENT.beta.messages.create(model=MODEL, betas=["one-beta", "two-beta"], **sent)
    (call,) = asked("every parameter")
    assert call["body"] == {"model": MODEL, **sent}, call["body"]
    assert call["headers"]["anthropic-beta"] == "one-beta,two-beta", call["headers"]
    version = CLIENT.default_headers["anthropic-version"]
    assert call["headers"]["anthropic-version"] == version, call["headers"]


def an_answer_tells_the_limits_in_headers() -> None:
    raw = CLIENT.messages.with_raw_response.create(**_asking("limits"))
    limit = int(raw.headers["anthropic-ratelimit-requests-limit"])
    assert 0 < int(raw.headers["anthropic-ratelimit-requests-remaining"]) < limit == 9999
    assert raw.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


# -- streams --


def the_stream_helper_brings_the_text() -> None:
    with CLIENT.messages.stream(**_asking("one two three four")) as stream:
        texts = [*stream.text_stream]
        message = stream.get_final_message()
    assert len(texts) > 1
    assert message.content[0].type == "text"
    assert "".join(texts) == message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0


def a_stream_that_breaks_off_is_an_error() -> None:
    for number, wrong in enumerate(("cut", "error_event", "no_finish")):
        fault(**{wrong: True, "pieces": 5})
        stream = IMPATIENT.messages.create(**_asking(f"it breaks {number}", stream=True))
        with failing(anthropic.APIStatusError) as failed:
            assert all(event.type != "message_stop" for event in stream)
        assert failed.error.body["type"] == "error", failed.error


def a_stream_that_is_closed_ends_at_the_provider() -> None:
    fault(gap=0.2, pieces=100)
    stream = CLIENT.messages.create(**_asking("I hang up early", stream=True))
    for event in stream:
        if event.type == "content_block_delta":
            break
    stream.close()
    wait_until(lambda: asked("I hang up early")[0]["hung_up"])


# -- tools --


def tools_are_called_and_their_results_taken_back() -> None:
    question = _asking("weather and time in Ulm", tools=[WEATHER, TIME])
    message = CLIENT.messages.create(**question)
    assert message.stop_reason == "tool_use"
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [use.name for use in uses] == ["get_weather", "get_time"]
    results = [
        {"type": "tool_result", "tool_use_id": use.id, "content": f"fine {use.name}"}
        for use in uses
    ]
    question["messages"] += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": results},
    ]
    answer = CLIENT.messages.create(**question)
    assert answer.content[0].type == "text"
    assert "fine get_weather fine get_time" in answer.content[0].text


def the_tool_runner_runs_a_tool() -> None:
    places = []

    @beta_tool
    def get_weather(place: str) -> str:
        """The weather of a place."""
        places.append(place)
        return "sunny by the runner"

    runner = CLIENT.beta.messages.tool_runner(**_asking("weather in Bonn"), tools=[get_weather])
    final = runner.until_done()
    assert len(places) == 1
    assert final.content[0].type == "text"
    assert "sunny by the runner" in final.content[0].text


# -- tokens and models --


def tokens_are_counted_by_the_provider() -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    counts = [client.messages.count_tokens(model=MODEL, messages=messages) for client in BOTH]
    assert [count.input_tokens for count in counts] == [3, 3]
    raw = CLIENT.messages.with_raw_response.count_tokens(model=MODEL, messages=messages)
    assert raw.headers["x-weir-provider"] == "anthropic"
    beta = CLIENT.beta.messages.count_tokens(model=MODEL, messages=messages)
    assert beta.input_tokens == 3


def tokens_are_estimated_for_another_provider() -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    count = CLIENT.messages.count_tokens(model="openai/stand-in-1", messages=messages)
    assert 3 <= count.input_tokens <= 10


def models_are_listed_page_by_page() -> None:
    names = [model.id for model in CLIENT.models.list(limit=1)]
    assert names == [model.id for model in CLIENT.models.list()]
    assert MODEL in names
    model = CLIENT.models.retrieve(MODEL)
    assert (model.id, model.type, model.lifecycle) == (MODEL, "model", "active")
    assert model.created_at.year >= 1970
    assert [model.id for model in CLIENT.beta.models.list()] == names


# -- errors --


def errors_have_their_types() -> None:
    wrong_key = Anthropic(base_url=URL, api_key="sk-wrong", max_retries=0)
    _error(anthropic.AuthenticationError, 401, client=wrong_key, **_asking("hello"))
    invalid = _error(anthropic.BadRequestError, 400, **_asking("hello", messages=[]))
    assert "messages" in invalid.message
    missing = {"status": 404, "code": "model_not_found"}
    fault(**missing)
    _error(anthropic.NotFoundError, 404, **_asking("no such model"))
    fault(status=400)
    refused = _error(anthropic.BadRequestError, 400, **_asking("refused"))
    assert "told to answer 400" in refused.message
    fault(status=429)
    _error(anthropic.OverloadedError, 529, **_asking("busy"))
    fault(status=500)
    failed = _error(anthropic.InternalServerError, 502, **_asking("failed"))
    assert failed.body["error"]["type"] == "api_error"


def the_limit_of_a_key_is_an_error() -> None:
    few = Anthropic(base_url=URL, api_key=EXHAUSTED_KEY, max_retries=0)
    for _ in range(2):
        few.messages.create(**_asking("few"))
    error = _error(anthropic.RateLimitError, 429, client=few, **_asking("few"))
    assert 0 < int(error.response.headers["retry-after"]) <= 60


def a_failed_call_is_tried_again() -> None:
    fault(status=529, times=1)
    raw = CLIENT.messages.with_raw_response.create(**_asking("later, please"))
    assert raw.retries_taken == 1


def what_weir_does_not_have_is_not_found() -> None:
    with failing(anthropic.NotFoundError) as failed:
        IMPATIENT.messages.batches.list()
    assert failed.error.body["error"]["type"] == "not_found_error"


# -- asynchronous --


async def many_are_answered_at_once() -> None:
    async with AsyncAnthropic(base_url=URL, api_key=API_KEY) as client:

        async def ask(number: int) -> bool:
            async with client.messages.stream(**_asking(f"question number {number}.")) as stream:
                return f"question number {number}." in await stream.get_final_text()

        assert all(await asyncio.gather(*(ask(number) for number in range(40))))


# -- LangChain --


@tool("get_weather")
def _get_weather(place: str) -> str:
    """The weather of a place."""
    return f"sunny in {place}"


def _chat_model() -> ChatAnthropic:
    return ChatAnthropic(
        model_name=MODEL, base_url=URL, api_key=SecretStr(API_KEY), timeout=20, stop=None
    )


def a_model_of_langchain_is_invoked() -> None:
    answer = _chat_model().invoke("by LangChain")
    assert "by LangChain" in str(answer.content)
    assert answer.usage_metadata
    assert answer.usage_metadata["total_tokens"] > 0


def a_model_of_langchain_streams() -> None:
    chunks = [*_chat_model().stream("one two three four")]
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert "one two three four" in str(whole.text)
    assert whole.usage_metadata


def a_tool_of_langchain_is_called() -> None:
    model = _chat_model().bind_tools([_get_weather])
    question = HumanMessage("weather in Linz")
    called = model.invoke([question])
    (call,) = called.tool_calls
    result = ToolMessage(_get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert "sunny in" in str(model.invoke([question, called, result]).content)


if __name__ == "__main__":
    run(globals())
