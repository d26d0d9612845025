"""Traces reach a collector of somebody else's: one a request, from the caller to the provider."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.collector import Collector, Span
from tests.support.servers import Provider, Valkey, Weir, wait_until

KEY, NEW_KEY = "test_key_0123456789", "new_key_0123456789"
OPENAI = "/v1/chat/completions"
CALLERS_SPAN = "cd" * 8
SERVER, CLIENT = 2, 3


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


@pytest.fixture
def caller() -> str:
    """The id of a caller's trace."""
    return secrets.token_hex(16)


def traceparent(caller: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{caller}-{CALLERS_SPAN}-{flags}"}


def tracing(collector: Collector, database: str, provider: Provider) -> dict[str, Any]:
    """The settings of a Weir that traces."""
    return {
        "API_KEYS": f"test:enterprise:{KEY},new:enterprise:{NEW_KEY}",
        "DATABASE_URL": database,
        "OPENAI_BASE_URL": provider.base_url,
        "DEFAULT_MODEL": "stand-in-1",
        "LLM_MAX_RETRIES": 1,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": 100,
    }


@pytest.fixture(scope="module")
def weir(
    start_shared_weir: MakeWeir,
    collector: Collector,
    fresh_shared_database: str,
    provider: Provider,
) -> Weir:
    return start_shared_weir(**tracing(collector, fresh_shared_database, provider))


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
    weir: Weir, collector: Collector, provider: Provider, caller: str
) -> None:
    body = {"messages": [{"role": "user", "content": "a secret-prompt"}], "max_tokens": 9}
    theirs = {"tracestate": "vendor=internal", "baggage": "user=somebody"}
    # Nobody has used this key before: it is read from the database.
    answer = weir.post(OPENAI, key=NEW_KEY, json=body, headers=traceparent(caller) | theirs)
    assert answer.status_code == 200
    spans = whole(collector, caller)
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
    assert asked["headers"]["traceparent"] == f"00-{caller}-{call.id}-01"
    assert not asked["headers"].keys() & theirs
    for secret in (b"secret-prompt", b"echo:", NEW_KEY.encode()):
        assert secret not in collector.raw


def test_a_hit_has_a_trace_of_its_own_which_the_log_names(weir: Weir, collector: Collector) -> None:
    first, second = ask(weir, "a hit"), ask(weir, "a hit")
    assert first["trace_id"] != second["trace_id"]
    spans = whole(collector, second["trace_id"])
    assert set(spans) == {"POST /chat", "admission", "cache"}
    assert spans["POST /chat"].attributes["weir.cache"] == "HIT"


def test_each_attempt_is_a_span_and_failures_show(
    weir: Weir, collector: Collector, provider: Provider
) -> None:
    provider.fault(status=500)
    line = ask(weir, "attempts")
    assert line["error"] == "ProviderFailed"
    spans = whole(collector, line["trace_id"])
    attempts = [s for s in collector.spans(line["trace_id"]) if s.name == "chat stand-in-1"]
    assert [span.attributes["weir.attempt"] for span in attempts] == [1, 2]
    for span in (*attempts, spans["flight"], spans["POST /chat"]):
        assert span.failed
        assert span.attributes["error.type"] == "ProviderFailed"


def test_who_joins_a_flight_has_no_call_of_its_own_and_all_is_sent_before_a_worker_ends(
    start_weir: MakeWeir,
    collector: Collector,
    fresh_database: str,
    provider: Provider,
    fresh_valkey: Valkey,
) -> None:
    settings = tracing(collector, fresh_database, provider) | {"OTEL_BSP_SCHEDULE_DELAY": 60_000}
    weir = start_weir(**settings, REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=2)
    provider.fault(slow=0.5)
    with ThreadPoolExecutor(4) as pool:
        lines = list(pool.map(lambda _: ask(weir, "together"), range(4)))
    assert len(provider.completions()) == 1
    assert not any(collector.spans(line["trace_id"]) for line in lines)
    assert weir.terminate() == 0
    roles = []
    for line in lines:
        spans = whole(collector, line["trace_id"])
        roles.append(spans["flight"].attributes["weir.role"])
        assert ("chat stand-in-1" in spans) == (roles[-1] == "leader")
    assert sorted(roles) == ["follower", "follower", "follower", "leader"]


def test_a_stream_s_span_lasts_as_long_as_the_stream(
    weir: Weir, collector: Collector, provider: Provider, caller: str
) -> None:
    provider.fault(gap=0.1, pieces=6)
    asked = {"message": "a stream", "stream": True}
    with weir.stream("/chat", asked, KEY, headers=traceparent(caller)) as stream:
        list(stream)
    spans = whole(collector, caller)
    call = spans["chat stand-in-1"]
    assert call.ended - call.began > 0.4
    assert spans["POST /chat"].ended >= call.ended
    assert call.attributes["gen_ai.response.time_to_first_chunk"] < 0.4


def test_who_asks_for_no_sampling_gets_none(weir: Weir, collector: Collector, caller: str) -> None:
    unsampled = traceparent(caller, "00")
    assert weir.post("/chat", key=KEY, json={"message": "unsampled"}, headers=unsampled).ok
    whole(collector, ask(weir, "sampled")["trace_id"])
    assert not collector.spans(caller)
    assert not any(span.name.endswith("/readiness") for span in collector.spans())


def test_a_collector_that_is_away_costs_requests_nothing(
    start_weir: MakeWeir, fresh_database: str, provider: Provider
) -> None:
    with Collector() as collector:
        weir = start_weir(**tracing(collector, fresh_database, provider))
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
        # On stderr is the banner alone, for people.
        assert "Traceback" not in (weir.folder / "stderr.log").read_text()
        for line in (weir.folder / "stdout.log").read_text().splitlines():
            assert line.startswith("{"), line


def test_without_an_endpoint_opentelemetry_s_sdk_is_not_even_imported(
    start_weir: MakeWeir, provider: Provider, caller: str
) -> None:
    weir = start_weir(API_KEYS=f"test:enterprise:{KEY}", OPENAI_BASE_URL=provider.base_url)
    weir.post("/chat", key=KEY, json={"message": "x"}, headers=traceparent(caller))
    [worker] = weir.pids()
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "google/_upb" not in maps, "protobuf is loaded"
    assert ask(weir, "y")["trace_id"] is None
