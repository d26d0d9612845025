"""Clients that send or read slowly, or too much: what they can hold, and for how long."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until

KEY, OTHER_KEY = "test_key_0123456789", "other_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},other:enterprise:{OTHER_KEY}",
    "TIERS": "enterprise=99999/minute",
    "TIER_ENTERPRISE": "usd_per_day=100",
    "MODEL_PRICES": PRICES,
    "DEFAULT_MODEL": "m",
    "WEB_CONCURRENCY": 1,
}
CONNECTIONS = 40


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS,
        OPENAI_BASE_URL=provider.base_url,
        BODY_TIMEOUT=1,
        SEND_TIMEOUT=1,
        MAX_CONNECTIONS_PER_ADDRESS=CONNECTIONS,
        MAX_BODY_BYTES_IN_FLIGHT=4 * 1024 * 1024,
    )


@contextmanager
def connected(weir: Weir) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", weir.port), timeout=30) as connection:
        yield connection


def head(path: str, length: int | None, key: str = KEY) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"X-API-Key: {key}", framing)
    return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, str | None, bytes]:
    """Status, `Connection` and body."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.headers["Connection"], response.read()


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# -- heads --


@pytest.mark.parametrize("kept", [False, True], ids=["a new connection", "a kept one"])
def test_headers_that_do_not_arrive_in_time_are_given_up(weir: Weir, kept: bool) -> None:
    with connected(weir) as connection:
        if kept:
            connection.sendall(b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer(connection)[0] == 200
        began = time.monotonic()
        connection.sendall(b"GET /liveness HTTP/1.1\r\n")
        connection.settimeout(0.1)
        while time.monotonic() - began < 10:
            try:
                # A byte now and then does not help.
                connection.sendall(b"X")
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.5 < time.monotonic() - began < 8
    # One that waits for its next request may wait.
    with connected(weir) as connection:
        time.sleep(1.5)  # the subject
        connection.sendall(b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection)[0] == 200


# -- bodies --


@pytest.mark.parametrize("length", [1000, None], ids=["with a length", "chunked"])
@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/token"])
def test_a_body_that_does_not_arrive_in_time_is_given_up(
    weir: Weir, path: str, length: int | None
) -> None:
    with connected(weir) as connection:
        connection.sendall(head(path, length))
        connection.sendall(b"{" if length else b"1\r\n{\r\n")
        status, stays, body = answer(connection)
        assert (status, stays) == (408, "close")
        assert "did not arrive in time" in body.decode()
        assert is_closed(connection)


def test_a_byte_now_and_then_does_not_make_a_body_arrive_in_time(weir: Weir) -> None:
    began = time.monotonic()
    with connected(weir) as connection:
        connection.sendall(head("/chat", 1000))
        connection.settimeout(0.1)
        status = None
        while status is None and time.monotonic() - began < 10:
            connection.sendall(b" ")
            try:
                status = answer(connection)[0]
            except TimeoutError:
                continue
    assert status == 408


def test_a_large_body_may_take_longer(weir: Weir) -> None:
    text = "x" * 90_000
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    began = time.monotonic()
    with connected(weir) as connection:
        connection.sendall(head("/v1/chat/completions", len(body)))
        for start in range(0, len(body), 15_000):
            connection.sendall(body[start : start + 15_000])
            time.sleep(0.3)  # the subject
        assert time.monotonic() - began > 1.5
        assert answer(connection)[0] == 200


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/v1/explain"])
def test_a_refused_body_is_not_read_for_ever(weir: Weir, path: str) -> None:
    block = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    sent = 0
    with connected(weir) as connection:
        connection.sendall(head(path, None, key="no_such_key"))
        with suppress(ConnectionError):
            while sent < 200 * len(block):
                connection.sendall(block)
                sent += len(block)
    assert sent < 100 * len(block)


def test_a_client_that_is_refused_reads_why(weir: Weir) -> None:
    with connected(weir) as connection:
        body = b" " * 2_000_000
        connection.sendall(head("/chat", len(body), key="no_such_key") + body)
        status, stays, _ = answer(connection)
        assert (status, stays) == (403, "close")
    with connected(weir) as connection:
        for _ in range(2):
            connection.sendall(head("/chat", 2, key="no_such_key") + b"{}")
            assert answer(connection)[:2] == (403, "keep-alive")


# -- answers --


def unread(
    weir: Weir,
    connections: ExitStack,
    *,
    stream: bool = True,
    size: int = 20_000_000,
    key: str = KEY,
) -> socket.socket:
    """A request for a large answer, of which nothing is read once it has begun."""
    connection = connections.enter_context(connected(weir))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    message = f"{time.time()} [[fault:big={size}]]"
    body = json.dumps({"message": message, "stream": stream}).encode()
    connection.sendall(head("/chat", len(body), key) + body)
    assert connection.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
    return connection


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
def test_an_answer_that_nobody_reads_ends(weir: Weir, provider: Provider, stream: bool) -> None:
    before = len(weir.logs())
    with ExitStack() as connections:
        for _ in range(3):
            unread(weir, connections, stream=stream)
        states = wait_until(lambda: settled(weir), 20, "their end")
        # A plain answer has been paid for before it is sent.
        assert set(states[-3:]) == {"cancelled" if stream else "settled"}
        wait_until(lambda: all(call["ended"] or call["hung_up"] for call in provider.calls()))
    wait_until(lambda: len(weir.logs()) >= before + 3)


def test_many_streams_that_nobody_reads_end_before_their_provider_s_end(
    weir: Weir, provider: Provider
) -> None:
    before = len(Books(weir).rows())
    with ExitStack() as connections:
        for _ in range(CONNECTIONS - 10):
            unread(weir, connections, size=2_000_000)
        states = wait_until(lambda: settled(weir), 20, "their end")
    assert states[before:] == ["cancelled"] * (CONNECTIONS - 10)


def test_the_bytes_of_answers_that_nobody_reads_are_bounded(
    start_weir: MakeWeir, provider: Provider
) -> None:
    """A quarter for each key: 12 MiB, which two answers of 5 MB fit into."""
    bound = 48 * 1024 * 1024
    urls = {"OPENAI_BASE_URL": provider.base_url, "MAX_UNREAD_ANSWER_BYTES": bound}
    weir = start_weir(**SETTINGS, **urls)

    def ended() -> list[dict[str, Any]]:
        return [line for line in weir.logs() if line.get("endpoint") == "/chat"]

    with ExitStack() as connections:
        unread(weir, connections, stream=False, size=5_000_000, key=OTHER_KEY)
        for _ in range(6):
            unread(weir, connections, stream=False, size=5_000_000)
        wait_until(lambda: len(ended()) == 4, 20, "the end of those above the bound")
        message = f"{time.time()} [[fault:big=5000000]]"
        taken = weir.post("/chat", key=KEY, json={"message": message})
        assert len(taken.json()["response"]) == 5_000_000
        wait_until(lambda: len(ended()) > 4)
        lines = ended()
    # Others have a share of their own. The last answer may need the room of one more.
    assert {line["api_key"] for line in lines} == {"test***6789"}
    assert 5 <= len(lines) <= 6


def settled(weir: Weir) -> list[str]:
    """The states of all calls, if none is reserved any more."""
    states = [row["state"] for row in Books(weir).rows()]
    return states if states and "reserved" not in states else []


def test_what_nobody_reads_is_ended_before_the_grace_period_is_over(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, SHUTDOWN_GRACE=5)
    with ExitStack() as connections:
        for _ in range(5):
            unread(weir, connections)
        connection = connections.enter_context(connected(weir))
        connection.sendall(head("/chat", 1000) + b"{")
        began = time.monotonic()
        assert weir.terminate() == 0
        assert time.monotonic() - began < 7
    assert [row["state"] for row in Books(weir).rows()] == ["cancelled"] * 5
    assert "timeout" not in weir.raw_logs()


# -- connections --


def test_an_address_has_so_many_connections(weir: Weir) -> None:
    with ExitStack() as connections:
        held = [connections.enter_context(connected(weir)) for _ in range(CONNECTIONS)]
        for connection in held[1:]:
            connection.sendall(head("/token", 100))
        with connected(weir) as refused:
            status, _, body = answer(refused)
            assert (status, json.loads(body)["error"]) == (503, "TooManyConnections")
    wait_until(lambda: weir.get("/liveness").status_code == 200)


# -- large bodies --


@pytest.mark.parametrize("brackets", [0, 100_001])
def test_a_body_of_quotes_is_refused(weir: Weir, brackets: int) -> None:
    """It has few values, but takes long to look through."""
    body = b'"' + b"[" * brackets + b'"' * 5_000_000
    headers = {"Content-Type": "application/json"}
    refused = weir.post("/v1/explain", key=KEY, data=body, headers=headers)
    assert refused.status_code == (413 if brackets else 400)


def test_idempotent_bodies_are_utf_8(weir: Weir) -> None:
    body = '["\u2200"' + ",{}" * 150_000 + "]"
    headers = {"Content-Type": "application/json", "Idempotency-Key": "utf-16"}
    refused = weir.post("/chat", key=KEY, data=body.encode("utf-16-le"), headers=headers)
    assert refused.status_code in {400, 413}


def test_a_few_keys_do_not_take_large_bodies_away_from_others(start_weir: MakeWeir) -> None:
    keys = [f"key_number_{number}_0123456789" for number in range(5)]
    settings = SETTINGS | {"API_KEYS": ",".join(f"k{key[11]}:enterprise:{key}" for key in keys)}
    weir = start_weir(**settings, MAX_BODY_BYTES_IN_FLIGHT=8 * 1024 * 1024)
    with ExitStack() as connections:
        for key in keys[:4]:
            connection = connections.enter_context(connected(weir))
            connection.sendall(head("/v1/embeddings", 2_000_000, key) + b" " * 1_900_000)
        wait_until(lambda: weir.get("/liveness").status_code == 200)
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * 300_000}]}
        assert weir.post("/v1/chat/completions", key=keys[4], json=body).status_code == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_one_body_may_be_larger_than_the_share_of_a_key(weir: Weir, chunked: bool) -> None:
    body = json.dumps({"model": "m", "input": "x" * 1_500_000}).encode()
    sent = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    headers = {"Content-Type": "application/json"}
    answered = weir.post("/v1/embeddings", key=KEY, data=sent if chunked else body, headers=headers)
    assert answered.status_code == 200


def test_bodies_of_a_key_are_bounded_together(weir: Weir, provider: Provider) -> None:
    """A quarter of all: 1 MiB."""
    text = "x" * 600_000
    body = {"messages": [{"role": "user", "content": f"{text} [[fault:slow=3]]"}], "n": 1}
    with ExitStack() as connections:
        connection = connections.enter_context(connected(weir))
        encoded = json.dumps(body).encode()
        connection.sendall(head("/v1/chat/completions", len(encoded)) + encoded)
        wait_until(provider.completions)
        refused = weir.post("/v1/chat/completions", key=KEY, json=body)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "1"
        small = weir.post("/chat", key=KEY, json={"message": "small"})
        other = weir.post("/v1/embeddings", key=OTHER_KEY, json={"model": "m", "input": text})
        assert (small.status_code, other.status_code) == (200, 200)
        assert answer(connection)[0] == 200
    again = weir.post("/v1/embeddings", key=KEY, json={"model": "m", "input": text})
    assert again.status_code == 200


VALUES = {
    "objects": b"{}," * 150_000 + b"{}",
    "arrays": b"[]," * 150_000 + b"[]",
    "numbers": b"1," * 600_000 + b"1",
    "strings": b'"",' * 600_000 + b'""',
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/explain", "/summarize"])
@pytest.mark.parametrize("kind", VALUES)
def test_a_body_of_too_many_values_is_not_decoded(weir: Weir, path: str, kind: str) -> None:
    body = b'{"messages": [' + VALUES[kind] + b"]}"
    refused = weir.post(path, key=KEY, data=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 413
    assert "too many values" in refused.text


def test_a_text_may_have_as_many_brackets_and_commas_as_it_likes(weir: Weir) -> None:
    # Blocks are looked through one by one: an escape may stand across the end of one.
    for before in range(6):
        text = "x" * before + r'{"a": [1, 2, "\\\\""]}, ' * 60_000
        answered = weir.post("/v1/embeddings", key=KEY, json={"model": "m", "input": text})
        assert answered.status_code == 200
    tokens = {"model": "m", "input": [list(range(100))] * 3000}
    assert weir.post("/v1/embeddings", key=KEY, json=tokens).status_code in {200, 400}


def test_an_idempotent_request_is_bounded_too(weir: Weir) -> None:
    body = b'{"message": [' + VALUES["objects"] + b"]}"
    headers = {"Content-Type": "application/json", "Idempotency-Key": "values"}
    assert weir.post("/chat", key=KEY, data=body, headers=headers).status_code == 413


def test_dry_runs_that_are_refused_are_counted(weir: Weir) -> None:
    for _ in range(60):
        assert weir.post("/v1/explain", key=OTHER_KEY, json={"messages": 1}).status_code == 400
    refused = weir.post("/v1/explain", key=OTHER_KEY, json={"messages": 1})
    assert refused.status_code == 429
    assert "dry runs that are large or refused" in refused.json()["error"]["message"]
    # They consume nothing else.
    assert weir.post("/chat", key=OTHER_KEY, json={"message": "x"}).status_code == 200
