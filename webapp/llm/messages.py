"""What passes between a task, the gateway and a provider: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

Length = Literal["short", "medium", "long"]


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Source:
    """The text behind a summary: a provider without a model works on it instead of the prompt."""

    text: str
    length: Length


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked of a model. `model` is what the client named; None means the default."""

    messages: tuple[Message, ...]
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the provider counted them, or as estimated where it did not."""

    input_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of a provider. `cost_usd` is None where no price is known."""

    content: str
    model: str
    provider: str
    usage: Usage
    cost_usd: float | None = None

    def with_totals(self, usage: Usage, cost_usd: float | None) -> Answer:
        """The same answer, with the usage and cost of all the calls that led to it."""
        return replace(self, usage=usage, cost_usd=cost_usd)


class CacheState(StrEnum):
    """How the cache took part in an answer (the X-Cache header)."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with how it came about. `age` is in seconds."""

    answer: Answer
    cache: CacheState
    age: float = 0.0

    @property
    def cached(self) -> bool:
        return self.cache is CacheState.HIT

    @property
    def cost_usd(self) -> float | None:
        """What this request cost: nothing where the cache answered."""
        return 0.0 if self.cached else self.answer.cost_usd


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream begins with, once it is sure to begin: what the headers need to say."""

    cache: CacheState
    age: float = 0.0


# A stream is an Opening, pieces of text, and at last the Reply.
Part = Opening | str | Reply


def estimate_tokens(text: str) -> int:
    """A stated estimate: four ASCII characters a token, one of any other script."""
    other = sum(1 for character in text if ord(character) > 127) if not text.isascii() else 0
    return -(-(len(text) - other) // 4) + other
