"""The stand-in provider and the servers of the tests do what the other tests count on."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import psycopg
import pytest
import redis
import requests

from tests.conftest import MakeWeir
from tests.support.servers import (
    DidNotStart,
    EventStream,
    Postgres,
    Provider,
    Valkey,
    Weir,
    wait_until,
)

CHAT = "/chat/completions"
MANY_STREAMS = 1200


def question(text: str, **parameters: Any) -> dict[str, Any]:
    return {
        "model": "stand-in-1",
        "messages": [{"role": "user", "content": text}],
        **parameters,
    }


def ask(provider: Provider, text: str, **parameters: Any) -> requests.Response:
    body = question(text, **parameters)
    streamed = bool(parameters.get("stream"))
    return requests.post(provider.base_url + CHAT, json=body, stream=streamed, timeout=10)


def stream(provider: Provider, text: str, **parameters: Any) -> EventStream:
    return EventStream(ask(provider, text, stream=True, **parameters))


def chunks(provider: Provider, text: str, **parameters: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should."""
    *events, last = stream(provider, text, **parameters)
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


def content_of(received: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for chunk in received for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=provider.base_url, api_key="secret", max_retries=0, timeout=5
    ) as sdk:
        yield sdk


# -- the stand-in when all is well --


def test_it_lists_its_models(provider: Provider) -> None:
    listed = requests.get(provider.base_url + "/models", timeout=5).json()
    assert [model["id"] for model in listed["data"]] == ["stand-in-1", "stand-in-2"]


def test_a_plain_answer_echoes_the_last_user_message(provider: Provider) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "echo: first"},
        {"role": "user", "content": [{"type": "text", "text": "second one"}]},
    ]
    answer = ask(provider, "", messages=messages).json()
    assert answer["choices"][0]["message"]["content"] == "echo: second one"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["total_tokens"] == 10


def test_a_long_message_is_echoed_in_part(provider: Provider) -> None:
    answer = ask(provider, "x" * 1000).json()
    assert answer["choices"][0]["message"]["content"] == "echo: " + "x" * 200


def test_equal_questions_get_equal_answers(provider: Provider) -> None:
    assert ask(provider, "same").content == ask(provider, "same").content
    assert ask(provider, "same").json()["id"] != ask(provider, "other").json()["id"]


def test_a_stream_has_a_role_then_pieces_then_a_finish_then_the_usage(provider: Provider) -> None:
    received = chunks(provider, "one two", stream_options={"include_usage": True})
    *with_choices, last = received
    assert [chunk["choices"][0]["delta"] for chunk in with_choices] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "echo: "},
        {"content": "one "},
        {"content": "two"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in with_choices]
    assert reasons == [None, None, None, None, "stop"]
    assert [chunk["usage"] for chunk in with_choices] == [None] * 5
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5


def test_a_stream_has_no_usage_unless_asked_for(provider: Provider) -> None:
    assert not any("usage" in chunk for chunk in chunks(provider, "hello"))


def test_the_sdk_understands_a_plain_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**question("hello"))
    assert answer.choices[0].message.content == "echo: hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 3


def test_the_sdk_understands_a_stream(client: openai.OpenAI) -> None:
    asked = question("hello", stream=True, stream_options={"include_usage": True})
    received = list(client.chat.completions.create(**asked))
    pieces = [choice.delta.content or "" for chunk in received for choice in chunk.choices]
    assert "".join(pieces) == "echo: hello"
    assert received[-1].usage.total_tokens == 3


def test_the_sdk_understands_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["stand-in-1", "stand-in-2"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"model": "stand-in-1"}', b'{"messages": []}'], ids=str
)
def test_what_openai_would_refuse_is_refused(provider: Provider, body: bytes) -> None:
    refused = requests.post(provider.base_url + CHAT, data=body, timeout=5)
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_several_requests_pass_one_connection(provider: Provider) -> None:
    with requests.Session() as session:
        for text in ("one", "two", "three"):
            answer = session.post(provider.base_url + CHAT, json=question(text), timeout=5)
            assert answer.json()["choices"][0]["message"]["content"] == f"echo: {text}"
    assert len(provider.completions()) == 3


# -- what it tells about its calls --


def test_it_tells_what_it_was_asked(provider: Provider) -> None:
    before = time.time()
    requests.post(
        provider.base_url + CHAT, json=question("hi"), headers={"X-Some": "Thing"}, timeout=5
    )
    (call,) = provider.calls()
    assert (call["method"], call["path"]) == ("POST", "/v1/chat/completions")
    assert call["headers"]["x-some"] == "Thing"
    assert call["body"] == question("hi")
    assert before <= call["began"] <= time.time()
    assert (call["ended"], call["hung_up"]) == (True, False)


def test_its_calls_can_be_told_apart_by_path_and_forgotten(provider: Provider) -> None:
    ask(provider, "hi")
    requests.get(provider.base_url + "/models", timeout=5)
    assert len(provider.calls()) == 2
    assert len(provider.calls("/v1/models")) == len(provider.completions()) == 1
    provider.reset()
    assert provider.calls() == []


@pytest.mark.parametrize("directive", ["hang", "slow=30", "gap=30", "big=50000000"])
def test_a_hang_up_is_noticed_at_once(provider: Provider, directive: str) -> None:
    asked = question(f"hi [[fault:{directive}]]", stream=True)
    with suppress(requests.Timeout):
        requests.post(provider.base_url + CHAT, json=asked, stream=True, timeout=0.2).close()
    (call,) = wait_until(lambda: [one for one in provider.calls() if one["hung_up"]], 2)
    assert not call["ended"]
    assert call["lasted"] < 2


def test_a_call_that_still_runs_has_neither_ended_nor_been_left(provider: Provider) -> None:
    with stream(provider, "hi [[fault:gap=30]]") as events:
        next(events)
        (call,) = provider.calls()
        assert (call["ended"], call["hung_up"], call["lasted"]) == (False, False, None)


# -- what goes wrong on demand --


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_the_sdk_understands_each_status(
    client: openai.OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as raised:
        client.chat.completions.create(**question(f"hi [[fault:status={status}]]"))
    assert raised.value.status_code == status


def test_an_error_has_the_code_and_the_retry_after_that_it_is_told(provider: Provider) -> None:
    busy = ask(provider, "hi [[fault:status=429, retry_after=7]]")
    assert busy.headers["Retry-After"] == "7"
    assert busy.json()["error"]["code"] == "rate_limit_exceeded"
    broke = ask(provider, "hi [[fault:status=429,code=insufficient_quota]]")
    assert broke.json()["error"].keys() == {"message", "type", "param", "code"}
    assert broke.json()["error"]["type"] == "insufficient_quota"
    assert "Retry-After" not in broke.headers


def test_a_slow_answer_waits_before_its_first_byte(provider: Provider) -> None:
    began = time.monotonic()
    with stream(provider, "hi [[fault:slow=0.3]]") as events:
        assert time.monotonic() - began >= 0.3
        assert list(events)[-1] == "[DONE]"


def test_a_hanging_call_is_never_answered(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(**question("hi [[fault:hang]]"))


def test_garbage_is_no_json(provider: Provider) -> None:
    plain = ask(provider, "hi [[fault:garbage]]")
    assert plain.status_code == 200
    with pytest.raises(ValueError, match="Expecting value"):
        plain.json()
    (event,) = stream(provider, "hi [[fault:garbage]]")
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(event)


def test_wrong_json_has_no_choices(provider: Provider) -> None:
    assert ask(provider, "hi [[fault:wrong_json]]").json() == {"weather": "fine"}
    (event,) = stream(provider, "hi [[fault:wrong_json]]")
    assert json.loads(event) == {"weather": "fine"}


def test_cut_before_gives_headers_and_nothing_else(provider: Provider) -> None:
    with pytest.raises(requests.RequestException):
        ask(provider, "hi [[fault:cut_before]]")
    response = ask(provider, "hi [[fault:cut_before]]", stream=True)
    assert response.status_code == 200
    with pytest.raises(requests.RequestException):
        next(EventStream(response))


def test_a_cut_stream_stops_after_two_pieces(provider: Provider) -> None:
    received = []
    with pytest.raises(requests.RequestException):  # noqa: PT012
        for event in stream(provider, "one two three [[fault:cut]]"):
            received.append(json.loads(event))
    assert content_of(received) == "echo: one "


def test_a_cut_plain_answer_stops_within_its_body(provider: Provider) -> None:
    with pytest.raises(requests.RequestException):
        ask(provider, "one two three [[fault:cut]]")


def test_no_finish_closes_as_if_all_were_well(provider: Provider) -> None:
    options = {"include_usage": True}
    events = list(stream(provider, "one two [[fault:no_finish]]", stream_options=options))
    received = [json.loads(event) for event in events]
    assert content_of(received) == "echo: one two"
    assert {chunk["choices"][0]["finish_reason"] for chunk in received} == {None}
    assert ask(provider, "hi [[fault:no_finish]]").json()["choices"][0]["finish_reason"] is None


def test_an_error_event_comes_after_two_pieces(client: openai.OpenAI) -> None:
    asked = question("one two three [[fault:error_event]]", stream=True)
    received = []
    with pytest.raises(openai.APIError, match="failed in its stream"):  # noqa: PT012
        for chunk in client.chat.completions.create(**asked):
            received.append(chunk.choices[0].delta.content)
    assert received == ["", "echo: ", "one "]


def test_an_empty_answer_is_still_complete(provider: Provider) -> None:
    plain = ask(provider, "hi [[fault:empty]]").json()
    assert plain["choices"][0]["message"]["content"] == ""
    assert plain["usage"]["completion_tokens"] == 0
    received = chunks(provider, "hi [[fault:empty]]")
    assert content_of(received) == ""
    assert received[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_big_answer_is_as_big_as_it_is_told(provider: Provider) -> None:
    plain = ask(provider, "hi [[fault:big=3000001]]").json()
    assert len(plain["choices"][0]["message"]["content"]) == 3_000_001
    assert len(content_of(chunks(provider, "hi [[fault:big=3000001]]"))) == 3_000_001


def test_usage_can_stand_on_the_last_choice(provider: Provider) -> None:
    last = chunks(provider, "hi [[fault:usage_on_choice]]", stream_options={"include_usage": True})
    assert last[-1]["choices"][0]["finish_reason"] == "stop"
    assert last[-1]["usage"]["total_tokens"] > 0


def test_pieces_and_gaps_shape_a_stream(provider: Provider) -> None:
    began = time.monotonic()
    received = chunks(provider, "hi [[fault:pieces=20,gap=0.01]]")
    assert time.monotonic() - began >= 0.2
    assert sum(bool(content_of([chunk])) for chunk in received) == 20


def test_a_fault_of_the_day_meets_every_call_until_it_is_taken_back(provider: Provider) -> None:
    provider.fault(status=500)
    assert ask(provider, "hi").status_code == 500
    assert requests.get(provider.base_url + "/models", timeout=5).status_code == 500
    assert ask(provider, "hi [[fault:status=503]]").status_code == 503
    provider.fault()
    assert ask(provider, "hi").status_code == 200


def test_a_fault_can_be_told_whom_and_how_often_to_meet(provider: Provider) -> None:
    provider.fault(status=500, path="/v1/chat/completions", model="stand-in-1", times=2)
    assert requests.get(provider.base_url + "/models", timeout=5).status_code == 200
    assert ask(provider, "hi", model="stand-in-2").status_code == 200
    assert [ask(provider, "hi").status_code for _ in range(3)] == [500, 500, 200]


def test_a_fault_that_does_not_exist_is_an_error(provider: Provider) -> None:
    with pytest.raises(ValueError, match="stauts"):
        provider.fault(stauts=500)
    assert ask(provider, "hi [[fault:stauts=500]]").status_code == 400
    assert ask(provider, "hi [[fault:status]]").status_code == 400


# -- how much it stands --


def test_more_than_a_thousand_streams_can_be_open_at_once(provider: Provider) -> None:
    asked = json.dumps(question("hi [[fault:pieces=2,gap=1]]", stream=True)).encode()
    head = f"POST /v1{CHAT} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(asked)}\r\n\r\n"

    async def read_one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(head.encode() + asked)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def read_all() -> list[bytes]:
        return await asyncio.gather(*(read_one() for _ in range(MANY_STREAMS)))

    received = asyncio.run(read_all())
    calls = provider.calls()
    assert all(body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for body in received)
    assert max(call["began"] for call in calls) < min(
        call["began"] + call["lasted"] for call in calls
    )


# -- the servers --


def test_valkey_comes_back_on_its_port_empty(valkey: Valkey) -> None:
    url = valkey.url
    with valkey.client() as client:
        client.set("name", "value")
        valkey.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        valkey.start()
        assert valkey.url == url
        assert client.get("name") is None


def test_a_paused_valkey_answers_nothing_until_it_is_resumed(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url, socket_timeout=0.2) as client:
        client.set("name", "value")
        valkey.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("name")
        valkey.resume()
        assert client.get("name") == b"value"


def test_a_fresh_valkey_is_empty(fresh_valkey: Valkey) -> None:
    with fresh_valkey.client() as client:
        assert client.dbsize() == 0


def test_postgres_comes_back_on_its_port_with_its_data(postgres: Postgres) -> None:
    url = postgres.create_database("comes_back")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE thing AS SELECT 42 AS number")
        postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    postgres.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM thing").fetchone() == (42,)


def test_postgres_survives_being_killed(postgres: Postgres) -> None:
    url = postgres.create_database("survives")
    postgres.kill()
    postgres.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_paused_postgres_answers_nothing_until_it_is_resumed(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url()) as connection:
        postgres.pause()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(postgres.url(), connect_timeout=2)
        postgres.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_database_that_is_created_again_is_empty(postgres: Postgres) -> None:
    with psycopg.connect(postgres.create_database("again"), autocommit=True) as connection:
        connection.execute("CREATE TABLE thing ()")
    with psycopg.connect(postgres.create_database("again")) as connection:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(tables).fetchone() == (0,)


def test_sqlalchemy_accepts_the_url_of_a_fresh_database(fresh_database: str) -> None:
    from sqlalchemy import create_engine, text

    url = fresh_database.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_the_stand_in_comes_back_on_its_port(provider: Provider) -> None:
    provider.stop()
    with pytest.raises(requests.ConnectionError):
        ask(provider, "hi")
    provider.start()
    assert ask(provider, "hi").status_code == 200


def test_a_server_that_is_closed_leaves_nothing_behind() -> None:
    with Valkey() as server:
        process, folder = server.process, server.folder
    assert process is not None
    assert process.poll() is not None
    assert not folder.exists()


# -- Weir --


@pytest.fixture(scope="module")
def shared_weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(OPENAI_BASE_URL=provider.base_url)


def test_a_weir_that_was_started_can_be_asked(shared_weir: Weir) -> None:
    assert shared_weir.get("/readiness").status_code == 200
    answer = shared_weir.post("/chat", key="dev_key_123", json={"message": "hi"})
    assert answer.json()["response"] == "echo: hi"


def test_the_events_of_a_weir_come_one_by_one(shared_weir: Weir) -> None:
    asked = {"message": "one two [[fault:gap=0.3]]", "stream": True}
    with shared_weir.stream("/chat", asked, key="dev_key_123") as events:
        began = time.monotonic()
        assert json.loads(next(events)) == {"content": "echo: "}
        assert json.loads(next(events)) == {"content": "one "}
        assert list(events)[-1] == "[DONE]"
    assert time.monotonic() - began > 0.5


def test_a_stream_that_is_refused_says_why(shared_weir: Weir) -> None:
    refused = shared_weir.stream("/chat", {"message": "hi", "stream": True}, key="unknown")
    assert refused.status_code == 403
    with pytest.raises(requests.HTTPError, match="403"):
        next(refused)


def test_the_logs_of_a_weir_are_read_as_json(shared_weir: Weir) -> None:
    shared_weir.get("/liveness", headers={"X-Request-ID": "found-again"})
    line = wait_until(
        lambda: [one for one in shared_weir.logs() if one.get("request_id") == "found-again"]
    )[0]
    assert line["endpoint"] == "/liveness"
    assert "found-again" in shared_weir.raw_logs()


def test_the_flask_command_runs_where_a_weir_would(new_weir: MakeWeir) -> None:
    weir = new_weir()
    listed = weir.run_flask_process("--help")
    assert listed.returncode == 0, listed.stderr
    assert not weir.is_running


def test_a_weir_has_as_many_workers_as_it_is_told(
    start_weir: MakeWeir, fresh_valkey: Valkey
) -> None:
    weir = start_weir(REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=2)
    wait_until(lambda: len(weir.pids()) == 2)


def test_a_weir_ends_when_it_is_told_and_can_be_started_again(start_weir: MakeWeir) -> None:
    weir = start_weir()
    assert weir.terminate() == 0
    assert weir.pids() == []
    assert weir.start().get("/liveness").status_code == 200


def test_a_weir_sees_nothing_of_the_environment_of_the_tests(
    new_weir: MakeWeir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_ENV", "production")
    weir = new_weir(LOG_LEVEL="info")
    given = {"PATH", "HOME", "PORT", "DATA_DIR", "LOCAL_MODEL"}
    assert weir.env.keys() == given | {"LOG_LEVEL"}
    assert weir.start().is_running


def test_a_weir_that_refuses_to_start_says_why(start_weir: MakeWeir) -> None:
    with pytest.raises(DidNotStart, match="SECRET_KEY") as refused:
        start_weir(APP_ENV="production")
    assert refused.value.exit_code
    assert "Traceback" not in refused.value.output


# -- beyond plain words --


def test_tools_are_called_in_order_and_streamed_in_fragments(provider: Provider) -> None:
    parameters = {"type": "object", "properties": {"days": {"type": "integer"}}}
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": parameters}},
        {"type": "function", "function": {"name": "clock"}},
    ]
    [choice] = ask(provider, "both", tools=tools).json()["choices"]
    calls = [call["function"] for call in choice["message"]["tool_calls"]]
    assert [call["name"] for call in calls] == ["weather", "clock"]
    assert json.loads(calls[0]["arguments"]) == {"days": 3}
    assert choice["finish_reason"] == "tool_calls"
    choices = [
        one for chunk in chunks(provider, "the clock", tools=tools) for one in chunk["choices"]
    ]
    deltas = [call for one in choices for call in one["delta"].get("tool_calls") or []]
    assert [delta["function"].get("name") for delta in deltas if "id" in delta] == ["clock"]


def test_embeddings_tell_texts_apart(provider: Provider) -> None:
    def embed(**body: Any) -> list[Any]:
        url = f"{provider.base_url}/embeddings"
        answer = requests.post(url, json={"model": "m", **body}, timeout=10).json()
        return [one["embedding"] for one in answer["data"]]

    first, second = embed(input=["one", "two"], dimensions=4)
    assert len(first) == len(second) == 4
    assert first != second
    assert embed(input="one", dimensions=4) == [first]
    [packed] = embed(input="one", dimensions=4, encoding_format="base64")
    assert list(struct.unpack("<4f", base64.b64decode(packed))) == first


def test_a_schema_is_satisfied(provider: Provider) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"enum": ["a"]}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    [choice] = ask(provider, "x", response_format=wanted).json()["choices"]
    assert json.loads(choice["message"]["content"]) == {"n": 3, "s": "a"}


def claude(provider: Provider, body: dict[str, Any], **kwargs: Any) -> requests.Response:
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    full = {"model": "stand-in-claude", "max_tokens": 50, **body}
    url = f"{provider.anthropic_url}/v1/messages"
    return requests.post(url, json=full, headers=headers, timeout=10, **kwargs)


def test_anthropic_s_messages_are_answered_and_refused_as_there(provider: Provider) -> None:
    asked = {"messages": [{"role": "user", "content": "hello"}]}
    answer = claude(provider, asked | {"system": "Be brief."}).json()
    assert answer["content"] == [{"type": "text", "text": "system: Be brief. echo: hello"}]
    assert answer["stop_reason"] == "end_turn"
    assert claude(provider, asked | {"max_tokens": 1}).json()["stop_reason"] == "max_tokens"
    for wrong in ({"messages": []}, asked | {"n": 2}, asked | {"temperature": 1.5}):
        refused = claude(provider, wrong)
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
    unkeyed = requests.post(f"{provider.anthropic_url}/v1/messages", json=asked, timeout=10)
    assert unkeyed.status_code == 401


def test_anthropic_s_events_come_in_their_order(provider: Provider) -> None:
    asked = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    lines = claude(provider, asked).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [
        "message_start", "ping", "content_block_start", "content_block_delta",
        "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    provider.fault(error_event=True, pieces=5)
    assert '"type": "overloaded_error"' in claude(provider, asked).text
