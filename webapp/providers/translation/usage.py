"""The usage of Messages in OpenAI's terms, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.llm.messages import Usage

# Anthropic's counts of the input, which add up to all of it.
INPUT_COUNTS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)
CACHE_TIMES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
STANDARD, DEFAULT = "standard", "default"  # the same service tier, in Anthropic's word and OpenAI's


def merged(earlier: Mapping[str, Any], later: Any) -> dict[str, Any]:
    """Anthropic's counts after an event of a stream.

    They are cumulative, but an event may lack those of the input, or count it as 0, or count what
    was first plain input as read from the cache.
    """
    given = {k: v for k, v in later.items() if v is not None} if isinstance(later, Mapping) else {}
    merged = {**earlier, **given}
    if _input(merged) < _input(earlier):
        merged |= {name: earlier.get(name) for name in INPUT_COUNTS}
    if _count(merged, "output_tokens") < _count(earlier, "output_tokens"):
        merged["output_tokens"] = earlier["output_tokens"]
    return merged


def to_chat_usage(counts: Mapping[str, Any]) -> dict[str, Any] | None:
    """OpenAI's usage. Anthropic's input is without the cached tokens.

    None where no input is counted: there always is some.
    """
    inputs, outputs = _input(counts), _count(counts, "output_tokens")
    if not inputs:
        return None
    details: dict[str, Any] = {
        "cached_tokens": _count(counts, "cache_read_input_tokens"),
        "cache_write_tokens": _cache_writes(counts),
    }
    if by_time := _by_time(counts):
        details["cache_creation_token_details"] = by_time
    usage = {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
        "prompt_tokens_details": details,
    }
    generated = counts.get("output_tokens_details")
    if isinstance(generated, Mapping) and generated.get("thinking_tokens") is not None:
        thinking = _count(generated, "thinking_tokens")
        usage["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return usage


def to_chat_tier(counts: Mapping[str, Any]) -> dict[str, str]:
    """The field `service_tier` of a chat completion."""
    tier = counts.get("service_tier")
    if not isinstance(tier, str):
        return {}
    return {"service_tier": DEFAULT if tier == STANDARD else tier}


def _input(counts: Mapping[str, Any]) -> int:
    plain, read = _count(counts, "input_tokens"), _count(counts, "cache_read_input_tokens")
    return plain + read + _cache_writes(counts)


def _cache_writes(counts: Mapping[str, Any]) -> int:
    return max(_count(counts, "cache_creation_input_tokens"), sum(_by_time(counts).values()))


def _by_time(counts: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that were written to the cache, by how long it keeps them."""
    given = counts.get("cache_creation")
    return {name: _count(given, name) for name in CACHE_TIMES} if isinstance(given, Mapping) else {}


def _count(counts: Mapping[str, Any], name: str) -> int:
    count = counts.get(name)
    return count if isinstance(count, int) and count > 0 else 0


def to_message_usage(usage: Any, tier: Any, counted: Usage) -> dict[str, Any]:
    """Anthropic's usage of a chat completion's; what Weir counted, where a server tells none."""
    told = {"prompt_tokens": counted.input_tokens, "completion_tokens": counted.output_tokens}
    counts = usage if isinstance(usage, Mapping) and usage else told
    read, generated = _details(counts, "prompt"), _details(counts, "completion")
    cached = _count(read, "cached_tokens")
    written = max(_count(read, "cache_write_tokens"), _count(read, "cache_creation_tokens"))
    inputs, outputs = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    written_usage: dict[str, Any] = {
        "input_tokens": max(0, inputs - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        # Some servers leave out the tokens of reasoning, except in the total.
        "output_tokens": max(outputs, _count(counts, "total_tokens") - inputs),
    }
    if generated.get("reasoning_tokens") is not None:
        thinking = {"thinking_tokens": _count(generated, "reasoning_tokens")}
        written_usage["output_tokens_details"] = thinking
    if isinstance(tier, str) and tier:
        written_usage["service_tier"] = STANDARD if tier == DEFAULT else tier
    return written_usage


def _details(counts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = counts.get(f"{name}_tokens_details")
    return details if isinstance(details, Mapping) else {}


def to_response_usage(usage: Any, counted: Usage) -> dict[str, Any]:
    """The usage of a response, as Weir read it of a chat completion's `usage`."""
    generated = _details(usage if isinstance(usage, Mapping) else {}, "completion")
    return {
        "input_tokens": counted.input_tokens,
        "input_tokens_details": {
            "cached_tokens": counted.cached_input_tokens,
            "cache_write_tokens": counted.cache_write_tokens,
        },
        "output_tokens": counted.output_tokens,
        "output_tokens_details": {"reasoning_tokens": _count(generated, "reasoning_tokens")},
        "total_tokens": counted.total_tokens,
    }
