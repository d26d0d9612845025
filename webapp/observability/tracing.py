"""Traces, where OTEL_EXPORTER_OTLP_ENDPOINT asks for them; else all of this does nothing.

One trace a request: the request itself, admission, the cache, the flight, each call to a provider,
each operation of the database. Never a prompt, an answer, or a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Attributes = Mapping[str, str | int | float]


class Span(Protocol):
    """A step of a trace, from its making to end(), which may be called again in vain."""

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits; None of a step that belongs to no trace."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """While this holds, what begins in this greenlet is a part of this step."""
        ...

    def note(self, attributes: Attributes) -> None: ...

    def end(self, error: BaseException | str | None = None, **attributes: str | int) -> None:
        """It is over; `error` is what ended it, or its name. Facts are Weir's own attributes."""
        ...


class Tracer(Protocol):
    """What begins spans."""

    def request(self, headers: Mapping[str, str], method: str, route: str) -> Span:
        """A request that came in, which is current in this greenlet until the next one."""
        ...

    def span(self, name: str, attributes: Attributes, *, client: bool) -> Span:
        """A part of the current step; where there is none, nothing."""
        ...

    def headers(self) -> Mapping[str, str]:
        """What tells another server to which trace a request belongs."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class NoSpan:
    """A step that nobody traces."""

    trace_id = None

    def current(self) -> AbstractContextManager[object]:
        return NOTHING

    def note(self, attributes: Attributes) -> None:
        pass

    def end(self, error: BaseException | str | None = None, **attributes: str | int) -> None:
        pass


class NoTracer:
    """Traces nothing."""

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
    """Trace from now on, where there is an endpoint. OpenTelemetry is imported only then."""
    global _tracer
    if otlp_endpoint:
        from webapp.observability.otlp import OpenTelemetryTracer

        _tracer = OpenTelemetryTracer()


def request(headers: Mapping[str, str], method: str, route: str) -> Span:
    return _tracer.request(headers, method, route)


def span(name: str, attributes: Attributes = NO_ATTRIBUTES, *, client: bool = False) -> Span:
    """A part of the current step; `client` says that it waits for another server."""
    return _tracer.span(name, attributes, client=client)


def headers() -> Mapping[str, str]:
    """What to send along with a request to another server."""
    return _tracer.headers()


def close() -> None:
    _tracer.close()
