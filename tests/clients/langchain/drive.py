"""Does with LangChain's OpenAI package what its users do, and tells what came of it."""

from __future__ import annotations

from typing import Any

import openai
from checks import API_KEY, BASE_URL, EXHAUSTED_KEY, MODEL, asked, failing, fault, run
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr


class Event(BaseModel):
    """Something that people come to."""

    name: str = Field(description="What it is called.")
    day: int
    guests: list[str]


@tool("get_weather")
def _get_weather(place: str, days: int) -> str:
    """The weather of a place."""
    return f"sunny in {place} for {days} days"


def _model(key: str = API_KEY, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        **{"model": MODEL, "base_url": BASE_URL, "api_key": SecretStr(key), "timeout": 20}
        | settings
    )


def _embeddings(**settings: Any) -> OpenAIEmbeddings:
    # As its documentation wants it for other servers: texts are sent, and not their tokens.
    return OpenAIEmbeddings(
        model=MODEL,
        base_url=BASE_URL,
        api_key=SecretStr(API_KEY),
        check_embedding_ctx_length=False,
        **settings,
    )


# -- chat --


def a_model_is_invoked() -> None:
    answer = _model().invoke([SystemMessage("Be brief."), HumanMessage("a plain chat")])
    assert "a plain chat" in str(answer.content)
    assert answer.usage_metadata
    assert answer.usage_metadata["total_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == MODEL


def a_chain_is_invoked() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "Be {manner}."), ("user", "{question}")])
    answer = (prompt | _model()).invoke({"manner": "kind", "question": "in a chain"})
    assert "in a chain" in str(answer.content)
    (call,) = asked("in a chain")
    assert [one["role"] for one in call["body"]["messages"]] == ["system", "user"]


def a_stream_brings_pieces_and_its_usage() -> None:
    chunks = [*_model(stream_usage=True).stream("one two three four")]
    assert len([chunk for chunk in chunks if chunk.content]) > 1
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert "one two three four" in str(whole.content)
    assert whole.usage_metadata
    assert whole.usage_metadata["total_tokens"] > 0
    assert whole.response_metadata["finish_reason"] == "stop"


def a_stream_without_usage_has_none() -> None:
    chunks = [*_model(stream_usage=False).stream("no usage please")]
    assert chunks
    assert not any(chunk.usage_metadata for chunk in chunks)


def a_batch_is_answered_in_order() -> None:
    answers = _model().batch([f"of a batch, number {number}." for number in range(5)])
    assert all(f"number {number}." in str(one.content) for number, one in enumerate(answers))


async def a_model_is_used_asynchronously() -> None:
    model = _model(stream_usage=True)
    answer = await model.ainvoke("in a while")
    chunks = [chunk async for chunk in model.astream("in a while")]
    assert "".join(str(chunk.content) for chunk in chunks) == answer.content


# -- tools and structures --


def a_bound_tool_is_called_and_its_result_taken_back() -> None:
    question = HumanMessage("weather in Ulm")
    model = _model().bind_tools([_get_weather])
    answer = model.invoke([question])
    (call,) = answer.tool_calls
    assert call["name"] == "get_weather"
    assert not answer.invalid_tool_calls
    result = _get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    final = _model().invoke([question, answer, result])
    assert final.content
    (again,) = asked(str(result.content))
    assert again["body"]["messages"][-1]["tool_call_id"] == call["id"]


def a_tool_call_is_streamed() -> None:
    chunks = [*_model().bind_tools([_get_weather]).stream("weather in Bonn")]
    assert len([chunk for chunk in chunks if chunk.tool_call_chunks]) > 1
    (call,) = sum(chunks[1:], chunks[0]).tool_calls
    assert call["name"] == "get_weather"
    assert call["args"].keys() == {"place", "days"}


def structured_output_by_schema_is_parsed() -> None:
    made = _model().with_structured_output(Event).invoke("a party")
    assert isinstance(made, Event)
    (call,) = asked("a party")
    assert call["body"]["response_format"]["type"] == "json_schema"


def structured_output_by_a_tool_is_parsed() -> None:
    model = _model().with_structured_output(Event, method="function_calling", include_raw=True)
    made = model.invoke("a fair")
    assert isinstance(made, dict)
    assert isinstance(made["parsed"], Event), made


def structured_output_is_streamed() -> None:
    *_, last = _model().with_structured_output(Event).stream("a concert")
    assert isinstance(last, Event)


# -- embeddings --


def documents_and_queries_are_embedded_alike() -> None:
    embeddings = _embeddings()
    first, second = embeddings.embed_documents(["the first text", "the second text"])
    query = embeddings.embed_query("the second text")
    assert first != second
    assert all(abs(one - other) < 1e-6 for one, other in zip(second, query, strict=True))


async def documents_are_embedded_asynchronously() -> None:
    (one,) = await _embeddings(dimensions=8).aembed_documents(["a small one"])
    assert len(one) == 8


# -- errors --


def errors_have_the_types_of_the_sdk() -> None:
    with failing(openai.AuthenticationError):
        _model("sk-not-a-key-of-yours", max_retries=0).invoke("let me in")
    fault(status=400)
    with failing(openai.BadRequestError):
        _model().invoke("refused over there")
    fault(status=500)
    with failing(openai.InternalServerError):
        _model(max_retries=0).invoke("fail over there")


def a_limit_is_a_rate_limit_error() -> None:
    model = _model(EXHAUSTED_KEY, max_retries=0)
    for number in (1, 2):
        model.invoke(f"within the limit {number}")
    with failing(openai.RateLimitError):
        model.invoke("one too many")


def a_failure_is_tried_again() -> None:
    fault(status=500, times=1)
    answer = _model(max_retries=1).invoke("second time lucky")
    assert "second time lucky" in str(answer.content)
    assert len(asked("second time lucky")) == 2


def a_stream_that_breaks_off_is_an_error() -> None:
    fault(cut=True, pieces=5)
    with failing(openai.APIError):
        [*_model(max_retries=0).stream("it breaks")]


if __name__ == "__main__":
    run(globals())
