"""Reading a provider's usage and the generated text, whatever their shape."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.llm.messages import ModelRequest, Usage
from webapp.providers.usage import generated_text, read_usage

REQUEST = ModelRequest({"messages": [{"role": "user", "content": "hello there"}]}, native=False)
EMBEDDED = ModelRequest({"input": "one two"}, operation="embeddings", native=False)


def read(usage: Any, generated: str = "Hi there", request: ModelRequest = REQUEST) -> Usage:
    return read_usage(usage, request, "m1", generated, None)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, (7, 3)),
        ({"prompt_tokens": 7, "total_tokens": 10}, (7, 3)),
        ({"completion_tokens": 3, "total_tokens": 10}, (7, 3)),
        ({"prompt_tokens": 0, "input_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 0}, (7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": "3.0"}, (7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 2.5}, (7, 3)),
        # Reasoning beside the completion, with and without a total.
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 100}, (7, 93)),
        ({"prompt_tokens": 7, "completion_tokens": 3,
          "completion_tokens_details": {"reasoning_tokens": 90}}, (7, 93)),
        ({"prompt_tokens": 7, "completion_tokens": 93,
          "completion_tokens_details": {"reasoning_tokens": 90}}, (7, 93)),
        # Anthropic's input excludes its cache; OpenAI's does not.
        ({"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 100}, (107, 3)),
        ({"input_tokens": 0, "output_tokens": 3, "cache_read_input_tokens": 100}, (100, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "cache_read_input_tokens": 100}, (107, 3)),
        ({"prompt_tokens": 107, "completion_tokens": 3, "cache_read_input_tokens": 100}, (107, 3)),
        ({"prompt_tokens": 200, "completion_tokens": 3, "total_tokens": 303,
          "cache_read_input_tokens": 100}, (300, 3)),
        ({"input_tokens": 107, "output_tokens": 3,
          "input_tokens_details": {"cached_tokens": 100}}, (107, 3)),
    ],
)  # fmt: skip
def test_all_tokens_that_are_told_count(usage: Any, tokens: tuple[int, int]) -> None:
    found = read(usage)
    assert (found.input_tokens, found.output_tokens) == tokens
    assert not found.estimated


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], "7", 7, {"prompt_tokens": None}, {"prompt_tokens": True}, {"prompt_tokens": -7},
     {"prompt_tokens": 10**9}, {"prompt_tokens": "many"}, {"prompt_tokens": [7]},
     {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
     {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}],
    ids=str,
)  # fmt: skip
def test_what_is_not_told_is_counted(usage: Any) -> None:
    found = read(usage)
    assert found.estimated
    assert 3 <= found.input_tokens <= 200
    assert 2 <= found.output_tokens <= 8


def test_nothing_is_made_of_nothing() -> None:
    told = {"prompt_tokens": 7, "completion_tokens": 0}
    assert read(told, "") == Usage(7, 0)
    assert read(told, " \n") == Usage(7, 0)
    assert read(told).estimated, "there was a text"


def test_parts_are_never_more_than_the_whole() -> None:
    details = {"cached_tokens": 50, "cache_write_tokens": 50, "audio_tokens": 50}
    found = read(
        {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": details,
         "completion_tokens_details": {"audio_tokens": 50}}
    )  # fmt: skip
    assert (found.input_tokens, found.output_tokens) == (7, 3)
    assert found.cached_input_tokens + found.cache_write_tokens <= 7
    assert (found.audio_input_tokens, found.audio_output_tokens) == (7, 3)


@pytest.mark.parametrize(
    ("usage", "tokens", "estimated"),
    [({"prompt_tokens": 5, "total_tokens": 5}, 5, False), ({"total_tokens": 5}, 5, False),
     ({"prompt_tokens": 5, "total_tokens": 9}, 9, False), (None, 20, True)],
)  # fmt: skip
def test_embeddings_generate_nothing(usage: Any, tokens: int, estimated: bool) -> None:
    found = read(usage, "", EMBEDDED)
    assert (found.input_tokens <= tokens, found.output_tokens) == (True, 0)
    assert found.estimated == estimated
    assert found.input_tokens == tokens or estimated


@pytest.mark.parametrize(
    ("told", "tier"),
    [("default", "standard"), ("Priority", "priority"), ("on_demand", "standard"), ("", None),
     (None, None), (7, None), ("x" * 20, "x" * 20), ("x" * 21, "unknown"),
     ("a\ud800", "unknown"), ("a\0", "unknown"), ("ſcale", "unknown")],
)  # fmt: skip
def test_the_tier_of_the_answer_is_read(told: Any, tier: str | None) -> None:
    assert read_usage({"prompt_tokens": 7}, REQUEST, "m1", "", told).service_tier == tier
    assert read({"prompt_tokens": 7, "service_tier": told}).service_tier == tier


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "assistant", "content": "Hi"}, "Hi"),
        ({"content": None}, ""),
        ({}, ""),
        (None, ""),
        ({"content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " you"}]}, "Hi you"),
        ({"content": "", "refusal": "No."}, "No."),
        ({"content": None, "tool_calls": [CALL]}, 'f {"a": 1}'),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, 'f {"a": 1}'),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "f {}"),
        ({"audio": {"id": "a1", "data": "UklGRg==", "transcript": "A tone."}}, "A tone."),
        ({"content": "Hi", "reasoning_content": "Hm", "reasoning": "Hm"}, "Hi Hm"),
        ({"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm!",
                                                    "signature": "abc"}]}, "Hm!"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}, "Hm"),
        ({"content": "Hi", "annotations": [{"url_citation": {"title": "a"}}]}, "Hi"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:…"}}]}, ""),
        ({"x_new": {"deep": ["er"]}}, "er"),
    ],
)  # fmt: skip
def test_all_text_that_a_model_generated_is_found(message: Any, text: str) -> None:
    assert generated_text(message) == text
