"""Traces with OpenTelemetry's SDK, sent as OTLP over HTTP, a batch at a time, beside the requests.

The SDK itself reads OpenTelemetry's environment variables: endpoint, headers, service name,
sampler, and how batches are made (opentelemetry.io/docs/specs/otel/configuration).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import gevent
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from webapp.observability.tracing import NO_SPAN, Attributes, Span
from webapp.version import VERSION

SERVICE = "weir"
# Of W3C's headers the trace alone: baggage may hold anything, and is nobody else's business.
PROPAGATOR = TraceContextTextMapPropagator()
# What asks every few seconds, and would be most of what is kept.
UNTRACED = {"/metrics", "/liveness", "/readiness", "/health", "/health/ready", "/health/detailed"}
SHUTDOWN_TIMEOUT = 3.0  # seconds that a worker which ends waits for its last spans to be taken


class TracedSpan:
    """A span of OpenTelemetry's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def trace_id(self) -> str | None:
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def current(self) -> AbstractContextManager[object]:
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def end(self, error: BaseException | str | None = None, **attributes: str | int) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(f"weir.{name}", value)
        if error is not None:
            # The message of an error may hold a part of what was asked.
            name = error if isinstance(error, str) else type(error).__name__
            self._span.set_attribute("error.type", name)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class OpenTelemetryTracer:
    """Makes spans and sends them."""

    def __init__(self) -> None:
        told = Resource.create(
            {SERVICE_VERSION: VERSION, "python.version": platform.python_version()}
        )
        if str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
            told = told.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(resource=told, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("weir", VERSION)

    def request(self, headers: Mapping[str, str], method: str, route: str) -> Span:
        if route.removeprefix("/v1") in UNTRACED:
            context.attach(context.Context())
            return NO_SPAN
        caller = PROPAGATOR.extract(headers, context.Context())
        attributes: dict[str, Any] = {"http.request.method": method, "http.route": route}
        span = self._tracer.start_span(f"{method} {route}", caller, SpanKind.SERVER, attributes)
        # A greenlet serves one connection; the next request there takes its place.
        context.attach(trace.set_span_in_context(span, caller))
        return TracedSpan(span)

    def span(self, name: str, attributes: Attributes, *, client: bool) -> Span:
        if not trace.get_current_span().is_recording():
            return NO_SPAN
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return TracedSpan(self._tracer.start_span(name, kind=kind, attributes=attributes))

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        carrier.pop("tracestate", None)  # what it says is for those on this side
        return carrier

    def close(self) -> None:
        with gevent.Timeout(SHUTDOWN_TIMEOUT, False):
            self._provider.shutdown()
