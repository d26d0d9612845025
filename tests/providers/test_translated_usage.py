"""Anthropic's usage in OpenAI's terms."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.providers.translation.usage import merged, to_chat_tier, to_chat_usage

BY_TIME = {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300}


def told(*events: Any) -> dict[str, Any]:
    """The usage of a stream whose events count this."""
    counts: dict[str, Any] = {}
    for event in events:
        counts = merged(counts, event)
    usage = to_chat_usage(counts)
    assert usage
    return usage


@pytest.mark.parametrize(
    ("start", "delta", "counted"),
    [
        ((9, 1, 0), {"input_tokens": 9, "cache_read_input_tokens": 1}, (10, 1, 0)),
        ((1500, 0, 0), {}, (1500, 0, 0)),
        ((1500, 0, 0), {"input_tokens": 0}, (1500, 0, 0)),
        ((1500, 0, 0), {"input_tokens": None, "cache_read_input_tokens": None}, (1500, 0, 0)),
        ((10, 1000, 500), {"input_tokens": 3, "cache_read_input_tokens": 0}, (1510, 1000, 500)),
        ((10, 1000, 500), {"input_tokens": 12}, (1512, 1000, 500)),
        ((0, 0, 0), {"input_tokens": 7}, (7, 0, 0)),
        # Other makers' servers of this API tell the cached tokens apart only at the end.
        ((8834, 0, 0), {"input_tokens": 18, "cache_read_input_tokens": 8831}, (8849, 8831, 0)),
        ((1500, 0, 0), {"input_tokens": "many", "cache_read_input_tokens": -1}, (1500, 0, 0)),
    ],
)
def test_the_counts_of_claudes_events_are_cumulative(
    start: tuple[int, int, int], delta: Any, counted: tuple[int, int, int]
) -> None:  # c15
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    began = dict(zip(names, start, strict=True)) | {"output_tokens": 1}
    usage = told(began, delta | {"output_tokens": 7})
    details = usage["prompt_tokens_details"]
    found = (usage["prompt_tokens"], details["cached_tokens"], details["cache_write_tokens"])
    assert found == counted
    assert usage["completion_tokens"] == 7
    assert usage["total_tokens"] == counted[0] + 7


def test_what_claude_writes_to_its_cache_is_told_by_its_time() -> None:
    began = {"input_tokens": 3, "cache_creation_input_tokens": 500, "cache_creation": BY_TIME}
    details = told(began, {"output_tokens": 7})["prompt_tokens_details"]
    assert details == {
        "cached_tokens": 0,
        "cache_write_tokens": 500,
        "cache_creation_token_details": BY_TIME,
    }


def test_the_tier_and_the_thoughts_of_claude_are_told() -> None:
    usage = told({"input_tokens": 3}, {"output_tokens_details": {"thinking_tokens": 4}})
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 4}
    assert to_chat_tier({"service_tier": "priority"}) == {"service_tier": "priority"}
    assert to_chat_tier({"service_tier": "standard"}) == {"service_tier": "default"}
    assert to_chat_tier({}) == {}
