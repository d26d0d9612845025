"""Traces, if OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise all functions do nothing.

A trace has spans for the request, admission, the cache, the flight, each provider call and each
database operation. It never contains prompts, answers or keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Attributes = Mapping[str, str | int | float]


class Span(Protocol):
    """A span of a trace, from its creation to end(). Further calls of end() do nothing."""

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits, or None if the span belongs to no trace."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """A context manager in which new spans of this greenlet are children of this span."""
        ...

    def note(self, attributes: Attributes) -> None: ...

    def end(self, error: BaseException | str | None = None, **attributes: str | int) -> None:
        """End the span. `error` is the error or its name; `attributes` are Weir's own."""
        ...


class Tracer(Protocol):
    """Starts spans."""

    def request(self, headers: Mapping[str, str], method: str, route: str) -> Span:
        """The span of an incoming request: the current one of this greenlet until the next."""
        ...

    def span(self, name: str, attributes: Attributes, *, client: bool) -> Span:
        """A child of the current span; NO_SPAN if there is none."""
        ...

    def headers(self) -> Mapping[str, str]:
        """The headers that tell another server to which trace a request belongs."""
        ...

    def close(self) -> None:
        """Send the remaining spans."""
        ...


class NoSpan:
    """A span that is not recorded."""

    trace_id = None

    def current(self) -> AbstractContextManager[object]:
        return NOTHING

    def note(self, attributes: Attributes) -> None:
        pass

    def end(self, error: BaseException | str | None = None, **attributes: str | int) -> None:
        pass


class NoTracer:
    """A tracer that records nothing."""

    def request(self, headers: Mapping[str, str], method: str, route: str) -> Span:
        return NO_SPAN

    def span(self, name: str, attributes: Attributes, *, client: bool) -> Span:
        return NO_SPAN

    def headers(self) -> Mapping[str, str]:
        return NO_ATTRIBUTES

    def close(self) -> None:
        pass


NOTHING: AbstractContextManager[object] = nullcontext()
NO_ATTRIBUTES: dict[str, str] = {}
NO_SPAN = NoSpan()
_tracer: Tracer = NoTracer()


def start(otlp_endpoint: str) -> None:
    """Start tracing if there is an endpoint. OpenTelemetry is imported only then."""
    global _tracer
    if otlp_endpoint:
        from webapp.observability.otlp import OpenTelemetryTracer

        _tracer = OpenTelemetryTracer()


def request(headers: Mapping[str, str], method: str, route: str) -> Span:
    return _tracer.request(headers, method, route)


def span(name: str, attributes: Attributes = NO_ATTRIBUTES, *, client: bool = False) -> Span:
    """A child of the current span. `client` means that it waits for another server."""
    return _tracer.span(name, attributes, client=client)


def headers() -> Mapping[str, str]:
    """The headers to send with a request to another server."""
    return _tracer.headers()


def close() -> None:
    _tracer.close()
