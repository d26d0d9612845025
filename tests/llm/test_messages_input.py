"""What of a request of Anthropic's Messages decides about its price."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.llm.request_input import TOKENS_PER_IMAGE, read_input

HELLO = {"role": "user", "content": "Hello"}


def body(*blocks: Any, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": list(blocks)}] if blocks else [HELLO]
    return {"max_tokens": 9, "messages": messages, **fields}


def source(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "source": fields}


def test_all_texts_count() -> None:
    plain = read_input(body()).bound
    words = "word " * 1_000
    tool = {"name": "t", "description": words, "input_schema": {"type": "object"}}
    used = {"type": "tool_use", "id": "t1", "name": "t", "input": {"a": words}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": words}],
    }
    schema = {"format": {"type": "json_schema", "schema": {"description": words}}}
    thought = {"type": "thinking", "thinking": words, "signature": "s"}
    for request in (
        body(system=words),
        body(system=[{"type": "text", "text": words}]),
        body(tools=[tool]),
        body(output_config=schema),
        body(used),
        body(result),
        body(thought),
        body(source("document", type="text", media_type="text/plain", data=words)),
    ):
        found = read_input(request)
        assert found.is_bounded
        assert found.bound >= plain + 4_000
    assert (
        read_input(body(stop_sequences=[words], top_k=5, metadata={"user_id": words})).bound
        == plain
    )


def test_images_and_files_count() -> None:
    image = source("image", type="base64", media_type="image/png", data="iVBO")
    assert read_input(body(image)).image_tokens == TOKENS_PER_IMAGE
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [image, image]}
    assert read_input(body(result)).image_tokens == 2 * TOKENS_PER_IMAGE
    pdf = source("document", type="base64", media_type="application/pdf", data="JVBERi0=")
    assert read_input(body(pdf)).file_size == 8
    for hidden in (
        source("document", type="url", url="https://x.example/a.pdf"),
        source("document", type="file", file_id="file_1"),
        source("image", type="url", url="https://x.example/a.png"),
        {"type": "container_upload", "file_id": "file_1"},
    ):
        assert read_input(body(hidden)).hidden


@pytest.mark.parametrize(
    ("fields", "ttl"),
    [
        ({}, None),
        ({"cache_control": {"type": "ephemeral"}}, "5m"),
        ({"prompt_cache_key": "a"}, "5m"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "1h"),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"ttl": "1h"}}]}, "1h"),
        ({"tools": [{"name": "t", "input_schema": {}, "cache_control": {}}]}, "5m"),
    ],
)
def test_writing_to_the_cache_is_seen(fields: Any, ttl: str | None) -> None:
    assert read_input(body(**fields)).cache_ttl == ttl


@pytest.mark.parametrize(
    ("fields", "unpriced", "hidden"),
    [
        ({"tools": [{"type": "web_search_20260318", "name": "w", "max_uses": 3}]}, False, True),
        ({"tools": [{"type": "web_search_20260318", "name": "w"}]}, True, True),
        ({"tools": [{"type": "web_fetch_20260318", "name": "w", "max_uses": 3}]}, False, True),
        ({"tools": [{"type": "tool_search_tool_bm25_20251119", "name": "t"}]}, False, True),
        ({"tools": [{"type": "code_execution_20260521", "name": "c"}]}, True, True),
        ({"tools": [{"type": "advisor_20260301", "name": "a"}]}, True, True),
        ({"tools": [{"type": "browser_toolset_20260801", "name": "b"}]}, False, False),
        ({"tools": [{"type": "computer_toolset_20260801", "name": "c"}]}, False, False),
        ({"tools": [{"type": "text_editor_20250728", "name": "e"}]}, False, False),
        ({"mcp_servers": [{"url": "https://x.example"}]}, True, False),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, False, False),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, True, False),
        ({"compaction": {"type": "auto"}}, True, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 4_000}}, False, False),
        ({"diagnostics": {"previous_message_id": "msg_1"}}, False, False),
        (
            {"output_config": {"format": {"schema": {"$schema": "https://json-schema.org/d"}}}},
            False,
            False,
        ),
    ],
    ids=str,
)
def test_what_the_provider_does_beside_answering_is_seen(
    fields: Any, unpriced: bool, hidden: bool
) -> None:
    found = read_input(body(**fields))
    assert (found.unpriced is not None, found.hidden is not None) == (unpriced, hidden)
    searches = fields.get("tools", [{}])[0]
    if searches.get("type") == "web_search_20260318":
        assert found.searches == searches.get("max_uses", 0)
