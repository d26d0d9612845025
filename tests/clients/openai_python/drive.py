"""Does with the official OpenAI SDK for Python what its users do, and tells what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, cast

import openai
from checks import (
    API_KEY,
    BASE_URL,
    EXHAUSTED_KEY,
    MODEL,
    PROVIDER_URL,
    SLOW_KEY,
    asked,
    failing,
    fault,
    run,
    wait_until,
)
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from pydantic import BaseModel

CLIENT = OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=20)
IMPATIENT = CLIENT.with_options(max_retries=0)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
WEATHER_FIELDS = WEATHER["function"]["parameters"]  # type: ignore[index]
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


class Event(BaseModel):
    """A structured answer."""

    name: str
    day: int
    guests: list[str]


class Weather(BaseModel):
    """The arguments of a tool."""

    place: str
    days: int


def _user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def _joined(chunks: Iterable[ChatCompletionChunk]) -> str:
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.delta
    )


def _error(kind: type[openai.APIStatusError], status: int, **request: Any) -> Any:
    """The error of a chat request that must fail so."""
    client = request.pop("client", IMPATIENT)
    with failing(kind) as failed:
        client.chat.completions.create(**{"model": MODEL, **request})
    assert failed.error.status_code == status, failed.error
    assert {"message", "type", "param", "code"} <= failed.error.body.keys(), failed.error.body
    return failed.error


# -- chat --


def a_chat_is_answered() -> None:
    answer = CLIENT.chat.completions.create(model=MODEL, messages=_user("a plain chat"))
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert "a plain chat" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def a_request_has_an_id() -> None:
    answer = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("an id"), extra_headers={"X-Request-ID": "my-own-id.1"}
    )
    assert answer._request_id == "my-own-id.1", answer._request_id


def an_answer_tells_the_limits_in_headers() -> None:
    raw = CLIENT.chat.completions.with_raw_response.create(model=MODEL, messages=_user("limits"))
    limit = int(raw.headers["x-ratelimit-limit-requests"])
    assert 0 < int(raw.headers["x-ratelimit-remaining-requests"]) < limit == 9999
    assert raw.headers["x-ratelimit-reset-requests"]
    assert raw.parse().choices


def an_equal_question_is_answered_from_the_cache() -> None:
    ask = CLIENT.chat.completions.with_raw_response.create
    first = ask(model=MODEL, messages=_user("asked twice"))
    second = ask(model=MODEL, messages=_user("asked twice"))
    fresh = ask(
        model=MODEL, messages=_user("asked twice"), extra_headers={"Cache-Control": "no-cache"}
    )
    states = [answer.headers.get("x-cache") for answer in (first, second, fresh)]
    assert states == ["MISS", "HIT", "BYPASS"], states
    assert first.parse() == second.parse() == fresh.parse()
    assert len(asked("asked twice")) == 2


def every_parameter_reaches_the_provider() -> None:
    sent: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "what is in every picture?"},
                    {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
                ],
            },
        ],
        "temperature": 0.3,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "max_completion_tokens": 50,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"50256": -100},
        "user": "someone",
        "metadata": {"why": "a test"},
        "reasoning_effort": "low",
    }
    unknown = {"x_future_field": {"deep": [1, None, "ü"]}}
    CLIENT.chat.completions.create(model=MODEL, **sent, extra_body=unknown)
    (call,) = asked("what is in every picture?")
    assert call["body"] == {"model": MODEL, **sent, **unknown}, call["body"]


def an_answer_is_the_provider_s_own_in_every_field() -> None:
    def whole(client: OpenAI) -> Any:
        answer = client.chat.completions.create(model=MODEL, messages=_user("what it is"))
        return answer.to_dict()

    def streamed(client: OpenAI) -> Any:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=_user("what it is"),
            stream=True,
            stream_options={"include_usage": True},
        )
        return [chunk.to_dict() for chunk in stream]

    provider = OpenAI(base_url=PROVIDER_URL, api_key="none")
    assert whole(CLIENT) == whole(provider)
    assert streamed(CLIENT) == streamed(provider)


def several_choices_come_back() -> None:
    answer = CLIENT.chat.completions.create(model=MODEL, messages=_user("three of you"), n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)


def several_choices_are_streamed() -> None:
    stream = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("three streams"), n=3, stream=True
    )
    assert {choice.index for chunk in stream for choice in chunk.choices} == {0, 1, 2}


def log_probabilities_come_back() -> None:
    answer = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("how likely?"), logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert "".join(one.token for one in logprobs.content) == answer.choices[0].message.content
    assert all(one.logprob <= 0 for one in logprobs.content)


# -- streams --


def a_stream_brings_the_answer_in_pieces() -> None:
    stream = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("one two three four"), stream=True
    )
    chunks = [*stream]
    assert "one two three four" in _joined(chunks)
    assert len([chunk for chunk in chunks if _joined([chunk])]) > 1
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def a_stream_tells_no_usage_unless_asked() -> None:
    stream = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("no usage please"), stream=True
    )
    for chunk in stream:
        assert chunk.choices, chunk
        assert "usage" not in chunk.model_fields_set, chunk


def a_stream_ends_with_its_usage_when_asked() -> None:
    *chunks, last = CLIENT.chat.completions.create(
        model=MODEL,
        messages=_user("usage please"),
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.choices == []
    assert last.usage
    assert last.usage.total_tokens > 0
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def a_cached_stream_is_the_same_stream() -> None:
    def chunks() -> list[ChatCompletionChunk]:
        return [
            *CLIENT.chat.completions.create(
                model=MODEL,
                messages=_user("streamed twice"),
                stream=True,
                stream_options={"include_usage": True},
            )
        ]

    assert chunks() == chunks()
    assert len(asked("streamed twice")) == 1


def the_stream_helper_collects_the_answer() -> None:
    with CLIENT.chat.completions.stream(model=MODEL, messages=_user("collect this")) as stream:
        events = [*stream]
        answer = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    (done,) = [event.content for event in events if event.type == "content.done"]
    assert "".join(deltas) == done == answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def a_stream_that_breaks_off_is_an_error() -> None:
    for number, wrong in enumerate(("cut", "error_event")):
        fault(**{wrong: True, "pieces": 5})
        stream = IMPATIENT.chat.completions.create(
            model=MODEL, messages=_user(f"it breaks {number}"), stream=True
        )
        with failing(openai.APIError) as failed:
            for chunk in stream:
                assert not any(choice.finish_reason for choice in chunk.choices), chunk
        # Not the one for a connection that was lost: it is told.
        assert type(failed.error) is openai.APIError, failed.error
        assert failed.error.message


def a_stream_that_is_closed_ends_at_the_provider() -> None:
    fault(gap=0.2, pieces=100)
    stream = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("I hang up early"), stream=True
    )
    for chunk in stream:
        if _joined([chunk]):
            break
    stream.close()
    wait_until(lambda: asked("I hang up early")[0]["hung_up"])


# -- tools --


def a_tool_is_called() -> None:
    answer = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("weather in Ulm"), tools=cast(Any, [WEATHER])
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments), dict)


def tools_are_called_in_parallel() -> None:
    answer = CLIENT.chat.completions.create(
        model=MODEL,
        messages=_user("weather and time in Ulm"),
        tools=cast(Any, [WEATHER, TIME]),
        parallel_tool_calls=True,
    )
    tool_calls = cast(Any, answer.choices[0].message.tool_calls)
    assert [call.function.name for call in tool_calls] == ["get_weather", "get_time"]
    assert len({call.id for call in tool_calls}) == 2


def tool_calls_are_streamed_piece_by_piece() -> None:
    stream = CLIENT.chat.completions.create(
        model=MODEL,
        messages=_user("weather and time in Bonn"),
        tools=cast(Any, [WEATHER, TIME]),
        stream=True,
    )
    chunks = [*stream]
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function
            if delta.function.name:
                names[delta.index] = delta.function.name
            arguments.setdefault(delta.index, []).append(delta.function.arguments or "")
    assert names == {0: "get_weather", 1: "get_time"}
    assert all(isinstance(json.loads("".join(pieces)), dict) for pieces in arguments.values())
    assert len(arguments[0]) > 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def the_stream_helper_collects_tool_calls() -> None:
    with CLIENT.chat.completions.stream(
        model=MODEL,
        messages=_user("weather in Linz"),
        tools=[openai.pydantic_function_tool(Weather, name="get_weather")],
    ) as stream:
        events = [*stream]
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    (done,) = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    deltas = [
        event.arguments_delta
        for event in events
        if event.type == "tool_calls.function.arguments.delta"
    ]
    assert done.name == call.function.name == "get_weather"
    assert "".join(deltas) == done.arguments == call.function.arguments
    assert isinstance(call.function.parsed_arguments, Weather)


def the_arguments_of_a_tool_are_parsed() -> None:
    answer = CLIENT.chat.completions.parse(
        model=MODEL,
        messages=_user("weather in Graz"),
        tools=[openai.pydantic_function_tool(Weather, name="get_weather")],
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)


def the_result_of_a_tool_is_taken_back() -> None:
    question = _user("weather in Wien")
    first = CLIENT.chat.completions.create(
        model=MODEL, messages=question, tools=cast(Any, [WEATHER])
    )
    message = first.choices[0].message
    (call,) = message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny in Wien"}
    second = CLIENT.chat.completions.create(
        model=MODEL, messages=[*question, cast(Any, message), cast(Any, result)]
    )
    assert second.choices[0].message.content
    (asked_again,) = asked("sunny in Wien")
    assert asked_again["body"]["messages"][-1] == result
    assert asked_again["body"]["messages"][-2]["tool_calls"][0]["id"] == call.id


# -- structured output --


def a_structured_answer_is_parsed() -> None:
    answer = CLIENT.chat.completions.parse(
        model=MODEL, messages=_user("a party"), response_format=Event
    )
    assert isinstance(answer.choices[0].message.parsed, Event)


def the_beta_name_of_parse_works_too() -> None:
    answer = CLIENT.beta.chat.completions.parse(
        model=MODEL, messages=_user("a fair"), response_format=Event
    )
    assert isinstance(answer.choices[0].message.parsed, Event)


def a_structured_answer_is_streamed_and_parsed() -> None:
    with CLIENT.chat.completions.stream(
        model=MODEL, messages=_user("a concert"), response_format=Event
    ) as stream:
        (done,) = [event for event in stream if event.type == "content.done"]
        final = stream.get_final_completion()
    assert isinstance(done.parsed, Event)
    assert done.parsed == final.choices[0].message.parsed


def json_mode_gives_json() -> None:
    answer = CLIENT.chat.completions.create(
        model=MODEL, messages=_user("some JSON"), response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


# -- embeddings --


def an_embedding_is_the_same_in_both_encodings() -> None:
    # The SDK asks for base64 where its user does not choose, and decodes it.
    compact = CLIENT.embeddings.create(model=MODEL, input="embed me")
    plain = CLIENT.embeddings.create(model=MODEL, input="embed me", encoding_format="float")
    wished = [call["body"].get("encoding_format") for call in asked("embed me")]
    assert wished == ["base64", "float"], wished
    assert compact.usage.total_tokens > 0
    pairs = [*zip(compact.data[0].embedding, plain.data[0].embedding, strict=True)]
    assert pairs
    assert all(abs(one - other) < 1e-6 for one, other in pairs)


def embeddings_keep_their_order() -> None:
    texts = ["first", "second", "third"]
    together = CLIENT.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert [one.index for one in together.data] == [0, 1, 2]
    alone = CLIENT.embeddings.create(model=MODEL, input="second", encoding_format="float")
    assert together.data[1].embedding == alone.data[0].embedding
    assert together.data[0].embedding != alone.data[0].embedding


def embeddings_of_tokens_and_of_a_wished_size_are_made() -> None:
    made = CLIENT.embeddings.create(
        model=MODEL, input=[[1, 2, 3], [4, 5]], dimensions=8, encoding_format="float"
    )
    assert [len(one.embedding) for one in made.data] == [8, 8]


# -- models --


def the_models_are_listed() -> None:
    assert MODEL in {model.id for model in CLIENT.models.list()}


def a_model_is_retrieved() -> None:
    model = CLIENT.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")


def a_model_that_does_not_exist_is_not_found() -> None:
    with failing(openai.NotFoundError) as failed:
        IMPATIENT.models.retrieve("no-such/model")
    assert failed.error.code == "model_not_found", failed.error


# -- errors --


def a_bad_key_is_an_authentication_error() -> None:
    stranger = IMPATIENT.with_options(api_key="sk-not-a-key-of-yours")
    _error(openai.AuthenticationError, 401, messages=_user("let me in"), client=stranger)
    with failing(openai.AuthenticationError) as failed:
        stranger.models.list()
    assert failed.error.code
    assert failed.error.request_id


def a_bad_request_names_the_parameter() -> None:
    error = _error(openai.BadRequestError, 400, messages=cast(Any, "not a list"))
    assert (error.type, error.param) == ("invalid_request_error", "messages"), error
    error = _error(openai.BadRequestError, 400, messages=_user("which?"), model=cast(Any, 7))
    assert error.param == "model", error


def a_request_that_the_provider_refuses_is_a_bad_request() -> None:
    fault(status=400)
    error = _error(openai.BadRequestError, 400, messages=_user("refused over there"))
    assert "told to answer 400" in error.message, error


def a_model_that_the_provider_does_not_know_is_not_found() -> None:
    fault(status=404, code="model_not_found")
    error = _error(openai.NotFoundError, 404, messages=_user("which model?"))
    assert error.code == "model_not_found", error


def a_limit_is_a_rate_limit_error() -> None:
    client = IMPATIENT.with_options(api_key=EXHAUSTED_KEY)
    for number in (1, 2):
        client.chat.completions.create(model=MODEL, messages=_user(f"within the limit {number}"))
    error = _error(openai.RateLimitError, 429, messages=_user("one too many"), client=client)
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    assert not asked("one too many")


def a_provider_that_fails_is_a_server_error() -> None:
    fault(status=500)
    error = _error(openai.InternalServerError, 502, messages=_user("fail over there"))
    assert "127.0.0.1" not in error.message, error


def a_provider_that_refuses_weir_s_key_is_a_server_error() -> None:
    fault(status=401)
    _error(openai.InternalServerError, 502, messages=_user("your key is bad"))


def a_busy_provider_says_when_to_come_back() -> None:
    fault(status=429, retry_after="7")
    error = _error(openai.InternalServerError, 503, messages=_user("busy over there"))
    assert error.response.headers["retry-after"] == "7"


def an_error_of_a_stream_keeps_its_status() -> None:
    fault(status=500)
    _error(openai.InternalServerError, 502, messages=_user("stream a failure"), stream=True)


# -- retries --


def a_failure_is_tried_again_by_the_client() -> None:
    fault(status=500, times=1)
    raw = CLIENT.chat.completions.with_raw_response.create(
        model=MODEL, messages=_user("second time lucky")
    )
    assert raw.retries_taken == 1
    assert raw.parse().choices[0].message.content
    assert len(asked("second time lucky")) == 2


def a_limit_is_waited_for_by_the_client() -> None:
    client = CLIENT.with_options(api_key=SLOW_KEY)
    client.chat.completions.create(model=MODEL, messages=_user("the first of this second"))
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=_user("the second of this second")
    )
    assert raw.retries_taken == 1, raw.retries_taken


def a_bad_request_is_not_tried_again() -> None:
    fault(status=400)
    _error(openai.BadRequestError, 400, messages=_user("never again"), client=CLIENT)
    assert len(asked("never again")) == 1


def the_client_gives_up_after_its_retries() -> None:
    fault(status=500)
    client = CLIENT.with_options(max_retries=1)
    _error(openai.InternalServerError, 502, messages=_user("give up"), client=client)
    assert len(asked("give up")) == 2


# -- responses --


def _scripted(client: OpenAI) -> list[Any]:
    """What a client gets in the course of one script, as plain values."""
    look = {"type": "function", "name": "get_weather", "parameters": WEATHER_FIELDS}
    asking: dict[str, Any] = {"model": MODEL, "input": "weather in Rom", "tools": [look]}
    first = client.responses.create(**asking)
    calls = [item for item in first.output if item.type == "function_call"]
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
        for call in calls
    ]
    then: Any = {"previous_response_id": first.id, "input": results}
    second = client.responses.create(model=MODEL, **then)
    thinking: Any = {"reasoning": {"effort": "low"}, "max_output_tokens": 3}
    events = [*client.responses.create(model=MODEL, input="think it over", stream=True, **thinking)]
    with client.responses.stream(model=MODEL, input="a feast", text_format=Event) as stream:
        helped = [*stream]
        parsed = stream.get_final_response()
    found = client.responses.retrieve(second.id)
    items = client.responses.input_items.list(second.id, order="asc")
    told = [first, second, *events, *helped, parsed, found, *items]
    client.responses.delete(second.id)
    with failing(openai.NotFoundError):
        client.responses.retrieve(second.id)
    return [one.model_dump(mode="json") for one in told]


def a_script_of_responses_gets_the_provider_s_own_in_every_field() -> None:
    fault()
    direct = _scripted(OpenAI(base_url=PROVIDER_URL, api_key="sk-any"))
    through = _scripted(CLIENT)
    assert len(through) > 25
    for one, other in zip(through, direct, strict=True):
        assert one == other


def a_response_is_answered() -> None:
    answer = CLIENT.responses.create(model=MODEL, input="a plain response", instructions="Be brief")
    assert "a plain response" in answer.output_text
    assert answer.status == "completed"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def a_response_is_parsed() -> None:
    answer = CLIENT.responses.parse(model=MODEL, input="a feast, please", text_format=Event)
    assert isinstance(answer.output_parsed, Event)
    tools: Any = [openai.pydantic_function_tool(Weather, name="get_weather")["function"]]
    tools = [{"type": "function", **tool} for tool in tools]
    called = CLIENT.responses.parse(model=MODEL, input="weather in Rom", tools=tools)
    [call] = [item for item in called.output if item.type == "function_call"]
    assert json.loads(call.arguments).keys() == {"place", "days"}


def a_stateless_response_is_kept_in_the_cache() -> None:
    ask = CLIENT.responses.with_raw_response.create
    answers = [ask(model=MODEL, input="asked twice", store=False) for _ in range(2)]
    assert [one.headers["x-cache"] for one in answers] == ["MISS", "HIT"]
    assert answers[0].parse() == answers[1].parse()
    kept = ask(model=MODEL, input="asked twice")
    assert kept.headers["x-cache"] == "BYPASS"


def a_response_that_breaks_off_has_failed() -> None:
    fault(cut=True, pieces=5)
    *_, last = CLIENT.responses.create(model=MODEL, input="cut me off", stream=True)
    assert last.type == "response.failed"
    assert last.response.error
    assert last.response.error.code == "server_error"
    with failing(RuntimeError), CLIENT.responses.stream(model=MODEL, input="cut me") as stream:
        stream.get_final_response()


def errors_of_responses_have_their_types() -> None:
    for kind, call in (
        (openai.NotFoundError, lambda: IMPATIENT.responses.retrieve("resp_nothing")),
        (openai.NotFoundError, lambda: IMPATIENT.responses.cancel("resp_nothing")),
        (openai.NotFoundError, lambda: IMPATIENT.responses.input_items.list("resp_nothing")),
        (
            openai.NotFoundError,
            lambda: IMPATIENT.responses.create(
                model=MODEL, input="go on", previous_response_id="resp_nothing"
            ),
        ),
        (
            openai.BadRequestError,
            lambda: IMPATIENT.responses.create(model=MODEL, input="later", background=True),
        ),
    ):
        with failing(kind) as failed:
            call()
        assert {"message", "type", "param", "code"} <= failed.error.body.keys()
    fault(status=429)
    with failing(openai.InternalServerError):
        IMPATIENT.responses.create(model=MODEL, input="too busy", stream=True)


# -- the asynchronous client --


async def an_asynchronous_chat_is_answered() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=_user("in a while"))
    assert "in a while" in (answer.choices[0].message.content or "")


async def an_asynchronous_stream_is_read_and_collected() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=MODEL,
                messages=_user("piece after piece"),
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        async with client.chat.completions.stream(
            model=MODEL, messages=_user("piece after piece")
        ) as stream:
            final = await stream.get_final_completion()
    assert _joined(chunks) == final.choices[0].message.content
    assert chunks[-1].usage


async def asynchronous_tools_structures_embeddings_and_models_work() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        tools = [openai.pydantic_function_tool(Weather, name="get_weather")]
        called, structured, embedded, model = await asyncio.gather(
            client.chat.completions.parse(
                model=MODEL, messages=_user("weather in Rom"), tools=tools
            ),
            client.chat.completions.parse(
                model=MODEL, messages=_user("a feast"), response_format=Event
            ),
            client.embeddings.create(model=MODEL, input="embed me later"),
            client.models.retrieve(MODEL),
        )
    assert isinstance(structured.choices[0].message.parsed, Event)
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)
    assert all(isinstance(number, float) for number in embedded.data[0].embedding)
    assert model.id == MODEL


async def an_asynchronous_response_is_streamed() -> None:
    async with (
        AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client,
        client.responses.stream(model=MODEL, input="in a while") as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "in a while" in final.output_text


async def many_at_once_are_all_answered() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client:

        async def ask(number: int) -> bool:
            answer = await client.chat.completions.create(
                model=MODEL, messages=_user(f"question number {number}.")
            )
            return f"question number {number}." in (answer.choices[0].message.content or "")

        assert all(await asyncio.gather(*(ask(number) for number in range(40))))


async def asynchronous_errors_have_their_types() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key="sk-wrong", max_retries=0) as client:
        with failing(openai.AuthenticationError) as failed:
            await client.models.list()
    assert failed.error.code
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=1) as client:
        fault(status=503, times=1)
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=_user("later, please")
        )
        assert raw.retries_taken == 1


if __name__ == "__main__":
    run(globals())
