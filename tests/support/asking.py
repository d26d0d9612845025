"""Calls Weir's providers directly, without a server. Runs in a GeventProcess."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gevent

from webapp import settings
from webapp.llm.messages import Answer, Chunk, ModelRequest, Usage
from webapp.llm.ports import Provider
from webapp.llm.stream_usage import StreamUsage
from webapp.providers import make_providers

Environment = Mapping[str, str]

_providers: dict[tuple[tuple[str, str], ...], Provider] = {}


@dataclass(slots=True)
class Reading:
    """The result of a stream: its chunks, then the answer or the error. Times are in seconds."""

    chunks: list[Chunk] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    error: Exception | None = None
    told: int = 0  # how often StreamUsage reported text
    tokens: int = 0
    usage: Usage | None = None
    lasted: float = 0.0
    longest_gap: float = 0.0
    answer_was_last: bool = False

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Traits:
    """The attributes of a provider."""

    name: str
    kind: str
    identity: str
    openai_family: bool
    max_input_tokens: int | None


def provider_of(environment: Environment) -> Provider:
    """The only provider of these settings, the same object each time."""
    known = tuple(sorted(environment.items()))
    if known not in _providers:
        with tempfile.TemporaryDirectory() as folder:
            loaded = settings.load({"DATA_DIR": folder, **environment})
        [_providers[known]] = make_providers(loaded).values()
    return _providers[known]


def traits(environment: Environment) -> Traits:
    one = provider_of(environment)
    return Traits(one.name, one.kind, one.identity, one.openai_family, one.max_input_tokens)


def answer(environment: Environment, request: ModelRequest, model: str) -> Answer:
    return provider_of(environment).answer(request, model)


def timed_answer(
    environment: Environment, request: ModelRequest, model: str
) -> tuple[Answer | Exception, float]:
    """The answer or the error, and the seconds until then."""
    began = time.monotonic()
    came: Answer | Exception
    try:
        came = answer(environment, request, model)
    except Exception as error:
        came = error
    return came, time.monotonic() - began


def read(
    environment: Environment, request: ModelRequest, model: str, chunks: int | None = None
) -> Reading:
    """Read a stream to its end, or close it after this many chunks."""
    reading = Reading()

    def told() -> None:
        reading.told += 1

    stream_usage = StreamUsage(told)
    began = before = time.monotonic()
    stream = provider_of(environment).stream(request, model, stream_usage)
    try:
        for item in stream:
            now = time.monotonic()
            reading.longest_gap, before = max(reading.longest_gap, now - before), now
            reading.answer_was_last = isinstance(item, Answer)
            if isinstance(item, Answer):
                reading.answers.append(item)
            else:
                reading.chunks.append(item)
            if len(reading.chunks) == chunks:
                stream.close()
    except Exception as error:
        reading.error = error
    reading.tokens, reading.usage = stream_usage.tokens, stream_usage.usage
    reading.lasted = time.monotonic() - began
    return reading


def read_both(
    environment: Environment, requests: Sequence[ModelRequest], model: str
) -> list[Reading]:
    """Read several streams at the same time."""
    jobs = [gevent.spawn(read, environment, request, model) for request in requests]
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs]


def answer_both(
    environment: Environment, requests: Sequence[ModelRequest], model: str
) -> tuple[list[Answer], float]:
    """Make several calls at the same time: the answers, and the seconds until the last one."""
    began = time.monotonic()
    jobs = [gevent.spawn(answer, environment, request, model) for request in requests]
    gevent.joinall(jobs, raise_error=True)
    return [job.value for job in jobs], time.monotonic() - began


def default_model(environment: Environment) -> str | None:
    return provider_of(environment).default_model()


def models(environment: Environment) -> list[dict[str, Any]]:
    return provider_of(environment).models()


def check(environment: Environment, timeout: float) -> None:
    provider_of(environment).check(timeout)


def shown(environment: Environment) -> tuple[str, str | None, bool]:
    """What pages show of the provider: base URL, masked key, whether it has a password."""
    provider = provider_of(environment)
    return provider.base_url, provider.masked_key, provider.has_password


def kinds() -> set[str]:
    """The names of all provider classes."""
    from webapp.providers import langchain
    from webapp.providers.base import BaseProvider

    assert langchain.LangChainProvider
    found, left = set(), [BaseProvider]
    while left:
        subclasses = left.pop().__subclasses__()
        found |= {one.__name__ for one in subclasses}
        left += subclasses
    return found


def class_of(environment: Environment) -> str:
    return type(provider_of(environment)).__name__
