"""What a client gets for each way in which the provider can fail; none of it is kept."""

from __future__ import annotations

import json
import time

import pytest

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir, free_port

KEY = "test_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "OPENAI_API_KEY": "sk-provider-secret-1234",
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
    "CACHE_STALE_IF_ERROR": 0,
}

FAULTS = [
    ({"status": 400}, 400, "ProviderRefusedRequest"),
    ({"status": 404}, 400, "ProviderRefusedRequest"),
    ({"status": 404, "code": "model_not_found"}, 404, "ModelNotFound"),
    ({"status": 413}, 400, "ProviderRefusedRequest"),
    ({"status": 422}, 400, "ProviderRefusedRequest"),
    ({"status": 401}, 502, "ProviderRefusedWeir"),
    ({"status": 403}, 502, "ProviderRefusedWeir"),
    ({"status": 429}, 503, "ProviderBusy"),
    ({"status": 429, "code": "insufficient_quota"}, 502, "ProviderRefusedWeir"),
    ({"status": 500}, 502, "ProviderFailed"),
    ({"status": 503}, 502, "ProviderFailed"),
    ({"garbage": True}, 502, "ProviderFailed"),
    ({"wrong_json": True}, 502, "ProviderFailed"),
    ({"cut_before": True}, 502, "ProviderFailed"),
    ({"hang": True}, 504, "ProviderTimedOut"),
    ({"slow": 5}, 504, "ProviderTimedOut"),
]


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS, OPENAI_BASE_URL=provider.base_url, DEFAULT_MODEL="stand-in-1", LLM_TIMEOUT=0.6
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(("fault", "status", "name"), FAULTS, ids=lambda value: str(value))
def test_a_fault_before_the_first_piece_keeps_its_status(
    weir: Weir, provider: Provider, fault: dict[str, object], status: int, name: str, streamed: bool
) -> None:
    provider.fault(**fault)
    body = {"message": f"fault {fault} {streamed}", "stream": streamed}
    response = weir.post("/chat", key=KEY, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"] == name
    assert "127.0.0.1" not in response.text
    assert "sk-provider" not in response.text
    assert ("Retry-After" in response.headers) == (status == 503)
    provider.fault()
    again = weir.post("/chat", key=KEY, json=body | {"stream": False})
    assert again.status_code == 200
    assert again.json()["cached"] is False


@pytest.mark.parametrize("fault", [{"cut": True}, {"error_event": True}, {"no_finish": True}])
def test_a_stream_that_breaks_off_says_so_and_is_not_kept(
    weir: Weir, provider: Provider, fault: dict[str, object]
) -> None:
    provider.fault(**fault, pieces=5)
    body = {"message": f"broken {fault}"}
    with weir.stream("/chat", body | {"stream": True}, KEY) as stream:
        *pieces, error, end = [*stream]
    assert end == "[DONE]"
    assert json.loads(error)["error"]["error"] == "ProviderFailed"
    assert pieces
    assert all("content" in json.loads(piece) for piece in pieces)
    provider.fault()
    assert weir.post("/chat", key=KEY, json=body).json()["cached"] is False


def test_the_timeout_bounds_each_wait_of_a_stream_not_the_whole(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(gap=0.4, pieces=5)
    with weir.stream("/chat", {"message": "slow and steady", "stream": True}, KEY) as stream:
        *pieces, last, end = [json.loads(event) if event != "[DONE]" else event for event in stream]
    assert (last["done"], end) == (True, "[DONE]")
    assert len(pieces) == 5
    provider.fault(gap=5, pieces=5)
    with weir.stream("/chat", {"message": "it stops", "stream": True}, KEY) as stream:
        began = time.monotonic()
        *pieces, error, end = [*stream]
    assert json.loads(error)["error"]["error"] == "ProviderTimedOut"
    assert len(pieces) == 1
    assert 0.5 < time.monotonic() - began < 4


def test_a_message_of_the_provider_about_the_request_is_passed_on(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(status=400)
    message = weir.post("/chat", key=KEY, json={"message": "refused"}).json()["message"]
    assert message.startswith("The provider rejected the request: ")
    assert len(message) > 40


def test_the_provider_s_retry_after_is_passed_on(weir: Weir, provider: Provider) -> None:
    provider.fault(status=429, retry_after="7")
    assert weir.post("/chat", key=KEY, json={"message": "busy"}).headers["Retry-After"] == "7"


def test_a_refused_connection_is_a_502(start_weir: MakeWeir) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1")
    response = weir.post("/chat", key=KEY, json={"message": "anyone?"})
    assert (response.status_code, response.json()["error"]) == (502, "ProviderFailed")
    health = weir.get("/health")
    assert health.status_code == 200
    assert health.json()["checks"]["llm"] == "unhealthy"


def test_the_deadline_bounds_a_whole_request(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, LLM_DEADLINE=0.5)
    provider.fault(hang=True)
    for streamed in (False, True):
        body = {"message": "slow", "model": "stand-in-1", "stream": streamed}
        response = weir.post("/chat", key=KEY, json=body)
        assert (response.status_code, response.json()["error"]) == (504, "ProviderTimedOut")


def test_a_thousand_first_requests_at_once_are_all_answered(
    start_weir: MakeWeir, provider: Provider
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, TIERS="enterprise=9999/minute")

    def ask(number: int) -> int:
        return weir.post("/chat", key=KEY, json={"message": f"first {number}"}).status_code

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(ask, range(300))) == {200}
    assert len(provider.calls("/v1/models")) == 1
