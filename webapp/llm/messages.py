"""The values that endpoints, the gateway and providers exchange, all frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Length = Literal["short", "medium", "long"]
# The wire format of a request's body and of its answer, named as the path below `/v1`.
Operation = Literal["chat/completions", "embeddings", "messages", "responses"]
# Fields of Responses that refer to state at the provider, or begin it.
STATEFUL_FIELDS = ("background", "conversation", "previous_response_id", "prompt")


@dataclass(frozen=True, slots=True)
class Source:
    """The text to summarize: a provider without a model uses it instead of the prompt."""

    text: str
    length: Length


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request to a model, in the format that `operation` names.

    `body` holds every field but `model` and `stream`. `model` is what the client named; None means
    the default. A `native` request comes from Weir's own endpoints: its answer is the text alone.
    Any other request is answered with the provider's JSON.
    """

    body: Mapping[str, Any]
    model: str | None = None
    operation: Operation = "chat/completions"
    native: bool = True
    stream: bool = False
    source: Source | None = None
    output_cap: int | None = None
    """The limit on output tokens where the body sets none."""
    defaults: frozenset[str] = frozenset()
    """The parameters of the body that Weir chose, not the client."""
    output_cap_needed: bool = False
    """Whether a budget depends on a limit on the output."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What the client sent for the provider, such as `anthropic-beta`; the names in lower case."""
    cacheable: bool = True
    """Whether its answer holds for equal requests: not where it refers to state on the server."""

    @property
    def usage_wanted(self) -> bool:
        """Whether the client of a stream requested its usage."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def message(role: str, content: str) -> dict[str, str]:
    """A message of a request's body."""
    return {"role": role, "content": content}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as counted by the provider, or `estimated` where it did not count them.

    `input_tokens` and `output_tokens` are all of them; the others are parts of these: of the
    input, what came from the provider's own cache, what was written to it for 5 minutes or 1 hour,
    and audio; of the output, audio. `images` and `web_searches` are charged beside tokens.
    `service_tier` is the one that the answer names. `input_reported` and `output_reported` say
    which half of estimated tokens the provider did count.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    estimated: bool = False
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    images: int = 0
    web_searches: int = 0
    service_tier: str | None = None
    input_reported: bool = False
    output_reported: bool = False

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def totals(self) -> tuple[int, int, int, bool]:
        """The first fields, as entries of the cache and of flights hold them: the other version
        reads these, too, during an upgrade."""
        return self.input_tokens, self.output_tokens, self.cached_input_tokens, self.estimated

    @property
    def cache_write_tokens(self) -> int:
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.estimated or other.estimated,
            self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.audio_input_tokens + other.audio_input_tokens,
            self.audio_output_tokens + other.audio_output_tokens,
            self.images + other.images,
            self.web_searches + other.web_searches,
            other.service_tier or self.service_tier,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a stream: the provider's JSON text, and the text of its first choice.

    `begins` says that it holds more than the role of the speaker: once it has been sent, no other
    provider can answer instead.
    """

    data: str
    text: str
    begins: bool = True
    stored_id: str | None = None
    """Under which the provider keeps the answer that begins here, if it does."""

    @property
    def length(self) -> int:
        """The characters that it keeps in memory."""
        return len(self.data) + len(self.text)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of a provider. `cost_usd` is None where no price is known.

    `body` is the provider's JSON as text, empty where it came as a stream. `stored_id` is under
    which the provider keeps the answer, if it does.
    """

    content: str
    model: str
    provider: str
    usage: Usage
    cost_usd: float | None = None
    body: str = ""
    stored_id: str | None = None

    def with_totals(self, usage: Usage, cost_usd: float | None) -> Answer:
        """The same answer, with the usage and cost of all the calls that led to it."""
        return replace(self, usage=usage, cost_usd=cost_usd)


class CacheState(StrEnum):
    """How the cache took part in an answer (the X-Cache header)."""

    HIT = "HIT"
    MISS = "MISS"
    COALESCED = "COALESCED"
    STALE = "STALE"
    BYPASS = "BYPASS"

    @property
    def from_cache(self) -> bool:
        return self in {CacheState.HIT, CacheState.STALE}


@dataclass(frozen=True, slots=True)
class AnswerMetadata:
    """Where an answer comes from, for the response headers and logs. `age` is in seconds.

    `model` is that of the target, which `provider` may have answered under another name.
    `waited` is how long (seconds) providers took to answer or to begin a stream; None if unknown.
    """

    cache: CacheState
    route: str
    provider: str
    attempts: int = 0
    age: float = 0.0
    waited: float | None = 0.0
    model: str | None = None


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """A complete answer with its metadata."""

    answer: Answer
    metadata: AnswerMetadata

    @property
    def cached(self) -> bool:
        return self.metadata.cache.from_cache

    @property
    def is_free(self) -> bool:
        """Whether no provider was called for this request."""
        return self.cached or self.metadata.cache is CacheState.COALESCED

    @property
    def cost_usd(self) -> float | None:
        """What this request cost."""
        return 0.0 if self.is_free else self.answer.cost_usd


# The events of a request, in order: AnswerMetadata, Chunks if it is a stream, FinalAnswer.
StreamEvent = AnswerMetadata | Chunk | FinalAnswer
