"""One suite for every provider: what `Provider` in webapp/llm/ports.py promises, on real servers.

Each test says of whom it asks something: of every provider, of those that ask a server (only there
a connection can fail), or of those whose server speaks OpenAI's protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import asking
from tests.support.faults import Fault
from tests.support.gevent_process import GeventProcess
from tests.support.raw_provider import RawProvider, Reply
from tests.support.responses import Response
from tests.support.servers import Provider, free_port, wait_until
from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderRefusedWeir,
    ProviderTimedOut,
    UnsupportedParameter,
    WeirError,
)
from webapp.llm.messages import Answer, ModelRequest

TIMEOUT = 0.4  # seconds
MODEL = "stand-in-1"

Address = Callable[[Provider], str]
HERE: dict[str, Address] = {
    "openai": lambda server: server.base_url,
    "azure": lambda server: server.azure_url,
    "anthropic": lambda server: server.anthropic_url,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider and the settings that make it; `protocol` is its server's, "" if it has none."""

    name: str
    made_by: str
    protocol: str
    settings: dict[str, str]
    address: str = ""
    """The setting with the server's URL."""

    def __str__(self) -> str:
        return self.name

    def environment(self, server: Provider) -> dict[str, str]:
        if not self.protocol:
            return {"LLM_TIMEOUT": str(TIMEOUT)}
        return self.at(HERE[self.protocol](server))

    def at(self, url: str) -> dict[str, str]:
        return {"LLM_TIMEOUT": str(TIMEOUT), self.address: url, **self.settings}


AZURE = {"AZURE_OPENAI_API_KEY": "azure-key", "DEFAULT_MODEL": f"azure/{MODEL}"}
KINDS = [
    Kind("openai", "OpenAIProvider", "openai", {"OPENAI_API_KEY": "sk-key"}, "OPENAI_BASE_URL"),
    Kind(
        "azure", "AzureProvider", "azure",
        {**AZURE, "OPENAI_API_VERSION": ""}, "AZURE_OPENAI_ENDPOINT",
    ),
    Kind(
        "azure by version", "AzureProvider", "azure",
        {**AZURE, "OPENAI_API_VERSION": "2024-10-21"}, "AZURE_OPENAI_ENDPOINT",
    ),
    Kind(
        "anthropic", "AnthropicProvider", "anthropic",
        {"ANTHROPIC_API_KEY": "sk-ant-key"}, "ANTHROPIC_BASE_URL",
    ),
    Kind(
        "anthropic by LangChain", "LangChainProvider", "anthropic",
        {"PROVIDER_CLAUDE_TYPE": "langchain:anthropic", "PROVIDER_CLAUDE_API_KEY": "sk-ant-key"},
        "PROVIDER_CLAUDE_BASE_URL",
    ),
    Kind("offline", "OfflineProvider", "", {}),
]  # fmt: skip

of_every_provider = pytest.mark.parametrize("kind", KINDS, ids=str)
of_those_with_a_server = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.protocol], ids=str
)
# LangChain knows no way to list models.
of_those_that_list = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.protocol and kind.made_by != "LangChainProvider"],
    ids=str,
)  # fmt: skip
of_those_of_openai_s_protocol = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.protocol in {"openai", "azure"}], ids=str
)
each_way = pytest.mark.parametrize("streamed", [False, True], ids=["answer", "stream"])


def named(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


@pytest.fixture(scope="module")
def process(provider: Provider) -> Iterator[GeventProcess]:
    provider.start().reset()
    with GeventProcess() as running:
        # The first call of a process imports for seconds, which no timeout bounds.
        for kind in KINDS:
            running.run(asking.answer, kind.environment(provider), saying("hello"), MODEL)
        yield running


@pytest.fixture
def environment(kind: Kind, provider: Provider) -> dict[str, str]:
    return kind.environment(provider)


def saying(text: str, *, native: bool = False, **fields: Any) -> ModelRequest:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 500, **fields}
    return ModelRequest(body, native=native)


def paid_calls(server: Provider) -> list[dict[str, Any]]:
    return [call for call in server.calls() if call["method"] == "POST"]


def failure(
    process: GeventProcess, environment: dict[str, str], request: ModelRequest, streamed: bool
) -> Exception:
    """What asking this way raises; the error of a stream that has not begun."""
    if streamed:
        reading = process.run(asking.read, environment, request, MODEL)
        assert not reading.text
        assert not reading.answers
        assert reading.error, "nothing was raised"
        return reading.error
    came, _ = process.run(asking.timed_answer, environment, request, MODEL)
    assert isinstance(came, Exception), "nothing was raised"
    return came


def test_every_provider_is_in_this_suite(process: GeventProcess) -> None:
    # Weir starts the local model's server itself: tests/local_model.
    elsewhere = {"LocalProvider"}
    assert {kind.made_by for kind in KINDS} | elsewhere == process.run(asking.kinds)


@of_every_provider
def test_it_says_what_it_is(
    process: GeventProcess, environment: dict[str, str], kind: Kind
) -> None:
    assert process.run(asking.class_of, environment) == kind.made_by
    traits = process.run(asking.traits, environment)
    assert traits.name
    assert traits.kind
    assert traits.max_input_tokens is None or traits.max_input_tokens > 0
    if kind.protocol:
        elsewhere = process.run(asking.traits, kind.at("http://127.0.0.1:9/elsewhere"))
        assert traits.identity != elsewhere.identity, "the cache would mix their answers"


def test_no_two_providers_have_one_identity(process: GeventProcess, provider: Provider) -> None:
    identities = {process.run(asking.traits, kind.environment(provider)).identity for kind in KINDS}
    assert len(identities) == len(KINDS)


# Answers.


@of_every_provider
@pytest.mark.parametrize("native", [False, True], ids=["openai's endpoint", "native endpoint"])
def test_an_answer_is_whole_and_of_openai_s_shape(
    process: GeventProcess, environment: dict[str, str], kind: Kind, native: bool
) -> None:
    request = saying("one two three", native=native)
    answer = process.run(asking.answer, environment, request, MODEL)
    assert answer.provider == process.run(asking.traits, environment).name
    if kind.protocol:
        assert (answer.content, answer.model) == ("echo: one two three", MODEL)
    else:
        assert "No LLM provider is configured" in answer.content
    body = json.loads(answer.body)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == answer.content
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


@of_every_provider
@pytest.mark.parametrize("native", [False, True], ids=["openai's endpoint", "native endpoint"])
def test_a_stream_is_pieces_and_at_last_the_whole_answer(
    process: GeventProcess, environment: dict[str, str], kind: Kind, native: bool
) -> None:
    request = saying("one two three", native=native)
    whole = process.run(asking.answer, environment, request, MODEL)
    reading = process.run(asking.read, environment, request, MODEL)
    assert reading.error is None
    [answer] = reading.answers
    assert reading.answer_was_last
    assert len(reading.chunks) > 1
    assert reading.text == answer.content == whole.content
    assert (answer.model, answer.provider) == (whole.model, whole.provider)
    assert answer.usage == whole.usage
    if native:
        assert all(chunk.text and not chunk.data for chunk in reading.chunks)
        return
    bodies = [json.loads(chunk.data) for chunk in reading.chunks]
    assert {body["object"] for body in bodies} == {"chat.completion.chunk"}
    texts = [body["choices"][0]["delta"].get("content") or "" for body in bodies]
    assert texts == [chunk.text for chunk in reading.chunks]
    assert bodies[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in body for body in bodies), "nobody asked for it"
    # Until the first one that holds more than who speaks, another provider may answer instead.
    begins = [chunk.begins for chunk in reading.chunks]
    assert begins == sorted(begins)
    assert not begins[0]


@of_every_provider
def test_the_stream_s_usage_is_a_chunk_where_the_client_asked_for_it(
    process: GeventProcess, environment: dict[str, str]
) -> None:
    request = saying("one two three", stream_options={"include_usage": True})
    reading = process.run(asking.read, environment, request, MODEL)
    last = json.loads(reading.chunks[-1].data)
    assert last["choices"] == []
    [answer] = reading.answers
    counted = last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]
    assert counted == (answer.usage.input_tokens, answer.usage.output_tokens)


@of_every_provider
def test_the_usage_of_a_stream_is_told_with_each_chunk(
    process: GeventProcess, environment: dict[str, str]
) -> None:
    reading = process.run(asking.read, environment, saying("one two three"), MODEL)
    [answer] = reading.answers
    assert reading.told == sum(bool(chunk.text) for chunk in reading.chunks)
    assert reading.tokens >= len(answer.content), "no tokenizer makes more tokens than bytes"
    assert reading.usage == answer.usage


@of_those_with_a_server
@each_way
def test_the_usage_is_the_provider_s_where_it_tells_one(
    process: GeventProcess, environment: dict[str, str], provider: Provider, streamed: bool
) -> None:
    request = saying("one two three")
    if streamed:
        [answer] = process.run(asking.read, environment, request, MODEL).answers
    else:
        answer = process.run(asking.answer, environment, request, MODEL)
    [call] = paid_calls(provider)
    uncached = answer.usage.input_tokens - answer.usage.cached_input_tokens
    assert [uncached, answer.usage.output_tokens] == call["served"]
    assert not answer.usage.estimated


@of_those_of_openai_s_protocol
@each_way
def test_the_usage_is_estimated_where_the_provider_tells_none(
    process: GeventProcess, environment: dict[str, str], provider: Provider, streamed: bool
) -> None:
    provider.fault(no_usage=True)
    request = saying("one two three")
    if streamed:
        reading = process.run(asking.read, environment, request, MODEL)
        [answer] = reading.answers
        assert reading.usage is None
    else:
        answer = process.run(asking.answer, environment, request, MODEL)
    assert answer.usage.estimated
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


@of_every_provider
def test_embeddings_are_given_or_refused(
    process: GeventProcess, environment: dict[str, str], kind: Kind, provider: Provider
) -> None:
    request = ModelRequest({"input": "one two"}, operation="embeddings", native=False)
    if kind.protocol in {"openai", "azure"}:
        answer = process.run(asking.answer, environment, request, MODEL)
        assert json.loads(answer.body)["data"][0]["embedding"]
        assert (answer.content, answer.usage.input_tokens, answer.usage.output_tokens) == ("", 2, 0)
        return
    with pytest.raises(ProviderRefusedRequest):
        process.run(asking.answer, environment, request, MODEL)
    assert not paid_calls(provider)


@of_every_provider
def test_two_requests_are_answered_at_once(
    process: GeventProcess, environment: dict[str, str], kind: Kind, provider: Provider
) -> None:
    requests = [saying("first words"), saying("second words")]
    provider.fault(slow=0.2)
    answers, lasted = process.run(asking.answer_both, environment, requests, MODEL)
    assert lasted < 0.4
    readings = process.run(asking.read_both, environment, requests, MODEL)
    assert max(reading.lasted for reading in readings) < 0.4
    streamed = [reading.answers[0].content for reading in readings]
    assert streamed == [answer.content for answer in answers]
    if kind.protocol:
        assert streamed == ["echo: first words", "echo: second words"]


# Errors.


@of_every_provider
@each_way
def test_what_it_cannot_be_told_is_refused_by_its_name(
    process: GeventProcess, environment: dict[str, str], provider: Provider, streamed: bool
) -> None:
    request = saying("hello", logprobs=True)
    if process.run(asking.traits, environment).openai_family:
        reading = process.run(asking.read, environment, request, MODEL)
        assert reading.answers, "OpenAI's protocol is passed on as it is"
        return
    refused = failure(process, environment, request, streamed)
    assert isinstance(refused, UnsupportedParameter)
    assert refused.parameter == "logprobs"
    assert not paid_calls(provider)


ERRORS: list[tuple[dict[str, Any], type[WeirError], bool]] = [
    ({"status": 400}, ProviderRefusedRequest, False),
    ({"status": 401}, ProviderRefusedWeir, False),
    ({"status": 404, "code": "model_not_found"}, ModelNotFound, False),
    ({"status": 429, "retry_after": "7"}, ProviderBusy, False),
    ({"status": 500}, ProviderFailed, False),
    ({"status": 529}, ProviderBusy, False),
    ({"garbage": True}, ProviderFailed, True),
    ({"wrong_json": True}, ProviderFailed, True),
    ({"cut_before": True}, ProviderFailed, True),
    ({"hang": True}, ProviderTimedOut, True),
]


@of_those_with_a_server
@each_way
@pytest.mark.parametrize(("fault", "error", "may_be_charged"), ERRORS, ids=named)
def test_a_fault_is_told_in_weir_s_words(
    process: GeventProcess,
    environment: dict[str, str],
    provider: Provider,
    fault: dict[str, Any],
    error: type[WeirError],
    may_be_charged: bool,
    streamed: bool,
) -> None:
    provider.fault(**fault)
    raised = failure(process, environment, saying("hello"), streamed)
    assert type(raised) is error, raised
    assert getattr(raised, "may_be_charged", False) is may_be_charged
    wanted = fault.get("retry_after")
    assert raised.retry_after == (float(wanted) if wanted else None)
    assert "127.0.0.1" not in raised.message


@of_those_with_a_server
@each_way
def test_a_server_that_is_away_was_asked_nothing(
    process: GeventProcess, kind: Kind, streamed: bool
) -> None:
    nowhere = kind.at(f"http://127.0.0.1:{free_port()}")
    raised = failure(process, nowhere, saying("hello"), streamed)
    assert type(raised) is ProviderFailed
    assert not raised.may_be_charged
    if kind.made_by != "LangChainProvider":  # its check asks nobody
        with pytest.raises(ProviderFailed):
            process.run(asking.check, nowhere, TIMEOUT)
    assert process.run(asking.models, nowhere) == []
    assert process.run(asking.default_model, nowhere) is None


@of_those_with_a_server
@pytest.mark.parametrize(
    "fault", [{"cut": True}, {"error_event": True}, {"no_finish": True}], ids=str
)
def test_a_stream_that_breaks_off_is_an_error_after_its_pieces(
    process: GeventProcess,
    environment: dict[str, str],
    provider: Provider,
    fault: dict[str, Any],
) -> None:
    provider.fault(**fault, pieces=5)
    reading = process.run(asking.read, environment, saying("hello"), MODEL)
    # Anthropic's error event says that it is overloaded.
    assert isinstance(reading.error, ProviderFailed | ProviderBusy)
    assert not reading.answers
    assert reading.text
    assert reading.told > 0
    assert reading.tokens >= len(reading.text)
    [call] = paid_calls(provider)
    assert reading.tokens >= call["served"][1], "what came is what is paid for"


@of_those_with_a_server
def test_a_plain_answer_that_breaks_off_is_an_error(
    process: GeventProcess, environment: dict[str, str], provider: Provider
) -> None:
    provider.fault(cut=True)
    assert type(failure(process, environment, saying("hello"), False)) is ProviderFailed


# Time.


@of_those_with_a_server
def test_the_timeout_bounds_a_plain_answer(
    process: GeventProcess, environment: dict[str, str], provider: Provider
) -> None:
    provider.fault(slow=5)
    came, lasted = process.run(asking.timed_answer, environment, saying("hello"), MODEL)
    assert isinstance(came, ProviderTimedOut)
    assert TIMEOUT * 0.9 < lasted < 2
    # And the next call is not harmed by what is left of this one.
    provider.fault()
    again, _ = process.run(asking.timed_answer, environment, saying("hello"), MODEL)
    assert isinstance(again, Answer)


@of_those_with_a_server
def test_the_timeout_bounds_each_gap_of_a_stream_not_the_whole(
    process: GeventProcess, environment: dict[str, str], provider: Provider
) -> None:
    provider.fault(gap=TIMEOUT / 3, pieces=6)
    reading = process.run(asking.read, environment, saying("hello"), MODEL)
    assert reading.error is None
    assert reading.lasted > TIMEOUT
    assert reading.longest_gap < TIMEOUT
    provider.fault(gap=5, pieces=6)
    reading = process.run(asking.read, environment, saying("hello"), MODEL)
    assert isinstance(reading.error, ProviderTimedOut)
    assert reading.text
    assert TIMEOUT * 0.9 < reading.lasted < 2


@of_those_with_a_server
def test_who_closes_a_stream_early_ends_the_connection(
    process: GeventProcess, environment: dict[str, str], provider: Provider
) -> None:
    provider.fault(gap=0.05, pieces=1_000)
    reading = process.run(asking.read, environment, saying("hello"), MODEL, chunks=3)
    assert reading.error is None
    assert (len(reading.chunks), reading.answers) == (3, [])
    wait_until(lambda: paid_calls(provider)[0]["hung_up"], 2, "the end of the connection")
    provider.fault()
    assert process.run(asking.answer, environment, saying("hello"), MODEL).content


@of_every_provider
def test_a_stream_that_is_closed_early_has_no_answer(
    process: GeventProcess, environment: dict[str, str]
) -> None:
    reading = process.run(asking.read, environment, saying("one two three"), MODEL, chunks=2)
    assert reading.error is None
    assert (len(reading.chunks), reading.answers) == (2, [])


# What costs nothing.


@of_every_provider
def test_the_check_and_the_models_are_free(
    process: GeventProcess, environment: dict[str, str], provider: Provider, kind: Kind
) -> None:
    process.run(asking.check, environment, TIMEOUT)
    listed = process.run(asking.models, environment)
    assert listed or kind.made_by == "LangChainProvider"
    assert all(isinstance(model["id"], str) and model["object"] == "model" for model in listed)
    assert not paid_calls(provider)


@of_every_provider
def test_the_models_are_listed_once_for_some_minutes(
    process: GeventProcess, environment: dict[str, str], provider: Provider
) -> None:
    listed = process.run(asking.models, environment)
    provider.reset()
    assert process.run(asking.models, environment) == listed
    assert provider.calls() == []


@of_every_provider
def test_the_default_is_a_model_that_it_lists_or_none(
    process: GeventProcess, environment: dict[str, str]
) -> None:
    default = process.run(asking.default_model, environment)
    assert default in {None, *(model["id"] for model in process.run(asking.models, environment))}


@of_those_that_list
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, ProviderRefusedWeir),
        ({"status": 500}, ProviderFailed),
        ({"garbage": True}, ProviderFailed),
        ({"hang": True}, ProviderTimedOut),
    ],
    ids=named,
)
def test_the_check_raises_what_is_wrong_in_time(
    process: GeventProcess,
    environment: dict[str, str],
    provider: Provider,
    fault: dict[str, Any],
    error: type[WeirError],
) -> None:
    provider.fault(**fault)
    with pytest.raises(error):
        process.run(asking.check, environment, 0.2)


# Messages.


def asking_messages(text: str, *, streamed: bool = False, **fields: Any) -> ModelRequest:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 500, **fields}
    return ModelRequest(body, operation="messages", native=False, stream=streamed)


WEATHER = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@of_every_provider
@pytest.mark.parametrize("tools", [[], [WEATHER]], ids=["text", "tool"])
def test_every_provider_answers_messages(
    process: GeventProcess, environment: dict[str, str], kind: Kind, tools: list[Any]
) -> None:
    fields = {"tools": tools, "system": "Be brief."} if tools else {}
    answer = process.run(asking.answer, environment, asking_messages("one two", **fields), MODEL)
    message = json.loads(answer.body)
    assert (message["type"], message["role"]) == ("message", "assistant")
    reading = process.run(
        asking.read, environment, asking_messages("one two", streamed=True, **fields), MODEL
    )
    assert reading.error is None
    events = [json.loads(chunk.data) for chunk in reading.chunks]
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert (kinds[0], *kinds[-2:]) == ("message_start", "message_delta", "message_stop")
    assert events[-2]["delta"]["stop_reason"] == message["stop_reason"]
    assert reading.answers[0].usage == answer.usage
    for usage in (message["usage"], events[-2]["usage"]):
        counts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        told = sum(usage.get(name) or 0 for name in counts), usage["output_tokens"]
        assert told == (answer.usage.input_tokens, answer.usage.output_tokens)
    if kind.protocol and tools:
        [block] = [block for block in message["content"] if block["type"] == "tool_use"]
        assert (block["name"], block["input"]) == ("weather", {"city": "text"})
        pieces = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
        assert json.loads("".join(pieces)) == {"city": "text"}
        assert message["stop_reason"] == "tool_use"
    elif kind.protocol:
        assert message["content"] == [{"type": "text", "text": "echo: one two"}]
        assert reading.text == answer.content == "echo: one two"


@of_those_with_a_server
@each_way
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 429, "retry_after": "7"}, ProviderBusy),
        ({"status": 529}, ProviderBusy),
        ({"status": 500}, ProviderFailed),
        ({"garbage": True}, ProviderFailed),
        ({"wrong_json": True}, ProviderFailed),
        ({"hang": True}, ProviderTimedOut),
        ({"cut_before": True}, ProviderFailed),
    ],
    ids=named,
)
def test_a_fault_of_a_message_is_told_in_weir_s_words(
    process: GeventProcess,
    environment: dict[str, str],
    provider: Provider,
    fault: dict[str, Any],
    error: type[WeirError],
    streamed: bool,
) -> None:
    provider.fault(**fault)
    request = asking_messages("hello", streamed=streamed)
    assert type(failure(process, environment, request, streamed)) is error


@of_those_with_a_server
@pytest.mark.parametrize("fault", ["cut", "no_finish", "error_event"])
def test_a_message_that_breaks_off_is_no_answer(
    process: GeventProcess, environment: dict[str, str], provider: Provider, fault: str
) -> None:
    provider.fault(**{fault: True}, pieces=6)
    reading = process.run(
        asking.read, environment, asking_messages("one two three", streamed=True), MODEL
    )
    assert isinstance(reading.error, WeirError)
    assert not reading.answers
    assert "message_stop" not in "".join(chunk.data for chunk in reading.chunks)


@of_those_of_openai_s_protocol
@each_way
@pytest.mark.parametrize("refused", ["reasoning_effort", "stream_options"])
def test_what_a_server_does_not_know_is_left_out_of_a_message(
    process: GeventProcess,
    environment: dict[str, str],
    provider: Provider,
    refused: str,
    streamed: bool,
) -> None:
    provider.fault(refuses=refused)
    request = asking_messages(f"no {refused}", streamed=streamed, output_config={"effort": "low"})
    if streamed:
        reading = process.run(asking.read, environment, request, MODEL)
        assert reading.error is None
        content = reading.text
    else:
        content = process.run(asking.answer, environment, request, MODEL).content
    assert content == f"echo: no {refused}"
    # A process remembers it.
    sent = [call["body"] for call in paid_calls(provider)]
    assert refused not in sent[-1]
    assert len(sent) <= 2


@of_those_with_a_server
def test_what_cannot_be_carried_over_is_named_before_a_call(
    process: GeventProcess, environment: dict[str, str], provider: Provider, kind: Kind
) -> None:
    if kind.made_by == "AnthropicProvider":
        return
    request = asking_messages("hello", top_k=5)
    for streamed in (False, True):
        raised = failure(process, environment, request, streamed)
        assert isinstance(raised, UnsupportedParameter)
        assert raised.parameter == "top_k"
    assert not paid_calls(provider)


def test_the_last_event_of_responses_does_not_wait_for_the_end(process: GeventProcess) -> None:
    events = Response({"model": MODEL, "input": "hello"}, Fault()).events()
    with RawProvider() as raw:
        marker = raw.register(Reply.events(*events, lingers=4.0))
        asked = ModelRequest({"input": marker}, operation="responses", native=False, stream=True)
        environment = {"OPENAI_BASE_URL": f"{raw.url}/v1", "OPENAI_API_KEY": "sk-test-0123456789"}
        reading = process.run(asking.read, environment, asked, MODEL)
    assert (reading.error, reading.text) == (None, "echo: hello")
    assert reading.lasted < 3
