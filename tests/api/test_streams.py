"""How streams begin, idle, end early, and behave when the server stops."""

from __future__ import annotations

import json
import socket
import time
from http.client import HTTPResponse

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir, wait_until

KEY = "test_key_0123456789"
SETTINGS = {"API_KEYS": f"test:enterprise:{KEY}", "DEFAULT_MODEL": "stand-in-1"}


def body(message: str) -> dict[str, object]:
    return {"message": message, "stream": True}


def ended(provider: Provider) -> bool:
    calls = provider.completions()
    return bool(calls) and all(call["hung_up"] for call in calls)


def ready_on(connection: socket.socket) -> int:
    """The status of GET /readiness on a connection that stays open."""
    connection.sendall(b"GET /readiness HTTP/1.1\r\nHost: x\r\n\r\n")
    response = HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS, OPENAI_BASE_URL=provider.base_url, STREAM_HEADERS_AFTER=0.3
    )


def test_a_late_stream_begins_with_a_comment_and_reports_its_error_in_band(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(slow=1.0, status=500)
    response = weir.post("/chat", key=KEY, json=body("late"), stream=True)
    assert response.status_code == 200
    lines = response.text.split("\n\n")
    assert lines[0] == ": ping"
    assert json.loads(lines[1].removeprefix("data: "))["error"]["error"] == "ProviderFailed"
    assert lines[2] == "data: [DONE]"


@pytest.mark.parametrize("fault", [{"gap": 0.05, "pieces": 2000}, {"gap": 30, "pieces": 5}])
def test_the_provider_s_call_ends_when_the_client_of_a_stream_leaves(
    weir: Weir, provider: Provider, fault: dict[str, float]
) -> None:
    provider.fault(**fault)
    with weir.stream("/chat", body(f"leaving {fault}"), KEY) as stream:
        next(stream)
    wait_until(lambda: ended(provider), 5, "the end of the provider's call")


def test_the_provider_s_call_ends_when_the_client_of_a_plain_request_leaves(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(hang=True)
    message = json.dumps({"message": "leaving"})
    with socket.create_connection(("127.0.0.1", weir.port)) as client:
        client.sendall(
            f"POST /chat HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json"
            f"\r\nContent-Length: {len(message)}\r\n\r\n{message}".encode()
        )
        wait_until(provider.completions, 5, "the provider's call")
    wait_until(lambda: ended(provider), 5, "the end of the provider's call")


def test_a_running_stream_finishes_when_the_server_stops(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url)
    provider.fault(gap=0.3, pieces=8)
    with socket.create_connection(("127.0.0.1", weir.port)) as idle:
        assert ready_on(idle) == 200
        with weir.stream("/chat", body("to the end"), KEY) as stream:
            next(stream)
            assert weir.process is not None
            weir.process.terminate()
            wait_until(lambda: "Handling signal: term" in weir.raw_logs())
            # As a load balancer would, on the connection it has: new ones are refused by now.
            assert ready_on(idle) == 503
            rest = list(stream)
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["done"] is True
        assert weir.terminate(10) == 0


def test_an_idle_connection_does_not_delay_the_end(start_weir: MakeWeir) -> None:
    weir = start_weir(SHUTDOWN_GRACE=30)
    with socket.create_connection(("127.0.0.1", weir.port)) as idle:
        assert ready_on(idle) == 200
        began = time.monotonic()
        assert weir.terminate(40) == 0
        assert time.monotonic() - began < 10


def test_a_stream_is_ended_with_an_error_when_the_grace_period_is_over(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, SHUTDOWN_GRACE=4)
    provider.fault(gap=0.5, pieces=200)
    with weir.stream("/chat", body("too long"), KEY) as stream:
        next(stream)
        assert weir.process is not None
        weir.process.terminate()
        *_, error, end = list(stream)
    assert end == "[DONE]"
    assert json.loads(error)["error"]["error"] == "ShuttingDown"
    assert weir.terminate(8) == 0
