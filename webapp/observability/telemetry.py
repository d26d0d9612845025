"""Records provider calls, store operations and requests as metrics and spans."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from prometheus_client import Histogram

from webapp import money
from webapp.errors import StoreUnavailable, WeirError
from webapp.library_internals import observe_all
from webapp.llm.calls import CallState, ProviderCall, Settlement
from webapp.observability import logs, metrics, tracing
from webapp.observability.metrics import ModelLabels
from webapp.observability.redaction import Patterns, redact
from webapp.observability.request_context import RequestContext
from webapp.observability.tracing import Span
from webapp.storage.database import Database
from webapp.storage.instrumentation import InstrumentationHook

# Names of operations and providers in OpenTelemetry's semantic conventions for generative AI.
OPERATIONS = {
    "chat/completions": "chat",
    "embeddings": "embeddings",
    "messages": "chat",
    "responses": "chat",
}
PROVIDERS = {"azure": "azure.ai.openai"}
GAP_FLUSH_INTERVAL = 1.0  # seconds after which gaps between chunks are added to the histogram


class Telemetry:
    """Observes the gateway (implements llm.ports.Observer)."""

    def __init__(self, labels: ModelLabels, redacted: Patterns = ()) -> None:
        self.labels = labels
        self._redacted = redacted

    def span(self, name: str) -> Span:
        return tracing.span(name)

    def redact(self, words: str) -> str:
        return redact(logs.masked(words), self._redacted)

    def call(self, call: ProviderCall, operation: str, kind: str) -> CallTelemetry:
        return CallTelemetry(self.labels, call, OPERATIONS.get(operation, operation), kind)


class CallTelemetry:
    """Observes one call to a provider (implements llm.ports.CallObserver)."""

    def __init__(self, labels: ModelLabels, call: ProviderCall, operation: str, kind: str) -> None:
        self._models = labels
        self._call = call
        self._labels = labels.of(call.provider, call.model)
        self._began = time.perf_counter()
        self._latest = self._flushed_at = 0.0
        self._gaps: list[float] = []
        self._span = tracing.span(
            f"{operation} {call.model}",
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": PROVIDERS.get(kind, call.provider),
                "gen_ai.request.model": call.model,
                "weir.route": call.route,
                "weir.attempt": call.attempt,
            },
            client=True,
        )

    def current(self) -> AbstractContextManager[object]:
        return self._span.current()

    def chunk(self) -> None:
        now = time.perf_counter()
        if self._latest:
            self._gaps.append(now - self._latest)
        else:
            self._flushed_at = now
            first = now - self._began
            metrics.child(metrics.FIRST_TOKEN_SECONDS, *self._labels).observe(first)
            self._span.note({"gen_ai.response.time_to_first_chunk": first})
        self._latest = now
        if now - self._flushed_at >= GAP_FLUSH_INTERVAL:
            self._flushed_at = now
            self._flush_gaps()

    def _flush_gaps(self) -> None:
        observe_all(metrics.child(metrics.BETWEEN_TOKENS_SECONDS, *self._labels), self._gaps)
        self._gaps.clear()

    def finished(self, settlement: Settlement, model: str | None) -> None:
        if self._gaps:
            self._flush_gaps()
        answered = settlement.state is CallState.SETTLED
        labels = self._models.of(self._call.provider, self._call.model, answered=answered)
        usage = settlement.usage
        metrics.child(metrics.ATTEMPTS, *labels).inc()
        metrics.child(metrics.PROVIDER_SECONDS, *labels).observe(time.perf_counter() - self._began)
        if settlement.error:
            metrics.PROVIDER_ERRORS.labels(*labels, settlement.error).inc()
        for kind, tokens in (
            ("input", usage.input_tokens),
            ("cached_input", usage.cached_input_tokens),
            ("output", usage.output_tokens),
        ):
            counter = metrics.child(metrics.TOKENS, *labels, kind)
            if tokens:
                counter.inc(tokens)
        if settlement.nano is None:
            metrics.UNPRICED.labels(*labels).inc()
        else:
            metrics.child(metrics.COST_USD, *labels).inc(settlement.nano / money.NANO)
        self._span.note(
            {
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
                **({"gen_ai.response.model": model} if model else {}),
            }
        )
        self._span.end(settlement.error, state=str(settlement.state))


class _Operation:
    """A context manager that records the duration and failure of a store operation."""

    __slots__ = ("_began", "_seconds", "_span", "_store")

    def __init__(self, store: str, seconds: Histogram, span: Span) -> None:
        self._store = store
        self._seconds = seconds
        self._span = span

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seconds.observe(time.perf_counter() - self._began)
        # An error that the caller's own code raises on purpose is no failure of the store.
        failed = isinstance(error, Exception) and (
            isinstance(error, StoreUnavailable) or not isinstance(error, WeirError)
        )
        if failed:
            metrics.child(metrics.STORE_ERRORS, self._store).inc()
        self._span.end(error if failed else None)


def database_hook(url: str) -> InstrumentationHook:
    """The hook that records the operations of the database at a URL."""
    system = url.partition(":")[0].partition("+")[0]
    seconds = {
        operation: metrics.DATABASE_SECONDS.labels(operation)
        for operation in ("read", "write", "reserve")
    }

    def watch(operation: str) -> _Operation:
        attributes = {"db.system.name": system, "db.operation.name": operation}
        span = tracing.span(f"database {operation}", attributes, client=True)
        return _Operation("database", seconds[operation], span)

    return watch


def redis_hook(_operation: str) -> _Operation:
    """Records a round trip to Redis. Many requests share one, so it belongs to no trace."""
    return _Operation("redis", metrics.REDIS_SECONDS, tracing.NO_SPAN)


@contextlib.contextmanager
def predicting(model: str, rows: int) -> Iterator[None]:
    """Record a call of an inference model with this many rows."""
    span = tracing.span(f"predict {model}", {"weir.rows": rows})
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        span.end(error)
        raise
    finally:
        metrics.PREDICTION_SECONDS.labels(model).observe(time.perf_counter() - began)
        metrics.PREDICTION_ROWS.labels(model).observe(rows)
        span.end()


def sample(database: Database) -> None:
    """Record the connections and the memory that this worker uses now."""
    for state, connections in database.connections().items():
        metrics.CONNECTIONS.labels(state).set(connections)
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        metrics.MEMORY.set(pages * resource.getpagesize())


def request_over(context: RequestContext, status: int) -> None:
    """Count a finished request."""
    tier = context.tier or "none"
    seconds = context.milliseconds / 1000
    metrics.child(metrics.REQUESTS, context.endpoint, status, tier).inc()
    metrics.child(metrics.REQUEST_SECONDS, context.endpoint).observe(seconds)
    if context.cache:
        metrics.child(metrics.CACHE, context.cache.lower()).inc()
    if context.saved_usd:
        metrics.SAVED_USD.inc(context.saved_usd)
    if context.error:
        metrics.child(metrics.ERRORS, context.error).inc()
    if context.limit:
        limit = context.limit if context.tier else "credentials"
        metrics.child(metrics.REFUSALS, limit, tier).inc()
    if context.waited is not None and context.cache:
        own = (context.began_to_answer or seconds) - context.waited
        metrics.child(metrics.OVERHEAD_SECONDS, context.cache.lower()).observe(max(0.0, own))
