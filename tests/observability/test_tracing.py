"""Traces reach a collector of somebody else's: one a request, from the caller to the provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.collector import Collector, Span
from tests.support.servers import Provider, Valkey, Weir, wait_until

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
CALLER, CALLERS_SPAN = "ab" * 16, "cd" * 8
TRACEPARENT = {"traceparent": f"00-{CALLER}-{CALLERS_SPAN}-01"}
SERVER, CLIENT = 2, 3


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


@pytest.fixture
def traced(
    start_weir: MakeWeir, collector: Collector, fresh_database: str, provider: Provider
) -> Callable[..., Weir]:
    """Starts a Weir that traces, with further settings."""

    def start(**settings: object) -> Weir:
        given: dict[str, object] = {
            "API_KEYS": f"test:enterprise:{KEY}",
            "DATABASE_URL": fresh_database,
            "OPENAI_BASE_URL": provider.base_url,
            "DEFAULT_MODEL": "stand-in-1",
            "LLM_MAX_RETRIES": 1,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": 100,
        }
        return start_weir(**given | settings)

    return start


def whole(collector: Collector, trace_id: str) -> dict[str, Span]:
    """The spans of a trace by name, once its request is among them."""

    def found() -> list[Span]:
        spans = collector.spans(trace_id)
        return spans if any(span.kind == SERVER for span in spans) else []

    return {span.name: span for span in wait_until(found, what="the trace")}


def ask(weir: Weir, message: str, **fields: Any) -> dict[str, Any]:
    """What is logged of a request; its trace has the id that the log says."""
    answer = weir.post("/chat", key=KEY, json={"message": message, "max_tokens": 9, **fields})
    request_id = answer.headers["X-Request-ID"]

    def logged() -> dict[str, Any] | None:
        lines = (line for line in weir.logs() if line.get("request_id") == request_id)
        return next((line for line in lines if "status_code" in line), None)

    line = wait_until(logged)
    assert line is not None
    return line


def test_one_trace_goes_from_the_caller_to_the_provider(
    traced: Callable[..., Weir], collector: Collector, provider: Provider
) -> None:
    weir = traced()
    body = {"messages": [{"role": "user", "content": "a secret-prompt"}], "max_tokens": 9}
    theirs = {"tracestate": "vendor=internal", "baggage": "user=somebody"}
    answer = weir.post(OPENAI, key=KEY, json=body, headers=TRACEPARENT | theirs)
    assert answer.status_code == 200
    spans = whole(collector, CALLER)
    request = spans[f"POST {OPENAI}"]
    assert request.parent_id == CALLERS_SPAN
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["weir.cache"] == "MISS"
    assert request.attributes["weir.request_id"] == answer.headers["X-Request-ID"]
    call, flight = spans["chat stand-in-1"], spans["flight"]
    parents = {name: span.parent_id for name, span in spans.items()}
    assert parents["admission"] == parents["cache"] == parents["flight"] == request.id
    assert parents["database read"] == spans["admission"].id
    assert parents["database reserve"] == parents["chat stand-in-1"] == flight.id
    assert (call.kind, spans["database reserve"].kind) == (CLIENT, CLIENT)
    assert spans["database read"].attributes["db.system.name"] == "postgresql"
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "stand-in-1",
        "gen_ai.response.model": "stand-in-1",
        "gen_ai.usage.input_tokens": answer.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer.json()["usage"]["completion_tokens"],
    }
    assert told.items() <= call.attributes.items()
    assert request.began <= spans["admission"].began <= flight.began <= call.began
    assert call.ended <= flight.ended <= request.ended
    assert request.resource["service.name"] == "weir"

    [asked] = provider.completions()
    assert asked["headers"]["traceparent"] == f"00-{CALLER}-{call.id}-01"
    assert not asked["headers"].keys() & theirs
    for secret in (b"secret-prompt", b"echo:", KEY.encode()):
        assert secret not in collector.raw


def test_a_hit_has_a_trace_of_its_own_which_the_log_names(
    traced: Callable[..., Weir], collector: Collector
) -> None:
    weir = traced()
    first, second = ask(weir, "x"), ask(weir, "x")
    assert first["trace_id"] != second["trace_id"]
    spans = whole(collector, second["trace_id"])
    assert set(spans) == {"POST /chat", "admission", "cache"}
    assert spans["POST /chat"].attributes["weir.cache"] == "HIT"


def test_each_attempt_is_a_span_and_failures_show(
    traced: Callable[..., Weir], collector: Collector, provider: Provider
) -> None:
    weir = traced()
    provider.fault(status=500)
    line = ask(weir, "x")
    assert line["error"] == "ProviderFailed"
    spans = whole(collector, line["trace_id"])
    attempts = [s for s in collector.spans(line["trace_id"]) if s.name == "chat stand-in-1"]
    assert [span.attributes["weir.attempt"] for span in attempts] == [1, 2]
    for span in (*attempts, spans["flight"], spans["POST /chat"]):
        assert span.failed
        assert span.attributes["error.type"] == "ProviderFailed"


def test_who_joins_a_flight_has_no_call_of_its_own(
    traced: Callable[..., Weir], collector: Collector, provider: Provider, fresh_valkey: Valkey
) -> None:
    weir = traced(REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=2)
    provider.fault(slow=0.5)
    with ThreadPoolExecutor(4) as pool:
        lines = list(pool.map(lambda _: ask(weir, "together"), range(4)))
    assert len(provider.completions()) == 1
    roles = []
    for line in lines:
        spans = whole(collector, line["trace_id"])
        roles.append(spans["flight"].attributes["weir.role"])
        assert ("chat stand-in-1" in spans) == (roles[-1] == "leader")
    assert sorted(roles) == ["follower", "follower", "follower", "leader"]


def test_a_stream_s_span_lasts_as_long_as_the_stream(
    traced: Callable[..., Weir], collector: Collector, provider: Provider
) -> None:
    weir = traced()
    provider.fault(gap=0.1, pieces=6)
    with weir.stream("/chat", {"message": "x", "stream": True}, KEY, headers=TRACEPARENT) as stream:
        list(stream)
    spans = whole(collector, CALLER)
    call = spans["chat stand-in-1"]
    assert call.ended - call.began > 0.4
    assert spans["POST /chat"].ended >= call.ended
    assert call.attributes["gen_ai.response.time_to_first_chunk"] < 0.4


def test_who_asks_for_no_sampling_gets_none(
    traced: Callable[..., Weir], collector: Collector
) -> None:
    weir = traced()
    unsampled = {"traceparent": f"00-{CALLER}-{CALLERS_SPAN}-00"}
    assert weir.post("/chat", key=KEY, json={"message": "x"}, headers=unsampled).ok
    ask(weir, "y")
    wait_until(collector.spans)
    assert not collector.spans(CALLER)
    assert not any(span.name.endswith("/readiness") for span in collector.spans())


def test_a_collector_that_is_away_costs_requests_nothing(
    traced: Callable[..., Weir], collector: Collector
) -> None:
    weir = traced()
    collector.pause()
    took = []
    for number in range(20):
        began = time.perf_counter()
        ask(weir, f"number {number}")
        took.append(time.perf_counter() - began)
    collector.stop()
    ask(weir, "gone")
    assert sorted(took)[10] < 0.5
    began = time.perf_counter()
    assert weir.terminate() == 0
    assert time.perf_counter() - began < 15
    for line in weir.raw_logs().splitlines():
        assert line.startswith("{"), line


def test_the_last_spans_are_sent_before_a_worker_ends(
    traced: Callable[..., Weir], collector: Collector
) -> None:
    weir = traced(OTEL_BSP_SCHEDULE_DELAY=60_000)
    line = ask(weir, "x")
    assert not collector.spans(line["trace_id"])
    assert weir.terminate() == 0
    assert "chat stand-in-1" in whole(collector, line["trace_id"])


def test_without_an_endpoint_opentelemetry_s_sdk_is_not_even_imported(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(API_KEYS=f"test:enterprise:{KEY}", OPENAI_BASE_URL=provider.base_url)
    weir.post("/chat", key=KEY, json={"message": "x"}, headers=TRACEPARENT)
    [worker] = weir.pids()
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "google/_upb" not in maps, "protobuf is loaded"
    assert ask(weir, "y")["trace_id"] is None
