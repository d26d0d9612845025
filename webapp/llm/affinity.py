"""Which conversation a request belongs to: its requests go to one target, whose cache knows it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from webapp import json_codec
from webapp.llm.messages import ModelRequest
from webapp.llm.sessions import Session

# What a request holds besides its messages that stays as it is through a conversation.
CONSTANT = ("system", "instructions", "tools")


def conversation_of(request: ModelRequest, key_id: int, session: Session) -> bytes | None:
    """A digest of the key and the session that is named, or else of the beginning of the
    conversation, until the first words of its user. None where there is no conversation."""
    if session.name is not None:
        begins: Any = session.id
    elif request.operation == "embeddings":
        return None
    else:
        body = request.body
        constant = [_unmarked(body.get(name)) for name in CONSTANT]
        messages = body.get("input" if request.operation == "responses" else "messages")
        begins = [request.model, *constant, list(_until_first_user(messages))]
    return hashlib.sha256(json_codec.dumps([key_id, begins], sort_keys=True)).digest()


def _until_first_user(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else [messages]:
        if not isinstance(message, Mapping):
            yield message
            continue
        yield {**message, "content": _unmarked(message.get("content"))}
        if message.get("role") == "user":
            return


def _unmarked(content: Any) -> Any:
    """Content or tools without `cache_control`: agents move it to their latest message, and write
    content as a text where it is gone."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return content
    return [
        {name: value for name, value in one.items() if name != "cache_control"}
        if isinstance(one, Mapping)
        else one
        for one in content
    ]
