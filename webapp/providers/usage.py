"""The usage of a call: as the provider reports it, and counted where it does not.

tiktoken counts the texts of models whose encoding it knows. It downloads its tables on first use
(TIKTOKEN_CACHE_DIR stores them), and no request waits for that. The tokens of all other texts are
estimated, at more than they can be.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import gevent

from webapp.llm.cost_ceiling import STANDARD, STANDARD_NAMES, UNKNOWN_TIER, US_TIER
from webapp.llm.messages import ModelRequest, Usage
from webapp.llm.request_input import RequestInput, always_searches, read_input, whole_number
from webapp.llm.tokens import most_tokens
from webapp.threads import run_in_thread

log = logging.getLogger(__name__)

LOAD_RETRY_DELAY = 3600.0
LONG = 2_000  # characters; counting more than that in the event loop would stall streams
MAX_TOKEN_COUNT = 1_000_000_000  # in one call; a larger number is not a valid count
NO_REGION = {None, "global", "not_available"}
TIER = re.compile(r"[a-z0-9_.-]{1,20}")
# Fields of a message that the model did not generate, or not as tokens of text.
NOT_GENERATED = {
    "annotations", "b64_json", "citations", "created_at", "data", "encrypted_content",
    "expires_at", "file_id", "format", "id", "image_url", "images", "index", "role", "signature",
    "status", "tool_call_id", "type", "url",
}  # fmt: skip
# Fields that may hold the same text under several names.
REASONING = {"reasoning", "reasoning_content", "reasoning_details", "thinking"}
# Fields whose value may be an object where it should be its JSON text.
ARGUMENTS = {"arguments", "input"}
# Where Anthropic counts what its cache took part in. Its own `input_tokens` excludes these.
ANTHROPIC_READ, ANTHROPIC_WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"

_encodings: dict[str, Any] = {}
_tried_at: dict[str, float] = {}


def read_usage(
    usage: Any, request: ModelRequest, model: str, generated: str, service_tier: Any
) -> Usage:
    """The usage of a call from the provider's `usage` object, which may be anything.

    `generated` is all text of all choices that may have cost tokens (`generated_text`). What is
    not reported is counted, and the usage is then estimated.
    """
    reported = _Reported(usage)
    body, embeds = request.body, request.operation == "embeddings"
    input_tokens, output_tokens = reported.embedded() if embeds else reported.tokens()
    input_reported = output_reported = True
    if not input_tokens:
        found = read_input(body)
        # Some servers report zeros.
        embedded = found.tokens if embeds and not found.texts else 0  # arrays of tokens
        if input_tokens is None or embedded or any(map(str.strip, found.texts)):
            input_tokens, input_reported = _counted_input(found, model), False
    if output_tokens is None or (not output_tokens and generated.strip()):
        output_tokens, output_reported = _count_texts(model, [generated]), False
    estimated = not (input_reported and output_reported)
    cached = min(reported.cached, input_tokens)
    written = min(reported.written, input_tokens - cached)
    written_1h = min(reported.written_1h, written)
    if written and not reported.tells_written_ttl and read_input(body).cache_ttl == "1h":
        written_1h = written
    return Usage(
        input_tokens,
        output_tokens,
        cached,
        estimated,
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        audio_input_tokens=min(reported.audio_input, input_tokens - written),
        audio_output_tokens=min(reported.audio_output, output_tokens),
        web_searches=0 if embeds else _searches(reported, body, model),
        service_tier=_tier(service_tier) or reported.tier,
        input_reported=estimated and input_reported,
        output_reported=estimated and output_reported,
    )


def generated_text(value: Any) -> str:
    """All text of a message or delta that may have cost tokens: content, reasoning, refusals,
    names and arguments of tools, transcripts, and what Weir does not know."""
    if not isinstance(value, dict):
        return _text_of(value)
    texts, reasoning = [], ""
    for name, item in value.items():
        if not item or name in NOT_GENERATED:
            continue
        if name in ARGUMENTS and not isinstance(item, str):
            item = json.dumps(item, ensure_ascii=False)
        text = item if isinstance(item, str) else _text_of(item)
        if name not in REASONING:
            texts.append(text)
        elif len(text) > len(reasoning):
            reasoning = text
    return " ".join(filter(None, [*texts, reasoning]))


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return generated_text(value)
    return "".join(map(_text_of, value)) if isinstance(value, list) else ""


class _Reported:
    """The counts in a provider's `usage` object, under the names that servers give them."""

    def __init__(self, usage: Any) -> None:
        self._usage: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
        self._input = self._details("prompt_tokens_details", "input_tokens_details")
        self._output = self._details("completion_tokens_details", "output_tokens_details")
        self.cached = self._cached()
        ttls = [
            details
            for details in (
                self._usage.get("cache_creation"),
                self._input.get("cache_creation_token_details"),
            )
            if isinstance(details, dict)
        ]
        self.tells_written_ttl = bool(ttls)
        self.written_1h = _most(ttl.get("ephemeral_1h_input_tokens") for ttl in ttls)
        written_5m = _most(ttl.get("ephemeral_5m_input_tokens") for ttl in ttls)
        names = (ANTHROPIC_WRITTEN, "cache_write_tokens", "cache_creation_tokens")
        self.written = max(self._largest(*names), written_5m + self.written_1h)
        self.audio_input = _count(self._input.get("audio_tokens")) or 0
        self.audio_output = _count(self._output.get("audio_tokens")) or 0

    def raw(self, name: str) -> Any:
        return self._usage.get(name)

    @property
    def tier(self) -> str | None:
        """The service tier, or where Anthropic charges more for a region."""
        tier, region = _tier(self.raw("service_tier")), _tier(self.raw("inference_geo"))
        if region in NO_REGION or tier not in {None, STANDARD}:
            return tier
        return US_TIER if region == US_TIER else UNKNOWN_TIER

    def tokens(self) -> tuple[int | None, int | None]:
        """All input and output tokens; None where the provider does not tell them."""
        read = self._count("prompt_tokens", "input_tokens")
        generated = self._count("completion_tokens", "output_tokens")
        total = self._count("total_tokens")
        if read is not None and self._input_excludes_cache(read, generated or 0, total):
            read += self.cached + self.written
        if total is not None and read is None and generated is not None:
            read = max(total - generated, 0)
        if total is not None and read is not None and total > read + (generated or 0):
            # Such as reasoning that is not among the completion's tokens.
            generated = total - read
        reasoning = _most([self._output.get("reasoning_tokens"), self.raw("reasoning_tokens")])
        if generated is not None and reasoning > generated:
            generated += reasoning
        return read, generated

    def embedded(self) -> tuple[int | None, int]:
        """The tokens of an embeddings call, which generates none."""
        counts = [self._count("prompt_tokens", "input_tokens"), self._count("total_tokens")]
        return max((count for count in counts if count is not None), default=None), 0

    def searches(self) -> int | None:
        """The web searches that the provider made; None where it does not tell them."""
        tools = self._usage.get("server_tool_use")
        counts = [
            _count(details.get("web_search_requests"))
            for details in (tools, self._input)
            if isinstance(details, dict)
        ]
        return next((count for count in counts if count is not None), None)

    def _input_excludes_cache(self, read: int, generated: int, total: int | None) -> bool:
        beside = self.cached + self.written
        if not beside or not self._usage.keys() & {ANTHROPIC_READ, ANTHROPIC_WRITTEN}:
            return False
        return (
            _count(self.raw("prompt_tokens")) is None
            or beside > read
            or total == read + generated + beside
        )

    def _cached(self) -> int:
        names = ("cached_tokens", ANTHROPIC_READ, "prompt_cache_hit_tokens")
        return self._largest(*names)

    def _count(self, *names: str) -> int | None:
        """The count under the first of these names that has one, if possible not 0."""
        counts = [count for name in names if (count := _count(self.raw(name))) is not None]
        return next(filter(None, counts), counts[0] if counts else None)

    def _largest(self, *names: str) -> int:
        return _most(values.get(name) for values in (self._input, self._usage) for name in names)

    def _details(self, *names: str) -> Mapping[str, Any]:
        found = (self._usage.get(name) for name in names)
        return next((details for details in found if isinstance(details, dict)), {})


def _count(value: Any) -> int | None:
    """A number of tokens; servers also write 12.0 and "12"."""
    if isinstance(value, float | str):
        try:
            value = math.ceil(float(value))
        except (ValueError, OverflowError):
            return None
    return value if type(value) is int and 0 <= value < MAX_TOKEN_COUNT else None


def _most(values: Iterable[Any]) -> int:
    return max((_count(value) or 0 for value in values if value is not None), default=0)


def _tier(name: Any) -> str | None:
    if not isinstance(name, str) or not name.strip():
        return None
    tier = name.strip().lower()
    if not TIER.fullmatch(tier):
        return UNKNOWN_TIER
    return STANDARD if tier in STANDARD_NAMES else tier


def _searches(reported: _Reported, body: Mapping[str, Any], model: str) -> int:
    """The web searches of a call: those that were allowed, where the provider does not tell."""
    told = reported.searches()
    if told is not None:
        return told
    tools = body.get("tools")
    listed = tools if isinstance(tools, list) else ()
    kinds = [tool.get("type") for tool in listed if isinstance(tool, dict)]
    unasked = always_searches(model)
    if not (unasked or body.get("web_search_options") is not None or any(map(_is_search, kinds))):
        return 0
    searches = max(read_input(body).searches, int(unasked))
    return searches * (whole_number(body.get("n")) or 1)


def _is_search(kind: Any) -> bool:
    return isinstance(kind, str) and kind.startswith("web_search")


def _counted_input(found: RequestInput, model: str) -> int:
    return found.tokens + found.file_size + _count_texts(model, found.texts)


def _count_texts(model: str, texts: list[str]) -> int:
    encoding = _encoding(model)

    def work() -> int:
        if encoding is None:
            return sum(map(most_tokens, texts))
        return sum(len(encoding.encode_ordinary(text)) for text in texts)

    return run_in_thread(work) if sum(map(len, texts)) > LONG else work()


def _encoding(model: str) -> Any:
    """tiktoken's encoding of a model, if it is one of OpenAI's and its table is available."""
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None
    if name not in _encodings and time.monotonic() >= _tried_at.get(name, 0.0):
        _tried_at[name] = time.monotonic() + LOAD_RETRY_DELAY
        gevent.spawn(_load, name)
    return _encodings.get(name)


def _load(name: str) -> None:
    import tiktoken

    try:
        _encodings[name] = run_in_thread(lambda: tiktoken.get_encoding(name))
    except Exception as error:  # noqa: BLE001 any failure of the download
        log.warning(
            "tiktoken encoding %s is unavailable (%s); tokens are estimated",
            name,
            type(error).__name__,
        )
