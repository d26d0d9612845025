"""Does with LiteLLM's client what its users do, and tells what came of it."""

from __future__ import annotations

import json
import os
from typing import Any

from checks import API_KEY, BASE_URL, EXHAUSTED_KEY, MODEL, asked, failing, fault, run
from pydantic import BaseModel

# Else it fetches a list of prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.exceptions import MidStreamFallbackError

litellm.suppress_debug_info = True

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place", "days"],
        },
    },
}


class Event(BaseModel):
    """A structured answer."""

    name: str
    day: int
    guests: list[str]


def _request(text: str, **rest: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{MODEL}",
        "messages": [{"role": "user", "content": text}],
        "api_base": BASE_URL,
        "api_key": API_KEY,
        "timeout": 20,
        "max_retries": 0,
        **rest,
    }


def _complete(text: str, **rest: Any) -> Any:
    return litellm.completion(**_request(text, **rest))


def _joined(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# -- chat --


def a_completion_is_answered() -> None:
    answer = _complete("a plain chat", temperature=0.2, seed=7)
    assert "a plain chat" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens > 0
    (call,) = asked("a plain chat")
    assert (call["body"]["temperature"], call["body"]["seed"]) == (0.2, 7)


def a_stream_brings_the_answer_in_pieces() -> None:
    chunks = [*_complete("one two three four", stream=True)]
    assert "one two three four" in _joined(chunks)
    assert len([chunk for chunk in chunks if _joined([chunk])]) > 1


def a_stream_ends_with_its_usage_when_asked() -> None:
    chunks = [*_complete("usage please", stream=True, stream_options={"include_usage": True})]
    assert chunks[-1].usage.total_tokens > 0
    plain = _complete("usage please")
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens


async def a_completion_is_awaited_and_streamed() -> None:
    answer = await litellm.acompletion(**_request("in a while"))
    stream = await litellm.acompletion(**_request("in a while", stream=True))
    assert _joined([chunk async for chunk in stream]) == answer.choices[0].message.content


def a_tool_is_called() -> None:
    choice = _complete("weather in Ulm", tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"place", "days"}


def a_streamed_tool_call_can_be_put_together() -> None:
    chunks = [*_complete("weather in Bonn", tools=[WEATHER], stream=True)]
    whole: Any = litellm.stream_chunk_builder(chunks)
    (call,) = whole.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"place", "days"}


def a_structured_answer_fits_its_schema() -> None:
    answer = _complete("a party", response_format=Event)
    Event.model_validate_json(answer.choices[0].message.content)


# -- embeddings --


def texts_are_embedded() -> None:
    made = litellm.embedding(
        model=f"openai/{MODEL}",
        input=["the first text", "the second text"],
        api_base=BASE_URL,
        api_key=API_KEY,
    )
    first, second = (one["embedding"] for one in made.data)
    assert first != second
    assert all(isinstance(number, float) for number in [*first, *second])
    assert made.usage.total_tokens > 0


# -- errors --


def a_bad_key_is_an_authentication_error() -> None:
    with failing(litellm.AuthenticationError) as failed:
        _complete("let me in", api_key="sk-not-a-key-of-yours")
    assert failed.error.status_code == 401


def a_refused_request_is_a_bad_request() -> None:
    fault(status=400)
    with failing(litellm.BadRequestError) as failed:
        _complete("refused over there")
    assert "told to answer 400" in str(failed.error)


def a_limit_is_a_rate_limit_error() -> None:
    for number in (1, 2):
        _complete(f"within the limit {number}", api_key=EXHAUSTED_KEY)
    with failing(litellm.RateLimitError) as failed:
        _complete("one too many", api_key=EXHAUSTED_KEY)
    assert failed.error.status_code == 429


def a_provider_that_fails_is_a_bad_gateway() -> None:
    fault(status=500)
    with failing(litellm.BadGatewayError) as failed:
        _complete("fail over there")
    assert failed.error.status_code == 502


def a_busy_provider_is_a_service_that_is_not_available() -> None:
    fault(status=429)
    with failing(litellm.ServiceUnavailableError) as failed:
        _complete("busy over there")
    assert failed.error.status_code == 503


def a_failure_is_tried_again() -> None:
    fault(status=500, times=1)
    answer = _complete("second time lucky", max_retries=1)
    assert "second time lucky" in answer.choices[0].message.content
    assert len(asked("second time lucky")) == 2


def a_stream_that_breaks_off_is_an_error() -> None:
    fault(error_event=True, pieces=5)
    with failing(litellm.APIError, MidStreamFallbackError):
        [*_complete("it breaks", stream=True)]


if __name__ == "__main__":
    run(globals())
