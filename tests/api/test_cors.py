"""CORS: what programs in browsers may send, and what they may read."""

from __future__ import annotations

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.administrator import PASSWORD, Administrator
from tests.support.servers import Provider, Weir
from webapp.api.hooks import SECURITY_HEADERS

KEY = "test_key_0123456789"
ORIGIN = "https://shop.example"
# What the Fetch standard lets every program read, and what is for browsers and proxies alone.
READABLE = {"cache-control", "content-language", "content-length", "content-type", "expires",
            "last-modified", "pragma"}  # fmt: skip
NOT_FOR_PROGRAMS = {name.lower() for name, _ in SECURITY_HEADERS} | {
    "access-control-allow-origin", "access-control-expose-headers", "connection",
    "content-security-policy", "date", "server", "transfer-encoding", "vary", "x-accel-buffering",
}  # fmt: skip


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY},slow:slow:slow_key_0123456789,poor:poor:poor_key_0123456789",
        TIERS="enterprise=9999/minute;slow=1/minute;poor=99/minute",
        TIER_ENTERPRISE="tokens_per_minute=1000000",
        TIER_POOR="usd_per_day=0.000000001",
        MODEL_PRICES="openai/*: input=100, output=100",
        ADMIN_PASSWORD=PASSWORD,
        ALLOWED_ORIGINS=f"{ORIGIN},https://other.example",
        OPENAI_BASE_URL=provider.base_url,
        LLM_MAX_RETRIES=0,
    )


def every_kind_of_response(weir: Weir, provider: Provider) -> dict[str, requests.Response]:
    origin = {"Origin": ORIGIN}
    chat = {"messages": [{"role": "user", "content": "hello"}], "model": "stand-in-1"}
    native = {"message": "hello", "model": "stand-in-1"}

    def completion(key: str = KEY, **headers: str) -> requests.Response:
        return weir.post("/v1/chat/completions", key=key, json=chat, headers=origin | headers)

    responses = {
        "miss": completion(),
        "hit": completion(),
        "idempotent": completion(**{"Idempotency-Key": "one"}),
        "replayed": completion(**{"Idempotency-Key": "one"}),
        "stream": weir.post(
            "/v1/chat/completions", key=KEY, json=chat | {"stream": True}, headers=origin
        ),
        "native": weir.post("/chat", key=KEY, json=native, headers=origin),
        "job": weir.post(
            "/chat", key=KEY, json=native, headers=origin | {"Prefer": "respond-async"}
        ),
        "native stream": weir.post(
            "/chat", key=KEY, json=native | {"stream": True}, headers=origin
        ),
        "models": weir.get("/v1/models", key=KEY, headers=origin),
        "anthropic": weir.get(
            "/v1/models", key=KEY, headers=origin | {"anthropic-version": "2023-06-01"}
        ),
        "unauthorized": weir.get("/v1/models", headers=origin | {"Authorization": "Bearer no"}),
        "not found": weir.get("/v1/nothing", headers=origin),
        "not allowed": weir.get("/v1/chat/completions", key=KEY, headers=origin),
        "invalid": weir.post("/chat", key=KEY, json={}, headers=origin),
        "over budget": completion("poor_key_0123456789", **{"Cache-Control": "no-store"}),
        "in its limit": completion("slow_key_0123456789"),
        "over its limit": completion("slow_key_0123456789"),
        "health": weir.get("/health", headers=origin),
        "document": weir.get("/openapi.json", headers=origin),
        "export": weir.get("/admin/usage?format=csv", headers=Administrator(weir).headers | origin),
    }
    provider.fault(status=503, retry_after=2)
    responses["failed"] = completion(**{"Cache-Control": "no-store"})
    return responses


def test_programs_in_browsers_may_read_every_header(weir: Weir, provider: Provider) -> None:
    responses = every_kind_of_response(weir, provider)
    statuses = {name: response.status_code for name, response in responses.items()}
    assert set(statuses.values()) == {200, 202, 401, 404, 405, 422, 429, 502}, statuses
    seen: set[str] = set()
    for name, response in responses.items():
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN, name
        exposed = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
        carried = {header.lower() for header in response.headers} - NOT_FOR_PROGRAMS - READABLE
        assert carried <= set(exposed), name
        seen |= carried
    # None is in the list by mistake, but for those that only other answers carry.
    assert set(exposed) - seen <= {"x-weir-cost-usd", "retry-after-ms"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/chat", "/v1/key"])
def test_a_preflight_allows_the_headers_that_clients_send(weir: Weir, path: str) -> None:
    asked = [
        "authorization", "api-key", "x-api-key", "content-type", "idempotency-key",
        "x-stainless-lang", "x-stainless-retry-count", "x-stainless-helper-method",
        "openai-organization", "openai-project", "openai-beta", "anthropic-version",
        "anthropic-beta", "anthropic-dangerous-direct-browser-access", "x-request-id",
        "cache-control", "prefer", "x-weir-callback",
    ]  # fmt: skip
    method = "GET" if path == "/v1/key" else "POST"
    answer = weir.request(
        "OPTIONS", path,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ",".join(asked),
        },
    )  # fmt: skip
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert set(asked) <= set(allowed)


def test_another_origin_is_allowed_nothing(weir: Weir) -> None:
    for method in ("GET", "OPTIONS"):
        answer = weir.request(
            method, "/v1/models", key=KEY,
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"},
        )  # fmt: skip
        assert "Access-Control-Allow-Origin" not in answer.headers
