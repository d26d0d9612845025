"""Traces with OpenTelemetry's SDK, sent in batches as OTLP over HTTP, in the background.

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
# Only the trace is propagated: baggage may contain anything, so it is not passed on to providers.
PROPAGATOR = TraceContextTextMapPropagator()
# These are requested every few seconds, and would be most of the stored traces.
UNTRACED = {"/metrics", "/liveness", "/readiness", "/health", "/health/ready", "/health/detailed"}
SHUTDOWN_TIMEOUT = 3.0  # seconds that a worker which ends waits until its last spans are sent


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
            # Not the error's message: it may contain a part of the prompt.
            name = error if isinstance(error, str) else type(error).__name__
            self._span.set_attribute("error.type", name)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class OpenTelemetryTracer:
    """Creates spans and sends them."""

    def __init__(self) -> None:
        resource = Resource.create(
            {SERVICE_VERSION: VERSION, "python.version": platform.python_version()}
        )
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("weir", VERSION)

    def request(self, headers: Mapping[str, str], method: str, route: str) -> Span:
        if route.removeprefix("/v1") in UNTRACED:
            context.attach(context.Context())
            return NO_SPAN
        client_context = PROPAGATOR.extract(headers, context.Context())
        attributes: dict[str, Any] = {"http.request.method": method, "http.route": route}
        span = self._tracer.start_span(
            f"{method} {route}", client_context, SpanKind.SERVER, attributes
        )
        # Never detached: a greenlet serves one connection, and its next request replaces this.
        context.attach(trace.set_span_in_context(span, client_context))
        return TracedSpan(span)

    def span(self, name: str, attributes: Attributes, *, client: bool) -> Span:
        if not trace.get_current_span().is_recording():
            return NO_SPAN
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return TracedSpan(self._tracer.start_span(name, kind=kind, attributes=attributes))

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        carrier.pop("tracestate", None)  # it is meant for our own systems, not for providers
        return carrier

    def close(self) -> None:
        with gevent.Timeout(SHUTDOWN_TIMEOUT, False):
            self._provider.shutdown()
